package main

import (
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"testing"

	"gangway/internal/race"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"gangway": func() { os.Exit(run()) }})
}

// TestScripts runs the scripts in testdata, which read like terminal sessions. Each script has its
// own configuration folder, and free loopback ports in $PORT and $METRICS.
func TestScripts(t *testing.T) {
	race.Skip(t)
	runScripts(t, "testdata")
}

// TestHubScripts runs the scripts about 'gangway serve'. Unlike TestScripts, it also runs under the
// race detector.
func TestHubScripts(t *testing.T) {
	runScripts(t, "testdata/hub")
}

func runScripts(t *testing.T, dir string) {
	testscript.Run(t, testscript.Params{
		Dir: dir,
		Setup: func(e *testscript.Env) error {
			for _, name := range []string{"PORT", "METRICS"} {
				port, err := freePort()
				if err != nil {
					return err
				}
				e.Setenv(name, port)
			}
			e.Setenv("XDG_CONFIG_HOME", e.WorkDir+"/config")
			e.Setenv("HOME", e.WorkDir)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"served": served, "wordof": wordOf, "maker": maker},
	})
}

// freePort returns a free loopback port below 30000. Outgoing connections and listeners on port 0
// get ports above 30000, so no other test uses the free port before the script's hub listens there.
func freePort() (string, error) {
	for range 100 {
		port := strconv.Itoa(20000 + rand.IntN(10000))
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
		if err == nil {
			return port, l.Close()
		}
	}
	return "", errors.New("no free port from 20000 to 29999")
}

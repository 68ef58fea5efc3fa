package main

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// served waits until a hub serves on a port: served PORT.
func served(ts *testscript.TestScript, _ bool, args []string) {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		// Whether it is the right hub is what the commands check.
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Second}, "tcp", "127.0.0.1:"+args[0], &tls.Config{InsecureSkipVerify: true})
		if err == nil {
			c.Close()
			return
		}
	}
	ts.Fatalf("no hub serves on port %s", args[0])
}

// wordOf sets a variable to a field of the last command's JSON: wordof NAME FIELD.
func wordOf(ts *testscript.TestScript, _ bool, args []string) {
	var v map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &v))
	word, ok := v[args[1]]
	if !ok {
		ts.Fatalf("no field %q in %v", args[1], v)
	}
	ts.Setenv(args[0], strings.TrimSpace(fmt.Sprint(word)))
}

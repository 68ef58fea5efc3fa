package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gangway/hub/store/postgres/pgtest"
	"gangway/internal/fleet"
	"gangway/internal/race"
	"gangway/wire"
)

// movingHub is a hub with devices, for tests that move its database.
type movingHub struct {
	t      *testing.T
	pg     *pgtest.Server
	dir    string
	port   string
	maker  *fleet.Maker
	token  *wire.TokenFile
	hub    *exec.Cmd
	folder string   // the data folder; empty: hub
	env    []string // more variables of the environment of all commands
}

func (h *movingHub) path(name string) string { return filepath.Join(h.dir, name) }

func (h *movingHub) data() string { return cmp.Or(h.folder, h.path("hub")) }

// log returns what the hub has printed.
func (h *movingHub) log() string {
	text, err := os.ReadFile(h.path("log"))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// command returns a gangway command that runs in a process of its own.
func (h *movingHub) command(args ...string) *exec.Cmd {
	c := exec.Command("gangway", args...)
	c.Env = append(append(os.Environ(), "XDG_CONFIG_HOME="+h.path("config"), "HOME="+h.dir), h.env...)
	return c
}

func (h *movingHub) run(stdin string, args ...string) string {
	h.t.Helper()
	c := h.command(args...)
	var notes strings.Builder
	c.Stdin, c.Stderr = strings.NewReader(stdin), &notes
	out, err := c.Output()
	if err != nil {
		h.t.Fatalf("gangway %s: %v: %s%s\nthe hub: %s", strings.Join(args, " "), err, notes.String(), out, h.log())
	}
	return string(out)
}

// serve starts the hub. The flags never name the new database, because the hub must find it by
// moveFile.
func (h *movingHub) serve() {
	h.t.Helper()
	h.hub = h.command("serve", "--data", h.data(), "--listen", "127.0.0.1:"+h.port, "--rate", "onboard=1000/1000",
		"--tpm-roots", h.path("maker/root.pem"), "--tpm-intermediates", h.path("maker/intermediate.pem"))
	log, err := os.OpenFile(h.path("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		h.t.Fatal(err)
	}
	defer log.Close()
	h.hub.Stdout, h.hub.Stderr = log, log
	if err := h.hub.Start(); err != nil {
		h.t.Fatal(err)
	}
	hub := h.hub
	h.t.Cleanup(func() { _ = hub.Process.Kill() })
}

func newMovingHub(t *testing.T) *movingHub { return newHubOn(t, false) }

// newHubOn starts a hub. If `shared` is true, its database is in PostgreSQL from the start.
func newHubOn(t *testing.T, shared bool) *movingHub {
	t.Helper()
	pg, err := pgtest.Start(false)
	if errors.Is(err, pgtest.ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pg.Stop() })
	if _, err := pg.Query(t.Context(), "postgres", "CREATE DATABASE moving"); err != nil {
		t.Fatal(err)
	}
	h := &movingHub{t: t, pg: pg, dir: t.TempDir()}
	if shared {
		h.env = []string{"GANGWAY_DATABASE=" + pg.URL("moving")}
	}
	if h.port, err = freePort(); err != nil {
		t.Fatal(err)
	}
	if h.maker, err = fleet.NewMaker("FAKE", fleet.MakerOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := h.maker.Save(h.path("maker")); err != nil {
		t.Fatal(err)
	}
	h.serve()
	h.await()
	if err := os.WriteFile(h.path("policy.yaml"), []byte("version: 1\nsoftware_tpms: [FAKE]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const password = "a calm harbour at night\n"
	h.run("", "policy", "set", h.path("policy.yaml"), "--data", h.data())
	h.run(password, "account", "create", "--data", h.data(), "--nick", "ada", "--password-stdin")
	h.run(password, "login", "https://127.0.0.1:"+h.port, "--data", h.data(), "--nick", "ada", "--password-stdin")
	h.run("", "token", "create", "-o", h.path("t.json"))
	h.useToken("t.json")
	return h
}

// useToken makes devices onboard with the join token in a file.
func (h *movingHub) useToken(name string) {
	h.t.Helper()
	text, err := os.ReadFile(h.path(name))
	if err == nil {
		h.token, err = wire.ParseTokenFile(text)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

// tokenID returns the id of the join token in a file.
func (h *movingHub) tokenID(name string) string {
	h.t.Helper()
	text, err := os.ReadFile(h.path(name))
	if err != nil {
		h.t.Fatal(err)
	}
	token, err := wire.ParseTokenFile(text)
	if err != nil {
		h.t.Fatal(err)
	}
	return token.ID
}

// await waits until the hub answers.
func (h *movingHub) await() {
	h.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !h.serves(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatal("the hub does not start: ", h.log())
		}
	}
}

// The method `serves` reports whether the hub answers.
func (h *movingHub) serves() bool {
	root, err := os.ReadFile(filepath.Join(h.data(), pkiFolder, "root.crt"))
	if err != nil {
		return false
	}
	hub, err := fleet.NewHub(&wire.TokenFile{Hub: "https://127.0.0.1:" + h.port, HubCA: string(root)})
	if err != nil {
		return false
	}
	defer hub.Close()
	_, err = hub.Post(h.t.Context(), "/healthz", nil)
	return err == nil
}

// movingLoad onboards devices and lets devices report. It continues until a test calls its method
// `end`.
type movingLoad struct {
	h    *movingHub
	hub  *fleet.Hub
	stop context.CancelFunc
	done sync.WaitGroup

	mu        sync.Mutex
	onboarded int
	acked     map[string]int // the last acknowledged report of each device, by its IDevID's hash
	failed    []string       // onboardings that failed
	refused   []string       // answers other than 200 to reports
	longest   time.Duration  // the longest time of an onboarding
}

// load starts `onboarders` goroutines that onboard devices, and `reporters` devices that report.
func (h *movingHub) load(onboarders, reporters int) *movingLoad {
	h.t.Helper()
	hub, err := fleet.NewHub(h.token)
	if err != nil {
		h.t.Fatal(err)
	}
	l := &movingLoad{h: h, hub: hub, acked: map[string]int{}}
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	h.t.Cleanup(func() { stop(); l.done.Wait() })
	for range onboarders {
		l.done.Go(func() {
			for ctx.Err() == nil {
				l.onboard()
				time.Sleep(50 * time.Millisecond)
			}
		})
	}
	for i := range reporters {
		l.done.Go(func() { l.report(ctx, i) })
	}
	return l
}

// onboard onboards a new device. An onboarding that has begun is not interrupted.
func (l *movingLoad) onboard() (*fleet.Device, *fleet.Certificates) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	d, err := fleet.New(l.h.maker, "L-2")
	begun := time.Now()
	var c *fleet.Certificates
	if err == nil {
		c, err = d.Onboard(ctx, l.hub, l.h.token)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.failed = append(l.failed, err.Error())
		return d, nil
	}
	l.onboarded++
	l.longest = max(l.longest, time.Since(begun))
	return d, c
}

// report sends the reports 1, 2, 3, … of one device, each until it is acknowledged, as an agent
// does.
func (l *movingLoad) report(ctx context.Context, number int) {
	d, c := l.onboard()
	if c == nil {
		return
	}
	id := fmt.Sprint("reporter-", number)
	var conn *fleet.Conn
	for n := 1; ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
		var err error
		if conn == nil {
			if conn, err = l.hub.Dial(context.Background(), c.TLS(d)); err != nil {
				conn = nil
				continue
			}
		}
		body, _ := json.Marshal(map[string]any{"who": id, "n": n})
		a, err := conn.Do(context.Background(), http.MethodPatch, "/device/meta", body)
		if err != nil {
			conn.Close()
			conn = nil // the hub has closed the connection; send the report again
			continue
		}
		l.mu.Lock()
		if a.Status == http.StatusOK {
			l.acked[id] = n
			n++
		} else {
			l.refused = append(l.refused, fmt.Sprint(a.Status, " ", a.Body))
		}
		l.mu.Unlock()
	}
}

// wait waits until n more devices are onboarded.
func (l *movingLoad) wait(n int) {
	l.h.t.Helper()
	at := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.onboarded
	}
	first := at()
	for deadline := time.Now().Add(120 * time.Second); at() < first+n; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			l.h.t.Fatalf("only %d devices: %v, hub: %s", at(), l.failed, l.h.log())
		}
	}
}

// end stops the load, and checks that PostgreSQL has every device and every acknowledged report.
func (l *movingLoad) end() {
	t := l.h.t
	t.Helper()
	l.stop()
	l.done.Wait()
	ask := func(sql string) string {
		t.Helper()
		out, err := l.h.pg.Query(t.Context(), "moving", sql)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out)
	}
	// PostgreSQL may have more devices than the fleet has onboarded: for some devices, the hub's
	// answer was lost.
	got := ask(`SELECT count(*) FROM devices WHERE deleted = 0`)
	if n, err := strconv.Atoi(got); err != nil || n < l.onboarded || n > l.onboarded+len(l.failed) {
		t.Errorf("PostgreSQL has %s devices; %d were onboarded, and %d onboardings failed", got, l.onboarded, len(l.failed))
	}
	for id, n := range l.acked {
		got := ask(`SELECT device_meta::json->>'n' FROM devices WHERE device_meta::json->>'who' = '` + id + `'`)
		if got != fmt.Sprint(n) && got != fmt.Sprint(n+1) { // the answer to the last report may be lost
			t.Errorf("the last report of %s is %q; the hub has acknowledged %d", id, got, n)
		}
	}
	l.h.run("", "fsck", "--data", l.h.data()) // fails if it finds a problem
	if !exists(filepath.Join(l.h.data(), movedFile)) || exists(filepath.Join(l.h.data(), databaseFile)) {
		t.Error("the database file has its old name")
	}
	t.Logf("%d onboardings, the longest in %v; %d reporters", l.onboarded, l.longest.Round(time.Millisecond), len(l.acked))
}

// The database of a hub moves to PostgreSQL while devices onboard and report. The test kills the
// copying command once, and the next run of the command continues. No onboarding fails, the hub
// refuses no report, and PostgreSQL has every acknowledged write.
func TestRunningHubMovesToPostgreSQL(t *testing.T) {
	race.Skip(t)
	if testing.Short() {
		t.Skip("moves a database under load, which takes ten seconds")
	}
	t.Parallel()
	h := newMovingHub(t)
	l := h.load(2, 3)
	l.wait(10)
	migrate := []string{"db", "migrate", "--data", h.data(), "--to", h.pg.URL("moving")}
	first := h.command(migrate...)
	out, err := first.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil { // the first table is copied
		t.Error("the first attempt printed nothing:", err)
	}
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	l.wait(5)
	h.run("", migrate...)
	l.wait(5)
	l.end()
	if len(l.failed) > 0 || len(l.refused) > 0 {
		t.Errorf("onboardings that failed: %v\nreports that were refused: %v", l.failed, l.refused)
	}
	if log := h.log(); strings.Contains(log, "Warning") || !strings.Contains(log, "was moved to PostgreSQL") {
		t.Errorf("the hub's log: %s", log)
	}
	// The hub starts again with the same flags as before the move.
	if err := h.hub.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = h.hub.Wait()
	h.serve()
	l = h.load(1, 0)
	l.wait(1)
}

// The hub is killed while it changes to PostgreSQL. When it starts again, it completes the move.
func TestHubIsKilledDuringTheMove(t *testing.T) {
	race.Skip(t)
	if testing.Short() {
		t.Skip("moves a database under load, which takes ten seconds")
	}
	t.Parallel()
	h := newMovingHub(t)
	l := h.load(1, 2)
	l.wait(5)
	migrate := h.command("db", "migrate", "--data", h.data(), "--to", h.pg.URL("moving"))
	var out bytes.Buffer
	migrate.Stdout, migrate.Stderr = &out, &out
	if err := migrate.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(60 * time.Second); !exists(filepath.Join(h.data(), moveFile)); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the command does not ask the hub: ", out.String())
		}
	}
	if err := h.hub.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = h.hub.Wait()
	h.serve()
	if err := migrate.Wait(); err != nil {
		t.Fatalf("gangway db migrate: %v: %s\nthe hub: %s", err, out.String(), h.log())
	}
	l.wait(3)
	l.end()
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/hub/pki"
	"gangway/hub/store/postgres/pgtest"
)

// A hub can keep its database in PostgreSQL. Commands on the hub's machine then need the same flags
// as the hub. Two hubs with the same keys can share the database, but a hub refuses a database that
// belongs to a hub with other keys.
func TestHubInPostgreSQL(t *testing.T) {
	t.Parallel()
	server, err := pgtest.Start(false)
	if errors.Is(err, pgtest.ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	for _, name := range []string{"hub", "other"} {
		if _, err := server.Query(t.Context(), "postgres", "CREATE DATABASE "+name); err != nil {
			t.Fatal(err)
		}
	}
	at := func(database string) context.Context {
		return context.WithValue(t.Context(), databaseKey{}, databaseFlags{url: server.URL(database)})
	}
	start := func(ctx context.Context, dir string, o openOptions) error {
		i, err := openInstance(ctx, dir, o)
		if err != nil {
			return err
		}
		return i.close()
	}
	dir := filepath.Join(t.TempDir(), "hub")
	if err := start(at("hub"), dir, openOptions{}); err != nil {
		t.Fatal("first start:", err)
	}
	if exists(filepath.Join(dir, databaseFile)) {
		t.Error("the hub has made a database file")
	}
	run := func(want int, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		a := &app{stdin: password(t), stdout: &out, stderr: &out}
		if code := a.run(t.Context(), append(args, "--data", dir, "--database", server.URL("hub"))); code != want {
			t.Errorf("gangway %s: %s", strings.Join(args, " "), out.String())
		}
		return out.String()
	}
	run(0, "account", "create", "--nick", "ada", "--password-stdin")
	if list := run(0, "account", "ls"); !strings.Contains(list, "ada") {
		t.Errorf("the account is not in the list: %s", list)
	}
	if findings := run(exitFailed, "doctor", "--output", "json"); !strings.Contains(findings, "database-not-durable") {
		t.Errorf("the doctor does not name fsync = off, with which the test's server runs: %s", findings)
	}

	// The data folder of a second machine, with a copy of the keys.
	second := filepath.Join(t.TempDir(), "hub")
	if out, err := exec.Command("cp", "-a", dir, second).CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	if err := start(at("hub"), second, openOptions{}); err != nil {
		t.Error("a second hub with the same keys:", err)
	}
	refusesOtherObjects(t, server.URL("hub"), dir, second)
	foreign := filepath.Join(t.TempDir(), "hub")
	if err := start(t.Context(), foreign, openOptions{Options: pki.Options{Name: "Foreign"}}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what string
		ctx  context.Context
		dir  string
		o    openOptions
		says string
	}{
		{"another hub's keys", at("hub"), foreign, openOptions{}, "but the keys are those of"},
		{"no keys", at("hub"), filepath.Join(t.TempDir(), "new"), openOptions{}, "does not exist: copy that hub's keys"},
		{"an empty database", at("other"), dir, openOptions{}, "no hub has used the database"},
		{"no flag", t.Context(), dir, openOptions{}, "--database"},
		{"no such database", at("missing"), dir, openOptions{}, "missing"},
	} {
		if err := start(c.ctx, c.dir, c.o); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	restoresAcrossEngines(t, server, run)
	// Move the database of another hub from its file to PostgreSQL.
	if _, err := server.Query(t.Context(), "postgres", "CREATE DATABASE moved"); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if code := (&app{stdin: password(t), stdout: &out, stderr: &out}).run(t.Context(), []string{"db", "migrate", "--data", foreign, "--to", server.URL("moved")}); code != 0 {
		t.Errorf("gangway db migrate: %s", out.String())
	}
	if err := start(at("moved"), foreign, openOptions{}); err != nil {
		t.Error("the moved hub:", err)
	}
	if err := start(t.Context(), foreign, openOptions{}); err == nil {
		t.Error("the hub starts with the file that was moved")
	}
	if err := start(at("other"), dir, openOptions{newDatabase: true}); err != nil {
		t.Error("an empty database with --new-database:", err)
	}
}

// refusesOtherObjects starts a hub, and checks that a second hub on the same database refuses to
// start. The reason is that the second hub would store its objects in its own folder, so that each
// hub would report the other hub's objects as lost. refusesOtherObjects also checks that the first
// hub, when it is told to stop, first reports that it is not ready.
func refusesOtherObjects(t *testing.T, database, first, second string) {
	t.Helper()
	metrics, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	metrics.Close()
	ready := func() int {
		resp, err := http.Get("http://" + metrics.Addr().String() + "/readyz")
		if err != nil {
			return 0
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	wait := func(status int) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ready() != status; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("/readyz does not answer %d", status)
			}
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var out, other bytes.Buffer
	done := make(chan int, 1)
	go func() {
		done <- (&app{stdin: os.Stdin, stdout: &out, stderr: &out}).run(ctx, []string{"serve", "--data", first, "--database", database,
			"--listen", "127.0.0.1:0", "--metrics-listen", metrics.Addr().String(), "--drain", "400ms"})
	}()
	wait(200)
	a := &app{stdin: os.Stdin, stdout: &other, stderr: &other}
	if code := a.run(t.Context(), []string{"serve", "--data", second, "--database", database, "--listen", "127.0.0.1:0"}); code != exitFailed || !strings.Contains(other.String(), "another replica stores its objects elsewhere") {
		t.Errorf("exit code %d: %s", code, other.String())
	}
	stop()
	wait(503)
	if code := <-done; code != 0 {
		t.Errorf("exit code %d: %s", code, out.String())
	}
}

// password returns an open file that contains an account's password, for a command's standard
// input.
func password(t *testing.T) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(path, []byte("a long enough phrase\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// Attack: another user of the machine reads the arguments of the hub's process. The database's
// password must not be in the arguments, so the hub can read it from a file.
func TestDatabasePasswordFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("geheim\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	with := func(f databaseFlags) context.Context { return context.WithValue(t.Context(), databaseKey{}, f) }
	config, ok, err := database(with(databaseFlags{url: "postgres://u@db.example/d", passwordFile: file}))
	if err != nil || !ok || config.Password != "geheim" {
		t.Errorf("%+v, %t, %v", config, ok, err)
	}
	for _, f := range []databaseFlags{
		{passwordFile: file}, {url: "mysql://db.example"}, {url: "postgres://u@db.example/d", passwordFile: os.DevNull}, {url: "postgres://u@db.example/d", passwordFile: file + "x"},
	} {
		if _, _, err := database(with(f)); err == nil {
			t.Errorf("%+v is accepted", f)
		}
	}
}

// restoresAcrossEngines backs up a hub whose database is in PostgreSQL, and restores it with a
// database file. Then it backs up the restored hub, and restores that backup to PostgreSQL. `run`
// runs a command with the hub's flags.
func restoresAcrossEngines(t *testing.T, server *pgtest.Server, run func(want int, args ...string) string) {
	t.Helper()
	dir := t.TempDir()
	key := filepath.Join(dir, "backup.key")
	call := func(args ...string) string {
		t.Helper()
		var out bytes.Buffer
		if code := (&app{stdin: password(t), stdout: &out, stderr: &out}).run(t.Context(), args); code != 0 {
			t.Fatalf("gangway %s: %s", strings.Join(args, " "), out.String())
		}
		return out.String()
	}
	var made struct{ File, Hub, Recipient string }
	read := func(text string) {
		t.Helper()
		if err := json.Unmarshal([]byte(text), &made); err != nil {
			t.Fatal(err, text)
		}
	}
	read(call("backup", "key", key, "--output", "json"))
	read(run(0, "backup", "--to", filepath.Join(dir, "backups"), "--recipient", made.Recipient, "--output", "json"))
	inFile := filepath.Join(dir, "file")
	call("restore", made.File, "--data", inFile, "--identity", key, "--hub-name", made.Hub, "--without-events")
	if list := call("account", "ls", "--data", inFile); !strings.Contains(list, "ada") {
		t.Errorf("the account is not in the file: %s", list)
	}
	read(call("backup", "--data", inFile, "--to", filepath.Join(dir, "backups"), "--recipient", made.Recipient, "--output", "json"))
	if _, err := server.Query(t.Context(), "postgres", "CREATE DATABASE restored"); err != nil {
		t.Fatal(err)
	}
	again := filepath.Join(dir, "again")
	to := []string{"restore", made.File, "--data", again, "--identity", key, "--hub-name", made.Hub, "--without-events", "--database", server.URL("restored")}
	call(to...)
	if list := call("account", "ls", "--data", again, "--database", server.URL("restored")); !strings.Contains(list, "ada") {
		t.Errorf("the account is not in PostgreSQL: %s", list)
	}
	var out bytes.Buffer
	to[3] = filepath.Join(dir, "third")
	if code := (&app{stdin: password(t), stdout: &out, stderr: &out}).run(t.Context(), to); code != exitFailed || !strings.Contains(out.String(), "belongs to the hub") {
		t.Errorf("a restore into a database of a hub: %s", out.String())
	}
}

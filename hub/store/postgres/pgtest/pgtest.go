// Package pgtest starts a PostgreSQL server for tests. The server listens only on a Unix socket and
// on a loopback address, and stores its data in a temporary folder.
package pgtest

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gangway/hub/store/postgres"

	"github.com/jackc/pgx/v5/pgconn"
)

// Server is a running server.
type Server struct {
	Folder string // folder of the Unix socket
	Port   int

	cmd      *exec.Cmd
	stderr   bytes.Buffer
	data     string
	uid, gid int
	place    Place // where the server runs; without Do: on this machine

	mu    sync.Mutex
	names int
	free  []string // databases that no test uses, without data

	// queries keeps one connection for each database in which Query has run, because a new
	// connection costs the server more than most queries.
	queries sync.Map // of *connection
}

type connection struct {
	mu sync.Mutex
	pg *pgconn.PgConn // nil: not open
}

// binaries returns the folder with the programs of the newest installed server, or "".
func binaries() string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	slices.SortFunc(found, func(a, b string) int { return version(a) - version(b) })
	if len(found) == 0 {
		return ""
	}
	return filepath.Dir(found[len(found)-1])
}

func version(path string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
	return n
}

// ErrMissing means that PostgreSQL is not installed, or that the tests must not use it.
var ErrMissing = errors.New("PostgreSQL is not installed (run scripts/install.sh), or the tests run with -short")

// Start starts a server. `durable` says whether commits wait for the disk, and `settings` are lines
// for postgresql.conf.
func Start(durable bool, settings ...string) (_ *Server, err error) {
	if !flag.Parsed() {
		flag.Parse() // TestMain runs before the test binary parses its flags
	}
	bin := binaries()
	if bin == "" || testing.Testing() && testing.Short() { // `make bench` is not a test
		return nil, ErrMissing
	}
	s := &Server{}
	if s.Folder, err = os.MkdirTemp("", "gangway-pg-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(s.Folder)
		}
	}()
	if s.Port, err = freePort(); err != nil {
		return nil, err
	}
	if err := s.chooseUser(); err != nil {
		return nil, err
	}
	s.data = filepath.Join(s.Folder, "data")
	initdb := s.command(filepath.Join(bin, "initdb"), "-D", s.data, "-U", "gangway", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	lines := append([]string{
		"listen_addresses = '127.0.0.1'", fmt.Sprintf("port = %d", s.Port), fmt.Sprintf("unix_socket_directories = '%s'", s.Folder),
		"max_connections = 300", "shared_buffers = 64MB", "fsync = " + map[bool]string{true: "on", false: "off"}[durable],
		"autovacuum_naptime = 10", "max_wal_size = 512MB", "log_min_messages = warning",
	}, settings...)
	if !durable {
		lines = append(lines, "full_page_writes = off", "wal_level = minimal", "max_wal_senders = 0", "autovacuum = off", "checkpoint_timeout = 1h")
	}
	conf, err := os.OpenFile(filepath.Join(s.data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	for _, line := range lines {
		fmt.Fprintln(conf, line)
	}
	if err := conf.Close(); err != nil {
		return nil, err
	}
	return s, s.Run()
}

// Run starts the server again after Kill.
func (s *Server) Run() error {
	s.stderr.Reset()
	s.cmd = s.command(filepath.Join(binaries(), "postgres"), "-D", s.data)
	s.cmd.Stderr = &s.stderr
	// If the test binary dies, the kernel ends the server.
	s.cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT
	start := s.cmd.Start
	if s.place.Do != nil {
		start = func() error { return s.place.Do(s.cmd.Start) }
	}
	if err := start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		pg, err := pgconn.Connect(ctx, s.URL("postgres"))
		if err == nil {
			return pg.Close(ctx)
		}
		select {
		case <-ctx.Done():
			s.Stop()
			return fmt.Errorf("the server does not start: %w: %s", err, s.stderr.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// chooseUser selects the user that runs the server, because the server refuses to run as root.
func (s *Server) chooseUser() error {
	s.uid, s.gid = os.Getuid(), os.Getgid()
	if s.uid != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		if u, err := user.Lookup(name); err == nil {
			s.uid, _ = strconv.Atoi(u.Uid)
			s.gid, _ = strconv.Atoi(u.Gid)
			return os.Chown(s.Folder, s.uid, s.gid)
		}
	}
	return errors.New("the server refuses to run as root, and there is no other user")
}

func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = s.Folder
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if os.Getuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(s.uid), Gid: uint32(s.gid)}
	}
	return cmd
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// Kill ends the server at once with an immediate shutdown, which has the same effect as a crash.
func (s *Server) Kill() {
	_ = s.cmd.Process.Signal(syscall.SIGQUIT)
	_ = s.cmd.Wait()
}

// CPU returns the CPU time that the server's processes have used for the clients. It counts neither
// connections that have ended nor the server's own work, such as autovacuum.
func (s *Server) CPU() (used time.Duration) {
	pid := s.cmd.Process.Pid
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
	if err != nil {
		return 0
	}
	for _, child := range strings.Fields(string(children)) {
		title, _ := os.ReadFile("/proc/" + child + "/cmdline")
		if !strings.HasPrefix(string(title), "postgres: gangway ") {
			continue
		}
		// The first number in schedstat is the time spent on a CPU, in nanoseconds.
		stat, _ := os.ReadFile("/proc/" + child + "/schedstat")
		var ns int64
		if _, err := fmt.Sscan(string(stat), &ns); err == nil {
			used += time.Duration(ns)
		}
	}
	return used
}

// Stop ends the server and removes its data.
func (s *Server) Stop() {
	if s == nil {
		return
	}
	s.Kill()
	_ = os.RemoveAll(s.Folder)
}

// URL returns the address of a database for connections through the Unix socket.
func (s *Server) URL(database string) string {
	return fmt.Sprintf("postgres://gangway@/%s?host=%s&port=%d", database, s.Folder, s.Port)
}

// TCP returns the address of the server on the loopback interface.
func (s *Server) TCP() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port)) }

// Query runs SQL in a database, and returns the first column of the first row of the last result.
func (s *Server) Query(ctx context.Context, database, sql string) (string, error) {
	kept, _ := s.queries.LoadOrStore(database, &connection{})
	c := kept.(*connection)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pg != nil && c.pg.Ping(ctx) != nil {
		_ = c.pg.Close(ctx)
		c.pg = nil
	}
	if c.pg == nil {
		var err error
		if c.pg, err = pgconn.Connect(ctx, s.URL(database)); err != nil {
			c.pg = nil
			return "", err
		}
	}
	results, err := c.pg.Exec(ctx, sql).ReadAll()
	if err != nil || len(results) == 0 || len(results[len(results)-1].Rows) == 0 {
		return "", err
	}
	return string(results[len(results)-1].Rows[0][0]), nil
}

// disconnect closes the connection that Query keeps for a database.
func (s *Server) disconnect(database string) error {
	kept, ok := s.queries.LoadAndDelete(database)
	if !ok {
		return nil
	}
	c := kept.(*connection)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pg == nil {
		return nil
	}
	return c.pg.Close(context.Background())
}

const template = "gangway_template"

// MakeTemplate makes the template that Database copies: an empty database with the current schema.
func (s *Server) MakeTemplate(ctx context.Context) error {
	if _, err := s.Query(ctx, "postgres", "CREATE DATABASE "+template); err != nil {
		return err
	}
	db, err := postgres.Open(ctx, postgres.Config{URL: s.URL(template)})
	if err != nil {
		return err
	}
	return db.Close()
}

// Database returns the name of a database with the current schema and no data. When the test ends,
// its data is removed, so that another test can use the database.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	name, err := s.database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Removing all rows is much faster than creating a new database, which has hundreds of
		// files. The next test gets a new connection, because a SET statement of this test may have
		// changed the old one.
		_, err := s.Query(context.Background(), name, empty)
		if err = errors.Join(err, s.disconnect(name)); err != nil {
			t.Error(err)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.free = append(s.free, name)
	})
	return name
}

// NewDatabase is like Database, but no other test ever uses the same database, so the server has no
// statistics about its tables.
func (s *Server) NewDatabase(t testing.TB) string {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	name, err := s.create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func (s *Server) database(ctx context.Context) (name string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.free); n > 0 {
		name, s.free = s.free[n-1], s.free[:n-1]
		return name, nil
	}
	return s.create(ctx)
}

// create makes a database. The caller holds mu.
func (s *Server) create(ctx context.Context) (name string, err error) {
	s.names++
	name = fmt.Sprintf("t%d", s.names)
	_, err = s.Query(ctx, "postgres", fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s STRATEGY wal_log", name, template))
	return name, err
}

// empty removes all rows without running triggers, and then writes the rows that every new database
// has.
const empty = `BEGIN; SET LOCAL session_replication_role = replica;
	DO $$ DECLARE t text; BEGIN
		FOR t IN SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public' AND tablename NOT IN ('schema_versions', 'settings', 'write_turn')
		LOOP EXECUTE 'DELETE FROM ' || t; END LOOP;
	END $$;
	DELETE FROM settings WHERE name <> 'search-index';
	INSERT INTO config_version (id, version) VALUES (1, 1);
	INSERT INTO hub_counts (field, value, n) VALUES ('accounts', '', 0), ('disabled', '', 0), ('devices', '', 0), ('bytes', '', 0), ('quiet', '', 0); COMMIT`

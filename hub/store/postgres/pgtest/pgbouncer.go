package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// PgBouncer starts PgBouncer as a proxy for the server, in transaction mode, with at most `size`
// connections to each database. The result `url` returns the address of a database through
// PgBouncer, which ends when the test ends. If PgBouncer is not installed, the test is skipped.
func (s *Server) PgBouncer(t testing.TB, size int) (url func(database string) string) {
	t.Helper()
	path, err := exec.LookPath("pgbouncer")
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/pgbouncer"); err != nil {
			t.Skip("PgBouncer is not installed: run scripts/install.sh")
		}
	}
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	folder, err := os.MkdirTemp(s.Folder, "pgbouncer-")
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(folder, "pgbouncer.ini")
	users := filepath.Join(folder, "users")
	text := fmt.Sprintf(`[databases]
* = host=%s port=%d user=gangway
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = trust
auth_file = %s
pool_mode = transaction
default_pool_size = %d
max_client_conn = 500
`, s.Folder, s.Port, port, users, size)
	err = errors.Join(os.WriteFile(config, []byte(text), 0o644), os.WriteFile(users, []byte("\"gangway\" \"\"\n"), 0o644), os.Chmod(folder, 0o755))
	if err != nil {
		t.Fatal(err)
	}
	cmd := s.command(path, "-q", config)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	address := net.JoinHostPort("127.0.0.1", fmt.Sprint(port))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for {
		var dialer net.Dialer
		c, err := dialer.DialContext(ctx, "tcp", address)
		if err == nil {
			c.Close()
			break
		}
		select {
		case <-ctx.Done():
			t.Fatal("PgBouncer does not start:", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	return func(database string) string {
		return fmt.Sprintf("postgres://gangway@%s/%s?pgbouncer=true&sslmode=disable", address, database)
	}
}

package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Place is where a test's server runs: this machine, or a network of its own that stands for
// another machine.
type Place struct {
	// Addr is the server's address in this place. Network is the range of its peers' addresses,
	// such as 10.73.0.0/24. Peers need no password.
	Addr, Network string
	// Do calls a function in a thread whose child processes run in this place. If the place is this
	// machine itself, Do is the function Here.
	Do func(func() error) error
}

// Here just calls `f`. It is the Place.Do of this machine.
func Here(f func() error) error { return f() }

// StartAt starts a server in a place. Its commits wait for the disk, and a standby can copy it.
func StartAt(p Place, settings ...string) (*Server, error) {
	var s *Server
	err := p.Do(func() (err error) {
		s, err = Start(true, append([]string{fmt.Sprintf("listen_addresses = '%s'", p.Addr), "hot_standby_feedback = on", "wal_keep_size = 256MB"}, settings...)...)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.place = p
	return s, s.allow(p.Network)
}

// User returns the ids of the user and the group that run the server.
func (s *Server) User() (uid, gid int) { return s.uid, s.gid }

// allow lets all hosts of a network connect to the server, and replicate its data, without a
// password.
func (s *Server) allow(network string) error {
	f, err := os.OpenFile(filepath.Join(s.data, "pg_hba.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "host all all %s trust\nhost replication all %[1]s trust\n", network)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return s.reload()
}

func (s *Server) reload() error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_, err := s.Query(ctx, "postgres", "SELECT pg_reload_conf()")
	return err
}

// Configure adds lines to the server's configuration, which take effect at once.
func (s *Server) Configure(lines ...string) error {
	if err := s.configure(lines); err != nil {
		return err
	}
	return s.reload()
}

func (s *Server) configure(lines []string) error {
	f, err := os.OpenFile(filepath.Join(s.data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, strings.Join(lines, "\n"))
	return errors.Join(err, f.Close())
}

// StandbyName is the name by which synchronous_standby_names refers to a standby.
const StandbyName = "standby"

// StartStandby copies a running server to a place, and starts the copy as its standby.
func StartStandby(of *Server, p Place, settings ...string) (_ *Server, err error) {
	s := &Server{place: p, Port: of.Port, uid: of.uid, gid: of.gid}
	if s.Folder, err = os.MkdirTemp("", "gangway-pg-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(s.Folder)
		}
	}()
	if err := os.Chown(s.Folder, s.uid, s.gid); err != nil {
		return nil, err
	}
	s.data = filepath.Join(s.Folder, "data")
	from := fmt.Sprintf("host=%s port=%d user=gangway application_name=%s connect_timeout=3", of.place.Addr, of.Port, StandbyName)
	copying := s.command(filepath.Join(binaries(), "pg_basebackup"), "-d", strings.Replace(from, StandbyName, "copy", 1), "-D", s.data, "-c", "fast", "-X", "stream", "--no-sync")
	var out []byte
	err = p.Do(func() (err error) {
		out, err = copying.CombinedOutput()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("pg_basebackup: %w: %s", err, out)
	}
	lines := append([]string{
		fmt.Sprintf("listen_addresses = '%s'", p.Addr), fmt.Sprintf("unix_socket_directories = '%s'", s.Folder), fmt.Sprintf("primary_conninfo = '%s'", from), "synchronous_standby_names = ''",
	}, settings...)
	signal := filepath.Join(s.data, "standby.signal")
	if err := errors.Join(s.configure(lines), os.WriteFile(signal, nil, 0o600), os.Chown(signal, s.uid, s.gid)); err != nil {
		return nil, err
	}
	return s, s.Run()
}

// Promote makes a standby the primary, which accepts writes.
func (s *Server) Promote(ctx context.Context) error {
	done, err := s.Query(ctx, "postgres", "SELECT pg_promote(true, 30)")
	if err == nil && done != "t" {
		return errors.New("pgtest: the standby does not become the primary")
	}
	return err
}

// Follow makes the server's commits wait for its standby, and waits until the standby has caught
// up.
func (s *Server) Follow(ctx context.Context) error {
	if err := s.Configure(fmt.Sprintf("synchronous_standby_names = '%s'", StandbyName)); err != nil {
		return err
	}
	for {
		state, err := s.Query(ctx, "postgres", "SELECT sync_state FROM pg_stat_replication WHERE application_name = '"+StandbyName+"'")
		if err == nil && state == "sync" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("pgtest: the standby does not catch up (%q, %w)", state, errors.Join(err, ctx.Err()))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

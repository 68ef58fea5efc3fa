// Package sqlite is an engine for package store, for a hub that runs on one machine. It stores all
// data in one SQLite file, and needs neither a C compiler nor another service.
//
// One goroutine does all writes, on one connection. While a transaction is flushed to disk, other
// writes wait in a queue; together, they form the next transaction. A caller gets its answer only
// after the flush of its transaction. Therefore acknowledged writes are durable, as package store
// requires, and one flush serves many devices.
//
// Reads run in parallel with the writer, on their own connections. A read sees every write that was
// acknowledged before the read began.
//
// The file has mode 0600. SQLite makes two more files, with the suffixes "-wal" and "-shm", and
// this package makes an empty lock file with the suffix ".lock". To copy the database while the hub
// runs, use SQLite's backup, not cp.
package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"gangway/hub/store/sqlstore"

	"modernc.org/sqlite"
)

// Store is an engine of package store that stores all data in one SQLite file. Open returns a
// Store.
type Store struct {
	*sqlstore.Store
	path    string
	writer  *writer
	readers *readers

	closing  sync.Once
	closeErr error
}

// concurrentReads is the number of reads that can run at the same time.
const concurrentReads = 4

// Open opens the database in the file at `path`, and updates its schema. If the file does not
// exist, Open makes it; the file's folder must exist. If the schema is newer than this program,
// Open returns ErrNewerSchema.
func Open(ctx context.Context, path string) (*Store, error) {
	path, err := prepareFile(path)
	if err != nil {
		return nil, err
	}
	// fdatasync makes the data and the length of the file durable, which is enough for a commit;
	// fsync would also wait for timestamps. If the platform has only fsync, Fdatasync returns an
	// error, and SQLite uses fsync.
	_, _ = sqlite.Fdatasync(true)

	unlock, err := TakeTurn(path)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := migrate(ctx, path); err != nil {
		return nil, err
	}
	w, err := openWriter(path)
	if err != nil {
		return nil, err
	}
	r, err := openReaders(path, concurrentReads)
	if err != nil {
		w.close()
		return nil, err
	}
	s := &Store{path: path, writer: w, readers: r}
	s.Store = sqlstore.New(database{s})
	if err := s.IndexAgain(ctx); err != nil {
		return nil, errors.Join(err, s.Store.Close(), r.close(), w.close())
	}
	return s, nil
}

// TakeTurn takes a lock, so that only one process at a time opens or closes the database, for
// example either the hub or an operator's command. There are two reasons for this. First, SQLite's
// locks do not cover the time between reading the schema version and the migration. Second, if the
// last process closes the database while another one opens it, both may access the write-ahead log.
// The lock is on a separate file, because closing a second descriptor of the database file would
// release SQLite's locks.
func TakeTurn(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("sqlite: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("sqlite: lock %s.lock: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// prepareFile makes the database file if it does not exist, and returns its absolute path. The file
// gets mode 0600 before any data is written to it.
func prepareFile(path string) (string, error) {
	if path == "" || path == ":memory:" {
		return "", fmt.Errorf("sqlite: the path %q does not name a file; the database must be in a file, because its data must survive a restart", path)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("sqlite: %w", err)
	}
	folder := filepath.Dir(path)
	switch info, err := os.Stat(folder); {
	case errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("sqlite: the folder %s, in which the database should be, does not exist: create it", folder)
	case err != nil:
		return "", fmt.Errorf("sqlite: %w", err)
	case !info.IsDir():
		return "", fmt.Errorf("sqlite: %s, in which the database should be, is not a folder", folder)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", fmt.Errorf("sqlite: %w", err)
	}
	defer f.Close()
	if err := f.Chmod(0o600); err != nil {
		return "", fmt.Errorf("sqlite: %w", err)
	}
	return path, nil
}

// Close waits for all queued writes, writes the times of the devices' last contacts that are still
// only in memory, and closes the database. Later calls of other methods fail. Close may be called
// again.
func (s *Store) Close() error {
	s.closing.Do(func() {
		unlock, err := TakeTurn(s.path)
		if err == nil {
			defer unlock()
		}
		s.closeErr = errors.Join(s.Store.Close(), s.readers.close(), s.writer.close(), err)
	})
	return s.closeErr
}

// database implements sqlstore.DB for a Store.
type database struct{ s *Store }

func (d database) Write(ctx context.Context, run func(sqlstore.Conn) error) error {
	return d.s.writer.Do(ctx, run)
}

func (d database) Read(ctx context.Context, run func(sqlstore.Conn) error) error {
	return d.s.readers.do(ctx, func(c *conn) error { return run(c) })
}

func (d database) Snapshot(ctx context.Context, run func(sqlstore.Conn) error) error {
	return d.s.readers.snapshot(ctx, func(c *conn) error { return run(c) })
}

// Search implements sqlstore.DB.
func (d database) Search(ctx context.Context, run func(sqlstore.Conn) error) error {
	return d.Snapshot(ctx, run)
}

// Shared implements sqlstore.DB.
func (d database) Shared() bool { return false }

// LastText implements sqlstore.DB. It returns a blob, because in SQLite a blob is greater than
// every text.
func (d database) LastText() any { return []byte{0xff} }

// WritesWaiting implements store.Health.
func (s *Store) WritesWaiting() int { return s.writer.Waiting() }

// Stats counts what the writer has done since Open.
type Stats struct {
	Commits uint64 // transactions that wrote something
	Ops     uint64 // all operations that callers queued, including refused ones
}

// Stats returns the writer's counters. Ops divided by Commits is roughly the number of writes that
// share one flush to disk.
func (s *Store) Stats() Stats {
	return Stats{Commits: s.writer.commits.Load(), Ops: s.writer.Taken()}
}

// Package sqlite is the engine of package store for a hub that runs on one machine. It keeps
// everything in one SQLite file, and needs neither a C compiler nor another service.
//
// All writes go through one connection, owned by one goroutine, and share their flushes: the writes
// that were queued while the last transaction was flushed form the next one. A caller gets its
// answer after the flush that covers its write. So the promise of package store holds, and one
// flush serves many devices.
//
// Reads run in parallel with the writer, on their own connections. They see every write that was
// acknowledged before they began.
//
// The file has mode 0600. SQLite keeps two more files with the suffixes "-wal" and "-shm", and this
// package an empty one with ".lock". To copy the database while the hub runs, use SQLite's backup,
// not cp.
package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"modernc.org/sqlite"
)

// errClosed answers every call after Close.
var errClosed = errors.New("sqlite: store is closed")

// Store is an engine of package store: it keeps everything in one SQLite file. Make one with Open.
type Store struct {
	path    string
	writer  *writer
	readers *readers
	seen    *sightings

	closing  sync.Once
	closeErr error
}

// concurrentReads is how many reads run at once.
const concurrentReads = 4

// Open opens the database in the file at path, makes the file if it does not exist,
// and brings its schema up to date. The folder must exist already. A file
// whose schema is newer than this program is refused.
func Open(ctx context.Context, path string) (*Store, error) {
	path, err := prepareFile(path)
	if err != nil {
		return nil, err
	}
	// fdatasync makes the data and the file's length durable. A commit needs no more; fsync would
	// also wait for timestamps. If the platform has only fsync, Fdatasync returns an error, and
	// SQLite uses fsync.
	_, _ = sqlite.Fdatasync(true)

	unlock, err := takeTurn(path)
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
	s := &Store{path: path, writer: w, readers: r, seen: newSightings(w)}
	if err := s.indexAgain(ctx); err != nil {
		return nil, errors.Join(err, s.seen.close(), r.close(), w.close())
	}
	return s, nil
}

// takeTurn makes processes that open or close the same file take turns, for example the hub and an
// operator's command. SQLite's locks do not cover reading the schema version together with the
// migration that follows. And if one process closes the database last while another one opens it,
// both may access the write-ahead log. The lock is on another file, because closing a second
// descriptor of the database would release SQLite's locks.
func takeTurn(path string) (unlock func(), err error) {
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

// prepareFile makes the file, so that it never exists with a wider mode than 0600, and returns its
// absolute path.
func prepareFile(path string) (string, error) {
	if path == "" || path == ":memory:" {
		return "", fmt.Errorf("sqlite: %q does not name a file; the database must be a file, because its data must survive a restart", path)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("sqlite: %w", err)
	}
	folder := filepath.Dir(path)
	switch info, err := os.Stat(folder); {
	case errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("sqlite: the folder %s does not exist: make it first", folder)
	case err != nil:
		return "", fmt.Errorf("sqlite: %w", err)
	case !info.IsDir():
		return "", fmt.Errorf("sqlite: %s is not a folder", folder)
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

// Close waits for the queued writes, makes them and the pending contacts durable, and closes the
// file. Later calls fail.
func (s *Store) Close() error {
	s.closing.Do(func() {
		unlock, err := takeTurn(s.path)
		if err == nil {
			defer unlock()
		}
		s.closeErr = errors.Join(s.seen.close(), s.readers.close(), s.writer.close(), err)
	})
	return s.closeErr
}

// expire runs a statement that removes or empties at most limit rows that expired before now, and
// returns how many.
func (s *Store) expire(ctx context.Context, statement *statement, now time.Time, limit int) (int, error) {
	if limit <= 0 {
		return 0, nil
	}
	var n int64
	err := s.writer.do(ctx, func(c *conn) (err error) {
		n, err = c.exec(statement, micro(now), int64(limit))
		return err
	})
	if err != nil {
		return 0, err
	}
	return int(n), nil
}

// Ping implements store.Health. It reads one row, and waits for its turn in the write queue without
// writing.
func (s *Store) Ping(ctx context.Context) error {
	err := s.readers.do(ctx, func(c *conn) error {
		_, _, err := c.one(ping)
		return err
	})
	if err != nil {
		return err
	}
	return s.writer.do(ctx, func(*conn) error { return nil })
}

var ping = prepared(`SELECT count(*) FROM goose_db_version WHERE id = 1`)

// Stats counts the writer's work since Open.
type Stats struct {
	Commits uint64 // transactions that had something to make durable
	Ops     uint64 // writes asked for, refused ones too
}

// Stats reports how well writes share their flushes: Ops divided by Commits is the mean number of
// writes in a flush.
func (s *Store) Stats() Stats {
	return Stats{Commits: s.writer.commits.Load(), Ops: s.writer.ops.Load()}
}

// Package sqlitetest makes SQLite databases for tests faster than sqlite.Open does.
package sqlitetest

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"gangway/hub/store/sqlite"
)

// empty returns the file contents of an empty database with the current schema.
var empty = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "gangway")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "empty.db")
	s, err := sqlite.Open(context.Background(), path)
	if err != nil {
		return nil, err
	}
	if err := s.Close(); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
})

// CopyEmpty makes an empty database with the current schema at `path`, unless the file exists.
// Tests make hundreds of databases; thanks to CopyEmpty, the migrations run only once for all of
// them.
func CopyEmpty(path string) error {
	text, err := empty()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}

// Folder returns an empty folder for a test's database: t.TempDir() or, in short mode, a folder in
// memory (see MemoryDir), because most tests need a database but not its durability.
func Folder(t testing.TB) string {
	t.Helper()
	if !testing.Short() {
		return t.TempDir()
	}
	return MemoryDir(t)
}

// MemoryDir returns a folder in memory for a test's database, and removes it when the test ends. It
// must not be used in tests of durability, races or timing, because writes to it do not wait for a
// disk. If /dev/shm has less than 1 GiB free, MemoryDir returns a folder on the disk instead.
func MemoryDir(t testing.TB) string {
	t.Helper()
	const shm, room = "/dev/shm", 1 << 30
	var disk syscall.Statfs_t
	if err := syscall.Statfs(shm, &disk); err != nil || disk.Bavail*uint64(disk.Bsize) < room {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(shm, "gangway-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

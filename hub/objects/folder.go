package objects

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Folder stores objects as files in 256 folders. A folder is named after the first byte of the
// object's SHA-256, in hexadecimal, and a file after the other bytes and the object's Key.Place.
// For example, DIR/ab/cdef....PLACE is an object whose SHA-256 begins with abcdef. Put first writes
// a file in DIR/incoming, and moves it to its final name when it is complete, checked and flushed
// to disk. Files have mode 0600.
type Folder struct {
	dir  string
	lock *os.File

	mu   sync.Mutex
	made [256]bool // whether the folder for this first byte exists and is flushed to disk; guarded by mu
}

const (
	incoming = "incoming"
	lockFile = "lock"
	// OpenFolder removes the parts of an upload that has made no progress for partialLife. A
	// running hub ends such an upload earlier, so OpenFolder finds only parts that a crash left
	// behind.
	partialLife = 7 * 24 * time.Hour
)

// OpenFolder opens the folder `dir`, and creates it if it does not exist. It removes the files of
// interrupted uploads, except multipart uploads, which can continue. Only one process at a time may
// have the folder open.
func OpenFolder(dir string) (*Folder, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("objects: %w", err)
	}
	f := &Folder{dir: dir}
	if err := os.MkdirAll(filepath.Join(dir, incoming), 0o700); err != nil {
		return nil, fmt.Errorf("objects: %w", err)
	}
	if f.lock, err = os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, fmt.Errorf("objects: %w", err)
	}
	if err := syscall.Flock(int(f.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.lock.Close()
		return nil, fmt.Errorf("objects: another process has the folder %s open (%w); stop that process first", dir, err)
	}
	left, err := filepath.Glob(filepath.Join(dir, incoming, "*"))
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	for _, name := range left {
		info, err := os.Lstat(name)
		if err == nil && strings.HasSuffix(name, partialSuffix) && time.Since(info.ModTime()) < partialLife {
			continue // the client may continue
		}
		if err := errors.Join(err, os.RemoveAll(name)); err != nil {
			return nil, errors.Join(fmt.Errorf("objects: remove the file of an interrupted upload: %w", err), f.Close())
		}
	}
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := flush(d); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return f, nil
}

// ReadFolder opens the folder `dir` for reading, while other processes may have it open. Only the
// methods Open, Stat, Walk and Close of the result may be called.
func ReadFolder(dir string) (*Folder, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("objects: %w", err)
	}
	return &Folder{dir: dir}, nil
}

func (f *Folder) path(key Key) string { return filepath.Join(f.dir, key.name()) }

// Put implements Store.
func (f *Folder) Put(ctx context.Context, key Key, size int64, r io.Reader) (err error) {
	if size < 0 {
		return ErrSize
	}
	file, err := os.CreateTemp(filepath.Join(f.dir, incoming), "")
	if err != nil {
		return fmt.Errorf("objects: %w", err)
	}
	defer func() {
		file.Close()
		if err != nil {
			os.Remove(file.Name())
		}
	}()
	if _, err := io.Copy(file, &cancellable{ctx, check(r, key.Sum, size)}); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return fmt.Errorf("objects: %w", err)
	}
	if err := f.make(key.Sum[0]); err != nil {
		return err
	}
	path := f.path(key)
	if err := os.Rename(file.Name(), path); err != nil {
		return fmt.Errorf("objects: %w", err)
	}
	return flush(filepath.Dir(path))
}

// make durably creates the folder for hashes with this first byte, if it does not exist.
func (f *Folder) make(first byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.made[first] {
		return nil
	}
	if err := os.Mkdir(filepath.Join(f.dir, hex.EncodeToString([]byte{first})), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("objects: %w", err)
	}
	if err := flush(f.dir); err != nil {
		return err
	}
	f.made[first] = true
	return nil
}

// flush writes the list of a folder's files to disk, so that new and renamed files survive a power
// failure.
func flush(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("objects: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("objects: %w", err)
	}
	return nil
}

// Open implements Store.
func (f *Folder) Open(_ context.Context, key Key) (io.ReadSeekCloser, error) {
	file, err := os.Open(f.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("objects: %w", err)
	}
	return file, nil
}

// Stat implements Store.
func (f *Folder) Stat(_ context.Context, key Key) (Info, error) {
	info, err := os.Stat(f.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		return Info{}, ErrNotFound
	}
	if err != nil {
		return Info{}, fmt.Errorf("objects: %w", err)
	}
	return Info{info.Size(), info.ModTime()}, nil
}

// Delete implements Store.
func (f *Folder) Delete(_ context.Context, key Key) error {
	if err := os.Remove(f.path(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("objects: %w", err)
	}
	return nil
}

// Walk implements Store. It ignores files that are not named like an object's file.
func (f *Folder) Walk(ctx context.Context, visit func(Key, Info) error) error {
	for first := range 256 {
		if err := ctx.Err(); err != nil {
			return err
		}
		prefix := hex.EncodeToString([]byte{byte(first)})
		files, err := os.ReadDir(filepath.Join(f.dir, prefix))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("objects: %w", err)
		}
		for _, file := range files {
			key, ok := parseName(prefix + "/" + file.Name())
			if !ok || file.IsDir() {
				continue
			}
			info, err := file.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return fmt.Errorf("objects: %w", err)
			}
			if err := visit(key, Info{info.Size(), info.ModTime()}); err != nil {
				return err
			}
		}
	}
	return nil
}

// Ping implements Store.
func (f *Folder) Ping(context.Context) error {
	_, err := os.Stat(filepath.Join(f.dir, incoming))
	return err
}

// Close releases the folder for other processes. It unlocks the lock file explicitly, because
// closing the descriptor of this process is not enough: a child process that is just starting may
// have a copy of the descriptor.
func (f *Folder) Close() error {
	if f.lock == nil {
		return nil
	}
	return errors.Join(syscall.Flock(int(f.lock.Fd()), syscall.LOCK_UN), f.lock.Close())
}

// cancellable is a reader that returns the context's error when the context is done.
type cancellable struct {
	ctx context.Context
	r   io.Reader
}

func (c *cancellable) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

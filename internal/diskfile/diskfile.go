// Package diskfile reads and replaces regular files. Reading is safe even if the path names
// something else, such as a pipe. If the power fails while a file is replaced, the file has either
// its old content or the new content.
package diskfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

var (
	// ErrNotRegular means that a path does not name a regular file.
	ErrNotRegular = errors.New("not a regular file")
	// ErrLarge means that a file is larger than the reader's limit.
	ErrLarge = errors.New("too large")
)

// Open opens a regular file for reading. It never blocks: for a pipe, a folder or a device, the
// error is ErrNotRegular. `flag` has additional flags for open(2); with O_NOFOLLOW, a symbolic link
// is an error.
func Open(path string, flag int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|flag, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = says{fmt.Sprintf("%s is not a regular file", path), ErrNotRegular}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Read reads a regular file of at most `limit` bytes. If the file is larger, the error is ErrLarge.
// `flag` means the same as in Open.
func Read(path string, flag int, limit int64) ([]byte, error) {
	f, err := Open(path, flag)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, says{fmt.Sprintf("%s has more than %d bytes", path, limit), ErrLarge}
	}
	return b, nil
}

// says is the error `err` with another text.
type says struct {
	text string
	err  error
}

func (s says) Error() string { return s.text }
func (s says) Unwrap() error { return s.err }

// Replace writes `content` to the file at `path`. It replaces the file or, if the file does not
// exist, creates it. The file gets the mode 0600. After a power cut at any moment, the file has
// either its old content or the new content. When Replace returns nil, the disk has the new
// content. If `before` is not nil, Replace calls it at the moment when the new content is on the
// disk and the file still has the old content. Tests cut the power at this moment.
func Replace(path string, content []byte, before func()) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(content)
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if before != nil {
		before()
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return FlushFolder(filepath.Dir(path))
}

// FlushFolder flushes a folder to the disk, that is, the names of its files.
func FlushFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

package diskfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Read accepts only regular files, because reading a pipe would block, and the content of a device
// may never end.
func TestOnlyRegularFilesAreRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	name := func(n string) string { return filepath.Join(dir, n) }
	err := errors.Join(
		os.WriteFile(name("file"), []byte("12345678"), 0o600),
		os.Symlink("file", name("link")),
		os.Mkdir(name("folder"), 0o700),
		syscall.Mkfifo(name("pipe"), 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path  string
		flag  int
		limit int64
		want  error
	}{
		{name("file"), 0, 8, nil},
		{name("file"), 0, 7, ErrLarge},
		{name("link"), 0, 8, nil},
		{name("link"), syscall.O_NOFOLLOW, 8, syscall.ELOOP},
		{name("folder"), 0, 8, ErrNotRegular},
		{name("pipe"), 0, 8, ErrNotRegular},
		{"/dev/zero", 0, 8, ErrNotRegular},
		{name("missing"), 0, 8, fs.ErrNotExist},
	} {
		if b, err := Read(c.path, c.flag, c.limit); !errors.Is(err, c.want) || err == nil && string(b) != "12345678" {
			t.Errorf("%s, limit %d: got %q, %v; want the error %v", c.path, c.limit, b, err, c.want)
		}
	}
}

// Before the last step of Replace, the file still has its old content, and the new content is
// completely on the disk.
func TestReplaceChangesTheFileInOneStep(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := Replace(file, []byte("old"), nil); err != nil {
		t.Fatal(err)
	}
	var called bool
	err := Replace(file, []byte("new"), func() {
		called = true
		if b, err := os.ReadFile(file); err != nil || string(b) != "old" {
			t.Errorf("before the step: %q, %v", b, err)
		}
		pending, _ := filepath.Glob(filepath.Join(dir, ".new-*"))
		if len(pending) != 1 {
			t.Fatalf("%d files with new content", len(pending))
		}
		if b, err := os.ReadFile(pending[0]); err != nil || string(b) != "new" {
			t.Errorf("the new content before the step: %q, %v", b, err)
		}
	})
	if err != nil || !called {
		t.Fatalf("called: %v, %v", called, err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "new" {
		t.Errorf("after: %q, %v", b, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode: %v, %v", info, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%d files are left: %v", len(left), err)
	}
}

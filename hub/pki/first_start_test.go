package pki

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tree maps the path of each file and folder below `dir` to the file's data, or to "folder".
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	m := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		if d.IsDir() {
			m[path] = "folder"
			return nil
		}
		b, err := os.ReadFile(path)
		m[path] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// failingMaker returns a maker that calls `block` before each step. The function `block` is meant
// to put an obstacle into the folder, so that the step fails.
func failingMaker(t *testing.T, block func() error) *maker {
	t.Helper()
	o, err := Options{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return &maker{Options: o, step: func() {
		if err := block(); err != nil {
			t.Fatal(err)
		}
	}}
}

// If the disk fails at any step of the first start, nothing remains on the disk, and the next start
// works. The test uses obstacles instead of file permissions, because it may run as root, who can
// write everywhere.
func TestFailedFirstStartLeavesNothing(t *testing.T) {
	t.Parallel()
	for name := range files {
		t.Run(name+" cannot be made", func(t *testing.T) {
			parent := t.TempDir()
			dir := filepath.Join(parent, "pki")
			made, err := failingMaker(t, func() error {
				folders, err := filepath.Glob(filepath.Join(parent, ".pki.new-*"))
				if err != nil || len(folders) == 0 {
					return err
				}
				if err := os.Mkdir(filepath.Join(folders[0], name), 0o700); !errors.Is(err, fs.ErrExist) {
					return err
				}
				return nil // the obstacle was made in an earlier step
			}).create(dir)
			if err == nil || made {
				t.Fatalf("made %v, error %v", made, err)
			}
			if left := tree(t, parent); len(left) != 0 {
				t.Errorf("left %d things, private keys among them", len(left))
			}
			if h, err := Open(dir, Options{}); err != nil || !h.Created() {
				t.Errorf("the next start: %v", err)
			}
		})
	}
	t.Run("the name is in use before the rename", func(t *testing.T) {
		parent := t.TempDir()
		dir := filepath.Join(parent, "pki")
		made, err := failingMaker(t, func() error { return os.WriteFile(dir, []byte("another's"), 0o600) }).create(dir)
		if err == nil || made {
			t.Fatalf("made %v, error %v", made, err)
		}
		if left := tree(t, parent); !maps.Equal(left, map[string]string{dir: "another's"}) {
			t.Errorf("left %d things", len(left))
		}
	})
	for name, prepare := range map[string]func(parent string) (string, error){
		"no parent": func(parent string) (string, error) { return filepath.Join(parent, "away", "pki"), nil },
		"the parent is a file": func(parent string) (string, error) {
			file := filepath.Join(parent, "file")
			return filepath.Join(file, "pki"), os.WriteFile(file, nil, 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			path, err := prepare(parent)
			if err != nil {
				t.Fatal(err)
			}
			before := tree(t, parent)
			if _, err := Open(path, Options{}); err == nil {
				t.Error("accepted")
			}
			if !maps.Equal(before, tree(t, parent)) {
				t.Error("something was made")
			}
		})
	}
}

// A hub that was killed during its first start leaves a temporary folder. The next start removes
// this folder, but no other files and folders with similar names.
func TestFirstStartRemovesOnlyItsOwnRemains(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	remains := filepath.Join(parent, ".pki.new-123")
	if err := os.Mkdir(remains, 0o700); err != nil {
		t.Fatal(err)
	}
	kept := []string{".pki.new-note", "pki.new-1", ".other.new-1"}
	for _, name := range append(kept, ".pki.new-123/root.key") {
		if err := os.WriteFile(filepath.Join(parent, name), []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if h, err := Open(filepath.Join(parent, "pki"), Options{}); err != nil || !h.Created() {
		t.Fatal(err)
	}
	if _, err := os.Stat(remains); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("keys of a failed start remain: %v", err)
	}
	for _, name := range kept {
		if b, err := os.ReadFile(filepath.Join(parent, name)); err != nil || !bytes.Equal(b, []byte("old")) {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}

// If some files are missing, Open makes no new ones, and keeps the existing keys: `spoil` checks
// that Open does not change the folder.
func TestOpenNeverMakesNewKeysBesideOldOnes(t *testing.T) {
	t.Parallel()
	for keep := range files {
		t.Run("only "+keep+" is left", func(t *testing.T) {
			got := spoil(t, func(t *testing.T, dir string) {
				for name := range files {
					if name != keep {
						if err := os.Remove(filepath.Join(dir, name)); err != nil {
							t.Fatal(err)
						}
					}
				}
			})
			if !strings.Contains(got, "backup") {
				t.Errorf("the error does not say what to do: %s", got)
			}
		})
	}
}

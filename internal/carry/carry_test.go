package carry

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// A real program still runs after files were appended, and a copy of the program contains the same
// files.
func TestProgramCarriesFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	self, err := exec.LookPath("true")
	if err != nil {
		t.Skip(err)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "program")
	write(t, program, string(b), 0o755)
	if _, err := Open(program); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a program that carries nothing: %v", err)
	}
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	write(t, one, "first", 0o755)
	write(t, two, "second", 0o755)
	if err := Add(program, one, two); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	// Append the files again, in another order. The new archive replaces the former archive.
	if err := Add(program, two, one); err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(program); err != nil || !bytes.Equal(first, again) {
		t.Errorf("the second time gives other bytes: %d and %d, %v", len(first), len(again), err)
	}
	elsewhere := filepath.Join(t.TempDir(), "renamed")
	write(t, elsewhere, string(first), 0o755)
	f, err := Open(elsewhere)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got, err := fs.ReadFile(f, "two"); err != nil || string(got) != "second" {
		t.Errorf("got %q, %v", got, err)
	}
	if info, err := os.Stat(program); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("the program's mode is %v, %v", info.Mode(), err)
	}
	if out, err := exec.Command(elsewhere).CombinedOutput(); err != nil {
		t.Errorf("the program does not run: %v %s", err, out)
	}
}

// If a program is truncated or its trailer was changed, Open returns an error, and reads no bytes
// outside the archive.
func TestDamagedTrailerIsRefused(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"too large":  "x\xff\xff\xff\xff\xff\xff\xff\xff" + magic,
		"a byte":     "x\x00\x00\x00\x00\x00\x00\x00\x02" + magic,
		"no archive": "xxxxxxxx\x00\x00\x00\x00\x00\x00\x00\x08" + magic,
	} {
		path := filepath.Join(t.TempDir(), "program")
		write(t, path, text, 0o755)
		if _, err := Open(path); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

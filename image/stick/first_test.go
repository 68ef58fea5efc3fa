package stick

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"gangway/device/install"
	"gangway/image/factory"
	"gangway/internal/race"
)

// The function `revision` makes a first revision with one object of `size` bytes.
func revision(t *testing.T, size int) *factory.Revision {
	t.Helper()
	content := bytes.Repeat([]byte("0123456789abcde\n"), size/16)
	h := sha256.Sum256(content)
	sum := hex.EncodeToString(h[:])
	dir := t.TempDir()
	for name, b := range map[string][]byte{
		"json":           []byte(`{"#spec":"pantavisor-service-system@1","app/root":"` + sum + `","bsp/run.json":{"a":1}}`),
		"objects/" + sum: content,
	} {
		path := filepath.Join(dir, ".pvr", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r, err := factory.Merge(t.Context(), t.TempDir(), []string{dir}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The data partition contains the first revision, and fsck finds no errors in it. The same sources
// give the same image.
func TestFirstRevisionIsInTheImage(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	if testing.Short() {
		t.Skip("builds two images with a large revision")
	}
	p, tok := parts(t), token(t)
	r := revision(t, 70<<20) // too large for the data partition of an image without a first revision
	path := build(t, p, Config{Token: tok, First: r})
	if sum(t, path) != sum(t, build(t, p, Config{Token: tok, First: revision(t, 70<<20)})) {
		t.Error("two builds of the same sources differ")
	}
	c, err := Inspect(path, "")
	if err != nil {
		t.Fatal(err)
	}
	if f := c.Manifest.First; f == nil || len(f.Parts) != 2 || f.Objects != 1 || f.Size != 70<<20 || f.SHA256 != digest(r.State) {
		t.Fatalf("inspect shows %+v", f)
	}
	data, err := dataImage(r)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("/usr/sbin/e2fsck", "-fn", file).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v: %.500s", err, out)
	}
	for name, want := range map[string][]byte{"state.json": r.State, "objects/" + r.Objects[0].Sum: bytes.Repeat([]byte("0123456789abcde\n"), 70<<16)} {
		got, err := exec.Command("/usr/sbin/debugfs", "-R", "cat /"+install.FirstPath+"/"+name, file).Output()
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("debugfs reads %d bytes of %s, %v", len(got), name, err)
		}
	}
	if err := os.Remove(filepath.Join(r.Dir, r.Objects[0].Sum)); err != nil {
		t.Fatal(err)
	}
	if _, err := dataImage(r); err == nil {
		t.Error("dataImage ignores a missing object")
	}
}

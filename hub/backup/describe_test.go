package backup_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gangway/hub/backup"
)

// described writes a backup with its description to the hub's folder of backups.
func (h *hub) described() (path string) {
	h.t.Helper()
	s := h.source()
	path = filepath.Join(h.dir, "backups", "000000007-20261129T031500Z"+backup.FileEnding)
	d := backup.NewDescriber(path)
	put := s.Objects
	s.Objects = func(ctx context.Context, o backup.Object) (string, bool, error) {
		file, copied, err := put(ctx, o)
		if err == nil {
			err = d.Object(file)
		}
		return file, copied, err
	}
	var done backup.Summary
	err := backup.WriteFile(path, func(w io.Writer) (err error) {
		done, err = backup.Write(h.t.Context(), io.MultiWriter(w, d), s, h.identity.Recipient())
		return err
	})
	if err == nil {
		err = d.Finish(h.ca, done.Header, []string{h.identity.Recipient().String()})
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return path
}

// CheckNewest must find a damaged or exchanged backup without the age identity. It must refuse a
// description that another hub or an attacker made.
func TestNewestBackupIsCheckedWithoutItsKey(t *testing.T) {
	t.Parallel()
	h, other := newHub(t), newHub(t)
	path, foreign := h.described(), other.described()
	dir := filepath.Dir(path)
	c, err := backup.CheckNewest(t.Context(), dir, h.ca.HubName())
	if err != nil || c.File != path || c.Unfinished || c.Description == nil || c.Description.Count != 2 || c.Description.Recipients[0] != h.identity.Recipient().String() {
		t.Fatalf("%+v, %v", c, err)
	}
	objects, err := filepath.Glob(filepath.Join(dir, "objects", "*", "*.age"))
	if err != nil || len(objects) != 2 {
		t.Fatal(objects, err)
	}
	info := path + ".info"
	replace := func(path, from, to string) {
		t.Helper()
		text, err := os.ReadFile(path)
		changed := bytes.Replace(text, []byte(from), []byte(to), 1)
		if err != nil || bytes.Equal(text, changed) {
			t.Fatal(path, err)
		}
		must(t, os.WriteFile(path, changed, 0o600))
	}
	for name, one := range map[string]struct {
		damage func()
		code   string
	}{
		"a byte of the file": {func() { replace(path, "age-encryption.org/v1", "age-encryption.org/v2") }, backup.CodeAltered},
		"a truncated file":   {func() { must(t, os.Truncate(path, 5000)) }, backup.CodeAltered},
		"a missing object":   {func() { must(t, os.Remove(objects[0])) }, backup.CodeObject},
		"a short object":     {func() { must(t, os.Truncate(objects[1], 3)) }, backup.CodeObject},
		"another size":       {func() { replace(info, `"size":`, `"size":1`) }, backup.CodeAltered},
		"a shorter list": {func() {
			text, err := os.ReadFile(info)
			must(t, err)
			must(t, os.WriteFile(info, []byte(strings.SplitN(string(text), "\n", 2)[1]), 0o600))
		}, backup.CodeAltered},
		"the description of another hub": {func() {
			text, err := os.ReadFile(foreign + ".info")
			must(t, err)
			must(t, os.WriteFile(info, text, 0o600))
		}, backup.CodeOtherHub},
		"the file of an older backup": {func() {
			for _, ending := range []string{"", ".info"} {
				text, err := os.ReadFile(path + ending)
				must(t, err)
				must(t, os.WriteFile(filepath.Join(dir, "000000009-20261130T031500Z"+backup.FileEnding+ending), text, 0o600))
			}
		}, backup.CodeAltered},
	} {
		keep := t.TempDir()
		must(t, os.CopyFS(keep, os.DirFS(dir)))
		one.damage()
		_, err := backup.CheckNewest(t.Context(), dir, h.ca.HubName())
		if got := code(err); got != one.code {
			t.Errorf("%s: %s, want %s", name, got, one.code)
		}
		must(t, os.RemoveAll(dir))
		must(t, os.CopyFS(dir, os.DirFS(keep)))
	}
	if _, err := backup.CheckNewest(t.Context(), t.TempDir(), h.ca.HubName()); code(err) != backup.CodeNone {
		t.Error(err)
	}
	must(t, os.Remove(info))
	if c, err := backup.CheckNewest(t.Context(), dir, h.ca.HubName()); err != nil || c.Description != nil || c.Begun.IsZero() {
		t.Errorf("without a description: %+v, %v", c, err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

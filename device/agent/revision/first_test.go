package revision

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"gangway/wire/trail"
)

// firstFolder makes the folder of a first revision, in the same form as in an image: the state, and
// one object for each text in `contents`.
func firstFolder(t *testing.T, state string, contents ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "first")
	if err := os.MkdirAll(filepath.Join(dir, "objects"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, c := range contents {
		putFile(t, filepath.Join(dir, "objects", sumOf(c)), c)
	}
	putFile(t, filepath.Join(dir, "state.json"), state)
	return dir
}

func sumOf(content string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(content))) }

func putFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// The method `begins` runs the follower until the hub has a trail of the device, and returns the
// first state of that trail.
func (h *evilHub) begins(f *Follower) string {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	for ctx.Err() == nil {
		if j, err := readJournal(f.journalPath(), "dev"); err == nil && j.Begun {
			if _, err := os.Stat(f.cfg.First); os.IsNotExist(err) {
				break
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	if ctx.Err() != nil {
		h.t.Error("the trail never begins")
	}
	cancel()
	if err := <-ended; err != nil {
		h.t.Error(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.begun
}

// If an object of the first revision is damaged on the disk, the device downloads the object from
// the hub. If the hub does not have the object, the trail begins with an empty state.
func TestDamagedFirstRevisionLeavesAMachineThatIsConnected(t *testing.T) {
	t.Parallel()
	sum := sumOf("one")
	good := stateWith("app/a", sum, "app/b", sumOf("two"))
	for name, c := range map[string]struct {
		damage func(dir string)
		hub    []string // texts of the objects that the hub has
		want   string
		sent   []string
	}{
		"whole":                             {func(string) {}, nil, good, []string{"one", "two"}},
		"whole, the hub has one":            {func(string) {}, []string{"one"}, good, []string{"two"}},
		"another content":                   {func(dir string) { putFile(t, filepath.Join(dir, "objects", sum), "One") }, nil, emptyState, nil},
		"another content, that the hub has": {func(dir string) { putFile(t, filepath.Join(dir, "objects", sum), "One") }, []string{"one"}, good, []string{"two"}},
		"an object that is gone":            {func(dir string) { os.Remove(filepath.Join(dir, "objects", sum)) }, nil, emptyState, nil},
		"an object that is a link": {func(dir string) {
			outside := filepath.Join(t.TempDir(), "secret")
			putFile(t, outside, "one")
			os.Remove(filepath.Join(dir, "objects", sum))
			if err := os.Symlink(outside, filepath.Join(dir, "objects", sum)); err != nil {
				t.Fatal(err)
			}
		}, nil, emptyState, nil},
		"an object that never ends": {func(dir string) {
			os.Remove(filepath.Join(dir, "objects", sum))
			if err := syscall.Mkfifo(filepath.Join(dir, "objects", sum), 0o600); err != nil {
				t.Fatal(err)
			}
		}, nil, emptyState, nil},
		"a state cut short":            {func(dir string) { putFile(t, filepath.Join(dir, "state.json"), good[:50]) }, nil, emptyState, nil},
		"a state whose name leads out": {func(dir string) { putFile(t, filepath.Join(dir, "state.json"), stateWith("../../x", sum)) }, nil, emptyState, nil},
		"a huge state": {func(dir string) {
			putFile(t, filepath.Join(dir, "state.json"), strings.Repeat(" ", trail.MaxState+1)+good)
		}, nil, emptyState, nil},
		"no state": {func(dir string) { os.Remove(filepath.Join(dir, "state.json")) }, nil, emptyState, nil},
	} {
		t.Run(name, func(t *testing.T) {
			h := newEvilHub(t)
			for _, content := range c.hub {
				h.has(content)
			}
			dir := firstFolder(t, good, "one", "two")
			c.damage(dir)
			f := h.device("", func(cfg *Config) { cfg.First, cfg.Hook = dir, "" })
			if got := h.begins(f); got != c.want {
				t.Errorf("it begins with %s; want %s", got, c.want)
			}
			slices.Sort(h.uploads)
			if c.want == good && !slices.Equal(h.uploads, c.sent) {
				t.Errorf("the hub got %q; want %q", h.uploads, c.sent)
			}
			if f.Status().Revision != "0" {
				t.Errorf("status: %+v", f.Status())
			}
			for path, want := range map[string]string{"app/a": "one", "app/b": "two"} {
				b, err := os.ReadFile(filepath.Join(f.folderOf(*f.journal.Current), filesName, path))
				if c.want == good && (string(b) != want || err != nil) {
					t.Errorf("%s: %q, %v", path, b, err)
				}
			}
		})
	}
}

// If the hub already has a trail of the machine, the machine ignores the image's first revision.
func TestFirstRevisionIsOfNoUseToAMachineWithATrail(t *testing.T) {
	t.Parallel()
	h := newEvilHub(t)
	h.list = `[{"id":"dev"}]`
	dir := firstFolder(t, stateWith("app/a", sumOf("one")), "one")
	f := h.device("", func(cfg *Config) { cfg.First = dir })
	if got := h.begins(f); got != "" || len(h.uploads) > 0 || f.Status().Revision != "" {
		t.Errorf("it began with %q, uploaded %q, runs %q", got, h.uploads, f.Status().Revision)
	}
}

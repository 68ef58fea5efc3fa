package stick

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func buildReset(t *testing.T, p *Parts) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "reset.img")
	if _, err := BuildReset(p, nil, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// An image that wipes machines has one menu entry and installs nothing.
func TestResetStickOnlyWipes(t *testing.T) {
	t.Parallel()
	p := parts(t)
	path := buildReset(t, p)
	if sum(t, path) != sum(t, buildReset(t, p)) {
		t.Error("two builds differ")
	}
	c, err := Inspect(path, "")
	if err != nil {
		t.Fatal(err)
	}
	if m := c.Manifest; !m.Reset || len(m.Parts) != 0 || c.Token != nil || c.Signed {
		t.Errorf("inspect shows %+v", c)
	}
	if len(c.Entries) != 1 || !strings.Contains(c.Entries[0].Cmdline, "gangway.mode=reset ") || !strings.Contains(c.Entries[0].Title, "Wipe") {
		t.Errorf("entries: %+v", c.Entries)
	}
}

func TestResetStickIsSigned(t *testing.T) {
	t.Parallel()
	p := parts(t)
	key, cert := keys(t, "owner")
	p.Signer = signer(t, key, cert)
	if c, err := Inspect(buildReset(t, p), cert); err != nil || !c.Signed {
		t.Errorf("inspect shows %+v, %v", c, err)
	}
}

// Inspect refuses an image whose menu entries wipe but whose manifest installs, and the reverse.
func TestInspectTellsWipingFromInstalling(t *testing.T) {
	t.Parallel()
	p := parts(t)
	for name, c := range map[string]struct{ path, from, to string }{
		"a wipe that installs":    {buildReset(t, p), "gangway.mode=reset", "gangway.mode=auto "},
		"an installer that wipes": {build(t, p, Config{Token: token(t)}), "gangway.mode=manual", "gangway.mode=reset "},
	} {
		whole, err := os.ReadFile(c.path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(whole, []byte(c.from)) {
			t.Fatalf("the image does not contain %q", c.from)
		}
		if err := os.WriteFile(c.path, bytes.ReplaceAll(whole, []byte(c.from), []byte(c.to)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Inspect(c.path, ""); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%s: Inspect returns %v; want damaged", name, err)
		}
	}
}

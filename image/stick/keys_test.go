package stick

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/image/secureboot"
	"gangway/internal/race"
)

// The function `owner` makes a set of Secure Boot keys for an owner, and makes `p` sign programs
// with the db key of this set.
func owner(t testing.TB, p *Parts) *secureboot.Set {
	t.Helper()
	dir := t.TempDir()
	if err := secureboot.New(dir, "owner", nil, time.Now()); err != nil {
		t.Fatal(err)
	}
	set, err := secureboot.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	keys(t, "") // skips the test if osslsigncode is not installed
	p.Signer = signer(t, filepath.Join(dir, "db.key"), filepath.Join(dir, "db.pem"))
	return set
}

func TestStickBringsItsOwnersKeys(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	p := parts(t)
	set := owner(t, p)
	cfg := Config{Token: token(t), Enrol: set}
	path := build(t, p, cfg)
	// As in TestSignedImageIsSignedThroughout, short runs skip the second build.
	if !testing.Short() && sum(t, path) != sum(t, build(t, p, cfg)) {
		t.Error("two builds differ")
	}
	c, err := Inspect(path, "")
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Enrols) != 3 || len(c.Enrols[secureboot.DB]) != 1 || !strings.HasPrefix(c.Enrols[secureboot.PK][0], "CN=owner PK, SHA-256 ") || c.Manifest.Enrol.Unasked {
		t.Errorf("inspect shows %+v, %+v", c.Enrols, c.Manifest.Enrol)
	}
	for unasked, want := range map[bool]string{false: "secure-boot-enroll manual", true: "secure-boot-enroll force"} {
		cfg.EnrolUnasked = unasked
		out, err := exec.Command("mtype", "-i", build(t, p, cfg)+"@@1M", "::/loader/loader.conf").CombinedOutput()
		if err != nil || !strings.Contains(string(out), want+"\n") {
			t.Errorf("loader.conf lacks %q (%v): %.300s", want, err, out)
		}
	}
}

// Build refuses Secure Boot keys if a machine that enrols them could not start the image.
func TestKeysThatWouldNotStartTheImageAreNotEnrolled(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	p := parts(t)
	set := owner(t, p)
	for name, alter := range map[string]func(){
		"signed by another": func() { owner(t, p) },
		"not signed":        func() { p.Signer = nil },
	} {
		alter()
		if _, err := Build(p, Config{Token: token(t), Enrol: set}, filepath.Join(t.TempDir(), "i.img")); err == nil || !strings.Contains(err.Error(), "would not start") {
			t.Errorf("%s: Build returns %v; want an error", name, err)
		}
	}
}

// An attacker cannot add Secure Boot keys to an image: if the boot manager would enrol keys that
// the manifest does not name, Inspect refuses the image.
func TestInspectRefusesKeysOfAnother(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	if testing.Short() {
		t.Skip("it makes keys of two owners and signs two images: make test runs this test")
	}
	p := parts(t)
	set := owner(t, p)
	other := owner(t, parts(t))
	file := func(b []byte) string {
		name := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	withoutKeys := Config{Token: token(t)}
	withKeys := withoutKeys
	withKeys.Enrol = set
	with, without := build(t, p, withKeys), build(t, p, withoutKeys)
	for name, c := range map[string]struct {
		image string
		tool  []string
	}{
		"exchanged":      {with, []string{"mcopy", "-o", "-i", "IMAGE", file(other.Signed[secureboot.PK]), "::/loader/keys/auto/PK.auth"}},
		"removed":        {with, []string{"mdel", "-i", "IMAGE", "::/loader/keys/auto/db.auth"}},
		"another file":   {with, []string{"mcopy", "-i", "IMAGE", file([]byte("x")), "::/loader/keys/auto/dbx.auth"}},
		"another folder": {with, []string{"mmd", "-i", "IMAGE", "::/loader/keys/mine", "AND", "mcopy", "-i", "IMAGE", file(other.Signed[secureboot.PK]), "::/loader/keys/mine/PK.auth"}},
		"from nowhere":   {without, []string{"mmd", "-i", "IMAGE", "::/loader/KEYS", "::/loader/KEYS/auto", "AND", "mcopy", "-i", "IMAGE", file(other.Signed[secureboot.PK]), "::/loader/KEYS/auto/PK.auth"}},
	} {
		path := filepath.Join(t.TempDir(), "installer.img")
		if out, err := exec.Command("cp", "--sparse=always", c.image, path).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if _, err := Inspect(path, ""); err != nil {
			t.Fatalf("%s, before: %v", name, err)
		}
		for _, words := range strings.Split(strings.ReplaceAll(strings.Join(c.tool, "\x00"), "IMAGE", path+"@@1M"), "\x00AND\x00") {
			cmd := strings.Split(words, "\x00")
			if out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%s: %q: %v: %.300s", name, cmd, err, out)
			}
		}
		if c, err := Inspect(path, ""); err == nil {
			t.Errorf("%s: accepted: %+v", name, c.Enrols)
		}
	}
}

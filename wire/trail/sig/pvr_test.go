package sig_test

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gangway/wire/trail/sig"
	"gangway/wire/trail/sig/sigtest"
)

var update = flag.Bool("update", false, "record the states that the pvr in GANGWAY_PVR signs")

// The names of the files in testdata that TestRealPVRSigns writes and TestStatesThatPVRSigned
// reads.
const recordedState, recordedPart, recordedKeys = "testdata/pvr-owner.json", "testdata/pvr-part.json", "testdata/pvr-keys.pem"

// checkout is a folder that a person signs with pvr.
type checkout struct {
	t   *testing.T
	dir string
}

func (c checkout) pvr(args ...string) {
	c.t.Helper()
	cmd := exec.CommandContext(c.t.Context(), os.Getenv("GANGWAY_PVR"), append([]string{"--http-proxy=no", "-b", "https://127.0.0.1:1"}, args...)...)
	cmd.Dir, cmd.Env = c.dir, []string{"HOME=" + c.dir + "-home", "PATH=" + os.Getenv("PATH"), "PVR_DISABLE_SELF_UPGRADE=1"}
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("pvr %v: %v %.400s", args, err, out)
	}
}

func (c checkout) write(name, text string) {
	c.t.Helper()
	path := filepath.Join(c.dir, name)
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte(text), 0o644)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c checkout) state() []byte {
	c.t.Helper()
	b, err := os.ReadFile(filepath.Join(c.dir, ".pvr", "json"))
	if err != nil {
		c.t.Fatal(err)
	}
	return b
}

// newCheckout returns a checkout and the name of a file with the key. The checkout has one part
// with its src.json; both are committed.
func newCheckout(t *testing.T, key *ecdsa.PrivateKey) (c checkout, keyFile string) {
	t.Helper()
	c = checkout{t, filepath.Join(t.TempDir(), "work")}
	c.write("app/root.squashfs", "root")
	c.write("app/run.json", `{"name":"app","é<>":[1.50,9007199254740992,1e3,true]}`)
	c.write("app/src.json", `{"docker_name":"x"}`)
	c.write("_config/app/etc/app.conf", "x=1")
	c.write(sig.SequencePath, `{"sequence":3}`)
	c.pvr("init")
	c.pvr("add", ".")
	c.pvr("commit")
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	keyFile = filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return c, keyFile
}

// The real pvr signs with the command in docs/trails.md, and a device with the key accepts the
// state.
func TestRealPVRSigns(t *testing.T) {
	t.Parallel()
	if os.Getenv("GANGWAY_PVR") == "" {
		t.Skip("GANGWAY_PVR does not name a pvr program: this test needs the real client")
	}
	key := sigtest.NewKey(t)
	c, keyFile := newCheckout(t, key)
	c.pvr("sig", "--key", keyFile, "--x5c", "no", "add", "--raw", "owner", "--include", "**", "--exclude", "_sigs/owner.json")
	c.pvr("add", ".")
	c.pvr("commit")
	whole := c.state()
	checkPVRState(t, whole, sigtest.Keys(t, key))

	part, keyFile := newCheckout(t, key)
	part.pvr("sig", "--key", keyFile, "--x5c", "no", "add", "--part", "app")
	part.pvr("add", ".")
	part.pvr("commit")
	signed, err := verifyText(t, part.state(), sigtest.Keys(t, key))
	wantRefusal(t, signed, err, sig.CodePart)
	if *update {
		for path, b := range map[string][]byte{recordedState: whole, recordedPart: part.state(), recordedKeys: sigtest.Keys(t, key).PEM()} {
			if err := os.WriteFile(path, b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// checkPVRState checks that Verify accepts a state that pvr signed, and refuses the state after a
// change.
func checkPVRState(t *testing.T, state []byte, keys *sig.Keys) {
	t.Helper()
	signed, err := verifyText(t, state, keys)
	if err != nil {
		t.Fatal(err)
	}
	if names := strings.Join(signed.State.Names(), " "); signed.Sequence != 3 || names != "#spec _config/app/etc/app.conf app/root.squashfs app/run.json app/src.json gangway/revision.json" {
		t.Errorf("sequence %d, names %q", signed.Sequence, names)
	}
	for _, name := range []string{"app/root.squashfs", "app/src.json", "_config/app/etc/app.conf"} {
		var members map[string]any
		if err := json.Unmarshal(state, &members); err != nil {
			t.Fatal(err)
		}
		delete(members, name)
		text, err := json.Marshal(members)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := verifyText(t, text, keys)
		wantRefusal(t, signed, err, sig.CodeSignature)
	}
}

// Verify accepts recorded states that the real pvr signed, so this test runs without pvr.
func TestStatesThatPVRSigned(t *testing.T) {
	t.Parallel()
	read := func(path string) []byte {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	keys, err := sig.ParseKeys(read(recordedKeys))
	if err != nil {
		t.Fatal(err)
	}
	checkPVRState(t, read(recordedState), keys)
	// pvr's usual signature of one part does not cover the whole state.
	signed, err := verifyText(t, read(recordedPart), keys)
	wantRefusal(t, signed, err, sig.CodePart)
}

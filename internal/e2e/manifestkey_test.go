package e2e_test

import (
	"crypto"
	"os"
	"strings"
	"testing"
	"time"

	"gangway/device/install/approval"
	"gangway/hub/pki/cakey"
	"gangway/wire/manifest"
)

// With the real gangway-signer, an owner's key can stay in an HSM. This key signs reference
// manifests, and approves systems for encrypted disks.
func TestManifestKeyInAnHSM(t *testing.T) {
	if os.Getenv("GANGWAY_HSM") == "" {
		t.Skip("compiling gangway-signer takes 20 s of CPU time: run make hsm")
	}
	s := newSignerProgram(t)
	s.run(append([]string{"create-key", "manifest"}, s.token.Flags()...)...)
	s.serve("manifest")
	u, err := cakey.Parse("signer:" + s.socket + "?key=manifest")
	if err != nil {
		t.Fatal(err)
	}
	public, err := u.Public(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	key, err := cakey.Open(u, public)
	if err != nil {
		t.Fatal(err)
	}
	value := make([]byte, 32)
	a, err := approval.Sign(key, value)
	if err != nil {
		t.Fatal(err)
	}
	if !a.By(public, value) || a.By(public, append(value[:31:31], 1)) {
		t.Error("the approval is not for exactly this system")
	}
	program := manifest.Program{SHA256: strings.Repeat("ab", 32), Authenticode: map[string]string{"SHA-256": strings.Repeat("cd", 32)}}
	pcr11 := map[string]map[string]string{"SHA-256": {"": strings.Repeat("ef", 32)}}
	text, err := manifest.Sign(&manifest.Manifest{
		Format: manifest.Format, Name: "test", Made: time.Unix(1795964400, 0).UTC(), Sequence: 1,
		System: manifest.System{Program: program, Kernel: program, Cmdline: "quiet", PCR11: pcr11},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := manifest.Parse(text, []crypto.PublicKey{public}); err != nil {
		t.Error(err)
	}
}

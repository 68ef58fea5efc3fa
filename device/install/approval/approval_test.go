package approval

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gangway/internal/swtpm"
	"gangway/internal/swtpm/swtpmtest"
)

// systemdMeasure is the path of systemd-measure, which is not in a folder of the PATH variable.
const systemdMeasure = "/usr/lib/systemd/systemd-measure"

// pemFiles writes a private key and its public key to files.
func pemFiles(t *testing.T, key crypto.Signer) (private, public string) {
	t.Helper()
	dir := t.TempDir()
	private, public = filepath.Join(dir, "key.pem"), filepath.Join(dir, "key.pub")
	a, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	b, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{private: {Type: "PRIVATE KEY", Bytes: a}, public: {Type: "PUBLIC KEY", Bytes: b}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return private, public
}

// Sign makes the same approval as systemd-measure, byte for byte. This is possible because
// RSASSA-PKCS1-v1_5 signatures are deterministic.
func TestApprovalIsSystemdMeasures(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat(systemdMeasure); err != nil {
		t.Skipf("systemd-measure is missing: %v", err)
	}
	chip := swtpmtest.Start(t, swtpm.Options{EK: swtpm.None})
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	private, public := pemFiles(t, key)
	kernel := filepath.Join(t.TempDir(), "linux")
	if err := os.WriteFile(kernel, []byte("a kernel"), 0o600); err != nil {
		t.Fatal(err)
	}
	measure := func(verb string, args ...string) []byte {
		args = append([]string{verb, "--linux=" + kernel, "--bank=sha256", "--phase=", "--json=short"}, args...)
		out, err := exec.CommandContext(t.Context(), systemdMeasure, args...).Output()
		if err != nil {
			t.Fatalf("systemd-measure %s: %v", verb, err)
		}
		return out
	}
	var values map[string][]struct{ Hash string }
	if err := json.Unmarshal(measure("calculate"), &values); err != nil || len(values["sha256"]) != 1 {
		t.Fatal(values, err)
	}
	value, err := hex.DecodeString(values["sha256"][0].Hash)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := Parse(measure("sign", "--private-key="+private, "--public-key="+public, "--tpm2-device="+chip.TCTI()))
	if err != nil || len(theirs) != 1 {
		t.Fatal(theirs, err)
	}
	ours, err := Sign(key, value)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := theirs[0], ours; a.Key != b.Key || a.Policy != b.Policy || string(a.Signature) != string(b.Signature) || !slices.Equal(a.PCRs, b.PCRs) {
		t.Errorf("systemd-measure:\n%+v\nours:\n%+v", a, b)
	}
}

func TestFileOfApprovalsIsReadBack(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	one, err := Sign(key, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	text, err := Marshal([]Approval{one})
	if err != nil {
		t.Fatal(err)
	}
	back, err := Parse(append(text, 0, 0, 0)) // as in a section of a unified kernel image
	if err != nil || len(back) != 1 || back[0].Policy != one.Policy || string(back[0].Signature) != string(one.Signature) {
		t.Errorf("got %+v, %v", back, err)
	}
	if _, err := Parse([]byte(strings.Repeat(" ", MaxSize+1))); err == nil {
		t.Error("a file that is too large was accepted")
	}
}

func TestKeysThatNoTPMCanUseAreRefused(t *testing.T) {
	t.Parallel()
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []crypto.Signer{edwards, p384} {
		if _, err := Sign(key, make([]byte, 32)); err == nil {
			t.Errorf("%T was accepted", key)
		}
	}
}

func TestApprovalIsForOneSystemAndByOneKey(t *testing.T) {
	t.Parallel()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	system, other := make([]byte, 32), append(make([]byte, 31), 1)
	for _, key := range []crypto.Signer{rsaKey, p256} {
		a, err := Sign(key, system)
		if err != nil {
			t.Fatal(err)
		}
		if !a.By(key.Public(), system) {
			t.Errorf("%T: the approval is not accepted", key)
		}
		if a.By(key.Public(), other) {
			t.Errorf("%T: the approval counts for another system", key)
		}
		renamed, err := Sign(key, other)
		if err != nil {
			t.Fatal(err)
		}
		renamed.Policy = a.Policy
		if renamed.By(key.Public(), system) {
			t.Errorf("%T: a signature over another policy is accepted", key)
		}
	}
	a, err := Sign(rsaKey, system)
	if err != nil {
		t.Fatal(err)
	}
	if a.Key, err = Fingerprint(p256.Public()); err != nil || a.By(p256.Public(), system) {
		t.Errorf("another key's signature is accepted (%v)", err)
	}
}

package stick

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"gangway/device/console/access"
	"gangway/device/install/slots"
	"gangway/image/authenticode"
	"gangway/internal/race"
)

// The function `keys` makes a key and its certificate with OpenSSL.
func keys(t testing.TB, name string) (key, cert string) {
	t.Helper()
	if m := authenticode.Missing(); m != "" {
		t.Skip(m)
	}
	dir := t.TempDir()
	key, cert = filepath.Join(dir, "db.key"), filepath.Join(dir, "db.pem")
	out, err := exec.Command("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-subj", "/CN="+name+"/", "-days", "3650").CombinedOutput()
	if err != nil {
		t.Fatalf("openssl req: %v: %.300s", err, out)
	}
	return key, cert
}

func signer(t testing.TB, key, cert string) *authenticode.Signer {
	t.Helper()
	s, err := authenticode.New(key, cert)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Every program that firmware starts has a signature, on the stick and on the installed disk. Two
// signed builds give the same bytes.
func TestSignedImageIsSignedThroughout(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	p, cfg := parts(t), Config{Token: token(t)}
	unsigned := build(t, p, cfg)
	key, cert := keys(t, "owner")
	_, other := keys(t, "owner")
	p.Signer = signer(t, key, cert)
	one := build(t, p, cfg)
	// A second build takes 1 s, so short runs skip it; TestAlteredProgramIsNotSignedAnyMore signs
	// twice.
	if !testing.Short() && sum(t, one) != sum(t, build(t, p, cfg)) {
		t.Error("two signed builds differ")
	}
	c, err := Inspect(one, cert)
	if err != nil || !c.Signed {
		t.Fatalf("inspect: %+v, %v", c, err)
	}
	if _, err := Inspect(one, other); !errors.Is(err, authenticode.ErrSignature) {
		t.Errorf("another's certificate of the same name: %v", err)
	}
	if c, err := Inspect(unsigned, ""); err != nil || c.Signed {
		t.Errorf("unsigned: %+v, %v", c, err)
	}
	if _, err := Inspect(unsigned, cert); !errors.Is(err, authenticode.ErrSignature) {
		t.Errorf("unsigned: %v", err)
	}
}

// System signs an update if there is a Signer, and machines accept the signed update.
func TestSignedSystemIsASystem(t *testing.T) {
	t.Parallel()
	p := parts(t)
	key, cert := keys(t, "owner")
	p.Signer = signer(t, key, cert)
	b, err := System(p, nil, access.Full)
	if err != nil {
		t.Fatal(err)
	}
	if err := authenticode.Verify(b, cert); err != nil {
		t.Error(err)
	}
	if err := slots.Check(bytes.NewReader(b), int64(len(b))); err != nil {
		t.Error(err)
	}
}

// Verify refuses a signed program after any one bit of it changed.
func TestAlteredProgramIsNotSignedAnyMore(t *testing.T) {
	t.Parallel()
	p := parts(t)
	key, cert := keys(t, "owner")
	b, err := signer(t, key, cert).Sign(p.BootManager)
	if err != nil {
		t.Fatal(err)
	}
	again, err := signer(t, key, cert).Sign(b)
	if err != nil || !bytes.Equal(b, again) {
		t.Errorf("signing a signed program again gives other bytes: %v", err)
	}
	for _, at := range []int{0x200, len(p.BootManager) / 2, len(p.BootManager) - 1} {
		bad := bytes.Clone(b)
		bad[at] ^= 1
		if err := authenticode.Verify(bad, cert); !errors.Is(err, authenticode.ErrSignature) {
			t.Errorf("with byte %#x changed: %v; want ErrSignature", at, err)
		}
	}
}

func TestKeyThatDoesNotFitTheCertificateIsRefused(t *testing.T) {
	t.Parallel()
	p := parts(t)
	key, _ := keys(t, "one")
	_, cert := keys(t, "another")
	if _, err := signer(t, key, cert).Sign(p.BootManager); err == nil {
		t.Error("signing succeeds")
	}
	if _, err := authenticode.New(cert+"x", cert); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if _, err := authenticode.New(key, key); err == nil {
		t.Error("a key is accepted as a certificate")
	}
}

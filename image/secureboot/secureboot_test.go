package secureboot

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/smallstep/pkcs7"
)

var may3 = time.Date(2026, 5, 3, 12, 0, 0, 0, time.UTC)

func newSet(t testing.TB, also ...*x509.Certificate) (dir string, s *Set) {
	t.Helper()
	dir = t.TempDir()
	if err := New(dir, "Example Ltd", also, may3); err != nil {
		t.Fatal(err)
	}
	s, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir, s
}

func certificate(t testing.TB, dir string, v Variable) *x509.Certificate {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, string(v)+".pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// New must make one key for each variable, with mode 0600, and must not replace existing keys.
func TestKeysAreMadeOnce(t *testing.T) {
	t.Parallel()
	_, other := newSet(t)
	dir, s := newSet(t, other.Certificates[DB]...)
	for v, n := range map[Variable]int{PK: 1, KEK: 1, DB: 2} {
		if len(s.Certificates[v]) != n || !s.Certificates[v][0].Equal(certificate(t, dir, v)) {
			t.Errorf("%s holds %d certificates", v, len(s.Certificates[v]))
		}
		if info, err := os.Stat(filepath.Join(dir, string(v)+".key")); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s.key: %v, %v", v, info.Mode(), err)
		}
	}
	if !s.Trusts(certificate(t, dir, DB)) || !s.Trusts(other.Certificates[DB][0]) || s.Trusts(certificate(t, dir, KEK)) {
		t.Error("Trusts does not match the certificates of db")
	}
	if err := New(dir, "another", nil, may3); err == nil {
		t.Error("New overwrites existing keys")
	}
}

// OpenSSL must accept the signatures of the variables, because most firmware (EDK II) verifies them
// with OpenSSL's code.
func TestOpenSSLAcceptsTheVariables(t *testing.T) {
	t.Parallel()
	dir, s := newSet(t)
	for v, by := range map[Variable]Variable{PK: PK, KEK: PK, DB: KEK} {
		stamp, signed, content, err := split(s.Signed[v])
		if err != nil {
			t.Fatal(err)
		}
		// Firmware expects the OID of SHA-256 at exactly this offset of a SignedData without
		// ContentInfo (EDK II, AuthService.c).
		if want := []byte{0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01}; !bytes.Equal(signed[13:13+len(want)], want) {
			t.Errorf("%s: SHA-256 is not at offset 13 of % x", v, signed[:24])
		}
		der, err := asn1.Marshal(contentInfo{pkcs7.OIDSignedData, asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true, Bytes: signed}})
		if err != nil {
			t.Fatal(err)
		}
		sig, text := filepath.Join(t.TempDir(), "sig"), filepath.Join(t.TempDir(), "text")
		if err := errors.Join(os.WriteFile(sig, der, 0o600), os.WriteFile(text, v.signedText(stamp, content), 0o600)); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("openssl", "smime", "-verify", "-inform", "DER", "-in", sig, "-content", text, "-binary", "-purpose", "any",
			"-CAfile", filepath.Join(dir, string(by)+".pem"), "-out", os.DevNull).CombinedOutput()
		if err != nil {
			t.Errorf("%s: openssl smime: %v: %.300s", v, err, out)
		}
	}
}

// parse must refuse a signed variable if bytes were removed, added or changed, or if another key
// signed it. Changing some bytes of the signature structure has no effect, but must never make
// parse return other certificates.
func TestAlteredVariableIsRefused(t *testing.T) {
	t.Parallel()
	dir, s := newSet(t)
	kek := certificate(t, dir, KEK)
	good := s.Signed[DB]
	if _, err := parse(DB, good, kek); err != nil {
		t.Fatal(err)
	}
	refused := func(what string, v Variable, b []byte, by ...*x509.Certificate) {
		t.Helper()
		if _, err := parse(v, b, by...); !errors.Is(err, ErrVariable) {
			t.Errorf("%s: got %v; want ErrVariable", what, err)
		}
	}
	_, signed, content, err := split(good)
	if err != nil {
		t.Fatal(err)
	}
	for at := range good {
		if at >= timeSize+certHead && at < timeSize+certHead+len(signed) {
			continue // tested below, because changes of some of these bytes have no effect
		}
		bad := bytes.Clone(good)
		bad[at] ^= 1
		refused("altered", DB, bad, kek)
	}
	for at := range signed {
		bad := bytes.Clone(good)
		bad[timeSize+certHead+at] ^= 1
		if certs, err := parse(DB, bad, kek); err == nil && !certs[0].Equal(certificate(t, dir, DB)) {
			t.Errorf("with byte %d of the signature changed, another certificate is accepted", at)
		}
	}
	for n := range good {
		refused("cut", DB, good[:n], kek)
	}
	refused("added", DB, append(bytes.Clone(good), content...), kek)
	refused("as KEK", KEK, good, kek)
	_, other := newSet(t)
	refused("another's", DB, good, other.Certificates[KEK]...)
	refused("nobody's", DB, good)
	refused("too large", DB, make([]byte, maxVariable+1), kek)
	for name, mixed := range map[string]map[Variable][]byte{
		"another's db":  {PK: s.Signed[PK], KEK: s.Signed[KEK], DB: other.Signed[DB]},
		"another's KEK": {PK: s.Signed[PK], KEK: other.Signed[KEK], DB: other.Signed[DB]},
		"another's PK":  {PK: other.Signed[PK], KEK: s.Signed[KEK], DB: s.Signed[DB]},
		"no db":         {PK: s.Signed[PK], KEK: s.Signed[KEK]},
		"KEK as PK":     {PK: s.Signed[KEK], KEK: s.Signed[KEK], DB: s.Signed[DB]},
	} {
		if _, err := NewSet(mixed); !errors.Is(err, ErrVariable) {
			t.Errorf("%s: got %v; want ErrVariable", name, err)
		}
	}
}

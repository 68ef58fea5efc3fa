package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	testDevice = "0123456789abcdef01234567"
	testOwner  = "prn:::accounts:/aaaaaaaaaaaaaaaaaaaaaaaa"
)

var testNow = time.Date(2026, 11, 23, 12, 34, 56, 789, time.UTC)

// openNew makes the authorities of a new hub in a temporary folder.
func openNew(t testing.TB, o Options) *Hub {
	t.Helper()
	if o.Now.IsZero() {
		o.Now = testNow
	}
	h, err := Open(filepath.Join(t.TempDir(), "pki"), o)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func generate(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// rsaPublic returns an RSA public key with a random modulus of the size `bits`. Nobody knows its
// private key, which is not needed to certify the public key.
func rsaPublic(t testing.TB, bits int) *rsa.PublicKey {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), uint(bits)))
	if err != nil {
		t.Fatal(err)
	}
	return &rsa.PublicKey{N: n.SetBit(n.SetBit(n, bits-1, 1), 0, 1), E: 65537}
}

// subjectKeys returns one key of each kind that a TPM may have.
func subjectKeys(t testing.TB) map[string]crypto.PublicKey {
	return map[string]crypto.PublicKey{
		"P-256":    generate(t, elliptic.P256()).Public(),
		"P-384":    generate(t, elliptic.P384()).Public(),
		"P-521":    generate(t, elliptic.P521()).Public(),
		"RSA 2048": rsaPublic(t, 2048),
		"RSA 3072": rsaPublic(t, 3072),
		"RSA 4096": rsaPublic(t, 4096),
	}
}

func akName(alg byte, size int) []byte {
	return append([]byte{0, alg}, bytes.Repeat([]byte{0xA5}, size)...)
}

func iakRequest(pub crypto.PublicKey) IAKRequest {
	return IAKRequest{PublicKey: pub, DeviceID: testDevice, AKName: akName(0x0B, 32), HWSerial: []byte("INTC:00112233"),
		NotBefore: testNow, URI: "https://hub.example:8443/aca/certs/000b.crt", Resident: true}
}

func idevidRequest(pub crypto.PublicKey) IDevIDRequest {
	return IDevIDRequest{PublicKey: pub, DeviceID: testDevice, AKName: akName(0x0B, 32), HWSerial: []byte("INTC:00112233"),
		NotBefore: testNow, OwnerPRN: testOwner, TokenID: "bbbbbbbbbbbbbbbbbbbbbbbb", DevicePRN: "prn:::devices:/" + testDevice, Resident: true}
}

func mustIAK(t testing.TB, h *Hub, pub crypto.PublicKey) *x509.Certificate {
	t.Helper()
	der, err := h.IssueIAK(iakRequest(pub))
	return parse(t, der, err)
}

func mustIDevID(t testing.TB, h *Hub, pub crypto.PublicKey) *x509.Certificate {
	t.Helper()
	der, err := h.IssueIDevID(idevidRequest(pub))
	return parse(t, der, err)
}

func parse(t testing.TB, der []byte, err error) *x509.Certificate {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func pool(certs ...*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c)
	}
	return p
}

// opensslVerify verifies a chain with OpenSSL, and returns OpenSSL's output.
func opensslVerify(t testing.TB, root, ca, leaf *x509.Certificate, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed")
	}
	dir := t.TempDir()
	path := func(name string, c *x509.Certificate) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	args = append([]string{"verify", "-x509_strict", "-check_ss_sig", "-no-CApath", "-no-CAstore", "-CAfile", path("root.pem", root)}, args...)
	if ca != nil {
		args = append(args, "-untrusted", path("ca.pem", ca))
	}
	out, err := exec.Command("openssl", append(args, path("leaf.pem", leaf))...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

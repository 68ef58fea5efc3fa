package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"
)

// forge makes a certificate that the hub did not issue.
func forge(t *testing.T, subject string, ca bool, parent *x509.Certificate, key *ecdsa.PrivateKey, pub crypto.PublicKey) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: subject},
		NotBefore: testNow.Add(-time.Hour), NotAfter: endOfTime, IsCA: ca, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, key)
	return parse(t, der, err)
}

func selfSigned(t *testing.T, key *ecdsa.PrivateKey) *x509.Certificate {
	return forge(t, testDevice, true, nil, key, key.Public())
}

func issuedBy(t *testing.T, parent *x509.Certificate, key *ecdsa.PrivateKey, pub crypto.PublicKey) *x509.Certificate {
	return forge(t, testDevice, false, parent, key, pub)
}

// asClient verifies the certificate `c` as the hub's TLS server verifies a client certificate,
// which is to trust only the CAs in `h.ClientCAs`.
func asClient(h *Hub, c *x509.Certificate, others ...*x509.Certificate) error {
	_, err := c.Verify(x509.VerifyOptions{Roots: h.ClientCAs(), Intermediates: pool(others...), CurrentTime: testNow, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}

func TestIDevIDCertificateIsATLSClient(t *testing.T) {
	t.Parallel()
	h := openNew(t, Options{})
	if err := asClient(h, mustIDevID(t, h, generate(t, elliptic.P256()).Public())); err != nil {
		t.Fatal(err) // if an honest certificate failed here, the refusals in the other tests would prove nothing
	}
}

func TestIAKCertificateIsNoTLSClient(t *testing.T) {
	t.Parallel()
	h := openNew(t, Options{})
	c := mustIAK(t, h, generate(t, elliptic.P256()).Public())
	if asClient(h, c, h.ACA(), h.Root()) == nil {
		t.Error("an IAK chains to the client CAs")
	}
	// The extended key usage is a second line of defence. Even a server that trusts the hub's root
	// for TLS clients refuses the IAK certificate, because this certificate has no usage for TLS
	// clients.
	_, err := c.Verify(x509.VerifyOptions{Roots: pool(h.Root()), Intermediates: pool(h.ACA()), CurrentTime: testNow, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err == nil {
		t.Error("an IAK's purpose includes TLS client authentication")
	}
	if out, err := opensslVerify(t, h.Root(), h.ACA(), mustIAKNow(t, h, c.PublicKey), "-purpose", "sslclient"); err == nil {
		t.Errorf("openssl: %s", out)
	}
}

func TestIDevIDCertificateIsNoTLSServer(t *testing.T) {
	t.Parallel()
	h := openNew(t, Options{})
	c := mustIDevID(t, h, generate(t, elliptic.P256()).Public())
	_, err := c.Verify(x509.VerifyOptions{Roots: pool(h.Root()), Intermediates: pool(h.DeviceCA()), CurrentTime: testNow, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	if err == nil {
		t.Error("a device could pass for the hub")
	}
}

func TestSelfSignedIsRefused(t *testing.T) {
	t.Parallel()
	h := openNew(t, Options{})
	key := generate(t, elliptic.P256())
	if asClient(h, selfSigned(t, key)) == nil {
		t.Error("a self-signed certificate chains to the client CAs")
	}
	// The CA `fake` has the device CA's name and key identifier, but the attacker's key.
	fake := *h.DeviceCA()
	fake.PublicKey = key.Public()
	if asClient(h, issuedBy(t, &fake, key, key.Public())) == nil {
		t.Error("a certificate with only the issuer's name is accepted")
	}
}

func TestLeafCannotIssue(t *testing.T) {
	t.Parallel()
	h := openNew(t, Options{})
	key, victim := generate(t, elliptic.P256()), generate(t, elliptic.P256()).Public()
	for name, c := range map[string]struct{ leaf, ca *x509.Certificate }{
		"IDevID": {mustIDevIDNow(t, h, key.Public()), h.DeviceCA()},
		"IAK":    {mustIAKNow(t, h, key.Public()), h.ACA()},
	} {
		t.Run(name, func(t *testing.T) {
			child := issuedBy(t, c.leaf, key, victim)
			if asClient(h, child, c.leaf, c.ca, h.Root()) == nil {
				t.Error("crypto/x509 accepts a certificate that a device issued")
			}
			if child.CheckSignatureFrom(c.leaf) == nil {
				t.Error("the leaf passes for a CA")
			}
		})
	}
}

// The device CA's path length is 0, so if it issued another CA, a chain through this CA would not
// verify.
func TestNoAuthorityBelowTheDeviceCA(t *testing.T) {
	t.Parallel()
	h := openNew(t, Options{})
	key := generate(t, elliptic.P256())
	middle := forge(t, "Rogue CA", true, h.DeviceCA(), h.device.key.(*ecdsa.PrivateKey), key.Public())
	if asClient(h, issuedBy(t, middle, key, key.Public()), middle) == nil {
		t.Error("a chain longer than the device CA's path length verifies")
	}
}

// If an attacker puts DER, or the text of another field, into a text field of a certificate
// request, the text stays the value of its own field, and adds no extension.
func TestTextCannotLeaveItsField(t *testing.T) {
	t.Parallel()
	h := openNew(t, Options{})
	r := idevidRequest(generate(t, elliptic.P256()).Public())
	r.OwnerPRN = `0~ 1.3.6.1.4.1.54621.100.9=prn:::devices:/other,CN=root`
	r.HWSerial = extension(oidPantacorOwner, false, []byte("prn:::accounts:/attacker"))
	der, err := h.IssueIDevID(r)
	c := parse(t, der, err)
	checkSameAsX509(t, c, idevidTemplate(t, r), h.device, r.PublicKey)
	owners := 0
	for _, e := range c.Extensions {
		if e.Id.Equal(oidPantacorOwner) {
			owners++
			if !bytes.Equal(e.Value, []byte(r.OwnerPRN)) {
				t.Errorf("the owner is %q", e.Value)
			}
		}
	}
	if owners != 1 {
		t.Errorf("%d owners", owners)
	}
}

func TestOneBitOffIsRefused(t *testing.T) {
	t.Parallel()
	h := openNew(t, Options{})
	c := mustIDevID(t, h, generate(t, elliptic.P256()).Public())
	for i := range c.Raw {
		der := bytes.Clone(c.Raw)
		der[i] ^= 1
		changed, err := x509.ParseCertificate(der)
		if err == nil && asClient(h, changed) == nil {
			t.Fatalf("byte %d of %d may be changed", i, len(der))
		}
	}
}

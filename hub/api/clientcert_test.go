package api

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"slices"
	"testing"
	"time"

	"gangway/internal/fleet"
)

// authority is a CA for tests.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newAuthority makes a CA that `parent` signs. If `parent` is nil, the CA is a root.
func newAuthority(t testing.TB, name string, parent *authority) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, SubjectKeyId: []byte(name), IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	issuer, signer := template, key
	if parent != nil {
		issuer, signer = parent.cert, parent.key
	}
	cert, err := fleet.Issue(template, issuer, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t, cert, key}
}

// leaf issues a certificate for client authentication.
func (a *authority) leaf(public crypto.PublicKey) *x509.Certificate {
	a.t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "leaf"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	cert, err := fleet.Issue(template, a.cert, public, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert
}

// Old versions of the agent send the root too. If crypto/x509 got this copy of the root as an
// intermediate, it would verify the leaf twice: with the trusted root and with the copy. The hub's
// verifier must not give the copy to crypto/x509.
func TestRootInTheChainIsVerifiedOnce(t *testing.T) {
	t.Parallel()
	root, proxy := newAuthority(t, "devices", nil), newAuthority(t, "proxies", nil)
	leaf := root.leaf(proxy.key.Public())
	for _, v := range []*clientVerifier{newClientVerifier(false, root.cert), newClientVerifier(true, root.cert, proxy.cert)} {
		for _, certs := range [][]*x509.Certificate{{leaf}, {leaf, root.cert}, {leaf, root.cert, root.cert, root.cert}} {
			if links := v.links(certs[1:]); links != nil {
				t.Errorf("%d certificates: roots are used as intermediates", len(certs))
			}
			chains, err := v.verify(x509.VerifyOptions{}, certs...)
			if err != nil || len(chains) != 1 || len(chains[0]) != 2 || !chains[0][1].Equal(root.cert) {
				t.Errorf("%d certificates: %d chains, %v", len(certs), len(chains), err)
			}
		}
	}
}

// The verifier accepts intermediates between a proxy's CA and the proxy's certificate, but no other
// intermediates.
func TestForgedIntermediatesAreNeverVerified(t *testing.T) {
	t.Parallel()
	root, proxy := newAuthority(t, "devices", nil), newAuthority(t, "proxies", nil)
	below := newAuthority(t, "below", proxy)
	forger := newAuthority(t, "devices", nil) // has the name and the key identifier of the real root
	withProxy, devices := newClientVerifier(true, root.cert, proxy.cert), newClientVerifier(false, root.cert)
	good, forged := below.leaf(root.key.Public()), forger.leaf(root.key.Public())
	deep := newAuthority(t, "deep", below)
	for _, certs := range [][]*x509.Certificate{
		{good, below.cert}, {good, below.cert, proxy.cert}, {good, forger.cert, below.cert},
		{deep.leaf(root.key.Public()), deep.cert, below.cert},
	} {
		if chains, err := withProxy.verify(x509.VerifyOptions{}, certs...); err != nil || len(chains) != 1 {
			t.Errorf("a proxy below an intermediate: %d chains, %v", len(chains), err)
		}
	}
	for _, c := range []*x509.Certificate{forger.cert, newAuthority(t, "devices", forger).cert} {
		if withProxy.links([]*x509.Certificate{c, c, c}) != nil {
			t.Error("a forged CA is used as an intermediate")
		}
	}
	crossed := newAuthority(t, "devices", forger)
	many := slices.Repeat([]*x509.Certificate{crossed.cert}, maxClientCerts-1)
	for _, tc := range []struct {
		name  string
		v     *clientVerifier
		certs []*x509.Certificate
	}{
		{"an intermediate without a proxy", devices, []*x509.Certificate{good, below.cert}},
		{"a forged CA", devices, []*x509.Certificate{forged, forger.cert}},
		{"a forged CA, and a proxy", withProxy, []*x509.Certificate{forged, forger.cert}},
		{"a forged CA, and the real one", withProxy, []*x509.Certificate{forged, root.cert, forger.cert}},
		{"many forged CAs", withProxy, append([]*x509.Certificate{forged}, many...)},
		{"a good leaf behind a forged one", withProxy, []*x509.Certificate{forged, good, below.cert}},
	} {
		if chains, err := tc.v.verify(x509.VerifyOptions{}, tc.certs...); err == nil {
			t.Errorf("%s: accepted with %d chains", tc.name, len(chains))
		}
	}
}

// The hub refuses a certificate that has expired, even if it has verified this certificate before.
// It also refuses a certificate that differs from a verified one in a single byte, and does not
// remember the certificates that it refused.
func TestVerifiedCertificateExpiresAllTheSame(t *testing.T) {
	t.Parallel()
	root, forger := newAuthority(t, "devices", nil), newAuthority(t, "devices", nil)
	v := newClientVerifier(false, root.cert)
	leaf, forged := root.leaf(forger.key.Public()), forger.leaf(forger.key.Public())
	now := time.Now()
	for range 3 {
		if chains, err := v.verify(x509.VerifyOptions{CurrentTime: now}, leaf); err != nil || len(chains) != 1 || !chains[0][0].Equal(leaf) || !chains[0][1].Equal(root.cert) {
			t.Fatalf("%d chains, %v", len(chains), err)
		}
		if _, err := v.verify(x509.VerifyOptions{CurrentTime: now}, forged); err == nil {
			t.Fatal("a forged certificate is accepted")
		}
		for _, at := range []time.Time{leaf.NotAfter.Add(time.Second), leaf.NotBefore.Add(-time.Second)} {
			if _, err := v.verify(x509.VerifyOptions{CurrentTime: at}, leaf); err == nil {
				t.Errorf("accepted at %s", at)
			}
		}
	}
	if n := len(v.issuers.young); n != 1 {
		t.Errorf("%d certificates are remembered", n)
	}
	for i := range leaf.Raw {
		changed := slices.Clone(leaf.Raw)
		changed[i] ^= 1
		c, err := x509.ParseCertificate(changed)
		if err != nil {
			continue
		}
		if _, err := v.verify(x509.VerifyOptions{CurrentTime: now}, c); err == nil {
			t.Errorf("accepted with byte %d changed", i)
		}
	}
}

// The hub does not verify its own signature on a certificate that it has just signed. All other
// checks of the certificate stay, and another certificate with the same names is still refused.
func TestRejectsForgedCertificateOfADeviceThatJustEnrolled(t *testing.T) {
	t.Parallel()
	root, forger := newAuthority(t, "devices", nil), newAuthority(t, "devices", nil)
	leaf, forged := root.leaf(forger.key.Public()), forger.leaf(forger.key.Public())
	v := newClientVerifier(false, root.cert)
	v.issuers.put(sha256.Sum256(leaf.Raw), root.cert)
	now := time.Now()
	if chains, err := v.verify(x509.VerifyOptions{CurrentTime: now}, leaf); err != nil || len(chains) != 1 || !chains[0][1].Equal(root.cert) {
		t.Errorf("the hub's own certificate: %d chains, %v", len(chains), err)
	}
	if _, err := v.verify(x509.VerifyOptions{CurrentTime: leaf.NotAfter.Add(time.Second)}, leaf); err == nil {
		t.Error("the hub's own certificate is accepted after its expiry")
	}
	if _, err := v.verify(x509.VerifyOptions{CurrentTime: now}, forged, leaf); err == nil {
		t.Error("a forged certificate is accepted")
	}
}

// With forged certificates, a handshake must not cost much more than with a good certificate.
// Without a proxy, the hub verifies only one signature, whatever certificates the client sends.
func BenchmarkVerifyClient(b *testing.B) {
	root, proxy := newAuthority(b, "devices", nil), newAuthority(b, "proxies", nil)
	forger := newAuthority(b, "devices", nil)
	leaf, forged := root.leaf(proxy.key.Public()), forger.leaf(root.key.Public())
	chain := []*x509.Certificate{forged, forger.cert}
	for range maxClientCerts - 2 {
		forger = newAuthority(b, "devices", forger)
		chain = append(chain, forger.cert)
	}
	devices, withProxy := newClientVerifier(false, root.cert), newClientVerifier(true, root.cert, proxy.cert)
	for _, bm := range []struct {
		name  string
		v     *clientVerifier
		certs []*x509.Certificate
	}{
		{"leaf", devices, []*x509.Certificate{leaf}},
		{"leaf and root", devices, []*x509.Certificate{leaf, root.cert}},
		{"forged chain", devices, chain},
		{"leaf and root, with proxy", withProxy, []*x509.Certificate{leaf, root.cert}},
		{"forged chain, with proxy", withProxy, chain},
	} {
		b.Run(bm.name, func(b *testing.B) {
			for b.Loop() {
				bm.v.issuers = recent[*x509.Certificate]{}
				bm.v.verify(x509.VerifyOptions{}, bm.certs...)
			}
		})
	}
}

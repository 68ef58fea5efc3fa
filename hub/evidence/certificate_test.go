package evidence_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"testing"
	"time"

	"gangway/hub/evidence"
	"gangway/internal/fleet"
	"gangway/tcg"
)

// If no EK template makes the key of a certificate, VerifyCertificate refuses the certificate, with
// the same code as for a request with that key.
func TestCertificateOfAKeyThatNoTemplateMakesIsRefused(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	weak := must(rsa.GenerateKey(rand.Reader, 1024))(t)
	odd := must(rsa.GenerateKey(rand.Reader, 2048))(t).PublicKey
	odd.E = 3
	bits := must(rsa.GenerateKey(rand.Reader, 2056))(t)
	for name, c := range map[string]struct {
		key  crypto.PublicKey
		code string
	}{
		"RSA 1024":   {&weak.PublicKey, "ek-template"},
		"RSA 2056":   {&bits.PublicKey, "ek-template"},
		"exponent 3": {&odd, "ek-template"},
		"P-224":      {&must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))(t).PublicKey, "ek-template"},
		"P-256":      {&must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t).PublicKey, ""},
		"P-384":      {&must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))(t).PublicKey, ""},
		"P-521":      {&must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))(t).PublicKey, ""},
	} {
		template := must(fleet.EKTemplate(c.key))(t)
		e := must(tcg.ParseEKCertificate(must(s.maker.Sign(template, c.key))(t).Raw))(t)
		v := new(evidence.Verdict)
		evidence.VerifyCertificate(v, e, nil, &evidence.Input{Trust: s.trust, Policy: lab(), Now: time.Now()})
		if c.code == "" != v.Accepted() || c.code != "" && v.Refusal.Code != c.code {
			t.Errorf("%s: %+v", name, v.Refusal)
		}
	}
}

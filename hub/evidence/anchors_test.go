package evidence_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"math/big"
	"strings"
	"testing"
	"time"

	"gangway/hub/evidence"
	"gangway/internal/fleet"
	"gangway/tcg"
)

// A chain with a distrusted intermediate is refused, whether the intermediate comes from the hub or
// from the device.
func TestDistrustedLinkIsInNoChain(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	other := must(fleet.NewMaker("other", fleet.MakerOptions{}))(t)
	s.trust = must(evidence.NewTrustOf(evidence.Anchors{
		Roots:      []*x509.Certificate{s.maker.Root, other.Root},
		Distrusted: s.maker.Intermediates(),
	}))(t)
	s.refused(t, s.request(t, s.victim, fleet.RequestChange{}), "ek-chain-distrusted")
	s.victim.Chain = [][]byte{s.maker.Intermediate.Raw}
	s.refused(t, s.request(t, s.victim, fleet.RequestChange{}), "ek-chain-distrusted")
	s.victim.Chain = [][]byte{s.maker.Intermediate.Raw, s.maker.Root.Raw}
	s.refused(t, s.request(t, s.victim, fleet.RequestChange{}), "ek-chain-distrusted")
	// A device of another maker is still accepted.
	d := must(fleet.New(other, "H-2"))(t)
	d.Chain = [][]byte{other.Intermediate.Raw}
	if v := s.judge(s.request(t, d, fleet.RequestChange{})); !v.Accepted() {
		t.Error(v.Refusal.Reason)
	}
}

// The key of a distrusted root is also distrusted in a second certificate, even if a trusted maker
// signed that certificate. A chain with the second certificate is accepted only if the operator
// trusts this certificate itself.
func TestDistrustedKeyIsInNoChainUnderAnotherCertificate(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: s.maker.Root.Subject, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	template.Subject.CommonName = "the one that signs across"
	across := must(fleet.Issue(template, template, key.Public(), key))(t)
	template = &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: s.maker.Root.Subject, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	again := must(fleet.Issue(template, across, s.maker.Root.PublicKey, key))(t)
	s.victim.Chain = [][]byte{s.maker.Intermediate.Raw, again.Raw}

	anchors := evidence.Anchors{Roots: []*x509.Certificate{across}}
	s.trust = must(evidence.NewTrustOf(anchors))(t)
	if v := s.judge(s.request(t, s.victim, fleet.RequestChange{})); !v.Accepted() {
		t.Fatal("the chain itself is not valid:", v.Refusal.Reason)
	}
	anchors.Distrusted = s.maker.Roots()
	s.trust = must(evidence.NewTrustOf(anchors))(t)
	s.refused(t, s.request(t, s.victim, fleet.RequestChange{}), "ek-chain-distrusted")
	anchors.Intermediates = []*x509.Certificate{again}
	s.trust = must(evidence.NewTrustOf(anchors))(t)
	if v := s.judge(s.request(t, s.victim, fleet.RequestChange{})); !v.Accepted() {
		t.Error("refused although the operator trusts the other certificate:", v.Refusal.Reason)
	}
}

func TestVerdictSaysWhereTheRootIsFrom(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.trust = must(evidence.NewTrustOf(evidence.Anchors{
		Roots: s.maker.Roots(), Intermediates: s.maker.Intermediates(),
		Origins: map[[32]byte]string{sha256.Sum256(s.maker.Root.Raw): "import of makers.pem"},
	}))(t)
	for range 2 { // the first result is verified, the second one cached
		v := new(evidence.Verdict)
		ek := must(tcg.ParseEKCertificate(s.victim.EKCert))(t)
		evidence.VerifyCertificate(v, ek, nil, &evidence.Input{Trust: s.trust, Policy: lab(), Now: time.Now()})
		if !v.Accepted() || len(v.Checks) != 2 || v.Checks[0].Check != "ek-certificate" || v.Checks[1].Check != "ek-chain" {
			t.Fatalf("%+v", v)
		}
		if !strings.HasSuffix(v.Checks[1].Detail, "The root's source: import of makers.pem.") {
			t.Error(v.Checks[1].Detail)
		}
	}
}

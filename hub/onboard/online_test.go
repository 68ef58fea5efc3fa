package onboard_test

import (
	"context"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"gangway/hub/evidence"
	"gangway/hub/trust"
	"gangway/internal/fleet"
)

// web implements onboard.Online for tests: each test chooses its answers.
type web struct {
	links      []*x509.Certificate
	linkNotes  []string
	checksCRLs bool
	crlNotes   []string
	revoked    *evidence.Refusal
	asked      []string
	chain      int // number of certificates in the chain that Revocation was called with
}

func (w *web) Links(context.Context, *x509.Certificate) ([]*x509.Certificate, []string) {
	w.asked = append(w.asked, "links")
	return w.links, w.linkNotes
}

func (w *web) ChecksCRLs() bool { return w.checksCRLs }

func (w *web) Revocation(_ context.Context, _ *x509.Certificate, chain []*x509.Certificate) ([]string, *evidence.Refusal) {
	w.asked, w.chain = append(w.asked, "crl"), len(chain)
	return w.crlNotes, w.revoked
}

func (s *scene) verdict(d *fleet.Device) string {
	s.Helper()
	return string(s.store.byCertificate(s.enrolled(d, s.token).IDevIDHash()).Verdict)
}

// onlyRoot replaces the makers that the hub trusts by the maker's root alone, without its
// intermediate.
func (s *scene) onlyRoot() {
	s.hub.SetTrust(trust.NewSet(trust.FromX509("test", s.maker.Roots(), nil)...))
}

func TestMissingIntermediatesAreFetched(t *testing.T) {
	s := newScene(t)
	d := s.device()
	w := &web{links: s.maker.Intermediates(), linkNotes: []string{"fetched it"}}
	s.hub.Online = w
	s.must(s.enrol(d))
	equal(s, "lookups of a whole chain", len(w.asked), 0)
	s.onlyRoot()
	v := s.verdict(d)
	if !strings.Contains(v, "fetched it") || strings.Count(v, `"check":"ek-chain"`) != 1 || strings.Count(v, `"check":"ownership"`) != 1 {
		t.Errorf("the verdict is %.300s", v)
	}
	equal(s, "lookups", w.asked, []string{"links"})
	// If a lookup finds no intermediate, the question about the unknown maker stays open.
	w.links, w.asked = nil, nil
	s.waits(s.enrol(d), "ek-chain-untrusted")
	equal(s, "lookups", w.asked, []string{"links"})
}

func TestNothingIsFetchedWithoutACertificateOrForADistrustedOne(t *testing.T) {
	s := newScene(t)
	w := &web{checksCRLs: true}
	s.hub.Online = w
	s.waits(s.enrol(s.withoutCertificate()), noCertificate)
	equal(s, "lookups", len(w.asked), 0)
	say := trust.FromX509("test", s.maker.Roots(), s.maker.Intermediates())
	s.hub.SetTrust(trust.NewSet(say...))
	s.must(s.store.ChangeTrust(t.Context(), distrust(s.maker.Root)))
	s.refused(s.enrol(s.device()), "ek-chain-distrusted")
	equal(s, "lookups", len(w.asked), 0)
}

// When a stranger sends the first step of a two-step enrolment, the hub must not fetch the URLs
// that the stranger's certificate names.
func TestFirstStepFetchesNoIntermediates(t *testing.T) {
	s := newScene(t)
	s.onlyRoot()
	w := &web{links: s.maker.Intermediates(), checksCRLs: true}
	s.hub.Online = w
	d, token := s.device(), s.pantacors()
	e := s.first(d)
	equal(s, "lookups", len(w.asked), 0)
	if e.AK != nil {
		t.Error("the first step issued a certificate for a chain that it does not know")
	}
	_, err := s.second(d, token, e.Keys, fleet.RegistrationChange{})
	s.must(err)
	equal(s, "lookups", w.asked, []string{"links", "crl"})
}

// Without online lookups, the first step refuses a chain that lacks an intermediate. With lookups,
// it leaves this decision to the second step. A refusal for another reason is the same with and
// without lookups.
func TestFirstStepLeavesTheChainToTheSecond(t *testing.T) {
	s := newScene(t)
	s.onlyRoot()
	s.policy("", labRules+"unknown_maker: refuse\n")
	d := s.device()
	_, err := s.hub.FirstStep(t.Context(), encoded(d.EnrollRequest()), addr)
	s.refused(err, "ek-chain-untrusted")
	s.hub.Online = &web{}
	if e := s.first(d); e.AK != nil {
		t.Error("a certificate was issued")
	}
	s.policy("", labRules+"no_ek_certificate: refuse\n")
	_, err = s.hub.FirstStep(t.Context(), encoded(s.withoutCertificate().EnrollRequest()), addr)
	s.refused(err, noCertificate)
	// The hub cannot encrypt a credential to this EK, but it must refuse the device, not return an
	// internal error.
	s.policy("", labRules+"unknown_maker: refuse\n")
	odd := s.device()
	odd.EK.Public.SymmetricBits = 64
	odd.EK.Public.Raw = odd.EK.Public.Marshal()
	_, err = s.hub.FirstStep(t.Context(), encoded(odd.EnrollRequest()), addr)
	s.refused(err, "ek-chain-untrusted")
}

func TestFirstStepLeavesAnExpiredIntermediateToTheSecond(t *testing.T) {
	s := newScene(t)
	old, err := fleet.NewMaker("old", fleet.MakerOptions{IntermediateExpires: time.Now().Add(-time.Hour)})
	s.must(err)
	d, err := fleet.New(old, "H-2")
	s.must(err)
	s.hub.SetTrust(trust.NewSet(trust.FromX509("test", old.Roots(), old.Intermediates())...))
	_, err = s.hub.FirstStep(t.Context(), encoded(d.EnrollRequest()), addr)
	s.refused(err, evidence.CodeChainExpired)
	s.hub.Online = &web{}
	if e := s.first(d); e.AK != nil {
		t.Error("a certificate was issued")
	}
}

func TestRevocationIsLookedUp(t *testing.T) {
	s := newScene(t)
	d := s.device()
	w := &web{}
	s.hub.Online = w
	s.must(s.enrol(d))
	equal(s, "lookups without revocation lists", len(w.asked), 0)
	w.checksCRLs = true
	if v := s.verdict(d); !strings.Contains(v, `{"check":"ek-revocation","ok":true`) {
		t.Errorf("the verdict is %.300s", v)
	}
	equal(s, "certificates of the chain", w.chain, 2)
	w.crlNotes = []string{"a list was not found"}
	if v := s.verdict(d); !strings.Contains(v, "a list was not found") || strings.Contains(v, `{"check":"ek-revocation","ok":true`) || !strings.Contains(v, `"check":"ek-revocation"`) {
		t.Errorf("the verdict is %.300s", v)
	}
	w.revoked = &evidence.Refusal{Code: "ek-revoked", Reason: "It is revoked.", Hint: "Replace it."}
	s.refused(s.enrol(d), "ek-revoked")
	// The hub does not look up a certificate that is already refused, or that does not chain to a
	// known maker.
	s.policy(s.anne.ID, "version: 1\nrules: [{maker: FAKE, then: refuse, reason: no}]\n")
	_, err := s.hub.Policy(t.Context(), s.anne.ID) // so that the hub knows the new policy before the next request
	s.must(err)
	w.asked = nil
	s.refused(s.enrol(d), "policy")
	s.policy(s.anne.ID, "")
	s.onlyRoot()
	s.waits(s.enrol(s.device()), "ek-chain-untrusted")
	equal(s, "lookups", w.asked, []string{"links"})
}

package api_test

import (
	"context"
	"crypto/x509"
	"strings"
	"testing"

	"gangway/hub/api"
	"gangway/hub/evidence"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
	"gangway/tcg"
	"gangway/wire"
)

// certifiedAs returns the device `d` with a forged EK certificate that the maker `m` signed, and
// that has the serial number of the certificate `real`.
func certifiedAs(t testing.TB, d *fleet.Device, m *fleet.Maker, real *x509.Certificate) *fleet.Device {
	t.Helper()
	n := *d
	template := must(fleet.EKTemplate(n.EK.Private.Public()))(t)
	template.SerialNumber = real.SerialNumber
	n.EKCert, n.Chain = must(m.Sign(template, n.EK.Private.Public()))(t).Raw, nil
	return &n
}

// The operator's EK list names a TPM by the serial number of its EK certificate. An owner forges a
// certificate with this serial number for the EK of a second TPM, and lists the second EK on the
// owner's EK list. The hub still refuses the second TPM, because it is not on the operator's list.
func TestForgedSerialNumberIsNotOnTheHubsList(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	unknown := must(unknownMaker())(t)
	real := must(tcg.ParseEKCertificate(s.victim.EKCert))(t).Certificate
	theirs := s.uncertified(t)
	h := ekHash(t, theirs)
	s.putEKList(t, store.HubWide, store.ListedEK{Cert: real.SerialNumber.Bytes()})
	s.putEKList(t, s.Owner.ID, store.ListedEK{Key: &h})
	refused(t, s.post(t, s.request(t, certifiedAs(t, theirs, unknown, real))), 403, "ek-unlisted")
	vh := ekHash(t, s.victim)
	s.putEKList(t, s.Owner.ID, store.ListedEK{Key: &vh})
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
}

// An owner's policy and EK list cannot weaken the operator's EK list. The hub refuses an EK that is
// only on the owner's list. If the operator's line for an EK requires a certificate, the hub also
// refuses the EK without a certificate.
func TestOwnerDoesNotLoosenTheHubsEKList(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Policy(t, s.Owner.ID, "version: 1\nunlisted_ek: accept\n")
	d, other := s.uncertified(t), s.device(t)
	h, oh := ekHash(t, d), ekHash(t, other)
	s.putEKList(t, store.HubWide, store.ListedEK{Key: &h})
	refused(t, s.post(t, s.request(t, other)), 403, "ek-unlisted")
	s.putEKList(t, s.Owner.ID, store.ListedEK{Key: &oh})
	refused(t, s.post(t, s.request(t, other)), 403, "ek-unlisted")
	s.putEKList(t, store.HubWide, store.ListedEK{Key: &h, CertificateRequired: true}, store.ListedEK{Key: &oh})
	refused(t, s.post(t, s.request(t, d)), 403, evidence.CodeCertificateRequired)
	must(other.Onboard(t.Context(), s.client, s.tok))(t)
	// The owner decides whether EKs must be on the owner's EK list. If the hub's policy accepts EKs
	// that are not on the operator's list, the owner's policy decides about these EKs.
	s.putEKList(t, store.HubWide)
	must(s.device(t).Onboard(t.Context(), s.client, s.tok))(t)
	s.putEKList(t, s.Owner.ID)
	s.putEKList(t, store.HubWide, store.ListedEK{Key: &h})
	s.Policy(t, store.HubWide, hubtest.LabPolicy+"unlisted_ek: accept\n")
	must(s.device(t).Onboard(t.Context(), s.client, s.tok))(t)
}

// Anyone can make a certificate. So an EK with a self-made certificate is judged like an EK without
// a certificate.
func TestSelfMadeCertificateFaresNoBetterThanNone(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	unknown := must(unknownMaker())(t)
	withoutCert := s.uncertified(t) // H-2
	forged := certifiedBy(t, withoutCert, unknown)
	h := ekHash(t, withoutCert)
	for _, list := range [][]store.ListedEK{nil, {{Key: &h}}} {
		s.putEKList(t, s.Owner.ID, list...)
		for _, scope := range []string{store.HubWide, s.Owner.ID} {
			for _, c := range []struct{ words, none, forged string }{
				{"no_ek_certificate: refuse", evidence.CodeNoCertificate, evidence.CodeUntrusted},
				{"ek_kinds: {none: [L-1]}", evidence.CodeKind, evidence.CodeKind},
				{"ek_kinds: {none: [L-1], FAKE: [H-2]}", evidence.CodeKind, evidence.CodeKind},
				{"rules: [{maker: none, then: refuse}]", "policy", "policy"},
				{"rules: [{maker: FAKE, then: accept}, {maker: none, then: refuse}]", "policy", "policy"},
			} {
				s.Policy(t, store.HubWide, hubtest.LabPolicy)
				s.Policy(t, s.Owner.ID, "version: 1\n")
				before := "version: 1\n"
				if scope == store.HubWide {
					before = hubtest.LabPolicy
				}
				s.Policy(t, scope, before+c.words+"\n")
				t.Log(c.words)
				refused(t, s.post(t, s.request(t, withoutCert)), 403, c.none)
				refused(t, s.post(t, s.request(t, forged)), 403, c.forged)
			}
		}
	}
	// The hub uses the data in a certificate only if a trusted maker signed the certificate.
	s.putEKList(t, s.Owner.ID)
	s.Policy(t, store.HubWide, hubtest.LabPolicy+"no_ek_certificate: refuse\nek_kinds: {none: [L-1]}\nrules: [{maker: none, then: refuse}]\n")
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
}

// An owner denies a machine without an EK certificate. The denial is for the machine's EK, so it
// also applies when the machine later sends a certificate.
func TestDenialHoldsWhateverCertificateComesLater(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	w := waits(t, s.post(t, s.request(t, withoutCertificate(s.victim))), evidence.CodeNoCertificate)
	decide(ada, w.DeviceID, "deny", 200)
	h := ekHash(t, s.victim)
	pantacor := s.Token(t, s.Owner, func(j *store.JoinToken) { j.ForPantacor = true })
	for _, list := range [][]store.ListedEK{nil, {{Key: &h}}} {
		s.putEKList(t, s.Owner.ID, list...)
		refused(t, s.post(t, s.request(t, withoutCertificate(s.victim))), 403, "device-denied")
		refused(t, s.post(t, s.request(t, s.victim)), 403, "device-denied")
		if _, err := s.victim.OnboardTwoStep(t.Context(), s.client, pantacor); err == nil || !strings.Contains(err.Error(), "device-denied") {
			t.Errorf("in two steps: %v", err)
		}
	}
	// Ada's denial does not apply to other owners: the hub accepts the machine with Mallory's
	// token.
	mallory := s.Account(t, "mallory")
	if a := s.post(t, must(s.victim.Request(s.Token(t, mallory, nil), fleet.RequestChange{}))(t)); a.Status != 200 {
		t.Errorf("with another owner's token: %d %s", a.Status, a.Body)
	}
	decide(ada, w.DeviceID, "approve", 200)
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
}

// A CA that the operator distrusts stays distrusted when it expires, or when a CA above or below it
// expires. The hub does not judge the EK certificates of the distrusted CA as certificates of an
// unknown maker.
func TestDistrustedCAIsNotUnknownOnceItExpired(t *testing.T) {
	t.Parallel()
	for _, which := range []string{"root", "intermediate"} {
		t.Run(which, func(t *testing.T) {
			s := newScene(t)
			old := must(expiredMaker())(t)
			setTrust(t, s.Store, store.TrustedRoot, old.Root)
			setTrust(t, s.Store, store.TrustedLink, old.Intermediate)
			d := certifiedBy(t, s.device(t), old)
			h := ekHash(t, d)
			refused(t, s.post(t, s.request(t, certifiedBy(t, s.device(t), old))), 403, evidence.CodeChainExpired)
			setTrust(t, s.Store, store.Distrusted, map[string]*x509.Certificate{"root": old.Root, "intermediate": old.Intermediate}[which])
			for _, list := range [][]store.ListedEK{nil, {{Key: &h}}} {
				s.putEKList(t, s.Owner.ID, list...)
				refused(t, s.post(t, s.request(t, d)), 403, evidence.CodeDistrusted)
				refused(t, s.post(t, s.request(t, withoutCertificate(d))), 403, evidence.CodeDistrusted)
			}
		})
	}
}

// linking is an online look-up that finds the intermediate certificate of a maker.
type linking struct {
	revoking
	link *x509.Certificate
}

func (l linking) Links(context.Context, *x509.Certificate) ([]*x509.Certificate, []string) {
	return []*x509.Certificate{l.link}, []string{"fetched"}
}
func (linking) ChecksCRLs() bool { return false }

// If the hub looks up the chain online, the verdict keeps the note that it already has, which says
// that the ownership proofs named no hub.
func TestLookedUpChainHidesNoNote(t *testing.T) {
	t.Parallel()
	s := newSteps(t)
	far := must(unknownMaker())(t)
	setTrust(t, s.Store, store.TrustedRoot, far.Root)
	s.Service.Online = linking{link: far.Intermediate}
	d := certifiedBy(t, s.device(t), far)
	keys := s.enrolled(t, d).Keys
	old := func(r *wire.Registration) { r.HubName, r.Proof = "", keys.ProveUnbound(r.CSR) }
	must(fleet.ParseRegistered(s.send(t, "/register", must(d.Registration(s.pan, keys, fleet.RegistrationChange{Sent: old}))(t))))(t)
	e := want[api.EvidenceView](s.person(t, "ada"), "GET", "/devices/"+s.deviceOf(t, d)+"/evidence", nil, 200)
	for _, words := range []string{"does not name the hub", "fetched"} {
		if n := strings.Count(strings.Join(e.Verdict.Notes, "\n"), words); n != 1 {
			t.Errorf("%q is in the notes %d times: %s", words, n, brief.Of(e.Verdict.Notes))
		}
	}
}

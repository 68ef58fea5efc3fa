package api_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/evidence"
	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
	"gangway/internal/race"
	"gangway/tcg"
	"gangway/wire"
)

// withoutCertificate returns the device `d` without the EK certificate.
func withoutCertificate(d *fleet.Device) *fleet.Device {
	n := *d
	n.EKCert, n.Chain = n.EK.Public.Raw, nil
	return &n
}

func ekHash(t testing.TB, d *fleet.Device) store.Hash {
	t.Helper()
	return must(tcg.KeyHash(must(d.EK.Public.Key())(t)))(t)
}

// certifiedBy returns the device `d` with an EK certificate that the maker `m` signed.
func certifiedBy(t testing.TB, d *fleet.Device, m *fleet.Maker) *fleet.Device {
	t.Helper()
	n := *d
	template := must(fleet.EKTemplate(n.EK.Private.Public()))(t)
	n.EKCert, n.Chain = must(m.Sign(template, n.EK.Private.Public()))(t).Raw, nil
	return &n
}

func (s *scene) putEKList(t testing.TB, owner string, lines ...store.ListedEK) {
	t.Helper()
	if err := s.Store.PutEKList(t.Context(), owner, lines); err != nil {
		t.Fatal(err)
	}
}

// revoking is an online look-up that reports every EK certificate as revoked.
type revoking struct{}

func (revoking) Links(context.Context, *x509.Certificate) ([]*x509.Certificate, []string) {
	return nil, nil
}
func (revoking) ChecksCRLs() bool { return true }
func (revoking) Revocation(context.Context, *x509.Certificate, []*x509.Certificate) ([]string, *evidence.Refusal) {
	return nil, &evidence.Refusal{Code: "ek-certificate-revoked", Reason: "revoked", Hint: "none"}
}

// If the hub refuses a device because of its EK certificate, the device gains nothing by omitting
// the certificate in its next request, or by sending another EK certificate: the hub refuses it in
// the same way. The test tries the one-step and the two-step enrolment, each with and without a
// line for the EK in the EK list.
func TestLeavingOutTheEKCertificateChangesNothing(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	const lab = hubtest.LabPolicy
	unknown := must(unknownMaker())(t)
	for _, c := range []struct {
		name, code string
		turn       func(*testing.T, *scene)
	}{
		{"software TPM", "tpm-software", func(t *testing.T, s *scene) { s.Policy(t, store.HubWide, "version: 1\n") }},
		{"distrusted maker", evidence.CodeDistrusted, func(t *testing.T, s *scene) { setTrust(t, s.Store, store.Distrusted, s.maker.Root) }},
		{"distrusted link", evidence.CodeDistrusted, func(t *testing.T, s *scene) { setTrust(t, s.Store, store.Distrusted, s.maker.Intermediate) }},
		{"maker's rule", "policy", func(t *testing.T, s *scene) {
			s.Policy(t, s.Owner.ID, "version: 1\nrules: [{maker: FAKE, then: refuse}]\n")
		}},
		{"firmware rule", "policy", func(t *testing.T, s *scene) {
			s.Policy(t, store.HubWide, lab+"rules: [{maker: FAKE, firmware_below: \"9.0\", then: refuse}]\n")
		}},
		{"expired certificate", "ek-certificate-expired", func(t *testing.T, s *scene) {
			s.Policy(t, s.Owner.ID, "version: 1\nexpired_ek_certificate: refuse\n")
			template := must(fleet.EKTemplate(s.victim.EK.Private.Public()))(t)
			template.NotAfter = time.Now().Add(-time.Hour)
			s.victim.EKCert = must(s.maker.Sign(template, s.victim.EK.Private.Public()))(t).Raw
		}},
		{"expired CA", evidence.CodeChainExpired, func(t *testing.T, s *scene) {
			old := must(expiredMaker())(t)
			setTrust(t, s.Store, store.TrustedRoot, old.Root)
			setTrust(t, s.Store, store.TrustedLink, old.Intermediate)
			s.victim = certifiedBy(t, s.victim, old)
		}},
		{"revoked certificate", "ek-certificate-revoked", func(_ *testing.T, s *scene) { s.Service.Online = revoking{} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t)
			c.turn(t, s)
			refused(t, s.post(t, s.request(t, s.victim)), 403, c.code)
			h := ekHash(t, s.victim)
			for _, list := range [][]store.ListedEK{nil, {{Key: &h}}} {
				s.putEKList(t, s.Owner.ID, list...)
				refused(t, s.post(t, s.request(t, withoutCertificate(s.victim))), 403, c.code)
				refused(t, s.post(t, s.request(t, certifiedBy(t, s.victim, unknown))), 403, c.code)
			}
			s.putEKList(t, s.Owner.ID)
			pantacor := s.Token(t, s.Owner, func(j *store.JoinToken) { j.ForPantacor = true })
			if _, err := withoutCertificate(s.victim).OnboardTwoStep(t.Context(), s.client, pantacor); err == nil || !strings.Contains(err.Error(), c.code) {
				t.Errorf("in two steps: %v", err)
			}
			s.boundNothing(t)
			if c.code == evidence.CodeChainExpired {
				return // the refusal is permanent
			}
			// The hub stores the certificate, and not the verdict. Without the revocation, the hub
			// accepts the device.
			s.Service.Online = nil
			s.Policy(t, store.HubWide, lab)
			s.Policy(t, s.Owner.ID, "version: 1\n")
			setTrust(t, s.Store, store.TrustedRoot, s.maker.Root)
			setTrust(t, s.Store, store.TrustedLink, s.maker.Intermediate)
			waits(t, s.post(t, s.request(t, withoutCertificate(s.victim))), evidence.CodeNoCertificate)
			must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
		})
	}
}

// If the hub refuses a device because of its TPM's maker, it also refuses the device's next request
// without the EK certificate or without the CA certificates, because it stored all the certificates
// of the first request together.
func TestLeavingOutTheChipsOwnChainChangesNothing(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	other := must(unknownMaker())(t)
	setTrust(t, s.Store, store.TrustedRoot, other.Root)
	s.Policy(t, s.Owner.ID, "version: 1\nrules: [{maker: FAKE, then: refuse}]\n")
	d := certifiedBy(t, s.victim, other)
	d.Chain = [][]byte{other.Intermediate.Raw}
	refused(t, s.post(t, s.request(t, d)), 403, "policy")
	refused(t, s.post(t, s.request(t, withoutCertificate(d))), 403, "policy")
	d.Chain = nil
	refused(t, s.post(t, s.request(t, d)), 403, "policy")
	s.Policy(t, s.Owner.ID, "version: 1\n")
	waits(t, s.post(t, s.request(t, d)), evidence.CodeUntrusted)
}

// A device's EK certificate raises a question that the device's owner must decide. If the device
// omits this certificate, the hub asks the same question. If the owner approved the device before
// the question was raised, the approval does not answer the question.
func TestQuestionOfACertificateThatIsLeftOutIsAsked(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	w := waits(t, s.post(t, s.request(t, withoutCertificate(s.victim))), evidence.CodeNoCertificate)
	decide(ada, w.DeviceID, "approve", 200)
	s.Policy(t, s.Owner.ID, "version: 1\nrules: [{maker: FAKE, then: ask, reason: \"lab only\"}]\n")
	waits(t, s.post(t, s.request(t, s.victim)), "policy")
	waits(t, s.post(t, s.request(t, withoutCertificate(s.victim))), evidence.CodeNoCertificate)
	list := want[[]api.WaitingView](ada, "GET", "/devices/waiting", nil, 200)
	if len(list) != 1 || !slices.Equal(list[0].Questions, []string{evidence.CodeNoCertificate, "policy"}) {
		t.Fatalf("%s", brief.Of(list))
	}
	decide(ada, w.DeviceID, "approve", 200)
	must(withoutCertificate(s.victim).Onboard(t.Context(), s.client, s.tok))(t)
}

// A stranger who knows the public EK of a TPM cannot learn from the hub's answers whether the TPM
// has onboarded, unless the hub has a certificate for the EK and refuses this certificate.
func TestKeptCertificateRevealsNothing(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	theirs := s.Token(t, s.Account(t, "mallory"), nil)
	ask := func() string {
		t.Helper()
		d := must(withoutCertificate(s.victim).WithNewIdentity())(t)
		d.Serial = "spy"
		a := s.post(t, must(d.Request(theirs, fleet.RequestChange{}))(t))
		waits(t, a, evidence.CodeNoCertificate)
		list := want[[]api.WaitingView](s.person(t, "mallory"), "GET", "/devices/waiting", nil, 200)
		if len(list) != 1 {
			t.Fatalf("%s", brief.Of(list))
		}
		return string(a.Body) + string(must(json.Marshal(list[0].Verdict))(t))
	}
	before := ask()
	s.Policy(t, s.Owner.ID, "version: 1\nrules: [{then: ask}]\n")
	waits(t, s.post(t, s.request(t, s.victim)), "policy") // the certificate is sent
	shown := ask()
	s.Policy(t, s.Owner.ID, "version: 1\n")
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	if joined := ask(); before != shown || before != joined {
		t.Errorf("before:\n%s\nafter the request:\n%s\nafter onboarding:\n%s", brief.Of(before), brief.Of(shown), brief.Of(joined))
	}
}

// A stranger sends a certificate for another owner's EK. The hub stores the certificate only if a
// known maker issued it for that EK. The stored certificate never changes anything for the EK's
// owner.
func TestStrangersWordAboutAnothersEKChangesNothingForItsOwner(t *testing.T) {
	t.Parallel()
	unknown := must(unknownMaker())(t)
	for _, c := range []struct {
		name  string
		sends func(*testing.T, *scene) *fleet.Device
		kept  bool
	}{
		{"no certificate", func(_ *testing.T, s *scene) *fleet.Device { return withoutCertificate(s.victim) }, false},
		{"a certificate by an unknown maker", func(t *testing.T, s *scene) *fleet.Device { return certifiedBy(t, s.victim, unknown) }, false},
		{"another TPM's certificate", func(t *testing.T, s *scene) *fleet.Device {
			d := withoutCertificate(s.victim)
			d.EKCert = s.device(t).EKCert
			return d
		}, false},
		{"a CA's certificate of the EK", func(t *testing.T, s *scene) *fleet.Device {
			d := withoutCertificate(s.victim)
			template := must(fleet.EKTemplate(d.EK.Private.Public()))(t)
			template.IsCA = true
			d.EKCert = must(s.maker.Sign(template, d.EK.Private.Public()))(t).Raw
			return d
		}, false},
		{"the EK's own certificate", func(t *testing.T, s *scene) *fleet.Device { return s.victim }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t)
			mallory := s.Account(t, "mallory")
			theirs := s.Token(t, mallory, nil)
			// Mallory's policy refuses the EK, which affects only Mallory.
			s.Policy(t, mallory.ID, "version: 1\nrules: [{then: refuse}]\n")
			sent := must(must(c.sends(t, s).WithNewIdentity())(t).Request(theirs, fleet.RequestChange{}))(t)
			if a := s.post(t, sent); a.Status != 403 {
				t.Fatalf("%d %s", a.Status, a.Body)
			}
			k, err := s.Store.EKCertificate(t.Context(), ekHash(t, s.victim), s.Now())
			if c.kept != (err == nil) || c.kept && !bytes.Equal(k.Certificate, s.victim.EKCert) {
				t.Errorf("stored: %s, %v", brief.Of(k.Certificate), err)
			}
			if !c.kept { // if the hub stored no certificate, it asks the owner about the machine again
				waits(t, s.post(t, s.request(t, withoutCertificate(s.victim))), evidence.CodeNoCertificate)
			}
			must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
			if list := want[[]api.WaitingView](s.person(t, "mallory"), "GET", "/devices/waiting", nil, 200); len(list) != 0 {
				t.Errorf("%s", brief.Of(list))
			}
		})
	}
}

// First another peer sends a certificate for a TPM's EK. Then the proven TPM sends its own EK
// certificate, which replaces the peer's certificate. Afterwards nobody can replace the TPM's
// certificate.
func TestCertificateOfAProvenEKIsNotDisplaced(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	rival := must(unknownMaker())(t)
	setTrust(t, s.Store, store.TrustedRoot, rival.Root)
	setTrust(t, s.Store, store.TrustedLink, rival.Intermediate)
	theirs := s.Token(t, s.Account(t, "mallory"), nil)
	sent := func() {
		t.Helper()
		d := must(certifiedBy(t, s.victim, rival).WithNewIdentity())(t)
		if a := s.post(t, must(d.Request(theirs, fleet.RequestChange{}))(t)); a.Status != 200 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
	}
	sent()
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	sent()
	k := must(s.Store.EKCertificate(t.Context(), ekHash(t, s.victim), s.Now()))(t)
	if !k.Proven || !bytes.Equal(k.Certificate, s.victim.EKCert) {
		t.Errorf("proven %v, %s", k.Proven, brief.Of(k.Certificate))
	}
}

// If a device sends its EK certificate but does not prove that it has the EK, the hub stores the
// certificate, but does not use it any more after store.UnprovenEKKeptFor.
func TestCertificateOfAnUnprovenEKIsForgotten(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Policy(t, s.Owner.ID, "version: 1\nrules: [{maker: FAKE, then: refuse}]\n")
	joined := s.device(t)
	s.Policy(t, s.Owner.ID, "version: 1\n")
	must(joined.Onboard(t.Context(), s.client, s.tok))(t)
	s.Policy(t, s.Owner.ID, "version: 1\nrules: [{maker: FAKE, then: refuse}]\n")
	refused(t, s.post(t, s.request(t, s.victim)), 403, "policy")
	s.Advance(store.UnprovenEKKeptFor - time.Hour)
	s.tok = s.Token(t, s.Owner, nil)
	refused(t, s.post(t, s.request(t, withoutCertificate(s.victim))), 403, "policy")
	s.Advance(2 * time.Hour)
	waits(t, s.post(t, s.request(t, withoutCertificate(s.victim))), evidence.CodeNoCertificate)
	if n := must(s.Store.ExpireEKCertificates(t.Context(), s.Now(), 10))(t); n != 1 {
		t.Errorf("%d rows were dropped", n)
	}
	refused(t, s.post(t, s.request(t, withoutCertificate(joined))), 403, "policy")
}

// A line of an EK list can require that the EK has a trusted certificate. On an owner's list, a
// line without this requirement approves the EK, even if the EK has no certificate. A line of the
// operator's list never approves an EK, so the owner must still decide.
func TestEKListDemandsACertificate(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	unknown := must(unknownMaker())(t)
	d := s.uncertified(t)
	untrusted := certifiedBy(t, d, unknown)
	h, vh := ekHash(t, d), ekHash(t, s.victim)
	ada := s.person(t, "ada")
	want[map[string]int](ada, "PUT", "/policy/ek-list", fmt.Sprintf("ek_sha256,certificate\n%x,required\n%x,required\n", h, vh), 200)
	refused(t, s.post(t, s.request(t, d)), 403, evidence.CodeCertificateRequired)
	refused(t, s.post(t, s.request(t, untrusted)), 403, evidence.CodeCertificateRequired)
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	s.putEKList(t, s.Owner.ID, store.ListedEK{Key: &h})
	s.putEKList(t, store.HubWide, store.ListedEK{Key: &h, CertificateRequired: true})
	refused(t, s.post(t, s.request(t, d)), 403, evidence.CodeCertificateRequired)
	s.putEKList(t, s.Owner.ID)
	s.putEKList(t, store.HubWide, store.ListedEK{Key: &h})
	waits(t, s.post(t, s.request(t, d)), evidence.CodeNoCertificate)
	waits(t, s.post(t, s.request(t, untrusted)), evidence.CodeUntrusted)
	s.putEKList(t, s.Owner.ID, store.ListedEK{Key: &h})
	must(d.Onboard(t.Context(), s.client, s.tok))(t)
}

// Before an owner approves a machine without an EK certificate, the owner can read what the missing
// certificate may hide. The text is in the hub's answer to the machine, on the web page and in the
// API.
func TestQuestionSaysWhatAMissingCertificateMayHide(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	unknown := must(unknownMaker())(t)
	for _, d := range []*fleet.Device{s.uncertified(t), certifiedBy(t, s.uncertified(t), unknown)} {
		a := s.post(t, s.request(t, d))
		var w wire.Waiting
		if err := json.Unmarshal(a.Body, &w); err != nil || a.Status != 202 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		ada := s.person(t, "ada")
		_, page := ada.do("GET", "/ui/overview", nil)
		_, api := ada.do("GET", "/devices/waiting", nil)
		for where, text := range map[string]string{"the machine's answer": w.Reason, "the page": string(page), "the API": string(api)} {
			for _, words := range []string{"emulator", "distrusts", "revoked", "another owner"} {
				if !strings.Contains(text, words) {
					t.Errorf("%s does not contain %q", where, words)
				}
			}
		}
		decide(ada, w.DeviceID, "deny", 200)
	}
}

// If a device sends several requests that the hub refuses, the hub still has the device's EK
// certificate, marked as not proven, after these requests have expired.
func TestRefusedRequestsKeepOneCertificate(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Policy(t, store.HubWide, "version: 1\n")
	for range 3 {
		d := must(s.victim.WithNewIdentity())(t)
		refused(t, s.post(t, s.request(t, d)), 403, "tpm-software")
	}
	s.Advance(onboard.PendingFor)
	k := must(s.Store.EKCertificate(t.Context(), ekHash(t, s.victim), s.Now()))(t)
	if k.Proven || hex.EncodeToString(k.Certificate) != hex.EncodeToString(s.victim.EKCert) {
		t.Errorf("%s", brief.Of(k))
	}
}

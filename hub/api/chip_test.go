package api_test

import (
	"crypto/x509"
	"strings"
	"testing"

	"gangway/hub/evidence"
	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
	"gangway/tcg"
)

// ownersEvents returns an owner's events of one kind.
func (s *scene) ownersEvents(t testing.TB, owner store.Account, kind string) (out []store.Event) {
	t.Helper()
	for _, e := range must(s.Store.Events(t.Context(), store.EventFilter{Owner: owner.ID, Limit: 1000}))(t) {
		if e.Kind == kind {
			out = append(out, e)
		}
	}
	return out
}

// otherEK returns a copy of the victim that uses another EK of the same TPM. If `change` is not
// nil, it alters the EK certificate before the maker signs it.
func otherEK(t testing.TB, s *scene, change func(*x509.Certificate)) *fleet.Device {
	t.Helper()
	d := *s.victim
	d.EK = must(fleet.NewKey(tcg.EKTemplates[1], nil))(t)
	template := must(fleet.EKTemplate(d.EK.Private.Public()))(t)
	if change != nil {
		change(template)
	}
	d.EKCert = must(s.maker.Sign(template, d.EK.Private.Public()))(t).Raw
	return &d
}

// otherIAK returns a copy of the device `d` with an IAK and an IDevID key of other templates.
func otherIAK(t testing.TB, d *fleet.Device) *fleet.Device {
	t.Helper()
	n := *d
	n.IAK = must(fleet.NewKey(tcg.IAKTemplates[2], nil))(t)
	n.IDevID = must(fleet.NewKey(tcg.IDevIDTemplates[2], nil))(t)
	return &n
}

// If someone tries to onboard an owner's TPM with the token of a second owner, whether with the
// same EK or with another EK of the TPM, the first owner gets an event. However often this is
// tried, there is only one event for each second owner and EK.
func TestFirstOwnerIsToldOnceOfAnotherOwnersTry(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	mallory, carol := s.Account(t, "mallory"), s.Account(t, "carol")
	second := otherEK(t, s, nil)
	try := func(d *fleet.Device, who store.Account, code string) {
		t.Helper()
		tok := s.Token(t, who, nil)
		c := must(d.Enrol(t.Context(), s.client, must(d.Request(tok, fleet.RequestChange{}))(t)))(t)
		refused(t, must(d.Activate(t.Context(), s.client, c))(t), 409, code)
	}
	for range 3 {
		try(second, mallory, onboard.CodeOtherEK)
	}
	found := s.ownersEvents(t, s.Owner, "device.other-owner-tried")
	if len(found) != 1 || found[0].Device != s.deviceOf(t, s.victim) || found[0].Code != onboard.CodeOtherEK || !strings.Contains(found[0].Message, "another endorsement key") {
		t.Fatalf("%s", brief.Of(found))
	}
	for range 2 {
		try(s.victim, mallory, onboard.CodeOtherOwner)
		try(second, carol, onboard.CodeOtherEK)
	}
	if found := s.ownersEvents(t, s.Owner, "device.other-owner-tried"); len(found) != 3 {
		t.Errorf("%s", brief.Of(found))
	}
	// Now the first owner tries the TPM's other EK, with a token of the first owner's account. The
	// first owner sees the refusal and gets no event.
	try(second, s.Owner, onboard.CodeOtherEK)
	if found := s.ownersEvents(t, s.Owner, "device.other-owner-tried"); len(found) != 3 {
		t.Errorf("%s", brief.Of(found))
	}
}

// The certificates of two EKs name the same TPM, and the EKs have different owners. When the second
// EK is proven, the hub links the EKs, and each owner gets one event. The hub does not link EKs by
// the machine's serial number, because the device states this number without a proof.
func TestOwnersOfTwoEKsOfOneChipAreToldOnce(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		first  func(*x509.Certificate)
		second func(*x509.Certificate, *x509.Certificate)
		linked bool
	}{
		{"same serial number", nil, func(c, first *x509.Certificate) { c.SerialNumber = first.SerialNumber }, true},
		{"same device id in the subject", func(c *x509.Certificate) { c.Subject.SerialNumber = "CHIP-0042-17" },
			func(c, _ *x509.Certificate) { c.Subject.SerialNumber = "chip-0042-17" }, true},
		{"same UUID as name", func(c *x509.Certificate) { c.Subject.CommonName = "vm:2f1a8c1e-6f0e-4a55-9a3c-0e5f1d2c3b4a" },
			func(c, first *x509.Certificate) { c.Subject.CommonName = first.Subject.CommonName }, true},
		{"same word as name", func(c *x509.Certificate) { c.Subject.CommonName = "unknown" },
			func(c, first *x509.Certificate) { c.Subject.CommonName = first.Subject.CommonName }, false},
		{"nothing but the machine's serial", nil, func(_, _ *x509.Certificate) {}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScene(t)
			first := otherEK(t, s, c.first)
			cert := must(x509.ParseCertificate(first.EKCert))(t)
			second := otherIAK(t, otherEK(t, s, func(t *x509.Certificate) { c.second(t, cert) }))
			must(first.Onboard(t.Context(), s.client, s.tok))(t)
			mallory := s.Account(t, "mallory")
			theirs := s.Token(t, mallory, nil)
			// A stranger who has the EK certificate but not the TPM cannot link the EKs.
			s.post(t, must(second.Request(theirs, fleet.RequestChange{}))(t))
			if found := s.ownersEvents(t, s.Owner, store.EventSameChip); len(found) != 0 {
				t.Fatalf("events after only a request: %s", brief.Of(found))
			}
			for range 2 {
				must(second.Onboard(t.Context(), s.client, theirs))(t)
				must(first.Onboard(t.Context(), s.client, s.tok))(t)
			}
			want := 0
			if c.linked {
				want = 1
			}
			for _, who := range []struct {
				store.Account
				device *fleet.Device
			}{{s.Owner, first}, {mallory, second}} {
				found := s.ownersEvents(t, who.Account, store.EventSameChip)
				if len(found) != want || want > 0 && found[0].Device != s.Devices(t, who.Account)[0].ID {
					t.Errorf("%s: %s", who.Nick, brief.Of(found))
				}
				for _, e := range found {
					if strings.Contains(e.Message, "ada") || strings.Contains(e.Message, "mallory") {
						t.Errorf("%s learns who the other owner is: %q", who.Nick, e.Message)
					}
				}
			}
		})
	}
}

// A first owner has onboarded a TPM with one of its EKs. A second owner onboards the same TPM with
// another EK and then deletes the device, three times. The first owner gets only one event about
// the second owner.
func TestOwnerIsToldOnceHoweverOftenTheOtherEKComes(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	name := func(c *x509.Certificate) { c.Subject.SerialNumber = "CHIP-0042-17" }
	first, second := otherEK(t, s, name), otherIAK(t, otherEK(t, s, name))
	must(first.Onboard(t.Context(), s.client, s.tok))(t)
	mallory := s.Account(t, "mallory")
	theirs := s.Token(t, mallory, nil)
	for range 3 {
		must(second.Onboard(t.Context(), s.client, theirs))(t)
		if err := s.Store.DeleteDevice(t.Context(), mallory.ID, s.Devices(t, mallory)[0].ID, s.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if found := s.ownersEvents(t, s.Owner, store.EventSameChip); len(found) != 1 {
		t.Errorf("%s", brief.Of(found))
	}
	carol := s.Account(t, "carol")
	must(second.Onboard(t.Context(), s.client, s.Token(t, carol, nil)))(t)
	if found := s.ownersEvents(t, s.Owner, store.EventSameChip); len(found) != 2 {
		t.Errorf("events of a third owner: %s", brief.Of(found))
	}
}

// A policy can name, for each TPM maker, the kinds of EK that the hub accepts, such as L-1 (RSA
// 2048) and L-2 (P-256). The hub refuses a device with another kind of EK.
func TestPolicySaysWhichKindsOfEKBind(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	low := must(fleet.New(s.maker, "L-2"))(t)
	for _, c := range []struct{ hub, owner, code string }{
		{"", "", ""},
		{"ek_kinds: {FAKE: [H-2]}", "", ""},
		{"ek_kinds: {fake: [L-2, H-3]}", "", evidence.CodeKind},
		{"", "ek_kinds: {FAKE: [L-2]}", evidence.CodeKind},
		{"ek_kinds: {FAKE: [H-2]}", "ek_kinds: {FAKE: [L-2]}", evidence.CodeKind}, // both policies apply
		{"ek_kinds: {software emulation: [L-2]}", "", evidence.CodeKind},          // the policy names the TPM by its model
		{"ek_kinds: {IFX: [L-2]}", "", ""},
		{"ek_kinds: {'*': [L-2]}", "", evidence.CodeKind},
		{"ek_kinds: {'*': [L-2], FAKE: [H-2]}", "", ""},
		{"ek_kinds: [L-2]", "", evidence.CodeKind},
	} {
		s.Policy(t, store.HubWide, hubtest.LabPolicy+c.hub+"\n")
		s.Policy(t, s.Owner.ID, "version: 1\n"+c.owner+"\n")
		a := s.post(t, s.request(t, s.victim)) // H-2
		if c.code == "" && a.Status != 200 || c.code != "" && (a.Status != 403 || a.Code() != c.code) {
			t.Errorf("%q, %q: %d %s", c.hub, c.owner, a.Status, a.Body)
		}
	}
	if a := s.post(t, s.request(t, low)); a.Status != 200 {
		t.Errorf("an EK of the kind that is allowed: %d %s", a.Status, a.Body)
	}
	// If the policy allows the kind of an EK that has no certificate, the machine waits for the
	// owner's decision. If not, the hub refuses the machine.
	s.Policy(t, store.HubWide, hubtest.LabPolicy+"ek_kinds: {none: [L-1]}\n")
	s.Policy(t, s.Owner.ID, "version: 1\n")
	refused(t, s.post(t, s.request(t, s.uncertified(t))), 403, evidence.CodeKind)
	s.Policy(t, store.HubWide, hubtest.LabPolicy+"ek_kinds: {none: [L-2]}\n")
	waits(t, s.post(t, s.request(t, s.uncertified(t))), evidence.CodeNoCertificate)
}

// The first owner has onboarded a TPM with one of its EKs. Because the policy allows only one kind
// of EK for each maker, a second owner cannot onboard the same TPM with another of its EKs.
func TestOneKindForAMakerKeepsASecondOwnerOut(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Policy(t, store.HubWide, hubtest.LabPolicy+"ek_kinds: {FAKE: [H-2]}\n")
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	mallory := s.Account(t, "mallory")
	theirs := s.Token(t, mallory, nil)
	second := otherIAK(t, otherEK(t, s, nil)) // H-3
	refused(t, s.post(t, must(second.Request(theirs, fleet.RequestChange{}))(t)), 403, evidence.CodeKind)
	if n := len(s.Devices(t, mallory)); n != 0 {
		t.Errorf("%d devices", n)
	}
}

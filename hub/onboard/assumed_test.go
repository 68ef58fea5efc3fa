package onboard_test

import (
	"crypto/sha256"
	"errors"
	"slices"
	"testing"
	"time"

	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/internal/fleet"
	"gangway/wire"
)

// warm onboards a device, so that the hub knows the token of the scene. It returns a function that
// says which methods of the store have been called since, in order.
func (s *scene) warm() (calls func() []string) {
	s.Helper()
	s.onboarded(s.device(), s.token)
	s.store.calls = nil
	return func() []string { return slices.Clone(s.store.calls) }
}

// A new device with a token that the hub knows costs one transaction to enrol and one to activate.
func TestKnownTokenAndNewDeviceAreNotRead(t *testing.T) {
	s := newScene(t)
	calls := s.warm()
	s.onboarded(s.device(), s.token)
	equal(s, "calls", calls(), []string{"BeginEnrolmentIfUnchanged", "Activate"})
}

// A device that has onboarded before is compared with its former enrolment, as always.
func TestReturningDeviceIsRead(t *testing.T) {
	s := newScene(t)
	d := s.device()
	first, _ := s.onboarded(d, s.token)
	calls := s.warm()
	s.now = s.now.Add(time.Minute)
	again, _ := s.onboarded(d, s.token)
	equal(s, "device", again.ID, first.ID)
	equal(s, "first calls", calls()[:2], []string{"BeginEnrolmentIfUnchanged", "Activate"})
	equal(s, "reads of both enrolments", s.store.count("Enrolment"), 2)
	equal(s, "activations that were tried", s.store.count("Activate"), 2)
}

// Another replica can activate an enrolment, and each activation proof is still verified.
func TestPendingEnrolmentInMemoryProvesNothing(t *testing.T) {
	s := newScene(t)
	s.warm()
	c := s.enrolled(s.device(), s.token)
	_, err := s.hub.Activate(s.Context(), c.IDevIDHash(), []byte("another connection"), make([]byte, 32), addr)
	s.refused(err, onboard.CodeActivation)
	equal(s, "activations", s.store.count("Activate"), 0)
	_, err = s.activate(c)
	s.must(err)
	c = s.enrolled(s.device(), s.token)
	s.hub = s.replica()
	_, err = s.activate(c)
	s.must(err)
}

// The hub acts on no assumption: what has changed since it read the token counts, no matter which
// replica changed it.
func TestAssumptionsThatBecameWrong(t *testing.T) {
	const refuses = "version: 1\nrules: [{maker: FAKE, then: refuse, reason: no}]\n"
	for name, c := range map[string]struct {
		change func(s *scene, d *fleet.Device)
		code   string
	}{
		"token disabled": {func(s *scene, _ *fleet.Device) {
			s.must(s.store.DisableJoinToken(s.Context(), s.anne.ID, s.token.ID))
		}, onboard.CodeTokenUnusable},
		"token deleted": {func(s *scene, _ *fleet.Device) { delete(s.store.tokens, s.token.ID) }, onboard.CodeTokenUnknown},
		"token expired": {func(s *scene, _ *fleet.Device) { s.now = s.now.Add(25 * time.Hour) }, onboard.CodeTokenUnusable},
		"policy of the owner": {func(s *scene, _ *fleet.Device) {
			s.policy(s.anne.ID, refuses)
		}, "policy"},
		"policy of the hub": {func(s *scene, _ *fleet.Device) {
			s.policy(store.HubWide, labRules+"rules: [{maker: FAKE, then: refuse, reason: no}]\n")
		}, "policy"},
		"maker distrusted": {func(s *scene, _ *fleet.Device) {
			s.must(s.store.ChangeTrust(s.Context(), store.TrustChange{Put: []store.TrustedCertificate{{Fingerprint: sha256.Sum256(s.maker.Root.Raw), DER: s.maker.Root.Raw, Kind: store.Distrusted}}}))
		}, "ek-chain-distrusted"},
		"device denied": {func(s *scene, d *fleet.Device) {
			bare := *d
			bare.EKCert = d.EK.Public.Raw
			w := s.waits(s.enrol(&bare), noCertificate)
			_, err := s.hub.Decide(s.Context(), s.anne, w.DeviceID, false, nil, addr)
			s.must(err)
		}, onboard.CodeDenied},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			s.warm()
			d := s.device()
			c.change(s, d)
			stored := len(s.store.enrolments)
			s.refused(s.enrol(d), c.code)
			equal(s, "enrolments", len(s.store.enrolments), stored)
			equal(s, "refusals on record", s.lastEvent("enrolment.refused").Code, c.code)
		})
	}
}

// A refusal or a question follows from the present rules, even if the hub judged the request by
// former ones first.
func TestRefusalByFormerRulesIsNotMade(t *testing.T) {
	s := newScene(t)
	listed, other := s.device(), s.device()
	s.must(s.store.PutEKList(s.Context(), s.anne.ID, []store.ListedEK{{Key: ptr(s.ekHash(listed))}}))
	s.onboarded(listed, s.token)
	s.store.calls = nil
	if err := s.enrol(other); err == nil {
		t.Fatal("the list is not in force")
	}
	equal(s, "reads of what was assumed", s.store.count("JoinTokenForEK"), 1)
	s.must(s.store.PutEKList(s.Context(), s.anne.ID, nil))
	refused := len(s.store.events)
	s.must(s.enrol(other))
	equal(s, "events", len(s.store.events), refused)
}

// A released TPM begins a new device, whose id the hub must not take from its assumption.
func TestReleasedTPMIsNotAssumedToBeNew(t *testing.T) {
	s := newScene(t)
	d := s.device()
	first, _ := s.onboarded(d, s.token)
	s.warm()
	s.must(s.store.DeleteDevice(s.Context(), s.anne.ID, first.ID, s.now))
	s.now = s.now.Add(time.Minute)
	second, _ := s.onboarded(d, s.token)
	if second.ID == first.ID {
		t.Error("the released TPM has its former device's id")
	}
}

// The ownership proof is verified with a token in memory too, and an owner in the request that is
// not the token's is refused.
func TestOwnershipWithAKnownToken(t *testing.T) {
	s := newScene(t)
	calls := s.warm()
	d := s.device()
	for code, change := range map[string]fleet.RequestChange{
		onboard.CodeOwnership:  {CAData: func(c *wire.CAData) { c.Proof[0] ^= 1 }},
		onboard.CodeHubName:    {CAData: func(c *wire.CAData) { c.HubName = "another" }},
		onboard.CodeTokenOwner: s.signedFor(d, s.mary.ID, s.token.ID),
	} {
		_, err := s.hub.Enrol(s.Context(), s.request(d, s.token, change), addr)
		s.refused(err, code)
	}
	if slices.Contains(calls(), "JoinTokenForEK") {
		t.Error("the token was read again")
	}
}

// If the store fails, the hub does not try again without the assumption.
func TestFailureIsNotAWrongAssumption(t *testing.T) {
	s := newScene(t)
	calls := s.warm()
	s.store.failure, s.store.failAt = errBroken, 1
	if err := s.enrol(s.device()); !errors.Is(err, errBroken) {
		t.Errorf("error %v", err)
	}
	equal(s, "calls", calls(), []string{"BeginEnrolmentIfUnchanged"})
}

package onboard_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/hub/evidence"
	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/internal/fleet"
	"gangway/tcg"
	"gangway/wire"
)

func TestDeviceOnboards(t *testing.T) {
	s := newScene(t)
	var seen []store.Enrolment
	s.hub.Observe = func(e store.Enrolment, v *evidence.Verdict) {
		if !v.Accepted() {
			t.Error("the verdict is not accepted")
		}
		seen = append(seen, e)
	}
	d := s.device()
	c := s.enrolled(d, s.token)
	equal(s, "devices before the activation", len(s.store.devices), 0)
	is, err := s.activate(c)
	s.must(err)
	equal(s, "owner", is.Owner, s.anne.ID)
	equal(s, "nick", is.Nick, onboard.Nick(is.ID))
	equal(s, "serial number", is.ProdSerial, d.Serial)
	equal(s, "certificate's device", c.IDevID.Subject.SerialNumber, is.ID)
	equal(s, "AIK's owner", s.store.aiks[string(d.IAK.Name())].DeviceID, is.ID)
	equal(s, "observed", len(seen), 1)
	e := seen[0]
	equal(s, "state", e.State, store.Pending)
	equal(s, "expiry", e.Expires, s.now.Add(onboard.PendingFor))
	equal(s, "EK known", e.EKKnown, true)
	if len(e.EKLinks) == 0 || !strings.Contains(string(e.Verdict), `"check":"ownership"`) {
		t.Error("the enrolment lacks the intermediates or the ownership check")
	}
	if _, attested := onboard.AttestedCounters(e); !attested {
		t.Error("the enrolment has no attested counters")
	}
}

// The hub does not verify a certificate again if this process has signed it. So the hub must call
// Service.Signed only for such certificates, and not for a certificate that the database returns
// for a repeated request, or when it refuses a request.
func TestSignedGetsOnlyCertificatesOfThisProcess(t *testing.T) {
	s := newScene(t)
	var signed []store.Hash
	s.hub.Signed = func(idevid store.Hash) { signed = append(signed, idevid) }
	d := s.device()
	body := s.request(d, s.token, fleet.RequestChange{})
	c := s.reply(d, body)
	if len(signed) != 1 || signed[0] != sha256.Sum256(c.IDevID.Raw) {
		t.Fatalf("%d certificates are signed", len(signed))
	}
	// The reply to a repeated request has the certificate of the first reply.
	c = s.reply(d, body)
	if slices.Contains(signed[1:], sha256.Sum256(c.IDevID.Raw)) {
		t.Error("a certificate of the database counts as signed")
	}
	before := len(signed)
	_, err := s.hub.Enrol(s.Context(), s.request(d, s.token, fleet.RequestChange{CAData: func(c *wire.CAData) { c.Proof[7] ^= 1 }}), addr)
	s.refused(err, onboard.CodeOwnership)
	equal(s, "certificates after a refusal", len(signed), before)
}

func TestOwnershipIsChecked(t *testing.T) {
	s := newScene(t)
	marys := s.newToken(store.JoinToken{Owner: s.mary.ID})
	expired := s.newToken(store.JoinToken{Owner: s.anne.ID, Expires: s.now})
	disabled := s.newToken(store.JoinToken{Owner: s.anne.ID})
	s.must(s.store.DisableJoinToken(s.Context(), s.anne.ID, disabled.ID))
	keyless := s.newToken(store.JoinToken{Owner: s.anne.ID})
	row := s.store.tokens[keyless.ID]
	row.PublicKey = row.PublicKey[:31]
	s.store.tokens[keyless.ID] = row
	d := s.device()
	set := func(f func(*wire.CAData)) fleet.RequestChange { return fleet.RequestChange{CAData: f} }
	for name, c := range map[string]struct {
		token  *wire.TokenFile
		change fleet.RequestChange
		code   string
	}{
		"another hub":                 {s.token, set(func(c *wire.CAData) { c.HubName = strings.Repeat("ab", 32) }), onboard.CodeHubName},
		"a proof that was altered":    {s.token, set(func(c *wire.CAData) { c.Proof[7] ^= 1 }), onboard.CodeOwnership},
		"a proof of another token":    {s.token, set(func(c *wire.CAData) { c.TokenID = marys.ID }), onboard.CodeOwnership},
		"an unknown token":            {s.token, set(func(c *wire.CAData) { c.TokenID = wire.NewID() }), onboard.CodeTokenUnknown},
		"another owner, signed":       {s.token, s.signedFor(d, wire.AccountPRN+s.mary.ID, s.token.ID), onboard.CodeTokenOwner},
		"a token that expires now":    {expired, fleet.RequestChange{}, onboard.CodeTokenUnusable},
		"a token that is disabled":    {disabled, fleet.RequestChange{}, onboard.CodeTokenUnusable},
		"a token without a whole key": {keyless, fleet.RequestChange{}, onboard.CodeOwnership},
	} {
		before := len(s.store.events)
		_, err := s.hub.Enrol(s.Context(), s.request(d, c.token, c.change), addr)
		s.refused(err, c.code)
		equal(s, name+": enrolments", len(s.store.enrolments), 0)
		equal(s, name+": events", len(s.store.events), before+1)
		e := s.lastEvent("enrolment.refused")
		equal(s, name+": event", e, store.Event{Time: s.now, Kind: e.Kind, Code: c.code, Addr: addr, Message: e.Message, Unproven: true})
	}
	if _, err := s.hub.Enrol(s.Context(), []byte("not a request"), addr); err == nil {
		t.Error("a body that is not a request was accepted")
	}
	equal(s, "a good request", s.enrol(d), nil)
	row = s.store.tokens[s.token.ID]
	row.Expires = s.now.Add(time.Second)
	s.store.tokens[s.token.ID] = row
	equal(s, "a second before the token expires", s.enrol(d), nil)
}

func TestRefusalOfEvidenceNamesTheOwner(t *testing.T) {
	s := newScene(t)
	s.policy(s.anne.ID, "version: 1\nrules:\n  - {maker: FAKE, then: refuse, reason: not here}\n")
	s.hub.Observe = func(store.Enrolment, *evidence.Verdict) { t.Error("a refused request was observed") }
	s.refused(s.enrol(s.device()), "policy")
	e := s.lastEvent("enrolment.refused")
	equal(s, "owner and token", e.Owner+" "+e.Token, s.anne.ID+" "+s.token.ID)
	equal(s, "device", e.Device, "")
	equal(s, "enrolments", len(s.store.enrolments), 0)
}

// A request without a valid ownership proof causes an event. The hub only passes this event to
// Service.Unproven, which can limit the number of such events in the audit trail.
func TestEventsOfUnprovenPeersGoToTheirBound(t *testing.T) {
	s := newScene(t)
	var got []store.Event
	s.hub.Unproven = func(_ context.Context, e store.Event) { got = append(got, e) }
	_, err := s.hub.Enrol(s.Context(), s.request(s.device(), s.token, fleet.RequestChange{CAData: func(c *wire.CAData) { c.Proof[0] ^= 1 }}), addr)
	s.refused(err, onboard.CodeOwnership)
	equal(s, "events given to the bound", len(got), 1)
	equal(s, "time", got[0].Time, s.now)
	equal(s, "events appended", len(s.store.events), 0)
}

// The event about a refusal names the actor of the request. If the event cannot be stored, the
// refusal stays the same, and the hub logs the error.
func TestAuditNamesTheActorAndSurvivesItsFailure(t *testing.T) {
	s := newScene(t)
	body := s.request(s.device(), s.token, fleet.RequestChange{CAData: func(c *wire.CAData) { c.Proof[0] ^= 1 }})
	ctx := store.WithActor(s.Context(), &store.Actor{ID: "someone", Name: "Some One"})
	_, err := s.hub.Enrol(ctx, body, addr)
	s.refused(err, onboard.CodeOwnership)
	equal(s, "actor", s.lastEvent("enrolment.refused").ActorName, "Some One")
	s.store.calls, s.store.failure = nil, errBroken
	s.store.failAt = 2 // AppendEvent, after JoinTokenForEK
	_, err = s.hub.Enrol(s.Context(), body, addr)
	s.refused(err, onboard.CodeOwnership)
	s.logged("audit trail")
}

func TestSameRequestGetsTheSameCertificates(t *testing.T) {
	s := newScene(t)
	d := s.device()
	body := s.request(d, s.token, fleet.RequestChange{})
	c := s.reply(d, body)
	s.now = s.now.Add(onboard.PendingFor - time.Second)
	equal(s, "IDevID while pending", s.reply(d, body).IDevID.SerialNumber, c.IDevID.SerialNumber)
	_, err := s.activate(c)
	s.must(err)
	s.now = s.now.Add(10 * onboard.PendingFor)
	equal(s, "IDevID while active", s.reply(d, body).IDevID.SerialNumber, c.IDevID.SerialNumber)
}

func TestRequestOfASupersededEnrolmentIsRefused(t *testing.T) {
	s := newScene(t)
	d := s.device()
	body := s.request(d, s.token, fleet.RequestChange{})
	_, err := s.activate(s.reply(d, body))
	s.must(err)
	is, _ := s.onboarded(d, s.token)
	_, err = s.hub.Enrol(s.Context(), body, addr)
	s.refused(err, onboard.CodeSuperseded)
	equal(s, "the event's device", s.lastEvent("enrolment.refused").Device, is.ID)
}

func TestRequestOfADeletedDeviceIsRefused(t *testing.T) {
	s := newScene(t)
	d := s.device()
	body := s.request(d, s.token, fleet.RequestChange{})
	is, err := s.activate(s.reply(d, body))
	s.must(err)
	s.must(s.store.DeleteDevice(s.Context(), s.anne.ID, is.ID, s.now))
	s.hub.Observe = func(store.Enrolment, *evidence.Verdict) { t.Error("a refused request was observed") }
	_, err = s.hub.Enrol(s.Context(), body, addr)
	s.refused(err, onboard.CodeRevoked)
	s.hub.Observe = nil
	e := s.lastEvent("enrolment.refused")
	if e.Device == "" || e.Device == is.ID {
		t.Errorf("the event names %q, want another id than the deleted device's", e.Device)
	}
	back, _ := s.onboarded(d, s.token)
	if back.ID == is.ID {
		t.Error("the deleted device's id came back")
	}
}

func TestActivationIsChecked(t *testing.T) {
	s := newScene(t)
	d := s.device()
	c := s.enrolled(d, s.token)
	hash := c.IDevIDHash()
	good := wire.ActivationProof(c.Keys, exporter, hash)
	try := func(hash [32]byte, exporter, proof []byte) error {
		_, err := s.hub.Activate(s.Context(), hash, exporter, proof, addr)
		return err
	}
	s.refused(try([32]byte{1}, exporter, good), onboard.CodeUnknownCert)
	equal(s, "events of an unknown certificate", len(s.store.events), 0)
	s.refused(try(hash, bytes.Repeat([]byte("y"), wire.ExporterSize), good), onboard.CodeActivation)
	s.refused(try(hash, exporter, append([]byte{good[0] ^ 1}, good[1:]...)), onboard.CodeActivation)
	e := s.lastEvent("activation.refused")
	equal(s, "event", e, store.Event{Time: s.now, Kind: e.Kind, Code: onboard.CodeActivation, Owner: s.anne.ID, Token: s.token.ID,
		Device: c.IDevID.Subject.SerialNumber, Addr: addr, Message: e.Message, Unproven: true})
	equal(s, "devices", len(s.store.devices), 0)
	s.must(try(hash, exporter, good))
}

// If something changes between the reply and the activation, for example because the enrolment
// expires or the owner disables the token, Activate returns the right refusal.
func TestActivationFollowsTheState(t *testing.T) {
	for name, c := range map[string]struct {
		code   string
		change func(s *scene, d *fleet.Device, c *fleet.Certificates)
	}{
		"expired": {onboard.CodeExpired, func(s *scene, _ *fleet.Device, _ *fleet.Certificates) { s.now = s.now.Add(onboard.PendingFor) }},
		"removed while it was activated": {onboard.CodeExpired, func(s *scene, _ *fleet.Device, _ *fleet.Certificates) {
			s.store.before = func(method string) {
				if method == "Activate" {
					s.store.enrolments = map[store.Hash]*enrolment{}
				}
			}
		}},
		"superseded": {onboard.CodeSuperseded, func(s *scene, d *fleet.Device, _ *fleet.Certificates) { s.onboarded(d, s.token) }},
		"deleted": {onboard.CodeRevoked, func(s *scene, d *fleet.Device, _ *fleet.Certificates) {
			is, _ := s.onboarded(d, s.token)
			s.must(s.store.DeleteDevice(s.Context(), s.anne.ID, is.ID, s.now))
		}},
		"token disabled": {onboard.CodeTokenUnusable, func(s *scene, _ *fleet.Device, _ *fleet.Certificates) {
			s.must(s.store.DisableJoinToken(s.Context(), s.anne.ID, s.token.ID))
		}},
		"token used up": {onboard.CodeTokenUsedUp, func(s *scene, _ *fleet.Device, _ *fleet.Certificates) {
			row := s.store.tokens[s.token.ID]
			row.MaxUses, row.Uses = 1, 1
			s.store.tokens[s.token.ID] = row
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			d := s.device()
			certs := s.enrolled(d, s.token)
			c.change(s, d, certs)
			_, err := s.activate(certs)
			s.refused(err, c.code)
			e := s.lastEvent("activation.refused")
			equal(s, "code and owner", e.Code+" "+e.Owner, c.code+" "+s.anne.ID)
			equal(s, "device", e.Device, certs.IDevID.Subject.SerialNumber)
		})
	}
}

func TestTPMOfAnotherOwnerIsRefusedAndItsOwnerWarnedOnce(t *testing.T) {
	s := newScene(t)
	d := s.device()
	is, _ := s.onboarded(d, s.token)
	marys := s.newToken(store.JoinToken{Owner: s.mary.ID})
	for range 2 {
		_, err := s.activate(s.enrolled(d, marys))
		s.refused(err, onboard.CodeOtherOwner)
		e := s.lastEvent("activation.refused")
		equal(s, "owner of the refusal's event", e.Owner, s.mary.ID)
		if e.Device == is.ID || e.Device == "" {
			t.Errorf("the event tells mary about device %q of anne", e.Device)
		}
	}
	var warnings []store.Event
	for _, e := range s.store.events {
		if e.Kind == "device.other-owner-tried" {
			warnings = append(warnings, e)
		}
	}
	equal(s, "warnings", len(warnings), 1)
	w := warnings[0]
	equal(s, "warning", w, store.Event{Time: s.now, Kind: w.Kind, Code: onboard.CodeOtherOwner, Owner: s.anne.ID, Device: is.ID, Addr: addr, Message: w.Message})
}

func TestAIKOfAnotherTPMIsRefused(t *testing.T) {
	for _, other := range []bool{false, true} {
		s := newSceneNow(t)
		d := s.device()
		is, _ := s.onboarded(d, s.token)
		thief := s.device()
		thief.IAK, thief.IDevID = d.IAK, d.IDevID // the thief has the AIK and IDevID key of the TPM of `d`, and another EK
		token, owner := s.token, s.anne
		if other {
			token, owner = s.newToken(store.JoinToken{Owner: s.mary.ID}), s.mary
		}
		_, err := s.activate(s.enrolled(thief, token))
		s.refused(err, onboard.CodeOtherEK)
		equal(s, "owner of the refusal's event", s.lastEvent("activation.refused").Owner, owner.ID)
		warned := 0
		for _, e := range s.store.events {
			if e.Kind == "device.other-owner-tried" {
				warned++
				equal(s, "warning", e.Code+" "+e.Owner+" "+e.Device, onboard.CodeOtherEK+" "+s.anne.ID+" "+is.ID)
			}
		}
		equal(s, "warnings", warned, map[bool]int{false: 0, true: 1}[other])
	}
}

// If a second owner tries to onboard the TPM of the first owner's device, the hub refuses the
// request and warns the first owner. If the warning cannot be stored, the refusal stays the same.
// If the first owner has released the TPM in between, the hub warns nobody.
func TestWarningNeedsAnOwner(t *testing.T) {
	s := newScene(t)
	d := s.device()
	s.onboarded(d, s.token)
	marys := s.newToken(store.JoinToken{Owner: s.mary.ID})
	for _, method := range []string{"TPM", "AppendEventOnce"} {
		c := s.enrolled(d, marys)
		s.store.before = func(called string) {
			if called == method {
				s.store.failAt, s.store.failure = len(s.store.calls)+1, errBroken
			}
		}
		_, err := s.activate(c)
		s.refused(err, onboard.CodeOtherOwner)
		s.store.before, s.store.failAt = nil, 0
		if method == "AppendEventOnce" {
			s.logged("audit trail")
		}
	}
	c := s.enrolled(d, marys)
	s.store.before = func(called string) { // the first owner releases the TPM just after the refusal
		if called == "TPM" {
			for ek, tpm := range s.store.tpms {
				tpm.Owner, tpm.DeviceID = "", ""
				s.store.tpms[ek] = tpm
			}
		}
	}
	_, err := s.activate(c)
	s.refused(err, onboard.CodeOtherOwner)
	equal(s, "warnings", s.store.count("AppendEventOnce"), 1) // the only call is the call that failed above
	s.store.before = func(called string) {
		if called == "AIK" {
			s.store.failAt, s.store.failure = len(s.store.calls)+1, errBroken
		}
	}
	thief := s.device()
	thief.IAK, thief.IDevID = d.IAK, d.IDevID
	c = s.enrolled(thief, marys)
	_, err = s.activate(c)
	s.refused(err, onboard.CodeOtherEK)
	equal(s, "warnings", s.store.count("AppendEventOnce"), 1)
}

func TestUnknownErrorOfTheStoreIsNotARefusal(t *testing.T) {
	t.Parallel()
	breakAtEach(t, func(s *scene) func() error {
		d := s.device()
		s.onboarded(d, s.token)
		c := s.enrolled(d, s.token)
		return func() error { _, err := s.activate(c); return err }
	}, "Clone", "PutClone")
	breakAtEach(t, func(s *scene) func() error {
		d := s.device()
		return func() error { return s.enrol(d) }
	})
	breakAtEach(t, func(s *scene) func() error {
		d := s.withoutCertificate()
		s.policy(s.anne.ID, "version: 1\nunlisted_ek: ask\n")
		s.must(s.store.PutEKList(s.Context(), s.anne.ID, []store.ListedEK{{Cert: []byte{1}}}))
		return func() error {
			err := s.enrol(d)
			var w *onboard.WaitingError
			if errors.As(err, &w) {
				return nil
			}
			return err
		}
	}, "AppendEvent")
}

// The hub records the marks in a device's EK certificate, by which it can find other EKs of the
// same TPM.
func TestCertificatesTellTheChipTheyAreOf(t *testing.T) {
	s := newScene(t)
	d := s.device()
	is, _ := s.onboarded(d, s.token)
	marked := 0
	for _, e := range s.store.events {
		if e.Kind == store.EventSameChip && e.Device == is.ID {
			marked++
		}
	}
	cert, err := tcg.ParseEKCertificate(d.EKCert)
	s.must(err)
	equal(s, "marks", marked, len(evidence.TPMMarks(cert)))
	// A certificate of an unknown maker gives the device no TPM marks, because anyone can make
	// such a certificate.
	evil, err := fleet.NewMaker("evil", fleet.MakerOptions{})
	s.must(err)
	stranger, err := fleet.New(evil, "H-2")
	s.must(err)
	s.must(s.store.PutEKList(s.Context(), s.anne.ID, []store.ListedEK{{Key: ptr(s.ekHash(stranger))}}))
	is, _ = s.onboarded(stranger, s.token)
	for _, e := range s.store.events {
		if e.Kind == store.EventSameChip && e.Device == is.ID {
			t.Error("the certificate of an unknown maker was believed")
		}
	}
}

// If a stored certificate cannot be read, the device gets no TPM marks, but is activated anyway.
func TestUnreadableCertificateHasNoMarks(t *testing.T) {
	s := newScene(t)
	c := s.enrolled(s.device(), s.token)
	s.store.byCertificate(c.IDevIDHash()).EKCertificate = []byte("?")
	s.hub = s.replica() // the hub that stored the enrolment does not read the certificate again
	_, err := s.activate(c)
	s.must(err)
	equal(s, "events", len(s.store.events), 0)
}

// If a device without an enrolment already has the id that the TPM's device would get, the
// activation fails with an internal error, not with a refusal, and the existing device keeps its
// id.
func TestDeviceWithoutAnEnrolmentKeepsItsID(t *testing.T) {
	s := newScene(t)
	c := s.enrolled(s.device(), s.token)
	id := c.IDevID.Subject.SerialNumber
	s.store.devices[id] = store.Device{ID: id, Owner: s.anne.ID}
	_, err := s.activate(c)
	equal(s, "error", errors.Is(err, store.ErrExists), true)
}

func ptr[V any](v V) *V { return &v }

func TestNickIsMadeOfTheID(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]string{
		"000000000000000000000000": "able-anchor-0000", "41413fa20000000000000000": "amber-auk-3fa2", "ffff": "ffff", "not hexadecimal": "not hexadecimal", "41413fa2xx": "41413fa2xx",
	} {
		if got := onboard.Nick(id); got != want {
			t.Errorf("%s: %s, want %s", id, got, want)
		}
	}
}

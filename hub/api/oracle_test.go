package api_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"strings"
	"testing"

	"gangway/hub/onboard"
	"gangway/internal/brief"
	"gangway/internal/fleet"
	"gangway/wire"
)

// Mallory has a join token and knows the public EK of Ada's device. The hub's answers do not show
// Mallory the id of the device, or whether the hub has the device.
func TestPublicEKTellsNothingOfItsDevice(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	mallory := s.Account(t, "mallory")
	tok := s.Token(t, mallory, nil)
	eve := s.person(t, "mallory")
	// look returns all data that Mallory sees: the answer, her events and her waiting devices.
	look := func() string {
		spy := s.device(t) // made-up keys
		spy.Serial = "spy"
		spy.EK, spy.EKCert, spy.Chain = &fleet.Key{Public: s.victim.EK.Public}, s.victim.EK.Public.Raw, nil
		a := s.post(t, must(spy.Request(tok, fleet.RequestChange{}))(t))
		if a.Status != 202 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		_, events := eve.do("GET", "/events", nil)
		_, waiting := eve.do("GET", "/devices/waiting", nil)
		return string(a.Body) + string(events) + string(waiting)
	}
	id := func(seen string) string {
		var w wire.Waiting
		if err := json.NewDecoder(strings.NewReader(seen)).Decode(&w); err != nil {
			t.Fatal(err)
		}
		return w.DeviceID
	}
	before := look()
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	device := s.deviceOf(t, s.victim)
	joined := look()
	if err := s.Store.DeleteDevice(t.Context(), s.Owner.ID, device, s.Now()); err != nil {
		t.Fatal(err)
	}
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	again := s.deviceOf(t, s.victim)
	later := look()
	if id(before) != id(joined) || id(before) != id(later) {
		t.Errorf("the id reveals what happened to the device: %s, %s, %s", id(before), id(joined), id(later))
	}
	for _, seen := range []string{before, joined, later} {
		if strings.Contains(seen, device) || strings.Contains(seen, again) {
			t.Errorf("mallory sees the device's id: %s", brief.Of(seen))
		}
	}
	// Mallory denies the machine. The hub then refuses another request with the same EK, with the
	// code of a denial.
	decide(eve, id(later), "deny", 200)
	spy := s.device(t)
	spy.EK, spy.EKCert, spy.Chain = &fleet.Key{Public: s.victim.EK.Public}, s.victim.EK.Public.Raw, nil
	refused(t, s.post(t, must(spy.Request(tok, fleet.RequestChange{}))(t)), 403, onboard.CodeDenied)
	// The TPM itself sends a request with Mallory's token. The request is refused, and the refusal
	// does not show Mallory the device's id.
	decide(eve, id(later), "approve", 200)
	_, err := must(s.victim.WithNewIdentity())(t).Onboard(t.Context(), s.client, tok)
	if err == nil || !strings.Contains(err.Error(), onboard.CodeOtherOwner) {
		t.Fatalf("%v", err)
	}
	if _, events := eve.do("GET", "/events", nil); bytes.Contains(events, []byte(again)) || !bytes.Contains(events, []byte(onboard.CodeOtherOwner)) || !bytes.Contains(events, []byte(onboard.CodeDenied)) {
		t.Errorf("%s", events)
	}
}

// Mallory has sent a request with the public EK of Ada's device. If Ada deletes the device, the
// hub's answers to Mallory do not change.
func TestDeletedDeviceIsNotSeenByAnothersPendingRequest(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	mallory := s.Account(t, "mallory")
	tok := s.Token(t, mallory, nil)
	eve := s.person(t, "mallory")
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	id := s.deviceOf(t, s.victim)
	spy := must(s.victim.WithNewIdentity())(t)
	spy.EK = &fleet.Key{Public: s.victim.EK.Public}
	body := must(spy.Request(tok, fleet.RequestChange{}))(t)
	if a := s.post(t, body); a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	// Mallory approves the machine of this request, and the hub answers the request. At the end of
	// the test, Mallory denies the machine.
	bare := *spy
	bare.EKCert, bare.Chain = bare.EK.Public.Raw, nil
	undecided := must(bare.Request(tok, fleet.RequestChange{}))(t)
	w := waits(t, s.post(t, undecided), "ek-certificate-none")
	decide(eve, w.DeviceID, "approve", 200)
	if a := s.post(t, undecided); a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	if err := s.Store.DeleteDevice(t.Context(), s.Owner.ID, id, s.Now()); err != nil {
		t.Fatal(err)
	}
	for name, request := range map[string][]byte{"with the certificate": body, "approved": undecided} {
		if a := s.post(t, request); a.Status != 200 {
			t.Errorf("%s, after the deletion: %d %s", name, a.Status, a.Body)
		}
	}
	decide(eve, w.DeviceID, "deny", 200)
	if a := s.post(t, undecided); a.Status == 200 {
		t.Errorf("after a denial: status %d", a.Status)
	}
	if _, events := eve.do("GET", "/events", nil); bytes.Contains(events, []byte(id)) {
		t.Errorf("mallory sees the device's id: %s", events)
	}
}

// Anyone can find a certificate in the AIK registry by the IAK's name. Only the device and its
// owner can find the certificate by the device's id. Other callers get the same 404 as for an
// unknown id.
func TestAIKCertificateByIDIsTheOwnersAndTheDevices(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	certs := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	id := s.deviceOf(t, s.victim)
	s.Account(t, "mallory")
	other, _ := s.onboarded(t, s.tok)
	device := s.asDevice(t, s.victim, certs)
	byToken := s.person(t, "")
	byToken.token = want[struct{ Token string }](device, "POST", "/auth/x509/login", nil, 200).Token
	bad := s.person(t, "")
	bad.token = "nonsense"
	at := "/aca/certs/" + id + ".crt"
	for name, p := range map[string]*person{"owner": s.person(t, "ada"), "device": device, "device's token": byToken} {
		if status, body := p.do("GET", at, nil); status != 200 || !bytes.Equal(body, certs.IAK.Raw) {
			t.Errorf("%s: %d", name, status)
		}
	}
	anonymous := s.person(t, "")
	if status, body := anonymous.do("GET", "/aca/certs/"+hex.EncodeToString(s.victim.IAK.Name())+".crt", nil); status != 200 || !bytes.Equal(body, certs.IAK.Raw) {
		t.Errorf("by the IAK's name: status %d", status)
	}
	if got := certs.IAK.URIs[0].String(); got != s.URL+"/aca/certs/"+hex.EncodeToString(s.victim.IAK.Name())+".crt" {
		t.Errorf("its address is %s", got)
	}
	for name, p := range map[string]*person{"nobody": anonymous, "another owner": s.person(t, "mallory"), "another device of the owner": other, "a bad token": bad} {
		status, body, h := p.request("GET", at, nil, nil)
		for _, unknown := range []string{strings.Repeat("0", 24) + ".crt", strings.Repeat("0", 68) + ".crt", "x", id, "zz.crt"} {
			s2, b2, h2 := p.request("GET", "/aca/certs/"+unknown, nil, nil)
			h.Del("Date")
			h2.Del("Date")
			if status != 404 || s2 != 404 || !bytes.Equal(body, b2) || len(h) != len(h2) {
				t.Errorf("%s: %d %s %s; of %s: %d %s %s", name, status, body, brief.Of(h), unknown, s2, b2, brief.Of(h2))
			}
		}
	}
}

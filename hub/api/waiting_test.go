package api_test

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
	"gangway/internal/race"
	"gangway/tcg"
	"gangway/wire"
)

// uncertified returns a device with a TPM that has no EK certificate.
func (s *scene) uncertified(t testing.TB) *fleet.Device {
	t.Helper()
	return must(s.victim.WithoutCertificate())(t)
}

// The function `waits` checks that an answer tells a machine to wait for a person's decision about
// the question with the code `code`. It returns the decoded answer.
func waits(t testing.TB, a *fleet.Answer, code string) wire.Waiting {
	t.Helper()
	var w wire.Waiting
	if err := json.Unmarshal(a.Body, &w); err != nil || a.Status != http.StatusAccepted || w.Status != wire.WaitingStatus || w.Code != code || w.Hint == "" || w.RetryAfter < 1 {
		t.Fatalf("answered %d %s, want 202 %q", a.Status, a.Body, code)
	}
	return w
}

func (s *scene) request(t testing.TB, d *fleet.Device) []byte {
	t.Helper()
	return must(d.Request(s.tok, fleet.RequestChange{}))(t)
}

func decide(p *person, id, decision string, status int) []byte {
	p.t.Helper()
	got, body := p.do("POST", "/devices/"+id+"/"+decision, "{}")
	if got != status {
		p.t.Fatalf("%s: %d %s", decision, got, body)
	}
	return body
}

func TestMachineWithoutCertificateWaitsForItsOwner(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	d := s.uncertified(t)
	body := s.request(t, d)
	ada := s.person(t, "ada")
	w := waits(t, s.post(t, body), "ek-certificate-none")
	s.boundNothing(t) // a waiting device uses no token and creates no device
	list := want[[]api.WaitingView](ada, "GET", "/devices/waiting", nil, 200)
	if len(list) != 1 || list[0].ID != w.DeviceID || list[0].EK != w.EK || list[0].Machine.Serial != d.Serial || list[0].Status != "waiting" || len(list[0].Verdict.Checks) < 8 {
		t.Fatalf("%s", brief.Of(list))
	}
	events := want[[]api.EventView](ada, "GET", "/events", nil, 200)
	if len(events) == 0 || events[0].Kind != "device.waiting" || !strings.Contains(events[0].Message, d.Serial) {
		t.Fatalf("the owner got no event: %s", brief.Of(events))
	}
	// If the device sends its request again, nothing changes.
	waits(t, s.post(t, body), "ek-certificate-none")
	if again := want[[]api.EventView](ada, "GET", "/events", nil, 200); len(again) != len(events) {
		t.Errorf("%d events, then %d", len(events), len(again))
	}
	decide(ada, w.DeviceID, "approve", 200)
	must(d.Onboard(t.Context(), s.client, s.tok))(t)
	devices := s.Devices(t, s.Owner)
	if len(devices) != 1 || devices[0].ID == w.DeviceID || s.Uses(t, s.tok) != 1 {
		t.Fatalf("%s", brief.Of(devices))
	}
	e := want[api.EvidenceView](ada, "GET", "/devices/"+devices[0].ID+"/evidence", nil, 200)
	last := e.Verdict.Checks[len(e.Verdict.Checks)-1]
	if !e.Verdict.Accepted() || last.Check != "approval" || !strings.HasPrefix(last.Detail, "ada approved this EK on ") {
		t.Errorf("verdict: %s", brief.Of(e.Verdict))
	}
	if list := want[[]api.WaitingView](ada, "GET", "/devices/waiting", nil, 200); len(list) != 0 {
		t.Errorf("the device still waits: %s", brief.Of(list))
	}
}

// If a TPM has a certificate from an unknown maker, the machine waits for its owner's decision,
// because anyone can make such a certificate.
func TestUnknownMakersTPMWaits(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	evil := must(impostorMaker())(t)
	d := must(fleet.New(evil, "H-2"))(t)
	w := waits(t, s.post(t, s.request(t, d)), "ek-chain-untrusted")
	s.boundNothing(t)
	decide(s.person(t, "ada"), w.DeviceID, "approve", 200)
	must(d.Onboard(t.Context(), s.client, s.tok))(t)
}

// The approval of one machine's EK does not admit a machine with a different EK.
func TestApprovalIsOfOneEK(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	mine, other := s.uncertified(t), s.uncertified(t)
	w := waits(t, s.post(t, s.request(t, mine)), "ek-certificate-none")
	decide(s.person(t, "ada"), w.DeviceID, "approve", 200)
	other.Serial, other.IAK, other.IDevID = mine.Serial, mine.IAK, mine.IDevID
	waits(t, s.post(t, s.request(t, other)), "ek-certificate-none")
}

// EKs are public. If a stranger sends an approved EK without having its TPM, the stranger gets a
// reply that only the approved TPM can decrypt.
func TestStrangerWithAnApprovedEKGetsNothing(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	mine := s.uncertified(t)
	w := waits(t, s.post(t, s.request(t, mine)), "ek-certificate-none")
	decide(s.person(t, "ada"), w.DeviceID, "approve", 200)
	stranger := must(mine.WithNewIdentity())(t)
	body := s.request(t, stranger)
	a := s.post(t, body)
	if a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	stranger.EK = s.uncertified(t).EK // the EK that the stranger really has
	if _, err := stranger.Open(body, a.Body); err == nil {
		t.Fatal("the stranger opened the reply")
	}
	s.boundNothing(t)
}

// If a device sends the EK certificate of another TPM, the hub refuses the device without asking
// the owner.
func TestCertificateOfAnotherTPMIsNeverAQuestion(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	d := s.uncertified(t)
	d.EKCert = s.victim.EKCert
	ada := s.person(t, "ada")
	refused(t, s.post(t, s.request(t, d)), 403, "ek-key-mismatch")
	events := want[[]api.EventView](ada, "GET", "/events", nil, 200)
	if len(events) == 0 || events[0].Code != "ek-key-mismatch" {
		t.Errorf("its owner got no event: %s", brief.Of(events))
	}
}

func TestDeniedMachineStaysOut(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	d := s.uncertified(t)
	w := waits(t, s.post(t, s.request(t, d)), "ek-certificate-none")
	decide(ada, w.DeviceID, "deny", 200)
	refused(t, s.post(t, s.request(t, d)), 403, onboard.CodeDenied)
	// The denial still applies if the machine's evidence changes.
	refused(t, s.post(t, s.request(t, must(d.WithNewIdentity())(t))), 403, onboard.CodeDenied)
	decide(ada, w.DeviceID, "approve", 200) // a person may change the decision
	must(d.Onboard(t.Context(), s.client, s.tok))(t)
}

// If an owner approves a machine and denies it after the hub has issued its certificates, the
// machine cannot activate them.
func TestDenialRevokesWhatAnApprovalLetOut(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	d := s.uncertified(t)
	body := s.request(t, d)
	w := waits(t, s.post(t, body), "ek-certificate-none")
	decide(ada, w.DeviceID, "approve", 200)
	certs := must(d.Enrol(t.Context(), s.client, body))(t) // issued, not activated
	decide(ada, w.DeviceID, "deny", 200)
	a := must(d.Activate(t.Context(), s.client, certs))(t)
	refused(t, a, 410, onboard.CodeRevoked)
	s.boundNothing(t)
}

// After a device was deleted, its owner must approve the machine again, because the approval was
// for the deleted device.
func TestDeletedDeviceMustBeApprovedAnew(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	d := s.uncertified(t)
	w := waits(t, s.post(t, s.request(t, d)), "ek-certificate-none")
	decide(ada, w.DeviceID, "approve", 200)
	must(d.Onboard(t.Context(), s.client, s.tok))(t)
	want[api.DeviceView](ada, "DELETE", "/devices/"+s.deviceOf(t, d), nil, 200)
	waits(t, s.post(t, s.request(t, d)), "ek-certificate-none")
}

func TestOneOwnerDoesNotDecideForAnother(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	eve := s.Account(t, "eve")
	d := s.uncertified(t)
	w := waits(t, s.post(t, s.request(t, d)), "ek-certificate-none")
	p := s.person(t, "eve")
	if list := want[[]api.WaitingView](p, "GET", "/devices/waiting", nil, 200); len(list) != 0 {
		t.Fatalf("eve sees %s", brief.Of(list))
	}
	decide(p, w.DeviceID, "approve", 404)
	// With Eve's token, the same machine waits for Eve's decision too. Eve's approval is only for
	// her own devices.
	theirs := s.Token(t, eve, nil)
	waits(t, s.post(t, must(d.Request(theirs, fleet.RequestChange{}))(t)), "ek-certificate-none")
	decide(p, w.DeviceID, "approve", 200)
	waits(t, s.post(t, s.request(t, d)), "ek-certificate-none")
}

func TestFloodOfWaitingMachinesIsBounded(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	s := newScene(t)
	now := s.Now()
	for i := range onboard.MaxWaiting {
		w := store.WaitingDevice{Owner: s.Owner.ID, EK: store.Hash{byte(i), byte(i >> 8), 1}, DeviceID: fmt.Sprintf("%024x", i), Codes: []string{"policy"},
			Request: []byte{}, Verdict: []byte("{}"), Since: now, LastSeen: now, Expires: now.Add(time.Hour)}
		if _, err := s.Store.PutWaiting(t.Context(), w, onboard.MaxWaiting); err != nil {
			t.Fatal(err)
		}
	}
	refused(t, s.post(t, s.request(t, s.uncertified(t))), 403, onboard.CodeFull)
	// The hub still accepts a device that needs no decision.
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	s.Advance(2 * time.Hour)
	waits(t, s.post(t, s.request(t, s.uncertified(t))), "ek-certificate-none")
}

func TestSoftwareTPMIsRefusedUnlessNamed(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Policy(t, store.HubWide, "version: 1\n")
	refused(t, s.post(t, s.request(t, s.victim)), 403, "tpm-software")
	s.Policy(t, store.HubWide, "version: 1\nsoftware_tpms: [Software Emulation]\n") // named by the TPM's model
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	// An owner's policy can shorten the list of software TPMs in the hub's policy, but cannot
	// extend it.
	s.Policy(t, s.Owner.ID, "version: 1\nsoftware_tpms: []\n")
	refused(t, s.post(t, s.request(t, s.victim)), 403, "tpm-software")
	s.Policy(t, store.HubWide, "version: 1\n")
	s.Policy(t, s.Owner.ID, "version: 1\nsoftware_tpms: [FAKE]\n")
	refused(t, s.post(t, s.request(t, s.victim)), 403, "tpm-software")
}

// A changed policy applies to the next request, without a restart.
func TestRulesOfMakerModelAndFirmware(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	const lab = hubtest.LabPolicy
	post := func() *fleet.Answer { return s.post(t, s.request(t, s.victim)) }
	for _, c := range []struct{ name, rules, code, words string }{
		{"maker", `[{maker: fake, then: refuse, reason: "we buy none of those"}]`, "policy", "(reason: we buy none of those)"},
		{"model", `[{model: "soft*", then: refuse}]`, "policy", "TPMs of model soft* are refused"},
		{"another maker", `[{maker: IFX, then: refuse}]`, "", ""},
		{"firmware", `[{maker: FAKE, firmware_below: 0.2, then: refuse}]`, "policy", "firmware below 0.2.0.0"},
		{"firmware new enough", `[{maker: FAKE, firmware_below: "0.1", then: refuse}]`, "", ""},
		{"first that fits", `[{maker: FAKE, then: accept}, {then: refuse}]`, "", ""},
		{"all others", `[{maker: IFX, then: accept}, {then: refuse}]`, "policy", "all TPMs are refused"},
	} {
		for _, who := range []string{store.HubWide, s.Owner.ID} {
			s.Policy(t, store.HubWide, lab)
			s.Policy(t, s.Owner.ID, "version: 1\n")
			text := "version: 1\nrules: " + c.rules
			if who == store.HubWide {
				text = lab + "rules: " + c.rules
			}
			s.Policy(t, who, text)
			a := post()
			if c.code == "" {
				if a.Status != 200 {
					t.Errorf("%s: %d %s", c.name, a.Status, a.Body)
				}
				continue
			}
			refused(t, a, 403, c.code)
			if !strings.Contains(string(a.Body), c.words) {
				t.Errorf("%s: %s does not say %q", c.name, a.Body, c.words)
			}
		}
	}
	// A rule of a policy may leave the decision to the owner.
	s.Policy(t, s.Owner.ID, `{"version": 1, "rules": [{"maker": "FAKE", "then": "ask", "reason": "they are for the lab"}]}`)
	w := waits(t, post(), "policy")
	decide(s.person(t, "ada"), w.DeviceID, "approve", 200)
	if a := post(); a.Status != 200 {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}

// With an owner's EK list, the hub accepts only the machines on that list.
func TestEKListKeepsOthersOut(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	cert := must(tcg.ParseEKCertificate(s.victim.EKCert))(t)
	hash := fmt.Sprintf("%x", must(tcg.KeyHash(cert.PublicKey))(t))
	other := s.device(t)
	for _, list := range []string{"ek_sha256,note\n" + hash + ",pallet 7\n", fmt.Sprintf(`[{"serial": "%x", "note": "pallet 7"}]`, cert.Certificate.SerialNumber)} {
		want[map[string]int](ada, "PUT", "/policy/ek-list", list, 200)
		refused(t, s.post(t, s.request(t, other)), 403, "ek-unlisted")
		if a := s.post(t, s.request(t, s.victim)); a.Status != 200 {
			t.Fatalf("%s: %d %s", list, a.Status, a.Body)
		}
	}
	want[map[string]any](ada, "PUT", "/policy", "version: 1\nunlisted_ek: ask\n", 200)
	waits(t, s.post(t, s.request(t, other)), "ek-unlisted")
	want[map[string]int](ada, "DELETE", "/policy/ek-list", nil, 200)
	must(other.Onboard(t.Context(), s.client, s.tok))(t)
}

func TestListedEKNeedsNoApproval(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	d := s.uncertified(t)
	key := must(d.EK.Public.Key())(t)
	want[map[string]int](s.person(t, "ada"), "PUT", "/policy/ek-list", fmt.Sprintf("%x\n", must(tcg.KeyHash(key))(t)), 200)
	must(d.Onboard(t.Context(), s.client, s.tok))(t)
}

// A serial number on the EK list counts only in a trusted certificate, because anyone can make a
// certificate with that serial number.
func TestListedSerialOfAnUnknownMakerIsWorthNothing(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	evil := must(impostorMaker())(t)
	d := must(fleet.New(evil, "H-2"))(t)
	serial := must(x509.ParseCertificate(d.EKCert))(t).SerialNumber
	ada := s.person(t, "ada")
	want[map[string]int](ada, "PUT", "/policy/ek-list", fmt.Sprintf("serial\n%x\n", serial), 200)
	refused(t, s.post(t, s.request(t, d)), 403, "ek-unlisted")
}

// If both the operator and the owner have an EK list, an EK must be on both.
func TestHubsAndOwnersEKListsBothCount(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	key := must(tcg.KeyHash(must(tcg.ParseEKCertificate(s.victim.EKCert))(t).PublicKey))(t)
	h, other := store.Hash(key), store.Hash{1}
	put := func(owner string, ek store.Hash) {
		if err := s.Store.PutEKList(t.Context(), owner, []store.ListedEK{{Key: &ek}}); err != nil {
			t.Fatal(err)
		}
	}
	put(store.HubWide, other)
	put(s.Owner.ID, h)
	refused(t, s.post(t, s.request(t, s.victim)), 403, "ek-unlisted")
	put(store.HubWide, h)
	put(s.Owner.ID, other)
	refused(t, s.post(t, s.request(t, s.victim)), 403, "ek-unlisted")
	put(s.Owner.ID, h)
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
}

// If a policy cannot be read, the hub accepts no device.
func TestUnreadablePolicyLetsNobodyIn(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Policy(t, store.HubWide, "version: 99\n")
	if a := s.post(t, s.request(t, s.victim)); a.Status != 500 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	s.boundNothing(t)
}

// The owner's events name the machine and its join token. For a machine without an EK certificate,
// they cannot name the TPM's maker, and say that there is no certificate.
func TestEventsNameTheMachineAndItsToken(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	tok := s.Token(t, s.Owner, func(j *store.JoinToken) { j.MaxUses, j.Nick = 1, "hall 3" })
	first, second := s.uncertified(t), s.device(t)
	second.Model, second.Serial = "Gate\u202e controller", "SN-77"
	w := waits(t, s.post(t, must(first.Request(tok, fleet.RequestChange{}))(t)), "ek-certificate-none")
	late := must(second.Enrol(t.Context(), s.client, must(second.Request(tok, fleet.RequestChange{}))(t)))(t)
	decide(s.person(t, "ada"), w.DeviceID, "approve", 200)
	must(first.Onboard(t.Context(), s.client, tok))(t)
	refused(t, must(second.Activate(t.Context(), s.client, late))(t), 403, onboard.CodeTokenUsedUp)
	for kind, want := range map[string][]string{
		"device.activated":   {"a TPM without an EK certificate, join token " + tok.ID},
		"activation.refused": {"reached its maximum number of devices", "Gate", "SN-77", `"hall 3" (` + tok.ID + ")"},
	} {
		events := must(s.Store.Events(t.Context(), store.EventFilter{Owner: s.Owner.ID, Kind: kind}))(t)
		if len(events) == 0 {
			t.Fatalf("%s: no event", kind)
		}
		for _, one := range want {
			if !strings.Contains(events[0].Message, one) {
				t.Errorf("%s: %q lacks %q", kind, events[0].Message, one)
			}
		}
		if strings.ContainsRune(events[0].Message, '\u202e') || strings.Contains(events[0].Message, "TPM  ,") {
			t.Errorf("%s: %q", kind, events[0].Message)
		}
	}
}

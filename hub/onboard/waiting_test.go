package onboard_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/internal/fleet"
)

const noCertificate = "ek-certificate-none"

func TestDeviceWaitsForItsOwner(t *testing.T) {
	s := newScene(t)
	d := s.withoutCertificate()
	w := s.waits(s.enrol(d), noCertificate)
	equal(s, "retry", w.RetryAfter, 2*time.Second)
	equal(s, "EK", w.EK, s.ekHash(d))
	if !strings.Contains(w.Error(), w.DeviceID) {
		t.Errorf("the error %q does not name the device", w)
	}
	equal(s, "enrolments", len(s.store.enrolments), 0)
	row := s.store.waiting[waitingKey(s.anne.ID, w.EK)]
	equal(s, "row", []any{row.DeviceID, row.TokenID, row.Codes, row.State, row.Addr, row.ProdSerial, row.Since, row.Expires},
		[]any{w.DeviceID, s.token.ID, []string{noCertificate}, store.Undecided, addr, d.Serial, s.now, s.now.Add(onboard.WaitFor)})
	if len(row.Request) == 0 || len(row.Verdict) == 0 {
		t.Error("the row lacks its evidence")
	}
	e := s.lastEvent("device.waiting")
	equal(s, "event", []any{e.Code, e.Owner, e.Token, e.Device, e.Addr, e.Unproven}, []any{noCertificate, s.anne.ID, s.token.ID, w.DeviceID, addr, true})

	// An EK has the same waiting id with every owner. The device gets another id when it onboards.
	marys := s.newToken(store.JoinToken{Owner: s.mary.ID})
	_, err := s.hub.Enrol(t.Context(), s.request(d, marys, fleet.RequestChange{}), addr)
	equal(s, "id at mary's", s.waits(err, noCertificate).DeviceID, w.DeviceID)
	if other := s.waits(s.enrol(s.withoutCertificate()), noCertificate); other.DeviceID == w.DeviceID {
		t.Error("another EK has the same id")
	}
	_, err = s.hub.Decide(t.Context(), s.anne, w.DeviceID, true, []string{noCertificate}, addr)
	s.must(err)
	is, _ := s.onboarded(d, s.token)
	if is.ID == w.DeviceID {
		t.Error("the device has the id that it waited under")
	}
}

// When a waiting device repeats its request, the hub asks it to retry less and less often, and
// stores at most one request per minute.
func TestRetriesSlowDownAndCostNoWrites(t *testing.T) {
	s := newScene(t)
	d := s.withoutCertificate()
	s.token = s.newToken(store.JoinToken{Owner: s.anne.ID, Expires: s.now.Add(2 * onboard.WaitFor)})
	body := s.request(d, s.token, fleet.RequestChange{})
	begin := s.now
	ask := func(after time.Duration, retry time.Duration, writes int) {
		t.Helper()
		s.now = begin.Add(after)
		_, err := s.hub.Enrol(t.Context(), body, addr)
		equal(s, "retry after "+after.String(), s.waits(err, noCertificate).RetryAfter, retry)
		equal(s, "writes after "+after.String(), s.store.count("PutWaiting"), writes)
	}
	ask(0, 2*time.Second, 1)
	ask(59*time.Second, 6*time.Second, 1)
	ask(60*time.Second, 6*time.Second, 2)
	ask(100*time.Second, 10*time.Second, 2)
	ask(10*time.Hour, 5*time.Minute, 3)
	equal(s, "events", len(s.store.events), 1)
	body = s.request(d, s.token, fleet.RequestChange{}) // another request of the same device is stored without delay
	ask(10*time.Hour, 5*time.Minute, 4)
	// After a week without a request, the hub has forgotten the device, and the wait begins again.
	ask(10*time.Hour+onboard.WaitFor, 2*time.Second, 5)
	equal(s, "events", len(s.store.events), 2)
}

// An approval does not expire, but covers only the questions that the owner answered. A new
// question makes the device wait again.
func TestApprovalHoldsForTheQuestionsThatWereAsked(t *testing.T) {
	s := newScene(t)
	d := s.withoutCertificate()
	w := s.waits(s.enrol(d), noCertificate)
	row, err := s.hub.Decide(t.Context(), s.anne, w.DeviceID, true, []string{noCertificate}, addr)
	s.must(err)
	equal(s, "by", row.By, "anne")
	e := s.lastEvent("device.approved")
	equal(s, "event", []any{e.Owner, e.Device, e.Token, e.Addr, e.Time}, []any{s.anne.ID, w.DeviceID, s.token.ID, addr, s.now})
	if !strings.HasPrefix(e.Message, "anne approved the EK with SHA-256 ") || !strings.Contains(e.Message, ": a machine (") {
		t.Errorf("the event says %q", e.Message)
	}
	writes := s.store.count("PutWaiting")
	s.must(s.enrol(d))
	equal(s, "writes of an approved device", s.store.count("PutWaiting"), writes)
	s.now = s.now.Add(1000 * time.Hour)
	row2 := s.store.tokens[s.token.ID]
	row2.Expires = s.now.Add(time.Hour)
	s.store.tokens[s.token.ID] = row2
	s.must(s.enrol(d))
	s.policy(s.anne.ID, "version: 1\nrules: [{then: ask}]\n")
	s.waits(s.enrol(d), noCertificate, "policy")
}

// If the owner has denied a device that sent no EK certificate, the hub refuses the device even if
// it sends its EK certificate later.
func TestDenialHoldsWhateverIsShownLater(t *testing.T) {
	s := newScene(t)
	d := s.device()
	bare := *d
	bare.EKCert = d.EK.Public.Raw
	w := s.waits(s.enrol(&bare), noCertificate)
	s.now = s.now.Add(time.Minute)
	_, err := s.hub.Decide(t.Context(), s.anne, w.DeviceID, false, nil, addr)
	s.must(err)
	e := s.lastEvent("device.denied")
	if !strings.HasPrefix(e.Message, "anne denied it: a machine (") || e.Owner != s.anne.ID || e.Device != w.DeviceID {
		t.Errorf("event %+v", e)
	}
	r := s.refused(s.enrol(&bare), onboard.CodeDenied)
	if !strings.Contains(r.Reason, "no EK certificate") || !strings.HasPrefix(r.Reason, "anne denied this machine on "+s.now.Format(time.DateOnly)) {
		t.Errorf("the reason is %q", r.Reason)
	}
	equal(s, "the event's device", s.lastEvent("enrolment.refused").Device, w.DeviceID)
	r = s.refused(s.enrol(d), onboard.CodeDenied)
	if strings.Contains(r.Reason, "no EK certificate") {
		t.Errorf("the reason is %q", r.Reason)
	}
	// The denial applies only to anne's devices, and it expires.
	marys := s.newToken(store.JoinToken{Owner: s.mary.ID, Expires: s.now.Add(2 * onboard.DeniedFor)})
	_, err = s.hub.Enrol(t.Context(), s.request(d, marys, fleet.RequestChange{}), addr)
	s.must(err)
	s.token = s.newToken(store.JoinToken{Owner: s.anne.ID, Expires: s.now.Add(2 * onboard.DeniedFor)})
	s.now = s.now.Add(onboard.DeniedFor - time.Second)
	s.refused(s.enrol(d), onboard.CodeDenied)
	s.now = s.now.Add(time.Second)
	s.must(s.enrol(d))
}

func TestDenialHoldsForARetryAtOnce(t *testing.T) {
	s := newScene(t)
	body := s.request(s.withoutCertificate(), s.token, fleet.RequestChange{})
	_, err := s.hub.Enrol(t.Context(), body, addr)
	w := s.waits(err, noCertificate)
	_, err = s.hub.Decide(t.Context(), s.anne, w.DeviceID, false, nil, addr)
	s.must(err)
	_, err = s.hub.Enrol(t.Context(), body, addr)
	s.refused(err, onboard.CodeDenied)
}

// If a waiting device later sends evidence that raises no questions, for example with its EK
// certificate, the hub enrols it, even if its owner has not decided yet. Only a denial that has not
// expired prevents this.
func TestOnlyADenialRefusesADeviceWithoutQuestions(t *testing.T) {
	s := newScene(t)
	d := s.device()
	bare := *d
	bare.EKCert = d.EK.Public.Raw
	w := s.waits(s.enrol(&bare), noCertificate)
	s.must(s.enrol(d))
	_, err := s.hub.Decide(t.Context(), s.anne, w.DeviceID, true, nil, addr)
	s.must(err)
	s.must(s.enrol(d))
	// A denial counts only until it expires, even if the store still returns it.
	key := waitingKey(s.anne.ID, w.EK)
	row := s.store.waiting[key]
	row.State, row.Expires = store.Denied, s.now // the fake store returns this denial although it has expired
	s.store.waiting[key] = row
	s.must(s.enrol(d))
	row.Expires = s.now.Add(time.Second)
	s.store.waiting[key] = row
	s.refused(s.enrol(d), onboard.CodeDenied)
}

// If the owner decides while the hub judges the device's request, the decision applies to this
// request.
func TestDecisionDuringTheRequestCounts(t *testing.T) {
	for _, approve := range []bool{true, false} {
		s := newSceneNow(t)
		d := s.withoutCertificate()
		w := s.waits(s.enrol(d), noCertificate)
		s.store.before = func(method string) {
			if method == "PutWaiting" {
				s.store.before = nil
				_, err := s.hub.Decide(t.Context(), s.anne, w.DeviceID, approve, nil, addr)
				s.must(err)
			}
		}
		err := s.enrol(d)
		if approve {
			s.must(err)
		} else {
			s.refused(err, onboard.CodeDenied)
		}
	}
}

// The hub judges a request for a long time, for example because it fetches a revocation list.
// Meanwhile the device sends another request, and the owner denies the device. The denial applies
// to the first request too.
func TestDenialDuringALongJudgementCounts(t *testing.T) {
	s := newScene(t)
	d := s.device()
	bare := *d
	bare.EKCert = d.EK.Public.Raw
	key := waitingKey(s.anne.ID, s.waits(s.enrol(&bare), noCertificate).EK)
	denied := s.store.waiting[key]
	denied.State, denied.Expires = store.Denied, s.now.Add(time.Hour)
	delete(s.store.waiting, key)
	s.store.before = func(method string) {
		if method == "TrustedCertificates" {
			s.store.before = nil
			s.store.waiting[key] = denied
			s.now = s.now.Add(time.Second)
		}
	}
	s.store.version++ // so that the request reads the certificates
	s.refused(s.enrol(d), onboard.CodeDenied)
}

func TestWaitingDevicesAreBounded(t *testing.T) {
	s := newScene(t)
	for i := range onboard.MaxWaiting {
		ek := store.Hash{byte(i), byte(i >> 8), 1}
		s.store.waiting[waitingKey(s.anne.ID, ek)] = store.WaitingDevice{Owner: s.anne.ID, EK: ek, State: store.Undecided, Expires: s.now.Add(time.Hour)}
	}
	r := s.refused(s.enrol(s.withoutCertificate()), onboard.CodeFull)
	if !strings.Contains(r.Reason, "1000") || !strings.Contains(r.Reason, "no EK certificate") {
		t.Errorf("the reason is %q", r.Reason)
	}
}

func TestDecideReportsTheStoresErrors(t *testing.T) {
	s := newScene(t)
	_, err := s.hub.Decide(t.Context(), s.anne, "nothing", true, nil, addr)
	equal(s, "unknown", errors.Is(err, store.ErrNotFound), true)
	w := s.waits(s.enrol(s.withoutCertificate()), noCertificate)
	before := len(s.store.events)
	_, err = s.hub.Decide(t.Context(), s.mary, w.DeviceID, true, nil, addr)
	equal(s, "another owner", errors.Is(err, store.ErrNotFound), true)
	_, err = s.hub.Decide(t.Context(), s.anne, w.DeviceID, true, []string{"policy"}, addr)
	equal(s, "other questions", errors.Is(err, store.ErrChanged), true)
	equal(s, "events", len(s.store.events), before)
	equal(s, "answered", slices.Concat(s.store.waiting[waitingKey(s.anne.ID, w.EK)].Answered), []string(nil))
}

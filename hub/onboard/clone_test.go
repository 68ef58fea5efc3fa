package onboard_test

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"gangway/hub/boot"
	"gangway/hub/clone"
	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/internal/fleet"
	"gangway/tcg"
)

func (s *scene) record(device string) (r clone.Record) {
	s.Helper()
	row, ok := s.store.clones[device]
	if !ok {
		s.Fatal("the device has no record")
	}
	s.must(json.Unmarshal(row.Record, &r))
	return r
}

func (s *scene) enrolmentOf(d store.Device) store.Enrolment {
	return s.store.enrolments[d.Enrolment].Enrolment
}

// If a device onboards again with another serial number, the hub suspects a clone, and tells the
// owner.
func TestOnboardingAgainIsCompared(t *testing.T) {
	s := newScene(t)
	d := s.device()
	is, c := s.onboarded(d, s.token)
	_, err := s.activate(c) // activating the same enrolment again is not another onboarding
	s.must(err)
	equal(s, "records after one onboarding", len(s.store.clones), 0)
	first := d.Serial
	s.now = s.now.Add(time.Minute)
	d.Serial = "another"
	s.onboarded(d, s.token)
	r := s.record(is.ID)
	equal(s, "serial numbers", r.Serials, []string{first, "another"})
	equal(s, "boots", len(r.Boots), 1)
	equal(s, "state", s.store.devices[is.ID].Clone, string(clone.Suspected))
	e := s.lastEvent("device.clone-suspected")
	equal(s, "event", []any{e.Code, e.Owner, e.Device, e.Addr, e.Time}, []any{"tpm-clone-suspected", s.anne.ID, is.ID, addr, s.now})
	for _, part := range []string{r.Findings[0].Words, "gangway device cloned " + is.ID, "another machine may run"} {
		if !strings.Contains(e.Message, part) {
			t.Errorf("the event lacks %q: %q", part, e.Message)
		}
	}
	events := len(s.store.events)
	s.onboarded(d, s.token)
	for _, e := range s.store.events[events:] {
		if strings.HasPrefix(e.Kind, "device.clone") {
			t.Errorf("the owner got another event: %s", e.Kind)
		}
	}
}

// If the device's clone record cannot be read, the device onboards again anyway, and the hub logs
// the error.
func TestFailedComparisonDoesNotStopTheDevice(t *testing.T) {
	s := newScene(t)
	d := s.device()
	is, _ := s.onboarded(d, s.token)
	s.store.clones[is.ID] = store.Clone{Device: is.ID, Record: []byte("not JSON")}
	s.onboarded(d, s.token)
	equal(s, "record", string(s.store.clones[is.ID].Record), "not JSON")
	if !strings.Contains(s.log.String(), "record a sighting") {
		t.Errorf("the log is %.300q", s.log)
	}
}

// RecordSighting begins an empty clone record with the device's enrolment. If the record already
// has boots or serial numbers, RecordSighting does not add the enrolment.
func TestRecordBeginsOnce(t *testing.T) {
	s := newScene(t)
	d := s.device()
	d.Serial = "ek-0001" // derived from the EK, so it is not a serial number
	is, _ := s.onboarded(d, s.token)
	for n := range uint64(3) {
		s.now = s.now.Add(time.Minute)
		_, _, err := s.hub.RecordSighting(t.Context(), is, s.enrolmentOf(is), addr, func(r *clone.Record) { r.Add(s.sighting(2, 61_000+60_000*n)) })
		s.must(err)
	}
	r := s.record(is.ID)
	equal(s, "serial numbers, boots and findings", []int{len(r.Serials), len(r.Boots), len(r.Findings)}, []int{0, 2, 0})
	row := s.store.clones[is.ID]
	row.Record = []byte(`{"serials":["one"]}`)
	s.store.clones[is.ID] = row
	_, _, err := s.hub.RecordSighting(t.Context(), is, s.enrolmentOf(is), addr, func(*clone.Record) {})
	s.must(err)
	equal(s, "boots", len(s.record(is.ID).Boots), 0)
}

// The owner gets an event only if the state of the clone record gets worse.
func TestStateThatImprovesIsNotTold(t *testing.T) {
	s := newScene(t)
	is, _ := s.onboarded(s.device(), s.token)
	see := func(weigh func(*clone.Record)) {
		t.Helper()
		_, _, err := s.hub.RecordSighting(t.Context(), is, s.enrolmentOf(is), addr, weigh)
		s.must(err)
	}
	see(func(r *clone.Record) { r.Findings = append(r.Findings, clone.Finding{Code: clone.SerialInBoot}) })
	s.lastEvent("device.clone-suspected")
	events := len(s.store.events)
	see(func(r *clone.Record) { r.Decide(clone.OneMachine, "anne", s.now) })
	see(func(r *clone.Record) { r.Decide(clone.TwoMachines, "anne", s.now) })
	equal(s, "events", len(s.store.events), events)
}

// sighting returns a sighting with these attested counters: the TPM's reset count, and its clock in
// milliseconds.
func (s *scene) sighting(resets uint32, clock uint64) clone.Sighting {
	return clone.Sighting{From: s.now, To: s.now, Addr: addr, Attested: true, Counters: boot.Counters{ClockInfo: tcg.ClockInfo{Clock: clock, ResetCount: resets, Safe: true}}}
}

// If two requests change a clone record at the same time, the second one reads the record again,
// and adds its sighting to the new record.
func TestSightingIsStoredOnceInARace(t *testing.T) {
	s := newScene(t)
	is, _ := s.onboarded(s.device(), s.token)
	weighed := 0
	s.store.before = func(method string) {
		if method == "PutClone" && weighed == 1 {
			s.store.mu.Lock()
			defer s.store.mu.Unlock()
			s.store.clones[is.ID] = store.Clone{Device: is.ID, Version: 7, Record: []byte("{}")}
		}
	}
	version, known, err := s.hub.RecordSighting(t.Context(), is, s.enrolmentOf(is), addr, func(r *clone.Record) { weighed++; r.Add(s.sighting(1, 2000)) })
	s.must(err)
	equal(s, "result", []any{version, known, weighed}, []any{int64(8), false, 2})
}

// A sighting that fits the record adds no finding, so the result `known` of RecordSighting is
// false.
func TestSightingsThatFitAreNotKnown(t *testing.T) {
	s := newScene(t)
	is, _ := s.onboarded(s.device(), s.token)
	see := func(sighting clone.Sighting) bool {
		t.Helper()
		_, known, err := s.hub.RecordSighting(t.Context(), is, s.enrolmentOf(is), addr, func(r *clone.Record) { r.Add(sighting) })
		s.must(err)
		return known
	}
	s.now = s.now.Add(time.Minute)
	equal(s, "a boot that fits", see(s.sighting(2, 61_000)), false)
	equal(s, "boots, with that of the enrolment", len(s.record(is.ID).Boots), 2)
}

func TestCertainCloneIsReported(t *testing.T) {
	s := newScene(t)
	is, _ := s.onboarded(s.device(), s.token)
	weigh := func(code string) func(*clone.Record) {
		return func(r *clone.Record) {
			r.Findings = append(r.Findings, clone.Finding{Code: code, Words: "Words of " + code + "."})
		}
	}
	_, known, err := s.hub.RecordSighting(t.Context(), is, s.enrolmentOf(is), addr, weigh(clone.SerialsAlternate))
	s.must(err)
	equal(s, "known", known, true) // the record has a finding now, so the caller must not warn the owner again
	_, _, err = s.hub.RecordSighting(t.Context(), is, s.enrolmentOf(is), addr, weigh(clone.BootsInterleave))
	s.must(err)
	e := s.lastEvent("device.cloned")
	if e.Code != onboard.CodeCloned || strings.Contains(e.Message, clone.SerialsAlternate) || !strings.Contains(e.Message, clone.BootsInterleave) || !strings.Contains(e.Message, "several machines run with a copy") {
		t.Errorf("event %+v", e)
	}
}

// If the only new finding is that the counters went back, the result `known` of RecordSighting is
// false, so that the caller warns the owner.
func TestCountersBackAloneAreNotKnown(t *testing.T) {
	s := newScene(t)
	is, _ := s.onboarded(s.device(), s.token)
	_, known, err := s.hub.RecordSighting(t.Context(), is, s.enrolmentOf(is), addr, func(r *clone.Record) {
		r.Findings = append(r.Findings, clone.Finding{Code: clone.CountersBack})
	})
	s.must(err)
	equal(s, "known", known, false)
	// The record now has an unanswered finding, so the caller need not warn the owner again.
	_, known, err = s.hub.RecordSighting(t.Context(), is, s.enrolmentOf(is), addr, func(*clone.Record) {})
	s.must(err)
	equal(s, "known", known, true)
}

func TestClonedDeviceIsRefused(t *testing.T) {
	s := newScene(t)
	d := s.device()
	is, c := s.onboarded(d, s.token)
	r, err := s.hub.DecideClone(t.Context(), s.anne, is, clone.TwoMachines, nil, addr)
	s.must(err)
	equal(s, "decision", []any{r.Decision, r.By}, []any{clone.TwoMachines, "anne"})
	e := s.lastEvent("device.clone-decided")
	equal(s, "event", []any{e.Owner, e.Device, e.Addr, e.Time}, []any{s.anne.ID, is.ID, addr, s.now})
	if !strings.HasPrefix(e.Message, "anne decided that several machines") {
		t.Errorf("the event says %q", e.Message)
	}
	events := len(s.store.events)
	_, err = s.activate(c)
	s.refused(err, onboard.CodeCloned)
	_, err = s.activate(s.enrolled(d, s.token))
	s.refused(err, onboard.CodeCloned)
	equal(s, "events of the refusals", len(s.store.events), events)
	_, err = s.hub.DecideClone(t.Context(), s.anne, is, "", []string{}, addr)
	s.must(err)
	if m := s.lastEvent("device.clone-decided").Message; !strings.HasPrefix(m, "anne withdrew the decision") {
		t.Errorf("the event says %q", m)
	}
	s.onboarded(d, s.token)
	_, err = s.hub.DecideClone(t.Context(), s.anne, is, clone.OneMachine, nil, addr)
	s.must(err)
	if m := s.lastEvent("device.clone-decided").Message; !strings.HasPrefix(m, "anne decided that") || !strings.Contains(m, "is one machine") {
		t.Errorf("the event says %q", m)
	}
	equal(s, "state", s.store.devices[is.ID].Clone, "")
}

// A decision fails if the open findings are not the findings that the owner saw.
func TestDecisionIsAboutWhatTheOwnerSaw(t *testing.T) {
	s := newScene(t)
	d := s.device()
	is, _ := s.onboarded(d, s.token)
	d.Serial = "another"
	s.onboarded(d, s.token)
	code := s.record(is.ID).Findings[0].Code
	for _, findings := range [][]string{{}, {"other"}, {code, "other"}} {
		_, err := s.hub.DecideClone(t.Context(), s.anne, is, clone.TwoMachines, findings, addr)
		equal(s, "error", errors.Is(err, store.ErrChanged), true)
	}
	equal(s, "state", s.store.devices[is.ID].Clone, string(clone.Suspected))
	raced := false
	s.store.before = func(method string) { // another sighting is stored first: the decision is stored on a retry
		if method == "PutClone" && !raced {
			raced = true
			s.store.mu.Lock()
			defer s.store.mu.Unlock()
			row := s.store.clones[is.ID]
			row.Version++
			s.store.clones[is.ID] = row
		}
	}
	_, err := s.hub.DecideClone(t.Context(), s.anne, is, clone.TwoMachines, []string{code}, addr)
	s.must(err)
	equal(s, "state", s.store.devices[is.ID].Clone, store.CloneRefused)
	s.must(s.store.DeleteDevice(t.Context(), s.anne.ID, is.ID, s.now))
	_, err = s.hub.DecideClone(t.Context(), s.anne, is, clone.OneMachine, nil, addr)
	equal(s, "of a deleted device", errors.Is(err, store.ErrNotFound), true)
}

func TestUseOfASupersededCertificateIsRecorded(t *testing.T) {
	s := newScene(t)
	d := s.device()
	use := func(c *fleet.Certificates) {
		t.Helper()
		s.must(s.hub.RecordSupersededUse(t.Context(), c.IDevIDHash(), "192.0.2.9"))
	}
	is, first := s.onboarded(d, s.token)
	use(first) // not a finding: the certificate is the device's active certificate
	s.must(s.hub.RecordSupersededUse(t.Context(), [32]byte{1}, "192.0.2.9"))
	_, second := s.onboarded(d, s.token)
	use(first) // not a finding: the machine has the serial number that it enrolled with
	equal(s, "writes", s.store.count("PutClone"), 1)
	d.Serial = "another"
	s.now = s.now.Add(time.Minute)
	_, third := s.onboarded(d, s.token)
	equal(s, "state", s.store.devices[is.ID].Clone, string(clone.Suspected))
	writes := s.store.count("PutClone")
	use(second) // not stored: the record has an unanswered finding already
	equal(s, "writes", s.store.count("PutClone"), writes)
	_, err := s.hub.DecideClone(t.Context(), s.anne, is, clone.OneMachine, nil, addr)
	s.must(err)
	d.Serial = "a third"
	use(s.enrolled(d, s.token)) // not a finding: a pending enrolment proves nothing
	writes = s.store.count("PutClone")
	use(second)
	r := s.record(is.ID)
	if f := r.Unanswered(); len(f) != 1 || f[0].Code != clone.EarlierCertificate || !strings.Contains(f[0].Words, "192.0.2.9") {
		t.Fatalf("findings %+v", r.Findings)
	}
	equal(s, "told", s.lastEvent("device.clone-suspected").Device, is.ID)
	use(second)
	use(first)
	equal(s, "writes", s.store.count("PutClone"), writes+1)
	// A finding that the owner has answered no longer counts.
	_, err = s.hub.DecideClone(t.Context(), s.anne, is, clone.OneMachine, nil, addr)
	s.must(err)
	writes = s.store.count("PutClone")
	use(second)
	use(third)
	equal(s, "writes", s.store.count("PutClone"), writes)
	s.must(s.store.DeleteDevice(t.Context(), s.anne.ID, is.ID, s.now))
	use(second)
	equal(s, "writes", s.store.count("PutClone"), writes)
}

// The use of a superseded certificate is recorded even if the device has no clone record: the hub
// then creates the record.
func TestSupersededUseBeginsTheRecord(t *testing.T) {
	s := newScene(t)
	d := s.device()
	is, first := s.onboarded(d, s.token)
	d.Serial = "another"
	s.onboarded(d, s.token)
	delete(s.store.clones, is.ID)
	row := s.store.devices[is.ID]
	row.Clone = ""
	s.store.devices[is.ID] = row
	s.must(s.hub.RecordSupersededUse(t.Context(), first.IDevIDHash(), addr))
	equal(s, "findings", len(s.record(is.ID).Findings), 1)
	s.store.clones[is.ID] = store.Clone{Device: is.ID, Record: []byte("not JSON")}
	row = s.store.devices[is.ID]
	row.Clone = ""
	s.store.devices[is.ID] = row
	if s.hub.RecordSupersededUse(t.Context(), first.IDevIDHash(), addr) == nil {
		t.Error("a record that cannot be read was ignored")
	}
	if _, err := s.hub.DecideClone(t.Context(), s.anne, is, clone.OneMachine, nil, addr); err == nil {
		t.Error("a record that cannot be read was decided on")
	}
}

func TestSupersededUseOfTheSameMachineWritesNothing(t *testing.T) {
	s := newScene(t)
	d := s.device()
	is, first := s.onboarded(d, s.token)
	s.onboarded(d, s.token)
	delete(s.store.clones, is.ID)
	writes := s.store.count("PutClone")
	s.must(s.hub.RecordSupersededUse(t.Context(), first.IDevIDHash(), addr))
	equal(s, "writes", s.store.count("PutClone"), writes)
}

// If a call to the store fails, the methods about clones return the store's error.
func TestClonesReportTheStoresErrors(t *testing.T) {
	t.Parallel()
	prepared := func(s *scene) (store.Device, *fleet.Certificates) {
		d := s.device()
		is, c := s.onboarded(d, s.token)
		d.Serial = "another"
		s.onboarded(d, s.token)
		_, err := s.hub.DecideClone(s.Context(), s.anne, is, clone.OneMachine, nil, addr)
		s.must(err)
		return s.store.devices[is.ID], c
	}
	breakAtEach(t, func(s *scene) func() error {
		_, c := prepared(s)
		return func() error { return s.hub.RecordSupersededUse(s.Context(), c.IDevIDHash(), addr) }
	})
	breakAtEach(t, func(s *scene) func() error { // in two steps, a device does not send the serial number of its machine
		d, token := s.device(), s.pantacors()
		keys := s.first(d).Keys
		first, err := s.second(d, token, keys, fleet.RegistrationChange{})
		s.must(err)
		_, err = s.second(d, token, keys, fleet.RegistrationChange{})
		s.must(err)
		return func() error {
			return s.hub.RecordSupersededUse(s.Context(), sha256.Sum256(first.Certificate), addr)
		}
	})
	breakAtEach(t, func(s *scene) func() error {
		d, _ := prepared(s)
		return func() error {
			_, err := s.hub.DecideClone(s.Context(), s.anne, d, clone.TwoMachines, nil, addr)
			return err
		}
	})
	breakAtEach(t, func(s *scene) func() error {
		d, _ := prepared(s)
		return func() error {
			_, _, err := s.hub.RecordSighting(s.Context(), d, s.enrolmentOf(d), addr, func(r *clone.Record) { r.Add(s.sighting(2, 9000)) })
			return err
		}
	})
}

// AttestedCounters returns no counters for a request that cannot be parsed, or that has a quote in
// place of the certification.
func TestEnrolmentThatCannotBeReadAttestsNothing(t *testing.T) {
	s := newScene(t)
	d := s.device()
	good := s.request(d, s.token, fleet.RequestChange{})
	if c, ok := onboard.AttestedCounters(store.Enrolment{Request: good}); !ok || c.Clock != 1000 || c.ResetCount != 1 {
		t.Errorf("%+v %v", c, ok)
	}
	bad := s.request(d, s.token, fleet.RequestChange{Attest: func(a []byte) []byte { return fleet.Quote(d.IAK.Name()) }})
	for what, request := range map[string][]byte{"text": []byte("{}"), "a quote": bad} {
		if _, ok := onboard.AttestedCounters(store.Enrolment{Request: request}); ok {
			t.Errorf("%s attests counters", what)
		}
	}
	e := onboard.EnrolmentSighting(store.Enrolment{Request: good, Created: s.now, ProdSerial: "S"}, addr)
	equal(s, "sighting", []any{e.To, e.Serial, e.Addr, e.Attested, e.Counters.Clock}, []any{s.now, "S", addr, true, 1000})
}

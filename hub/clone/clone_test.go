package clone_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/hub/boot"
	"gangway/hub/clone"
	"gangway/tcg"
)

var begin = time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC)

// at returns the sighting of a TPM quote made at the time `begin` plus the duration `after`. The
// quote has the TPM's reset count, restart count and clock.
func at(after time.Duration, reset, restart uint32, clock time.Duration) clone.Sighting {
	to := begin.Add(after)
	return clone.Sighting{From: to.Add(-100 * time.Millisecond), To: to, Attested: true, Addr: "192.0.2.1",
		Counters: boot.Counters{ClockInfo: tcg.ClockInfo{Clock: uint64(clock.Milliseconds()), ResetCount: reset, RestartCount: restart, Safe: true}}}
}

// serial returns the sighting of an onboarding: the sighting `s` with a serial number. The field
// From is zero, because the TPM may have certified the IDevID key at any earlier time.
func serial(s clone.Sighting, serial string) clone.Sighting {
	s.Serial, s.From = serial, time.Time{}
	return s
}

func from(s clone.Sighting, addr string) clone.Sighting {
	s.Addr = addr
	return s
}

const (
	h = time.Hour
	m = time.Minute
	s = time.Second
)

// The state of a single machine never becomes Suspected, even with unusual hardware or events.
func TestOneMachineIsNotTakenForTwo(t *testing.T) {
	t.Parallel()
	for name, sightings := range map[string][]clone.Sighting{
		"one boot":                  {at(0, 5, 0, 1*h), at(1*h, 5, 0, 2*h), at(30*24*h, 5, 0, 30*24*h+1*h)},
		"a clock that is 15 % fast": {at(0, 5, 0, 1*h), at(100*h, 5, 0, 116*h)},
		"a clock that is 15 % slow": {at(0, 5, 0, 1*h), at(100*h, 5, 0, 86*h)},
		"reboots":                   {at(0, 5, 0, 1*h), at(1*h, 6, 0, 2*h), at(2*h, 9, 0, 2*h+10*m)},
		"a laptop that sleeps":      {at(0, 5, 0, 1*h), at(8*h, 5, 1, 1*h+5*m), at(16*h, 5, 2, 1*h+10*m)},
		"a machine that is suspended each night": {at(0, 5, 0, 1*h), at(12*h, 5, 0, 5*h), at(13*h, 5, 0, 6*h),
			at(24*h, 5, 0, 7*h), at(25*h, 5, 0, 8*h), at(36*h, 5, 0, 8*h+1*m)},
		"power cuts":                      {at(0, 5, 0, 10*h), at(1*h, 6, 0, 9*h), at(2*h, 7, 0, 9*h)},
		"the TPM was cleared":             {at(0, 5, 3, 100*h), at(1*h, 0, 0, 30*m), at(2*h, 1, 0, 90*m)},
		"cleared in its first boot":       {at(0, 0, 0, 100*h), at(1*h, 0, 0, 1*m)},
		"cleared, then rebooted as often": {at(0, 2, 0, 100*h), at(2*h, 2, 0, 1*h)},
		"other addresses":                 {from(at(0, 5, 0, 1*h), "192.0.2.1"), from(at(1*m, 5, 0, 1*h+1*m), "198.51.100.7"), from(at(2*m, 5, 0, 1*h+2*m), "192.0.2.1")},
		"installed again":                 {serial(at(0, 5, 0, 1*h), "A"), serial(at(1*h, 7, 0, 1*h+30*m), "A"), serial(at(2*h, 8, 0, 2*h), "A")},
		"a new board, the same TPM":       {serial(at(0, 5, 0, 1*h), "A"), at(1*m, 5, 0, 1*h+1*m), serial(at(1*h, 6, 0, 1*h+10*m), "B"), at(2*h, 6, 0, 2*h+10*m)},
		"a serial number of the EK":       {serial(at(0, 5, 0, 1*h), "ek-00112233"), serial(at(1*m, 5, 0, 1*h+1*m), "A")},
		"no serial number":                {serial(at(0, 5, 0, 1*h), "A"), serial(at(1*m, 5, 0, 1*h+1*m), "")},
		"an old request, shown late":      {serial(at(10*h, 5, 0, 1*h), "A"), at(10*h+1*m, 5, 0, 11*h+1*m)},
		"the hub's clock set back":        {at(10*h, 5, 0, 1*h), at(0, 5, 0, 1*h+1*m)},
		"the hub's clock set forward":     {at(0, 5, 0, 1*h), at(1000*h, 5, 0, 1*h+1*m), at(1001*h, 6, 0, 2*h)},
		"two connections at once":         {at(0, 5, 0, 1*h), at(0, 5, 0, 1*h), at(1*s, 5, 0, 1*h+900*time.Millisecond)},
		"the hub's clock corrected":       {at(10*h, 5, 0, 1*h), at(10*h+1*s, 5, 0, 1*h+8*s)},
		"nothing attested":                {{To: begin, Serial: "A"}, {To: begin.Add(h), Serial: "B"}},
	} {
		t.Run(name, func(t *testing.T) {
			var r clone.Record
			for i, sighting := range sightings {
				if found := r.Add(sighting); len(found) > 0 || r.State() != "" {
					t.Errorf("sighting %d: %q: %+v", i, r.State(), found)
				}
			}
		})
	}
}

func codes(r *clone.Record) (all []string) {
	for _, f := range r.Findings {
		all = append(all, f.Code)
	}
	return all
}

// Each sequence of sightings that a single TPM cannot cause gives a finding with the right code and
// words.
func TestCopiedStateIsFound(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		sightings []clone.Sighting
		codes     []string
		state     clone.State
		words     string
	}{
		"a copy that started later": {[]clone.Sighting{at(0, 5, 0, 10*h), at(1*m, 5, 0, 9*h)},
			[]string{clone.CountersBack}, clone.Suspected, "clock was set back"},
		"a copy that did not restart as often": {[]clone.Sighting{at(0, 5, 0, 10*h), at(1*m, 4, 0, 10*h)},
			[]string{clone.CountersBack}, clone.Suspected, "reset count decreased from 5 to 4"},
		"a copy that slept less": {[]clone.Sighting{at(0, 5, 7, 10*h), at(1*m, 5, 2, 10*h+1*m)},
			[]string{clone.CountersBack}, clone.Suspected, "restart count decreased from 7 to 2"},
		"a copy that restarted more often": {[]clone.Sighting{at(0, 5, 0, 100*h), at(1*m, 90, 0, 50*h)},
			[]string{clone.CountersBack}, clone.Suspected, "clock was set back by 50h"},
		"a copy that ran longer": {[]clone.Sighting{at(0, 5, 0, 10*h), at(1*m, 5, 0, 20*h)},
			[]string{clone.ClockAhead}, clone.Suspected, "advanced by 10h0m0s in 1m0s"},
		"a copy that started half a minute earlier": {[]clone.Sighting{at(0, 5, 0, 10*h), at(10*s, 5, 0, 10*h+40*s)},
			[]string{clone.ClockAhead}, clone.Suspected, "advanced by 40s in 10s"},
		"a copy that ran longer and restarted": {[]clone.Sighting{at(0, 5, 0, 10*h), at(1*m, 6, 0, 20*h)},
			[]string{clone.ClockAhead}, clone.Suspected, "advanced by 10h0m0s in 1m0s"},
		"a boot that had ended goes on": {[]clone.Sighting{at(0, 5, 0, 10*h), at(1*m, 6, 0, 10*h), at(2*m, 5, 0, 10*h+2*m)},
			[]string{clone.BootsAlternate}, clone.Suspected, "continues a boot that had ended"},
		"two boots by turns": {[]clone.Sighting{from(at(0, 5, 0, 10*h), "192.0.2.1"), from(at(1*m, 6, 0, 10*h), "192.0.2.2"),
			from(at(2*m, 5, 0, 10*h+2*m), "192.0.2.1"), from(at(3*m, 6, 0, 10*h+2*m), "192.0.2.2"), from(at(4*m, 5, 0, 10*h+4*m), "192.0.2.1")},
			[]string{clone.BootsAlternate, clone.BootsInterleave}, clone.Certain, "192.0.2.2"},
		"two boots of the same number by turns": {[]clone.Sighting{at(0, 6, 0, 10*h), at(1*m, 6, 0, 9*h), at(2*m, 6, 0, 10*h+2*m), at(3*m, 6, 0, 9*h+2*m), at(4*m, 6, 0, 10*h+4*m)},
			[]string{clone.CountersBack, clone.BootsAlternate, clone.BootsInterleave}, clone.Certain, "One TPM cannot return to an earlier boot"},
		"three machines": {[]clone.Sighting{at(0, 6, 0, 10*h), at(1*m, 6, 0, 9*h), at(2*m, 7, 0, 9*h), at(3*m, 6, 0, 10*h+3*m), at(4*m, 6, 0, 9*h+3*m), at(5*m, 7, 0, 9*h+3*m)},
			[]string{clone.CountersBack, clone.BootsAlternate, clone.BootsInterleave}, clone.Certain, ""},
		"a snapshot restored once": {[]clone.Sighting{at(0, 5, 0, 10*h), at(10*h, 6, 0, 19*h), at(11*h, 5, 0, 10*h+1*m), at(12*h, 6, 0, 11*h)},
			[]string{clone.CountersBack}, clone.Suspected, "older state of the TPM was restored"},
		// The snapshot is restored after each reboot, as on a test farm.
		"a snapshot restored again and again": {[]clone.Sighting{at(0, 5, 0, 1*h), at(1*h, 6, 0, 2*h), at(2*h, 5, 0, 3*h), at(3*h, 6, 0, 3*h+5*m),
			at(4*h, 5, 0, 5*h), at(5*h, 6, 0, 5*h+7*m), at(6*h, 5, 0, 7*h), at(7*h, 6, 0, 7*h+1*m), at(8*h, 5, 0, 9*h)},
			[]string{clone.BootsAlternate}, clone.Suspected, "snapshot"},
		"another serial number in one boot": {[]clone.Sighting{serial(at(0, 5, 0, 10*h), "A"), serial(at(1*m, 5, 0, 10*h+1*m), "B")},
			[]string{clone.SerialInBoot}, clone.Suspected, `"A". Now it onboarded with "B"`},
		"serial numbers by turns": {[]clone.Sighting{serial(at(0, 5, 0, 10*h), "A"), serial(at(1*h, 6, 0, 10*h+1*m), "B"), serial(at(2*h, 7, 0, 10*h+2*m), "A")},
			[]string{clone.SerialsAlternate}, clone.Suspected, `with "A" again`},
		"serial numbers by turns, nothing attested": {[]clone.Sighting{{To: begin, Serial: "A"}, {To: begin, Serial: "B"}, {To: begin, Serial: "A"}},
			[]string{clone.SerialsAlternate}, clone.Suspected, ""},
		"a clock beyond what a time.Duration holds": {[]clone.Sighting{at(0, 5, 0, 10*h), {From: begin, To: begin.Add(m), Attested: true,
			Counters: boot.Counters{ClockInfo: tcg.ClockInfo{Clock: 1<<64 - 1, ResetCount: 6}}}},
			[]string{clone.ClockAhead}, clone.Suspected, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var r clone.Record
			told := 0
			for _, sighting := range c.sightings {
				told += len(r.Add(sighting))
			}
			if got := codes(&r); !slices.Equal(got, c.codes) || told != len(c.codes) || r.State() != c.state {
				t.Fatalf("%q after %d findings: %q", r.State(), told, got)
			}
			if words := r.Findings[len(r.Findings)-1].Words; !strings.Contains(words, c.words) {
				t.Errorf("%q does not say %q", words, c.words)
			}
		})
	}
}

// A machine uses a certificate that a later onboarding has replaced. This is a finding only if the
// two onboardings stated different serial numbers.
func TestCertificateFromBeforeIsFoundWhereTheSerialNumberIsAnother(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		was, is string
		found   int
	}{
		"another machine":         {"A", "B", 1},
		"a restored state folder": {"A", "A", 0},
		"not told":                {"", "B", 0},
		"made of the EK":          {"ek-1", "B", 0},
	} {
		t.Run(name, func(t *testing.T) {
			var r clone.Record
			if found := r.AddEarlierCertificate(c.was, c.is, begin, "192.0.2.9"); len(found) != c.found {
				t.Errorf("%+v", found)
			}
			if found := r.AddEarlierCertificate(c.was, c.is, begin, "192.0.2.9"); len(found) != 0 {
				t.Errorf("found twice: %+v", found)
			}
		})
	}
}

// The owner's decision answers the findings so far. The owner can change and withdraw the decision.
func TestDecisionAnswersWhatWasFoundAndCanBeTakenBack(t *testing.T) {
	t.Parallel()
	var r clone.Record
	r.Add(at(0, 5, 0, 10*h))
	r.Add(at(1*m, 5, 0, 9*h))
	r.Decide(clone.OneMachine, "ada", begin)
	if r.State() != "" || r.Decision != clone.OneMachine || r.By != "ada" {
		t.Errorf("%q %+v", r.State(), r)
	}
	// Add does not return a finding with the same code again, because the owner has answered it.
	if found := r.Add(at(2*m, 5, 0, 8*h)); len(found) != 0 || r.State() != "" {
		t.Errorf("%q %+v", r.State(), found)
	}
	// Add returns a finding with another code, because the owner has not answered that one.
	if found := r.Add(at(3*m, 6, 0, 90*h)); len(found) != 1 || r.State() != clone.Suspected {
		t.Errorf("%q %+v", r.State(), found)
	}
	r.Decide(clone.TwoMachines, "ada", begin)
	if r.State() != clone.Refused {
		t.Errorf("%q", r.State())
	}
	r.Decide("", "ada", begin)
	if r.State() != clone.Suspected || len(r.Unanswered()) != 2 || r.By != "" || !r.Decided.IsZero() {
		t.Errorf("%q %+v", r.State(), r)
	}
}

// A record does not grow above its bounds, whatever the device does.
func TestRecordIsBounded(t *testing.T) {
	t.Parallel()
	var r clone.Record
	for i := range 2000 {
		sighting := serial(at(time.Duration(i)*m, uint32(i*7919%101), uint32(i%3), time.Duration(i*104729%1000)*h), fmt.Sprintf("%d %s", i%13, strings.Repeat("x", 64)))
		sighting.From = sighting.To
		r.Add(sighting)
	}
	text, err := json.Marshal(&r)
	if err != nil || len(text) > 8<<10 {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	var again clone.Record
	if err := json.Unmarshal(text, &again); err != nil || again.State() != r.State() || len(again.Boots) != len(r.Boots) {
		t.Errorf("%v: %q, not %q", err, again.State(), r.State())
	}
}

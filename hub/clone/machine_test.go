package clone_test

import (
	"testing"
	"time"

	"gangway/hub/boot"
	"gangway/hub/clone"
	"gangway/tcg"

	"pgregory.net/rapid"
)

// machine simulates a machine's TPM and its clock (TPM 2.0 Library, Part 1, "Clock").
type machine struct {
	now            time.Time
	reset, restart uint32
	clock, kept    time.Duration // the TPM's clock now, and the value that the TPM stored last
	pace           float64
}

// runs advances the time by `d` while the TPM is powered on.
func (k *machine) runs(d time.Duration) {
	k.now = k.now.Add(d)
	k.clock += time.Duration(k.pace * float64(d))
	if k.clock-k.kept > (1<<22)*time.Millisecond {
		k.kept = k.clock
	}
}

// rests advances the time by `d` while the TPM is powered off.
func (k *machine) rests(d time.Duration) { k.now = k.now.Add(d) }

// quote returns the sighting of a TPM quote. Making the quote takes the time `takes`, and the TPM
// reads its clock in the middle of this time.
func (k *machine) quote(takes time.Duration) clone.Sighting {
	from := k.now.Truncate(time.Second)
	k.runs(takes / 2)
	c := boot.Counters{ClockInfo: tcg.ClockInfo{Clock: uint64(k.clock.Milliseconds()), ResetCount: k.reset, RestartCount: k.restart}}
	k.runs(takes / 2)
	return clone.Sighting{From: from, To: k.now, Counters: c, Attested: true, Addr: "192.0.2.1"}
}

func between(lo, hi time.Duration) *rapid.Generator[time.Duration] {
	return rapid.Map(rapid.Int64Range(int64(lo), int64(hi)), func(n int64) time.Duration { return time.Duration(n) })
}

// A single machine never gives a finding, after any sequence of reboots, power cuts, suspensions
// and TPM2_Clear.
func TestNoLifeOfOneMachineIsTakenForTwo(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		k := &machine{now: begin, reset: rapid.Uint32Range(0, 9).Draw(t, "reset"), pace: rapid.Float64Range(0.86, 1.14).Draw(t, "pace")}
		k.runs(between(10*time.Second, 1000*time.Hour).Draw(t, "age"))
		var r clone.Record
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"runs", "reboot", "power cut", "sleep", "suspend", "clear"}).Draw(t, "what") {
			case "reboot":
				k.reset, k.restart, k.kept = k.reset+1, 0, k.clock
				k.rests(between(time.Second, 48*time.Hour).Draw(t, "off"))
			case "power cut":
				k.reset, k.restart, k.clock = k.reset+1, 0, k.kept
				k.rests(between(time.Second, 48*time.Hour).Draw(t, "off"))
			case "sleep":
				k.restart, k.kept = k.restart+1, k.clock
				k.rests(between(0, 48*time.Hour).Draw(t, "asleep"))
			case "suspend": // a suspended virtual machine, or a TPM without power in modern standby
				k.rests(between(0, 48*time.Hour).Draw(t, "suspended"))
			case "clear":
				k.reset, k.restart, k.clock, k.kept = 0, 0, 0, 0
			}
			k.runs(between(10*time.Second, 100*time.Hour).Draw(t, "on"))
			if found := r.Add(k.quote(between(0, 50*time.Second).Draw(t, "takes"))); len(found) > 0 {
				t.Fatalf("%+v", found)
			}
		}
	})
}

// Two machines start from one TPM state and connect alternately. The state becomes Suspected, even
// if one machine has booted more often than the other. If the clocks of the two machines' TPMs
// differ by more than the time between the connections, the state becomes Certain.
func TestTwoMachinesOfOneStateAreFound(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		first := &machine{now: begin, reset: rapid.Uint32Range(1, 9).Draw(t, "reset"), pace: 1}
		first.runs(between(time.Hour, 1000*time.Hour).Draw(t, "age"))
		first.kept = first.clock
		second := *first
		second.reset += rapid.Uint32Range(0, 3).Draw(t, "restarts")
		apart := between(time.Minute, 100*time.Hour).Draw(t, "later")
		second.rests(apart)
		first.runs(second.now.Sub(first.now))
		var r clone.Record
		for range 5 {
			every := between(time.Second, 3*time.Minute).Draw(t, "every")
			for _, k := range []*machine{first, &second} {
				r.Add(k.quote(200 * time.Millisecond))
				first.runs(every)
				second.runs(every)
				// Both machines run in the same real time, so advance the machine whose time is
				// earlier.
				later := first.now
				if second.now.After(later) {
					later = second.now
				}
				first.runs(later.Sub(first.now))
				second.runs(later.Sub(second.now))
			}
		}
		if r.State() == "" || apart > 10*time.Minute && r.State() != clone.Certain {
			t.Fatalf("%q: %+v", r.State(), r)
		}
	})
}

package clone

import (
	"fmt"
	"time"

	"gangway/hub/boot"
)

// What a TPM's clock may do and still be one TPM's.
const (
	// A clock may be fast by 15 % (Part 1, "Clock"), and is read some time
	// before the hub hears of it.
	fastest = 1.2
	// ahead is by how much more a clock must be ahead of time before that is a
	// finding: the hub's own clock is corrected now and then.
	ahead = 10 * time.Second
	// lost is what a clock may lose when the power fails: the TPM writes it at
	// least every 2^22 ms (Part 2, TPM_PT_CLOCK_UPDATE), and it is doubled here.
	lost = 2 * (1 << 22) * time.Millisecond
	// pace is how exactly two readings of the clock of a virtual TPM follow
	// time, as a part of the time between them, and drift what is allowed
	// besides.
	pace  = 0.001
	drift = 2 * time.Second
	// reset is the least time that a machine takes to reset.
	reset = time.Second
	// unknown is within what time a reading was made whose beginning is not
	// known.
	unknown = 10 * time.Second
)

// oddity is a contradiction between two boots of what should be one TPM, or
// that it was cleared in between, which is none.
type oddity struct {
	code, words string
	cleared     bool
}

// contradiction says what does not fit when a TPM attests b after a.
func contradiction(a, b Boot) oddity {
	clocks := millis(b.Counters.Clock) - millis(a.Counters.Clock)
	if less(b, a) || clocks < 0 && (epoch(a.Counters) == epoch(b.Counters) || clocks < -lost) {
		if cleared(a, b) {
			return oddity{cleared: true}
		}
		words := boot.Rollback(a.Counters, b.Counters)
		if words == "" {
			words = fmt.Sprintf("The TPM's clock went back by %v.", -clocks)
		}
		return oddity{code: CountersBack, words: words + fmt.Sprintf(" Clearing the TPM does not explain it: its clock counts %v since it was cleared last, and %v passed. An older state of the TPM was restored, or a copy of it runs.",
			millis(b.Counters.Clock), b.To.Sub(a.To).Round(time.Second))}
	}
	if a.From.IsZero() {
		return oddity{} // what was attested long before it was shown proves nothing of the time between
	}
	passed := b.To.Sub(a.From)
	if passed >= 0 && clocks > time.Duration(fastest*float64(passed))+ahead {
		return oddity{code: ClockAhead, words: fmt.Sprintf("The TPM's clock advanced by %v in %v. A copy of the TPM's state that runs elsewhere explains it, and so does a TPM whose clock was set, or a hub whose clock was set back.", clocks, passed.Round(time.Second))}
	}
	return oddity{}
}

// less says whether a's counters are below b's.
func less(a, b Boot) bool {
	x, y := a.Counters, b.Counters
	return x.ResetCount < y.ResetCount || x.ResetCount == y.ResetCount && x.RestartCount < y.RestartCount
}

// begin is the earliest time of the sighting.
func (b Boot) begin() time.Time {
	if b.From.IsZero() {
		return b.To.Add(-unknown)
	}
	return b.From
}

// cleared says whether TPM2_Clear between a and b explains b: it sets clock and
// counts to zero (Part 3, TPM2_Clear), so the clock counts no more than has
// passed since, and there was time for that many resets.
func cleared(a, b Boot) bool {
	passed := max(0, b.To.Sub(a.begin()))
	return millis(b.Counters.Clock) <= time.Duration(fastest*float64(passed)) && time.Duration(b.Counters.ResetCount)*reset <= passed
}

// goesOn says whether later is the same boot as b, with a clock that never
// stopped.
func (b Boot) goesOn(later Boot) bool {
	if epoch(b.Counters) != epoch(later.Counters) || later.Counters.Clock < b.Counters.Clock {
		return false
	}
	clocks := millis(later.Counters.Clock) - millis(b.Counters.Clock)
	shortest, longest := later.begin().Sub(b.To), later.To.Sub(b.begin())
	slack := time.Duration(pace*float64(max(0, longest))) + drift
	return clocks >= shortest-slack && clocks <= longest+slack
}

// maxMillis is the most milliseconds that a time.Duration holds; a TPM's clock
// is 64 bits of them, and what it says is not to overflow.
const maxMillis = uint64(1<<63-1) / uint64(time.Millisecond) / 4

func millis(clock uint64) time.Duration {
	return time.Duration(min(clock, maxMillis)) * time.Millisecond
}

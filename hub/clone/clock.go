package clone

import (
	"fmt"
	"time"

	"gangway/hub/boot"
)

// Tolerances for the clock of one TPM.
const (
	// fastest is the largest factor by which a TPM's clock may run faster than the hub's clock. The
	// specification allows 15 % (Part 1, "Clock"). The rest is a reserve, because the TPM reads its
	// clock some time before the hub receives the value.
	fastest = 1.2
	// aheadTolerance is added to the allowed time, because the hub's clock is sometimes adjusted.
	aheadTolerance = 10 * time.Second
	// maxLoss is the longest time by which a TPM's clock may go back at a power failure. A TPM
	// stores its clock at least every 2^22 ms (Part 2, TPM_PT_CLOCK_UPDATE); maxLoss is twice this
	// time.
	maxLoss = 2 * (1 << 22) * time.Millisecond
	// A virtual TPM's clock may deviate from the hub's clock by `drift`, plus the fraction `pace`
	// of the time between two readings.
	pace  = 0.001
	drift = 2 * time.Second
	// reset is the shortest time in which a machine can reset.
	reset = time.Second
	// assumedDuration is the assumed duration of an attestation if its start is not known.
	assumedDuration = 10 * time.Second
)

// conflict is the result of comparing two boots of one TPM. If the boots contradict each other,
// `code` is the code of the finding, and `words` explains it. If `cleared` is true, the TPM was
// cleared between the boots, which explains the difference.
type conflict struct {
	code, words string
	cleared     bool
}

// contradiction returns the reason why one TPM cannot attest first the boot `a` and then the boot
// `b`. If there is no reason, it returns a conflict without a code.
func contradiction(a, b Boot) conflict {
	clocks := millis(b.Counters.Clock) - millis(a.Counters.Clock)
	if lower(b, a) || clocks < 0 && (epoch(a.Counters) == epoch(b.Counters) || clocks < -maxLoss) {
		if cleared(a, b) {
			return conflict{cleared: true}
		}
		words := boot.Rollback(a.Counters, b.Counters)
		if words == "" {
			words = fmt.Sprintf("The TPM's clock was set back by %v.", -clocks)
		}
		return conflict{code: CountersBack, words: words + fmt.Sprintf(" Clearing the TPM does not explain this: the TPM's clock counts %v since the TPM was last cleared, but only %v passed between the two attestations. An older state of the TPM was restored, or a copy of the TPM's state is running.",
			millis(b.Counters.Clock), b.To.Sub(a.To).Round(time.Second))}
	}
	if a.From.IsZero() {
		return conflict{} // an attestation of unknown age proves nothing about the time in between
	}
	passed := b.To.Sub(a.From)
	if passed >= 0 && clocks > time.Duration(fastest*float64(passed))+aheadTolerance {
		return conflict{code: ClockAhead, words: fmt.Sprintf("The TPM's clock advanced by %v in %v. Possible reasons: a copy of the TPM's state runs elsewhere, the TPM's clock was set, or the hub's clock was set back.", clocks, passed.Round(time.Second))}
	}
	return conflict{}
}

// lower reports whether the counters of the boot `a` are lower than those of the boot `b`. It
// compares the reset counts and, if these are equal, the restart counts.
func lower(a, b Boot) bool {
	x, y := a.Counters, b.Counters
	return x.ResetCount < y.ResetCount || x.ResetCount == y.ResetCount && x.RestartCount < y.RestartCount
}

// begin returns the earliest time at which the TPM can have made the attestation of this sighting.
func (b Boot) begin() time.Time {
	if b.From.IsZero() {
		return b.To.Add(-assumedDuration)
	}
	return b.From
}

// cleared reports whether a TPM2_Clear between the boots `a` and `b` explains the counters of `b`.
// TPM2_Clear sets the clock and the counts to zero (Part 3, TPM2_Clear), so the clock of `b` must
// not count more than the time since `a`, and this time must be long enough for the number of
// resets.
func cleared(a, b Boot) bool {
	passed := max(0, b.To.Sub(a.begin()))
	return millis(b.Counters.Clock) <= time.Duration(fastest*float64(passed)) && time.Duration(b.Counters.ResetCount)*reset <= passed
}

// continues reports whether `later` is the same boot as `b`, and the TPM's clock did not stop in
// between.
func (b Boot) continues(later Boot) bool {
	if epoch(b.Counters) != epoch(later.Counters) || later.Counters.Clock < b.Counters.Clock {
		return false
	}
	clocks := millis(later.Counters.Clock) - millis(b.Counters.Clock)
	shortest, longest := later.begin().Sub(b.To), later.To.Sub(b.begin())
	slack := time.Duration(pace*float64(max(0, longest))) + drift
	return clocks >= shortest-slack && clocks <= longest+slack
}

// maxMillis limits the values of a TPM's clock. The clock counts milliseconds in 64 bits, and its
// largest values would overflow a time.Duration.
const maxMillis = uint64(1<<63-1) / uint64(time.Millisecond) / 4

func millis(clock uint64) time.Duration {
	return time.Duration(min(clock, maxMillis)) * time.Millisecond
}

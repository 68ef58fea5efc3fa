// Package clone finds signs that the state of one TPM runs in several machines: a cloned virtual
// machine, a restored snapshot, a copied vTPM. It does no I/O and keeps no state.
//
// Two machines with one TPM state have the same keys, so their signatures do not distinguish them.
// But their TPMs' clocks differ. Within one boot, the clock that a TPM attests (TPMS_CLOCK_INFO,
// Part 2, 10.11.1) advances in real time, and never goes back. A boot that has ended never
// continues. Each copy of the TPM's state has its own clock, so two copies contradict each other as
// soon as both attest their clocks.
//
// A Record has a bounded history of a device, and the contradictions in this history, as sentences
// for a person. This package refuses no device: the owner decides.
//
// It is not a finding if a machine has another address (a NAT pool, a roaming laptop), uses another
// join token, onboards again (a re-installation), has another serial number in a later boot (a new
// board with the same TPM), or was suspended, or if its TPM was cleared.
package clone

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"gangway/hub/boot"
)

// Codes of findings. They must not change, because stored records contain them.
const (
	// CountersBack: the TPM attests lower counters than before, and no TPM2_Clear explains them.
	CountersBack = "counters-back"
	// ClockAhead: the TPM's clock advanced by more than the time that passed.
	ClockAhead = "clock-ahead"
	// BootsAlternate: a boot continues although the hub has already seen a later boot of the TPM.
	BootsAlternate = "boots-alternate"
	// BootsInterleave: the hub sees several boots of the TPM in turn, and at least two of these
	// boots continued after the hub had seen another boot. One TPM cannot return to an earlier
	// boot.
	BootsInterleave = "boots-interleave"
	// SerialInBoot: the machine's serial number changed without a restart.
	SerialInBoot = "serial-in-boot"
	// SerialsAlternate: the machine uses an earlier serial number again.
	SerialsAlternate = "serials-alternate"
	// EarlierCertificate: a machine used the certificate of an earlier onboarding after the machine
	// had onboarded again with another serial number.
	EarlierCertificate = "earlier-certificate"
)

// State says whether several machines seem to run with one TPM's state. It follows from the
// findings and from the owner's decision.
type State string

// States. The zero value means that all sightings fit a single machine, or that the owner decided
// that there is only one machine.
const (
	// Suspected: a finding suggests that several machines have the TPM's state.
	Suspected State = "suspected"
	// Certain: two copies of the TPM's state run, and the hub sees both of them in turn.
	Certain State = "certain"
	// Refused: the owner decided that several machines run with the TPM's state.
	Refused State = "refused"
)

// Decision is the owner's decision about whether one machine or several machines run with the TPM's
// state. The zero value means that there is no decision.
type Decision string

// Decisions.
const (
	OneMachine  Decision = "one" // one machine: the findings so far are answered
	TwoMachines Decision = "two" // two machines: neither may use the device's identity
)

// Bounds of a record: the largest numbers of boots and of serial numbers that it keeps.
const (
	maxBoots   = 8
	maxSerials = 4
)

// minTurns is how often the hub must see ended boots continue before the state is Certain. At least
// two different boots must continue: if a single machine's snapshot is restored repeatedly, only
// one boot continues.
const minTurns = 3

// Sighting has the facts that the hub learned from an authenticated device at one time.
type Sighting struct {
	// From and To are the earliest and the latest possible time of the TPM's attestation, by the
	// hub's clock. From is zero if the earliest time is not known.
	From, To time.Time
	// Counters are the TPM's counters, if Attested is true.
	Counters boot.Counters
	Attested bool
	// Serial is the serial number that the machine stated when it onboarded. Nothing proves it. It
	// is empty in all other sightings.
	Serial string
	Addr   string // IP address of the device
}

// Record is the history of a device.
type Record struct {
	Boots    []Boot    `json:"boots,omitempty"`    // ordered by the time of the last sighting, oldest first
	Serials  []string  `json:"serials,omitempty"`  // in the order of use; two successive serial numbers always differ
	Findings []Finding `json:"findings,omitempty"` // one for each code, in order of time
	// Answered has the codes of the findings that the owner's decision "one" answered.
	Answered []string  `json:"answered,omitempty"`
	Decision Decision  `json:"decision,omitempty"`
	By       string    `json:"by,omitempty"` // nick of the person who decided
	Decided  time.Time `json:"decided,omitzero"`
}

// Boot is the last sighting of one boot of a TPM. A boot is the time between two resets or restarts
// of the TPM.
type Boot struct {
	Counters boot.Counters `json:"counters"`
	From     time.Time     `json:"from,omitzero"`
	To       time.Time     `json:"to"`
	Addr     string        `json:"addr,omitempty"`
	Turns    int           `json:"turns,omitempty"` // how often this boot continued after the hub had seen another boot
}

// Finding is an observation that does not fit one machine with one TPM.
type Finding struct {
	Code  string    `json:"code"`
	Words string    `json:"words"` // sentences for a person
	Time  time.Time `json:"time"`
}

// State returns the state that follows from the findings and from the owner's decision.
func (r *Record) State() State {
	if r.Decision == TwoMachines {
		return Refused
	}
	state := State("")
	for _, f := range r.Unanswered() {
		if f.Code == BootsInterleave {
			return Certain
		}
		state = Suspected
	}
	return state
}

// Unanswered returns the findings that no decision has answered.
func (r *Record) Unanswered() []Finding {
	var open []Finding
	for _, f := range r.Findings {
		if !slices.Contains(r.Answered, f.Code) {
			open = append(open, f)
		}
	}
	return open
}

// Decide records the owner's decision. The decision "one" answers the findings so far and restarts
// the comparison from the last sighting. After that, only findings with other codes are reported.
// The zero value withdraws the last decision.
func (r *Record) Decide(d Decision, by string, now time.Time) {
	r.Decision, r.By, r.Decided, r.Answered = d, by, now, nil
	switch d {
	case OneMachine:
		for _, f := range r.Findings {
			r.Answered = append(r.Answered, f.Code)
		}
		r.Boots, r.Serials = tail(r.Boots, 1), tail(r.Serials, 1)
		for i := range r.Boots {
			r.Boots[i].Turns = 0
		}
	case "":
		r.By, r.Decided = "", time.Time{}
	}
}

func tail[T any](s []T, n int) []T { return s[max(0, len(s)-n):] }

// Add compares a sighting with the history, adds it to the history, and returns the new findings.
func (r *Record) Add(s Sighting) []Finding {
	had := len(r.Findings)
	sameBoot := s.Attested && len(r.Boots) > 0 && epoch(r.Boots[len(r.Boots)-1].Counters) == epoch(s.Counters)
	r.addSerial(s, sameBoot)
	if s.Attested {
		r.addBoot(s)
	}
	return r.Findings[had:]
}

// AddEarlierCertificate records that a machine used the certificate of an earlier onboarding, which
// a later onboarding had replaced, and returns the new findings. The machine stated the serial
// number `was` in the earlier onboarding, and `is` in the later one. If they are equal, there is no
// finding.
func (r *Record) AddEarlierCertificate(was, is string, now time.Time, addr string) []Finding {
	had := len(r.Findings)
	if was, is = machineSerial(was), machineSerial(is); was != "" && is != "" && was != is {
		r.find(EarlierCertificate, now, "The machine onboarded again with serial number %q, but a machine at %s still uses the certificate that was issued to serial number %q. A machine with a replaced board uses the earlier certificate only if its state folder was restored from a backup.", is, addr, was)
	}
	return r.Findings[had:]
}

func (r *Record) find(code string, at time.Time, format string, args ...any) {
	if !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Code == code }) {
		r.Findings = append(r.Findings, Finding{code, fmt.Sprintf(format, args...), at.UTC()})
	}
}

// machineSerial returns the serial number, or "" if it does not identify the machine. If the
// firmware has no serial number, the agent derives one from the EK, with the prefix "ek-".
func machineSerial(serial string) string {
	if strings.HasPrefix(serial, "ek-") {
		return ""
	}
	return serial
}

func (r *Record) addSerial(s Sighting, sameBoot bool) {
	serial := machineSerial(s.Serial)
	if serial == "" || len(r.Serials) > 0 && r.Serials[len(r.Serials)-1] == serial {
		return
	}
	if n := len(r.Serials); n > 0 {
		last := r.Serials[n-1]
		switch {
		case slices.Contains(r.Serials[:n-1], serial):
			r.find(SerialsAlternate, s.To, "The machine onboarded with serial number %q, then with %q. Now it onboarded with %q again, from %s.", serial, last, serial, s.Addr)
		case sameBoot:
			r.find(SerialInBoot, s.To, "The machine onboarded with serial number %q. Now it onboarded with %q, from %s, although its TPM was not reset in between. Possible reasons: there is a copy of the TPM's state, or the agent was started with another --serial.", last, serial, s.Addr)
		}
	}
	r.Serials = tail(append(r.Serials, serial), maxSerials)
}

func (r *Record) addBoot(s Sighting) {
	now := Boot{Counters: s.Counters, From: s.From, To: s.To, Addr: s.Addr}
	if len(r.Boots) == 0 {
		r.Boots = append(r.Boots, now)
		return
	}
	earlier, last := r.Boots[:len(r.Boots)-1], r.Boots[len(r.Boots)-1]
	odd, same := contradiction(last, now), epoch(last.Counters) == epoch(now.Counters)
	if odd.cleared { // the counters start again, so earlier boots prove nothing
		r.Boots = []Boot{now}
		return
	}
	if odd.code == "" && same { // the same boot, even if the machine was suspended in between
		now.Turns = last.Turns
		r.Boots[len(r.Boots)-1] = now
		return
	}
	if i := slices.IndexFunc(earlier, func(b Boot) bool { return b.continues(now) }); i >= 0 {
		now.Turns = r.Boots[i].Turns + 1
		r.find(BootsAlternate, s.To, "The TPM continues a boot that had ended. The hub saw %s, then %s, and now %s again, with a clock that did not stop. The cause is two machines with one TPM state, or a restored snapshot.", r.Boots[i], last, now)
		r.Boots = append(slices.Delete(r.Boots, i, i+1), now)
		r.interleave(s.To)
		return
	}
	if odd.code != "" {
		r.find(odd.code, s.To, "%s The device was at %s before, and is at %s now.", odd.words, orUnknown(last.Addr), orUnknown(now.Addr))
	}
	r.Boots = tail(append(r.Boots, now), maxBoots)
}

// interleave adds a finding if the sightings alternate between boots, and at least two boots
// continued after another boot was seen.
func (r *Record) interleave(at time.Time) {
	var by []string
	all := 0
	for _, b := range r.Boots {
		if b.Turns > 0 {
			by = append(by, b.String())
		}
		all += b.Turns
	}
	if len(by) > 1 && all >= minTurns {
		r.find(BootsInterleave, at, "Reports alternate between several boots of the TPM, and each of these boots continued after another boot had reported: %s. One TPM cannot return to an earlier boot, so several TPMs run with one state.", strings.Join(by, "; "))
	}
}

func orUnknown(addr string) string {
	if addr == "" {
		return "an unknown address"
	}
	return addr
}

// String names a boot for a person.
func (b Boot) String() string {
	return fmt.Sprintf("reset count %d, restart count %d (from %s)", b.Counters.ResetCount, b.Counters.RestartCount, orUnknown(b.Addr))
}

// epoch returns the counts that identify a boot. After a TPM2_Clear, a later boot may have the same
// counts again.
func epoch(c boot.Counters) [2]uint32 { return [2]uint32{c.ResetCount, c.RestartCount} }

// Package clone weighs whether the state of one TPM runs in two machines: a
// cloned virtual machine, a restored snapshot, a copied vTPM. It is pure.
//
// Two machines with one TPM state have the same keys, so no signature tells
// them apart. What tells is the clock that a TPM attests (TPMS_CLOCK_INFO,
// Part 2, 10.11.1): within one boot it only advances, at the pace of time, and
// a boot that has ended never comes back. A copy has a clock of its own, so two
// of them contradict each other as soon as both attest.
//
// A Record keeps what was seen of a device, bounded, and what contradicts
// itself in it, in words. Nothing here refuses a device: the owner decides.
//
// These are not findings: another address (a NAT pool, a roaming laptop), another
// join token, a new onboarding (a re-installation), another serial number in a
// later boot (a new board around the same TPM), a machine that was suspended, a
// TPM that was cleared.
package clone

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"gangway/hub/boot"
)

// Codes of findings, stable.
const (
	// CountersBack: the TPM attests less than it did, and no TPM2_Clear
	// explains it.
	CountersBack = "counters-back"
	// ClockAhead: the TPM's clock advanced by more than the time that passed.
	ClockAhead = "clock-ahead"
	// BootsAlternate: a boot that had ended goes on.
	BootsAlternate = "boots-alternate"
	// BootsInterleave: two boots go on by turns.
	BootsInterleave = "boots-interleave"
	// SerialInBoot: the machine has another serial number, and was not
	// restarted.
	SerialInBoot = "serial-in-boot"
	// SerialsAlternate: the machine has a serial number that it had before its
	// last one.
	SerialsAlternate = "serials-alternate"
	// EarlierCertificate: the machine onboarded again under another serial
	// number, and the certificate from before is still in use.
	EarlierCertificate = "earlier-certificate"
)

// State is what the findings come to.
type State string

// States. The zero value: nothing contradicts one machine, or the owner has
// said that it is one.
const (
	// Suspected: something does not fit one machine with one TPM.
	Suspected State = "suspected"
	// Certain: two copies of the TPM's state run by turns.
	Certain State = "certain"
	// Refused: the owner has said that they are two.
	Refused State = "refused"
)

// Decision is what the owner says. The zero value: nothing yet.
type Decision string

// Decisions.
const (
	OneMachine  Decision = "one" // one machine: its findings so far are answered
	TwoMachines Decision = "two" // two machines: neither may use the device's identity
)

// Bounds of a record.
const (
	maxBoots   = 8
	maxSerials = 4
)

// turns is how often boots that had ended must go on, and more than one of
// them, until two machines are certain. A snapshot that is restored again and
// again makes one boot go on.
const turns = 3

// Sighting is what a proven peer showed at one time.
type Sighting struct {
	// From and To bound the time of the TPM's attestation by the hub's clock.
	// From is zero where only the end is known.
	From, To time.Time
	// Counters are the TPM's, where Attested.
	Counters boot.Counters
	Attested bool
	// Serial is what the machine called itself when it onboarded; empty
	// otherwise. It is the machine's own word.
	Serial string
	Addr   string // address of the peer
}

// Record is what was seen of a device.
type Record struct {
	Boots    []Boot    `json:"boots,omitempty"`    // by their last sighting, the latest last
	Serials  []string  `json:"serials,omitempty"`  // in the order of their use, neighbours differ
	Findings []Finding `json:"findings,omitempty"` // one for each code, in the order of their time
	// Answered are the codes that the owner's decision "one" answered.
	Answered []string  `json:"answered,omitempty"`
	Decision Decision  `json:"decision,omitempty"`
	By       string    `json:"by,omitempty"` // nick of the person who decided
	Decided  time.Time `json:"decided,omitzero"`
}

// Boot is a run of a TPM between two resets or restarts, at its last sighting.
type Boot struct {
	Counters boot.Counters `json:"counters"`
	From     time.Time     `json:"from,omitzero"`
	To       time.Time     `json:"to"`
	Addr     string        `json:"addr,omitempty"`
	Turns    int           `json:"turns,omitempty"` // how often it went on after another boot was seen
}

// Finding is something that does not fit one machine with one TPM.
type Finding struct {
	Code  string    `json:"code"`
	Words string    `json:"words"` // sentences for a person
	Time  time.Time `json:"time"`
}

// State says what the findings come to, and the owner's decision on them.
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

// Unanswered lists the findings that no decision has answered.
func (r *Record) Unanswered() []Finding {
	var open []Finding
	for _, f := range r.Findings {
		if !slices.Contains(r.Answered, f.Code) {
			open = append(open, f)
		}
	}
	return open
}

// Decide takes the owner's decision. "One" answers the findings so far and
// begins the comparison again with what was seen last; a finding of another
// kind is told again. The zero value takes the last decision back.
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

// Add weighs a sighting against what was seen before, and keeps it. It returns
// the findings that the device did not have before.
func (r *Record) Add(s Sighting) []Finding {
	had := len(r.Findings)
	sameBoot := s.Attested && len(r.Boots) > 0 && epoch(r.Boots[len(r.Boots)-1].Counters) == epoch(s.Counters)
	r.addSerial(s, sameBoot)
	if s.Attested {
		r.addBoot(s)
	}
	return r.Findings[had:]
}

// AddEarlierCertificate notes that the certificate of an onboarding was used
// after a later one had replaced it, from a machine of another serial number.
// It returns the findings that the device did not have before.
func (r *Record) AddEarlierCertificate(was, is string, now time.Time, addr string) []Finding {
	had := len(r.Findings)
	if was, is = named(was), named(is); was != "" && is != "" && was != is {
		r.find(EarlierCertificate, now, "The machine onboarded again with serial number %q, and a machine at %s still uses the certificate of serial number %q. A board that was replaced would not, unless its state folder was restored from a backup.", is, addr, was)
	}
	return r.Findings[had:]
}

func (r *Record) find(code string, at time.Time, format string, args ...any) {
	if !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Code == code }) {
		r.Findings = append(r.Findings, Finding{code, fmt.Sprintf(format, args...), at.UTC()})
	}
}

// named returns a serial number that says something of the machine: the agent
// makes one of the EK where the firmware has none.
func named(serial string) string {
	if strings.HasPrefix(serial, "ek-") {
		return ""
	}
	return serial
}

func (r *Record) addSerial(s Sighting, sameBoot bool) {
	serial := named(s.Serial)
	if serial == "" || len(r.Serials) > 0 && r.Serials[len(r.Serials)-1] == serial {
		return
	}
	if n := len(r.Serials); n > 0 {
		last := r.Serials[n-1]
		switch {
		case slices.Contains(r.Serials[:n-1], serial):
			r.find(SerialsAlternate, s.To, "The machine onboarded with serial number %q, then with %q, and now with %q again, from %s.", serial, last, serial, s.Addr)
		case sameBoot:
			r.find(SerialInBoot, s.To, "The machine onboarded with serial number %q, and now with %q, from %s, though its TPM was not reset in between. A copy of the TPM's state explains it, and so does an agent that was started with another --serial.", last, serial, s.Addr)
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
	if odd.cleared { // its counts begin again, so earlier boots say nothing
		r.Boots = []Boot{now}
		return
	}
	if odd.code == "" && same { // also where the machine was suspended in between
		now.Turns = last.Turns
		r.Boots[len(r.Boots)-1] = now
		return
	}
	if i := slices.IndexFunc(earlier, func(b Boot) bool { return b.goesOn(now) }); i >= 0 {
		now.Turns = r.Boots[i].Turns + 1
		r.find(BootsAlternate, s.To, "The TPM is back in a boot that had ended: %s was seen, then %s, and now %s again, with a clock that went on all the while. Two machines that run with one TPM state do this; a snapshot that is restored may do it, too.", r.Boots[i], last, now)
		r.Boots = append(slices.Delete(r.Boots, i, i+1), now)
		r.interleave(s.To)
		return
	}
	if odd.code != "" {
		r.find(odd.code, s.To, "%s It was seen at %s before, and at %s now.", odd.words, orUnknown(last.Addr), orUnknown(now.Addr))
	}
	r.Boots = tail(append(r.Boots, now), maxBoots)
}

// interleave finds that more than one boot goes on by turns.
func (r *Record) interleave(at time.Time) {
	var by []string
	all := 0
	for _, b := range r.Boots {
		if b.Turns > 0 {
			by = append(by, b.String())
		}
		all += b.Turns
	}
	if len(by) > 1 && all >= turns {
		r.find(BootsInterleave, at, "Boots of the TPM go on by turns: %s. A TPM has one clock, so these are several TPMs with one state.", strings.Join(by, "; "))
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

// epoch identifies a boot, but for a TPM that was cleared.
func epoch(c boot.Counters) [2]uint32 { return [2]uint32{c.ResetCount, c.RestartCount} }

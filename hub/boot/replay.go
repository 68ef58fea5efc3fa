package boot

import (
	"bytes"
	"crypto"
	"encoding/hex"
	"iter"
	"slices"
	"sync"
)

// replay reads the log and sets the events of the PCRs that the log explains. The quote proves a
// PCR's value, and the value proves the digests that extended the PCR, and their order. If
// replaying the log does not result in a PCR's value, the log proves nothing about that PCR.
func (m *Measurement) replay(e *Evidence, bank crypto.Hash) {
	l := readLog(e.Log, e.Bank)
	m.LogState, m.LogProblem = l.state, l.why
	for pcr, value := range e.PCRs {
		var events []logEvent
		for _, x := range l.events {
			if x.kind != evNoAction && x.pcr == uint32(pcr) && len(x.digest) == bank.Size() {
				events = append(events, x)
			}
		}
		start, events, more, ok := explain(pcr, value, events, bank)
		if !ok {
			m.Unexplained = append(m.Unexplained, pcr)
			continue
		}
		if len(events) == 0 && len(more) == 0 {
			continue // nothing has extended the PCR since its reset
		}
		if pcr == 0 {
			m.StartupLocality = int(start[len(start)-1])
		}
		m.Events = append(m.Events, nameEvents(pcr, events, more, bank)...)
		if pcr == secureBootPCR {
			m.Keys = keyVariables(events, bank)
		}
	}
	m.crossName()
	m.SecureBoot = stateUnknown
	if !slices.Contains(m.Unexplained, secureBootPCR) {
		m.SecureBoot = secureBoot(m.Events)
	}
}

// explain searches for a start value, events of the log, and extensions after the end of the log
// that, replayed in this order, result in the PCR's value `value`. It returns the start value in
// `start`, the events in `own` and the extensions in `more`.
func explain(pcr int, value []byte, events []logEvent, bank crypto.Hash) (start []byte, own []logEvent, more []string, ok bool) {
	for _, start := range startValues(pcr, bank) {
		for n := range withoutRepetition(events, bank) {
			v := start
			for _, e := range events[:n] {
				v = extended(bank, v, e.digest)
			}
			for _, words := range append([][]string{nil}, afterLog(pcr)...) {
				if bytes.Equal(extendedByWords(bank, v, words), value) {
					return start, events[:n], words, true
				}
			}
		}
	}
	return nil, nil, nil, false
}

// withoutRepetition yields each number n such that explain should try to replay the first n events
// of the log. It begins with all events, and then leaves out one more event at the end of the log
// each time, as long as that event is a repetition: some kernels append the firmware's last events
// to a log that already contains them.
func withoutRepetition(events []logEvent, bank crypto.Hash) iter.Seq[int] {
	lastSteps := func(e logEvent) bool {
		return isDigestOf(e, []byte(exitInvoked), bank) || isDigestOf(e, []byte(exitSucceeded), bank)
	}
	return func(yield func(int) bool) {
		if !yield(len(events)) {
			return
		}
		const most = 8
		for n := len(events) - 1; n > 0 && n >= len(events)-most && lastSteps(events[n]) && lastSteps(events[n-1]); n-- {
			if !yield(n) {
				return
			}
		}
	}
}

// startValues returns the values that a PCR may have after a reset. All bytes are zero, except the
// last byte of PCR 0, which is the locality of TPM2_Startup, or 4 after an H-CRTM sequence (TPM 2.0
// Library, Part 1, 34.3). For PCR 0, startValues returns a value for each locality, because no
// digest covers the locality that the log states.
func startValues(pcr int, bank crypto.Hash) [][]byte {
	values := [][]byte{make([]byte, bank.Size())}
	if pcr == 0 {
		for _, locality := range []byte{3, 4, 1, 2} {
			v := make([]byte, bank.Size())
			v[len(v)-1] = locality
			values = append(values, v)
		}
	}
	return values
}

func extended(bank crypto.Hash, value, digest []byte) []byte {
	h := bank.New()
	h.Write(value)
	h.Write(digest)
	return h.Sum(nil)
}

func digestOf(bank crypto.Hash, data []byte) []byte {
	h := bank.New()
	h.Write(data)
	return h.Sum(nil)
}

func extendedByWords(bank crypto.Hash, value []byte, words []string) []byte {
	for _, w := range words {
		value = extended(bank, value, digestOf(bank, []byte(w)))
	}
	return value
}

// Known extensions after the end of the log. Each of them extends a PCR by the hash of one of these
// words:
//
//   - Firmware extends PCR 5 when a kernel takes over. Kernels before Linux 5.2 do not add this
//     extension to the log (UEFI 38.3, the final events table).
//   - systemd (systemd-pcrextend) extends PCR 9 by one separator since version 259, and several
//     PCRs by another since version 261. If the kernel is in a unified kernel image, systemd also
//     extends PCR 11 at each phase of the boot.
//
// maxSeparators is the maximum number of systemd's separators in a PCR. Each start by kexec adds
// one, because kexec does not reset the PCRs.
const (
	exitInvoked   = "Exit Boot Services Invocation"
	exitSucceeded = "Exit Boot Services Returned with Success"
	exitFailed    = "Exit Boot Services Returned with Failure"
	exitPCR       = 5
	osSeparator   = "os-separator"
	nvSeparator   = "nvpcr-separator"
	nvPCR         = 9
	maxSeparators = 4
	phasePCR      = 11
)

var (
	separatedPCRs = []int{0, 1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 14}
	phases        = []string{"enter-initrd", "leave-initrd", "sysinit", "ready", "shutdown", "final"}
)

// afterLog returns the sequences of words that may extend a PCR after the end of the log.
func afterLog(pcr int) (all [][]string) {
	if pcr == phasePCR {
		for from := range phases {
			for to := from + 1; to <= len(phases); to++ {
				all = append(all, phases[from:to])
			}
		}
		return all
	}
	before, after := [][]string{nil}, [][]string{nil} // of systemd's separator
	switch pcr {
	case exitPCR:
		before = append(before, []string{exitInvoked}, []string{exitInvoked, exitSucceeded}, []string{exitInvoked, exitFailed, exitInvoked, exitSucceeded})
	case nvPCR:
		after = append(after, []string{nvSeparator})
	}
	for _, b := range before {
		for _, separators := range append([][]string{nil}, separatorWords(pcr)...) {
			for _, a := range after {
				if words := slices.Concat(b, separators, a); len(words) > 0 {
					all = append(all, words)
				}
			}
		}
	}
	return all
}

// separatorWords returns the sequences of one to maxSeparators separators of systemd, or nil if
// systemd does not extend the PCR by this separator.
func separatorWords(pcr int) (all [][]string) {
	if slices.Contains(separatedPCRs, pcr) {
		for n := 1; n <= maxSeparators; n++ {
			all = append(all, slices.Repeat([]string{osSeparator}, n))
		}
	}
	return all
}

// firmwarePCRs is the number of PCRs that firmware uses: PCR 0 to 7. Firmware measures itself, and
// the programs that it starts, into these PCRs (PC Client Platform Firmware Profile, 3.3.4).
const firmwarePCRs = 8

// NothingMeasured reports whether the firmware measured nothing. In this case PCR 0 to 7 still have
// their values after a reset, or only separators have extended them, and separators are the same on
// every machine. Later measurements then prove nothing, because nothing shows which program made
// them.
func (m *Measurement) NothingMeasured() bool {
	if len(m.PCRs) < firmwarePCRs {
		return true
	}
	bank, ok := hashOf(m.Bank)
	if !ok {
		return true
	}
	empty := emptyPCRs(bank)
	for _, v := range m.PCRs[:firmwarePCRs] {
		if !empty[v] {
			return false
		}
	}
	return true
}

// emptyPCRs returns, in hexadecimal, every value that a PCR can have if nothing specific to a
// machine was measured into it. Such a PCR has been extended from its start value only by
// separators: up to three of the firmware, and one of systemd for each start by kexec. The caller
// must not change the result.
func emptyPCRs(bank crypto.Hash) map[string]bool {
	if all, ok := emptyByBank[bank]; ok {
		return all()
	}
	return makeEmptyPCRs(bank)
}

// emptyByBank has the results of emptyPCRs for the banks that a quote may use. They are computed
// only once, because a result needs thousands of hashes, and each verdict needs it several times.
var emptyByBank = func() map[crypto.Hash]func() map[string]bool {
	all := make(map[crypto.Hash]func() map[string]bool)
	for _, bank := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		all[bank] = sync.OnceValue(func() map[string]bool { return makeEmptyPCRs(bank) })
	}
	return all
}()

func makeEmptyPCRs(bank crypto.Hash) map[string]bool {
	words := [][]byte{digestOf(bank, []byte(osSeparator))}
	for _, s := range separators {
		words = append(words, digestOf(bank, s.data))
	}
	layer := append(startValues(0, bank), bytes.Repeat([]byte{0xFF}, bank.Size()))
	values := slices.Clone(layer)
	for range 3 {
		var next [][]byte
		for _, v := range layer {
			for _, w := range words {
				next = append(next, extended(bank, v, w))
			}
		}
		layer = next
		values = append(values, layer...)
	}
	all := make(map[string]bool)
	for _, v := range values {
		all[hex.EncodeToString(v)] = true
		for range maxSeparators {
			v = extended(bank, v, words[0])
			all[hex.EncodeToString(v)] = true
		}
	}
	return all
}

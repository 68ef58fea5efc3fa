package identity

import (
	"maps"
	"time"
)

// Operation is a step of onboarding. Stats counts TPM commands by operation.
type Operation string

// The operations, in the order in which they happen.
const (
	OpFindEK    Operation = "find EK"
	OpMakeKeys  Operation = "make keys"
	OpCertify   Operation = "certify"
	OpSign      Operation = "sign"
	OpActivate  Operation = "activate"
	OpRelease   Operation = "release"
	OpHandshake Operation = "handshake" // signatures by a Signer
)

// Count is a number of TPM commands and the total time that they took. The time of a command is
// measured from the first byte sent to the last byte received.
type Count struct {
	Commands int
	Time     time.Duration
}

// Stats are the commands sent to a TPM since it was opened, including those that failed.
type Stats struct {
	Total       Count
	Busy        int // number of repetitions of commands because the TPM was busy; not included in the counts
	ByOperation map[Operation]Count
	ByCommand   map[string]Count // by name as in Part 3, without "TPM2_"
}

// Stats returns a copy of the TPM's statistics.
func (t *TPM) Stats() Stats {
	t.statsMu.Lock()
	defer t.statsMu.Unlock()
	s := t.stats
	s.ByOperation = maps.Clone(s.ByOperation)
	s.ByCommand = maps.Clone(s.ByCommand)
	return s
}

func (t *TPM) count(code uint32, took time.Duration, again bool) {
	t.statsMu.Lock()
	defer t.statsMu.Unlock()
	if t.stats.ByOperation == nil {
		t.stats.ByOperation = make(map[Operation]Count)
		t.stats.ByCommand = make(map[string]Count)
	}
	one := 1
	if again {
		one = 0
		t.stats.Busy++
	}
	add := func(c Count) Count { return Count{c.Commands + one, c.Time + took} }
	name := commandOf(code).name
	t.stats.Total = add(t.stats.Total)
	t.stats.ByOperation[t.operation] = add(t.stats.ByOperation[t.operation])
	t.stats.ByCommand[name] = add(t.stats.ByCommand[name])
}

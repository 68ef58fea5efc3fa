package store

import (
	"context"
	"time"
)

// LogEntry is a log line that a device reported.
type LogEntry struct {
	Seq      int64 // assigned by the store; increases
	Device   string
	Owner    string
	Created  time.Time // when the hub received the line; increases with Seq for an owner
	Sec      int64     // seconds since 1970, by the device's clock; Nano has the nanoseconds
	Nano     int64
	Level    string
	Source   string
	Platform string
	Rev      string
	Message  string
}

// LogBounds limits the stored log of one device. When a limit is reached, the oldest entries are
// removed.
type LogBounds struct {
	Rows  int
	Bytes int64 // bytes of the texts, plus an overhead for each entry
}

// LogRule is an owner's rule about how much of each device's log the hub keeps. It can only tighten
// the hub's own limits.
type LogRule struct {
	Owner string        // Account.ID
	Age   time.Duration // in whole seconds; 0: the hub's bound
	Bytes int64         // of each device, as in LogBounds; 0: the hub's bound
}

// Within returns the limits that apply to the owner's devices. Each is the smaller of the rule's
// value and the hub's.
func (r LogRule) Within(age time.Duration, bounds LogBounds) (time.Duration, LogBounds) {
	if r.Age > 0 {
		age = min(age, r.Age)
	}
	if r.Bytes > 0 {
		bounds.Bytes = min(bounds.Bytes, r.Bytes)
	}
	return age, bounds
}

// LogFilter selects log entries. A zero field does not restrict the selection.
type LogFilter struct {
	Owner     string // required
	Devices   []string
	Levels    []string
	Sources   []string
	Platforms []string
	Revs      []string
	Text      string    // part of the message; ASCII case is ignored; allowed only if Devices has one device
	After     time.Time // only entries after this time
	Before    time.Time // only entries before this time
	// Previous is the last entry of the previous page, in the order that was requested. Only its
	// Created and Seq are used.
	Previous *LogEntry
	// NewestFirst reverses the order of the list, which is normally by Created and then by Seq.
	NewestFirst bool
	Skip        int // number of entries to skip; allowed only if Devices has at most one device
	Limit       int // 0: 100; at most 5000
	Bytes       int // the page ends when its texts reach this many bytes; 0: no bound
}

// Logs stores the logs of devices.
type Logs interface {
	// AppendLogs stores log entries of one device, and sets Device and Owner in each of them. If
	// the device's log then exceeds `bounds` or the owner's rule, AppendLogs removes the oldest
	// entries.
	AppendLogs(ctx context.Context, device, owner string, entries []LogEntry, bounds LogBounds, now time.Time) error
	Logs(ctx context.Context, f LogFilter) ([]LogEntry, error)
	// ExpireLogs removes entries that the hub received before the time `before`, and returns how
	// many it removed. The store removes the entries of one AppendLogs call together, as a group.
	// One call of ExpireLogs removes at most `limit` groups.
	ExpireLogs(ctx context.Context, before time.Time, limit int) (int, error)
	// LogRule returns an owner's rule about logs. If the owner has no rule, only the field Owner is
	// set.
	LogRule(ctx context.Context, owner string) (LogRule, error)
	// PutLogRule replaces an owner's rule about logs. ErrNotFound: the account does not exist.
	PutLogRule(ctx context.Context, r LogRule, e Event) error
	// LogRules lists at most `limit` rules of all owners, in the order of the owners' ids. The list
	// begins after the owner `after`.
	LogRules(ctx context.Context, after string, limit int) ([]LogRule, error)
	// ExpireOwnerLogs is like ExpireLogs, but only for the entries of one owner.
	ExpireOwnerLogs(ctx context.Context, owner string, before time.Time, limit int) (int, error)
	// TrimLogs removes the oldest entries of each log, among those of the owner's devices, that
	// exceeds `bounds` or the owner's rule. It is meant to be called after a change of the rule.
	// One call examines at most `limit` devices, and removes at most `limit` groups of entries (see
	// ExpireLogs). `more` is false if nothing is left to do.
	TrimLogs(ctx context.Context, owner string, bounds LogBounds, limit int) (more bool, err error)
}

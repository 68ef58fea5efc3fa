package store

import (
	"context"
	"time"
)

// LogEntry is a log line that a device reported.
type LogEntry struct {
	Seq      int64 // given by the store, increasing
	Device   string
	Owner    string
	Created  time.Time // when the hub received it; increases with Seq for an owner
	Sec      int64     // the device's clock
	Nano     int64
	Level    string
	Source   string
	Platform string
	Rev      string
	Message  string
}

// LogBounds is how much of a device's log is kept. The oldest entries are removed first.
type LogBounds struct {
	Rows  int
	Bytes int64 // of the texts, plus an overhead for each row
}

// LogFilter chooses entries. Zero fields do not filter.
type LogFilter struct {
	Owner     string // required
	Devices   []string
	Levels    []string
	Sources   []string
	Platforms []string
	Revs      []string
	Text      string    // part of the message, without regard to ASCII case; requires exactly one of Devices
	After     time.Time // later than this
	Before    time.Time // earlier than this
	// Previous is the last entry of the previous page, in the requested order. Only its Created and
	// Seq are read.
	Previous *LogEntry
	// NewestFirst reverses the order, which is by Created and Seq.
	NewestFirst bool
	Skip        int // with at most one of Devices
	Limit       int // 0: 100; at most 5000
	Bytes       int // no more entries after the texts reach this many bytes; 0: no bound
}

// Logs keeps the logs of devices.
type Logs interface {
	// AppendLogs stores entries of one device (Device and Owner are set in each), and removes the
	// oldest ones beyond bounds.
	AppendLogs(ctx context.Context, device, owner string, entries []LogEntry, bounds LogBounds, now time.Time) error
	Logs(ctx context.Context, f LogFilter) ([]LogEntry, error)
	// ExpireLogs removes at most limit entries that the hub received before a time, and returns how
	// many.
	ExpireLogs(ctx context.Context, before time.Time, limit int) (int, error)
}

package store

import (
	"context"
	"time"
)

// LogEntry is a line that a device reported.
type LogEntry struct {
	Seq      int64 // given by the store, increasing
	Device   string
	Owner    string
	Created  time.Time // when the hub got it; increases with Seq for an owner
	Sec      int64     // the device's clock
	Nano     int64
	Level    string
	Source   string
	Platform string
	Rev      string
	Message  string
}

// LogBounds is how much of a device's log is kept; the oldest goes first.
type LogBounds struct {
	Rows  int
	Bytes int64 // of the texts, and something for each row
}

// LogFilter chooses entries. Zero fields do not filter.
type LogFilter struct {
	Owner     string // must be given
	Devices   []string
	Levels    []string
	Sources   []string
	Platforms []string
	Revs      []string
	After     time.Time // later than this
	Before    time.Time // earlier than this
	// Past is the entry after which to go on, in the order asked for: its
	// Created and Seq.
	Past *LogEntry
	// NewestFirst turns the order around, which is by Created and Seq.
	NewestFirst bool
	Skip        int // with at most one of Devices
	Limit       int // 0: 100; at most 5000
	Bytes       int // no more entries once their texts have this many bytes; 0: no bound
}

// Logs keeps what devices report.
type Logs interface {
	// AppendLogs stores entries of one device (Device and Owner are set in
	// each), and removes what is then too much.
	AppendLogs(ctx context.Context, device, owner string, entries []LogEntry, bounds LogBounds, now time.Time) error
	Logs(ctx context.Context, f LogFilter) ([]LogEntry, error)
	// ExpireLogs removes at most limit entries that came before a time.
	ExpireLogs(ctx context.Context, before time.Time, limit int) (int, error)
}

package store

import (
	"context"
	"time"

	"gangway/wire/trail"
)

// States of a device that a search can ask for. They do not exclude each other: a quiet device may
// also have a changed boot. Each has an exact count in FleetCounts.
const (
	StateActive      = "active"       // heard from within QuietAfter
	StateQuiet       = "quiet"        // not heard from for longer than QuietAfter
	StateBootChanged = "boot-changed" // the boot differs from the reference, or its measurement was refused
	StateUpdating    = "updating"     // the newest revision is waiting or under way
	StateFailed      = "failed"       // the newest revision failed
	StateCloned      = "cloned"       // several machines may have its TPM's state
)

// States are all states.
var States = []string{StateActive, StateQuiet, StateBootChanged, StateUpdating, StateFailed, StateCloned}

// QuietAfter is how long a device may be silent before it is quiet. An agent reports each minute, and
// retries at least each ten minutes.
const QuietAfter = 15 * time.Minute

// SearchField is a field of a device that a search can compare. Each has an index.
type SearchField string

// The fields of searches. FieldID, FieldSerial and FieldAddr compare whole values, the others too;
// prefixes are searched with DeviceSearch.Words.
const (
	FieldState    SearchField = "state"    // one of the State constants
	FieldModel    SearchField = "model"    // ProdModel
	FieldMaker    SearchField = "maker"    // TPMMaker
	FieldFirmware SearchField = "firmware" // TPMFirmware
	FieldToken    SearchField = "token"    // TokenID
	FieldSerial   SearchField = "serial"   // ProdSerial
	FieldID       SearchField = "id"       // a prefix of at least 4 digits
	FieldMeta     SearchField = "meta"     // a member of the user-meta or device-meta: Key and Value
)

// SearchTerm is one condition of a search. Value is compared without regard to ASCII case.
type SearchTerm struct {
	Field SearchField
	Key   string // for FieldMeta: the member's name, such as "site"
	Value string
}

// SortKey is an order of devices. Each has an index.
type SortKey string

// The orders of devices.
const (
	SortNick     SortKey = "nick"
	SortCreated  SortKey = "created"
	SortLastSeen SortKey = "seen" // active devices last, by nick: they count as seen now
	SortModel    SortKey = "model"
)

// MaxTerms bounds the words and terms of a search together.
const MaxTerms = 8

// DeviceSearch chooses devices of an owner: those that fit all Words and all Terms.
type DeviceSearch struct {
	Owner      string
	Words      []string // each is a prefix of a word of the nick, serial, model, maker or id
	Terms      []SearchTerm
	Sort       SortKey // empty: SortNick
	Descending bool
	After      string // DevicePage.Next of the page before; empty: the first page
	Limit      int    // 0: 100; at most 1000
}

// DeviceRow is a device with its states. Its UserMeta and DeviceMeta are nil.
type DeviceRow struct {
	Device
	Quiet  bool
	Boot   string // one of the Boot constants
	Rev    int    // newest revision; -1: the device has no trail
	Status trail.Status
	// Progress is the percentage of the newest report about Rev.
	Progress int
}

// States returns the states of a device, in the order of States.
func (d *DeviceRow) States() []string {
	states := []string{StateActive}
	if d.Quiet {
		states[0] = StateQuiet
	}
	if d.Boot == BootChanged || d.Boot == BootRefused {
		states = append(states, StateBootChanged)
	}
	if d.Rev >= 0 && !d.Status.Final() {
		states = append(states, StateUpdating)
	}
	if d.Status == trail.StatusError || d.Status == trail.StatusWontGo {
		states = append(states, StateFailed)
	}
	if d.Clone != "" {
		states = append(states, StateCloned)
	}
	return states
}

// DevicePage is a page of a search's result. If more than MaxCount devices fit each condition of a
// search, and few fit all of them, the engine stops after a bounded number of devices: a page may
// then have fewer rows than the limit, even none, and a Next.
type DevicePage struct {
	Rows []DeviceRow
	Next string // for DeviceSearch.After; empty: this is the last page
}

// MaxCount is the number up to which CountSearch counts the result of a search that has no counter.
const MaxCount = 1000

// SearchCount is how many devices fit a search.
type SearchCount struct {
	N    int
	More bool // at least N: the engine stopped counting
}

// FleetCounts are the exact numbers of an owner's devices.
type FleetCounts struct {
	Total    int
	Waiting  int            // waiting devices that nobody has decided about
	ByState  map[string]int // by State constant
	Quietest time.Time      // the oldest LastSeen of a quiet device; zero: no device is quiet
}

// FacetCount is the number of an owner's devices with one value of a field.
type FacetCount struct {
	Value string
	N     int
}

// ErrBadSearch is the error for a DeviceSearch that the engine cannot answer within its bounds, or
// whose After does not belong to it.
type ErrBadSearch struct {
	Reason string // a sentence for people
}

func (e *ErrBadSearch) Error() string { return "store: " + e.Reason }

// Fleet answers questions about many devices. No answer costs more because the fleet is larger.
type Fleet interface {
	// SearchDevices lists devices, a page at a time. *ErrBadSearch.
	SearchDevices(ctx context.Context, s DeviceSearch) (DevicePage, error)
	// CountSearch counts the devices that fit a search: exactly if the search has no condition, or
	// one condition with a counter (state, model, maker, firmware, token); otherwise up to MaxCount.
	CountSearch(ctx context.Context, s DeviceSearch) (SearchCount, error)
	// FleetCounts counts an owner's devices.
	FleetCounts(ctx context.Context, owner string) (FleetCounts, error)
	// Facets lists the values of FieldModel, FieldMaker, FieldFirmware or FieldToken with the most
	// devices, at most limit, and the number of devices with other values.
	Facets(ctx context.Context, owner string, f SearchField, limit int) (top []FacetCount, others int, err error)
	// Arrivals counts the devices that an owner's fleet got on each of the last days (UTC), by
	// activation or claim, the newest last. Devices that were deleted since then count too. days is
	// at most 366.
	Arrivals(ctx context.Context, owner string, now time.Time, days int) ([]int, error)
	// MarkQuiet marks at most limit devices that were last seen before a time as quiet, and returns
	// how many. A contact makes the device active again.
	MarkQuiet(ctx context.Context, before time.Time, limit int) (int, error)
}

package store

import (
	"context"
	"time"

	"gangway/wire/trail"
)

// States of a device by which a search can select devices. A device may have several of them: for
// example, a quiet device may also have a changed boot. FleetCounts has the exact number of devices
// in each state.
const (
	StateActive      = "active"       // the hub heard from the device within QuietAfter
	StateQuiet       = "quiet"        // the hub has not heard from the device for longer than QuietAfter
	StateBootChanged = "boot-changed" // the boot changed, or its measurement was refused
	StateUpdating    = "updating"     // the newest revision waits for installation, or is being installed
	StateFailed      = "failed"       // the newest revision failed
	StateCloned      = "cloned"       // several machines may run with this TPM's state
)

// States lists all states of devices.
var States = []string{StateActive, StateQuiet, StateBootChanged, StateUpdating, StateFailed, StateCloned}

// QuietAfter is how long after its last contact a device becomes quiet. An agent reports every
// minute and, after a failure, retries at least every ten minutes.
const QuietAfter = 15 * time.Minute

// SearchField is a field of a device that a search can compare with a value. The database has an
// index for each of these fields.
type SearchField string

// Fields of searches. Except for FieldID, a search compares whole values. To search for the
// beginning of a word, use DeviceSearch.Words.
const (
	FieldState    SearchField = "state"    // one of the State constants
	FieldModel    SearchField = "model"    // ProdModel
	FieldMaker    SearchField = "maker"    // TPMMaker
	FieldFirmware SearchField = "firmware" // TPMFirmware
	FieldToken    SearchField = "token"    // TokenID
	FieldSerial   SearchField = "serial"   // ProdSerial
	FieldID       SearchField = "id"       // the beginning of an id, at least 4 digits
	FieldMeta     SearchField = "meta"     // a member of the user-meta or device-meta, with Key and Value
)

// SearchTerm is one condition of a search. The comparison ignores the ASCII case of Value.
type SearchTerm struct {
	Field SearchField
	Key   string // for FieldMeta: the name of the member, such as "site"
	Value string
}

// SortKey is an order in which devices can be listed. The database has an index for each of them.
type SortKey string

// Orders of devices.
const (
	SortNick     SortKey = "nick"
	SortCreated  SortKey = "created"
	SortLastSeen SortKey = "seen" // last contact; active devices come last, ordered by nick, because they count as seen now
	SortModel    SortKey = "model"
)

// MaxTerms is the maximum number of words and terms in one search, taken together.
const MaxTerms = 8

// DeviceSearch selects the devices of an owner that match all Words and all Terms.
type DeviceSearch struct {
	Owner      string
	Words      []string // each is the beginning of a word of the device's nick, serial, model, maker or id
	Terms      []SearchTerm
	Sort       SortKey // empty: SortNick
	Descending bool
	After      string // DevicePage.Next of the previous page; empty: the first page
	Limit      int    // 0: 100; at most 1000
}

// DeviceRow is a device with its states. Its UserMeta and DeviceMeta are nil.
type DeviceRow struct {
	Device
	Quiet  bool
	Boot   string // one of the Boot constants
	Rev    int    // number of the newest revision; -1: the device has no trail
	Status trail.Status
	// Progress is the percentage in the device's newest report about the revision Rev.
	Progress int
}

// States returns the device's states, in the order of the variable States.
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

// DevicePage is one page of a search's result. Because the engine reads only a limited number of
// devices for a page, a page may have fewer rows than the limit, or even none, although Next is not
// empty. This happens if each condition by itself matches more than MaxCount devices, but few
// devices match all of them.
type DevicePage struct {
	Rows []DeviceRow
	Next string // for DeviceSearch.After; empty if this is the last page
}

// MaxCount is where CountSearch stops counting, if the database keeps no exact counter for the
// search.
const MaxCount = 1000

// SearchCount is the number of devices that match a search.
type SearchCount struct {
	N    int
	More bool // the engine stopped counting: at least N devices match
}

// FleetCounts has exact counts of an owner's devices.
type FleetCounts struct {
	Total    int
	Waiting  int            // waiting devices without a decision
	ByState  map[string]int // by the State constants
	Quietest time.Time      // the oldest LastSeen of a quiet device; zero if no device is quiet
}

// FacetCount says how many of an owner's devices have a certain value in a field, for example a
// certain model.
type FacetCount struct {
	Value string
	N     int
}

// ErrBadSearch is the error for a DeviceSearch that the engine cannot answer within its limits, or
// whose After is from another search.
type ErrBadSearch struct {
	Reason string // a sentence for the user
}

func (e *ErrBadSearch) Error() string { return "store: " + e.Reason }

// Fleet searches and counts the devices of an owner. The cost of each method does not grow with the
// number of devices.
type Fleet interface {
	// SearchDevices returns one page of the devices that match a search. If the search is not
	// possible, the error is an *ErrBadSearch.
	SearchDevices(ctx context.Context, s DeviceSearch) (DevicePage, error)
	// CountSearch counts the devices that match a search. The number is exact if the search has no
	// condition, or only one condition, on a field with a counter (state, model, maker, firmware,
	// token). For any other search, CountSearch stops at MaxCount.
	CountSearch(ctx context.Context, s DeviceSearch) (SearchCount, error)
	// FleetCounts counts an owner's devices.
	FleetCounts(ctx context.Context, owner string) (FleetCounts, error)
	// Facets returns at most `limit` of the most frequent values of a field, each with the number
	// of devices that have it. `others` is the number of devices with other values. The field must
	// be FieldModel, FieldMaker, FieldFirmware or FieldToken.
	Facets(ctx context.Context, owner string, f SearchField, limit int) (top []FacetCount, others int, err error)
	// Arrivals counts the devices that joined an owner's fleet, by activation or claim, on each of
	// the last `days` days (UTC, at most 366). The last number is for the day of `now`. Devices
	// that were deleted later are counted too.
	Arrivals(ctx context.Context, owner string, now time.Time, days int) ([]int, error)
	// MarkQuiet marks at most `limit` devices as quiet that were last seen before the time
	// `before`, and returns how many it marked. A device is no longer quiet as soon as it contacts
	// the hub again.
	MarkQuiet(ctx context.Context, before time.Time, limit int) (int, error)
}

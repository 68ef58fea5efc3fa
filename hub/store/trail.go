package store

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Errors of trails, tested with errors.Is.
var (
	// ErrGap: a revision's predecessor is not there.
	ErrGap = errors.New("store: the revision before this one is not there")
	// ErrStatus: the revision is not in a status in which this can be done.
	ErrStatus = errors.New("store: not in this status of the revision")
	// ErrQuota: the owner would keep more than may be.
	ErrQuota = errors.New("store: more than the owner's quota")
)

// MissingObjects is the error of a state that names objects which its owner
// has not, or not whole.
type MissingObjects struct {
	Sums []Hash // some of them, at most ten
	More int    // how many others
}

func (e *MissingObjects) Error() string {
	return fmt.Sprintf("store: %d objects of the state are not there", len(e.Sums)+e.More)
}

// RevisionStatus is where a revision is in its life, in Pantacor's words.
type RevisionStatus string

const (
	RevisionNew         RevisionStatus = "NEW"    // the hub's: no device has taken it
	RevisionCancelled   RevisionStatus = "CANCEL" // the hub's: its owner took it back
	RevisionQueued      RevisionStatus = "QUEUED"
	RevisionDownloading RevisionStatus = "DOWNLOADING"
	RevisionSyncing     RevisionStatus = "SYNCING"
	RevisionInProgress  RevisionStatus = "INPROGRESS"
	RevisionTesting     RevisionStatus = "TESTING"
	RevisionDone        RevisionStatus = "DONE"
	RevisionUpdated     RevisionStatus = "UPDATED"
	RevisionError       RevisionStatus = "ERROR"
	RevisionWontGo      RevisionStatus = "WONTGO"
)

// RevisionStatuses are all there are. The first six are open: the revision is offered
// to its device. The others are final.
var RevisionStatuses = []RevisionStatus{RevisionNew, RevisionQueued, RevisionDownloading, RevisionSyncing, RevisionInProgress, RevisionTesting,
	RevisionDone, RevisionUpdated, RevisionError, RevisionWontGo, RevisionCancelled}

// Final says whether a revision in this status stays in it.
func (s RevisionStatus) Final() bool {
	switch s {
	case RevisionDone, RevisionUpdated, RevisionError, RevisionWontGo, RevisionCancelled:
		return true
	}
	return false
}

// Trail is a device's history of states. A device has at most one, which has
// the device's id.
type Trail struct {
	Device   string // Device.ID
	Owner    string // Account.ID
	Rev      int    // of the newest revision
	Reported int    // the revision that the device reported on last
	Created  time.Time
	Touched  time.Time // latest revision or report
}

// Revision is a state that a device is to take, or has taken. Revisions of a trail are
// numbered from 0 without a gap.
type Revision struct {
	Device    string
	Owner     string
	Rev       int
	Committer string // prn
	CommitMsg string
	Status    RevisionStatus
	StateSum  Hash   // SHA-256 of the state's canonical JSON
	Objects   []Hash // that the state names, each once; not filled in by reads
	State     []byte // JSON object, as it was given
	Meta      []byte // JSON object, the owner's
	Progress  []byte // JSON object, as the device gave it

	Posted       time.Time
	ProgressTime time.Time // zero: no report yet
	Modified     time.Time
}

// TrailSummary is a trail with the revision that its device reported on last,
// whose State and Meta are left out.
type TrailSummary struct {
	Trail
	Revision Revision
}

// RevisionFilter chooses revisions of a trail, in the order of their numbers.
type RevisionFilter struct {
	Device   string
	Statuses []RevisionStatus // any of these
	After    int              // only revisions with a larger Rev; -1: from the first
	Limit    int              // 0: 100; at most 1000
	Bytes    int              // no more revisions once their texts have this many bytes; 0: no bound
}

// Trails keeps the states of devices. Methods that take a quota fail with
// ErrQuota when the owner's Usage would be above it.
type Trails interface {
	// CreateTrail makes a device's trail with its first revision, as given but for
	// Rev, which is 0. When the device has a trail already, nothing changes
	// and made is false. MissingObjects, ErrQuota.
	CreateTrail(ctx context.Context, first Revision, quota int64) (t Trail, made bool, err error)
	Trail(ctx context.Context, device string) (Trail, error)
	// Summary is of one trail, Summaries of an owner's, by device id after
	// `after`, at most limit (0: 100, at most 1000).
	Summary(ctx context.Context, device string) (TrailSummary, error)
	Summaries(ctx context.Context, owner, after string, limit int) ([]TrailSummary, error)

	// AddRevision appends a revision; Rev -1 is the next number. ErrNotFound: no
	// trail. ErrExists: the number is taken. ErrGap, MissingObjects, ErrQuota.
	AddRevision(ctx context.Context, s Revision, quota int64) (Revision, error)
	// Revision finds one; rev -1 is the newest.
	Revision(ctx context.Context, device string, rev int) (Revision, error)
	Revisions(ctx context.Context, f RevisionFilter) ([]Revision, error)
	// SetState exchanges the state (StateSum, Objects, State, Modified) of a
	// revision that is new. ErrStatus, MissingObjects, ErrQuota.
	SetState(ctx context.Context, s Revision, quota int64) error
	SetMeta(ctx context.Context, device string, rev int, meta []byte, now time.Time) error
	// SetProgress takes a device's report. A revision that is final stays as it
	// is: the same status again is no error and changes nothing, another one is
	// ErrStatus.
	SetProgress(ctx context.Context, device string, rev int, status RevisionStatus, progress []byte, now time.Time) error
	// MoveRevision is the owner's: from exactly one status to another. ErrStatus.
	MoveRevision(ctx context.Context, device string, rev int, from, to RevisionStatus, progress []byte, now time.Time) error
	// DropTrails removes trails and logs of deleted devices, at most limit
	// devices, and says of how many.
	DropTrails(ctx context.Context, limit int) (int, error)
}

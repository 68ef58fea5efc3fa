package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gangway/wire/trail"
)

// Errors of trails, tested with errors.Is.
var (
	// ErrGap: the trail does not have the revision before this one.
	ErrGap = errors.New("store: the revision before this one does not exist")
	// ErrStatus: the revision's status does not allow the change.
	ErrStatus = errors.New("store: the revision's status does not allow this")
	// ErrQuota: the owner's Usage would exceed the quota.
	ErrQuota = errors.New("store: more than the owner's quota")
)

// MissingObjects is the error for a state that names objects which its owner has not uploaded.
type MissingObjects struct {
	Sums []Hash // some of them, at most ten
	More int    // how many others
}

func (e *MissingObjects) Error() string {
	return fmt.Sprintf("store: %d objects of the state are missing", len(e.Sums)+e.More)
}

// Trail is a device's sequence of revisions. A device has at most one trail, and the trail has the
// device's id.
type Trail struct {
	Device   string // Device.ID
	Owner    string // Account.ID
	Rev      int    // of the newest revision
	Reported int    // the revision that the device reported on last
	Created  time.Time
	Touched  time.Time // latest revision or report
}

// Revision is one state of a trail, which the device is to install or has installed. The revisions
// of a trail are numbered from 0 without a gap.
type Revision struct {
	Device    string
	Owner     string
	Rev       int
	Committer string // prn
	CommitMsg string
	Status    trail.Status
	StateSum  Hash   // SHA-256 of the state's canonical JSON
	Objects   []Hash // the objects that the state names, each once; reads leave this field empty
	State     []byte // JSON object, as the owner or the device sent it
	Meta      []byte // JSON object, the owner's
	Progress  []byte // JSON object, as the device sent it

	Posted       time.Time
	ProgressTime time.Time // zero: no report yet
	Modified     time.Time
}

// TrailSummary is a trail with the revision that its device reported on last. That revision's State
// and Meta are left out.
type TrailSummary struct {
	Trail
	Revision Revision
}

// RevisionFilter chooses revisions of a trail, in the order of their numbers.
type RevisionFilter struct {
	Device   string
	Statuses []trail.Status // any of these
	After    int            // only revisions with a larger Rev; -1: from the first
	Limit    int            // 0: 100; at most 1000
	Bytes    int            // no more revisions after their texts reach this many bytes; 0: no bound
}

// PostedRevision is a revision that was posted to a device, without its State and Meta.
type PostedRevision struct {
	Revision
	Nick string // of the device; empty: the owner no longer has it
}

// PostedPage is a page of posted revisions.
type PostedPage struct {
	Rows []PostedRevision
	Next string // empty: this is the last page
}

// Trails keeps trails and their revisions. Methods that have a quota fail with ErrQuota if the
// owner's Usage would exceed it.
type Trails interface {
	// CreateTrail makes a device's trail with its first revision, whose Rev becomes 0. If the device
	// has a trail, nothing changes and made is false. MissingObjects, ErrQuota.
	CreateTrail(ctx context.Context, first Revision, quota int64) (t Trail, made bool, err error)
	Trail(ctx context.Context, device string) (Trail, error)
	// TrailSummary returns the summary of one device's trail. TrailSummaries lists the summaries of
	// an owner's trails, by device id, after the id `after`, at most limit (0: 100, at most 1000).
	TrailSummary(ctx context.Context, device string) (TrailSummary, error)
	TrailSummaries(ctx context.Context, owner, after string, limit int) ([]TrailSummary, error)

	// AddRevision appends a revision; Rev -1 is the next number. ErrNotFound: the device has no
	// trail. ErrExists: the trail has a revision of that number. ErrGap, MissingObjects, ErrQuota.
	AddRevision(ctx context.Context, s Revision, quota int64) (Revision, error)
	// Revision finds a revision; rev -1 is the newest.
	Revision(ctx context.Context, device string, rev int) (Revision, error)
	Revisions(ctx context.Context, f RevisionFilter) ([]Revision, error)
	// RevisionHeads lists a trail's revisions before the number `before` (-1: from the newest),
	// newest first, at most limit (0: 100, at most 1000). State and Meta are left out.
	RevisionHeads(ctx context.Context, device string, before, limit int) ([]Revision, error)
	// PostedRevisions lists the revisions that were posted to an owner's devices, which are all but
	// the first of each trail, newest first, after PostedPage.Next of the page before (empty: from
	// the newest), at most limit (0: 100, at most 1000). *ErrBadSearch.
	PostedRevisions(ctx context.Context, owner, after string, limit int) (PostedPage, error)
	// SetRevisionState replaces the state (StateSum, Objects, State, Modified) of a revision whose
	// status is still trail.StatusNew. ErrStatus, MissingObjects, ErrQuota.
	SetRevisionState(ctx context.Context, s Revision, quota int64) error
	SetRevisionMeta(ctx context.Context, device string, rev int, meta []byte, now time.Time) error
	// SetRevisionProgress stores a device's report. A revision in a final status stays as it is: a
	// report of the same status changes nothing and succeeds, a report of another status fails with
	// ErrStatus.
	SetRevisionProgress(ctx context.Context, device string, rev int, status trail.Status, progress []byte, now time.Time) error
	// ChangeRevisionStatus changes a revision from exactly one status to another, for its owner. ErrStatus.
	ChangeRevisionStatus(ctx context.Context, device string, rev int, from, to trail.Status, progress []byte, now time.Time) error
	// RemoveDeletedTrails removes the trails and logs of at most limit deleted devices, and returns the
	// number of devices.
	RemoveDeletedTrails(ctx context.Context, limit int) (int, error)
}

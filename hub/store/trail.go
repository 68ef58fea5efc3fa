package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gangway/wire/trail"
)

// Errors of trails. Test for them with errors.Is.
var (
	// ErrGap means that the number of the new revision is too high: it would leave a gap in the
	// trail.
	ErrGap = errors.New("store: the revision before this one does not exist")
	// ErrStatus means that the revision's status does not allow the change.
	ErrStatus = errors.New("store: the revision's status does not allow this")
	// ErrQuota means that the owner's Usage would exceed the quota.
	ErrQuota = errors.New("store: the owner's quota would be exceeded")
)

// MissingObjects is the error for a state that names objects that the device's owner has not
// uploaded.
type MissingObjects struct {
	Sums []Hash // the first missing objects, at most ten
	More int    // number of the other missing objects
}

func (e *MissingObjects) Error() string {
	return fmt.Sprintf("store: %d objects of the state are missing", len(e.Sums)+e.More)
}

// Trail is a device's sequence of revisions. A device has at most one trail, and the trail has the
// device's id.
type Trail struct {
	Device   string // Device.ID
	Owner    string // Account.ID
	Rev      int    // number of the newest revision
	Reported int    // number of the revision in the device's latest report
	Created  time.Time
	Touched  time.Time // time of the latest revision or report
}

// Revision is one revision of a trail, with its state. The revisions of a trail are numbered from 0
// without a gap.
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
	Meta      []byte // JSON object, as the owner sent it
	Progress  []byte // JSON object, as the device sent it

	Posted       time.Time
	ProgressTime time.Time // time of the latest report; zero if there is none
	Modified     time.Time
}

// TrailSummary is a trail and, without its State and Meta, the revision that the device's latest
// report was about.
type TrailSummary struct {
	Trail
	Revision Revision
}

// RevisionFilter selects revisions of a trail, which are then listed in the order of their numbers.
type RevisionFilter struct {
	Device   string
	Statuses []trail.Status // any of these
	After    int            // only revisions with a larger Rev; -1: from the first
	Limit    int            // 0: 100; at most 1000
	Bytes    int            // the page ends when its texts reach this many bytes; 0: no bound
}

// PostedRevision is a revision that was posted to a device, without its State and Meta.
type PostedRevision struct {
	Revision
	Nick string // the device's nick; empty: the owner no longer has the device
}

// PostedPage is a page of posted revisions.
type PostedPage struct {
	Rows []PostedRevision
	Next string // for the parameter `after` of PostedRevisions; empty: this is the last page
}

// Trails stores trails and their revisions. A method that takes a quota returns ErrQuota if the
// owner's Usage would exceed the quota.
type Trails interface {
	// CreateTrail stores a device's trail with its first revision, whose Rev becomes 0. If the
	// device already has a trail, nothing changes and `made` is false. Errors: *MissingObjects,
	// ErrQuota.
	CreateTrail(ctx context.Context, first Revision, quota int64) (t Trail, made bool, err error)
	Trail(ctx context.Context, device string) (Trail, error)
	// TrailSummary returns the summary of one device's trail. TrailSummaries lists the summaries of
	// an owner's trails, in the order of device ids, starting after the device id `after`. It
	// returns at most limit summaries (0 means 100; never more than 1000).
	TrailSummary(ctx context.Context, device string) (TrailSummary, error)
	TrailSummaries(ctx context.Context, owner, after string, limit int) ([]TrailSummary, error)

	// AddRevision appends a revision. If s.Rev is -1, the revision gets the next number.
	// ErrNotFound: the device has no trail. ErrExists: the trail already has a revision with this
	// number. Other errors: ErrGap, *MissingObjects, ErrQuota.
	AddRevision(ctx context.Context, s Revision, quota int64) (Revision, error)
	// Revision finds a revision by its number. If rev is -1, it returns the newest revision.
	Revision(ctx context.Context, device string, rev int) (Revision, error)
	// Revisions lists the revisions of a device's trail that the filter selects. ErrNotFound: the
	// device has no trail.
	Revisions(ctx context.Context, f RevisionFilter) ([]Revision, error)
	// RevisionHeads lists those revisions of a trail whose numbers are smaller than `before`, or
	// all revisions if `before` is -1. It returns at most limit revisions (0 means 100; never more
	// than 1000), newest first and without State and Meta.
	RevisionHeads(ctx context.Context, device string, before, limit int) ([]Revision, error)
	// PostedRevisions lists the revisions that were posted to an owner's devices, newest first,
	// except for the first revision of each trail. `after` is PostedPage.Next of the previous page,
	// or empty for the first page. A page has at most limit revisions (0 means 100; never more than
	// 1000). Errors: *ErrBadSearch.
	PostedRevisions(ctx context.Context, owner, after string, limit int) (PostedPage, error)
	// SetRevisionState replaces the state (StateSum, Objects, State, Modified) of a revision whose
	// status is still trail.StatusNew. Errors: ErrStatus, *MissingObjects, ErrQuota.
	SetRevisionState(ctx context.Context, s Revision, quota int64) error
	SetRevisionMeta(ctx context.Context, device string, rev int, meta []byte, now time.Time) error
	// SetRevisionProgress stores a device's report about a revision. A revision in a final status
	// does not change any more: a report of the same status succeeds without effect, and a report
	// of another status returns ErrStatus.
	SetRevisionProgress(ctx context.Context, device string, rev int, status trail.Status, progress []byte, now time.Time) error
	// ChangeRevisionStatus changes the status of a revision from `from` to `to`, because the
	// device's owner asked for it. ErrStatus: the revision does not have the status `from`.
	ChangeRevisionStatus(ctx context.Context, device string, rev int, from, to trail.Status, progress []byte, now time.Time) error
	// RemoveDeletedTrails removes the trails and logs of at most limit deleted devices. It returns
	// how many devices these were.
	RemoveDeletedTrails(ctx context.Context, limit int) (int, error)
}

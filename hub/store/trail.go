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
	// ErrGap: a step's predecessor is not there.
	ErrGap = errors.New("store: the step before this one is not there")
	// ErrStatus: the step is not in a status in which this can be done.
	ErrStatus = errors.New("store: not in this status of the step")
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

// Trail is a device's history of states. A device has at most one, which has
// the device's id.
type Trail struct {
	Device   string // Device.ID
	Owner    string // Account.ID
	Rev      int    // of the newest step
	Reported int    // the step that the device reported on last
	Created  time.Time
	Touched  time.Time // latest step or report
}

// Step is a state that a device is to take, or has taken. Steps of a trail are
// numbered from 0 without a gap.
type Step struct {
	Device    string
	Owner     string
	Rev       int
	Committer string // prn
	CommitMsg string
	Status    trail.Status
	StateSum  Hash   // SHA-256 of the state's canonical JSON
	Objects   []Hash // that the state names, each once; not filled in by reads
	State     []byte // JSON object, as it was given
	Meta      []byte // JSON object, the owner's
	Progress  []byte // JSON object, as the device gave it

	StepTime     time.Time
	ProgressTime time.Time // zero: no report yet
	Modified     time.Time
}

// TrailSummary is a trail with the step that its device reported on last,
// whose State and Meta are left out.
type TrailSummary struct {
	Trail
	Step Step
}

// StepFilter chooses steps of a trail, in the order of their numbers.
type StepFilter struct {
	Device   string
	Statuses []trail.Status // any of these
	After    int            // only steps with a larger Rev; -1: from the first
	Limit    int            // 0: 100; at most 1000
	Bytes    int            // no more steps once their texts have this many bytes; 0: no bound
}

// Trails keeps the states of devices. Methods that take a quota fail with
// ErrQuota when the owner's Usage would be above it.
type Trails interface {
	// CreateTrail makes a device's trail with its first step, as given but for
	// Rev, which is 0. When the device has a trail already, nothing changes
	// and made is false. MissingObjects, ErrQuota.
	CreateTrail(ctx context.Context, first Step, quota int64) (t Trail, made bool, err error)
	Trail(ctx context.Context, device string) (Trail, error)
	// Summary is of one trail, Summaries of an owner's, by device id after
	// `after`, at most limit (0: 100, at most 1000).
	Summary(ctx context.Context, device string) (TrailSummary, error)
	Summaries(ctx context.Context, owner, after string, limit int) ([]TrailSummary, error)

	// AddStep appends a step; Rev -1 is the next number. ErrNotFound: no
	// trail. ErrExists: the number is taken. ErrGap, MissingObjects, ErrQuota.
	AddStep(ctx context.Context, s Step, quota int64) (Step, error)
	// Step finds one; rev -1 is the newest.
	Step(ctx context.Context, device string, rev int) (Step, error)
	Steps(ctx context.Context, f StepFilter) ([]Step, error)
	// SetState exchanges the state (StateSum, Objects, State, Modified) of a
	// step that is new. ErrStatus, MissingObjects, ErrQuota.
	SetState(ctx context.Context, s Step, quota int64) error
	SetMeta(ctx context.Context, device string, rev int, meta []byte, now time.Time) error
	// SetProgress takes a device's report. A step that is final stays as it
	// is: the same status again is no error and changes nothing, another one is
	// ErrStatus.
	SetProgress(ctx context.Context, device string, rev int, status trail.Status, progress []byte, now time.Time) error
	// MoveStep is the owner's: from exactly one status to another. ErrStatus.
	MoveStep(ctx context.Context, device string, rev int, from, to trail.Status, progress []byte, now time.Time) error
	// DropTrails removes trails and logs of deleted devices, at most limit
	// devices, and says of how many.
	DropTrails(ctx context.Context, limit int) (int, error)
}

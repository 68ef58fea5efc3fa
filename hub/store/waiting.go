package store

import (
	"context"
	"errors"
	"slices"
	"time"
)

// Errors of the waiting room, tested with errors.Is.
var (
	// ErrFull: there are as many of the kind as may be: machines of the owner that
	// wait, for one.
	ErrFull = errors.New("store: as many as may be are there already")
	// ErrChanged: what a person decided about is no longer what waits.
	ErrChanged = errors.New("store: what was decided on has changed")
)

// WaitState is what a person has decided about a machine.
type WaitState string

const (
	Undecided WaitState = "waiting"
	Approved  WaitState = "approved"
	Denied    WaitState = "denied"
)

// Waiting is a machine whose evidence holds and leaves questions that an owner
// must answer. Its row is the owner's and the EK's: whoever has a join token
// can make one for any EK public key, so the row takes no name, spends no use,
// and changes nothing but itself. What an approval is good for is decided by
// the EK alone: only the TPM that has it opens the reply.
type Waiting struct {
	Owner    string // Account.ID
	EK       Hash   // SHA-256 of the EK's SubjectPublicKeyInfo (DER)
	DeviceID string // what the row is called: an id of its own, not the device's
	TokenID  string
	State    WaitState // as to the latest request
	Codes    []string  // of the questions that the latest request leaves open
	// Answered are the codes of the questions that a person approved the EK in
	// spite of. No request takes one away, only a denial.
	Answered []string

	RequestHash  Hash
	Request      []byte // the latest TCG-CSR-IDEVID
	Verdict      []byte // JSON of the evidence verdict
	Manufacturer string
	Model        string // the TPM's
	Firmware     string
	ProdModel    string // the machine's
	ProdSerial   string
	KeyAlgorithm string

	Addr     string
	Since    time.Time
	LastSeen time.Time
	Expires  time.Time // the row goes then, unless it has Answered
	By       string    // nick of the account that decided last
	Decided  time.Time
}

// Approves reports whether a person's word answers all these questions.
func (w *Waiting) Approves(codes []string) bool {
	return len(codes) > 0 && w.State != Denied && !slices.ContainsFunc(codes, func(c string) bool { return !slices.Contains(w.Answered, c) })
}

// MaxWaitingBytes bounds the evidence of the machines that wait for one owner.
const MaxWaitingBytes = 32 << 20

// Decision is a person's.
type Decision struct {
	Approve bool
	By      string // nick
	// Codes are the questions that the person saw; when they are not those of
	// the row, the decision is ErrChanged. nil: not compared.
	Codes []string
	At    time.Time
	// Expires is when a denial is forgotten.
	Expires time.Time
}

// WaitingRoom keeps machines until a person has decided about them.
type WaitingRoom interface {
	// Wait stores w, or renews what the row of its owner and EK says of the
	// machine; the row's first time, what was answered, and a denial stay. It
	// is Approved when all of its Codes are Answered, else Undecided unless
	// Denied. ErrFull when limit other rows of the owner are Undecided, or when
	// the evidence of all that are would be more than MaxWaitingBytes.
	Wait(ctx context.Context, w Waiting, limit int) (Waiting, error)
	// Waiting finds a row; ErrNotFound also when it has expired, as for all
	// that follow.
	Waiting(ctx context.Context, owner string, ek Hash, now time.Time) (Waiting, error)
	// WaitingDevice finds a row by its DeviceID.
	WaitingDevice(ctx context.Context, owner, deviceID string, now time.Time) (Waiting, error)
	// WaitingDevices lists an owner's Undecided and Denied rows, the newest
	// first, at most limit (0: 100, at most 1000). Request is left out.
	WaitingDevices(ctx context.Context, owner string, now time.Time, limit int) ([]Waiting, error)
	// Decide approves, which adds Codes to Answered, or denies, which takes
	// all away and revokes the owner's Pending enrolments of the EK. It may change an earlier decision. ErrNotFound, ErrChanged.
	Decide(ctx context.Context, owner, deviceID string, d Decision) (Waiting, error)
	// ExpireWaiting removes at most limit rows past their Expires and says how
	// many there were. Rows with Answered stay until their device is deleted.
	ExpireWaiting(ctx context.Context, now time.Time, limit int) (int, error)
}

package store

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"slices"
	"time"
)

// WaitingState is the owner's decision about a waiting device.
type WaitingState string

const (
	Undecided WaitingState = "waiting"
	Approved  WaitingState = "approved"
	Denied    WaitingState = "denied"
)

// WaitingDevice is a machine whose evidence passed all checks except for questions that the owner
// must answer.
//
// The owner and the EK identify a waiting device. Anyone who has a join token can add a waiting
// device with any EK public key. So a waiting device reserves no name, does not count as a use of
// the token, and changes no other data. Approving it is nevertheless safe: the approval is for this
// EK, and only the TPM that has the EK can decrypt the hub's reply.
type WaitingDevice struct {
	Owner    string // Account.ID
	EK       Hash   // SHA-256 of the EK's SubjectPublicKeyInfo (DER)
	DeviceID string // the id of the waiting device; an accepted device gets another id
	TokenID  string
	State    WaitingState // the owner's decision about the latest request
	Codes    []string     // codes of the questions that the latest request leaves open
	// Answered holds the codes of the questions that the owner has already approved for this EK. A
	// denial removes them, but a new request never does.
	Answered []string

	RequestHash  Hash
	Request      []byte // the latest TCG-CSR-IDEVID
	Verdict      []byte // JSON of the evidence verdict
	Manufacturer string
	Model        string // model of the TPM
	Firmware     string
	ProdModel    string // model of the machine
	ProdSerial   string
	KeyAlgorithm string

	Addr     string
	Since    time.Time
	LastSeen time.Time
	Expires  time.Time // when the waiting device is removed; ignored if Answered has codes
	By       string    // nick of the account that made the last decision
	Decided  time.Time
}

// Approves reports whether the owner's approval covers all these questions.
func (w *WaitingDevice) Approves(codes []string) bool {
	return len(codes) > 0 && w.State != Denied && !slices.ContainsFunc(codes, func(c string) bool { return !slices.Contains(w.Answered, c) })
}

// Digest returns a hash of everything on which a person bases a decision: the evidence, the
// questions that the evidence leaves open, and the previous decision. If the machine repeats its
// request, even from another address, the hash stays the same.
func (w *WaitingDevice) Digest() Hash {
	text, err := json.Marshal([]any{w.Owner, w.EK, w.DeviceID, w.TokenID, w.State, w.Codes, w.Answered, w.RequestHash, w.Verdict,
		w.Manufacturer, w.Model, w.Firmware, w.ProdModel, w.ProdSerial, w.KeyAlgorithm})
	if err != nil {
		panic(err) // strings and bytes can always be encoded
	}
	return sha256.Sum256(text)
}

// WaitingFilter selects waiting devices of an owner.
type WaitingFilter struct {
	Owner string
	State WaitingState // Undecided or Denied
	Now   time.Time
	After string // WaitingPage.Next of the previous page; empty: the first page
	Limit int    // 0: 100; at most 1000
}

// WaitingPage is one page of a list of waiting devices.
type WaitingPage struct {
	Rows []WaitingDevice
	Next string // for WaitingFilter.After; empty if this is the last page
}

// MaxWaitingBytes is the largest total size of the evidence of one owner's waiting devices.
const MaxWaitingBytes = 32 << 20

// Decision is an owner's approval or denial.
type Decision struct {
	Approve bool
	By      string // nick of the account that decides
	// Codes are the codes of the questions that the owner saw. If the waiting device now has other
	// Codes, the decision fails with ErrChanged. If Codes is nil, they are not compared.
	Codes []string
	// Seen is the Digest of the waiting device that the owner saw. If the waiting device now has
	// another Digest, the decision fails with ErrChanged. If Seen is nil, they are not compared.
	Seen *Hash
	At   time.Time
	// Expires is the time at which a denial is removed.
	Expires time.Time
}

// WaitingDevices stores waiting devices and their owner's decisions. Every method that finds a
// waiting device returns ErrNotFound if it has expired.
type WaitingDevices interface {
	// PutWaiting stores the waiting device `w`. If the store already has a waiting device with this
	// owner and EK, that device gets the properties of `w`, but keeps its Since, its Answered and a
	// denial. If Answered contains all Codes, the state becomes Approved. Otherwise it stays Denied
	// or becomes Undecided. ErrFull: `limit` other waiting devices of the owner are Undecided, or
	// the evidence of all Undecided devices of the owner would exceed MaxWaitingBytes.
	PutWaiting(ctx context.Context, w WaitingDevice, limit int) (WaitingDevice, error)
	// WaitingByEK finds a waiting device by its EK.
	WaitingByEK(ctx context.Context, owner string, ek Hash, now time.Time) (WaitingDevice, error)
	// WaitingByID finds a waiting device by its DeviceID.
	WaitingByID(ctx context.Context, owner, deviceID string, now time.Time) (WaitingDevice, error)
	// WaitingDevices lists an owner's Undecided and Denied devices, newest first, without Request.
	// It returns at most limit devices (0 means 100; never more than 1000).
	WaitingDevices(ctx context.Context, owner string, now time.Time, limit int) ([]WaitingDevice, error)
	// WaitingPage returns one page of an owner's waiting devices in one state, newest first.
	// *ErrBadSearch: f.After is not valid.
	WaitingPage(ctx context.Context, f WaitingFilter) (WaitingPage, error)
	// Decide stores the owner's approval or denial of a waiting device, which replaces any earlier
	// decision. An approval adds the device's Codes to Answered. A denial empties Answered and
	// revokes the owner's Pending enrolments of the EK. Errors: ErrNotFound, ErrChanged.
	Decide(ctx context.Context, owner, deviceID string, d Decision) (WaitingDevice, error)
	// ExpireWaitingDevices removes at most limit expired waiting devices, and returns their number.
	// It keeps those whose Answered is not empty: they stay until the device that onboarded with
	// the EK is deleted.
	ExpireWaitingDevices(ctx context.Context, now time.Time, limit int) (int, error)
}

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
// The row is identified by the owner and the EK. Anyone who has a join token can make a row for any
// EK public key. So the row reserves no name, spends no use of the token, and changes no other row.
// An approval is safe because it names the EK: only the TPM that has the EK can open the reply.
type WaitingDevice struct {
	Owner    string // Account.ID
	EK       Hash   // SHA-256 of the EK's SubjectPublicKeyInfo (DER)
	DeviceID string // the id of this row; an accepted device gets another id
	TokenID  string
	State    WaitingState // the owner's decision, as it applies to the latest request
	Codes    []string     // codes of the questions that the latest request leaves open
	// Answered holds the codes of the questions that the owner has already overridden for this EK.
	// Only a denial removes codes from it; a request never does.
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
	Expires  time.Time // when the row is removed, unless Answered has codes
	By       string    // nick of the account that made the last decision
	Decided  time.Time
}

// Approves reports whether the owner's approval covers all these questions.
func (w *WaitingDevice) Approves(codes []string) bool {
	return len(codes) > 0 && w.State != Denied && !slices.ContainsFunc(codes, func(c string) bool { return !slices.Contains(w.Answered, c) })
}

// Digest returns a hash of everything on which a person bases a decision: the evidence, the
// questions that it leaves open, and the decision until now. The hash stays the same if the machine
// repeats its request, even from another address.
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
	By      string // nick
	// Codes are the questions that the owner saw. If the row has other questions now, the decision
	// fails with ErrChanged. If Codes is nil, it is not compared.
	Codes []string
	// Seen is the Digest of the row that the owner saw. If the row has another Digest now, the
	// decision fails with ErrChanged. If Seen is nil, it is not compared.
	Seen *Hash
	At   time.Time
	// Expires is the time at which a denial is removed.
	Expires time.Time
}

// WaitingDevices stores waiting devices until their owner has decided about them. Every method that
// finds a row returns ErrNotFound if the row has expired.
type WaitingDevices interface {
	// PutWaiting stores w. If the owner already has a row for the EK, the row gets the new
	// properties of the device, but keeps Since, Answered and a denial. The state becomes Approved
	// if Answered has all Codes; otherwise it stays Denied or becomes Undecided. ErrFull: `limit`
	// other rows of the owner are Undecided, or the evidence of all Undecided rows would exceed
	// MaxWaitingBytes.
	PutWaiting(ctx context.Context, w WaitingDevice, limit int) (WaitingDevice, error)
	// WaitingByEK finds a row by its EK.
	WaitingByEK(ctx context.Context, owner string, ek Hash, now time.Time) (WaitingDevice, error)
	// WaitingByID finds a row by its DeviceID.
	WaitingByID(ctx context.Context, owner, deviceID string, now time.Time) (WaitingDevice, error)
	// WaitingDevices lists an owner's Undecided and Denied rows, newest first, at most limit (0:
	// 100; at most 1000). Request is left out.
	WaitingDevices(ctx context.Context, owner string, now time.Time, limit int) ([]WaitingDevice, error)
	// WaitingPage lists an owner's rows in one state, newest first, one page at a time. If f.After
	// is not valid, it returns *ErrBadSearch.
	WaitingPage(ctx context.Context, f WaitingFilter) (WaitingPage, error)
	// Decide approves or denies, and may change an earlier decision. An approval adds Codes to
	// Answered. A denial empties Answered and revokes the owner's Pending enrolments of the EK.
	// Errors: ErrNotFound, ErrChanged.
	Decide(ctx context.Context, owner, deviceID string, d Decision) (WaitingDevice, error)
	// ExpireWaitingDevices removes expired rows, at most limit, and returns the number of removed
	// rows. Rows with Answered stay until their device is deleted.
	ExpireWaitingDevices(ctx context.Context, now time.Time, limit int) (int, error)
}

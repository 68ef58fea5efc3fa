package store

import (
	"context"
	"time"
)

// HubWide is the Owner of the policy and of the EK list that apply to the whole hub.
const HubWide = ""

// Policy is a policy in the text form in which it was written.
type Policy struct {
	Owner   string // Account.ID, or HubWide
	Text    string // YAML
	Updated time.Time
}

// ListedEK is a line of an EK list. It names a TPM by the hash of its EK, or by the serial number
// of its EK certificate.
type ListedEK struct {
	Key  *Hash  // SHA-256 of the EK's SubjectPublicKeyInfo (DER)
	Cert []byte // serial number, big-endian without leading zeros; used if Key is nil
	Note string
	// CertificateRequired means that a TPM without a trusted EK certificate is refused.
	CertificateRequired bool
}

// Policies stores the policies of the hub and of its owners.
type Policies interface {
	// Policy returns an owner's policy. ErrNotFound: the owner has none.
	Policy(ctx context.Context, owner string) (Policy, error)
	// PutPolicy replaces a policy; an empty Text removes it. ConfigVersion increases.
	PutPolicy(ctx context.Context, p Policy) error
	// SwapPolicy replaces a policy as PutPolicy does, but only if the text of the owner's policy is
	// still `was` (empty: the owner has no policy). ErrChanged: the owner's policy has another
	// text, and nothing was changed.
	SwapPolicy(ctx context.Context, p Policy, was string) error
}

// EKLists stores the EK lists (expected TPMs) of the hub and of its owners.
type EKLists interface {
	// PutEKList replaces an owner's whole list; an empty list removes it. ConfigVersion increases.
	PutEKList(ctx context.Context, owner string, list []ListedEK) error
	// EKList returns the owner's list, in no particular order.
	EKList(ctx context.Context, owner string) ([]ListedEK, error)
	// EKListPage lists the lines of the owner's list whose hash or serial number begins with
	// `prefix` (hexadecimal, in lower case; empty: all lines). The hashes come first, then the
	// serial numbers, both in ascending order. `after` is the value `next` of the previous page
	// (empty: the first page). A page has at most limit lines (0: 100; at most 1000). `next` is
	// empty if this is the last page.
	EKListPage(ctx context.Context, owner, prefix, after string, limit int) (lines []ListedEK, next string, err error)
	// CountEKList returns the number of lines of the owner's list, but at most limit.
	CountEKList(ctx context.Context, owner string, limit int) (int, error)
	// ChangeEKList adds the line `l` to the owner's list, and replaces a line with the same hash or
	// serial number. If `remove` is true, it removes the line instead. If the list changes,
	// ConfigVersion increases. ErrFull: the list would have more than `most` lines. ErrNotFound:
	// the line to remove is not on the list.
	ChangeEKList(ctx context.Context, owner string, l ListedEK, remove bool, most int) error
	// HasEKList reports whether the owner's list has lines.
	HasEKList(ctx context.Context, owner string) (bool, error)
	// FindEK returns the line of the owner's list that names the EK by its hash. If no line does,
	// it returns the line that names the EK certificate by its serial number. `serial` has the form
	// of ListedEK.Cert (nil: the TPM has no EK certificate). ErrNotFound: no line names the EK or
	// its certificate.
	FindEK(ctx context.Context, owner string, ek Hash, serial []byte) (ListedEK, error)
}

package store

import (
	"context"
	"time"
)

// HubWide is the Owner of the policy and the EK list that apply to the whole hub.
const HubWide = ""

// Policy is the text of a policy, as it was written.
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
	// CertificateRequired means that the TPM is refused if it has no trusted EK certificate.
	CertificateRequired bool
}

// Policies stores the policies of the hub and of its owners.
type Policies interface {
	// Policy returns an owner's policy. ErrNotFound: the owner has none.
	Policy(ctx context.Context, owner string) (Policy, error)
	// PutPolicy replaces a policy, or removes it if the new Text is empty. It increases
	// ConfigVersion.
	PutPolicy(ctx context.Context, p Policy) error
	// SwapPolicy replaces a policy as PutPolicy does, but only if the text of the owner's policy is
	// still `was`, or if `was` is empty and the owner has no policy. ErrChanged: the owner's policy
	// has another text, and nothing was changed.
	SwapPolicy(ctx context.Context, p Policy, was string) error
}

// EKLists stores the lists of expected TPMs of the hub and of its owners.
type EKLists interface {
	// PutEKList replaces an owner's whole list, or removes it if the new list is empty. It
	// increases ConfigVersion.
	PutEKList(ctx context.Context, owner string, list []ListedEK) error
	// EKList returns the owner's list, in no particular order.
	EKList(ctx context.Context, owner string) ([]ListedEK, error)
	// EKListPage lists the lines of the owner's list whose hash or serial number begins with
	// `prefix`, in lower-case hexadecimal, or all lines if `prefix` is empty. The hashes come
	// first, then the serial numbers, both in ascending order. `after` is the value `next` of the
	// previous page, or empty for the first page. A page has at most `limit` lines (0: 100; at most
	// 1000). On the last page, `next` is empty.
	EKListPage(ctx context.Context, owner, prefix, after string, limit int) (lines []ListedEK, next string, err error)
	// CountEKList counts the lines of the owner's list, and stops at `limit`.
	CountEKList(ctx context.Context, owner string, limit int) (int, error)
	// ChangeEKList adds the line `l` to the owner's list, in place of any line with the same hash
	// or serial number, or removes it if `remove` is true. If the list changes, ConfigVersion
	// increases. ErrFull: the list would have more than `most` lines. ErrNotFound: the line to
	// remove is not on the list.
	ChangeEKList(ctx context.Context, owner string, l ListedEK, remove bool, most int) error
	// HasEKList reports whether the owner's list has any lines.
	HasEKList(ctx context.Context, owner string) (bool, error)
	// FindEK returns the line of the owner's list that names the EK by its hash or, if there is
	// none, the line that names the EK certificate by its serial number. `serial` has the form of
	// ListedEK.Cert, and is nil if the TPM has no EK certificate. ErrNotFound: no line names the EK
	// or its certificate.
	FindEK(ctx context.Context, owner string, ek Hash, serial []byte) (ListedEK, error)
}

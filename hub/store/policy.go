package store

import (
	"context"
	"time"
)

// HubWide stands in the place of an owner for what is the whole hub's.
const HubWide = ""

// Policy is a policy document as it was written.
type Policy struct {
	Owner   string // Account.ID, or HubWide
	Text    string // YAML
	Updated time.Time
}

// ListedEK is a line of a list of expected TPMs: the hash of an EK, or the
// serial number of an EK certificate.
type ListedEK struct {
	Key  *Hash  // SHA-256 of the EK's SubjectPublicKeyInfo (DER)
	Cert []byte // serial number, big-endian without leading zeros; used when Key is nil
	Note string
	// CertificateRequired: a TPM without a trusted EK certificate is refused.
	CertificateRequired bool
}

// Listing says whether a TPM is on a list.
type Listing struct {
	Kept            bool // the list has lines
	ByKey, BySerial bool
	Note            string // of the line found
	// CertificateRequired is the found line's.
	CertificateRequired bool
}

// Rulebook keeps the policies of the hub and its owners, and their lists of
// expected TPMs.
type Rulebook interface {
	// Policy is ErrNotFound where none was put.
	Policy(ctx context.Context, owner string) (Policy, error)
	// PutPolicy replaces; an empty Text removes.
	PutPolicy(ctx context.Context, p Policy) error
	// PutEKList replaces an owner's whole list; an empty one removes it.
	PutEKList(ctx context.Context, owner string, list []ListedEK) error
	// EKList gives the list in no particular order.
	EKList(ctx context.Context, owner string) ([]ListedEK, error)
	// FindEK looks a TPM up. cert is the EK certificate's serial number as in
	// ListedEK, nil without a certificate.
	FindEK(ctx context.Context, owner string, ek Hash, cert []byte) (Listing, error)
}

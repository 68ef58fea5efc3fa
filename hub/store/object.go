package store

import (
	"context"
	"errors"
	"time"
)

// ErrBeingRemoved means that the content is being removed. It can be uploaded again after the
// removal.
var ErrBeingRemoved = errors.New("store: the content is being removed")

// MaxObjectSize is the largest size that an object may announce, in bytes. It is small enough that
// sums of sizes cannot overflow an int64.
const MaxObjectSize = 1 << 50

// Object is an owner's record of a content. The content itself is stored once, even if several
// owners have a record of it. An owner without a record cannot read the content. An owner gets a
// Stored record only by uploading the bytes, even if the hub already has them.
type Object struct {
	Owner    string // Account.ID
	Sum      Hash   // SHA-256 of the content
	Size     int64  // in bytes
	Stored   bool   // the owner has uploaded the content, with the announced size and hash
	Name     string // from the first announcement
	MimeType string
	Created  time.Time
	Modified time.Time // last announcement or upload
}

// Objects stores the records of objects.
//
// A content is removed in three steps, so that no upload can start in between. First, BeginRemoval
// refuses if any owner has a record of the content. Second, the caller removes the bytes. Third,
// FinishRemoval ends the removal. Between the first and the last step, BeginUpload returns
// ErrBeingRemoved. An upload has a record before its first byte is read, and the record outlives
// the upload, so no removal can begin during an upload.
type Objects interface {
	// AnnounceObject stores a record that is not Stored. If the owner already has a record,
	// AnnounceObject updates its Modified and, if the record is not Stored, its Size. It returns
	// the record. ErrQuota: the content would exceed the quota now, or is larger than
	// MaxObjectSize. Only the record counts against the quota: an announced size reserves no space.
	AnnounceObject(ctx context.Context, o Object, quota int64) (Object, error)
	Object(ctx context.Context, owner string, sum Hash) (Object, error)
	// Objects lists an owner's Stored objects in the order of Sum, starting after the sum `after`,
	// or with the first if it is nil. It returns at most limit objects (0: 100; at most 1000).
	Objects(ctx context.Context, owner string, after *Hash, limit int) ([]Object, error)
	// RevisionObjects lists the objects that a revision names.
	RevisionObjects(ctx context.Context, device string, rev int) ([]Object, error)
	// BeginUpload updates the record's Modified and returns the record. Errors: ErrNotFound,
	// ErrBeingRemoved.
	BeginUpload(ctx context.Context, owner string, sum Hash, now time.Time) (Object, error)
	// FinishUpload marks the record as Stored. Before the call, the caller has stored the content
	// durably, with this size. From now on, the size counts against the quota. Errors: ErrNotFound,
	// ErrBeingRemoved, ErrQuota. ErrStatus: another size was announced during the upload.
	FinishUpload(ctx context.Context, owner string, sum Hash, size, quota int64, now time.Time) error
	// MarkContentLost marks all records of a content as not Stored, and returns their quota to the
	// owners.
	MarkContentLost(ctx context.Context, sum Hash) error
	// HasContents reports whether any owner has a Stored object.
	HasContents(ctx context.Context) (bool, error)
	// Usage returns the bytes that count against an owner's quota: the sizes of Stored objects and
	// of states, plus an overhead for each record.
	Usage(ctx context.Context, owner string) (int64, error)

	// ExpireObjects removes records that no revision names: records that are not Stored, if their
	// Modified is before the time `pending`, and Stored records, if their Modified is before the
	// time `unused`. It removes at most limit records, and returns their number.
	ExpireObjects(ctx context.Context, pending, unused time.Time, limit int) (int, error)
	// BeginRemoval begins the removal of a content and returns true. If any owner has a record of
	// the content, it does nothing and returns false.
	BeginRemoval(ctx context.Context, sum Hash) (bool, error)
	// UnfinishedRemovals lists the contents whose removal has begun but not ended.
	UnfinishedRemovals(ctx context.Context) ([]Hash, error)
	// FinishRemoval ends the removal of a content. Before the call, the caller has removed the
	// bytes.
	FinishRemoval(ctx context.Context, sum Hash) error
}

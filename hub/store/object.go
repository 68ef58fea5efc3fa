package store

import (
	"context"
	"errors"
	"time"
)

// ErrBeingRemoved means that the object's bytes are being removed. After the removal, the owner can
// upload the object again.
var ErrBeingRemoved = errors.New("store: the object is being removed; retry later")

// MaxObjectSize is the largest size of an object that an owner may announce, in bytes. It is so
// small that sums of sizes cannot overflow an int64.
const MaxObjectSize = 1 << 50

// Object is an owner's record of an object. The hub stores the object's bytes only once, even if
// several owners have a record of the object. An owner without a record cannot read the bytes. An
// owner gets a Stored record only by uploading the bytes, even if the hub already has them.
type Object struct {
	Owner    string // Account.ID
	Sum      Hash   // SHA-256 of the object's bytes
	Size     int64  // in bytes
	Stored   bool   // the owner has uploaded the bytes, with the announced size and hash
	Name     string // from the first announcement
	MimeType string
	Created  time.Time
	Modified time.Time // last announcement or upload
}

// Objects stores the records of objects.
//
// An object's bytes are removed in three steps, so that no upload can start in between. First,
// BeginRemoval refuses if any owner has a record of the object. Second, the caller removes the
// bytes. Third, FinishRemoval ends the removal. Between the first and the last step, BeginUpload
// returns ErrBeingRemoved. Each upload has a record before the hub reads its first byte, and the
// record exists longer than the upload. So no removal can begin during an upload.
type Objects interface {
	// AnnounceObject stores a record that is not Stored, and returns the record. If the owner
	// already has a record of the object, AnnounceObject updates the record's Modified and, if the
	// record is not Stored, its Size. ErrQuota: the object would exceed the quota now, or is larger
	// than MaxObjectSize. Only the record counts against the quota: an announced size reserves no
	// space.
	AnnounceObject(ctx context.Context, o Object, quota int64) (Object, error)
	Object(ctx context.Context, owner string, sum Hash) (Object, error)
	// Objects lists an owner's Stored objects in the order of Sum. The list starts after the object
	// with the Sum `after` (nil: with the first object). It has at most limit objects (0: 100; at
	// most 1000).
	Objects(ctx context.Context, owner string, after *Hash, limit int) ([]Object, error)
	// RevisionObjects lists the objects that a revision names.
	RevisionObjects(ctx context.Context, device string, rev int) ([]Object, error)
	// BeginUpload updates the record's Modified and returns the record. Errors: ErrNotFound,
	// ErrBeingRemoved.
	BeginUpload(ctx context.Context, owner string, sum Hash, now time.Time) (Object, error)
	// FinishUpload marks the record as Stored. Before the call, the caller has stored the bytes
	// durably; `size` is their number. After the call, `size` counts against the quota. Errors:
	// ErrNotFound, ErrBeingRemoved, ErrQuota. ErrStatus: another size was announced during the
	// upload.
	FinishUpload(ctx context.Context, owner string, sum Hash, size, quota int64, now time.Time) error
	// MarkContentLost marks all records of an object as not Stored, because its bytes are lost. The
	// object no longer counts against its owners' quotas.
	MarkContentLost(ctx context.Context, sum Hash) error
	// HasContents reports whether any owner has a Stored object.
	HasContents(ctx context.Context) (bool, error)
	// Usage returns the bytes that count against an owner's quota: the sizes of Stored objects and
	// of states, plus an overhead for each record.
	Usage(ctx context.Context, owner string) (int64, error)

	// ExpireObjects removes records of objects that no revision names. It removes a record that is
	// not Stored if the record's Modified is before the time `pending`. It removes a Stored record
	// if the record's Modified is before the time `unused`. It removes at most limit records, and
	// returns the number of removed records.
	ExpireObjects(ctx context.Context, pending, unused time.Time, limit int) (int, error)
	// BeginRemoval begins the removal of an object's bytes and returns true. If any owner has a
	// record of the object, it does nothing and returns false.
	BeginRemoval(ctx context.Context, sum Hash) (bool, error)
	// UnfinishedRemovals lists the objects whose removal has begun but not ended.
	UnfinishedRemovals(ctx context.Context) ([]Hash, error)
	// FinishRemoval ends the removal of an object's bytes. Before the call, the caller has removed
	// the bytes.
	FinishRemoval(ctx context.Context, sum Hash) error
}

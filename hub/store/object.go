package store

import (
	"context"
	"errors"
	"time"
)

// ErrBeingRemoved means that the content is being removed. It can be uploaded again after that.
var ErrBeingRemoved = errors.New("store: the content is being removed")

// MaxObjectSize is the largest size that an object may announce, in bytes. It keeps sums of sizes
// far from overflow.
const MaxObjectSize = 1 << 50

// Object is an owner's record of a content. The content itself is kept once, however many owners
// have a record of it. An owner without a record cannot read the content, and gets a record that is
// Stored only by uploading the bytes.
type Object struct {
	Owner    string // Account.ID
	Sum      Hash   // SHA-256 of the content
	Size     int64  // in bytes
	Stored   bool   // the owner has uploaded it, and it matched the announcement
	Name     string // from the first announcement
	MimeType string
	Created  time.Time
	Modified time.Time // last announcement or upload
}

// Objects keeps the records of objects.
//
// A content is removed in three steps, so that no upload can get in between: BeginRemoval, which
// refuses while any owner has a record of the content; removing its bytes; FinishRemoval. Between the
// first and the last step BeginUpload fails with ErrBeingRemoved. An upload has its record before its
// first byte is read, and the record outlives the upload, so no removal can begin during an upload.
type Objects interface {
	// AnnounceObject makes a record that is not Stored. If the owner has a record already,
	// AnnounceObject renews its Modified and, if it is not Stored, its Size. It returns the record.
	// ErrQuota: the content would not fit now, or is larger than MaxObjectSize. Only the record
	// counts against the quota: an announced size reserves no space.
	AnnounceObject(ctx context.Context, o Object, quota int64) (Object, error)
	Object(ctx context.Context, owner string, sum Hash) (Object, error)
	// Objects lists an owner's objects that are Stored, by Sum, after the sum `after` (nil: from the
	// first), at most limit (0: 100, at most 1000).
	Objects(ctx context.Context, owner string, after *Hash, limit int) ([]Object, error)
	// RevisionObjects lists the objects that a revision names.
	RevisionObjects(ctx context.Context, device string, rev int) ([]Object, error)
	// BeginUpload renews the record's Modified, and returns the record. ErrNotFound,
	// ErrBeingRemoved.
	BeginUpload(ctx context.Context, owner string, sum Hash, now time.Time) (Object, error)
	// FinishUpload makes the record Stored. The caller has made the content, of that size, durable.
	// From now on the size counts against the quota. ErrNotFound, ErrBeingRemoved, ErrQuota; ErrStatus:
	// another size was announced during the upload.
	FinishUpload(ctx context.Context, owner string, sum Hash, size, quota int64, now time.Time) error
	// MarkContentLost makes all records of a content not Stored, and gives back the quota that they
	// used.
	MarkContentLost(ctx context.Context, sum Hash) error
	// HasContents reports whether any owner has an object that is Stored.
	HasContents(ctx context.Context) (bool, error)
	// Usage is what counts against an owner's quota, in bytes: the sizes of Stored objects and of
	// states, plus an overhead for each record.
	Usage(ctx context.Context, owner string) (int64, error)

	// ExpireObjects removes records that no revision names: those not Stored and Modified before
	// pending, and those Stored and Modified before unused. It removes at most limit, and returns
	// how many.
	ExpireObjects(ctx context.Context, pending, unused time.Time, limit int) (int, error)
	// BeginRemoval begins the removal of a content and returns true, or returns false if any owner has a
	// record of it.
	BeginRemoval(ctx context.Context, sum Hash) (bool, error)
	// UnfinishedRemovals lists the contents whose removal has begun and not ended.
	UnfinishedRemovals(ctx context.Context) ([]Hash, error)
	// FinishRemoval ends the removal of a content. The caller has removed the bytes.
	FinishRemoval(ctx context.Context, sum Hash) error
}

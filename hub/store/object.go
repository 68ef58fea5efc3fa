package store

import (
	"context"
	"errors"
	"time"
)

// MaxObjectSize is the maximum size that an owner may announce for an object, in bytes. It is so
// small that sums of sizes cannot overflow an int64.
const MaxObjectSize = 1 << 50

// Object is an owner's record of an object. The hub stores the object's bytes only once, even if
// several owners have a record of it. An owner without a record cannot read the bytes, and gets a
// Stored record only by uploading them, even if the hub already has them.
type Object struct {
	Owner    string // Account.ID
	Sum      Hash   // SHA-256 of the object's bytes
	Size     int64  // in bytes
	Stored   bool   // the owner has uploaded the bytes, with the announced size and hash
	Name     string // from the first announcement
	MimeType string
	Created  time.Time
	Modified time.Time // last announcement or upload
	// Place is where the bytes are (see Objects). It reveals nothing about the owner. It is empty
	// if the bytes are not stored, or if they were stored by an old version of the hub, which had
	// no places.
	Place string
}

// Upload is an upload that has begun and has not ended.
type Upload struct {
	Owner string
	Sum   Hash
	Place string // where the upload puts the bytes
}

// PartialUpload is a resumable upload, which a client may send over several connections. An owner
// has at most one such upload for each object.
type PartialUpload struct {
	Upload
	Size     int64  // of the whole object, in bytes; counts against the owner's quota until the upload ends
	Received int64  // bytes that are stored durably, from the object's start
	Token    string // the object store's name of the upload
}

// ErrTooManyUploads means that the owner has too many unfinished uploads.
var ErrTooManyUploads = errors.New("store: too many unfinished uploads")

// Objects stores the records of objects, and the place of each object's bytes.
//
// Each upload puts the bytes at a new place, which was never used before and is recorded before the
// first byte is stored. If the object has no place yet, FinishUpload makes the upload's place the
// object's place. After RemoveContent has reported that a place is no longer needed, it is never
// used again: a new upload of the same object gets another place. Therefore a hub may remove the
// bytes at the old place at any time.
type Objects interface {
	// AnnounceObject adds an owner's record of an object that the owner has not uploaded yet, and
	// returns the record. If the owner already has such a record, AnnounceObject updates its
	// Modified and, if it is not Stored, its Size. ErrQuota: the object would exceed the quota now,
	// or is larger than MaxObjectSize. The record itself counts against the quota, but the
	// announced size does not.
	AnnounceObject(ctx context.Context, o Object, quota int64) (Object, error)
	Object(ctx context.Context, owner string, sum Hash) (Object, error)
	// Objects lists at most `limit` of an owner's Stored objects (0: 100; at most 1000) in the
	// order of Sum. The list starts after the object with the Sum `after`, or with the first object
	// if `after` is nil.
	Objects(ctx context.Context, owner string, after *Hash, limit int) ([]Object, error)
	// RevisionObjects lists the objects that a revision names.
	RevisionObjects(ctx context.Context, device string, rev int) ([]Object, error)
	// BeginUpload records an upload. It updates the Modified of the owner's record of the object,
	// and returns this record. ErrNotFound: the owner has no record of the object.
	BeginUpload(ctx context.Context, u Upload, now time.Time) (Object, error)
	// FinishUpload ends an upload, and marks the owner's record of the object as Stored. Before the
	// call, the caller has durably stored `size` bytes at the upload's place. After the call,
	// `size` counts against the quota. If `used` is false, the object already has its bytes at
	// another place, and the caller removes those that it has stored. `lost` is a place whose bytes
	// are lost, or empty: if it is the object's place, the upload's place takes over. Errors:
	// ErrNotFound (also if the upload has expired), ErrQuota. ErrStatus: another size was announced
	// during the upload.
	FinishUpload(ctx context.Context, u Upload, lost string, size, quota int64, now time.Time) (used bool, err error)
	// EndUpload ends an upload that was not successful.
	EndUpload(ctx context.Context, place string) error
	// BeginPartial records a resumable upload. From now on, u.Size counts against the quota.
	// ErrStatus: u.Size is not the Size of the owner's record. ErrTooManyUploads: the owner already
	// has `most` resumable uploads. ErrExists: the owner already has a resumable upload of this
	// object. Other errors: ErrNotFound, ErrQuota.
	BeginPartial(ctx context.Context, u PartialUpload, quota int64, most int, now time.Time) error
	// Partial returns an owner's resumable upload of an object, and the object's record. If the
	// owner has no such upload, the Place of the returned PartialUpload is empty. ErrNotFound: the
	// owner has no record of the object.
	Partial(ctx context.Context, owner string, sum Hash) (PartialUpload, Object, error)
	// AdvancePartial records that the bytes up to `to` are stored durably. ErrStatus: the upload
	// has ended, or the stored bytes do not end at `from`, for example because the client sends on
	// two connections.
	AdvancePartial(ctx context.Context, place string, from, to int64, now time.Time) error
	// ExpiredUploads lists at most `limit` uploads that made no progress since the time `before`.
	// The Token of an upload that is not resumable is empty.
	ExpiredUploads(ctx context.Context, before time.Time, limit int) ([]PartialUpload, error)
	// MarkContentLost marks all records of an object as not Stored, because its bytes are lost, so
	// that it no longer counts against its owners' quotas. If `place` is no longer the object's
	// place, nothing changes.
	MarkContentLost(ctx context.Context, sum Hash, place string) error
	// HasContents reports whether any owner has a Stored object.
	HasContents(ctx context.Context) (bool, error)
	// Usage returns how many bytes count against an owner's quota: the sizes of Stored objects and
	// of states, plus an overhead for each record.
	Usage(ctx context.Context, owner string) (int64, error)

	// ExpireObjects removes records of objects that no revision names: records that are not Stored
	// and whose Modified is before `pending`, and Stored records whose Modified is before `unused`.
	// It removes at most `limit` records, and returns how many it removed.
	ExpireObjects(ctx context.Context, pending, unused time.Time, limit int) (int, error)
	// RemoveContent reports whether a place of an object is no longer needed. If so, it will never
	// be used again, and the caller may remove the bytes that are there. A place is needed if an
	// upload uses it, or if it is the object's place and any owner has a record of the object.
	RemoveContent(ctx context.Context, sum Hash, place string) (bool, error)
}

package store

import (
	"context"
	"errors"
	"time"
)

// Errors of objects, tested with errors.Is.
var (
	// ErrCondemned: the content is about to be removed; it can be uploaded
	// again in a moment.
	ErrCondemned = errors.New("store: the content is being removed")
)

// MaxObjectSize is the largest size that an object may announce, in bytes. It
// keeps sums of sizes far from overflow.
const MaxObjectSize = 1 << 50

// Object is an owner's record of a content. The content itself is kept once,
// whoever has it; who has no record of it cannot read it, and nobody gets a
// record that is Stored without having uploaded the bytes.
type Object struct {
	Owner    string // Account.ID
	Sum      Hash   // SHA-256 of the content
	Size     int64  // in bytes
	Stored   bool   // the owner has uploaded it, and it was what was announced
	Name     string // given by who announced it first
	MimeType string
	Created  time.Time
	Modified time.Time // announced or uploaded last
}

// Objects keeps the records of objects.
//
// Removing a content takes three steps, so that no upload can fall between
// them: Condemn it, which only works while nobody has a record of it; remove
// its bytes; Bury it. Meanwhile BeginUpload fails with ErrCondemned. An upload
// in turn has its record before its first byte is read, and the record lasts
// longer than any upload, so what is being uploaded cannot be condemned.
type Objects interface {
	// AnnounceObject makes a record, not Stored, or renews Modified (and the
	// Size, when not Stored) of the one that is there, and returns it. ErrQuota
	// if the content would not fit now, or is larger than MaxObjectSize. Only
	// the record counts against the quota: a size that was announced and not
	// uploaded keeps no room from others.
	AnnounceObject(ctx context.Context, o Object, quota int64) (Object, error)
	Object(ctx context.Context, owner string, sum Hash) (Object, error)
	// Objects lists an owner's that are Stored, by Sum after `after` (nil:
	// from the first), at most limit (0: 100, at most 1000).
	Objects(ctx context.Context, owner string, after *Hash, limit int) ([]Object, error)
	// RevisionObjects lists the objects of a step.
	RevisionObjects(ctx context.Context, device string, rev int) ([]Object, error)
	// BeginUpload renews Modified. ErrNotFound, ErrCondemned.
	BeginUpload(ctx context.Context, owner string, sum Hash, now time.Time) (Object, error)
	// FinishUpload makes the record Stored: its content, of that size, is
	// durable. From now on the size counts against the quota. ErrNotFound,
	// ErrCondemned, ErrQuota; ErrStatus when another size was announced
	// meanwhile.
	FinishUpload(ctx context.Context, owner string, sum Hash, size, quota int64, now time.Time) error
	// LostContent makes all records of a content not Stored, and gives back
	// what they counted.
	LostContent(ctx context.Context, sum Hash) error
	// HasContents reports whether any owner has uploaded a content that was
	// not lost.
	HasContents(ctx context.Context) (bool, error)
	// Usage is what counts against an owner's quota, in bytes: the sizes of
	// Stored objects and of states, and something for each record.
	Usage(ctx context.Context, owner string) (int64, error)

	// ExpireObjects removes records that no step names: those that are not
	// Stored and were Modified before pending, and those that are and were
	// Modified before unused. At most limit; it says how many.
	ExpireObjects(ctx context.Context, pending, unused time.Time, limit int) (int, error)
	// Condemn says whether the content may be removed: nobody has a record of
	// it.
	Condemn(ctx context.Context, sum Hash) (bool, error)
	// Condemned lists what was condemned and not buried.
	Condemned(ctx context.Context) ([]Hash, error)
	Bury(ctx context.Context, sum Hash) error
}

package store

import (
	"context"
	"time"
)

// States of a device's boot, as its newest measurement left it. Only BootMatches
// satisfies a policy.
const (
	BootUnmeasured = "unmeasured"       // it never sent one
	BootMatches    = "matches"          // it matches the reference
	BootChanged    = "changed"          // it differs from the reference
	BootNothing    = "nothing-measured" // the firmware measured nothing
	BootRefused    = "refused"          // it does not hold, see BootRefusal
)

// Boot is a measurement of a device: verified evidence of what it booted.
type Boot struct {
	Number      int64 // given by the store, increasing for a device
	Device      string
	Time        time.Time
	State       string // BootMatches, BootChanged or BootNothing
	Measurement []byte // JSON of boot.Measurement
	Changes     []byte // JSON of what differs from the reference
	// The evidence itself, for an auditor; of the latest measurement alone.
	Nonce, Attest, Signature, Log []byte
}

// BootReference is what a device should boot, JSON of boot.Reference.
type BootReference struct {
	Device string
	Text   []byte
	Was    []byte // the Text that a new one is to replace; empty: there is none
}

// BootRefusal is why a device's newest measurement was refused. It is kept until
// the device sends one that holds.
type BootRefusal struct {
	Time               time.Time
	Code, Reason, Hint string
}

// Boots keeps what devices booted. What writes is ErrNotFound for a device that
// is not there, or was deleted.
type Boots interface {
	// PutBoot stores a measurement, judged by a reference, as a device's latest,
	// and keeps the ten before it without their evidence. A device without a
	// reference gets that one, if it is not empty. Where the device has another, because its owner
	// changed it meanwhile, nothing is stored. It returns the one that is there.
	// A Number says that this boot was measured before: it takes that
	// measurement's place, if that is the latest still, and its number.
	PutBoot(ctx context.Context, b Boot, reference []byte) (is []byte, err error)
	// LatestBoot is ErrNotFound when the device was never measured.
	LatestBoot(ctx context.Context, device string) (Boot, error)
	// BootHistory lists a device's measurements, the newest first, without the
	// evidence.
	BootHistory(ctx context.Context, device string) ([]Boot, error)
	// RefuseBoot notes that a device's newest measurement was refused. news is
	// false where the last one was refused by the same code and reason.
	RefuseBoot(ctx context.Context, device string, r BootRefusal) (news bool, err error)
	// BootRefusal is ErrNotFound where the newest measurement was not refused.
	BootRefusal(ctx context.Context, device string) (BootRefusal, error)
	// BootState is the state of a device's boot.
	BootState(ctx context.Context, device string) (string, error)
	// BootStates gives the states of an owner's devices that were measured, or
	// refused, by device.
	BootStates(ctx context.Context, owner string) (map[string]string, error)
	// BootReference is ErrNotFound when the device has none.
	BootReference(ctx context.Context, device string) (BootReference, error)
	// PutBootReference gives a device a reference, and its latest measurement
	// the State and Changes of latest, which was judged by it; latest.Number 0:
	// it was never measured. BootRefused stays the state of a device. ErrChanged when another measurement is the latest
	// by now, or another reference than r.Was is there: nothing was changed.
	PutBootReference(ctx context.Context, r BootReference, latest Boot) error
	// RequestBoot asks that the device be measured again; BootRequested says
	// whether it was, since its last measurement.
	RequestBoot(ctx context.Context, device string) error
	BootRequested(ctx context.Context, device string) (bool, error)
}

package store

import (
	"context"
	"time"
)

// States of a device's boot, after its newest measurement. A policy accepts only BootMatches.
const (
	BootUnmeasured = "unmeasured"       // the device never sent a measurement
	BootMatches    = "matches"          // the measurement matches the reference
	BootChanged    = "changed"          // the measurement differs from the reference
	BootNothing    = "nothing-measured" // the firmware measured nothing
	BootRefused    = "refused"          // the measurement does not hold, see BootRefusal
)

// Boot is a measurement of a device: verified evidence of what it booted.
type Boot struct {
	Number      int64 // given by the store, increasing for a device
	Device      string
	Time        time.Time
	State       string // BootMatches, BootChanged or BootNothing
	Measurement []byte // JSON of boot.Measurement
	Changes     []byte // JSON of the differences from the reference
	// The evidence itself, for an auditor. Kept for the latest measurement only.
	Nonce, Attest, Signature, Log []byte
}

// BootReference is the accepted boot of a device, JSON of boot.Reference.
type BootReference struct {
	Device   string
	Text     []byte
	Replaces []byte // the Text that PutBootReference replaces; empty: the device has no reference
}

// BootRefusal is the reason why a device's newest measurement was refused. It is kept until the
// device sends a measurement that is not refused.
type BootRefusal struct {
	Time               time.Time
	Code, Reason, Hint string
}

// Boots keeps boot measurements. Methods that write return ErrNotFound for a device that does not
// exist or was deleted.
type Boots interface {
	// PutBoot stores a measurement as a device's latest, and keeps the ten before it without their
	// evidence. The caller compared b with reference. If the device has no reference, it gets this
	// one, unless this one is empty. If the device has a different reference, because its owner
	// changed it in between, nothing is stored. PutBoot returns the device's reference.
	//
	// If b.Number is not 0, this boot was measured before: b replaces the measurement with that
	// number, if that is still the latest.
	PutBoot(ctx context.Context, b Boot, reference []byte) (current []byte, err error)
	// LatestBoot returns ErrNotFound if the device was never measured.
	LatestBoot(ctx context.Context, device string) (Boot, error)
	// BootHistory lists a device's measurements, newest first, without the evidence.
	BootHistory(ctx context.Context, device string) ([]Boot, error)
	// RefuseBoot records that a device's newest measurement was refused. news is false if the
	// previous refusal had the same code and reason.
	RefuseBoot(ctx context.Context, device string, r BootRefusal) (news bool, err error)
	// BootRefusal returns ErrNotFound if the newest measurement was not refused.
	BootRefusal(ctx context.Context, device string) (BootRefusal, error)
	// BootState returns the state of a device's boot.
	BootState(ctx context.Context, device string) (string, error)
	// BootStates returns the states of an owner's devices that sent a measurement, by device.
	BootStates(ctx context.Context, owner string) (map[string]string, error)
	// BootReference returns ErrNotFound if the device has no reference.
	BootReference(ctx context.Context, device string) (BootReference, error)
	// PutBootReference replaces a device's reference. The caller compared the latest measurement
	// with the new reference: that measurement gets the State and Changes of latest. latest.Number
	// is 0 if the device was never measured. A device in state BootRefused stays in it. ErrChanged:
	// another measurement is now the latest, or the device's reference is not r.Replaces; nothing
	// was changed.
	PutBootReference(ctx context.Context, r BootReference, latest Boot) error
	// RequestBoot asks the device for another measurement. BootRequested reports whether one was
	// requested since the last measurement.
	RequestBoot(ctx context.Context, device string) error
	BootRequested(ctx context.Context, device string) (bool, error)
}

package store

import (
	"context"
	"time"
)

// States of a device's boot, according to its newest measurement. A policy that requires a measured
// boot accepts only BootMatches.
const (
	BootUnmeasured = "unmeasured"       // the device never sent a measurement
	BootMatches    = "matches"          // the measurement matches the reference
	BootChanged    = "changed"          // the measurement differs from the reference
	BootNothing    = "nothing-measured" // the firmware measured nothing
	BootRefused    = "refused"          // the hub refused the measurement; see BootRefusal
)

// Boot is a boot measurement that the hub verified.
type Boot struct {
	Number      int64 // assigned by the store; increases for each device
	Device      string
	Time        time.Time
	State       string // BootMatches, BootChanged or BootNothing
	Measurement []byte // JSON of boot.Measurement
	Changes     []byte // JSON of the differences from the reference
	// Evidence of the measurement, for an auditor. The store keeps it only for a device's latest
	// measurement.
	Nonce, Attest, Signature, Log []byte
}

// BootReference is the boot with which the hub compares a device's later boots. Text is the JSON of
// boot.Reference.
type BootReference struct {
	Device   string
	Text     []byte
	Replaces []byte // the Text that PutBootReference replaces; empty if the device has no reference
}

// BootRefusal is the reason why the hub refused a device's newest measurement. The store keeps it
// until the device sends a measurement that is not refused.
type BootRefusal struct {
	Time               time.Time
	Code, Reason, Hint string
}

// Boots stores boot measurements. Methods that write return ErrNotFound if the device does not
// exist or was deleted.
type Boots interface {
	// PutBoot stores b as a device's latest measurement. It also keeps the ten measurements before
	// b, without their evidence. The caller has compared b with reference. If the device has no
	// reference, and reference is not empty, reference becomes the device's reference. If the
	// device has another reference, because its owner changed it after the comparison, nothing is
	// stored. PutBoot returns the device's reference.
	//
	// If b.Number is not 0, the device sent the same boot before: b replaces the measurement with
	// that number, if it is still the latest.
	PutBoot(ctx context.Context, b Boot, reference []byte) (current []byte, err error)
	// LatestBoot returns a device's latest measurement. ErrNotFound: the device was never measured.
	LatestBoot(ctx context.Context, device string) (Boot, error)
	// BootHistory lists a device's measurements, newest first, without their evidence.
	BootHistory(ctx context.Context, device string) ([]Boot, error)
	// RefuseBoot records that the hub refused a device's newest measurement. news is false if the
	// previous refusal had the same code and reason.
	RefuseBoot(ctx context.Context, device string, r BootRefusal) (news bool, err error)
	// BootRefusal returns the refusal of a device's newest measurement. ErrNotFound: that
	// measurement was not refused.
	BootRefusal(ctx context.Context, device string) (BootRefusal, error)
	// BootState returns the state of a device's boot: one of the Boot constants.
	BootState(ctx context.Context, device string) (string, error)
	// BootStates returns the boot states of an owner's devices by device id. Devices that never
	// sent a measurement are left out.
	BootStates(ctx context.Context, owner string) (map[string]string, error)
	// BootReference returns a device's reference. ErrNotFound: the device has none.
	BootReference(ctx context.Context, device string) (BootReference, error)
	// PutBootReference replaces a device's reference. The caller has compared the device's latest
	// measurement with the new reference; latest has the Number of that measurement, and its new
	// State and Changes. latest.Number is 0 if the device was never measured. A device in state
	// BootRefused stays in that state. ErrChanged: latest is no longer the latest measurement, or
	// the device's reference is not r.Replaces; nothing was changed.
	PutBootReference(ctx context.Context, r BootReference, latest Boot) error
	// RequestBoot asks the device for another measurement. BootRequested reports whether a
	// measurement was requested after the last one.
	RequestBoot(ctx context.Context, device string) error
	BootRequested(ctx context.Context, device string) (bool, error)
}

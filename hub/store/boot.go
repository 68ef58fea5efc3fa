package store

import (
	"context"
	"time"
)

// States of a device's boot, according to its newest measurement. A policy that requires a measured
// boot accepts only BootMatches.
const (
	BootUnmeasured = "unmeasured"       // the device never sent a measurement
	BootMatches    = "matches"          // every part of the boot is expected or known
	BootChanged    = "changed"          // at least one part of the boot is neither expected nor known
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
	Changes     []byte // JSON of the changes that make the state BootChanged
	Verdict     []byte // JSON of boot.Verdict; empty in old measurements
	// Judged has the data by which the store counts and finds the devices of a cohort (see
	// BootCohort). PutBoot and PutBootReference store it unless it is nil. Methods that return a
	// Boot leave it nil.
	Judged *BootJudged
	// Nonce, Attest, Signature and Log are the evidence of the measurement, for an auditor. The
	// store keeps them only for a device's latest measurement.
	Nonce, Attest, Signature, Log []byte
}

// BootReference is the boot with which the hub compares a device's later boots. Text is the JSON of
// boot.Reference.
type BootReference struct {
	Device   string
	Text     []byte
	Replaces []byte // the Text that PutBootReference replaces; empty if the device has no reference
}

// BootRefusal is the reason why the hub refused a device's newest measurement. The store keeps the
// refusal until the device sends a measurement that the hub does not refuse.
type BootRefusal struct {
	Time               time.Time
	Code, Reason, Hint string
}

// Boots stores boot measurements. Methods that write return ErrNotFound if the device does not
// exist or was deleted.
type Boots interface {
	// PutBoot stores `b` as the latest measurement of a device, and keeps the ten measurements
	// before it, without their evidence. The result `current` is the device's reference after the
	// call.
	//
	// The parameter `reference` is the reference with which the caller compared `b`. If the device
	// has no reference, a `reference` that is not empty becomes the device's reference. If the
	// device has another reference, PutBoot stores nothing, because the owner has changed the
	// reference since the comparison.
	//
	// If b.Number is not 0, the device has sent the same boot before. In that case, `b` replaces
	// the measurement with that number, if it is still the latest.
	PutBoot(ctx context.Context, b Boot, reference []byte) (current []byte, err error)
	// LatestBoot returns a device's latest measurement. ErrNotFound: the device was never measured.
	LatestBoot(ctx context.Context, device string) (Boot, error)
	// BootHistory lists a device's measurements, newest first, without their evidence.
	BootHistory(ctx context.Context, device string) ([]Boot, error)
	// RefuseBoot records that the hub refused a device's newest measurement. `news` is false if the
	// previous measurement was also refused, with the same code and reason.
	RefuseBoot(ctx context.Context, device string, r BootRefusal) (news bool, err error)
	// BootRefusal returns why the hub refused a device's newest measurement. ErrNotFound: that
	// measurement was not refused.
	BootRefusal(ctx context.Context, device string) (BootRefusal, error)
	// BootState returns the state of a device's boot: one of the Boot constants.
	BootState(ctx context.Context, device string) (string, error)
	// BootStates maps the ids of an owner's devices to their boot states, without the devices that
	// never sent a measurement.
	BootStates(ctx context.Context, owner string) (map[string]string, error)
	// BootReference returns a device's reference. ErrNotFound: the device has none.
	BootReference(ctx context.Context, device string) (BootReference, error)
	// PutBootReference replaces a device's reference. The caller has compared the device's latest
	// measurement with the new reference, and passes the result in `latest`: the Number of that
	// measurement and its new State, Changes, Verdict and Judged. If the device was never measured,
	// latest.Number is 0. A device in state BootRefused stays in that state. ErrChanged: the device
	// has a newer measurement than `latest`, or the device's reference is not r.Replaces. In both
	// cases nothing was changed. If r.Text and r.Replaces are both empty, the device has no
	// reference before and after the call.
	PutBootReference(ctx context.Context, r BootReference, latest Boot) error
	// RequestBoot records that the device must send another measurement. BootRequested reports
	// whether RequestBoot was called after the device's last measurement.
	RequestBoot(ctx context.Context, device string) error
	BootRequested(ctx context.Context, device string) (bool, error)
}

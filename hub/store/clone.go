package store

import "context"

// Clone is the clone record of a device: the signs that copies of its TPM's state exist. Record is
// the JSON of clone.Record.
type Clone struct {
	Device  string
	Version int64  // given by the store, increasing for a device; 0: the device has no record yet
	State   string // clone.State; also Device.Clone
	Record  []byte
}

// CloneRefused is the state of a device whose owner has decided that several machines run with its
// TPM's state. Activate fails with ErrCloned.
const CloneRefused = "refused"

// Clones keeps one clone record for each device.
type Clones interface {
	// Clone returns ErrNotFound if the device has no record.
	Clone(ctx context.Context, device string) (Clone, error)
	// PutClone replaces the record that has c.Version, sets the device's Clone to c.State, and
	// appends events, in one step. It returns the new version. ErrChanged: the device's record has
	// another version. ErrNotFound: the device does not exist. On an error nothing was changed.
	PutClone(ctx context.Context, c Clone, events ...Event) (int64, error)
}

package store

import "context"

// Clone is what was seen of copies of a device's TPM state, JSON of
// clone.Record.
type Clone struct {
	Device  string
	Version int64  // given by the store, increasing for a device; 0: there is none yet
	State   string // clone.State; also Device.Clone
	Record  []byte
}

// Clones keeps one such record for a device.
type Clones interface {
	// Clone is ErrNotFound when the device has none.
	Clone(ctx context.Context, device string) (Clone, error)
	// PutClone stores c in the place of the one with c.Version, sets the
	// device's Clone to c.State, and appends events, in one step. It returns
	// the new version. ErrChanged when the device has another version by now,
	// ErrNotFound when there is no such device: nothing was changed.
	PutClone(ctx context.Context, c Clone, events ...Event) (int64, error)
}

// CloneRefused is the state of a device whose owner has said that several
// machines run with its TPM's state. Activate fails with ErrCloned.
const CloneRefused = "refused"

package store

import "context"

// Clone is the clone record of a device: the evidence that several machines use copies of the
// device's TPM state. Record is the JSON of a clone.Record.
type Clone struct {
	Device  string
	Version int64  // assigned by the store; increases for each device; 0: the device has no record yet
	State   string // clone.State; also Device.Clone
	Record  []byte
}

// CloneRefused is the state of a device whose owner has decided to refuse it because several
// machines use copies of its TPM state. For such a device, Activate returns ErrCloned.
const CloneRefused = "refused"

// Clones stores one clone record for each device.
type Clones interface {
	// Clone returns a device's clone record. ErrNotFound: the device has none.
	Clone(ctx context.Context, device string) (Clone, error)
	// PutClone replaces the device's clone record, sets Device.Clone to c.State, and appends the
	// events, all in one transaction. It returns the record's new version. ErrChanged: the version
	// of the stored record is not c.Version. ErrNotFound: the device does not exist. If PutClone
	// returns an error, nothing was changed.
	PutClone(ctx context.Context, c Clone, events ...Event) (int64, error)
}

package store

import (
	"context"
	"errors"
	"time"
)

// ErrTokenPaused means that the join token was paused because the hub was restored from a backup,
// and may have lost the record of some uses of the token. To use the token again, call ResumeToken.
var ErrTokenPaused = errors.New("store: join token is paused after a restore")

// Kinds of events about a restore.
const (
	EventRestored     = "hub.restored"
	EventLostDevice   = "device.lost"
	EventTokenResumed = "token.resumed"
)

// EpochsPerRestore is how much a restore adds to the number of the epoch. Between the backup and
// the restore, the hub may have begun epochs that the backup does not contain, whose numbers must
// not be used again.
const EpochsPerRestore = 1_000_000

// Restore describes the latest restore of the hub.
type Restore struct {
	Epoch  int64     `json:"epoch"`  // epoch of the backup
	Backup time.Time `json:"backup"` // when the backup began
	Time   time.Time `json:"time"`   // when it was restored
}

// Restored says what MarkRestored has changed.
type Restored struct {
	Epoch    int64 // the new epoch
	Sessions int   // sessions that were ended
	Tokens   int   // join tokens that were paused
}

// LostDevice is a device that has a certificate of this hub but is not in the database, because it
// onboarded after the backup from which the hub was restored.
type LostDevice struct {
	ID          string
	Owner       string // Account.ID in the certificate; the account may be lost too
	TokenID     string
	Certificate Hash      // SHA-256 of the IDevID certificate that the device used last
	Issued      time.Time // when the hub issued the certificate
	FirstSeen   time.Time // when the restored hub saw the device first
	LastSeen    time.Time
	Addr        string
}

// Restores stores what a hub must know after it has been restored from a backup.
type Restores interface {
	Epochs
	// MarkRestored begins the first epoch after a restore. It ends all sessions, because people may
	// have signed out after the backup was made, and pauses the join tokens with a limited number
	// of uses. It appends an event to the audit trail of each account and of the operator.
	MarkRestored(ctx context.Context, r Restore) (Restored, error)
	// LatestRestore returns the latest restore. ErrNotFound: the hub was never restored.
	LatestRestore(ctx context.Context) (Restore, error)
	// RecordLostDevice records that a lost device has connected. The first time the device
	// connects, it also appends the event `e`.
	RecordLostDevice(ctx context.Context, d LostDevice, e Event) error
	// LostDevices returns at most `limit` lost devices whose ids are greater than `after`, in the
	// order of their ids. A device is no longer lost once it has onboarded again.
	LostDevices(ctx context.Context, after string, limit int) ([]LostDevice, error)
	// LostDevicesOf is like LostDevices, but for the devices of one owner.
	LostDevicesOf(ctx context.Context, owner, after string, limit int) ([]LostDevice, error)
	// PausedTokens returns all join tokens that are paused.
	PausedTokens(ctx context.Context) ([]JoinToken, error)
	// ResumeToken lets devices use a paused join token again. `spent` is the number of uses whose
	// record was lost, by which the token's maximum number of uses decreases. If no uses are left,
	// ResumeToken disables the token. ErrNotFound: there is no paused token with this id.
	ResumeToken(ctx context.Context, id string, spent int, e Event) error
}

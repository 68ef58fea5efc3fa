package store

import (
	"context"
	"time"
)

// Alarm is a condition that has not ended yet and that the operator must deal with.
type Alarm struct {
	Name  string // stable, such as "backup-old"
	Since time.Time
	Fact  string // one sentence; true at the time Since
}

// Alarms stores the alarms that have not ended, so that a hub that restarts does not append their
// events a second time.
type Alarms interface {
	// Alarms lists the alarms that have not ended, in the order of their names.
	Alarms(ctx context.Context) ([]Alarm, error)
	// SetAlarms replaces the list of the alarms that have not ended. For each alarm that begins or
	// ends, it appends the event that `event` returns, in the same transaction. An alarm that is
	// already on the stored list keeps its Since and its Fact. SetAlarms returns how many alarms
	// began or ended. It may call `event` several times for the same alarm.
	SetAlarms(ctx context.Context, list []Alarm, event func(a Alarm, ended bool) Event) (changed int, err error)
}

// Upkeep stores what the hub must remember about its backups, and about the scan for devices that
// the trust store no longer trusts.
type Upkeep interface {
	// LastBackup returns the time of the newest backup, as recorded by SetLastBackup, or zero if
	// there was no backup.
	LastBackup(ctx context.Context) (time.Time, error)
	SetLastBackup(ctx context.Context, at time.Time) error
	// BackupFault returns the text that SetBackupFault recorded, which says what is wrong with the
	// backup that was checked last. It is empty if that backup can be restored, or if no backup was
	// checked.
	BackupFault(ctx context.Context) (string, error)
	SetBackupFault(ctx context.Context, fact string) error
	// TrustScan returns the text that SetTrustScan stored, or nil. The text is the state of the
	// scan for devices whose TPM makers the hub no longer trusts. The store does not interpret it.
	TrustScan(ctx context.Context) ([]byte, error)
	SetTrustScan(ctx context.Context, text []byte) error
	// Clock returns the time on the database's clock, which is the hub's own clock if the database
	// engine runs in the hub's process.
	Clock(ctx context.Context) (time.Time, error)
}

package store

import (
	"context"
	"time"
)

// Alarm is a condition that the operator must deal with, and that has not ended.
type Alarm struct {
	Name  string // stable, such as "backup-old"
	Since time.Time
	Fact  string // one sentence; true at the time Since
}

// Alarms stores the alarms that have not ended, so that a restarted hub does not append the events
// of these alarms again.
type Alarms interface {
	// Alarms lists the alarms that have not ended, in the order of their names.
	Alarms(ctx context.Context) ([]Alarm, error)
	// SetAlarms replaces the list of the alarms that have not ended. For each alarm that begins or
	// ends, it appends the event that the function `event` returns, in the same transaction. An
	// alarm that is already on the stored list keeps its Since and its Fact. SetAlarms returns the
	// number of alarms that began or ended. It may call `event` several times for one alarm.
	SetAlarms(ctx context.Context, list []Alarm, event func(a Alarm, ended bool) Event) (changed int, err error)
}

// Upkeep stores what the hub must remember about its backups, and about the scan for devices that
// the trust store no longer trusts.
type Upkeep interface {
	// LastBackup returns the time that SetLastBackup recorded for the newest backup. The result is
	// zero if no backup was recorded.
	LastBackup(ctx context.Context) (time.Time, error)
	SetLastBackup(ctx context.Context, at time.Time) error
	// BackupFault returns the text that SetBackupFault recorded: what is wrong with the backup that
	// was checked last. It is empty if that backup can be restored, or if no backup was checked.
	BackupFault(ctx context.Context) (string, error)
	SetBackupFault(ctx context.Context, fact string) error
	// TrustScan returns the text that SetTrustScan stored, or nil. The text is the state of the
	// scan for devices that the trust store no longer trusts. The store does not interpret it.
	TrustScan(ctx context.Context) ([]byte, error)
	SetTrustScan(ctx context.Context, text []byte) error
	// Clock returns the time of the database's clock. An engine that runs in the hub's process
	// returns the time of the hub's clock.
	Clock(ctx context.Context) (time.Time, error)
}

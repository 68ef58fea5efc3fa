package ui

import (
	"time"

	"gangway/hub/store"
)

// JudgePage is the data of the page "judge", which shows how the hub would judge the stored
// evidence of an owner's devices today. The numbers count only the devices that the hub has judged
// for this page.
type JudgePage struct {
	Tabs                                   []Tab
	Rows                                   []JudgedDevice
	Accepted, Waiting, Refused, WithoutTPM int
	First, Next                            string // addresses; empty: no link
}

// Examined returns the number of devices that the hub judged for this page.
func (p *JudgePage) Examined() int { return p.Accepted + p.Waiting + p.Refused + p.WithoutTPM }

// JudgedDevice is a device that the hub would not accept today.
type JudgedDevice struct {
	ID, Nick     string
	State        Badge
	Code, Reason string
}

// LostPage is the data of the page "lost": the owner's devices that have been missing from the
// database since a restore.
type LostPage struct {
	Restored, Backup time.Time // times of the latest restore and of its backup; zero: the hub was never restored
	Rows             []store.LostDevice
	First, Next      string // addresses; empty: no link
}

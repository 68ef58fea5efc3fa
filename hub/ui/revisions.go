package ui

import (
	"time"

	"gangway/wire/trail"
)

// RevisionsPage is the data of the page "revisions": those of all devices of an account.
type RevisionsPage struct {
	Shows   []Tab
	Show    string // "underway", "failed" or "recent"
	Query   string // of devices, as typed; recent ones have none
	Problem string // what is wrong with Query
	Rows    []FleetRevision
	Here    string // the query of this list, without the page
	// First and Next are the addresses of other pages of the list; empty: there is none.
	First, Next string
	Partial     bool // the engine stopped looking: there may be more on the next page
	AnyTrail    bool // a revision was posted to some device
}

// FleetRevision is a revision of a device.
type FleetRevision struct {
	ID               string // of the row: the device's id, and the number of a revision that is not the newest
	Device           string // id
	Nick             string // empty: the device was deleted
	Rev              int
	Status           trail.Status
	Badge            Badge
	Report           trail.Report
	Commit           string
	Posted, Reported time.Time
}

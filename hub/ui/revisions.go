package ui

import (
	"time"

	"gangway/wire/trail"
)

// RevisionsPage is the data of the page "revisions": the revisions of all devices of an account.
type RevisionsPage struct {
	Shows   []Tab
	Show    string // "underway", "failed" or "recent"
	Query   string // search for devices, as typed; empty for "recent"
	Problem string // what is wrong with Query
	Rows    []FleetRevision
	Here    string // the query of this list, without the page number
	// First and Next are the addresses of the first and the next page of the list, or empty if this
	// page does not link to them.
	First, Next string
	Partial     bool // the store stopped its search early: the next page may have more revisions
	AnyTrail    bool // a revision was posted to some device
}

// FleetRevision is a revision of a device.
type FleetRevision struct {
	ID               string // id of the row: the device's id and, if the revision is not the newest, its number
	Device           string // id of the device
	Nick             string // empty: the device was deleted
	Rev              int
	Status           trail.Status
	Badge            Badge
	Report           trail.Report
	Commit           string
	Posted, Reported time.Time
}

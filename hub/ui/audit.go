package ui

import (
	"time"

	"gangway/hub/store"
)

// AuditPage is the data of the page "audit".
type AuditPage struct {
	Filter  AuditFilter
	Kinds   []string // examples for the field of the kind
	Tabs    []Tab    // groups of kinds
	Rows    []AuditRow
	Partial bool // the hub stopped examining events: there may be more on the next page
	None    bool // the account's trail has no event at all
	// First and Next are the addresses of other pages of the list; empty: there is none.
	First, Next string
	CSV, JSON   string // addresses of exports
	News        string // the address of the line about newer events
	Fresh       int    // how many newer events there are; only in that line
	More        bool   // there are more than Fresh
	Here        string // the address of the first page
}

// AuditFilter is what the form of the page says, as typed, with what is wrong with each field.
type AuditFilter struct {
	Kind, Account, Device, Token, Since, Until              string
	DeviceProblem, TokenProblem, SinceProblem, UntilProblem string
	Routine                                                 bool
}

// Set reports whether a field is not empty.
func (f AuditFilter) Set() bool {
	return f.Kind != "" || f.Account != "" || f.Device != "" || f.Token != "" || f.Since != "" || f.Until != ""
}

// InputFor returns the type of an input for a time: an input for days drops what is not a day.
func (AuditFilter) InputFor(value string) string {
	if _, err := time.Parse(time.DateOnly, value); value != "" && err != nil {
		return "text"
	}
	return "date"
}

// AuditRow is an event with what it is about. An address is empty if there is nothing to see.
type AuditRow struct {
	store.Event
	AboutDevice, AboutToken AuditLink
	Subject                 AuditLink // the policy, the sessions, ... that the event is about
	By                      AuditLink
	KindPath                string // the list with events of this kind only
}

// NoSubject reports whether the event is about nothing that has a page.
func (r AuditRow) NoSubject() bool { return r.AboutDevice.Name+r.AboutToken.Name+r.Subject.Name == "" }

// AuditLink is something that an event names. Only is the list with the events that name it.
type AuditLink struct {
	Name, Path, Only string
	Gone             bool // it does not exist any more
}

// meansWords says by which means something was done.
func meansWords(means string) string {
	if words, known := map[string]string{
		store.ByPage: "in a browser", store.ByAPI: "by a program, signed in", store.ByAPIToken: "with an API token", store.ByCommand: "on the hub's machine",
		store.ByCertificate: "with its certificate", store.BySecret: "with its secret", store.ByToken: "with its access token",
	}[means]; known {
		return words
	}
	return means
}

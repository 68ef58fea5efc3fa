package ui

import (
	"time"

	"gangway/hub/store"
)

// AuditPage is the data of the page "audit".
type AuditPage struct {
	Filter  AuditFilter
	Kinds   []string // examples for the filter by kind
	Tabs    []Tab    // groups of kinds
	Rows    []AuditRow
	Partial bool // the hub stopped its search early: the next page may have more events
	None    bool // the account's trail has no event at all
	// First and Next are the addresses of the first and the next page of the list, or empty if this
	// page does not link to them.
	First, Next string
	CSV, JSON   string // addresses of exports
	News        string // the address of the line that announces newer events
	Fresh       int    // number of newer events; set only for the line that announces them
	More        bool   // there are more newer events than Fresh
	Here        string // the address of the first page
}

// AuditFilter holds the values of the filter form as typed, and what is wrong with each field.
type AuditFilter struct {
	Kind, Account, Device, Token, Since, Until              string
	DeviceProblem, TokenProblem, SinceProblem, UntilProblem string
	Routine                                                 bool
}

// Set reports whether any field has a value.
func (f AuditFilter) Set() bool {
	return f.Kind != "" || f.Account != "" || f.Device != "" || f.Token != "" || f.Since != "" || f.Until != ""
}

// InputFor returns the type of the HTML input for a time: "date", or "text" if `value` is not a
// date. An input of type "date" would not show what the person has typed.
func (AuditFilter) InputFor(value string) string {
	if _, err := time.Parse(time.DateOnly, value); value != "" && err != nil {
		return "text"
	}
	return "date"
}

// AuditRow is an event, with links to the devices, tokens and other things that the event names. A
// link's address is empty if the thing has no page.
type AuditRow struct {
	store.Event
	AboutDevice, AboutToken AuditLink
	Subject                 AuditLink // the policy, the sessions, ... that the event is about
	By                      AuditLink
	KindPath                string // the list with events of this kind only
}

// NoSubject reports whether the event names nothing: no device, no join token and no other subject.
func (r AuditRow) NoSubject() bool { return r.AboutDevice.Name+r.AboutToken.Name+r.Subject.Name == "" }

// AuditLink is a thing that an event names. Only is the address of a list of just the events that
// name this thing.
type AuditLink struct {
	Name, Path, Only string
	Gone             bool // the thing does not exist any more
}

// meansWords returns the words that tell a person how someone acted, for example "in a browser".
func meansWords(means string) string {
	if words, known := map[string]string{
		store.ByPage: "in a browser", store.ByAPI: "by a program, signed in", store.ByAPIToken: "with an API token", store.ByCommand: "on the hub's machine",
		store.ByCertificate: "with its certificate", store.BySecret: "with its secret", store.ByToken: "with its access token",
	}[means]; known {
		return words
	}
	return means
}

package ui

import (
	"fmt"
	"strings"
	"time"

	"gangway/hub/store"
)

// Column is a column of the list of devices.
type Column struct {
	Key, Name string
	Shown     bool
	// Sort is the address that the column's name links to, which sorts the list by this column, or
	// empty if the list cannot be sorted by it.
	Sort string
	// Order is "ascending" or "descending" if the list is sorted by this column.
	Order string
}

// DevicesPage is the data of the page "devices".
type DevicesPage struct {
	Query   string // as typed
	Problem string // what is wrong with Query, and the remedy; empty: nothing
	Sort    string
	Columns []Column // all columns except the nick, in their order
	Nick    Column
	States  []Tab
	Rows    []DeviceRow
	Count   string // the number of devices that match the query, in words
	Partial bool   // the store stopped its search early: the next page may have more
	// First and Next are the addresses of the first and the next page of the list, or empty if this
	// page does not link to them.
	First, Next string
	// All is how many devices change if a person applies an action to all matching devices. If it is
	// 0, the page does not offer such an action.
	All int

	Views     []View
	MoreViews int    // how many views are not shown, because their names and addresses are long
	ViewName  string // as typed
	ViewText  string // what is wrong with ViewName
	Here      string // the query of this list, without the page number
	CSV       string // addresses of exports
	JSON      string

	Lost     bool     // a restore lost records of the account's devices
	Empty    bool     // the account has no device
	Commands []string // commands for the first onboarding
}

// View is a saved view.
type View struct {
	Name, Path string
	Current    bool
}

// DeviceRow is a row of the list of devices.
type DeviceRow struct {
	store.DeviceRow
	Token string // the join token's nick
	Cells []string
}

// Badges returns a badge for each state of a device, except for "active" if there is another state.
func (d DeviceRow) Badges(now time.Time) (list []Badge) {
	for _, state := range d.States() {
		b := StateBadge(state)
		switch state {
		case store.StateQuiet:
			b.Text = "quiet, since " + Span(now.Sub(d.LastSeen))
		case store.StateUpdating:
			if d.Progress > 0 {
				b.Text = fmt.Sprintf("updating, %d %%", d.Progress)
			}
		case store.StateBootChanged:
			b.Text = bootState(d.DeviceRow.Boot)
		case store.StateCloned:
			if d.Clone == store.CloneRefused {
				b = Badge{"gone", "refused"}
			}
		}
		list = append(list, b)
	}
	if len(list) > 1 && list[0].Tone == "ok" {
		list = list[1:]
	}
	return list
}

// Bulk is the data of the page "bulk": the preview of an action on several devices.
type Bulk struct {
	Act     string // "label", "boot" or "delete"
	Title   string
	Lost    string // what the action does, or what will be lost
	Button  string
	Rows    []store.DeviceRow
	More    int    // number of matching devices that exceed the limit of one action
	Back    string // the query of the list
	Key     string // for "label": the key, as typed
	Value   string
	Confirm string // text that the person must type; empty: none
	// What is wrong with the fields, shown next to them.
	KeyProblem, ValueProblem, ConfirmProblem string
}

// bulkRows is how many devices the preview of an action lists. The form contains the ids of all of
// them.
const bulkRows = 50

// Shown returns the devices that the preview lists.
func (b Bulk) Shown() []store.DeviceRow { return b.Rows[:min(len(b.Rows), bulkRows)] }

// Hidden returns the number of devices that the preview does not list.
func (b Bulk) Hidden() int { return len(b.Rows) - len(b.Shown()) }

// IDs returns the ids of all devices of the action, separated by spaces.
func (b Bulk) IDs() string {
	ids := make([]string, len(b.Rows))
	for i, d := range b.Rows {
		ids[i] = d.ID
	}
	return strings.Join(ids, " ")
}

package ui

import (
	"fmt"
	"time"

	"gangway/hub/store"
)

// Column is a column of the list of devices.
type Column struct {
	Key, Name string
	Shown     bool
	// Sort is where a click on its name leads; empty: the list cannot be sorted by it.
	Sort string
	// Order is "ascending" or "descending" if the list is sorted by it.
	Order string
}

// DevicesPage is the data of the page "devices".
type DevicesPage struct {
	Query   string // as typed
	Problem string // what is wrong with Query, and the remedy; empty: nothing
	Sort    string
	Columns []Column // all columns but the nick, in their order
	Nick    Column
	States  []Tab
	Rows    []DeviceRow
	Count   string // how many devices fit, in words
	Partial bool   // the engine stopped looking: there may be more on the next page
	// First and Next are the addresses of other pages of the list; empty: there is none.
	First, Next string
	// All is how many devices an act on all of them reaches; 0: it is not offered.
	All int

	Views    []View
	ViewName string // as typed
	ViewText string // what is wrong with it
	Here     string // the query of this list, without the page
	CSV      string // addresses of exports
	JSON     string

	Empty    bool     // the account has no device
	Commands []string // of the first onboarding
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

// Badges are the states of a device. "active" is left out if something else is worth saying.
func (d DeviceRow) Badges(now time.Time) (list []Badge) {
	for _, state := range d.States() {
		b := StateBadge(state)
		switch state {
		case store.StateQuiet:
			b.Text = "quiet, since " + span(now.Sub(d.LastSeen))
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

// Bulk is the data of the page "bulk": the preview of an act on several devices.
type Bulk struct {
	Act     string // "label", "boot" or "delete"
	Title   string
	Lost    string // what the act does, or what will be lost
	Button  string
	Rows    []store.DeviceRow
	More    int    // devices beyond those that one act can reach
	Back    string // the query of the list
	Key     string // for "label", as typed
	Value   string
	Confirm string // what must be typed; empty: nothing
	// Problems beside the fields.
	KeyProblem, ValueProblem, ConfirmProblem string
}

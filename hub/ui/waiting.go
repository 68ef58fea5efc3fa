package ui

import (
	"gangway/hub/chain"
	"gangway/hub/store"
)

// WaitingRoom is the data of the page "waiting".
type WaitingRoom struct {
	Tabs     []Tab // of the section
	Shows    []Tab // waiting or denied
	Denied   bool  // the page shows denied machines
	Total    int   // machines that wait
	Groups   []WaitingGroup
	Machines []WaitingMachine
	Cloned   []Cloned // devices that may be several machines
	// MoreCloned is the address of the list of all such devices, if the page has not all.
	MoreCloned  string
	First, Next string
	Here        string // the page's address, to come back to
}

// WaitingGroup are machines about which the same questions are open.
type WaitingGroup struct {
	Path      string // of the preview
	N         int
	Questions []Question
	TPM       string // the maker and model, if a question is about them
}

// WaitingMachine is a machine that waits, or that its owner denied, with all that is known of it.
type WaitingMachine struct {
	store.WaitingDevice
	Seen        string // in the form of a decision: the id and the digest of what is shown
	Questions   []Question
	Checks      []chain.Check
	Notes       []string
	Certificate *chain.Certificate // nil: the machine sent none
	Facts       []Fact
	Token       string // nick
}

// Question is a question to a person, and what approving means.
type Question struct {
	Code, Reason, Hint, Means string
}

// WaitingPreview is the data of the page "alike": exactly the machines and the questions that
// one decision covers.
type WaitingPreview struct {
	Tabs      []Tab
	Questions []Question
	Machines  []WaitingMachine
	More      int  // alike machines that the decision does not reach
	Reasons   bool // the reasons differ: each machine's line has its own
}

// Decided is the data of the page "decided".
type Decided struct {
	Tabs    []Tab
	Approve bool
	Done    int
	Results []DecidedMachine
	Back    string
}

// DecidedMachine is what became of a decision about one machine.
type DecidedMachine struct {
	ID, Name string
	Done     bool
	Text     string
}

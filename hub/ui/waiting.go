package ui

import (
	"gangway/hub/chain"
	"gangway/hub/store"
)

// WaitingRoom is the data of the page "waiting".
type WaitingRoom struct {
	Tabs     []Tab // tabs of the section
	Shows    []Tab // links to the waiting machines and to the denied machines
	Denied   bool  // the page shows denied machines
	Total    int   // machines that wait
	Groups   []WaitingGroup
	Machines []WaitingMachine
	Cloned   []Cloned // devices that may be several machines
	// MoreCloned is the address of the list of all devices that may be several machines. It is set
	// only if this page does not show them all.
	MoreCloned  string
	First, Next string
	Here        string // the page's address, to which a form returns
	Open        bool   // the page shows all facts about its only machine
}

// WaitingGroup is a group of machines about which the same questions are open.
type WaitingGroup struct {
	Path      string // address of the preview
	N         int
	Questions []Question
	TPM       string // the maker and model, if a question is about them
}

// WaitingMachine is a waiting or denied machine, with everything that the hub knows about it.
type WaitingMachine struct {
	store.WaitingDevice
	Seen        string // the id and the digest of the shown data, for the form that decides
	Questions   []Question
	Checks      []chain.Check
	Notes       []string
	Certificate *chain.Certificate // nil: the machine sent no EK certificate
	Facts       []Fact
	Token       string // nick of the join token
}

// Question is a question to the owner. Means says in words what an approval means.
type Question struct {
	Code, Reason, Hint, Means string
}

// WaitingPreview is the data of the page "alike": exactly the machines and the questions that
// one decision covers.
type WaitingPreview struct {
	Tabs      []Tab
	Questions []Question
	Machines  []WaitingMachine
	More      int  // number of machines with the same questions that the decision does not cover
	Reasons   bool // the machines' reasons differ: the page shows the reasons of each machine
}

// Decided is the data of the page "decided".
type Decided struct {
	Tabs    []Tab
	Approve bool
	Done    int
	Results []DecidedMachine
	Back    string
}

// DecidedMachine is the result of a decision for one machine.
type DecidedMachine struct {
	ID, Name string
	Done     bool
	Text     string
}

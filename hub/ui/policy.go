package ui

import (
	"time"

	"gangway/hub/policy"
)

// PolicyPage is the data of the page "policy".
type PolicyPage struct {
	Tabs    []Tab
	Words   []policy.Statement // what is in force
	Hub     string             // the hub's policy, YAML; empty: none
	HubFrom time.Time
	Updated time.Time // of the owner's policy; zero: there is none
	Example bool      // the text is an example, and not in force
	Undo    string    // the text before the last change; see Notice

	Text    string // in the editor
	Version string // of the policies that Text was made from
	Check   *PolicyCheck
	Preview *PolicyPreview
	Problem string // about the text, or about putting it into force
	Changed string // the policy that somebody else put into force meanwhile; see Problem
}

// PolicyCheck is what the hub says about a text, before anything is put into force.
type PolicyCheck struct {
	Problem  string
	Warnings []string
	Words    []policy.Statement // what would be in force, if it differs
	Same     bool               // nothing would change
	Removes  bool               // the text is empty: the policy would be removed
}

// PolicyPreview is what a policy would do with the devices and machines that there are.
type PolicyPreview struct {
	Text    string // for which it was made
	Hash    string // of Text
	Removes bool

	Devices, AllDevices           int // how many were judged, and how many there are
	Waiting, AllWaiting           int
	Unread                        int // how many could not be judged
	Refused, Asked, Admitted, Cut int // how many devices would be refused at their next onboarding, ...
	WaitingTouched                int
	Changes                       []PolicyChange
	More                          int // how many changes are not shown
}

// Touched reports whether anything would change.
func (p *PolicyPreview) Touched() bool {
	return p.Refused+p.Asked+p.Admitted+p.Cut+p.WaitingTouched > 0
}

// PolicyChange is a device or waiting machine that a policy would treat differently.
type PolicyChange struct {
	Name, Path string
	Detail     string // the machine
	Waiting    bool
	Now, Would Badge
	Why        string
}

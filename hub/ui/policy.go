package ui

import (
	"time"

	"gangway/hub/policy"
)

// PolicyPage is the data of the page "policy".
type PolicyPage struct {
	Tabs    []Tab
	Words   []policy.Statement // the effective policy, in words
	Hub     string             // the hub's policy, YAML; empty: none
	HubFrom time.Time
	Updated time.Time // when the owner's policy was last changed; zero: the owner has no policy
	Example bool      // the text is an example, and not in force
	Undo    string    // the text before the last change; see Notice

	Text    string // the text in the editor
	TooLong bool   // the text has no room on the page, so Text is empty
	Version string // version of the policies from which Text was made
	Check   *PolicyCheck
	Preview *PolicyPreview
	Problem string // what is wrong with the text, or why it was not put into force
	Changed string // the policy that another person put into force after the preview; see Problem
}

// PolicyCheck is the result of checking the text of a policy before it is put into force.
type PolicyCheck struct {
	Problem  string
	Warnings []string
	Words    []policy.Statement // the effective policy with this text, if it differs from the present policy
	Same     bool               // nothing would change
	Removes  bool               // the text is empty: the policy would be removed
}

// PolicyPreview is how a policy would affect the present devices and waiting machines.
type PolicyPreview struct {
	Text    string // the text that was previewed
	Hash    string // hash of Text
	Removes bool

	Devices, AllDevices           int // number of judged devices, and number of all devices
	Waiting, AllWaiting           int
	Unread                        int // number of devices and machines that could not be judged
	Refused, Asked, Admitted, Cut int // numbers of devices that would be refused, wait for a decision or be accepted at their next onboarding, and that would lose access now
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
	Detail     string // describes the machine
	Waiting    bool
	Now, Would Badge
	Why        string
}

package ui

import "time"

// ClaimPage is the data of the page "claim". A claim code contains the address of this page.
type ClaimPage struct {
	Code, Words string
	Typed       string // the nick in the form, as typed
	Problem     string // a sentence about what went wrong; empty at first
	// Facts about the machine that only a signed-in person may see.
	Asked time.Time // zero: the machine has not asked within the last minute
	Addr  string
}

// ClaimForm is the data of the page "claimform", where a person types a code.
type ClaimForm struct {
	Tabs           []Tab
	Typed, Problem string

	// The values of the form for a device without a TPM, as typed, and their problem.
	Device, Challenge, DeviceProblem string
}

// Arrival is the data of the page "arrival": the onboarding of a claimed machine.
type Arrival struct {
	Tabs   []Tab
	Path   string
	Words  string // short form of the claim code
	Steps  []ArrivalStep
	Device string // the device's id; empty: the machine has not onboarded yet
	Nick   string
	Failed bool // the onboarding has failed, and no step follows
}

// ArrivalStep is a step of an onboarding.
type ArrivalStep struct {
	State       StepState
	Title, Text string
	Time        time.Time // zero: the time is not known, or the step has not happened
	Path, Act   string    // a link to what the person must do
}

// StepState is the state of a step. Its value is the CSS class of the step; the method Words
// returns the text for screen readers.
type StepState string

// The states of a step.
const (
	StepDone   StepState = "done"
	StepNow    StepState = "now"
	StepAsks   StepState = "asks"
	StepFailed StepState = "failed"
	StepLater  StepState = "later"
)

// Words returns the state in words, for a screen reader.
func (s StepState) Words() string {
	return map[StepState]string{StepDone: "done", StepNow: "in progress", StepAsks: "needs your decision", StepFailed: "failed", StepLater: "not yet"}[s]
}

// Icon returns the state's icon.
func (s StepState) Icon() string {
	return map[StepState]string{StepDone: "check", StepNow: "radio", StepAsks: "circle-help", StepFailed: "circle-alert", StepLater: "minus"}[s]
}

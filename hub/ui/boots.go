package ui

import (
	"time"
)

// BootsPage is the data of the page on which an owner decides about boots.
type BootsPage struct {
	Tabs      []Tab
	Outliers  []BootCohort // values that only a few devices of a model have
	Changes   []BootCohort // changes that many devices have in common
	More      bool
	Decisions []BootDecision
	Manifests []BootManifest
	// HiddenManifests is the number of manifests that the page does not list.
	HiddenManifests int
	Keys            []BootKey
	Problem         string
	KeyForm         BootForm
	ManifestForm    BootForm
}

// BootForm is the form for a new key or a new manifest, as a person filled it in.
type BootForm struct {
	Open    bool
	Name    string // name of the key
	Text    string
	Problem string
}

// BootRulePage previews the addition or the removal of a key or a manifest.
type BootRulePage struct {
	Title   string
	Subject string // the name of the thing that Facts describes
	Facts   []Fact
	Effect  string   // the effect, in sentences
	Lost    []string // manifests that do not count any more
	Action  string   // the address of the form that makes the change
	Confirm string   // text of the button
	Danger  bool
	Hidden  map[string]string // fields of the form

	Password        bool // the change needs the account's password
	PasswordProblem string
}

// BootCohort is one line in a list of cohorts. A cohort is a group of devices that measured the
// same value for a part of the boot.
type BootCohort struct {
	Path    string // address of the preview of a decision
	Model   string
	Part    string
	Words   string
	Devices int
	Bad     int
	Of      int
	First   time.Time
	Nicks   []string
}

// BootDecision is a decision that the owner can undo.
type BootDecision struct {
	ID    int64
	Words string
	By    string
	Made  time.Time
}

// BootManifest is a manifest on the hub.
type BootManifest struct {
	Path     string // address of the preview of the removal
	ID, Name string
	Sequence uint64
	Counts   bool
	Added    time.Time
}

// BootKey is a public key that signs manifests.
type BootKey struct {
	Path     string // address of the preview of the removal
	ID, Name string
	Added    time.Time
}

// BootCohortPage previews a decision about one measured value, for example the hash of a boot
// loader. It lists the devices that measured this value.
type BootCohortPage struct {
	Part, PartName string // the part of the boot, in words and as the form sends it
	Value, Model   string
	Firmware       string        // the version to which the decision is limited; empty: all versions
	Versions       []BootVersion // other versions to which the decision can be limited
	AllVersions    string        // address of the same preview for all versions
	Devices, Bad   int
	Members        []BootMember
	Hidden         int  // number of devices that the page does not list
	Code           bool // the decision also accepts other settings of the firmware
}

// BootVersion counts the devices of a cohort that have the same firmware version.
type BootVersion struct {
	Path         string // address of the preview of a decision about these devices
	Firmware     string
	Devices, Bad int
}

// BootMember is a device of a cohort.
type BootMember struct {
	Path, Nick string
	Bad        bool
}

// PartBadge returns the badge for the state of a part of the boot.
func PartBadge(state string) Badge {
	switch state {
	case "expected", "known":
		return Badge{"ok", state}
	case "nothing-measured":
		return Badge{"off", "nothing measured"}
	}
	return Badge{"bad", state}
}

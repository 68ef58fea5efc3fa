package ui

import (
	"time"

	"gangway/hub/store"
)

// OperatorPage is the data of the page "operator", for an account with the role operator. Only the
// fields of the chosen tab are set. The page shows numbers and the names of owners, but nothing
// about the owners' devices.
type OperatorPage struct {
	Tabs     []Tab
	Owners   *OperatorOwners
	Makers   *OperatorMakers
	Versions *OperatorVersions
	Health   *OperatorHealth
	Alarms   *OperatorAlarms
}

// OperatorOwners is the tab "Owners".
type OperatorOwners struct {
	Accounts, Disabled, Devices int
	Used                        string // storage that all owners use
	Quota                       string // storage quota of each owner
	Rows                        []OperatorOwner
	First, Next                 string // addresses; empty: no link
}

// OperatorOwner is an account.
type OperatorOwner struct {
	store.OwnerRow
	Used    string
	Percent int // how much of the quota is used
}

// OperatorMakers is the tab "TPM makers".
type OperatorMakers struct {
	Rows    []OperatorMaker
	Others  []Share // numbers of devices with a TPM maker that has no row in Rows
	Devices int
}

// OperatorMaker is a TPM maker, with facts about the maker's CA certificates in the trust store.
type OperatorMaker struct {
	Name       string
	TPMID      string // the maker's id in its TPMs, such as "IFX"; empty: not known
	Roots      int
	Links      int // intermediate certificates
	Added      int // number of roots and links that the operator added
	Distrusted int // certificates that the operator distrusts
	Devices    int
	Known      bool // the number in Devices is known, because TPMID is known
}

// OperatorVersions is the tab "Versions": the versions of the agents.
type OperatorVersions struct {
	Hub                 string // version of the hub
	Devices, AllDevices int    // numbers of examined devices, and of all devices
	Rows                []Share
	More                int // number of versions that are not shown
	None, Odd           int // numbers of devices without a version, and of devices whose text is not a version
}

// OperatorHealth is the tab "Health".
type OperatorHealth struct {
	Notes        []Notice // what needs attention
	Started      time.Time
	Database     string
	Free, Size   string // free space and size of the data folder's disk; empty: the hub does not watch the disk
	FreePercent  int
	Certificates []OperatorCertificate
	Refused      []OperatorRefusals
	Panics       int
	Version      string
	Commit       string
	Built        string
	Go           string
	Platform     string
}

// OperatorAlarms is the tab "Alarms".
type OperatorAlarms struct {
	Lasting []OperatorAlarm // conditions that the operator must deal with
	Others  []OperatorAlarm // conditions that have not begun, or whose state is not known
}

// OperatorAlarm is a condition that the hub checks about itself, and whether it holds at present.
type OperatorAlarm struct {
	Name, Title string
	State       Badge
	Fact        string    // one sentence; empty if the condition does not last
	Remedy      string    // one sentence
	Section     string    // section of docs/runbook.md
	Since       time.Time // zero: since now, or not known
}

// OperatorCertificate is a certificate of the hub.
type OperatorCertificate struct {
	Name, Where string
	State       Badge
	Expires     time.Time // zero: the certificate does not expire, or the hub has no certificate
	Note        string
}

// OperatorRefusals are requests that the hub refused since it started.
type OperatorRefusals struct {
	What, Code string
	N          int
}

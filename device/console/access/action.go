package access

// The actions of the program that the console calls: PROGRAM console ACTION.
const (
	ActionRestart  = "restart"
	ActionReport   = "network-report"
	ActionSettings = "network-settings"
	ActionTry      = "network-try" // the settings are its standard input
	ActionWipe     = "wipe"
	ActionPIN      = "disk-pin" // a PINChange in JSON is its standard input
)

// Placeholder replaces the proxy's password in the settings that ActionSettings prints and the
// editor shows. To save the settings, the person must type the password again. Without this rule, a
// person who does not know the password could enter another proxy's address, and the machine would
// send the password to that proxy.
const Placeholder = "TYPE-THE-PASSWORD-AGAIN"

// PINChange is the input of ActionPIN.
type PINChange struct {
	Current string `json:"current"` // the disk's PIN or recovery key; empty if the disk has no PIN
	PIN     string `json:"pin"`     // the new PIN; empty: the disk needs no PIN any more
}

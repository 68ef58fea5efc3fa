package system

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"gangway/device/agent/revision"
	"gangway/device/install/netfile"
	"gangway/device/install/slots"
)

// Hook is the command gangway-hook. The agent calls it to install a revision, and after the owner
// has changed the device's user-meta.
type Hook struct {
	Logf  func(format string, args ...any)
	Paths Paths
	// Slots installs revisions.
	Slots interface {
		Do(verb, folder string) (code int)
		Trial() (running, kept slots.Slot, tried bool, err error)
	}
	Restart func() error // returns only on an error
	// SetPIN sets, changes or removes the PIN of the machine's disk; see diskkey.SetPIN.
	SetPIN func(current, pin string) error
	In     io.Reader // for network-try: the new settings; for disk-pin: an access.PINChange
	Out    io.Writer // for network-report and network-settings: the output
	ErrOut io.Writer
}

// Run runs the command and returns its exit code.
func (h *Hook) Run(args []string) int {
	if len(args) != 2 {
		fmt.Fprintln(h.ErrOut, "Only gangway-agent calls gangway-hook: 'gangway-hook install|reboot|test|commit|rollback FOLDER', 'gangway-hook user-meta FILE', or 'gangway-hook console restart|network-report|network-settings|network-try|disk-pin|wipe'")
		return 2
	}
	if args[0] == "user-meta" {
		return h.userMeta(args[1])
	}
	if args[0] == "console" {
		return h.console(args[1])
	}
	return h.Slots.Do(args[0], args[1])
}

// userMeta reads the owner's network settings from a file of user-meta. If the settings are new,
// userMeta restarts the machine to try these settings.
func (h *Hook) userMeta(file string) int {
	news, err := offerOwners(h.Paths.changes(), file, h.busy)
	reportNetwork(h.Paths, h.Logf)
	if mistake := (*netfile.Mistake)(nil); errors.As(err, &mistake) {
		h.Logf("The network settings of the owner cannot be used: %v", mistake)
		return 0 // the agent retries after another exit code, and a retry would not help
	}
	if err == nil && news {
		h.Logf("The owner has set other network settings. The machine restarts to try them.")
		err = h.Restart()
	}
	if err != nil { // the agent retries
		h.Logf("%v", err)
		return 1
	}
	return 0
}

// The method `busy` returns the reason why the machine must not restart now. Empty: the machine may
// restart.
func (h *Hook) busy() string {
	if _, _, tried, err := h.Slots.Trial(); err == nil && tried {
		return "a new system is on trial"
	}
	at, err := revision.ReadStatus(filepath.Join(h.Paths.AgentState(), "trail"), readStatus(h.Paths).DeviceID)
	if err == nil && at.Step != "" {
		return "revision " + at.Step + " is being installed"
	}
	return ""
}

package system

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gangway/device/agent/trail"
	"gangway/device/install"
	"gangway/device/install/netchange"
	"gangway/device/install/netfile"
	"gangway/device/machine"
	"gangway/device/screen"
)

// networks keeps the network settings of this machine, once its disk is mounted.
var networks = netchange.Store{Dir: dataDir + "/gangway-network"}

const (
	// networkMeta is the owner's key, and the device's, of network settings.
	networkMeta = "gangway.network"
	// networkReport is what the agent reports under it, in memory.
	networkReport = "/run/gangway-network-report.txt"
)

// NetworkTime is how long new settings may take until the hub is reached with
// them. Tests set another one when they build this program.
var NetworkTime = "10m"

func networkPatience() time.Duration { return duration(NetworkTime, 10*time.Minute) }

// settingsOfSystem returns the network settings for this start. What a stick has
// brought is taken over first: to be tried, if the machine is aboard already.
func settingsOfSystem() (settings *netfile.Settings, tried bool) {
	if err := takeBrought(wasAboard()); err != nil {
		screen.Alarm("The stick's network settings cannot be used:\n%v", err)
	}
	settings, tried, err := networks.Begin(bootID())
	if err != nil {
		screen.Say("%v", err)
	}
	if last, err := networks.Last(); err == nil && last != nil && last.Result == netchange.Dropped {
		screen.Say("network settings from the %s of %s were dropped: %s", last.From, last.At.Format(time.RFC3339), last.Reason)
	}
	reportNetwork()
	return settings, tried
}

// takeBrought takes over what a stick has brought to the EFI system partition.
func takeBrought(try bool) error {
	brought, err := install.BroughtNetwork(espDir)
	if err == nil && brought.Empty() {
		return nil
	}
	if err == nil {
		_, err = networks.Offer(netchange.Stick, brought.Text(), try)
	}
	if mistake := (*netfile.Mistake)(nil); err != nil && !errors.As(err, &mistake) {
		return err // and looked at again at the next start
	}
	return errors.Join(err, install.TakenNetwork(espDir))
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		screen.Say("boot id: %v", err)
	}
	return strings.TrimSpace(string(b))
}

// judgeNetwork waits for the hub with settings that are tried, and keeps them,
// or has the machine start with the former ones.
func judgeNetwork(before time.Time) {
	screen.Note("Network", "new settings, which are tried")
	until := time.Now().Add(networkPatience())
	for lastReport().Equal(before) {
		if time.Now().After(until) {
			reason := fmt.Sprintf("The hub was not reached within %s.", networkPatience())
			if w := status().Waiting; w != "" {
				reason += " The agent said: " + w
			}
			if err := networks.Drop(reason); err != nil {
				screen.Say("%v", err) // the next start drops them all the same
			}
			screen.Alarm("The hub was not reached with the new network settings.\nStarting with the former ones.")
			machine.Restart()
		}
		time.Sleep(500 * time.Millisecond)
	}
	if err := networks.Keep(); err != nil {
		screen.Say("%v", err)
		return
	}
	screen.Say("the new network settings reach the hub, and are kept")
	reportNetwork()
}

// reportNetwork tells the owner of the settings, through the agent.
func reportNetwork() {
	text, err := networks.Report()
	if err == nil {
		err = os.WriteFile(networkReport, []byte(text), 0o600)
	}
	if err != nil {
		screen.Say("%v", err)
	}
}

// userMetaHook is what the agent calls when the owner has changed the device's
// user-meta: gangway-hook user-meta FILE. Network settings in it are tried, for
// which the machine starts again.
func userMetaHook(file string) int {
	screen.Open()
	news, err := ownersNetwork(&networks, file, busy)
	reportNetwork()
	if mistake := (*netfile.Mistake)(nil); errors.As(err, &mistake) {
		screen.Say("The network settings of the owner cannot be used: %v", mistake)
		return 0 // asking again does not help
	}
	if err == nil && news {
		screen.Say("The owner has set other network settings. The machine starts again to try them.")
		err = updater.Restart()
	}
	if err != nil { // the agent calls again
		screen.Say("%v", err)
		return 1
	}
	return 0
}

// ownersNetwork offers what the owner has set. A device without the key keeps
// what it has.
func ownersNetwork(s *netchange.Store, file string, busy func() string) (news bool, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return false, err
	}
	var meta map[string]any
	if err := json.Unmarshal(b, &meta); err != nil {
		return false, fmt.Errorf("%s: %w", file, err)
	}
	value, set := meta[networkMeta]
	if !set || value == nil {
		return false, nil
	}
	text, ok := value.(string)
	if !ok {
		text = "?" // which is a mistake, and remembered as one
	}
	if news, err := s.News(netchange.Hub, text); err != nil || !news {
		return false, err
	}
	if why := busy(); why != "" {
		return false, fmt.Errorf("the network settings of the owner wait: %s", why)
	}
	return s.Offer(netchange.Hub, text, true)
}

// busy says what must end before the machine may start again; empty: nothing.
func busy() string {
	if _, _, tried, err := updater.Trial(); err == nil && tried {
		return "a new system is being tried"
	}
	at, err := trail.ReadStatus(filepath.Join(agentState, "trail"), status().DeviceID)
	if err == nil && at.Step != "" {
		return "revision " + at.Step + " is being installed"
	}
	return ""
}

package system

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"gangway/device/install"
	"gangway/device/install/netchange"
	"gangway/device/install/netfile"
)

// networkMeta is the key of the network settings in the owner's user-meta. It is also the key of
// the device's report on these settings in the device-meta.
const networkMeta = "gangway.network"

// networkSettings returns the network settings for this start, and whether these settings are on
// trial. First, it accepts settings that a stick has written to the disk. The stick's settings are
// on trial if the machine is onboarded.
func (s *System) networkSettings() (settings *netfile.Settings, tried bool) {
	store := s.Paths.changes()
	if err := acceptBrought(store, s.Paths.ESP, s.status().onboarded()); err != nil {
		s.Screen.Alarmf("The stick's network settings cannot be used:\n%v", err)
	}
	boot, err := s.BootID()
	if err != nil {
		s.Screen.Logf("boot id: %v", err)
	}
	settings, tried, err = store.Begin(boot)
	if err != nil {
		s.Screen.Logf("%v", err)
	}
	if last, err := store.Last(); err == nil && last != nil && last.Result == netchange.Dropped {
		s.Screen.Logf("network settings from the %s (%s) were dropped: %s", last.From, last.At.Format(time.RFC3339), last.Reason)
	}
	s.reportNetwork()
	return settings, tried
}

// acceptBrought offers to the store the network settings that a stick has written to the EFI system
// partition. Then it removes these settings from the EFI system partition, even if they have a
// mistake. After any other error it does not remove them, so that the next start reads them again.
func acceptBrought(store *netchange.Store, esp string, try bool) error {
	brought, err := install.ReadPendingNetwork(esp)
	if err == nil && brought.Empty() {
		return nil
	}
	if err == nil {
		_, err = store.Offer(netchange.Stick, brought.Text(), try)
	}
	if mistake := (*netfile.Mistake)(nil); err != nil && !errors.As(err, &mistake) {
		return err
	}
	return errors.Join(err, install.ClearPendingNetwork(esp))
}

// judgeNetwork ends the trial of network settings. When the hub has accepted a report, judgeNetwork
// keeps the settings. If the hub does not accept a report in time, judgeNetwork drops the settings
// and restarts the machine with the previous settings.
func (s *System) judgeNetwork(before time.Time) {
	store := s.Paths.changes()
	s.Screen.Fact("Network", "new settings, on trial")
	until := time.Now().Add(s.NetworkTime)
	for s.status().LastReport.Equal(before) {
		if time.Now().After(until) {
			reason := fmt.Sprintf("The hub was not reached within %s.", s.NetworkTime)
			if w := s.status().Waiting; w != "" {
				reason += " The agent said: " + w
			}
			if err := store.Drop(reason); err != nil {
				s.Screen.Logf("%v", err) // not fatal, because the next start drops the settings
			}
			s.Screen.Alarmf("The hub was not reached with the new network settings.\nRestarting with the previous settings.")
			s.Restart()
		}
		time.Sleep(poll)
	}
	if err := store.Keep(); err != nil {
		s.Screen.Logf("%v", err)
		return
	}
	s.Screen.Logf("the machine reached the hub with the new network settings and keeps them")
	s.reportNetwork()
}

func (s *System) reportNetwork() { reportNetwork(s.Paths, s.Screen.Logf) }

// reportNetwork writes the report on the network settings to a file. The agent sends this file to
// the hub, for the owner.
func reportNetwork(p Paths, logf func(format string, args ...any)) {
	text, err := p.changes().Report()
	if err == nil {
		err = os.WriteFile(p.NetworkReport, []byte(text), 0o600)
	}
	if err != nil {
		logf("%v", err)
	}
}

// offerOwners offers the owner's network settings, from a file of user-meta, to the store. It
// reports whether the settings are new; new settings are on trial from the next start. If the
// user-meta does not have the key networkMeta, the device keeps its settings. The function `busy`
// returns the reason why the machine must not restart now, or "".
func offerOwners(store *netchange.Store, file string, busy func() string) (news bool, err error) {
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
		text = "?" // not valid, so the store records the mistake
	}
	if news, err := store.IsNew(netchange.Hub, text); err != nil || !news {
		return false, err
	}
	if why := busy(); why != "" {
		return false, fmt.Errorf("the owner's network settings must wait: %s", why)
	}
	return store.Offer(netchange.Hub, text, true)
}

package system

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"

	"gangway/device/console/access"
	"gangway/device/install"
	"gangway/device/install/netchange"
	"gangway/device/install/netfile"
)

// The method `console` runs an action of the machine's console (package console) and returns the
// exit code. Before the call, the console has checked that the image and the owner allow the
// action, and has asked the person to confirm it.
func (h *Hook) console(action string) int {
	do, known := map[string]func() error{
		access.ActionRestart:  h.Restart,
		access.ActionReport:   h.networkReport,
		access.ActionSettings: h.networkSettings,
		access.ActionTry:      h.tryNetwork,
		access.ActionWipe:     h.wipe,
		access.ActionPIN:      h.setPIN,
	}[action]
	if known && action != access.ActionRestart && action != access.ActionReport && !exists(filepath.Join(h.Paths.ESP, "EFI")) {
		do = func() error { return errNoDisk }
	}
	if !known {
		fmt.Fprintf(h.ErrOut, "gangway-hook console: unknown action %q\n", action)
		return 2
	}
	if err := do(); err != nil {
		fmt.Fprintln(h.ErrOut, err)
		return 1
	}
	return 0
}

// errNoDisk is the error of an action whose effect must survive a restart, on a machine without a
// disk.
var errNoDisk = errors.New("this machine runs without a disk, so it keeps no settings and there is nothing to wipe; build another image to change its network settings")

func (h *Hook) networkReport() error {
	report, err := h.Paths.changes().Report()
	if err != nil {
		return err
	}
	_, err = io.WriteString(h.Out, report)
	return err
}

// networkSettings prints the network settings in force, as a file. In this file, access.Placeholder
// replaces the proxy's password.
func (h *Hook) networkSettings() error {
	s, err := h.Paths.changes().Settings()
	if err != nil {
		return err
	}
	if _, has := s.ProxyPassword(); has {
		s.Proxy.User = url.UserPassword(s.Proxy.User.Username(), access.Placeholder)
	}
	_, err = io.WriteString(h.Out, s.Text())
	return err
}

// tryNetwork offers the settings that a person has typed, and restarts the machine to try these
// settings. A machine that is not onboarded keeps the new settings at once, because it has no
// earlier settings that have worked.
func (h *Hook) tryNetwork() error {
	text, err := io.ReadAll(io.LimitReader(h.In, netfile.MaxFile+1))
	if err != nil {
		return err
	}
	if why := h.busy(); why != "" {
		return fmt.Errorf("the network settings cannot be changed now, because %s; try again later", why)
	}
	news, err := h.Paths.changes().Offer(netchange.Console, string(text), readStatus(h.Paths).onboarded())
	if err != nil {
		return err
	}
	if !news {
		return errors.New("the machine has these network settings already")
	}
	return h.Restart()
}

// The method `wipe` writes the request for a wipe to the EFI system partition, and restarts the
// machine.
func (h *Hook) wipe() error {
	file := filepath.Join(h.Paths.ESP, install.WipePath)
	if err := os.WriteFile(file, []byte("wipe\n"), 0o600); err != nil {
		return fmt.Errorf("request the wipe: %w", err)
	}
	syncFolder(filepath.Dir(file))
	return h.Restart()
}

// maxPINInput is the maximum size of the input of access.ActionPIN, in bytes.
const maxPINInput = 4 << 10

// setPIN sets, changes or removes the PIN of the machine's disk.
func (h *Hook) setPIN() error {
	text, err := io.ReadAll(io.LimitReader(h.In, maxPINInput))
	if err != nil {
		return err
	}
	var change access.PINChange
	if err := json.Unmarshal(text, &change); err != nil {
		return fmt.Errorf("the console sent no PIN: %w", err)
	}
	return h.SetPIN(change.Current, change.PIN)
}

package system

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gangway/device/console/access"
	"gangway/device/install"
	"gangway/device/install/netchange"
)

// consoleHook runs an action of the machine's console. `input` is the action's standard input.
func (l *lab) consoleHook(action, input string) (code int, out, errOut string) {
	var o, e bytes.Buffer
	h := &Hook{Logf: l.Logf, Paths: l.paths(), Slots: hookSlots{l}, Restart: func() error { return l.step("restart") },
		SetPIN: func(current, pin string) error { return l.step("PIN %s %s", current, pin) },
		In:     strings.NewReader(input), Out: &o, ErrOut: &e}
	code = h.Run([]string{"console", action})
	return code, o.String(), e.String()
}

func TestConsoleRestarts(t *testing.T) {
	inLab(t, func(l *lab) {
		if code, _, _ := l.consoleHook(access.ActionRestart, ""); code != 0 || !l.did("restart") {
			t.Errorf("code %d: %q", code, l.log)
		}
		if code, _, out := l.consoleHook("erase", ""); code != 2 || !strings.Contains(out, `unknown action "erase"`) {
			t.Errorf("an unknown action: code %d, %q", code, out)
		}
	})
}

// A person at the machine's console must not learn the proxy's password. The hook refuses settings
// that contain the placeholder instead of the password.
func TestConsoleNeverShowsTheProxysPassword(t *testing.T) {
	inLab(t, func(l *lab) {
		l.write("esp/EFI/x", "")
		const settings = "version = 1\nproxy = http://ada:s3cret@proxy.example:3128\n"
		if _, err := l.paths().changes().Offer(netchange.Hub, settings, false); err != nil {
			t.Fatal(err)
		}
		for _, action := range []string{access.ActionSettings, access.ActionReport} {
			code, out, errOut := l.consoleHook(action, "")
			if code != 0 || strings.Contains(out+errOut, "s3cret") || !strings.Contains(out, "ada:") {
				t.Errorf("%s: code %d, %q %q", action, code, out, errOut)
			}
		}
		if _, out, _ := l.consoleHook(access.ActionSettings, ""); !strings.Contains(out, "ada:"+access.Placeholder+"@proxy.example") {
			t.Errorf("the settings have no placeholder: %q", out)
		}
	})
}

// When a person types new network settings at the machine's console, a machine with an owner tries
// them first, whereas a machine without an owner keeps them at once. The person may try the same
// settings again. Settings that are in force do not restart the machine.
func TestConsoleTriesNetworkSettings(t *testing.T) {
	t.Parallel()
	const text = "version = 1\nvlan = 7\n"
	for name, c := range map[string]struct {
		spoil   func(l *lab)
		text    string
		code    int
		restart bool
		says    string // text that the hook must write to the standard error
		report  string
	}{
		"without an owner":    {nil, text, 0, true, "", "in force:\n  vlan = 7"},
		"with an owner":       {func(l *lab) { l.status(agentStatus{Phase: "active"}) }, text, 0, true, "", "tried, from the console:\n  vlan = 7"},
		"the same again":      {func(l *lab) { l.status(agentStatus{Phase: "active"}); l.consoleHook(access.ActionTry, text) }, text, 0, true, "", "tried, from the console"},
		"already in force":    {func(l *lab) { l.consoleHook(access.ActionTry, text); l.log = nil }, text, 1, false, "the machine has these network settings already", "in force:\n  vlan = 7"},
		"a mistake":           {nil, "vlan 7", 1, false, "line 1", "refused"},
		"too long":            {nil, text + strings.Repeat("# x\n", 64<<10), 1, false, "bytes", ""},
		"a system on trial":   {func(l *lab) { l.tried = true }, text, 1, false, "a new system is on trial; try again later", "in force: automatic"},
		"no disk":             {func(l *lab) { os.RemoveAll(filepath.Join(l.dir, "esp/EFI")) }, text, 1, false, "runs without a disk", ""},
		"no restart possible": {func(l *lab) { l.failing["restart"] = errBroken }, text, 1, true, "it is broken", ""},
	} {
		t.Run(name, func(t *testing.T) {
			inLab(t, func(l *lab) {
				l.write("esp/EFI/x", "")
				if c.spoil != nil {
					c.spoil(l)
				}
				code, _, errOut := l.consoleHook(access.ActionTry, c.text)
				if code != c.code || !strings.Contains(errOut, c.says) || l.did("restart") != c.restart {
					t.Errorf("code %d, %q: %q", code, errOut, l.log)
				}
				if report, err := l.paths().changes().Report(); err != nil || !strings.Contains(report, c.report) {
					t.Errorf("report %q, %v", report, err)
				}
			})
		})
	}
}

// If a person requests a wipe at the machine's console, the hook only writes the request to the
// disk and restarts the machine. The next start destroys the data, before any program uses the
// disk.
func TestConsoleRequestsAWipe(t *testing.T) {
	inLab(t, func(l *lab) {
		if code, _, errOut := l.consoleHook(access.ActionWipe, ""); code != 1 || !strings.Contains(errOut, "runs without a disk") || l.did("restart") {
			t.Errorf("without a disk: code %d, %q", code, errOut)
		}
		l.write("esp/EFI/x", "")
		if code, _, errOut := l.consoleHook(access.ActionWipe, ""); code != 0 || !l.did("restart") {
			t.Errorf("code %d, %q", code, errOut)
		}
		if _, err := os.Stat(filepath.Join(l.dir, "esp", install.WipePath)); err != nil {
			t.Error(err)
		}
		os.Remove(filepath.Join(l.dir, "esp", install.WipePath))
		l.failing["restart"] = fs.ErrPermission
		if code, _, errOut := l.consoleHook(access.ActionWipe, ""); code != 1 || !strings.Contains(errOut, "permission") {
			t.Errorf("a restart that fails: code %d, %q", code, errOut)
		}
	})
}

// The console gives the hook the present PIN and the new PIN. If the PIN cannot be changed, the
// hook prints the reason. The hook never prints a PIN.
func TestConsoleSetsThePIN(t *testing.T) {
	inLab(t, func(l *lab) {
		const change = `{"current":"135790","pin":"246810"}`
		if code, _, errOut := l.consoleHook(access.ActionPIN, change); code != 1 || !strings.Contains(errOut, "runs without a disk") || l.did("PIN 135790 246810") {
			t.Errorf("without a disk: code %d, %q", code, errOut)
		}
		l.write("esp/EFI/x", "")
		if code, out, errOut := l.consoleHook(access.ActionPIN, change); code != 0 || !l.did("PIN 135790 246810") || strings.Contains(out+errOut, "246810") {
			t.Errorf("code %d, %q %q, %q", code, out, errOut, l.log)
		}
		for _, bad := range []string{"", "246810", `{"pin":"` + strings.Repeat("2", 5000) + `"}`} {
			if code, _, errOut := l.consoleHook(access.ActionPIN, bad); code != 1 || !strings.Contains(errOut, "the console sent no PIN") || strings.Contains(errOut, "246810") {
				t.Errorf("the input %.20q: code %d, %q", bad, code, errOut)
			}
		}
		l.failing = map[string]error{"PIN 135790 246810": errBroken}
		if code, _, errOut := l.consoleHook(access.ActionPIN, change); code != 1 || !strings.Contains(errOut, errBroken.Error()) {
			t.Errorf("a refusal: code %d, %q", code, errOut)
		}
	})
}

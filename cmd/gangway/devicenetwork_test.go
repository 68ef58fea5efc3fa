package main

import (
	"strings"
	"testing"

	"gangway/device/install/netfile"
	"gangway/hub/store"
)

// The owner sets a device's network settings. If the settings have a mistake, the command returns
// an error and sends no request. No command prints the proxy's password.
func TestOwnerSetsADevicesNetwork(t *testing.T) {
	h, run := onboarded(t, nil)
	nick := only(t, h).Nick
	if _, _, err := run("", "device", "network", nick); err == nil || !strings.Contains(err.Error(), "has not reported its network settings") {
		t.Errorf("without a report: got %v", err)
	}
	if _, notes, err := run("", "device", "network", nick, "--address", "192.0.2.11/24", "--gateway", "192.0.2.1", "--proxy", "http://ada:hunter2@proxy.example:3128"); err != nil || !strings.Contains(notes, "restarts to try them") {
		t.Fatal(notes, err)
	}
	text, _ := only(t, h).UserMeta["gangway.network"].(string)
	s, err := netfile.Parse([]byte(text))
	if err != nil || s.Proxy.String() != "http://ada:hunter2@proxy.example:3128" || len(s.Addresses) != 1 {
		t.Errorf("the stored settings are %q, %v", text, err)
	}
	for _, arg := range [][]string{{"device", "show", nick}, {"device", "rename", nick, nick}} {
		if out, notes, err := run("", append(arg, "--output", "json")...); err != nil || strings.Contains(out+notes, "hunter2") || !strings.Contains(out, "ada:********@") {
			t.Errorf("%q prints %.200s, %v", arg, out, err)
		}
	}
	for name, c := range map[string]struct {
		arg  []string
		want string
	}{
		"a mistake": {[]string{"--address", "192.0.2.11"}, "has no prefix length"},
		"too much":  {[]string{"--automatic", "--vlan", "7"}, "cannot be combined with other settings"},
	} {
		if _, _, err := run("", append([]string{"device", "network", nick}, c.arg...)...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	if now := only(t, h).UserMeta["gangway.network"]; now != text {
		t.Errorf("the stored settings became %q", now)
	}
	d := only(t, h)
	patch, err := store.NewMetaPatch(map[string]any{"gangway.network": "in force: automatic\nlast change: \x1b[2Jfrom the hub, dropped\n"})
	if err == nil {
		err = h.Store.PatchDeviceMeta(t.Context(), d.ID, patch)
	}
	if err != nil {
		t.Fatal(err)
	}
	out, _, err := run("", "device", "network", nick)
	if err != nil || strings.Contains(out, "hunter2") || strings.Contains(out, "\x1b") {
		t.Errorf("device network prints %q, %v", out, err)
	}
	for _, want := range []string{"set      proxy = http://ada:********@proxy.example:3128", "device   in force: automatic", "device   last change: [2Jfrom the hub, dropped"} {
		if !strings.Contains(out, want+"\n") {
			t.Errorf("device network does not show %q:\n%s", want, out)
		}
	}
	if _, _, err := run("", "device", "network", nick, "--automatic"); err != nil {
		t.Fatal(err)
	}
	if now := only(t, h).UserMeta["gangway.network"]; now != "version = 1\n" {
		t.Errorf("the stored settings became %q", now)
	}
}

package qemu_test

import (
	"context"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"gangway/device/install"
	"gangway/image/stick"
	"gangway/internal/qemu"
)

// A person at a machine can use the machine's console. On the screen, the person restarts the
// machine. On the serial port, the person wipes the machine after the machine's owner has allowed
// it.
func TestConsoleOfAMachine(t *testing.T) {
	t.Parallel()
	long(t)
	s := newSite(t, stick.Config{})
	s.install(t)
	m, ctx := boot(t, s.with(false))
	good := `gangway-init .*: this boot is good`
	first := after(t, ctx, m, 0, good).At
	s.listed(t)
	o := s.signIn(t)

	press := func(keys ...string) {
		t.Helper()
		if err := m.Press(ctx, keys...); err != nil {
			t.Fatal(err)
		}
	}
	press("ret")
	time.Sleep(3 * time.Second) // wait for the console on the screen: the serial port does not report it
	s.picture(t, m, "console-status")
	press("2")
	s.picture(t, m, "console-network")
	press("3")
	s.picture(t, m, "console-tpm")
	press("7")
	s.picture(t, m, "console-log")
	press("9", "r")
	s.picture(t, m, "console-restart")
	press("y", "e", "s", "ret")
	restarted := after(t, ctx, m, first, `gangway-init .*: up, version`).At
	after(t, ctx, m, restarted, `gangway-init .*: the hub has accepted a report`)

	see := func(keys string, texts ...string) string { return see(t, ctx, m, keys, texts...) }
	const open = "1 Status 2 Network 3 TPM"
	see("\r", open)
	see("9"+redraw, "restart this machine")
	see("w"+redraw, "delete the device at its hub")
	if err := m.Type("q"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(5 * time.Second) // the console discards keys that it gets while it ends
	see("\r", open)
	o.call(ctx, "PATCH", "/devices/"+o.device+"/user-meta", map[string]string{"gangway.console": "full"}, nil)
	const ask, refused = "To wipe the machine, type", "not while the machine has an owner"
	for see("9w"+redraw, ask, refused) != ask { // repeat until the owner's setting has arrived at the machine
		time.Sleep(2 * time.Second)
	}
	nick := s.hub.Devices(t, s.hub.Owner)[0].Nick
	if err := m.Type(nick + "\r"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, ctx, m, `gangway-init .*: Wiping this machine, as requested at its console`)
	waitFor(t, ctx, m, `gangway-init .*: the TPM is cleared`)
	if err := m.WaitOff(ctx); err != nil {
		t.Fatal(err)
	}
	if i, err := install.Look(filepath.Dir(s.disk), filepath.Base(s.disk)); err == nil {
		t.Errorf("the disk still has a system: %+v", i)
	}
	if s.firmwareNames(t, "Gangway") {
		t.Error("firmware still has an entry of the system")
	}
}

// redraw is Ctrl-L, which makes the console send the whole screen. After other keys, the console
// sends only the characters that change.
const redraw = "\x0c"

// see types keys on the serial port, waits until the console then sends one of the texts, and
// returns this text. Spaces may be missing in the console's output, because the console moves the
// cursor instead.
func see(t *testing.T, ctx context.Context, m *qemu.Machine, keys string, texts ...string) string {
	t.Helper()
	count := func(text string) (n int) {
		re := regexp.MustCompile(strings.ReplaceAll(regexp.QuoteMeta(text), " ", `\s*`))
		for _, l := range m.Lines() {
			n += len(re.FindAllString(l.Text, -1))
		}
		return n
	}
	before := map[string]int{}
	for _, text := range texts {
		before[text] = count(text)
	}
	if err := m.Type(keys); err != nil {
		t.Fatal(err)
	}
	for {
		for _, text := range texts {
			if count(text) > before[text] {
				return text
			}
		}
		select {
		case <-ctx.Done():
			t.Fatalf("after the keys %q, the console shows none of %q: its last lines:\n%s", keys, texts, m.Tail())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

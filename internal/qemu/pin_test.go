package qemu_test

import (
	"crypto/rand"
	"crypto/rsa"
	"strings"
	"testing"
	"time"

	"gangway/image/stick"
	"gangway/internal/qemu"
)

// A machine whose image allows a PIN is installed and onboarded without one. Then a person sets a
// PIN at the machine's console. At the next start, the machine asks for the PIN: it refuses a wrong
// PIN, says how many tries are left, and opens its disk with the right one. The machine installs an
// update without the PIN, and asks for the PIN when it restarts. The recovery key opens the disk
// too.
func TestDiskWithAPIN(t *testing.T) {
	t.Parallel()
	long(t)
	owner, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	s := newSiteOf(t, func(p *stick.Parts) { p.Owner, p.DiskPIN = owner, true }, func(*site) stick.Config { return stick.Config{} })
	m, ctx := boot(t, s.with(true))
	recovery := chooseAutoTPM(t, ctx, m)
	waitFor(t, ctx, m, `gangway-init .*: the disk's key is bound to the owner's systems`)
	waitFor(t, ctx, m, `gangway-init .*: this boot is good: gangway-a.efi`)
	s.listed(t)
	write := func(m *qemu.Machine, keys string) {
		t.Helper()
		if err := m.Type(keys); err != nil {
			t.Fatal(err)
		}
	}
	see(t, ctx, m, "\r", "1 Status 2 Network")
	see(t, ctx, m, "9p"+redraw, "Present PIN, or recovery key")
	see(t, ctx, m, "\r"+redraw, "New PIN (empty") // the disk has no PIN so far
	see(t, ctx, m, "246810\r"+redraw, "New PIN again: ")
	write(m, "246810\r")
	const done, failed = "The disk has a new PIN", "It failed"
	for answer := ""; answer != done; answer = see(t, ctx, m, redraw, done, failed, "restart this machine") {
		if answer == failed {
			t.Fatalf("the PIN was not set: the last lines:\n%s", m.Tail())
		}
		time.Sleep(time.Second) // the TPM takes its time
	}
	m.Stop()

	m, ctx = boot(t, s.with(false))
	asked := `gangway-init .*: The disk is locked`
	waitFor(t, ctx, m, asked)
	write(m, "135791\r")
	waitFor(t, ctx, m, `The PIN is wrong\. The TPM accepts 9 more tries`)
	write(m, "246810\r")
	reported, _ := waitFor(t, ctx, m, `gangway-init .*: the hub has accepted a report`)
	o := s.signIn(t)
	o.begun(ctx)
	next := s.parts(t)
	next.Owner, next.DiskPIN, next.Kernel = owner, true, otherKernel(next.Kernel)
	rev := o.post(ctx, s.system(t, next))
	after(t, ctx, m, reported.At, asked) // the update restarts the machine
	write(m, "246810\r")
	waitFor(t, ctx, m, `gangway-init .*: system: slot b, on trial; slot a is the default$`)
	o.becomes(ctx, m, rev, "DONE")
	m.Stop()

	m, ctx = boot(t, s.with(false))
	waitFor(t, ctx, m, asked)
	write(m, strings.ToUpper(recovery)+"\r")
	waitFor(t, ctx, m, `gangway-init .*: The disk is unlocked`)
	waitFor(t, ctx, m, `gangway-init .*: the hub has accepted a report`)
	m.Stop()
}

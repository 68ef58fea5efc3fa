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

// A machine is installed and onboarded without a key press for the PIN. Then a person sets a PIN at
// the machine's console. At the next start, the machine asks for the PIN: it refuses a wrong PIN,
// says how many tries are left, and opens its disk with the right one. An update does not need the
// PIN until the machine starts again. The recovery key opens the disk instead of the PIN.
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
	write(m, "\r")
	waitFor(t, ctx, m, `1\s*Status\s*2\s*Network`)
	write(m, "9p")
	waitFor(t, ctx, m, `Present\s*PIN`)
	for _, line := range []string{"", "246810", "246810"} { // no PIN so far, and the new PIN twice
		write(m, line+"\r")
		time.Sleep(2 * time.Second)
	}
	waitFor(t, ctx, m, `has\s*a\s*new\s*PIN`)
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

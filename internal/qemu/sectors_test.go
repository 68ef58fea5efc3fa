package qemu_test

import (
	"testing"

	"gangway/image/stick"
)

// A machine whose disk has sectors of 4096 bytes can be installed with encryption, booted, updated,
// and booted again.
func TestDiskWithLargeSectors(t *testing.T) {
	t.Parallel()
	long(t)
	s := newSite(t, stick.Config{})
	s.large = true
	m, ctx := boot(t, s.with(true))
	chooseAutoTPM(t, ctx, m)
	waitFor(t, ctx, m, `gangway-init .*: the disk's key came from the TPM`)
	waitFor(t, ctx, m, `gangway-init .*: this boot is good: gangway-a.efi`)
	waitFor(t, ctx, m, `gangway-init .*: data partition: 38\d\d MiB`)
	m.Stop()
	s.listed(t)
	if state, changes := s.booted(t); state != "matches" {
		t.Errorf("the hub's boot state is %s, %q; want matches", state, changes)
	}
	s.sound(t)

	m, ctx = boot(t, s.with(false))
	waitFor(t, ctx, m, `gangway-init .*: the hub has accepted a report`)
	o := s.signIn(t)
	o.begun(ctx)
	other := s.parts(t)
	other.Kernel = otherKernel(other.Kernel)
	rev := o.post(ctx, s.system(t, other))
	waitFor(t, ctx, m, `gangway-init .*: system: slot b, on trial; slot a is the default$`)
	o.becomes(ctx, m, rev, "DONE")
	m.Stop()
	s.sound(t)

	m, ctx = boot(t, s.with(false))
	waitFor(t, ctx, m, `gangway-init .*: system: slot b$`)
	waitFor(t, ctx, m, `gangway-init .*: the hub has accepted a report`)
	m.Stop()
	s.listed(t)
}

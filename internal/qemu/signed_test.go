package qemu_test

import (
	"regexp"
	"strings"
	"testing"

	"gangway/device/install/slots"
	"gangway/image/stick"
	"gangway/wire/trail/sig"
	"gangway/wire/trail/sig/sigtest"
)

// A machine whose image pins its owner's key refuses a system that the owner has not signed, even
// if the hub tells the machine to install it. The machine installs and keeps a signed system, and
// the new system refuses unsigned systems too.
func TestPinnedMachineInstallsOnlySignedSystems(t *testing.T) {
	t.Parallel()
	long(t)
	key := sigtest.NewKey(t)
	pin := func(p *stick.Parts) { p.RevisionKeys = sigtest.Keys(t, key) }
	s := newSiteOf(t, pin, func(*site) stick.Config { return stick.Config{} })
	s.install(t)
	m, ctx := boot(t, s.with(false))
	waitFor(t, ctx, m, `gangway-init .*: this boot is good: gangway-a.efi`)
	o := s.signIn(t)
	o.begun(ctx)

	other := s.parts(t)
	pin(&other)
	other.Kernel = otherKernel(other.Kernel)
	unsigned := sigtest.State{"#spec": "pantavisor-service-system@1", slots.SystemPath: o.upload(ctx, s.system(t, other)), sig.SequencePath: map[string]any{"sequence": 1}}
	refused := func() {
		t.Helper()
		if p := o.becomes(ctx, m, o.postState(ctx, unsigned), "WONTGO"); !strings.Contains(p.Message, string(sig.CodeUnsigned)) {
			t.Errorf("the owner reads %q; want the code %s", p.Message, sig.CodeUnsigned)
		}
	}
	refused()
	if l, _, ok := m.Find(regexp.MustCompile(`slot b, on trial`)); ok {
		t.Errorf("the machine tried an unsigned system: %s", l.Text)
	}
	m.Stop()

	m, ctx = boots(t, s.with(false), 2)
	o.becomes(ctx, m, o.postState(ctx, sigtest.Sign(t, unsigned, "owner", key, sigtest.All())), "DONE")
	waitFor(t, ctx, m, `gangway-init .*: system: slot b, on trial; slot a is the default$`)
	m.Stop()

	m, ctx = boot(t, s.with(false))
	waitFor(t, ctx, m, `gangway-init .*: system: slot b$`)
	refused()
	m.Stop()
}

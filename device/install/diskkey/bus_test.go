package diskkey

import (
	"errors"
	"testing"

	"gangway/device/install/storagekey"
	"gangway/internal/swtpm/swtpmtest"

	"github.com/google/go-tpm/tpm2/transport"
)

// onBus is a TPM whose bus has a probe or an interposer.
type onBus struct {
	*swtpmtest.Bus
	transport.TPMCloser
}

func (b onBus) Send(cmd []byte) ([]byte, error) { return b.Bus.Send(cmd) }

// interposed runs `do` while an interposer on the TPM's bus replaces the storage key, after `honest`
// true keys.
func (l *lab) interposed(t *testing.T, honest int, do func() error) error {
	t.Helper()
	tpm := l.tpm
	bus := &swtpmtest.Bus{TPM: tpm, Honest: honest}
	bus.ReplaceStorageKey(t, false)
	l.tpm = onBus{bus, tpm}
	defer func() { l.tpm = tpm }()
	return do()
}

// An interposer on the TPM's bus replaces the storage key, from any step of an update or of the
// setting of a PIN on. No step encrypts a secret to the false key: the first step compares the key
// with the name in the disk's header, and the later steps use the same key. The disk then opens as
// before.
func TestInterposerIsNoticedAtEachStep(t *testing.T) {
	t.Parallel()
	l, one := withRecovery(t)
	two := system(t, "two", l.owner)
	bind := func() error { _, err := l.bind(one, two); return err }
	setPIN := func() error { return l.setPIN("", "246810", one) }
	for name, do := range map[string]func() error{"bind": bind, "set a PIN": setPIN} {
		if err := l.interposed(t, 0, do); !errors.Is(err, storagekey.ErrOther) {
			t.Errorf("%s: %v; want ErrOther", name, err)
		}
		l.wantOpen(t, one, "")
	}
	for name, do := range map[string]func() error{"bind": bind, "set a PIN": setPIN} {
		if err := l.interposed(t, 1, do); err != nil {
			t.Errorf("%s, with a true key in the first step: %v", name, err)
		}
	}
	l.wantOpen(t, one, "246810")
	for honest := range 2 { // the half for the boot, and the one for the PIN
		err := l.interposed(t, honest, func() error { return l.opensWith(t, one, "246810") })
		if !errors.Is(err, storagekey.ErrOther) {
			t.Errorf("open with a PIN, after %d true keys: %v; want ErrOther", honest, err)
		}
	}
}

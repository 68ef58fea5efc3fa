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

// An interposer on the TPM's bus replaces the storage key, from any step of an update or of the
// setting of a PIN on. Each step compares the key with the name in the disk's header, so no step
// encrypts a secret to the false key. The disk then opens as before.
func TestInterposerIsNoticedAtEachStep(t *testing.T) {
	t.Parallel()
	l, one := withRecovery(t)
	interposed := func(honest int, do func() error) {
		t.Helper()
		tpm := l.tpm
		bus := &swtpmtest.Bus{TPM: tpm, Honest: honest}
		bus.ReplaceStorageKey(t, false)
		l.tpm = onBus{bus, tpm}
		if err := do(); !errors.Is(err, storagekey.ErrOther) {
			t.Errorf("after %d true keys: %v; want ErrOther", honest, err)
		}
		l.tpm = tpm
		l.wantOpen(t, one, "")
	}
	for honest := range 2 { // the key is opened, and bound again
		interposed(honest, func() error { _, err := l.bind(one, system(t, "two", l.owner)); return err })
	}
	// The key is opened, the lockout password set, and the key bound. The second try does not set the
	// password again, so its third step is the PIN.
	for _, honest := range []int{0, 1, 2, 2} {
		interposed(honest, func() error { return l.setPIN("", "246810", one) })
	}
	if err := l.setPIN("", "246810", one); err != nil {
		t.Fatal(err)
	}
	l.wantOpen(t, one, "246810")
}

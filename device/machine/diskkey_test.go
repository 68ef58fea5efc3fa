package machine

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io"
	"strings"
	"testing"

	"gangway/device/install/diskkey"
	"gangway/device/install/luks"
	"gangway/device/install/seal"
	"gangway/device/install/storagekey"
	"gangway/internal/swtpm"
	"gangway/internal/swtpm/swtpmtest"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

const typedPIN = "246810"

// pinDisk is an encrypted disk with a PIN, and its TPM. The PIN's LUKS2 token does not record the
// storage key's name, as on disks whose PIN was set before 30 November 2026.
type pinDisk struct {
	tpm  transport.TPM
	head []byte
	key  luks.Key
}

func newPINDisk(t *testing.T) pinDisk {
	t.Helper()
	tpm, err := swtpmtest.Start(t, swtpm.Options{EK: swtpm.None}).Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tpm.Close() })
	released, token, err := seal.NewFirst(tpm)
	if err != nil {
		t.Fatal(err)
	}
	share, pinToken, err := seal.NewPIN(tpm, nil, typedPIN)
	if err != nil {
		t.Fatal(err)
	}
	delete(pinToken, "key")
	passphrase, err := seal.Join(released, share)
	if err != nil {
		t.Fatal(err)
	}
	head, key, err := luks.Format([]luks.Slot{{Passphrase: passphrase, Token: token}, {Passphrase: bytes.Repeat([]byte("r"), 71), Token: pinToken}})
	if err != nil {
		t.Fatal(err)
	}
	return pinDisk{tpm, head, key}
}

// An interposer on the TPM's bus lets the TPM release the boot's half of the passphrase, and then
// replaces the storage key, so that the PIN is encrypted to its own key. But the machine makes the
// storage key only once, and uses this key for the PIN too.
func TestInterposerCannotReplaceTheStorageKeyBeforeThePIN(t *testing.T) {
	t.Parallel()
	d := newPINDisk(t)
	bus := &swtpmtest.Bus{TPM: d.tpm, Honest: 1}
	bus.ReplaceStorageKey(t, false)
	asked := 0
	key, err := volumeKey(bus, nil, bytes.NewReader(d.head), func(string) string {
		if asked++; asked > 1 {
			return strings.Repeat("r", 71) // ends the test if the PIN does not open the disk
		}
		return typedPIN
	})
	if err != nil || !bytes.Equal(key, d.key) || asked != 1 {
		t.Errorf("%v, after %d questions", err, asked)
	}
	made := 0
	for _, c := range bus.Commands {
		if c == tpm2.TPMCCCreatePrimary {
			made++
		}
	}
	if made != 1 {
		t.Errorf("the storage key was made %d times; want 1", made)
	}
}

// If something on the TPM's bus replaces the storage key, the machine reports that, and does not
// blame the state of Secure Boot. It does not send a PIN to the TPM.
func TestMachineReportsAReplacedStorageKey(t *testing.T) {
	t.Parallel()
	d := newPINDisk(t)
	bus := &swtpmtest.Bus{TPM: d.tpm}
	bus.ReplaceStorageKey(t, false)
	if _, err := released(storagekey.Hold(bus), bytes.NewReader(d.head)); !errors.Is(err, storagekey.ErrOther) || errors.Is(err, seal.ErrNotReleased) {
		t.Errorf("got %v; want ErrOther and not ErrNotReleased", err)
	}
	answers := []string{typedPIN, strings.Repeat("r", 71)}
	var why []string
	key, err := volumeKey(bus, nil, bytes.NewReader(d.head), func(w string) string {
		why = append(why, w)
		return answers[len(why)-1]
	})
	if err != nil || !bytes.Equal(key, d.key) {
		t.Errorf("the recovery key: %v", err)
	}
	for _, w := range why {
		if !strings.Contains(w, "a device on its bus changes its responses") || strings.Contains(w, "Secure Boot") {
			t.Errorf("the machine says %q", w)
		}
	}
	for _, c := range bus.Commands {
		if c == tpm2.TPMCCStartAuthSession {
			t.Fatal("something was encrypted to the false key")
		}
	}
}

// If the hub orders an update to a system that the owner has not approved, the owner reads that the
// new system is not approved, and what to do. The running system is approved.
func TestUpdateThatTheOwnerHasNotApprovedIsNamed(t *testing.T) {
	t.Parallel()
	owner, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	err = mustOpen(owner.Public(), diskkey.System{PCR11: make([]byte, 32)}, nil)
	if !errors.Is(err, ErrUpdateNotApproved) || !strings.Contains(err.Error(), "has not approved the new system") || !strings.Contains(err.Error(), "--manifest-key") {
		t.Errorf("%v; want ErrUpdateNotApproved with the remedy", err)
	}
	if err := mustOpen(owner.Public(), diskkey.System{}, io.ErrUnexpectedEOF); !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, ErrUpdateNotApproved) {
		t.Errorf("a file that cannot be read: %v; want the reason", err)
	}
}

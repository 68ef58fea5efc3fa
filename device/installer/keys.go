package installer

import (
	"crypto/rand"
	"gangway/device/machine"
	"gangway/device/screen"
	"strings"
	"time"

	"gangway/device/install/escrow"
	"gangway/device/install/luks"
	"gangway/device/install/seal"
)

// diskKeys open an encrypted data partition: the TPM's, and one for the drawer.
type diskKeys struct {
	passphrase []byte
	token      map[string]any
	recovery   string
	escrow     map[string]any // the recovery key, encrypted; nil: it is kept nowhere
}

// newDiskKeys makes a disk's keys. The recovery key is kept for who has the
// recipient's identity, if there is a recipient.
func newDiskKeys(recipient string) (*diskKeys, error) {
	machine.LiftLockout()
	t, err := machine.OpenTPM()
	if err != nil {
		return nil, err
	}
	defer t.Close()
	passphrase, token, err := seal.New(t)
	if err != nil {
		return nil, err
	}
	k := &diskKeys{passphrase: passphrase, token: token, recovery: recoveryKey()}
	if recipient != "" {
		if k.escrow, err = escrow.Token(recipient, k.recovery); err != nil {
			return nil, err
		}
	}
	return k, nil
}

// slots are none where there is no encryption.
func (k *diskKeys) slots() []luks.Slot {
	if k == nil {
		return nil
	}
	return []luks.Slot{{Passphrase: k.passphrase, Token: k.token}, {Passphrase: []byte(k.recovery), Token: k.escrow}}
}

// recoveryKey is as systemd-cryptenroll's: 256 bits in letters that are in the
// same place on all keyboards.
func recoveryKey() string {
	const letters = "cbdefghijklnrtuv"
	b := make([]byte, 32)
	rand.Read(b)
	var s strings.Builder
	for i, c := range b {
		if i > 0 && i%4 == 0 {
			s.WriteByte('-')
		}
		s.WriteByte(letters[c>>4])
		s.WriteByte(letters[c&15])
	}
	return s.String()
}

// recoveryTime is how long the recovery key is on the screen.
const recoveryTime = 30 * time.Second

// showRecovery shows it once.
func showRecovery(key string) {
	half := len(key)/2 + 1
	screen.Now("Installed. RECOVERY KEY of the disk, shown this once:\n%s\n%s\nTake a picture of it. Enter goes on at once.", key[:half-1], key[half:])
	screen.SayBeside("recovery key: %s", key)
	select {
	case <-screen.Typed():
	case <-time.After(recoveryTime):
	}
}

package installer

import (
	"crypto/rand"
	"strings"

	"gangway/device/install"
	"gangway/device/install/escrow"
	"gangway/device/install/luks"
	"gangway/device/install/seal"

	"github.com/google/go-tpm/tpm2/transport"
)

// Keys are the two keys that open an encrypted data partition: the passphrase that the TPM seals,
// and the recovery key for the owner.
type Keys struct {
	Passphrase []byte         // the passphrase that the TPM seals
	Token      map[string]any // the LUKS2 token with which the TPM unseals Passphrase (seal.New, seal.NewFirst)
	Recovery   string
	Escrow     map[string]any // the LUKS2 token with Recovery, encrypted to the owner (escrow.Token); nil: not stored
}

// The method `slots` returns the key slots for the data partition. If `k` is nil, slots returns no
// key slot.
func (k *Keys) slots() []luks.Slot {
	if k == nil {
		return nil
	}
	return []luks.Slot{{Passphrase: k.Passphrase, Token: k.Token}, {Passphrase: []byte(k.Recovery), Token: k.Escrow}}
}

// newKeys makes the keys of an encrypted disk for the system of a stick.
func newKeys(t transport.TPM, m *install.Manifest) (*Keys, error) {
	sealed := seal.New
	if m.Approved {
		sealed = seal.NewFirst
	}
	k := &Keys{Recovery: newRecoveryKey()}
	var err error
	if k.Passphrase, k.Token, err = sealed(t); err != nil {
		return nil, err
	}
	if m.Escrow != "" {
		if k.Escrow, err = escrow.Token(m.Escrow, k.Recovery); err != nil {
			return nil, err
		}
	}
	return k, nil
}

// newRecoveryKey returns a key in the format of systemd-cryptenroll: 256 bits, written with
// letters that have the same place on most keyboards.
func newRecoveryKey() string {
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

// Package storagekey makes the storage key of a machine's TPM. This key is the parent of the objects
// that package seal seals, and encrypts the secrets that cross the TPM's bus.
//
// A probe on the bus learns none of these secrets. An interposer, which can also change what
// crosses the bus, could replace the public key in the TPM's response with its own, and then read
// the secrets. So the disk's header records the storage key's name when a secret is first sealed,
// and Load refuses a key with another name.
package storagekey

import (
	"bytes"
	"errors"
	"fmt"

	"gangway/device/identity/tpmrc"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// ErrOther means that the TPM's storage key is not the key with the recorded name. Either the TPM
// was replaced or cleared, or an interposer on its bus has replaced the key.
var ErrOther = errors.New("the TPM's storage key differs from the key that the disk's header names: the disk belongs to another machine, the TPM was replaced or cleared, or a device on its bus changes its responses; use the recovery key")

// template is systemd's template for the storage key.
var template = tpm2.TPMTPublic{
	Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
	ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, Restricted: true, Decrypt: true},
	Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		Symmetric: tpm2.TPMTSymDefObject{
			Algorithm: tpm2.TPMAlgAES,
			KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(128)),
			Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
		},
		CurveID: tpm2.TPMECCNistP256,
	}),
}

// Key is the storage key, loaded into the TPM.
type Key struct {
	Handle tpm2.TPMHandle
	Name   tpm2.TPM2BName
	tpm    transport.TPM
	public tpm2.TPMTPublic
	held   bool // Close does not flush the key
}

// Held is a TPM in which the storage key stays loaded, because some TPMs take seconds to make it.
// It also makes all steps of one operation use the same key, so an interposer cannot let the first
// steps use the true key and later steps another one.
type Held struct {
	transport.TPM
	key *Key
}

// Hold returns a TPM that keeps the key from the first call of Load. The caller must call Close.
func Hold(t transport.TPM) *Held {
	if h, ok := t.(*Held); ok {
		t = h.TPM
	}
	return &Held{TPM: t}
}

// Name returns the name of the key that Load has loaded, or nil if it has loaded none.
func (h *Held) Name() []byte {
	if h.key == nil {
		return nil
	}
	return h.key.Name.Buffer
}

// Close flushes the key. It does not close the TPM.
func (h *Held) Close() {
	if h.key != nil {
		h.key.held = false
		h.key.Close()
		h.key = nil
	}
}

// Load makes the storage key, which is the same each time, until the TPM is cleared. If `name` is
// not empty, and the key has another name, the error is ErrOther.
func Load(t transport.TPM, name []byte) (*Key, error) {
	h, hold := t.(*Held)
	if !hold {
		return load(t, name)
	}
	if h.key == nil {
		k, err := load(h.TPM, name)
		if err != nil {
			return nil, err
		}
		k.held, h.key = true, k
	}
	if len(name) > 0 && !bytes.Equal(h.key.Name.Buffer, name) {
		return nil, ErrOther
	}
	return h.key, nil
}

func load(t transport.TPM, name []byte) (*Key, error) {
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(template)}.Execute(t)
	if err != nil {
		return nil, fmt.Errorf("making the TPM's storage key: %w", tpmrc.Explain(err, tpmrc.Owner))
	}
	k := &Key{Handle: rsp.ObjectHandle, tpm: t}
	if err := k.read(rsp, name); err != nil {
		k.Close()
		return nil, err
	}
	return k, nil
}

// read takes the public key from the TPM's response. The name is computed from the public key,
// because an interposer could replace the public key and leave the response's name as it is.
func (k *Key) read(rsp *tpm2.CreatePrimaryResponse, name []byte) error {
	public, err := rsp.OutPublic.Contents()
	if err != nil {
		return fmt.Errorf("reading the TPM's storage key: %w", err)
	}
	computed, err := tpm2.ObjectName(public)
	if err != nil {
		return fmt.Errorf("reading the TPM's storage key: %w", err)
	}
	if len(name) > 0 && !bytes.Equal(computed.Buffer, name) {
		return ErrOther
	}
	k.public, k.Name = *public, *computed
	return nil
}

// Close flushes the key, unless a Held keeps it loaded, and prepares the TPM for a loss of power
// (TPM2_Shutdown with TPM_SU_CLEAR). systemd's template does not set noDA. So, without
// TPM2_Shutdown, the TPM would count the next loss of power as a wrong guess of the key's empty
// password. After a few losses, the TPM's lockout would block the disk's key (Part 1, 19.8.6). The
// TPM stays usable after TPM2_Shutdown.
func (k *Key) Close() {
	if !k.held {
		// An object that is not flushed disappears when the TPM restarts.
		_, _ = tpm2.FlushContext{FlushHandle: k.Handle}.Execute(k.tpm)
	}
	// If TPM2_Shutdown fails, the next loss of power counts as a guess. That is acceptable, because
	// a lockout can be lifted.
	_, _ = tpm2.Shutdown{ShutdownType: tpm2.TPMSUClear}.Execute(k.tpm)
}

// In returns the options with which a session encrypts the first parameter of a command.
func (k *Key) In() []tpm2.AuthOption {
	return []tpm2.AuthOption{tpm2.Salted(k.Handle, k.public), tpm2.AESEncryption(128, tpm2.EncryptIn)}
}

// Out returns the options with which a session encrypts the first parameter of a response.
func (k *Key) Out() []tpm2.AuthOption {
	return []tpm2.AuthOption{tpm2.Salted(k.Handle, k.public), tpm2.AESEncryption(128, tpm2.EncryptOut)}
}

// Authentic returns a session for one command. The response then has an HMAC, which only the TPM
// with this storage key can make, so an interposer on the TPM's bus cannot alter the response. Set
// `audit` if the session does not authorise the command, because then the TPM accepts only an audit
// session.
func (k *Key) Authentic(audit bool) tpm2.Session {
	options := []tpm2.AuthOption{tpm2.Salted(k.Handle, k.public)}
	if audit {
		options = append(options, tpm2.Audit())
	}
	return tpm2.HMAC(tpm2.TPMAlgSHA256, 16, options...)
}

package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"gangway/device/identity/tpmrc"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// A disk with a PIN needs two secrets: the one that the TPM releases to the boot (see New and
// Bind), and the share that the TPM releases for the PIN. Join makes the passphrase from both. So
// the first secret can be bound again after an update without the PIN, and the disk still opens
// only with both an approved boot and the right PIN.
//
// The TPM's protection against guessing applies to the share's object, which does not have the
// attribute noDA. The PIN is the object's own authValue, which has the same effect as
// TPM2_PolicyAuthValue.

// PINType is the type of the LUKS2 token with the share. systemd-cryptsetup cannot use it. Gangway
// does not use systemd's own format ("tpm2-pin"), because there one object has both the PIN and the
// boot's policy, so each update would need the PIN.
const PINType = "gangway-tpm2-pin"

// Lengths of a PIN, in bytes.
const (
	MinPIN = 6
	MaxPIN = 64
)

// Normally, the TPM's protection against guessing protects even a short PIN. Against an attacker
// who can read the TPM's memory, only these iterations make each guess a little more expensive.
const pinIterations = 100_000

type pinToken struct {
	Type string `json:"type"`
	Blob []byte `json:"blob"` // TPM2B_PRIVATE and TPM2B_PUBLIC
	Salt []byte `json:"salt"`
	Key  []byte `json:"key"` // name of the storage key; empty in headers from before 30 November 2026
}

// CheckPIN returns an error if the text cannot be a PIN.
func CheckPIN(pin string) error {
	if len(pin) < MinPIN || len(pin) > MaxPIN {
		return fmt.Errorf("the PIN has %d characters; it must have %d to %d", len(pin), MinPIN, MaxPIN)
	}
	for _, c := range []byte(pin) {
		if c <= ' ' || c > '~' {
			return errors.New("the PIN must consist of ASCII letters, digits and signs, without spaces, so that a person can type the PIN on any keyboard")
		}
	}
	return nil
}

// authOf returns the authValue for a PIN: 192 bits in base64, which has no zero bytes. A TPM
// removes zeros from the end of an authValue, and go-tpm v0.9.8 cuts an authValue at any zero, so
// the TPM would refuse every eighth right PIN. The authValue has 32 bytes, which is the most that
// the object's nameAlg allows.
func authOf(pin string, salt []byte) ([]byte, error) {
	auth, err := pbkdf2.Key(sha256.New, pin, salt, pinIterations, 24)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return encode(auth), nil
}

// NewPIN makes a share and the LUKS2 token from which the TPM releases the share for this PIN. If
// `key` is not empty, the TPM's storage key must have this name.
func NewPIN(t transport.TPM, key []byte, pin string) (share []byte, tok map[string]any, err error) {
	if err := CheckPIN(pin); err != nil {
		return nil, nil, err
	}
	share, salt := make([]byte, secretSize), make([]byte, 16)
	rand.Read(share)
	rand.Read(salt)
	auth, err := authOf(pin, salt)
	if err != nil {
		return nil, nil, err
	}
	s, err := load(t, key)
	if err != nil {
		return nil, nil, err
	}
	defer s.Close()
	rsp, err := tpm2.Create{
		ParentHandle: tpm2.AuthHandle{Handle: s.Handle, Name: s.Name, Auth: tpm2.HMAC(tpm2.TPMAlgSHA256, 16, s.In()...)},
		InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
			UserAuth: tpm2.TPM2BAuth{Buffer: auth},
			Data:     tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: share}),
		}},
		InPublic: tpm2.New2B(tpm2.TPMTPublic{
			Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
			ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, UserWithAuth: true},
		}),
	}.Execute(t)
	if err != nil {
		return nil, nil, fmt.Errorf("seal: sealing the PIN's share: %w", tpmrc.Explain(err, tpmrc.None))
	}
	b, err := json.Marshal(pinToken{PINType, append(tpm2.Marshal(rsp.OutPrivate), tpm2.Marshal(rsp.OutPublic)...), salt, s.Name.Buffer})
	if err == nil {
		err = json.Unmarshal(b, &tok)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("seal: %w", err)
	}
	return share, tok, nil
}

// ErrWrongPIN means that the TPM has counted a wrong guess.
var ErrWrongPIN = errors.New("the PIN is wrong")

// OpenPIN returns the share that NewPIN made. If the PIN is wrong, the error is ErrWrongPIN. If the
// TPM is in lockout, the error is a *tpmrc.Cause.
func OpenPIN(t transport.TPM, raw json.RawMessage, pin string) ([]byte, error) {
	var tok pinToken
	if err := json.Unmarshal(raw, &tok); err != nil || tok.Type != PINType || len(tok.Blob) > 4096 || len(tok.Salt) > 64 {
		return nil, errors.New("seal: the LUKS2 token of the PIN is damaged, so the TPM cannot release the disk's key; use the recovery key")
	}
	private, public, err := split(tok.Blob)
	if err != nil {
		return nil, err
	}
	name, err := nameOfSealed(public)
	if err != nil {
		return nil, err
	}
	auth, err := authOf(pin, tok.Salt)
	if err != nil {
		return nil, err
	}
	s, err := load(t, tok.Key)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	object, err := tpm2.Load{ParentHandle: tpm2.NamedHandle{Handle: s.Handle, Name: s.Name}, InPrivate: *private, InPublic: *public}.Execute(t)
	if err != nil {
		return nil, refused(err)
	}
	defer flush(t, object.ObjectHandle)
	session := tpm2.HMAC(tpm2.TPMAlgSHA256, 16, append(s.Out(), tpm2.Auth(auth))...)
	rsp, err := tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: object.ObjectHandle, Name: name, Auth: session}}.Execute(t)
	if errors.Is(err, tpm2.TPMRCAuthFail) {
		return nil, ErrWrongPIN
	}
	if err != nil {
		return nil, refused(err)
	}
	return rsp.OutData.Buffer, nil
}

// Join makes the passphrase of a disk with a PIN from the passphrase that the TPM releases to the
// boot, and the PIN's share.
func Join(passphrase, share []byte) ([]byte, error) {
	key, err := hkdf.Key(sha256.New, append(bytes.Clone(passphrase), share...), nil, "gangway disk with a PIN, 1", secretSize)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return encode(key), nil
}

// NewPassphrase makes a passphrase that Bind can seal.
func NewPassphrase() []byte {
	secret := make([]byte, secretSize)
	rand.Read(secret)
	return encode(secret)
}

// NewLockoutPassword makes a password for the TPM's lockout hierarchy. Without a password, any
// system could reset the TPM's count of wrong PINs.
func NewLockoutPassword() []byte {
	secret := make([]byte, 24)
	rand.Read(secret)
	return encode(secret) // without zero bytes; see authOf
}

// Wrap encrypts the lockout password under the passphrase that the TPM releases to the boot, so
// that only an approved system can use the password.
func Wrap(passphrase, password []byte) ([]byte, error) {
	aead, err := wrapping(passphrase)
	if err != nil {
		return nil, err
	}
	return aead.Seal(nil, nil, password, nil), nil
}

// Unwrap decrypts what Wrap encrypted. A wrong lockout password locks the lockout hierarchy for a
// day, so Unwrap notices each change of `wrapped`.
func Unwrap(passphrase, wrapped []byte) ([]byte, error) {
	aead, err := wrapping(passphrase)
	if err != nil {
		return nil, err
	}
	password, err := aead.Open(nil, nil, wrapped, nil)
	if err != nil {
		return nil, errors.New("seal: the TPM's lockout password in the disk's header is damaged")
	}
	return password, nil
}

func wrapping(passphrase []byte) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, passphrase, nil, "gangway lockout password, 1", 32)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// Package seal stores the passphrase of an encrypted disk in the machine's TPM. The installer seals
// the passphrase with New. The installed system gets the passphrase with Open at each boot. The
// format is that of systemd-cryptenroll (version 252), a LUKS2 token of the type systemd-tpm2 in
// the disk's header, so that systemd can open the disk too.
//
// New binds the passphrase to PCR 7, which measures the state of Secure Boot. An update of the
// system does not change PCR 7, so the passphrase stays usable. But without Secure Boot, PCR 7 is
// the same for every system that boots. The seal then protects the data if the disk alone is
// stolen, but not if the whole machine is stolen. Bind binds the passphrase to the systems that the
// machine's owner approved, so that no other system on the same machine gets the passphrase. For
// such systems, the installer uses NewFirst instead of New.
package seal

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"gangway/device/identity/tpmrc"
	"gangway/device/install/storagekey"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// TokenType is the type of the LUKS2 token.
const TokenType = "systemd-tpm2"

const (
	secretSize = 32
	pcr        = 7
)

// storage is the storage key, loaded into the TPM.
type storage struct {
	*storagekey.Key
	tpm transport.TPM
}

// load loads the storage key. If `name` is not empty, the key must have this name; otherwise the error
// is storagekey.ErrOther.
func load(t transport.TPM, name []byte) (*storage, error) {
	k, err := storagekey.Load(t, name)
	if errors.Is(err, storagekey.ErrOther) {
		return nil, err // shown to a person
	}
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return &storage{k, t}, nil
}

func flush(t transport.TPM, h tpm2.TPMHandle) {
	// An object that is not flushed disappears when the TPM restarts.
	_, _ = tpm2.FlushContext{FlushHandle: h}.Execute(t)
}

// KeyName returns the name of the TPM's storage key that a LUKS2 token of the type BoundType,
// FirstType or PINType records. If it records none, the result is nil.
func KeyName(raw json.RawMessage) []byte {
	var tok struct {
		Key []byte `json:"key"`
	}
	if json.Unmarshal(raw, &tok) != nil {
		return nil
	}
	return tok.Key
}

// token is the JSON of the LUKS2 token that systemd-cryptenroll writes, without the list of key
// slots.
type token struct {
	Type    string `json:"type"`
	Blob    []byte `json:"tpm2-blob"`
	PCRs    []int  `json:"tpm2-pcrs"`
	Bank    string `json:"tpm2-pcr-bank"`
	Primary string `json:"tpm2-primary-alg"`
	Policy  string `json:"tpm2-policy-hash"`
}

// New makes a passphrase and a LUKS2 token that seals the passphrase. Only this TPM can unseal the
// passphrase from the LUKS2 token.
func New(t transport.TPM) (passphrase []byte, tok map[string]any, err error) {
	return newSealed(t, policyPCR7, func(_ tpm2.TPM2BName, blob, digest []byte) any {
		return token{
			Type: TokenType, Blob: blob,
			PCRs: []int{pcr}, Bank: "sha256", Primary: "ecc", Policy: hex.EncodeToString(digest),
		}
	})
}

// policyPCR7 returns the commands of New's policy, for a value of PCR 7; see policyPCR.
func policyPCR7(session tpm2.TPMISHPolicy, pcr7 [][]byte) []tpm2.PolicyCommand {
	return []tpm2.PolicyCommand{policyPCR(session, []int{pcr}, pcr7)}
}

// newSealed makes a passphrase and seals it. `policy` returns the policy's commands for the present
// value of PCR 7. `token` makes the LUKS2 token from the storage key's name, from the sealed object
// and from the policy's digest.
func newSealed(t transport.TPM, policy func(tpm2.TPMISHPolicy, [][]byte) []tpm2.PolicyCommand, token func(key tpm2.TPM2BName, blob, digest []byte) any) (passphrase []byte, tok map[string]any, err error) {
	secret := make([]byte, secretSize)
	rand.Read(secret)
	s, err := load(t, nil)
	if err != nil {
		return nil, nil, err
	}
	defer s.Close()
	pcr7, err := s.readPCRs(pcr)
	if err != nil {
		return nil, nil, err
	}
	digest, err := s.digest(func(session tpm2.TPMISHPolicy) []tpm2.PolicyCommand { return policy(session, pcr7) })
	if err != nil {
		return nil, nil, err
	}
	blob, err := s.seal(secret, digest)
	if err != nil {
		return nil, nil, err
	}
	b, err := json.Marshal(token(s.Name, blob, digest))
	if err == nil {
		err = json.Unmarshal(b, &tok)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("seal: %w", err)
	}
	return encode(secret), tok, nil
}

// seal seals a secret under a policy, and returns the object: a TPM2B_PRIVATE and a TPM2B_PUBLIC.
func (s *storage) seal(secret, policy []byte) ([]byte, error) {
	rsp, err := tpm2.Create{
		ParentHandle: tpm2.AuthHandle{Handle: s.Handle, Name: s.Name, Auth: tpm2.HMAC(tpm2.TPMAlgSHA256, 16, s.In()...)},
		InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
			Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: secret}),
		}},
		InPublic: tpm2.New2B(tpm2.TPMTPublic{
			Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
			ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true},
			AuthPolicy:       tpm2.TPM2BDigest{Buffer: policy},
		}),
	}.Execute(s.tpm)
	if err != nil {
		return nil, fmt.Errorf("seal: sealing the secret: %w", tpmrc.Explain(err, tpmrc.None))
	}
	return append(tpm2.Marshal(rsp.OutPrivate), tpm2.Marshal(rsp.OutPublic)...), nil
}

// encode makes the passphrase from the secret, as systemd does.
func encode(secret []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(secret)) }

// ErrNotReleased means that the key was sealed by another TPM, or for another state of Secure Boot.
var ErrNotReleased = errors.New("this TPM does not release the disk's key.\nThe disk belongs to another machine, or Secure Boot was switched on or off.\nRestore the Secure Boot setting, or use the recovery key.") //lint:ignore ST1005 shown to a person

// The function `refused` returns the error to report if the TPM refuses to unseal. If err is about
// a problem of the TPM itself, such as a lockout, refused returns that problem. Otherwise it
// returns ErrNotReleased.
func refused(err error) error {
	explained := tpmrc.Explain(err, tpmrc.None)
	var cause *tpmrc.Cause
	if errors.As(explained, &cause) && cause.Code != tpmrc.CodeOther && cause.Code != tpmrc.CodeUnsupported {
		return fmt.Errorf("seal: %w", explained)
	}
	return errors.Join(ErrNotReleased, err)
}

// Open returns the passphrase that a LUKS2 token seals.
func Open(t transport.TPM, raw json.RawMessage) ([]byte, error) {
	return openSeal(t, raw, func(tok token) (blob, key []byte, err error) {
		if tok.Type != TokenType || len(tok.PCRs) != 1 || tok.PCRs[0] != pcr || tok.Bank != "sha256" || tok.Primary != "ecc" || len(tok.Blob) > 4096 {
			return nil, nil, errors.New("seal: the LUKS2 token in the disk's header has parameters that Gangway's installer does not use; use the recovery key, or install the machine again")
		}
		return tok.Blob, nil, nil
	}, func(token) (policyFunc, error) {
		return func(session tpm2.TPMISHPolicy) []tpm2.PolicyCommand { return policyPCR7(session, nil) }, nil
	})
}

// openSeal returns the passphrase that a LUKS2 token of the type T seals. `check` checks the LUKS2
// token, and returns the sealed object and the storage key's name. `policy` returns the function that
// returns the policy's commands; openSeal calls `policy` when the storage key is loaded.
func openSeal[T any](t transport.TPM, raw json.RawMessage, check func(T) (blob, key []byte, err error), policy func(T) (policyFunc, error)) ([]byte, error) {
	var tok T
	if err := json.Unmarshal(raw, &tok); err != nil {
		return nil, fmt.Errorf("seal: the LUKS2 token in the disk's header: %w", err)
	}
	blob, key, err := check(tok)
	if err != nil {
		return nil, err
	}
	private, public, err := split(blob)
	if err != nil {
		return nil, err
	}
	s, err := load(t, key)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	run, err := policy(tok)
	if err != nil {
		return nil, err
	}
	secret, err := s.unseal(private, public, run)
	if err != nil {
		return nil, err
	}
	return encode(secret), nil
}

// split separates a TPM2B_PRIVATE from the TPM2B_PUBLIC that follows it.
func split(blob []byte) (*tpm2.TPM2BPrivate, *tpm2.TPM2BPublic, error) {
	broken := errors.New("seal: the LUKS2 token in the disk's header is damaged, so the TPM cannot release the disk's key; use the recovery key, or install the machine again")
	if len(blob) < 2 {
		return nil, nil, broken
	}
	n := 2 + int(blob[0])<<8 + int(blob[1])
	if n > len(blob) {
		return nil, nil, broken
	}
	private, err := tpm2.Unmarshal[tpm2.TPM2BPrivate](blob[:n])
	if err != nil {
		return nil, nil, errors.Join(broken, err)
	}
	public, err := tpm2.Unmarshal[tpm2.TPM2BPublic](blob[n:])
	if err != nil || !bytes.Equal(tpm2.Marshal(public), blob[n:]) {
		return nil, nil, errors.Join(broken, err)
	}
	return private, public, nil
}

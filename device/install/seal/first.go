package seal

import (
	"encoding/json"
	"errors"
	"fmt"

	"gangway/device/identity/tpmrc"
	"gangway/device/install/storagekey"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// FirstType is the type of the LUKS2 token that the installer writes for a system that its owner
// approved. The TPM releases the passphrase only until the first Bind has advanced the counter, so
// a copy of the disk's header from before the first Bind is worthless afterwards. A LUKS2 token of
// systemd would open the disk forever, because it depends only on PCR 7 and on a key that the TPM
// can always make again. systemd-cryptsetup cannot use FirstType, because systemd's policies have
// no counter.
const FirstType = "gangway-tpm2-first"

// first is the JSON of the LUKS2 token, without the list of key slots.
type first struct {
	Type    string `json:"type"`
	Blob    []byte `json:"blob"`    // TPM2B_PRIVATE and TPM2B_PUBLIC
	Limit   uint64 `json:"limit"`   // see Binding
	Counter uint32 `json:"counter"` // NV index
	Key     []byte `json:"key"`     // name of the storage key; empty in headers from before 30 November 2026
}

// NewFirst is like New, but the TPM releases the passphrase only until the counter advances. If the
// TPM has no counter, NewFirst makes one.
func NewFirst(t transport.TPM) (passphrase []byte, tok map[string]any, err error) {
	h := storagekey.Hold(t)
	defer h.Close()
	limit, err := Counter(h)
	if err != nil {
		return nil, nil, err
	}
	counter, err := counterName(h)
	if err != nil {
		return nil, nil, err
	}
	return newSealed(h, policyFirst(counter, limit), func(key tpm2.TPM2BName, blob, _ []byte) any {
		return first{Type: FirstType, Blob: blob, Limit: limit, Counter: counterIndex, Key: key.Buffer}
	})
}

// OpenFirst returns the passphrase that NewFirst made. If the counter has advanced since then, or
// if PCR 7 has another value, the error is ErrNotReleased.
func OpenFirst(t transport.TPM, raw json.RawMessage) ([]byte, error) {
	return openSeal(t, raw, func(tok first) (blob, key []byte, err error) {
		if tok.Type != FirstType || tok.Counter != counterIndex || len(tok.Blob) > 4096 {
			return nil, nil, errDamaged
		}
		return tok.Blob, tok.Key, nil
	}, func(tok first) (policyFunc, error) {
		counter, err := counterName(t)
		if err != nil {
			return nil, errors.Join(ErrNotReleased, err)
		}
		return func(session tpm2.TPMISHPolicy) []tpm2.PolicyCommand {
			return policyFirst(counter, tok.Limit)(session, nil)
		}, nil
	})
}

// policyFirst returns a function that returns the commands of NewFirst's policy for a given value
// of PCR 7; see policyPCR.
func policyFirst(counter tpm2.TPM2BName, limit uint64) func(tpm2.TPMISHPolicy, [][]byte) []tpm2.PolicyCommand {
	return func(session tpm2.TPMISHPolicy, pcr7 [][]byte) []tpm2.PolicyCommand {
		return []tpm2.PolicyCommand{policyPCR(session, []int{pcr}, pcr7), policyCounter(session, counter, limit)}
	}
}

// unseal loads an object and returns its secret. `policy` returns the policy's commands.
func (s *storage) unseal(private *tpm2.TPM2BPrivate, public *tpm2.TPM2BPublic, policy policyFunc) ([]byte, error) {
	name, err := nameOfSealed(public)
	if err != nil {
		return nil, err
	}
	object, err := tpm2.Load{ParentHandle: tpm2.NamedHandle{Handle: s.Handle, Name: s.Name}, InPrivate: *private, InPublic: *public}.Execute(s.tpm)
	if err != nil {
		return nil, refused(err)
	}
	defer flush(s.tpm, object.ObjectHandle)
	session, end, err := tpm2.PolicySession(s.tpm, tpm2.TPMAlgSHA256, 16, s.Out()...)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", tpmrc.Explain(err, tpmrc.None))
	}
	defer end()
	if err := run(s.tpm, policy(session.Handle())); err != nil {
		return nil, refused(err)
	}
	rsp, err := tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: object.ObjectHandle, Name: name, Auth: session}}.Execute(s.tpm)
	if err != nil {
		return nil, refused(err)
	}
	return rsp.OutData.Buffer, nil
}

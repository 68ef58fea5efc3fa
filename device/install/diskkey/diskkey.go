// Package diskkey binds the key of an encrypted disk to the systems that are installed on the disk.
// The disk's header has one LUKS2 token for each boot at which the TPM may release the key; package
// seal describes the tokens. When a system is added or removed, Bind replaces the LUKS2 tokens. To
// make the token for a system that is not running, Bind predicts what the machine will measure when
// it boots that system.
package diskkey

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"gangway/device/install/approval"
	"gangway/device/install/luks"
	"gangway/device/install/seal"
	"gangway/device/install/storagekey"
	"gangway/tcg"
	"gangway/tcg/eventlog"

	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/uuid"
)

const (
	bootPCR       = 4  // the programs that the firmware started
	secureBootPCR = 7  // the state and the keys of Secure Boot
	linePCR       = 12 // command lines
	extensionPCR  = 13 // extensions on the EFI system partition
)

// keySlot is the LUKS2 key slot for the passphrase that the TPM releases.
const keySlot = 0

// A System is an installed system in one of the disk's two slots.
type System struct {
	// Program and Kernel are the Authenticode digests (SHA-256) of the unified kernel image and of
	// the kernel that it contains.
	Program, Kernel []byte
	Cmdline         string
	PCR11           []byte              // the value that the system leaves in PCR 11
	Approvals       []approval.Approval // the content of its section .pcrsig
}

// Unlock returns the passphrase that the TPM releases for one of the header's LUKS2 tokens.
// `approvals` are the running system's approvals. If the TPM releases no passphrase, the error is
// seal.ErrNotReleased or a problem of the TPM. If the storage key does not have the name that the
// header records, the error is storagekey.ErrOther. All later operations on `t` use the same
// storage key as Unlock.
func Unlock(t *storagekey.Held, disk io.ReaderAt, approvals []approval.Approval) ([]byte, error) {
	if err := loadRecorded(t, disk); err != nil {
		return nil, err
	}
	var refusal error
	for _, kind := range []struct {
		name string
		open func(json.RawMessage) ([]byte, error)
	}{
		{seal.BoundType, func(raw json.RawMessage) ([]byte, error) { return seal.OpenBound(t, raw, approvals) }},
		{seal.FirstType, func(raw json.RawMessage) ([]byte, error) { return seal.OpenFirst(t, raw) }},
		{seal.TokenType, func(raw json.RawMessage) ([]byte, error) { return seal.Open(t, raw) }},
	} {
		list, err := luks.Tokens(disk, kind.name)
		if err != nil {
			return nil, err
		}
		for _, raw := range list {
			passphrase, err := kind.open(raw)
			if err == nil {
				return passphrase, nil
			}
			refusal = worse(refusal, err)
		}
	}
	if refusal == nil {
		return nil, errors.New("the disk's header has no key for a TPM; use the recovery key, or install the machine again")
	}
	return nil, refusal
}

// The function `worse` chooses which of two errors to report to the person. It prefers a problem of
// the TPM itself to seal.ErrNotReleased, because the remedies differ.
func worse(first, err error) error {
	if first == nil || errors.Is(first, seal.ErrNotReleased) && !errors.Is(err, seal.ErrNotReleased) {
		return err
	}
	return first
}

// IsBound reports whether the disk opens only for systems that its owner has approved.
func IsBound(disk io.ReaderAt) (bool, error) {
	bound, err := boundTokens(disk)
	return len(bound) > 0, err
}

// boundTokens returns the LUKS2 tokens that Bind made. If the header still has a LUKS2 token that
// an installer wrote, the result is nil, because the disk then opens for other systems too.
func boundTokens(disk io.ReaderAt) ([]json.RawMessage, error) {
	for _, kind := range unbound {
		if list, err := luks.Tokens(disk, kind); err != nil || len(list) > 0 {
			return nil, err
		}
	}
	return luks.Tokens(disk, seal.BoundType)
}

// unbound are the types of the LUKS2 tokens that installers write.
var unbound = []string{seal.TokenType, seal.FirstType}

// ErrUnpredictable means that Bind cannot predict what the machine will measure at its next boot.
// The LUKS2 tokens do not change, so the disk still opens at the same boots as before.
var ErrUnpredictable = errors.New("the firmware's event log does not explain what was measured, so the disk's key is not bound to the owner's systems")

// A Boot contains the facts that Bind needs to know about the present boot of the machine.
type Boot struct {
	Log []byte // the firmware's event log
	// Variable returns the present value of a firmware variable. If the variable does not exist,
	// the error is fs.ErrNotExist. If Variable is nil, Bind assumes that the variables have not
	// changed since they were measured.
	Variable func(name string, vendor uuid.UUID) ([]byte, error)
}

// ErrAdditions means that the running system was not started exactly as its owner approved it. The
// LUKS2 tokens do not change, so the disk still opens at the same boots as before.
var ErrAdditions = errors.New("the system was started with another command line, or with additions from the EFI system partition, so the disk's key is not bound to this start.\nRemove the additions and restart the machine.") //lint:ignore ST1005 shown to a person

// Bind binds the disk's key to `running`, the system that runs, and to `others`, the systems in
// other slots. It leaves out systems without an approval by the key `owner`. If a program has
// changed the Secure Boot keys since the machine booted, the disk then opens both at boots with the
// present Secure Boot keys and at boots with the former ones. After Bind returns, no earlier LUKS2
// token opens the disk. `changed` is false if the header already had these LUKS2 tokens.
//
// The first time, Bind also makes a new passphrase, and destroys the key slot of the installer's
// passphrase. The TPM's counter then passes the limit in the installer's LUKS2 token, so an earlier
// copy of the disk's header and key slots opens nothing. The exception is a LUKS2 token of the kind
// that systemd-cryptenroll makes (seal.New), because it has no limit.
//
// The order of the steps makes power cuts harmless. First, Bind writes the new LUKS2 tokens to the
// disk. Then it advances the TPM's counter, which makes the old LUKS2 tokens worthless. The new
// LUKS2 tokens are valid both before and after this step, because their limit allows the counter's
// present value and the next one.
func Bind(t transport.TPM, disk luks.Disk, owner crypto.PublicKey, boot Boot, running System, others ...System) (changed bool, err error) {
	h := storagekey.Hold(t)
	defer h.Close()
	return bindHeld(h, disk, owner, boot, running, others)
}

func bindHeld(t *storagekey.Held, disk luks.Disk, owner crypto.PublicKey, boot Boot, running System, others []System) (changed bool, err error) {
	if err := loadRecorded(t, disk); err != nil {
		return false, err
	}
	var counter uint64
	boots, failed := predictBoots(t, owner, boot, running, others)
	if failed == nil { // usual at a start: unsealing would cost several commands of a slow TPM
		if counter, err = seal.Counter(t); err != nil {
			return false, err
		}
		if same, err := hasBindings(disk, owner, boots, counter); err != nil || same {
			return false, err
		}
	}
	passphrase, err := Unlock(t, disk, running.Approvals)
	if err != nil {
		return false, err
	}
	if failed != nil { // only a system that gets the key learns why the key is not bound
		return false, failed
	}
	return true, rebind(t, disk, passphrase, owner, boots, counter)
}

// predictBoots returns the PCR values of each boot at which the TPM may release the key. The first
// element has the values of the present boot.
func predictBoots(t transport.TPM, owner crypto.PublicKey, boot Boot, running System, others []System) ([]map[int][]byte, error) {
	values, err := seal.ReadPCRs(t, append(slices.Clone(seal.Required), approval.PCR)...)
	if err != nil {
		return nil, err
	}
	running.PCR11 = values[approval.PCR]
	if !running.ApprovedBy(owner) {
		return nil, seal.ErrNotApproved
	}
	events := eventlog.Read(boot.Log, tcg.AlgSHA256)
	if err := checkLines(events, values[linePCR], running); err != nil {
		return nil, err
	}
	if !bytes.Equal(values[extensionPCR], make([]byte, sha256.Size)) {
		return nil, ErrAdditions
	}
	boots := []map[int][]byte{values}
	for _, s := range others {
		if !s.ApprovedBy(owner) {
			continue
		}
		v, err := predict(events, values[bootPCR], running, s)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(boots, func(b map[int][]byte) bool { return bytes.Equal(b[bootPCR], v) }) {
			boots = append(boots, with(with(values, bootPCR, v), linePCR, predictLines(events, running, s)))
		}
	}
	if v := predictKeys(events, values[secureBootPCR], boot.Variable); v != nil {
		for _, b := range slices.Clone(boots) {
			boots = append(boots, with(b, secureBootPCR, v))
		}
	}
	return boots, nil
}

// The function `with` returns a copy of the PCR values in which PCR `pcr` has the value `value`.
func with(values map[int][]byte, pcr int, value []byte) map[int][]byte {
	values = maps.Clone(values)
	values[pcr] = value
	return values
}

func rebind(t *storagekey.Held, disk luks.Disk, passphrase []byte, owner crypto.PublicKey, boots []map[int][]byte, counter uint64) error {
	bound, err := luks.Tokens(disk, seal.BoundType)
	if err != nil {
		return err
	}
	if len(bound) == 0 { // the first time
		key, err := luks.Open(disk, passphrase)
		if err != nil {
			return err
		}
		return replace(t, disk, key, owner, boots, "", nil)
	}
	tokens, err := seal.Bind(t, t.Name(), passphrase, bindings(owner, boots, counter)...)
	if err != nil {
		return err
	}
	if err := luks.SetTokens(disk, keySlot, slices.Concat(unbound, []string{seal.BoundType}), tokens); err != nil {
		return err
	}
	return seal.Advance(t, t.Name())
}

// bindings returns a Binding for each boot. Its limit is the value that the counter will have after
// the next increment.
func bindings(owner crypto.PublicKey, boots []map[int][]byte, counter uint64) (list []seal.Binding) {
	for _, pcrs := range boots {
		list = append(list, seal.Binding{Owner: owner, PCRs: pcrs, Limit: counter + 1})
	}
	return list
}

// storageKey returns the name of the TPM's storage key that the disk's header records, or nil if it
// records none.
func storageKey(disk io.ReaderAt) ([]byte, error) {
	for _, kind := range []string{seal.BoundType, seal.FirstType, seal.PINType} {
		list, err := luks.Tokens(disk, kind)
		if err != nil {
			return nil, err
		}
		for _, raw := range list {
			if name := seal.KeyName(raw); len(name) > 0 {
				return name, nil
			}
		}
	}
	return nil, nil
}

// loadRecorded loads the TPM's storage key, which must have the name that the header records, if
// any. All later operations on `t` use this key.
func loadRecorded(t *storagekey.Held, disk io.ReaderAt) error {
	name, err := storageKey(disk)
	if err != nil {
		return err
	}
	_, err = storagekey.Load(t, name)
	return err
}

// hasBindings reports whether the header has exactly the LUKS2 tokens for `boots`, with a limit
// that is the counter's present value.
func hasBindings(disk io.ReaderAt, owner crypto.PublicKey, boots []map[int][]byte, counter uint64) (bool, error) {
	bound, err := boundTokens(disk)
	if err != nil || len(bound) != len(boots) {
		return false, err
	}
	for _, pcrs := range boots {
		want := seal.Binding{Owner: owner, PCRs: pcrs, Limit: counter}
		if !slices.ContainsFunc(bound, func(raw json.RawMessage) bool { return want.Made(raw) }) {
			return false, nil
		}
	}
	return true, nil
}

// ApprovedBy reports whether the owner of the public key approved the system.
func (s System) ApprovedBy(owner crypto.PublicKey) bool {
	return slices.ContainsFunc(s.Approvals, func(a approval.Approval) bool { return a.By(owner, s.PCR11) })
}

// predict returns the value that PCR 4 will have after this machine has booted the system `other`
// in the same way as the running system. It replays the events of the present boot, with the
// digests of the other system's programs instead of those of the running system's.
func predict(log *eventlog.Log, value []byte, running, other System) ([]byte, error) {
	events := eventsOf(log, bootPCR)
	if !bytes.Equal(replay(events), value) {
		return nil, ErrUnpredictable
	}
	for _, change := range [][2][]byte{{running.Program, other.Program}, {running.Kernel, other.Kernel}} {
		n := 0
		for i := range events {
			if bytes.Equal(events[i].Digest, change[0]) {
				events[i].Digest = change[1]
				n++
			}
		}
		// With Secure Boot on, systemd's stub starts the kernel without the firmware's help, so the
		// log has no event for the kernel.
		optional := bytes.Equal(change[0], running.Kernel)
		if n > 1 || n == 0 && !optional || len(change[1]) != sha256.Size {
			return nil, fmt.Errorf("%w: the event log has %d entries for one program of the running system", ErrUnpredictable, n)
		}
	}
	return replay(events), nil
}

// eventsOf returns the events of one PCR. The caller may change the result.
func eventsOf(log *eventlog.Log, pcr uint32) []eventlog.Event {
	return slices.DeleteFunc(slices.Clone(log.Events), func(e eventlog.Event) bool {
		return e.PCR != pcr || e.Type == eventlog.NoAction || len(e.Digest) != sha256.Size
	})
}

// The function `replay` returns the value that a PCR has if, after a reset, these events are
// extended into it.
func replay(events []eventlog.Event) []byte {
	var value [sha256.Size]byte
	for _, e := range events {
		value = sha256.Sum256(append(value[:], e.Digest...))
	}
	return value[:]
}

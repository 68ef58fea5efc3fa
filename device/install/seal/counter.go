package seal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"gangway/device/identity/tpmrc"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// counterIndex is the NV index of the counter. It is in the range for the platform's owner (TCG
// Registry of Reserved TPM 2.0 Handles, 2.2.2).
const counterIndex = 0x01804757

// counterPublic is the public area of the counter. A TPM can only increment a counter. The first
// value of a new counter is larger than the value of every counter that was ever deleted from the
// TPM.
var counterPublic = tpm2.TPMSNVPublic{
	NVIndex: counterIndex, NameAlg: tpm2.TPMAlgSHA256, DataSize: 8,
	Attributes: tpm2.TPMANV{NT: tpm2.TPMNTCounter, AuthWrite: true, AuthRead: true, NoDA: true},
}

var (
	errNoCounter     = errors.New("the TPM has no counter")
	errNeverAdvanced = errors.New("the TPM's counter has no value yet")
)

// counterName returns the name of the counter, which policies contain. It returns an error if the
// counter is missing, if it has no value yet, or if the NV index has other attributes.
func counterName(t transport.TPM) (tpm2.TPM2BName, error) {
	rsp, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(counterIndex)}.Execute(t)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return tpm2.TPM2BName{}, fmt.Errorf("seal: NV index %#08x: %w: %w", counterIndex, errNoCounter, tpmrc.Explain(err, tpmrc.None))
	}
	if err != nil {
		return tpm2.TPM2BName{}, fmt.Errorf("seal: NV index %#08x: %w", counterIndex, tpmrc.Explain(err, tpmrc.None))
	}
	public, err := rsp.NVPublic.Contents()
	if err != nil {
		return tpm2.TPM2BName{}, fmt.Errorf("seal: NV index %#08x: %w", counterIndex, err)
	}
	want, got := counterPublic, tpm2.Marshal(*public)
	if bytes.Equal(got, tpm2.Marshal(want)) {
		return tpm2.TPM2BName{}, fmt.Errorf("seal: NV index %#08x: %w", counterIndex, errNeverAdvanced)
	}
	want.Attributes.Written = true
	if !bytes.Equal(got, tpm2.Marshal(want)) {
		return tpm2.TPM2BName{}, fmt.Errorf("seal: another program uses NV index %#08x of the TPM, which Gangway needs; remove the index with 'tpm2_nvundefine', or clear the TPM in the firmware's setup", counterIndex)
	}
	name, err := tpm2.NVName(&want) // the name in the response is not authenticated
	if err != nil {
		return tpm2.TPM2BName{}, fmt.Errorf("seal: NV index %#08x: %w", counterIndex, err)
	}
	return *name, nil
}

// Counter returns the value of the TPM's counter, and makes the counter if the TPM has none. An
// interposer on the TPM's bus cannot alter the value, unless it has replaced the TPM's storage key.
func Counter(t transport.TPM) (uint64, error) {
	s, err := load(t, nil)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	return s.counter()
}

func (s *storage) counter() (uint64, error) {
	name, err := counterName(s.tpm)
	if errors.Is(err, errNoCounter) {
		define := tpm2.NVDefineSpace{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}, PublicInfo: tpm2.New2B(counterPublic)}
		if _, err := define.Execute(s.tpm); err != nil {
			return 0, fmt.Errorf("seal: making a counter in the TPM: %w", tpmrc.Explain(err, tpmrc.Owner))
		}
		_, err = counterName(s.tpm) // errNeverAdvanced
	}
	// A new counter has no value until its first increment. After any other error, an increment could
	// make the LUKS2 tokens of the disk worthless.
	if errors.Is(err, errNeverAdvanced) {
		if err := s.increment(); err != nil {
			return 0, err
		}
		name, err = counterName(s.tpm)
	}
	if err != nil {
		return 0, err
	}
	rsp, err := tpm2.NVRead{
		AuthHandle: tpm2.AuthHandle{Handle: counterIndex, Name: name, Auth: s.Authentic(false)},
		NVIndex:    tpm2.NamedHandle{Handle: counterIndex, Name: name}, Size: 8,
	}.Execute(s.tpm)
	if err != nil {
		return 0, fmt.Errorf("seal: reading the TPM's counter: %w", tpmrc.Explain(err, tpmrc.None))
	}
	if len(rsp.Data.Buffer) != 8 {
		return 0, errors.New("seal: the TPM's counter does not have 8 bytes")
	}
	return binary.BigEndian.Uint64(rsp.Data.Buffer), nil
}

// Advance increments the counter: LUKS2 tokens with a limit below the new value become worthless. If
// `key` is not empty, the TPM's storage key must have this name.
func Advance(t transport.TPM, key []byte) error {
	s, err := load(t, key)
	if err != nil {
		return err
	}
	defer s.Close()
	if _, err := counterName(t); err != nil {
		return err
	}
	return s.increment()
}

func (s *storage) increment() error {
	rsp, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(counterIndex)}.Execute(s.tpm)
	if err != nil {
		return fmt.Errorf("seal: the TPM's counter: %w", tpmrc.Explain(err, tpmrc.None))
	}
	// This name comes from a response that is not authenticated. If it is false, the TPM refuses
	// the command.
	_, err = tpm2.NVIncrement{
		AuthHandle: tpm2.AuthHandle{Handle: counterIndex, Name: rsp.NVName, Auth: s.Authentic(false)},
		NVIndex:    tpm2.NamedHandle{Handle: counterIndex, Name: rsp.NVName},
	}.Execute(s.tpm)
	if err != nil {
		return fmt.Errorf("seal: the TPM's counter: %w", tpmrc.Explain(err, tpmrc.None))
	}
	return nil
}

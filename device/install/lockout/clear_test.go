package lockout

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"gangway/device/install/seal"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// primary is the name of a hierarchy's storage key.
func primary(t *testing.T, tpm transport.TPM, hierarchy tpm2.TPMHandle, keepAt tpm2.TPMHandle) []byte {
	t.Helper()
	key, err := tpm2.CreatePrimary{PrimaryHandle: hierarchy, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = tpm2.FlushContext{FlushHandle: key.ObjectHandle}.Execute(tpm) }()
	if keepAt != 0 {
		_, err := tpm2.EvictControl{
			Auth:             tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			ObjectHandle:     tpm2.NamedHandle{Handle: key.ObjectHandle, Name: key.Name},
			PersistentHandle: keepAt,
		}.Execute(tpm)
		if err != nil {
			t.Fatal(err)
		}
	}
	return key.Name.Buffer
}

func persistent(t *testing.T, tpm transport.TPM) int {
	t.Helper()
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: 0x81000000, PropertyCount: 100}.Execute(tpm)
	if err != nil {
		t.Fatal(err)
	}
	list, err := rsp.CapabilityData.Data.Handles()
	if err != nil {
		t.Fatal(err)
	}
	return len(list.Handle)
}

func TestClearedTPMForgetsItsOwner(t *testing.T) {
	tpm := start(t)
	_, token, err := seal.New(tpm)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(token)
	if err != nil {
		t.Fatal(err)
	}
	owner, endorsement := primary(t, tpm, tpm2.TPMRHOwner, 0x81000099), primary(t, tpm, tpm2.TPMRHEndorsement, 0)
	before := persistent(t, tpm)
	if err := Clear(tpm); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.Open(tpm, raw); !errors.Is(err, seal.ErrOther) {
		t.Errorf("what was sealed opens: %v", err)
	}
	if n := persistent(t, tpm); n != 0 {
		t.Errorf("%d of %d persistent keys are left", n, before)
	}
	if bytes.Equal(primary(t, tpm, tpm2.TPMRHOwner, 0), owner) {
		t.Error("the owner's keys can be made again")
	}
	if !bytes.Equal(primary(t, tpm, tpm2.TPMRHEndorsement, 0), endorsement) {
		t.Error("the endorsement hierarchy is another one: it is no longer the same device")
	}
	if err := Clear(tpm); err != nil {
		t.Errorf("again: %v", err)
	}
}

func TestClearGuessesNoPassword(t *testing.T) {
	for name, hold := range map[string]func(*testing.T, transport.TPM){
		"a password": setPassword,
		"switched off": func(t *testing.T, tpm transport.TPM) {
			const clearControl = 0x0127 // Part 3, 24.7
			if err := command(tpm, clearControl, nil, []byte{1}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			tpm := start(t)
			owner := primary(t, tpm, tpm2.TPMRHOwner, 0)
			hold(t, tpm)
			for range 3 {
				if err := Clear(tpm); !errors.Is(err, ErrHeld) {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(primary(t, tpm, tpm2.TPMRHOwner, 0), owner) {
				t.Error("it was cleared")
			}
			if name == "a password" {
				if err := reset(tpm, []byte("theirs")); err != nil {
					t.Errorf("the password was tried: %v", err)
				}
			}
		})
	}
}

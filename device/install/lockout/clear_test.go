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

// primaryName returns the TPM name of a hierarchy's storage key. If `keepAt` is not 0, primaryName
// also makes the key persistent at the handle `keepAt`.
func primaryName(t *testing.T, tpm transport.TPM, hierarchy tpm2.TPMHandle, keepAt tpm2.TPMHandle) []byte {
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
	t.Parallel()
	tpm := start(t)
	_, token, err := seal.New(tpm)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(token)
	if err != nil {
		t.Fatal(err)
	}
	owner, endorsement := primaryName(t, tpm, tpm2.TPMRHOwner, 0x81000099), primaryName(t, tpm, tpm2.TPMRHEndorsement, 0)
	before := persistent(t, tpm)
	if err := Clear(tpm); err != nil {
		t.Fatal(err)
	}
	if _, err := seal.Open(tpm, raw); !errors.Is(err, seal.ErrNotReleased) {
		t.Errorf("the sealed key after the clear: %v; want ErrNotReleased", err)
	}
	if n := persistent(t, tpm); n != 0 {
		t.Errorf("%d of %d persistent keys are still there", n, before)
	}
	if bytes.Equal(primaryName(t, tpm, tpm2.TPMRHOwner, 0), owner) {
		t.Error("the owner hierarchy still derives the same key")
	}
	if !bytes.Equal(primaryName(t, tpm, tpm2.TPMRHEndorsement, 0), endorsement) {
		t.Error("the endorsement hierarchy has changed, so the device would get another identity")
	}
	if err := Clear(tpm); err != nil {
		t.Errorf("the second clear: %v", err)
	}
}

func TestClearGuessesNoPassword(t *testing.T) {
	t.Parallel()
	for name, hold := range map[string]func(*testing.T, transport.TPM){
		"a password": setForeignPassword,
		"switched off": func(t *testing.T, tpm transport.TPM) {
			const clearControl = 0x0127 // Part 3, 24.7
			if err := command(tpm, clearControl, nil, []byte{1}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			tpm := start(t)
			owner := primaryName(t, tpm, tpm2.TPMRHOwner, 0)
			hold(t, tpm)
			for range 3 {
				if err := Clear(tpm); !errors.Is(err, ErrNotClearable) {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(primaryName(t, tpm, tpm2.TPMRHOwner, 0), owner) {
				t.Error("the TPM was cleared")
			}
			if name == "a password" {
				if err := reset(tpm, []byte("theirs")); err != nil {
					t.Errorf("Clear tried a password: %v", err)
				}
			}
		})
	}
}

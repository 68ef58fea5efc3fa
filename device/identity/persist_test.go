package identity

import (
	"bytes"
	"errors"
	"testing"

	"gangway/internal/swtpm"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// publicAt reads the public area of the key at a persistent handle, as another program would do.
func publicAt(t *testing.T, address string, handle uint32) *tpm2.ReadPublicResponse {
	t.Helper()
	link, err := linuxudstpm.Open(address[len("unix:"):])
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	rsp, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(handle)}.Execute(link)
	if err != nil {
		return nil
	}
	return rsp
}

func TestKeptKeyIsTheSameKeyWithTheSameAttributes(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []Algorithm{P256, P384, RSA2048} {
		t.Run(string(algorithm), func(t *testing.T) {
			t.Parallel()
			s := startTPM(t, swtpm.RSA2048)
			tpm, err := Open(s.Address())
			if err != nil {
				t.Fatal(err)
			}
			defer tpm.Close()
			signer, err := LoadSigner(t.Context(), tpm, Options{Algorithm: algorithm})
			if err != nil {
				t.Fatal(err)
			}
			defer signer.Close()
			for range 2 { // the second time, the key is already there
				at, err := signer.Keep(t.Context(), 0)
				if err != nil || at != FirstDevIDHandle {
					t.Fatalf("0x%08X, %v", at, err)
				}
			}
			kept := publicAt(t, s.Address(), FirstDevIDHandle)
			if kept == nil || !bytes.Equal(kept.OutPublic.Bytes(), signer.IDevID.Raw) || !bytes.Equal(kept.Name.Buffer, signer.IDevIDName) {
				t.Fatal("another public area is at the handle")
			}
			if n, err := signer.Drop(t.Context(), 0); err != nil || n != 1 {
				t.Errorf("%d dropped, %v", n, err)
			}
			if publicAt(t, s.Address(), FirstDevIDHandle) != nil {
				t.Error("it is still there")
			}
			if n, err := signer.Drop(t.Context(), 0); err != nil || n != 0 {
				t.Errorf("%d dropped, %v", n, err)
			}
		})
	}
}

func TestKeepAndDropLeaveOtherKeysAlone(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.RSA2048)
	tpm, err := Open(s.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer tpm.Close()
	other, err := LoadSigner(t.Context(), tpm, Options{Algorithm: P384})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := other.Keep(t.Context(), FirstDevIDHandle); err != nil {
		t.Fatal(err)
	}
	signer, err := LoadSigner(t.Context(), tpm, Options{Algorithm: P256})
	if err != nil {
		t.Fatal(err)
	}
	defer signer.Close()
	if _, err := signer.Keep(t.Context(), FirstDevIDHandle); !errors.Is(err, ErrHandleTaken) {
		t.Errorf("another key's handle: %v", err)
	}
	if at, err := signer.Keep(t.Context(), 0); err != nil || at != FirstDevIDHandle+1 {
		t.Errorf("0x%08X, %v", at, err)
	}
	for _, handle := range []uint32{0x81010001, 0x81030000, 0x01C00002, 0x80000000} {
		if _, err := signer.Keep(t.Context(), handle); err == nil {
			t.Errorf("0x%08X: kept", handle)
		}
	}
	if n, err := signer.Drop(t.Context(), FirstDevIDHandle); err != nil || n != 0 {
		t.Errorf("%d dropped of another key's handle, %v", n, err)
	}
	if n, err := signer.Drop(t.Context(), 0); err != nil || n != 1 {
		t.Errorf("%d dropped, %v", n, err)
	}
	if publicAt(t, s.Address(), FirstDevIDHandle) == nil {
		t.Error("the other key is gone")
	}
}

func TestKeepSaysThatTheOwnerHasAPassword(t *testing.T) {
	t.Parallel()
	s := startTPM(t, swtpm.RSA2048)
	link, err := linuxudstpm.Open(s.Address()[len("unix:"):])
	if err != nil {
		t.Fatal(err)
	}
	_, err = tpm2.HierarchyChangeAuth{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		NewAuth:    tpm2.TPM2BAuth{Buffer: []byte("the owner's")},
	}.Execute(link)
	link.Close()
	if err != nil {
		t.Fatal(err)
	}
	tpm, err := Open(s.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer tpm.Close()
	signer, err := LoadSigner(t.Context(), tpm, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer signer.Close()
	if _, err := signer.Keep(t.Context(), 0); !errors.Is(err, ErrOwnerAuth) {
		t.Errorf("%v", err)
	}
}

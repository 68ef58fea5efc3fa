package identity

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// Persistent handles that the TCG reserves for device identities and attestation keys (Registry of
// Reserved TPM 2.0 Handles and Localities). The method Keep uses the first keepRange of them.
const (
	FirstDevIDHandle = 0x81020000
	LastDevIDHandle  = 0x8102FFFF
	keepRange        = 16
)

// ErrHandleTaken means that another key is at the persistent handle.
var ErrHandleTaken = errors.New("identity: another key is at that persistent handle; choose another handle with --handle")

// ErrOwnerAuth means that the TPM's owner hierarchy has a password. Storing a key requires this
// password, and this package does not ask for it.
var ErrOwnerAuth = errors.New("identity: storing a key requires the password of the TPM's owner hierarchy: store it with tpm2_evictcontrol")

// Keep makes the IDevID key persistent (TPM2_EvictControl), for programs that need a handle, and
// returns the handle. If `handle` is 0, Keep chooses the handle: the persistent handle that the key
// already has or, if there is none, the first free handle from FirstDevIDHandle on.
//
// Every program that can access the TPM can use the persistent key. Keep does not make this any
// easier for an attacker, because such a program could also make the key from its template.
// TPM2_Clear removes the persistent key.
//
// If another key is at the handle, the error is ErrHandleTaken. If the owner hierarchy has a
// password, the error is ErrOwnerAuth.
func (s *Signer) Keep(ctx context.Context, handle uint32) (uint32, error) {
	if handle != 0 && (handle < FirstDevIDHandle || handle > LastDevIDHandle) {
		return 0, fmt.Errorf("identity: the handle 0x%08X is not for device identities; use 0x%08X to 0x%08X", handle, uint32(FirstDevIDHandle), uint32(LastDevIDHandle))
	}
	end, err := s.ring.begin(ctx, OpMakeKeys)
	if err != nil {
		return 0, err
	}
	defer end()
	at, there, err := s.kept(handle)
	if err != nil || there {
		return at, err
	}
	err = s.ring.attempt([]*key{s.key}, func() error { return s.evict(s.key.handle, at) })
	return at, s.ring.explain(err)
}

// Drop removes the IDevID key from the persistent handle `handle`. If `handle` is 0, Drop removes
// the key from all handles that Keep may choose. It returns the number of handles from which it
// removed the key, and never removes another key.
func (s *Signer) Drop(ctx context.Context, handle uint32) (int, error) {
	end, err := s.ring.begin(ctx, OpRelease)
	if err != nil {
		return 0, err
	}
	defer end()
	handles := []uint32{handle}
	if handle == 0 {
		handles = handles[:0]
		for h := uint32(FirstDevIDHandle); h < FirstDevIDHandle+keepRange; h++ {
			handles = append(handles, h)
		}
	}
	n := 0
	for _, h := range handles {
		name, err := s.nameAt(h)
		if err != nil {
			return n, err
		}
		if !bytes.Equal(name, s.IDevIDName) {
			continue
		}
		if err := s.evict(h, h); err != nil {
			return n, s.ring.explain(err)
		}
		n++
	}
	return n, nil
}

// The method `kept` returns the persistent handle that Keep should use, and whether the IDevID key
// is already at that handle.
func (s *Signer) kept(handle uint32) (at uint32, there bool, err error) {
	first, last := handle, handle
	if handle == 0 {
		first, last = FirstDevIDHandle, FirstDevIDHandle+keepRange-1
	}
	for h := first; h <= last; h++ {
		name, err := s.nameAt(h)
		switch {
		case err != nil:
			return 0, false, err
		case bytes.Equal(name, s.IDevIDName):
			return h, true, nil
		case name == nil && at == 0:
			at = h
		}
	}
	if at == 0 {
		return 0, false, fmt.Errorf("%w: 0x%08X to 0x%08X", ErrHandleTaken, first, last)
	}
	return at, false, nil
}

// nameAt returns the TPM name of the object at a persistent handle, or nil if the handle is free.
func (s *Signer) nameAt(handle uint32) ([]byte, error) {
	rsp, err := run(s.ring.t, tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(handle)})
	if err != nil && isGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return rsp.Name.Buffer, nil
}

// evict copies the key at the handle `from` to the persistent handle `to`. If both handles are the
// same, evict removes the key from that handle.
func (s *Signer) evict(from, to uint32) error {
	_, err := run(s.ring.t, tpm2.EvictControl{
		Auth:             tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		ObjectHandle:     &tpm2.NamedHandle{Handle: tpm2.TPMHandle(from), Name: tpm2.TPM2BName{Buffer: s.IDevIDName}},
		PersistentHandle: tpm2.TPMHandle(to),
	})
	if errors.Is(err, tpm2.TPMRCBadAuth) || errors.Is(err, tpm2.TPMRCAuthFail) {
		return fmt.Errorf("%w (0x%08X): %w", ErrOwnerAuth, to, err)
	}
	return err
}

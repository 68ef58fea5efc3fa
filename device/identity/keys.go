package identity

import (
	"bytes"
	"errors"
	"fmt"

	"gangway/tcg"

	"github.com/google/go-tpm/tpm2"
)

// key is a key in the TPM, either a primary key or a persistent key. The package makes a primary
// key when an operation needs it, and may flush it at any time.
type key struct {
	template   tcg.Template
	public     *tcg.Public // nil until the key is made for the first time
	name       []byte
	handle     uint32 // 0: not loaded
	generation int    // value of TPM.generation when `handle` was made
	persistent bool
}

// The method `with` returns the key as a go-tpm handle that is authorised by the session s.
func (k *key) with(s tpm2.Session) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: tpm2.TPMHandle(k.handle), Name: tpm2.TPM2BName{Buffer: k.name}, Auth: s}
}

// ring contains the keys of one Identity or of one Signer. Call its methods only during an
// operation, which holds t.mu.
type ring struct {
	t       *TPM
	endAuth []byte // authorisation value of the endorsement hierarchy
	keys    []*key
	closed  bool
}

// The method `attempt` loads the keys and calls the function `f`. If the TPM has no room, attempt
// flushes other objects and retries. If the TPM lost the keys in a reset, attempt makes them again
// and retries. So `f` may run several times. If `f` fails, attempt flushes every object and session
// that `f` left in the TPM.
func (r *ring) attempt(keys []*key, f func() error) error {
	const tries = 4 // the first try, and a retry after: flushing own keys, sweep, reset of the TPM
	for try := 1; ; try++ {
		err := r.load(keys)
		if err == nil && f != nil {
			err = f()
		}
		if err == nil {
			return nil
		}
		full := isFull(err)
		gone := isGone(err) || !full && r.t.sole && r.swapped(err, keys)
		if gone {
			r.t.forget()
		}
		tidied := r.t.tidy()
		if try == tries || !gone && !(full && r.makeRoom(keys)) {
			return errors.Join(err, tidied)
		}
	}
}

// The method `swapped` is called after the TPM refused a command. It reports whether a handle now
// refers to another key, because another process that uses the same socket may have flushed this
// package's keys and loaded its own.
func (r *ring) swapped(err error, keys []*key) bool {
	var rc tpm2.TPMRC
	if !errors.As(err, &rc) {
		return false
	}
	refused := r.t.refused
	defer func() { r.t.refused = refused }()
	for _, k := range keys {
		if k.handle == 0 || k.persistent || k.generation != r.t.generation {
			continue
		}
		rsp, err := run(r.t, tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(k.handle)})
		if err != nil && isGone(err) || err == nil && !bytes.Equal(rsp.Name.Buffer, k.name) {
			return true
		}
	}
	return false
}

// The method `load` makes the keys that are not loaded.
func (r *ring) load(keys []*key) error {
	for _, k := range keys {
		if k.persistent || k.handle != 0 && k.generation == r.t.generation {
			continue
		}
		if err := r.create(k); err != nil {
			return err
		}
	}
	return nil
}

// create makes a primary key in the endorsement hierarchy. It checks that the returned key matches
// the template. If the key was made before, create also checks that the TPM made the same key.
func (r *ring) create(k *key) error {
	k.handle = 0
	rsp, err := run(r.t, tpm2.CreatePrimary{
		PrimaryHandle: r.endorsement(),
		InPublic:      tpm2.BytesAs2B[tpm2.TPMTPublic](k.template.Public.Raw),
	})
	if err != nil {
		return err
	}
	public, name, err := parsePublic(rsp.OutPublic.Bytes(), rsp.Name.Buffer)
	if err != nil {
		return fmt.Errorf("TPM2_CreatePrimary: %w", err)
	}
	if !k.template.Matches(public) {
		return errors.New("TPM2_CreatePrimary: the TPM returned a key that does not match the template")
	}
	if k.public != nil && !bytes.Equal(k.name, name) {
		return ErrKeyChanged
	}
	handle := uint32(rsp.ObjectHandle)
	if _, made := r.t.handles[handle]; !made || handle>>24 != htTransient {
		return fmt.Errorf("TPM2_CreatePrimary: the TPM returned 0x%08X, which is not the handle of a transient object", handle)
	}
	r.t.handles[handle] = true
	k.public, k.name, k.handle, k.generation = public, name, handle, r.t.generation
	return nil
}

// parsePublic parses a public area and checks the name that the TPM returned with it.
func parsePublic(raw, name []byte) (*tcg.Public, []byte, error) {
	public, err := tcg.ParsePublic(bytes.Clone(raw))
	if err != nil {
		return nil, nil, err
	}
	if _, err := public.Key(); err != nil {
		return nil, nil, err
	}
	own, err := public.Name()
	if err != nil {
		return nil, nil, err
	}
	if !bytes.Equal(own, name) {
		return nil, nil, errors.New("the key's name is not the hash of its public area")
	}
	return public, own, nil
}

// release flushes a key. The next operation that needs the key makes the key again.
func (r *ring) release(k *key) error {
	if k.handle == 0 || k.persistent {
		return nil
	}
	handle := k.handle
	k.handle = 0
	if k.generation != r.t.generation {
		return nil
	}
	r.t.handles[handle] = false
	return r.t.flush(handle)
}

// makeRoom flushes objects to make room for keys, and reports whether it flushed any. It first
// flushes the ring's keys that are not in `keep`. If there are no such keys and only this package
// uses the TPM, makeRoom flushes the objects of dead processes.
func (r *ring) makeRoom(keep []*key) bool {
	freed := false
	for _, k := range r.keys {
		kept := false
		for _, other := range keep {
			kept = kept || k == other
		}
		if !kept && k.handle != 0 && !k.persistent && k.generation == r.t.generation {
			freed = r.release(k) == nil || freed
		}
	}
	if freed || !r.t.sole {
		return freed
	}
	n, err := r.t.sweep()
	return n > 0 && err == nil
}

// close flushes all keys.
func (r *ring) close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	for _, k := range r.keys {
		if k.handle != 0 && !k.persistent && k.generation == r.t.generation {
			r.t.handles[k.handle] = false
		}
		k.handle = 0
	}
	return r.t.tidy()
}

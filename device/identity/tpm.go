package identity

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// TPM is an open TPM 2.0. It is safe for concurrent use; operations run one at a time.
type TPM struct {
	link    link
	managed bool // behind a resource manager, which flushes this package's objects when the link is closed
	sole    bool // on a socket: all loaded objects belong to this package or to a dead process

	mu     sync.Mutex // held during an operation; guards the fields below
	ctx    context.Context
	closed bool
	// handles are the transient objects and sessions that this package made and has not
	// flushed yet. The value is true while a key owns the handle.
	handles map[uint32]bool
	// The field `lost` is set when the response to a command that makes a handle was lost, so that
	// the TPM may hold an object with an unknown handle.
	lost bool
	// generation increases when existing handles may have become invalid.
	generation int
	refused    uint32 // code of the last command that the TPM answered with an error
	nvChunk    uint16 // maximum size of one NV_Read, in bytes

	operation Operation // guarded by mu. The method `count` reads it; count's caller holds mu.
	statsMu   sync.Mutex
	stats     Stats
}

func newTPM(l link, managed, sole bool) *TPM {
	return &TPM{link: l, managed: managed, sole: sole, handles: make(map[uint32]bool), nvChunk: nvChunks[0]}
}

// begin starts an operation. The returned function ends it.
func (t *TPM) begin(ctx context.Context, op Operation) (end func(), err error) {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil, ErrClosed
	}
	t.ctx, t.operation = ctx, op
	return func() {
		t.link.idle()
		t.ctx = nil
		t.mu.Unlock()
	}, nil
}

// Close flushes every object and session that was made through t, and closes t. A second Close does
// nothing.
func (t *TPM) Close() error {
	end, err := t.begin(context.Background(), OpRelease)
	if err != nil {
		return nil
	}
	defer end()
	t.forget()
	var tidied error
	if !t.managed { // a resource manager flushes the objects itself
		tidied = t.tidy()
	}
	t.closed = true
	return errors.Join(tidied, t.link.close())
}

// forget marks all handles as not owned by a key, because some of them have become invalid. The
// method `tidy` then flushes those that are still valid.
func (t *TPM) forget() {
	for h := range t.handles {
		t.handles[h] = false
	}
	t.generation++
}

// wire makes the TPM usable as a transport for go-tpm. Use it only during an operation.
type wire struct{ t *TPM }

// Send sends one marshalled command and returns its response. If the TPM is busy, Send retries for
// some seconds.
func (w wire) Send(cmd []byte) ([]byte, error) {
	t := w.t
	if len(cmd) < 10 {
		return nil, errors.New("identity: the command is too short for a header")
	}
	wait := 2 * time.Millisecond
	for again := false; ; again = true {
		rsp, err := t.send(cmd, again)
		if err != nil {
			return nil, err
		}
		switch tpm2.TPMRC(binary.BigEndian.Uint32(rsp[6:])) {
		case tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting:
		default:
			return rsp, nil
		}
		if wait > 3*time.Second {
			return rsp, nil // the retries took more than 4 seconds in all
		}
		select {
		case <-t.ctx.Done():
			return nil, t.ctx.Err()
		case <-time.After(wait):
		}
		wait *= 2
	}
}

func (t *TPM) send(cmd []byte, again bool) ([]byte, error) {
	if err := t.ctx.Err(); err != nil {
		return nil, err
	}
	code := binary.BigEndian.Uint32(cmd[6:])
	c := commandOf(code)
	start := time.Now()
	rsp, err := t.link.exchange(t.ctx, cmd, c.limit)
	t.count(code, time.Since(start), again)
	if err == nil {
		err = checkResponse(rsp)
	}
	if err != nil {
		t.broken(c)
		return nil, err
	}
	t.track(code, c, cmd, rsp)
	return rsp, nil
}

// checkResponse checks a response's header (Part 1, 18.2).
func checkResponse(rsp []byte) error {
	if len(rsp) < 10 {
		return fmt.Errorf("identity: the response has %d bytes, fewer than a TPM's header; check that the address belongs to a TPM 2.0", len(rsp))
	}
	tag, size := binary.BigEndian.Uint16(rsp), binary.BigEndian.Uint32(rsp[2:])
	if tag == tagRspCommand12 {
		return ErrTPM12
	}
	if tag != tagNoSessions && tag != tagSessions || uint64(size) != uint64(len(rsp)) {
		return fmt.Errorf("identity: the response is malformed (its tag is 0x%04X; it has %d bytes, and its header says %d); check that the address belongs to a TPM 2.0", tag, len(rsp), size)
	}
	return nil
}

// The method `broken` records that the response to the command c was lost.
func (t *TPM) broken(c command) {
	if t.managed {
		// Closing the link makes the resource manager flush this package's handles.
		t.link.close()
		clear(t.handles)
		t.generation++
		return
	}
	t.link.idle()
	t.lost = t.lost || c.makes
}

// track updates t.handles after a command: it adds the handles that the command made, and removes
// those that the command flushed.
func (t *TPM) track(code uint32, c command, cmd, rsp []byte) {
	if binary.BigEndian.Uint32(rsp[6:]) != 0 {
		t.refused = code
		return
	}
	switch {
	case c.makes && len(rsp) >= 14:
		handle := binary.BigEndian.Uint32(rsp[10:])
		if t.handles[handle] {
			t.forget() // the TPM reused a handle that was in use, so the TPM was reset
		}
		t.handles[handle] = false
	case c.makes:
		t.lost = true
	case code == ccFlushContext && len(cmd) >= 14:
		delete(t.handles, binary.BigEndian.Uint32(cmd[10:]))
	}
	for _, h := range endedSessions(cmd) {
		delete(t.handles, h)
	}
}

// run executes one TPM command.
func run[R any](t *TPM, cmd tpm2.Command[R, *R], sessions ...tpm2.Session) (rsp *R, err error) {
	name := commandOf(uint32(cmd.Command())).name
	err = guarded(func() (err error) {
		rsp, err = cmd.Execute(wire{t}, sessions...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("TPM2_%s: %w", name, err)
	}
	return rsp, nil
}

// The function `guarded` calls `f`, which decodes a response with go-tpm's reflection. If `f`
// panics because the response is unexpected, guarded returns an error.
func guarded(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("unreadable response: %v", r)
		}
	}()
	return f()
}

// marshalSignature returns the TPMT_SIGNATURE of a response in its TPM encoding.
func marshalSignature(s tpm2.TPMTSignature) (raw []byte, err error) {
	err = guarded(func() error { raw = tpm2.Marshal(s); return nil })
	return raw, err
}

// The method `flush` flushes one handle. If the link fails, flush tries once more. A handle that no
// longer exists is not an error.
func (t *TPM) flush(handle uint32) error {
	var err error
	for range 2 {
		_, err = run(t, tpm2.FlushContext{FlushHandle: tpm2.TPMHandle(handle)})
		var rc tpm2.TPMRC
		if err == nil || errors.As(err, &rc) {
			break
		}
	}
	if err != nil && !isGone(err) {
		return fmt.Errorf("identity: flushing 0x%08X: %w", handle, err)
	}
	delete(t.handles, handle)
	return nil
}

// tidyTimeout limits the time for the cleanup after a failure. It is long because the TPM may first
// have to finish making a key for a command that was cancelled.
const tidyTimeout = time.Minute

// tidy flushes the handles that failed commands left in the TPM, and that no key owns. It continues
// even if the operation's context has ended.
func (t *TPM) tidy() error {
	ctx, op := t.ctx, t.operation
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyTimeout)
	defer cancel()
	t.ctx, t.operation = limited, OpRelease
	defer func() { t.ctx, t.operation = ctx, op }()
	var errs []error
	for h, owned := range t.handles {
		if !owned {
			errs = append(errs, t.flush(h))
		}
	}
	if t.lost && t.sole {
		_, err := t.sweep()
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// sweep flushes every transient object and loaded session that no key owns, including those of
// other processes, and returns the number of flushed handles. Call it only if no other program
// uses the TPM.
func (t *TPM) sweep() (int, error) {
	n := 0
	var errs []error
	for _, kind := range []uint32{htTransient, htHMACSession} { // htHMACSession lists all loaded sessions
		handles, err := t.listHandles(kind<<24, func(uint32) bool { return true })
		if err != nil { // try once more, on a new link
			handles, err = t.listHandles(kind<<24, func(uint32) bool { return true })
		}
		errs = append(errs, err)
		for _, h := range handles {
			if !t.handles[h] {
				n++
				errs = append(errs, t.flush(h))
			}
		}
	}
	err := errors.Join(errs...)
	if err == nil {
		t.lost = false
	}
	return n, err
}

// listHandles returns the handles that have the same type as `first` and are not smaller, in
// ascending order. It stops before the first handle for which `keep` returns false. If the TPM
// returns the list in several responses, listHandles asks for all of them.
func (t *TPM) listHandles(first uint32, keep func(uint32) bool) ([]uint32, error) {
	const page = 254 // maximum number of handles in one response (MAX_CAP_BUFFER)
	var out []uint32
	for {
		rsp, err := run(t, tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: page})
		if err != nil {
			return nil, err
		}
		var list *tpm2.TPMLHandle
		err = guarded(func() (err error) { list, err = rsp.CapabilityData.Data.Handles(); return err })
		if err != nil || list == nil {
			return nil, fmt.Errorf("TPM2_GetCapability: the response has no list of handles (%v)", err)
		}
		for _, h := range list.Handle {
			if uint32(h) < first {
				return nil, errors.New("TPM2_GetCapability: the handles are not in order")
			}
			if !keep(uint32(h)) {
				return out, nil
			}
			out = append(out, uint32(h))
		}
		if !rsp.MoreData || len(list.Handle) == 0 {
			return slices.Compact(out), nil
		}
		if len(out) > 4096 {
			return nil, errors.New("TPM2_GetCapability: the TPM lists too many handles")
		}
		first = out[len(out)-1] + 1
	}
}

// Raw calls `f` with the TPM as a transport for go-tpm. No other operation runs while `f` runs.
// When `f` returns, Raw flushes the objects that `f` made.
func (t *TPM) Raw(ctx context.Context, f func(transport.TPM) error) error {
	end, err := t.begin(ctx, OpRelease)
	if err != nil {
		return err
	}
	defer end()
	return errors.Join(f(wire{t}), t.tidy())
}

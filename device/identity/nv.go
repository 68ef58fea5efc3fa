package identity

import (
	"errors"
	"fmt"
	"slices"

	"gangway/device/identity/tpmrc"

	"github.com/google/go-tpm/tpm2"
)

// nvChunks are the sizes that NV_Read tries, in bytes. Most TPMs return up to 1024 bytes in one
// response, some only 768 or 512. Asking the TPM for its limit (TPM_PT_NV_BUFFER_MAX) would take
// one more command on every TPM.
var nvChunks = []uint16{1024, 768, 512, 256}

// maxNV is the maximum size of an NV index, in bytes. readNV refuses larger NV indices.
const maxNV = 16 << 10

// readNV reads a whole NV index. It uses an empty password for the first authorisation that the
// index's attributes allow: the index's own, the owner's or the platform's. If dictionary attack
// protection applies to the index's own authorisation, readNV tries that one last (see "Lockout" in
// the package comment). An error about the index itself is a verdict, or becomes one when it is
// passed to the function `judged`.
func (t *TPM) readNV(index uint32) ([]byte, error) {
	rsp, err := run(t, tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(index)})
	if err != nil {
		return nil, fmt.Errorf("NV index 0x%08X: %w", index, err)
	}
	var public *tpm2.TPMSNVPublic
	if err := guarded(func() (err error) { public, err = rsp.NVPublic.Contents(); return err }); err != nil {
		return nil, verdict{error: fmt.Errorf("NV index 0x%08X: unreadable public area: %w", index, err)}
	}
	if public.DataSize > maxNV {
		return nil, verdict{error: fmt.Errorf("NV index 0x%08X has %d bytes; the limit is %d", index, public.DataSize, maxNV)}
	}
	nv := tpm2.NamedHandle{Handle: tpm2.TPMHandle(index), Name: rsp.NVName}
	var auths []tpm2.NamedHandle
	for _, a := range []struct {
		allowed bool
		handle  tpm2.TPMHandle
	}{{public.Attributes.OwnerRead, tpm2.TPMRHOwner}, {public.Attributes.PPRead, tpm2.TPMRHPlatform}} {
		if a.allowed {
			auths = append(auths, tpm2.NamedHandle{Handle: a.handle, Name: tpm2.HandleName(a.handle)})
		}
	}
	switch {
	case public.Attributes.AuthRead && public.Attributes.NoDA:
		auths = slices.Insert(auths, 0, nv)
	case public.Attributes.AuthRead: // last: a power loss after the use of this authorisation would count as a wrong guess
		auths = append(auths, nv)
	}
	err = verdict{error: errors.New("the index's attributes allow reading only with a policy, which only the TPM's maker can satisfy")}
	for _, auth := range auths {
		var data []byte
		if data, err = t.readNVWith(auth, nv, public.DataSize); err == nil {
			return data, nil
		}
		if auth.Handle == tpm2.TPMRHOwner {
			err = tpmrc.Explain(err, tpmrc.Owner)
		}
		if !isDenied(err) {
			break
		}
	}
	return nil, fmt.Errorf("NV index 0x%08X: %w", index, err)
}

func (t *TPM) readNVWith(auth, nv tpm2.NamedHandle, size uint16) ([]byte, error) {
	data := make([]byte, 0, size)
	for len(data) < int(size) {
		want := min(t.nvChunk, size-uint16(len(data)))
		rsp, err := run(t, tpm2.NVRead{AuthHandle: auth, NVIndex: nv, Size: want, Offset: uint16(len(data))})
		if err != nil && want > nvChunks[len(nvChunks)-1] && isTooLong(err) {
			t.nvChunk = nextChunk(want)
			continue
		}
		if err != nil {
			return nil, err
		}
		if len(rsp.Data.Buffer) == 0 || len(rsp.Data.Buffer) > int(want) {
			return nil, verdict{error: fmt.Errorf("TPM2_NV_Read returned %d bytes of %d", len(rsp.Data.Buffer), want)}
		}
		data = append(data, rsp.Data.Buffer...)
	}
	return data, nil
}

// nextChunk returns the largest size in nvChunks below `n`.
func nextChunk(n uint16) uint16 {
	for _, c := range nvChunks {
		if c < n {
			return c
		}
	}
	return nvChunks[len(nvChunks)-1]
}

// isTooLong reports whether the TPM refused an NV_Read because it asked for too many bytes.
func isTooLong(err error) bool {
	return errors.Is(err, tpm2.TPMRCValue) || errors.Is(err, tpm2.TPMRCSize) || errors.Is(err, tpm2.TPMRCNVRange)
}

// isDenied reports whether the TPM refused an authorisation. Another authorisation may then work.
func isDenied(err error) bool {
	for _, rc := range []tpm2.TPMRC{
		tpm2.TPMRCAuthFail, tpm2.TPMRCBadAuth, tpm2.TPMRCNVAuthorization, tpm2.TPMRCAuthType,
		tpm2.TPMRCAuthUnavailable, tpm2.TPMRCHierarchy, tpm2.TPMRCLockout,
	} {
		if errors.Is(err, rc) {
			return true
		}
	}
	return false
}

package swtpm

import (
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// nvChunk is the number of bytes that WriteNV sends in one TPM2_NV_Write.
const nvChunk = 512

// WriteNV writes exactly the bytes `data` to an NV index, as the maker of the machine would. It
// first removes an existing index. The platform hierarchy owns the new index. The index has the
// attributes of an EK certificate's index (EK profile 5.2). A reader needs either owner
// authorisation or the index's own authorisation, which is empty.
func (t *TPM) WriteNV(index uint32, data []byte) error {
	if err := t.DeleteNV(index); err != nil {
		return err
	}
	return t.DefineNV(index, data, tpm2.TPMANV{
		PPWrite: true, OwnerRead: true, AuthRead: true, PPRead: true, NoDA: true, PlatformCreate: true,
	})
}

// DefineNV defines an NV index with these attributes and writes the bytes `data` to the index. The
// index must not exist yet. The attributes must include PPWrite and PlatformCreate.
func (t *TPM) DefineNV(index uint32, data []byte, attributes tpm2.TPMANV) error {
	link, err := linuxudstpm.Open(t.socket)
	if err != nil {
		return fmt.Errorf("swtpm: %w", err)
	}
	defer link.Close()
	public := tpm2.TPMSNVPublic{
		NVIndex: tpm2.TPMHandle(index), NameAlg: tpm2.TPMAlgSHA256, Attributes: attributes, DataSize: uint16(len(data)),
	}
	if _, err := (tpm2.NVDefineSpace{AuthHandle: tpm2.TPMRHPlatform, PublicInfo: tpm2.New2B(public)}).Execute(link); err != nil {
		return fmt.Errorf("swtpm: defining NV index 0x%08X of %d bytes: %w", index, len(data), err)
	}
	for at := 0; at < len(data); at += nvChunk {
		name, err := nvName(link, index)
		if err != nil {
			return err
		}
		_, err = tpm2.NVWrite{
			AuthHandle: tpm2.TPMRHPlatform,
			NVIndex:    tpm2.NamedHandle{Handle: tpm2.TPMHandle(index), Name: name},
			Data:       tpm2.TPM2BMaxNVBuffer{Buffer: data[at:min(at+nvChunk, len(data))]},
			Offset:     uint16(at),
		}.Execute(link)
		if err != nil {
			return fmt.Errorf("swtpm: writing NV index 0x%08X: %w", index, err)
		}
	}
	return nil
}

// DeleteNV removes an NV index. DeleteNV returns no error if the index does not exist.
func (t *TPM) DeleteNV(index uint32) error {
	link, err := linuxudstpm.Open(t.socket)
	if err != nil {
		return fmt.Errorf("swtpm: %w", err)
	}
	defer link.Close()
	name, err := nvName(link, index)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = tpm2.NVUndefineSpace{
		AuthHandle: tpm2.TPMRHPlatform,
		NVIndex:    tpm2.NamedHandle{Handle: tpm2.TPMHandle(index), Name: name},
	}.Execute(link)
	if err != nil {
		return fmt.Errorf("swtpm: removing NV index 0x%08X: %w", index, err)
	}
	return nil
}

// EvictHandle removes a persistent key, so that the TPM looks like one whose maker did not store
// the key.
func (t *TPM) EvictHandle(handle uint32) error {
	link, err := linuxudstpm.Open(t.socket)
	if err != nil {
		return fmt.Errorf("swtpm: %w", err)
	}
	defer link.Close()
	pub, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(handle)}.Execute(link)
	if err != nil {
		return fmt.Errorf("swtpm: reading persistent key 0x%08X: %w", handle, err)
	}
	key := tpm2.NamedHandle{Handle: tpm2.TPMHandle(handle), Name: pub.Name}
	// Try both authorisations: a key that the platform made needs the platform's authorisation.
	var last error
	for _, auth := range []tpm2.TPMHandle{tpm2.TPMRHOwner, tpm2.TPMRHPlatform} {
		if _, last = (tpm2.EvictControl{Auth: auth, ObjectHandle: &key, PersistentHandle: tpm2.TPMHandle(handle)}).Execute(link); last == nil {
			return nil
		}
	}
	return fmt.Errorf("swtpm: removing persistent key 0x%08X: %w", handle, last)
}

func nvName(link transport.TPM, index uint32) (tpm2.TPM2BName, error) {
	rsp, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(index)}.Execute(link)
	if err != nil {
		return tpm2.TPM2BName{}, fmt.Errorf("swtpm: reading NV index 0x%08X: %w", index, err)
	}
	return rsp.NVName, nil
}

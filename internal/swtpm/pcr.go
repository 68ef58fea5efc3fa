package swtpm

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// ExtendPCR extends a PCR of the SHA-256 bank with a digest, as firmware does.
func (t *TPM) ExtendPCR(pcr uint32, digest []byte) error {
	link, err := linuxudstpm.Open(t.socket)
	if err != nil {
		return fmt.Errorf("swtpm: %w", err)
	}
	defer link.Close()
	_, err = tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: digest}}},
	}.Execute(link)
	if err != nil {
		return fmt.Errorf("swtpm: extending PCR %d: %w", pcr, err)
	}
	return nil
}

// Open connects to the TPM's command socket, as other programs do.
func (t *TPM) Open() (transport.TPMCloser, error) {
	link, err := linuxudstpm.Open(t.socket)
	if err != nil {
		return nil, fmt.Errorf("swtpm: %w", err)
	}
	return link, nil
}

// AllocateBank configures the TPM to have only one PCR bank (TPM2_PCR_Allocate, Part 3, 22.5), as
// the setup menu of firmware does, and restarts the TPM.
func (t *TPM) AllocateBank(ctx context.Context, bank tpm2.TPMAlgID) error {
	const pcrAllocate = 0x0000012B
	be := binary.BigEndian
	all := []tpm2.TPMAlgID{tpm2.TPMAlgSHA1, tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384, tpm2.TPMAlgSHA512}
	selection := be.AppendUint32(nil, uint32(len(all)))
	for _, alg := range all {
		selection = be.AppendUint16(selection, uint16(alg))
		if alg == bank {
			selection = append(selection, 3, 0xFF, 0xFF, 0xFF)
		} else {
			selection = append(selection, 3, 0, 0, 0)
		}
	}
	if err := t.platform(pcrAllocate, selection); err != nil {
		return err
	}
	return t.Restart(ctx)
}

package swtpm

import (
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

// Open connects to the TPM in the same way as any other user of the TPM.
func (t *TPM) Open() (transport.TPMCloser, error) {
	link, err := linuxudstpm.Open(t.socket)
	if err != nil {
		return nil, fmt.Errorf("swtpm: %w", err)
	}
	return link, nil
}

package identity

import (
	"fmt"

	"gangway/tcg"
)

// maxChain is the maximum size of the maker's certificate chain, in bytes.
const maxChain = 48 << 10

// readChain reads the TPM maker's intermediate certificates (EK profile 2.2.1.5) from the NV
// indices, in order. tcg.SplitCertificates describes the layout of these indices. `leaf` is the EK
// certificate, or nil if there is none. If a part of the chain is unreadable, readChain returns the
// rest and a note, because the rest may be enough for the hub.
func (t *TPM) readChain(indices []uint32, leaf []byte) (chain [][]byte, notes []string) {
	var parts [][]byte
	total := 0
	for _, index := range indices {
		if index < tcg.ChainFirst || index > tcg.ChainLast {
			continue
		}
		data, err := t.readNV(index)
		if err != nil {
			notes = append(notes, fmt.Sprintf("Reading the maker's certificate chain failed: %v.", err))
			if !isVerdict(judged(err)) {
				break // the TPM does not answer, so reading the next index would fail too
			}
			data = nil
		}
		if total += len(data); total > maxChain {
			notes = append(notes, "The maker's certificate chain is longer than any known chain; the device sent only its beginning.")
			break
		}
		parts = append(parts, data)
	}
	chain, lost := tcg.SplitCertificates(parts...)
	if lost > 0 {
		notes = append(notes, fmt.Sprintf("The maker's certificate chain has %d bytes that are not a certificate.", lost))
	}
	if len(chain) > tcg.MaxIntermediates {
		notes = append(notes, fmt.Sprintf("The maker's certificate chain has %d certificates; only those that may belong to the EK certificate are used.", len(chain)))
		chain = tcg.PickChain(leaf, chain)
	}
	return chain, notes
}

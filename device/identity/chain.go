package identity

import (
	"fmt"

	"gangway/tcg"
)

// maxChain bounds what is read of the maker's chain, in bytes.
const maxChain = 48 << 10

// readChain reads the maker's intermediate certificates (EK profile 2.2.1.5)
// from the indices in their order; tcg.SplitCertificates tells how they lie
// there. leaf is the EK certificate, nil if there is none. A chain that cannot
// be read whole is returned as far as it could be, with a note: it may not be
// needed.
func (t *TPM) readChain(indices []uint32, leaf []byte) (chain [][]byte, notes []string) {
	var parts [][]byte
	total := 0
	for _, index := range indices {
		if index < tcg.ChainFirst || index > tcg.ChainLast {
			continue
		}
		data, err := t.readNV(index)
		if err != nil {
			notes = append(notes, fmt.Sprintf("the maker's certificate chain: %v", err))
			if !isVerdict(judged(err)) {
				break // the TPM does not answer: the next index would not be read either
			}
			data = nil
		}
		if total += len(data); total > maxChain {
			notes = append(notes, "the maker's certificate chain is longer than any known one; its end was left out")
			break
		}
		parts = append(parts, data)
	}
	chain, lost := tcg.SplitCertificates(parts...)
	if lost > 0 {
		notes = append(notes, fmt.Sprintf("the maker's certificate chain: %d bytes of it are no certificate", lost))
	}
	if len(chain) > tcg.MaxIntermediates {
		notes = append(notes, fmt.Sprintf("the maker's certificate chain: %d certificates; those that may belong to the EK's are used", len(chain)))
		chain = tcg.PickChain(leaf, chain)
	}
	return chain, notes
}

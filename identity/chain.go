package identity

import (
	"fmt"
	"slices"

	"gangway/tcg"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// maxChain bounds what is read of the maker's chain, in bytes.
const maxChain = 48 << 10

// readChain reads the maker's intermediate certificates (EK profile 2.2.1.5):
// the indices in their order are one stream of DER certificates. A chain that
// cannot be read whole is returned as far as it could be, with a note: it may
// not be needed.
func (t *TPM) readChain(indices []uint32) (chain [][]byte, notes []string) {
	var stream []byte
	for _, index := range indices {
		if index < tcg.ChainFirst || index > tcg.ChainLast {
			continue
		}
		data, err := t.readNV(index)
		if err != nil {
			notes = append(notes, fmt.Sprintf("the maker's certificate chain: %v", err))
			break
		}
		if stream = append(stream, data...); len(stream) > maxChain {
			notes = append(notes, "the maker's certificate chain is longer than any known one; its end was left out")
			break
		}
	}
	chain, rest := splitChain(stream)
	if rest > 0 {
		notes = append(notes, fmt.Sprintf("the maker's certificate chain: its last %d bytes are no certificate", rest))
	}
	return chain, notes
}

// splitChain splits a stream of DER certificates, each of which may be
// followed by padding (0x00 or 0xFF, up to the end of its NV index). It
// returns how many bytes at the end were not understood.
func splitChain(stream []byte) (chain [][]byte, rest int) {
	s := cryptobyte.String(stream)
	for {
		for len(s) > 0 && (s[0] == 0x00 || s[0] == 0xFF) {
			s = s[1:]
		}
		if s.Empty() {
			return chain, 0
		}
		left := len(s)
		var cert cryptobyte.String
		if !s.ReadASN1Element(&cert, asn1.SEQUENCE) {
			return chain, left
		}
		chain = append(chain, slices.Clone(cert))
	}
}

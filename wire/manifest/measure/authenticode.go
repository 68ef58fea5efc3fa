package measure

import (
	"bytes"
	"crypto"
	"debug/pe"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"gangway/wire/manifest"
)

// ErrProgram means that a file is not a valid EFI program, so firmware would not compute its
// digest.
var ErrProgram = errors.New("measure: this is not an EFI program for a 64-bit machine, or it is damaged")

// Offsets in a PE32+ file, in bytes (PE/COFF 3).
const (
	peOffsetAt     = 0x3C // offset in the file at which the offset of "PE\0\0" is stored
	coffAfterMagic = 4
	coffHeader     = 20
	checkSumAt     = 64        // in the optional header
	certificatesAt = 112 + 4*8 // in the optional header: data directory 4
	directoriesAt  = 112       // in the optional header
	directoryEntry = 8         // offset and size
	certificatesIx = 4         // IMAGE_DIRECTORY_ENTRY_SECURITY
	maxProgram     = 1 << 30   // bytes
	checkSumSize   = 4         // bytes
	minFile        = peOffsetAt + 4
)

// program is an EFI program, parsed as far as its digest needs.
type program struct {
	efi      []byte
	file     *pe.File
	optional int // offset of the optional header
	headers  int // size of the headers
	// `certificates` is the size of the signatures at the end of the file, in bytes. `directories`
	// is true if the optional header has an entry for the signatures.
	certificates int
	directories  bool
}

// parse reads the headers of an EFI program, and checks that each part lies inside the file.
func parse(efi []byte) (*program, error) {
	if len(efi) < minFile || len(efi) > maxProgram {
		return nil, fmt.Errorf("%w: it has %d bytes", ErrProgram, len(efi))
	}
	f, err := pe.NewFile(bytes.NewReader(efi))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProgram, err)
	}
	opt, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok {
		return nil, fmt.Errorf("%w: it has no PE32+ header", ErrProgram)
	}
	p := &program{efi: efi, file: f, headers: int(opt.SizeOfHeaders), directories: opt.NumberOfRvaAndSizes > certificatesIx}
	p.optional = int(binary.LittleEndian.Uint32(efi[peOffsetAt:])) + coffAfterMagic + coffHeader
	end := p.optional + directoriesAt
	if p.directories {
		end = p.optional + certificatesAt + directoryEntry
		p.certificates = int(opt.DataDirectory[certificatesIx].Size)
	}
	if end > p.headers || p.headers > len(efi) {
		return nil, fmt.Errorf("%w: its headers have %d bytes", ErrProgram, p.headers)
	}
	hashed := p.headers
	for _, s := range f.Sections {
		if int(s.Offset)+int(s.Size) > len(efi) {
			return nil, fmt.Errorf("%w: the section %.8q ends after the end of the file", ErrProgram, s.Name)
		}
		hashed += int(s.Size)
	}
	if hashed+p.certificates > len(efi) {
		return nil, fmt.Errorf("%w: the sections together are larger than the file", ErrProgram)
	}
	return p, nil
}

// The method `digest` returns the Authenticode digest. It follows the order of UEFI 2.10, 32.2.4.4
// ("Computing the PE image hash"): first the headers, without the checksum and without the entry of
// the signatures; then the sections, by their offset in the file; then the rest of the file,
// without the signatures.
//
// Some tools pad an unsigned file to a multiple of 8 bytes before they hash it. Firmware does not.
func (p *program) digest(bank crypto.Hash) []byte {
	h := bank.New()
	at := p.optional + checkSumAt
	h.Write(p.efi[:at])
	at += checkSumSize
	if p.directories {
		h.Write(p.efi[at : p.optional+certificatesAt])
		at = p.optional + certificatesAt + directoryEntry
	}
	h.Write(p.efi[at:p.headers])
	sections := slices.Clone(p.file.Sections)
	slices.SortStableFunc(sections, func(a, b *pe.Section) int { return int(a.Offset) - int(b.Offset) })
	hashed := p.headers
	for _, s := range sections {
		if s.Size > 0 {
			h.Write(p.efi[s.Offset:][:s.Size])
			hashed += int(s.Size)
		}
	}
	h.Write(p.efi[hashed : len(p.efi)-p.certificates])
	return h.Sum(nil)
}

// Authenticode returns the digest of an EFI program that firmware extends into PCR 4 of this bank.
// A signature in the file does not change the digest, as long as the size of the file without the
// signature is a multiple of 8 bytes.
func Authenticode(efi []byte, bank crypto.Hash) ([]byte, error) {
	p, err := parse(efi)
	if err != nil {
		return nil, err
	}
	return p.digest(bank), nil
}

// Program returns the digests of an EFI program in all banks.
func Program(efi []byte) (manifest.Program, error) {
	p, err := parse(efi)
	if err != nil {
		return manifest.Program{}, err
	}
	return manifest.Program{SHA256: hexDigest(crypto.SHA256, efi), Authenticode: inBanks(p.digest)}, nil
}

// inBanks calls the function `digest` for each bank, and returns the results in hexadecimal.
func inBanks(digest func(crypto.Hash) []byte) map[string]string {
	all := map[string]string{}
	for name, bank := range manifest.Banks() {
		all[name] = hex.EncodeToString(digest(bank))
	}
	return all
}

func hexDigest(h crypto.Hash, data []byte) string { return hex.EncodeToString(sum(h, data)) }

// sum returns the hash of all the parts, one after the other.
func sum(h crypto.Hash, parts ...[]byte) []byte {
	d := h.New()
	for _, p := range parts {
		d.Write(p)
	}
	return d.Sum(nil)
}

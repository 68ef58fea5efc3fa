package image

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
)

// UKI is a unified kernel image: one EFI program that consists of a stub, a kernel and the files
// that the kernel needs (UAPI Group specification "Unified Kernel Image").
type UKI struct {
	Stub   []byte // systemd's linuxx64.efi.stub
	Kernel []byte // bzImage with an EFI stub
	Initrd []byte // may be empty
	// Cmdline is the kernel's command line, one line without a terminating zero byte.
	Cmdline string
	// OSRelease is the text of os-release(5), which boot menus read.
	OSRelease string
	// PCRKey is the public key (PEM) of the owner who approves the image, and PCRSignatures the
	// file tpm2-pcr-signature.json with the approvals. The stub measures the key, and hands both to
	// the system. Both may be empty.
	PCRKey, PCRSignatures []byte
}

// sectionFlags are the flags of each added section: initialised data, readable (PE/COFF 4.1).
const sectionFlags = pe.IMAGE_SCN_CNT_INITIALIZED_DATA | pe.IMAGE_SCN_MEM_READ

// Offsets and sizes in a 64-bit PE/COFF file, in bytes (PE/COFF 3).
const (
	peOffsetAt      = 0x3C // offset in the file at which the offset of "PE\0\0" is stored
	coffHeader      = 20
	sectionHeader   = 40
	numSectionsAt   = 2 // offset in the COFF header
	symbolsAt       = 8 // pointer and count
	optSizeInitData = 8 // offset in the optional header
	optSizeOfImage  = 56
	optCheckSum     = 64
	optCertificates = 112 + 4*8 // data directory 4
)

// pageSize is the alignment of sections in memory, in bytes.
const pageSize = 4096

// Build appends each part to the stub as a section, after the stub's own sections. It refuses a
// stub that is signed, and a stub without space for the additional section headers.
func (u UKI) Build() ([]byte, error) {
	if err := u.check(); err != nil {
		return nil, err
	}
	f, err := pe.NewFile(bytes.NewReader(u.Stub))
	if err != nil {
		return nil, fmt.Errorf("image: the stub is not an EFI program: %w", err)
	}
	opt, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok || f.Machine != pe.IMAGE_FILE_MACHINE_AMD64 || opt.Subsystem != pe.IMAGE_SUBSYSTEM_EFI_APPLICATION {
		return nil, errors.New("image: the stub is not an EFI program for x86-64")
	}
	if opt.NumberOfRvaAndSizes < 5 || opt.DataDirectory[pe.IMAGE_DIRECTORY_ENTRY_SECURITY].Size != 0 {
		return nil, errors.New("image: the stub is signed, and added sections would break its signature: use the unsigned stub")
	}
	if a := opt.FileAlignment; a < 512 || a > 1<<16 || a&(a-1) != 0 {
		return nil, fmt.Errorf("image: the stub's file alignment %d is not a power of two from 512 to 65536", a)
	}
	var memory uint64                                   // end of the stub's sections in memory
	headers := min(int(opt.SizeOfHeaders), len(u.Stub)) // end of the space for section headers
	end := headers                                      // end of the headers and sections in the file
	for _, s := range f.Sections {
		memory = max(memory, uint64(s.VirtualAddress)+uint64(max(s.VirtualSize, s.Size)))
		if s.Size > 0 {
			headers = min(headers, int(s.Offset))
			end = max(end, min(int(s.Offset)+int(s.Size), len(u.Stub)))
		}
	}
	coff := int(binary.LittleEndian.Uint32(u.Stub[peOffsetAt:])) + 4
	header := coff + coffHeader + int(f.SizeOfOptionalHeader) + len(f.Sections)*sectionHeader
	parts := u.sections()
	if room := headers - header; room < len(parts)*sectionHeader {
		return nil, fmt.Errorf("image: the stub has room for %d bytes of section headers, but %d are needed", room, len(parts)*sectionHeader)
	}

	le := binary.LittleEndian
	// Leave out the debug symbols after the sections. Firmware hashes a signed program section by
	// section, so bytes outside the sections would make the signature invalid.
	out := pad(bytes.Clone(u.Stub[:end]), int(opt.FileAlignment))
	data := opt.SizeOfInitializedData
	for _, p := range parts {
		memory = (memory + pageSize - 1) &^ (pageSize - 1)
		at := uint32(len(out))
		out = pad(append(out, p.data...), int(opt.FileAlignment))
		if len(out) > math.MaxInt32 || memory+uint64(len(p.data)) > math.MaxInt32 {
			return nil, fmt.Errorf("image: a unified kernel image of %d bytes is too large", len(out))
		}
		h := out[header : header+sectionHeader]
		clear(h)
		copy(h, p.name)
		le.PutUint32(h[8:], uint32(len(p.data))) // VirtualSize: the stub reads and measures this number of bytes
		le.PutUint32(h[12:], uint32(memory))
		le.PutUint32(h[16:], uint32(len(out))-at)
		le.PutUint32(h[20:], at)
		le.PutUint32(h[36:], sectionFlags)
		header += sectionHeader
		memory += uint64(len(p.data))
		data += uint32(len(out)) - at
	}
	le.PutUint16(out[coff+numSectionsAt:], uint16(len(f.Sections)+len(parts)))
	le.PutUint64(out[coff+symbolsAt:], 0) // no symbols
	o := out[coff+coffHeader:]
	le.PutUint32(o[optSizeInitData:], data)
	le.PutUint32(o[optSizeOfImage:], uint32((memory+pageSize-1)&^(pageSize-1)))
	le.PutUint32(o[optCheckSum:], 0) // firmware ignores it
	return out, nil
}

func (u UKI) check() error {
	if len(u.Stub) < 0x40 || string(u.Stub[:2]) != "MZ" {
		return errors.New("image: a unified kernel image needs systemd's stub, linuxx64.efi.stub")
	}
	// Check for the magic number of the Linux boot protocol (Documentation/arch/x86/boot.rst).
	if len(u.Kernel) < 0x206 || string(u.Kernel[0x202:0x206]) != "HdrS" {
		return errors.New("image: the kernel is not a bzImage")
	}
	if strings.ContainsAny(u.Cmdline, "\x00\n") {
		return errors.New("image: the command line must be one line")
	}
	return nil
}

type section struct {
	name string
	data []byte
}

// sections returns the parts that are not empty, with the kernel last.
func (u UKI) sections() []section {
	var out []section
	for _, s := range []section{
		{".osrel", []byte(u.OSRelease)},
		{".cmdline", []byte(u.Cmdline)},
		{".pcrpkey", u.PCRKey},
		{".pcrsig", u.PCRSignatures},
		{".initrd", u.Initrd},
		{".linux", u.Kernel},
	} {
		if len(s.data) > 0 {
			out = append(out, s)
		}
	}
	return out
}

// pad appends zeros to `b` until the length is a multiple of `to`. `to` is a power of two.
func pad(b []byte, to int) []byte { return append(b, make([]byte, -len(b)&(to-1))...) }

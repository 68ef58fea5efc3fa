package boot

import (
	"encoding/binary"
	"unicode/utf16"
)

// guid is an EFI_GUID in its memory layout.
type guid [16]byte

// globalVariable is EFI_GLOBAL_VARIABLE, the owner of SecureBoot, PK, KEK and the boot options
// (UEFI 3.3).
var globalVariable = guid{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}

// imageSecurity is EFI_IMAGE_SECURITY_DATABASE_GUID, the owner of db and dbx (UEFI 32.4.1).
var imageSecurity = guid{0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f}

// variable is a UEFI_VARIABLE_DATA (PC Client Platform Firmware Profile, 10.2.6).
type variable struct {
	owner guid
	name  string // unfiltered, not for display
	value []byte
}

// parseVariable parses the UEFI_VARIABLE_DATA in `data`. It allocates at most as many bytes as
// `data` has.
func parseVariable(data []byte) (v variable, ok bool) {
	const head = 16 + 8 + 8
	if len(data) < head {
		return v, false
	}
	le := binary.LittleEndian
	copy(v.owner[:], data)
	units, size := le.Uint64(data[16:]), le.Uint64(data[24:])
	rest := uint64(len(data) - head)
	if units < 1 || units > 256 || 2*units > rest || size != rest-2*units {
		return v, false
	}
	name := make([]uint16, units)
	for i := range name {
		name[i] = le.Uint16(data[head+2*i:])
	}
	v.name = string(utf16.Decode(name))
	v.value = data[head+2*int(units):]
	return v, true
}

package eventlog

import (
	"encoding/binary"
	"unicode/utf16"
)

// A Variable is a firmware variable as an event measures it: a UEFI_VARIABLE_DATA (PC Client
// Platform Firmware Profile, 10.2.6).
type Variable struct {
	Vendor [16]byte // the EFI_GUID of the variable's owner, in its memory layout
	Name   string   // unfiltered, not for display
	Value  []byte
}

// ParseVariable parses the UEFI_VARIABLE_DATA in `data`. It allocates at most as many bytes as
// `data` has.
func ParseVariable(data []byte) (v Variable, ok bool) {
	const head = 16 + 8 + 8
	if len(data) < head {
		return v, false
	}
	le := binary.LittleEndian
	copy(v.Vendor[:], data)
	units, size := le.Uint64(data[16:]), le.Uint64(data[24:])
	rest := uint64(len(data) - head)
	if units < 1 || units > 256 || 2*units > rest || size != rest-2*units {
		return v, false
	}
	name := make([]uint16, units)
	for i := range name {
		name[i] = le.Uint16(data[head+2*i:])
	}
	v.Name = string(utf16.Decode(name))
	v.Value = data[head+2*int(units):]
	return v, true
}

// Bytes returns the UEFI_VARIABLE_DATA of the variable.
func (v Variable) Bytes() []byte {
	name := utf16.Encode([]rune(v.Name))
	b := binary.LittleEndian.AppendUint64(v.Vendor[:], uint64(len(name)))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(v.Value)))
	for _, u := range name {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return append(b, v.Value...)
}

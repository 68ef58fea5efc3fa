package wire

import (
	"encoding/binary"
	"unicode/utf16"
)

// BootDescription is the name of Gangway's entry in the firmware's boot menu.
const BootDescription = "Gangway"

// bootManagerPath is the path of the boot manager in the EFI system partition.
const bootManagerPath = `\EFI\BOOT\BOOTX64.EFI`

// BootEntry returns the EFI_LOAD_OPTION (UEFI 2.10, 3.1.3) of Gangway's entry in the firmware's
// boot menu. The entry starts the boot manager in the EFI system partition of an installed disk,
// which is partition 1. `start` and `size` are in sectors, and `guid` is the partition's GUID in
// its memory layout. The device writes the entry, and firmware measures it into PCR 1.
//
// The device path has a node for the partition (10.3.5.1), a node for the file (10.3.5.4) and an
// end node.
func BootEntry(start, size uint64, guid [16]byte) []byte {
	le := binary.LittleEndian
	path := []byte{4, 1, 42, 0}
	path = le.AppendUint32(path, 1) // partition number
	path = le.AppendUint64(path, start)
	path = le.AppendUint64(path, size)
	path = append(path, guid[:]...)
	path = append(path, 2, 2) // GPT, by GUID
	name := utf16z(bootManagerPath)
	path = append(path, 4, 4)
	path = le.AppendUint16(path, uint16(4+len(name)))
	path = append(path, name...)
	path = append(path, 0x7F, 0xFF, 4, 0)
	option := le.AppendUint32(nil, 1) // active
	option = le.AppendUint16(option, uint16(len(path)))
	option = append(option, utf16z(BootDescription)...)
	return append(option, path...)
}

// utf16z returns text in UTF-16, with a final zero.
func utf16z(s string) (b []byte) {
	for _, u := range append(utf16.Encode([]rune(s)), 0) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

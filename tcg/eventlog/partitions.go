package eventlog

import (
	"encoding/binary"
	"errors"
)

// Sizes and offsets in a GUID partition table, in bytes (UEFI 2.10, 5.3.2 and 5.3.3).
const (
	// PartitionHeader is the size of the header, as firmware measures it.
	PartitionHeader = 92
	entrySizeAt     = 84
	minEntry        = 128
	maxEntry        = 4096
	maxPartitions   = 128
	gptMagic        = "EFI PART"
)

// ErrPartitions means that data is not a UEFI_GPT_DATA.
var ErrPartitions = errors.New("eventlog: this is not a measurement of a partition table")

// Partitions returns the UEFI_GPT_DATA of a partition table (PC Client Platform Firmware Profile,
// 10.2.5): the header, the number of the used entries, and these entries. An entry is used if its
// type is not zero. `entries` is the whole array of entries. When firmware starts a program from
// the disk, it measures the UEFI_GPT_DATA into PCR 5 (EV_EFI_GPT_EVENT).
func Partitions(header, entries []byte) ([]byte, error) {
	if len(header) < PartitionHeader || string(header[:len(gptMagic)]) != gptMagic {
		return nil, ErrPartitions
	}
	size := int(le32(header[entrySizeAt:]))
	if size < minEntry || size > maxEntry {
		return nil, ErrPartitions
	}
	var used []byte
	n := uint64(0)
	for ; len(entries) >= size; entries = entries[size:] {
		if [16]byte(entries) != [16]byte{} {
			used = append(used, entries[:size]...)
			n++
		}
	}
	out := append([]byte(nil), header[:PartitionHeader]...)
	return append(binary.LittleEndian.AppendUint64(out, n), used...), nil
}

// CheckPartitions returns an error if data is not a UEFI_GPT_DATA with 1 to 128 partitions.
func CheckPartitions(data []byte) error {
	const head = PartitionHeader + 8
	if len(data) < head || string(data[:len(gptMagic)]) != gptMagic {
		return ErrPartitions
	}
	size, n := uint64(le32(data[entrySizeAt:])), binary.LittleEndian.Uint64(data[PartitionHeader:])
	if size < minEntry || size > maxEntry || n < 1 || n > maxPartitions || uint64(len(data)-head) != n*size {
		return ErrPartitions
	}
	return nil
}

// espType is the type of an EFI system partition, C12A7328-F81F-11D2-BA4B-00A0C93EC93B, in its
// memory layout.
var espType = [16]byte{0x28, 0x73, 0x2A, 0xC1, 0x1F, 0xF8, 0xD2, 0x11, 0xBA, 0x4B, 0x00, 0xA0, 0xC9, 0x3E, 0xC9, 0x3B}

// FirstESP describes the first partition of a UEFI_GPT_DATA: its GUID in the memory layout, and its
// start and size in sectors. If the data is not valid, or that partition is not an EFI system
// partition, `ok` is false.
func FirstESP(data []byte) (guid [16]byte, start, size uint64, ok bool) {
	const head = PartitionHeader + 8
	if CheckPartitions(data) != nil || [16]byte(data[head:]) != espType {
		return guid, 0, 0, false
	}
	le := binary.LittleEndian
	start, last := le.Uint64(data[head+32:]), le.Uint64(data[head+40:])
	if last < start || last-start == 1<<64-1 {
		return guid, 0, 0, false
	}
	return [16]byte(data[head+16:]), start, last - start + 1, true
}

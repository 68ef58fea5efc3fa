package install

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// fatHead is what a FAT file system of an image has before its first table, in
// bytes: the reserved sectors.
const fatHead = 16 << 10

// Fields of a FAT32 boot sector (Microsoft's FAT specification, 3.1 and 3.3):
// two bytes, but for one of perCluster and four of total and tableSize.
const (
	fatSector     = 11
	fatPerCluster = 13
	fatReserved   = 14
	fatTotal      = 32
	fatTableSize  = 36
	fatInfo       = 48
	fatBackup     = 50
)

// errNotLarge is that an image was not made for disks with large sectors.
var errNotLarge = errors.New("the image's file system is none for a disk whose sectors have 4096 bytes: build the image anew")

// oddSectors says what is wrong with sectors of a size, in bytes; empty: nothing.
func oddSectors(size int64) string {
	if size == sector || size == largeSector {
		return ""
	}
	return fmt.Sprintf("sectors have %d bytes; only %d and %d can be done", size, sector, largeSector)
}

// fatFor returns the head of a FAT32 file system as it is on a disk with sectors
// of a size. The tables and all behind them are the same bytes: in an image
// sectors have 512 bytes and clusters 4096, and all begins at a multiple of
// that.
//
// A disk with larger sectors needs a file system that has them too: Linux and
// firmware read no other. The boot sector then counts in eights, and its copies
// and the information sector come where the new sectors 1 to 3 are.
func fatFor(size int64, head []byte) ([]byte, error) {
	if odd := oddSectors(size); odd != "" {
		return nil, errors.New("the disk's " + odd)
	}
	if size == sector {
		return bytes.Clone(head[:fatHead]), nil
	}
	const eight = largeSector / sector
	le := binary.LittleEndian
	boot := bytes.Clone(head[:sector])
	total, table := le.Uint32(boot[fatTotal:]), le.Uint32(boot[fatTableSize:])
	info := int(le.Uint16(boot[fatInfo:])) * sector
	switch {
	case le.Uint16(boot[fatSector:]) != sector, boot[fatPerCluster] != eight, le.Uint16(boot[fatReserved:]) != fatHead/sector,
		total%eight != 0, table%eight != 0, info < sector || info > fatHead-sector:
		return nil, errNotLarge
	}
	le.PutUint16(boot[fatSector:], largeSector)
	boot[fatPerCluster] = 1
	le.PutUint16(boot[fatReserved:], fatHead/largeSector)
	le.PutUint32(boot[fatTotal:], total/eight)
	le.PutUint32(boot[fatTableSize:], table/eight)
	le.PutUint16(boot[fatInfo:], 1)
	le.PutUint16(boot[fatBackup:], 2)
	out, information := make([]byte, fatHead), head[info:][:sector]
	for i, b := range [][]byte{boot, information, boot, information} {
		copy(out[i*largeSector:], b)
	}
	return out, nil
}

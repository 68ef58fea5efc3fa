package install

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// fatHead is the size, in bytes, of the reserved sectors of a FAT file system in an image: all
// bytes before the first allocation table.
const fatHead = 16 << 10

// Offsets of fields in a FAT32 boot sector (Microsoft's FAT specification, 3.1 and 3.3). Each field
// has two bytes, except perCluster, which has one, and total and tableSize, which have four.
const (
	fatSector     = 11
	fatPerCluster = 13
	fatReserved   = 14
	fatTotal      = 32
	fatTableSize  = 36
	fatInfo       = 48
	fatBackup     = 50
)

// errNotLarge means that the image does not support disks with sectors of 4096 bytes.
var errNotLarge = errors.New("the image's file system does not support a disk with sectors of 4096 bytes: build the image again")

// sectorProblem returns the reason why a sector size, in bytes, is not supported. It returns "" if
// the size is supported.
func sectorProblem(size int64) string {
	if size == sector || size == largeSector {
		return ""
	}
	return fmt.Sprintf("sectors have %d bytes; only %d and %d are supported", size, sector, largeSector)
}

// fatFor converts the head of an image's FAT32 file system for a disk whose sectors have `size`
// bytes. Only the head depends on the sector size: although an image has sectors of 512 bytes, its
// clusters have 4096, and its tables and files begin at multiples of 4096.
//
// Linux and firmware can read a file system only if its sector size is that of the disk. The
// converted boot sector counts in sectors of 4096 bytes instead of 512. The information sector and
// the backup copies move to the new sectors 1 to 3.
func fatFor(size int64, head []byte) ([]byte, error) {
	if odd := sectorProblem(size); odd != "" {
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

package image

import (
	"encoding/binary"
	"errors"
	"io"
)

// fatSize returns the size in bytes of the file system for a partition of this size. go-diskfs
// 1.9.4 does not take into account that the first two entries of a FAT are reserved, so with some
// sizes, the FAT would have no entry for the last cluster. For these sizes, the result is slightly
// smaller than the partition.
//
// Above 260 MiB, where clusters have 4096 bytes, the size of each table is also a multiple of 4096.
// This lets an installer convert the file system for a disk with sectors of 4096 bytes.
func fatSize(partition int64) int64 {
	const reserved = 32 // sectors
	cluster, whole := int64(sector), int64(1)
	if partition > 260*mib {
		cluster, whole = 4096, 4096/sector
	}
	for size := partition; ; size -= 4096 {
		// Compute the sizes of clusters and tables as go-diskfs does for a file system of this
		// size.
		sectors, per := size/sector-reserved, cluster+8
		table := (4*sectors + per - 1) / per
		clusters := (sectors - 2*table) / (cluster / sector)
		if table%whole == 0 && clusters+2 <= table*sector/4 {
			return size
		}
	}
}

// fixParents corrects the FAT32 file system that begins at the offset `start`. In a folder in the
// root folder, the entry ".." must have the cluster 0, and not the root folder's own cluster
// (Microsoft's FAT specification, 6.5), which go-diskfs 1.9.4 writes. fsck.fat and Windows report
// this as an error.
func fixParents(f interface {
	io.ReaderAt
	io.WriterAt
}, start int64) error {
	le := binary.LittleEndian
	boot := make([]byte, sector)
	if _, err := f.ReadAt(boot, start); err != nil {
		return err
	}
	cluster := int64(boot[13]) * sector
	table := start + int64(le.Uint16(boot[14:]))*sector
	data := table + int64(boot[16])*int64(le.Uint32(boot[36:]))*sector
	at := func(n uint32) int64 { return data + int64(n-2)*cluster }
	const entrySize, isFolder, isName, last = 32, 0x10, 0x0F, 0x0FFFFFF8
	folder := make([]byte, cluster)
	for n := le.Uint32(boot[44:]); n < last; {
		if n < 2 {
			return errors.New("the root folder's cluster chain is invalid")
		}
		if _, err := f.ReadAt(folder, at(n)); err != nil {
			return err
		}
		for e := folder; len(e) > 0 && e[0] != 0; e = e[entrySize:] {
			if e[11] == isName || e[11]&isFolder == 0 {
				continue
			}
			parent := at(uint32(le.Uint16(e[20:]))<<16|uint32(le.Uint16(e[26:]))) + entrySize
			for _, half := range []int64{20, 26} {
				if _, err := f.WriteAt([]byte{0, 0}, parent+half); err != nil {
					return err
				}
			}
		}
		next := make([]byte, 4)
		if _, err := f.ReadAt(next, table+4*int64(n)); err != nil {
			return err
		}
		n = le.Uint32(next) & 0x0FFFFFFF
	}
	return nil
}

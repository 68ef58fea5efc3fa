package install

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/google/uuid"
)

// DiskGUID returns the GUID that an installer gives to the disk to which it installs. The GUID is
// derived from the SHA-256, in hexadecimal, of the stick's manifest (RFC 9562, version 8). So if a
// disk already has this GUID, the same stick has installed its system to that disk before.
func DiskGUID(manifest string) string {
	h := sha256.Sum256([]byte("gangway disk v1\x00" + manifest))
	u := uuid.UUID(h[:16])
	u[6] = u[6]&0x0F | 0x80
	u[8] = u[8]&0x3F | 0x80
	return u.String()
}

// Installed is an installed system, found on a disk.
type Installed struct {
	Disk     string // "nvme0n1"
	DiskGUID string // lower case
	Sector   int64  // size of the disk's logical sectors, in bytes
	// ESPGUID, ESPStart and ESPSize describe the EFI system partition: its GUID in lower case, and
	// its start and size in bytes.
	ESPGUID           string
	ESPStart, ESPSize int64
	// DataStart and DataSize are the data partition's start and size, in bytes.
	DataStart, DataSize int64
	// Whole is true if the installation is complete: the installer has also written the sector that
	// makes the disk bootable, which it writes last.
	Whole bool
}

// ESP returns the EFI system partition's name in /dev.
func (i Installed) ESP() string { return partitionName(i.Disk, 1) }

// Data returns the data partition's name in /dev.
func (i Installed) Data() string { return partitionName(i.Disk, 2) }

// partitionName returns the kernel's name of a disk's partition: a "p" comes before the number if
// the disk's name ends in a digit.
func partitionName(disk string, n int) string {
	if last := disk[len(disk)-1]; last >= '0' && last <= '9' {
		return fmt.Sprintf("%sp%d", disk, n)
	}
	return fmt.Sprintf("%s%d", disk, n)
}

// Look looks for an installed system on a disk. If there is none, the error is fs.ErrNotExist.
func Look(dev, disk string) (*Installed, error) {
	f, err := os.Open(filepath.Join(dev, disk))
	if err != nil {
		return nil, fmt.Errorf("install: %w", err)
	}
	defer f.Close()
	size, err := sectorSize(f)
	if err != nil {
		return nil, fmt.Errorf("install: %w", err)
	}
	none := fmt.Errorf("install: no Gangway system on /dev/%s: %w", disk, fs.ErrNotExist)
	t, err := gpt.Read(file.New(f, true), int(size), int(size))
	if err != nil || len(t.Partitions) < 2 {
		return nil, none
	}
	esp, data := t.Partitions[0], t.Partitions[1]
	if esp.Name != espName || data.Name != dataName || esp.Type != gpt.EFISystemPartition {
		return nil, none
	}
	i := &Installed{
		Disk: disk, DiskGUID: strings.ToLower(t.GUID), Sector: size, ESPGUID: strings.ToLower(esp.GUID),
		ESPStart: int64(esp.Start) * size, ESPSize: int64(esp.End-esp.Start+1) * size,
		DataStart: int64(data.Start) * size, DataSize: int64(data.End-data.Start+1) * size,
	}
	first := make([]byte, sector)
	if _, err := f.ReadAt(first, i.ESPStart); err != nil {
		return nil, fmt.Errorf("install: %w", err)
	}
	i.Whole = first[510] == 0x55 && first[511] == 0xAA
	return i, nil
}

// Find looks for the system whose EFI system partition has the GUID espGUID, in lower case. `block`
// is the path of /sys/block. Find examines built-in disks first, because an external disk may have
// a copy of the system. If there is no such system, the error is fs.ErrNotExist.
func Find(block, dev, espGUID string) (*Installed, error) {
	disks, err := enumerate(block)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(disks, func(a, b Disk) int { return cmp.Compare(min(len(a.External), 1), min(len(b.External), 1)) })
	for _, d := range disks {
		if i, err := Look(dev, d.Name); err == nil && i.ESPGUID == espGUID {
			return i, nil
		}
	}
	return nil, fmt.Errorf("install: no disk has the EFI system partition %s: %w", espGUID, fs.ErrNotExist)
}

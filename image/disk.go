package image

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"sync"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/disk"
	"github.com/diskfs/go-diskfs/filesystem"
	"github.com/diskfs/go-diskfs/filesystem/fat32"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/google/uuid"
)

// Disk is a disk image that UEFI boots: a GUID partition table with an EFI system partition
// (FAT32).
type Disk struct {
	// ESP contains the files of the EFI system partition.
	ESP []File
	// ESPSize is the size of the EFI system partition in bytes: a multiple of 1 MiB, and at least
	// 34 MiB. If it is zero, Write chooses a size from the total size of the files plus one fifth.
	ESPSize int64
	// Label names the disk and the partition. It has at most 11 characters: A-Z, 0-9, space, dash
	// and underscore. If it is empty, Write uses GANGWAY.
	Label string
}

const (
	mib    = 1 << 20
	sector = 512
	// minESP is the smallest size of the EFI system partition, in bytes. FAT32 needs at least 65525
	// clusters (here of one sector each), and a table of them.
	minESP = 34 * mib
)

// Write writes the image to a file with mode 0600. It replaces an existing file only when the image
// is complete.
//
// Write derives the GUIDs from the label and the size, not from the files. Firmware measures the
// partition table, so the table must not change when only a file changes, such as a new kernel.
func (d Disk) Write(name string) error {
	files, err := sorted(d.ESP)
	if err != nil {
		return err
	}
	if d.Label == "" {
		d.Label = "GANGWAY"
	}
	if err := d.sizeFor(files); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*") // CreateTemp makes the file with mode 0600
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	defer os.Remove(f.Name())
	err = d.writeTo(f, files)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return fmt.Errorf("image: %w", err)
	}
	return nil
}

// FAT returns only the EFI system partition, with the same bytes as on the disk. An installer
// writes these bytes to a partition that it makes itself.
func (d Disk) FAT() ([]byte, error) {
	dir, err := os.MkdirTemp("", "gangway-fat")
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	defer os.RemoveAll(dir)
	name := filepath.Join(dir, "disk")
	if err := d.Write(name); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	return b[mib : len(b)-mib], nil
}

func (d Disk) writeTo(f *os.File, files []File) error {
	size := d.ESPSize + 2*mib // 1 MiB for the partition table at each end
	if err := f.Truncate(size); err != nil {
		return fmt.Errorf("image: %w", err)
	}
	img := &disk.Disk{
		Backend: file.New(f, false), Size: size,
		LogicalBlocksize: sector, PhysicalBlocksize: sector,
	}
	table := &gpt.Table{
		LogicalSectorSize: sector, PhysicalSectorSize: sector, ProtectiveMBR: true,
		GUID: d.guid("disk"),
		Partitions: []*gpt.Partition{{
			Index: 1, Start: mib / sector, End: uint64((mib+d.ESPSize)/sector - 1), Size: uint64(d.ESPSize),
			Type: gpt.EFISystemPartition, Name: d.Label, GUID: d.guid("esp"),
		}},
	}
	if err := img.Partition(table); err != nil {
		return fmt.Errorf("image: writing the partition table: %w", err)
	}
	defer fixedTime()()
	esp, err := fat32.Create(img.Backend, fatSize(d.ESPSize), mib, sector, d.Label, true)
	if err != nil {
		return fmt.Errorf("image: making the EFI system partition: %w", err)
	}
	for _, file := range files {
		if err := writeFile(esp, file); err != nil {
			return fmt.Errorf("image: writing %s to the EFI system partition: %w", file.Path, err)
		}
	}
	if err := fixParents(f, mib); err != nil {
		return fmt.Errorf("image: making the EFI system partition: %w", err)
	}
	return nil
}

// sizeFor checks the label and the size, and chooses the size if it is zero.
func (d *Disk) sizeFor(files []File) error {
	if len(d.Label) > 11 {
		return fmt.Errorf("image: the label %q is longer than 11 characters", d.Label)
	}
	for _, c := range d.Label {
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != ' ' {
			return fmt.Errorf("image: the label %q has characters other than A-Z, 0-9, space, dash and underscore", d.Label)
		}
	}
	var need int64
	for _, f := range files {
		if len(f.Data) == 0 {
			return fmt.Errorf("image: the file %s is empty: use a file of at least one byte, because go-diskfs writes empty files incorrectly", f.Path)
		}
		need += int64(len(f.Data)) + 64<<10
	}
	if d.ESPSize == 0 {
		d.ESPSize = max(minESP, (need+need/5+mib-1)/mib*mib)
	}
	if d.ESPSize < minESP || d.ESPSize%mib != 0 || d.ESPSize < need {
		return fmt.Errorf("image: the size of the EFI system partition is %d bytes; it must be a whole number of MiB, and at least %d bytes", d.ESPSize, max(minESP, need))
	}
	return nil
}

// guid makes a GUID (RFC 9562, version 8) from the label, the size and `use`, the purpose of the
// GUID.
func (d *Disk) guid(use string) string {
	h := sha256.Sum256(fmt.Appendf(nil, "gangway image v1\x00%s\x00%d\x00%s", d.Label, d.ESPSize, use))
	u, err := uuid.FromBytes(h[:16])
	if err != nil {
		panic(err) // cannot happen: any 16 bytes are a valid GUID
	}
	u[6] = u[6]&0x0F | 0x80
	u[8] = u[8]&0x3F | 0x80
	return u.String()
}

func writeFile(to filesystem.FileSystem, f File) error {
	if dir := path.Dir(f.Path); dir != "." {
		if err := to.Mkdir("/" + dir); err != nil { // Mkdir also makes the parents
			return err
		}
	}
	w, err := to.OpenFile("/"+f.Path, os.O_CREATE|os.O_RDWR)
	if err != nil {
		return err
	}
	_, err = w.Write(f.Data)
	return errors.Join(err, w.Close())
}

var timeLock sync.Mutex

// fixedTime makes go-diskfs write the same time for all files, the start of 1980 (FAT's first
// year), until `restore` is called. It sets the environment variable SOURCE_DATE_EPOCH
// (reproducible-builds.org), because go-diskfs takes the time from nowhere else.
func fixedTime() (restore func()) {
	const name, first = "SOURCE_DATE_EPOCH", "315532800"
	timeLock.Lock()
	old, had := os.LookupEnv(name)
	os.Setenv(name, first)
	return func() {
		if had {
			os.Setenv(name, old)
		} else {
			os.Unsetenv(name)
		}
		timeLock.Unlock()
	}
}

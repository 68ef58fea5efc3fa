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

// Disk is a disk image that UEFI boots: a GUID partition table and an EFI
// system partition (FAT32).
type Disk struct {
	// ESP is what the EFI system partition holds.
	ESP []File
	// ESPSize is its size in bytes, a multiple of 1 MiB of at least 34.
	// Zero: what the files need and a fifth more.
	ESPSize int64
	// Label names disk and partition: at most 11 of A-Z, 0-9, space, dash
	// and underscore. Empty: GANGWAY.
	Label string
}

const (
	mib    = 1 << 20
	sector = 512
	// minESP makes FAT32's least 65525 clusters of one sector, with the
	// table itself.
	minESP = 34 * mib
)

// Write makes the image, a file of mode 0600, in the place of what is there
// once it is whole.
//
// Its GUIDs follow from label and size, not from the files: firmware measures
// the partition table, and a new kernel alone shall not change it.
func (d Disk) Write(name string) error {
	files, err := inOrder(d.ESP)
	if err != nil {
		return err
	}
	if d.Label == "" {
		d.Label = "GANGWAY"
	}
	if err := d.sizeFor(files); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*") // mode 0600
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

// FAT makes the EFI system partition alone, as it would be on the disk: for an
// installer, which writes it to a partition of its own.
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
	size := d.ESPSize + 2*mib // a table at both ends
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
		return fmt.Errorf("image: partition table: %w", err)
	}
	defer epoch()()
	esp, err := fat32.Create(img.Backend, fatSize(d.ESPSize), mib, sector, d.Label, true)
	if err != nil {
		return fmt.Errorf("image: EFI system partition: %w", err)
	}
	for _, file := range files {
		if err := writeFile(esp, file); err != nil {
			return fmt.Errorf("image: %s in the EFI system partition: %w", file.Path, err)
		}
	}
	if err := fixParents(f, mib); err != nil {
		return fmt.Errorf("image: EFI system partition: %w", err)
	}
	return nil
}

// sizeFor checks label and size, and chooses the size.
func (d *Disk) sizeFor(files []File) error {
	if len(d.Label) > 11 {
		return fmt.Errorf("image: the label %q is longer than 11 characters", d.Label)
	}
	for _, c := range d.Label {
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != ' ' {
			return fmt.Errorf("image: the label %q has other characters than A-Z, 0-9, space, dash and underscore", d.Label)
		}
	}
	var need int64
	for _, f := range files {
		if len(f.Data) == 0 {
			return fmt.Errorf("image: %s is empty, which go-diskfs does not write as it should be", f.Path)
		}
		need += int64(len(f.Data)) + 64<<10
	}
	if d.ESPSize == 0 {
		d.ESPSize = max(minESP, (need+need/5+mib-1)/mib*mib)
	}
	if d.ESPSize < minESP || d.ESPSize%mib != 0 || d.ESPSize < need {
		return fmt.Errorf("image: an EFI system partition of %d bytes: at least %d and a whole number of MiB is needed", d.ESPSize, max(minESP, need))
	}
	return nil
}

// guid makes a GUID (RFC 9562, version 8) from label, size and use.
func (d *Disk) guid(use string) string {
	h := sha256.Sum256(fmt.Appendf(nil, "gangway image v1\x00%s\x00%d\x00%s", d.Label, d.ESPSize, use))
	u, err := uuid.FromBytes(h[:16])
	if err != nil {
		panic(err) // 16 bytes are right
	}
	u[6] = u[6]&0x0F | 0x80
	u[8] = u[8]&0x3F | 0x80
	return u.String()
}

func writeFile(to filesystem.FileSystem, f File) error {
	if dir := path.Dir(f.Path); dir != "." {
		if err := to.Mkdir("/" + dir); err != nil { // with those above it
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

var epochLock sync.Mutex

// epoch makes go-diskfs write one time for all files, for as long as the
// returned function was not called: it listens to this variable alone
// (reproducible-builds.org). FAT's time begins in 1980.
func epoch() (restore func()) {
	const name, first = "SOURCE_DATE_EPOCH", "315532800"
	epochLock.Lock()
	old, had := os.LookupEnv(name)
	os.Setenv(name, first)
	return func() {
		if had {
			os.Setenv(name, old)
		} else {
			os.Unsetenv(name)
		}
		epochLock.Unlock()
	}
}

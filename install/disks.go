package install

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"gangway/install/luks"
)

// Disk is a whole disk that the kernel knows.
type Disk struct {
	Name    string // "nvme0n1", as in /dev and /sys/block
	Model   string
	Serial  string
	Size    int64 // bytes
	Sector  int64 // logical, bytes
	Parts   []string
	Content string // in a few words, for people
	// Unfit says why it cannot be installed to: it is the stick, or removable.
	// Empty: it can.
	Unfit string
}

// Path is the disk's in /dev.
func (d Disk) Path() string { return "/dev/" + d.Name }

func (d Disk) String() string {
	s := fmt.Sprintf("%s  %s", d.Path(), Size(d.Size))
	if d.Model != "" {
		s += "  " + d.Model
	}
	if d.Serial != "" {
		s += "  serial " + d.Serial
	}
	return s
}

// Size prints bytes as disks are sold, in powers of 1000.
func Size(n int64) string {
	for _, u := range []struct {
		name string
		size int64
	}{{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}} {
		if n >= u.size {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(u.size), u.name)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}

// least is the smallest disk that is installed to.
const least = 1 << 30

// Disks lists the disks of a folder /sys/block, in their names' order. stick
// is the name of the disk that the installer runs from, empty if none. dev is
// /dev, in which the content is looked at.
func Disks(block, dev, stick string) ([]Disk, error) {
	entries, err := os.ReadDir(block)
	if err != nil {
		return nil, fmt.Errorf("disks: %w", err)
	}
	var out []Disk
	for _, e := range entries {
		d := Disk{Name: e.Name()}
		if !diskName(d.Name) || virtual(d.Name) {
			continue
		}
		dir := filepath.Join(block, d.Name)
		d.Size = number(dir, "size") * 512 // always in these units
		if d.Size <= 0 {
			continue // a card reader without a card
		}
		d.Sector = number(dir, "queue/logical_block_size")
		d.Model = strings.TrimSpace(text(dir, "device/vendor") + " " + text(dir, "device/model"))
		if d.Model == "" {
			d.Model = text(dir, "device/name") // eMMC
		}
		d.Serial = text(dir, "device/serial")
		if d.Serial == "" {
			d.Serial = text(dir, "serial") // virtio
		}
		if d.Serial == "" {
			d.Serial = pageSerial(dir)
		}
		d.Parts = partitions(dir, d.Name)
		d.Content = content(filepath.Join(dev, d.Name), d.Parts)
		d.Unfit = unfit(dir, d, stick)
		out = append(out, d)
	}
	return out, nil
}

// unfit says why a disk is not to be touched. What is not known counts as
// removable.
func unfit(dir string, d Disk, stick string) string {
	place, err := filepath.EvalSymlinks(dir)
	switch {
	case err != nil:
		return "it cannot be looked at"
	case d.Name == stick:
		return "the stick that this was started from"
	case text(dir, "removable") != "0":
		return "removable"
	case strings.Contains(place, "/usb"):
		return "on USB"
	case strings.HasPrefix(d.Name, "mmcblk") && text(dir, "device/type") != "MMC":
		return "a memory card"
	case text(dir, "ro") != "0":
		return "read-only"
	case oddSectors(d.Sector) != "":
		return "its " + oddSectors(d.Sector)
	case d.Size < least:
		return "too small: " + Size(least) + " are needed"
	}
	return ""
}

// virtual reports whether a block device is made of others, or of memory.
func virtual(name string) bool {
	for _, p := range []string{"loop", "ram", "zram", "dm", "md", "sr", "fd", "nbd", "mtdblock"} {
		if rest, ok := strings.CutPrefix(name, p); ok && (rest == "" || rest[0] >= '0' && rest[0] <= '9') {
			return true
		}
	}
	// eMMC's own small areas
	return strings.HasPrefix(name, "mmcblk") && (strings.Contains(name, "boot") || strings.Contains(name, "rpmb"))
}

func text(dir, name string) string {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	return clean(string(b))
}

// clean keeps what is safe to print: a disk's maker writes these.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
	return strings.TrimSpace(s[:min(len(s), 80)])
}

// pageSerial reads a SCSI disk's vital product data, page 80h (SPC-4, 7.8.13):
// four bytes, then the number.
func pageSerial(dir string) string {
	b, err := os.ReadFile(filepath.Join(dir, "device/vpd_pg80"))
	if err != nil || len(b) < 4 {
		return ""
	}
	return clean(string(b[4:]))
}

func number(dir, name string) int64 {
	n, err := strconv.ParseInt(text(dir, name), 10, 64)
	if err != nil || n > 1<<53 {
		return 0
	}
	return n
}

func partitions(dir, name string) []string {
	var out []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if _, err := os.Stat(filepath.Join(dir, e.Name(), "partition")); err == nil && strings.HasPrefix(e.Name(), name) {
			out = append(out, e.Name())
		}
	}
	slices.Sort(out)
	return out
}

// content says in a few words what is on a disk.
func content(dev string, parts []string) string {
	switch kind := magic(dev); {
	case len(parts) == 0 && kind != "":
		return kind
	case len(parts) == 0:
		return "no partitions"
	}
	var kinds []string
	for _, p := range parts {
		if k := magic(filepath.Join(filepath.Dir(dev), p)); k != "" && !slices.Contains(kinds, k) {
			kinds = append(kinds, k)
		}
	}
	s := fmt.Sprintf("%d partition(s)", len(parts))
	if len(kinds) > 0 {
		s += ": " + strings.Join(kinds, ", ")
	}
	return s
}

// magic tells what a device begins with.
func magic(dev string) string {
	f, err := os.Open(dev)
	if err != nil {
		return ""
	}
	defer f.Close()
	b := make([]byte, 68<<10)
	n, err := f.ReadAt(b, 0)
	if err != nil && n == 0 {
		return ""
	}
	b = b[:n]
	for _, m := range []struct {
		at         int
		magic, say string
	}{
		{3, "NTFS    ", "Windows (NTFS)"}, {3, "-FVE-FS-", "Windows (BitLocker)"}, {0, luks.Magic, "encrypted (LUKS)"},
		{0x438, "\x53\xef", "Linux (ext4)"}, {0, "XFSB", "Linux (XFS)"}, {0x10040, "_BHRfS_M", "Linux (Btrfs)"},
		{536, "LVM2 001", "Linux (LVM)"}, {82, "FAT32", "FAT"}, {54, "FAT1", "FAT"}, {3, "EXFAT   ", "exFAT"},
	} {
		if m.at+len(m.magic) <= len(b) && string(b[m.at:m.at+len(m.magic)]) == m.magic {
			return m.say
		}
	}
	return ""
}

// ErrAmbiguous is that a rule fits disks equally, so that a person must say
// which.
var ErrAmbiguous = errors.New("more than one disk would do")

// Choose applies a rule. With ErrAmbiguous it returns the disks that it cannot
// choose from.
func Choose(r Rule, disks []Disk) ([]Disk, error) {
	var fit []Disk
	var why []string
	for _, d := range disks {
		if !r.fits(d) {
			continue
		}
		if d.Unfit != "" {
			why = append(why, d.Path()+" is "+d.Unfit)
			continue
		}
		switch {
		case len(fit) == 0 || d.Size > fit[0].Size:
			fit = []Disk{d}
		case d.Size == fit[0].Size:
			fit = append(fit, d)
		}
	}
	switch {
	case len(fit) == 1:
		return fit, nil
	case len(fit) > 1:
		return fit, ErrAmbiguous
	case len(why) > 0:
		return nil, fmt.Errorf("no disk to install to: %s: %w", strings.Join(why, "; "), fs.ErrNotExist)
	case r != Largest:
		return nil, fmt.Errorf("no disk is as the image wants it (%s): %w", r, fs.ErrNotExist)
	}
	return nil, fmt.Errorf("no disk to install to: is one built in, and on in the firmware's setup? %w", fs.ErrNotExist)
}

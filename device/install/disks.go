package install

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"gangway/device/install/luks"
)

// Disk is a whole disk that the kernel knows.
type Disk struct {
	Name    string // "nvme0n1", as in /dev and /sys/block
	Model   string
	Serial  string
	Size    int64 // bytes; 0: the kernel does not know it, or not yet
	Sector  int64 // logical, bytes
	Parts   []string
	Content string // in a few words, for people
	// External says why the disk may not be a part of the machine: it is
	// removable, on USB or a memory card. It is installed to only if a person or
	// a rule names it. Empty: it is built in.
	External string
	// Unfit says why nothing is ever installed to the disk, whoever names it: it
	// is the stick, read-only or too small. Empty: it is fit.
	Unfit string
	// Seq is the kernel's number of the disk (diskseq), which no other disk has
	// until the next boot, whatever its name. 0: the kernel has none.
	Seq uint64

	wwid string // the disk's, which is the same on each path to it
	loc  location
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
	if d.External != "" {
		s += "  (" + d.External + ")"
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

// Disks lists the disks of a folder /sys/block, in their names' order: each
// once, even if several paths lead to it. stick tells what the installer runs
// from: names of disks, and GUIDs of partitions in lower case. The disks that
// they fit, and copies of these, are unfit. dev is /dev, in which the content is
// looked at.
func Disks(block, dev string, stick ...string) ([]Disk, error) {
	disks, err := enumerate(block)
	if err != nil {
		return nil, err
	}
	own := sticks(dev, disks, stick)
	for i := range disks {
		d := &disks[i]
		d.Content = content(filepath.Join(dev, d.Name), d.Parts)
		if d.Unfit = own[d.Name]; d.Unfit == "" {
			d.Unfit = d.unfit()
		}
	}
	return onePath(disks), nil
}

// enumerate lists the paths to disks, without a look at their content.
func enumerate(block string) ([]Disk, error) {
	entries, err := os.ReadDir(block)
	if err != nil {
		return nil, fmt.Errorf("disks: %w", err)
	}
	var out []Disk
	for _, e := range entries {
		dir := filepath.Join(block, e.Name())
		loc, err := locate(dir)
		if err != nil || notDisk(e.Name(), loc) {
			continue
		}
		d := Disk{Name: e.Name(), loc: loc}
		d.Size = number(dir, "size") * 512 // always in these units
		d.External = external(d.Name, loc)
		if d.Size == 0 && text(dir, "removable") == "1" {
			continue // a card reader without a card
		}
		d.Sector = number(dir, "queue/logical_block_size")
		d.Seq = uint64(number(dir, "diskseq"))
		d.Model = strings.TrimSpace(text(dir, "device/vendor") + " " + text(dir, "device/model"))
		if d.Model == "" {
			d.Model = text(dir, "device/name") // eMMC
		}
		d.Serial = cmp.Or(text(dir, "device/serial"), text(dir, "serial") /* virtio */, pageSerial(dir), usbSerial(loc))
		d.wwid = cmp.Or(text(dir, "wwid") /* NVMe */, text(dir, "device/wwid"))
		d.Parts = partitions(dir, d.Name)
		out = append(out, d)
	}
	return out, nil
}

// unfit says why a disk that is not the stick is never installed to.
func (d Disk) unfit() string {
	switch {
	case d.loc.user() != "":
		return "in use by " + d.loc.user()
	case d.Size == 0:
		return "without a size: it is not ready, or its sectors are of a size that Linux does not read, such as 520 bytes"
	case text(d.loc.dir, "ro") != "0":
		return "read-only"
	case oddSectors(d.Sector) != "":
		return "its " + oddSectors(d.Sector)
	case d.Size < least:
		return "too small: " + Size(least) + " are needed"
	}
	return ""
}

// onePath drops all but one of the paths to a disk, as they are where a SAS disk
// has two ports, or NVMe's multipath is off. A path to the stick is the stick. On
// USB a disk has one path, and makers give many the same names.
func onePath(disks []Disk) []Disk {
	var out []Disk
	for _, d := range disks {
		i := slices.IndexFunc(out, func(o Disk) bool {
			return d.wwid != "" && d.Serial != "" && d.wwid == o.wwid && d.Serial == o.Serial && d.Size == o.Size &&
				!usbBus.MatchString(d.loc.bus) && !usbBus.MatchString(o.loc.bus)
		})
		if i < 0 {
			out = append(out, d)
			continue
		}
		out[i].Unfit = cmp.Or(out[i].Unfit, d.Unfit)
		out[i].External = cmp.Or(out[i].External, d.External)
	}
	return out
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
	if err != nil || n < 0 || n > 1<<53 {
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
		{536, "LVM2 001", "Linux (LVM)"}, {0x1000, "\xfc\x4e\x2b\xa9", "Linux (RAID)"}, {82, "FAT32", "FAT"}, {54, "FAT1", "FAT"}, {3, "EXFAT   ", "exFAT"},
	} {
		if m.at+len(m.magic) <= len(b) && string(b[m.at:m.at+len(m.magic)]) == m.magic {
			return m.say
		}
	}
	return ""
}

// What keeps a rule from choosing a disk, so that a person must.
var (
	ErrAmbiguous = errors.New("more than one disk fits")
	ErrExternal  = errors.New("only disks that may not be built in fit, and the rule names none of them")
)

// Choose applies a rule. A disk that is built in goes before one that may not
// be, and the largest goes first. With ErrAmbiguous and ErrExternal it returns
// the disks for a person to choose from. If no disk fits, the error is
// fs.ErrNotExist.
func Choose(r Rule, disks []Disk) ([]Disk, error) {
	var builtIn, others []Disk
	var why []string
	for _, d := range disks {
		switch {
		case !r.fits(d):
		case d.Unfit != "":
			why = append(why, d.Path()+": "+d.Unfit)
		case d.External != "":
			others = append(others, d)
		default:
			builtIn = append(builtIn, d)
		}
	}
	if len(builtIn) > 0 {
		size := slices.MaxFunc(builtIn, func(a, b Disk) int { return cmp.Compare(a.Size, b.Size) }).Size
		fit := slices.DeleteFunc(builtIn, func(d Disk) bool { return d.Size < size })
		if len(fit) > 1 {
			return fit, ErrAmbiguous
		}
		return fit, nil
	}
	switch {
	case len(others) > 0 && !r.names():
		return others, ErrExternal
	case len(others) > 1:
		return others, ErrAmbiguous
	case len(others) == 1:
		return others, nil
	case len(why) > 0:
		return nil, noDisk("No disk to install to: " + strings.Join(why, "; ") + ".")
	case r != Largest:
		return nil, noDisk("No disk matches the image's disk rule (" + string(r) + ").")
	}
	return nil, noDisk("No disk to install to: is one built in, and enabled in the firmware's setup?\nIf its storage mode is RAID or RST, set it to AHCI.")
}

// noDisk says, to the person at the machine, why no disk is chosen. It is
// fs.ErrNotExist.
type noDisk string

func (e noDisk) Error() string { return string(e) }
func (e noDisk) Unwrap() error { return fs.ErrNotExist }

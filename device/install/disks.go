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

// Disk is a whole disk that the kernel has found.
type Disk struct {
	Name    string // "nvme0n1", as in /dev and /sys/block
	Model   string
	Serial  string
	Size    int64    // bytes; 0: the kernel does not know the size (yet)
	Sector  int64    // size of a logical sector, bytes
	Parts   []string // names of the partitions, as in /dev
	Content string   // description of the disk's data in a few words, for people
	// External is the reason why the disk may be external and thus not a part of the machine. For
	// example, the disk is removable, attached by USB, or a memory card. The installer uses such a
	// disk only if a person or a rule names it. External is empty if the disk is built in.
	External string
	// Unfit is the reason why the installer never uses the disk, even if a person names it. For
	// example, the disk is the stick from which the installer runs, or it is read-only or too
	// small. Unfit is empty if the disk can be used.
	Unfit string
	// Seq is the kernel's sequence number of the disk (diskseq). Until the next boot, no other disk
	// gets the same number, even if it gets the same name. Seq is 0 if the kernel does not have
	// such numbers.
	Seq uint64

	wwid string // the world-wide identifier: the same on each path to the disk
	loc  location
}

// Path returns the disk's path, such as /dev/nvme0n1.
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

// Size formats a number of bytes in powers of 1000, as disk makers do.
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

// minDisk is the size of the smallest disk that the installer uses, in bytes.
const minDisk = 1 << 30

// Disks lists the disks in `block`, which is /sys/block, sorted by name. A disk with several paths
// is listed once. `dev` is /dev, where Disks reads the start of each disk and partition to describe
// the data on it.
//
// `stick` contains names of disks and lower-case GUIDs of partitions that identify the medium from
// which the installer runs. Disks marks the disks that they match, and disks that may be copies of
// them, as unfit.
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

// enumerate lists the paths to disks. It does not read the data on the disks.
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
		d.Size = number(dir, "size") * 512 // sysfs gives the size in units of 512 bytes, whatever the sector size is
		d.External = external(d.Name, loc)
		if d.Size == 0 && text(dir, "removable") == "1" {
			continue // a card reader without a card
		}
		d.Sector = number(dir, "queue/logical_block_size")
		d.Seq = uint64(number(dir, "diskseq"))
		d.Model = strings.TrimSpace(text(dir, "device/vendor") + " " + text(dir, "device/model"))
		if d.Model == "" {
			d.Model = text(dir, "device/name") // an eMMC has its name in this file
		}
		d.Serial = cmp.Or(text(dir, "device/serial"), text(dir, "serial") /* virtio */, pageSerial(dir), usbSerial(loc))
		d.wwid = cmp.Or(text(dir, "wwid") /* NVMe */, text(dir, "device/wwid"))
		d.Parts = partitions(dir, d.Name)
		out = append(out, d)
	}
	return out, nil
}

// unfit returns the reason why the installer must never use the disk, or "". It does not check
// whether the disk is the stick.
func (d Disk) unfit() string {
	switch {
	case d.loc.holder() != "":
		return "in use by " + d.loc.holder()
	case d.Size == 0:
		return "the disk has no size: the disk is not ready, or Linux does not support its sector size, such as 520 bytes"
	case text(d.loc.dir, "ro") != "0":
		return "read-only"
	case sectorProblem(d.Sector) != "":
		return "its " + sectorProblem(d.Sector)
	case d.Size < minDisk:
		return "too small: at least " + Size(minDisk) + " are needed"
	}
	return ""
}

// onePath reduces the list to one entry for each disk. A SAS disk with two ports has an entry for
// each port, and an NVMe disk with several paths has an entry for each path if the kernel's NVMe
// multipath is off. If one of a disk's entries is the stick's, the whole disk is the stick. onePath
// does not merge entries of USB disks: a USB disk has only one path, and makers give the same
// identifier to many of them.
func onePath(disks []Disk) []Disk {
	var out []Disk
	for _, d := range disks {
		i := slices.IndexFunc(out, func(o Disk) bool {
			return d.wwid != "" && d.Serial != "" && d.wwid == o.wwid && d.Serial == o.Serial && d.Size == o.Size &&
				!usbBus().MatchString(d.loc.bus) && !usbBus().MatchString(o.loc.bus)
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

// clean keeps only the printable ASCII characters of s, at most 80. Texts such as the model come
// from the disk, so they could contain control sequences for the terminal.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
	return strings.TrimSpace(s[:min(len(s), 80)])
}

// pageSerial reads the serial number from a SCSI disk's vital product data, page 80h (SPC-4,
// 7.8.13). The number follows a header of four bytes.
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

// content describes the data on a disk in a few words.
func content(dev string, parts []string) string {
	switch kind := signature(dev); {
	case len(parts) == 0 && kind != "":
		return kind
	case len(parts) == 0:
		return "no partitions"
	}
	var kinds []string
	for _, p := range parts {
		if k := signature(filepath.Join(filepath.Dir(dev), p)); k != "" && !slices.Contains(kinds, k) {
			kinds = append(kinds, k)
		}
	}
	s := fmt.Sprintf("%d partition(s)", len(parts))
	if len(kinds) > 0 {
		s += ": " + strings.Join(kinds, ", ")
	}
	return s
}

// signature describes the data on a disk or a partition, judging by its first bytes. It returns ""
// if it does not recognise them.
func signature(dev string) string {
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

// Errors that Choose returns if the rule does not select exactly one disk, so that a person must
// choose.
var (
	ErrAmbiguous = errors.New("more than one disk matches the disk rule; a person must choose one")
	ErrExternal  = errors.New("only disks that may be external match the disk rule; a person must choose one of them, or the rule must name one")
)

// Choose applies a rule to disks and returns the disk to install to. It prefers built-in disks to
// disks that may be external, and among the built-in disks, it prefers the largest. If the error is
// ErrAmbiguous or ErrExternal, the result contains the disks from which a person can choose. If no
// disk can be used, the error wraps fs.ErrNotExist.
func Choose(r Rule, disks []Disk) ([]Disk, error) {
	var builtIn, others []Disk
	var why []string
	for _, d := range disks {
		switch {
		case !r.matches(d):
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
	case len(others) > 0 && !r.specific():
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
	return nil, noDisk("No disk to install to. Check that a disk is built in, and enabled in the firmware's setup.\nIf its storage mode is RAID or RST, set it to AHCI.")
}

// noDisk is the error if no disk can be chosen. Its text tells the person at the machine why. It
// wraps fs.ErrNotExist.
type noDisk string

func (e noDisk) Error() string { return string(e) }
func (e noDisk) Unwrap() error { return fs.ErrNotExist }

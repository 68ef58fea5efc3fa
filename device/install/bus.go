package install

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unsafe"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"golang.org/x/sys/unix"
)

// location is where a block device is attached.
type location struct {
	dir string // in /sys, without links
	bus string // the part below /sys/devices, with a slash at both ends
}

func locate(dir string) (location, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return location{}, err
	}
	bus := dir + "/"
	if _, below, ok := strings.Cut(bus, "/devices/"); ok {
		bus = "/" + below
	}
	return location{dir, bus}, nil
}

// user names what has the disk or a partition of it open, such as md0, bcache0
// or dm-0. It is empty if nothing has.
func (l location) user() string {
	for _, pattern := range []string{"holders/*", "*/holders/*"} {
		if found, err := filepath.Glob(filepath.Join(l.dir, pattern)); err == nil && len(found) > 0 {
			return clean(filepath.Base(found[0]))
		}
	}
	return ""
}

var (
	// Made of other block devices, of memory, of a network or by a program; and
	// drives for media that are not written to like disks.
	notDisks = regexp.MustCompile(`^(loop|ram|zram|dm|md|sr|scd|fd|pf|pcd|mtdblock|bcache|drbd|nbd|rbd|rnbd|ublkb|zd|nullb|pmem|ndblk)\d`)
	// A path to an NVMe namespace (nvme0c1n1): the disk is nvme0n1.
	nvmePath = regexp.MustCompile(`^nvme\d+c\d+n\d+$`)
	// An area of an eMMC beside its disk: mmcblk0boot0, mmcblk0gp0, mmcblk0rpmb.
	mmcArea = regexp.MustCompile(`^mmcblk\d+[a-z]`)
	// A session of iSCSI and iSER, a port of Fibre Channel and FCoE, SRP.
	networkBus = regexp.MustCompile(`/(session\d+|rport-[^/]*|infiniband_srp)/`)
	usbBus     = regexp.MustCompile(`/usb\d+/`)
	fireWire   = regexp.MustCompile(`/fw\d+/`)
	memoryCard = regexp.MustCompile(`^(mspblk|msblk)\d`)
)

// notDisk reports whether a block device is not a disk of this machine.
func notDisk(name string, l location) bool {
	switch {
	case !diskName(name), notDisks.MatchString(name), nvmePath.MatchString(name), mmcArea.MatchString(name):
		return true
	case text(l.dir, "hidden") == "1": // without a node in /dev
		return true
	case strings.HasPrefix(l.bus, "/rbd/"), networkBus.MatchString(l.bus):
		return true
	case strings.HasPrefix(l.bus, "/virtual/") && !strings.HasPrefix(l.bus, "/virtual/nvme-subsystem/"):
		return true // no hardware is behind it, except for an NVMe namespace with several paths
	}
	return slices.ContainsFunc(transports(l), func(t string) bool { return t != "pcie" && t != "apple-nvme" })
}

// transports are those of the controllers of an NVMe disk: "pcie", or "tcp",
// "rdma" and "fc" for NVMe over fabrics. A namespace with several paths belongs
// to a subsystem, which has the controllers.
func transports(l location) (out []string) {
	files, err := filepath.Glob(filepath.Join(l.dir, "device/nvme*/transport"))
	if err != nil {
		return nil
	}
	for _, f := range append(files, filepath.Join(l.dir, "device/transport")) {
		if t := text(filepath.Dir(f), "transport"); t != "" {
			out = append(out, t)
		}
	}
	return out
}

// external says why a disk may not be built in, and is empty for one that is.
// What the kernel does not tell counts as removable.
func external(name string, l location) string {
	switch {
	case text(l.dir, "removable") != "0":
		return "removable"
	case usbBus.MatchString(l.bus):
		return "on USB"
	case fireWire.MatchString(l.bus):
		return "on FireWire"
	case strings.HasPrefix(name, "mmcblk") && text(l.dir, "device/type") != "MMC", memoryCard.MatchString(name):
		return "a memory card"
	}
	// Of a PCI device the kernel says "removable" behind a port that firmware
	// calls external, as Thunderbolt's is.
	if l.above(func(dir string) bool { return text(dir, "removable") == "removable" }) != "" {
		return "on an external port"
	}
	return ""
}

// above returns the nearest folder above the disk's that is so, empty if none is.
func (l location) above(is func(dir string) bool) string {
	root := strings.TrimSuffix(l.dir+"/", l.bus)
	for dir := filepath.Dir(l.dir); len(dir) > len(root); dir = filepath.Dir(dir) {
		if is(dir) {
			return dir
		}
	}
	return ""
}

// usbSerial is the serial number of the USB device that the disk is in: Linux
// does not ask the disk for its own.
func usbSerial(l location) string {
	if device := l.above(func(dir string) bool { return text(dir, "idVendor") != "" }); device != "" {
		return text(device, "serial")
	}
	return ""
}

// sticks says which disks the installer runs from, and which may be copies of
// them: the reasons, by the disks' names. known are names of disks, and GUIDs of
// partitions.
func sticks(dev string, disks []Disk, known []string) map[string]string {
	known = slices.DeleteFunc(slices.Clone(known), func(s string) bool { return s == "" })
	if len(known) == 0 {
		return nil
	}
	guids := map[string][]string{}
	for _, d := range disks {
		guids[d.Name] = partitionGUIDs(dev, d)
	}
	why := map[string]string{}
	for _, d := range disks {
		if slices.Contains(known, d.Name) {
			why[d.Name] = "the stick that this was started from"
		}
	}
	for name := range why {
		known = append(known, guids[name]...)
	}
	for _, d := range disks {
		if why[d.Name] == "" && slices.ContainsFunc(guids[d.Name], func(g string) bool { return slices.Contains(known, g) }) {
			why[d.Name] = "the stick that this was started from, or a copy of it: a partition has the same GUID"
		}
	}
	return why
}

// partitionGUIDs are those of a disk's partitions, in lower case; none if it has
// no GUID partition table.
func partitionGUIDs(dev string, d Disk) (out []string) {
	if oddSectors(d.Sector) != "" {
		return nil
	}
	f, err := os.Open(filepath.Join(dev, d.Name))
	if err != nil {
		return nil
	}
	defer f.Close()
	t, err := gpt.Read(file.New(f, true), int(d.Sector), int(d.Sector))
	if err != nil {
		return nil
	}
	for _, p := range t.Partitions {
		if p.Type != gpt.Unused {
			out = append(out, strings.ToLower(p.GUID))
		}
	}
	return out
}

// Open opens a disk for exclusive use. dev is /dev. If another disk has taken the
// name since the disk was listed, because somebody moved a plug, it is an error.
func (d Disk) Open(dev string) (*Device, error) {
	t, err := OpenDevice(filepath.Join(dev, d.Name))
	if err != nil {
		return nil, err
	}
	seq, err := t.seq()
	if err == nil {
		err = d.check(seq, t.Size())
	}
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// check compares the disk that was listed with the one that was opened. A seq of
// 0 is not known.
func (d Disk) check(seq uint64, size int64) error {
	if (d.Seq != 0 && seq != 0 && seq != d.Seq) || size != d.Size {
		return fmt.Errorf("install: %s is no longer the disk that was chosen: was a disk taken out or put in? It was left alone", d.Path())
	}
	return nil
}

// seq is the kernel's number of the device (Disk.Seq). 0: it has none, as an
// image and Linux before 5.15.
func (d *Device) seq() (n uint64, err error) {
	if !d.block {
		return 0, nil
	}
	_, _, e := unix.Syscall(unix.SYS_IOCTL, d.Fd(), unix.BLKGETDISKSEQ, uintptr(unsafe.Pointer(&n)))
	switch e {
	case 0:
		return n, nil
	case unix.ENOTTY, unix.EINVAL:
		return 0, nil
	}
	return 0, fmt.Errorf("install: BLKGETDISKSEQ: %w", e)
}

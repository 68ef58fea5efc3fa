package install

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unsafe"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"golang.org/x/sys/unix"
)

// location is the place in the hardware where a block device is attached.
type location struct {
	dir string // in /sys, with all symbolic links resolved
	bus string // the part of `dir` below /sys/devices, with a slash at both ends
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

// holder returns the name of a block device, such as md0, bcache0 or dm-0, that uses the disk or
// one of its partitions. The name is empty if there is no such device.
func (l location) holder() string {
	for _, pattern := range []string{"holders/*", "*/holders/*"} {
		if found, err := filepath.Glob(filepath.Join(l.dir, pattern)); err == nil && len(found) > 0 {
			return clean(filepath.Base(found[0]))
		}
	}
	return ""
}

var (
	// notDisks matches the names of block devices that are not disks of this machine: RAID, LVM and
	// loop devices, RAM disks, network block devices, devices that a program emulates, and drives
	// for CDs or floppy disks.
	notDisks = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^(loop|ram|zram|dm|md|sr|scd|fd|pf|pcd|mtdblock|bcache|drbd|nbd|rbd|rnbd|ublkb|zd|nullb|pmem|ndblk)\d`)
	})
	// nvmePath matches the name of one path to an NVMe disk (nvme0c1n1). The disk itself is
	// nvme0n1.
	nvmePath = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^nvme\d+c\d+n\d+$`) })
	// mmcArea matches the name of an additional area of an eMMC: mmcblk0boot0, mmcblk0gp0,
	// mmcblk0rpmb.
	mmcArea = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^mmcblk\d+[a-z]`) })
	// networkBus matches the location of a disk that is attached through a network: an iSCSI
	// or iSER session, a Fibre Channel or FCoE port, or SRP.
	networkBus = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`/(session\d+|rport-[^/]*|infiniband_srp)/`) })
	usbBus     = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`/usb\d+/`) })
	fireWire   = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`/fw\d+/`) })
	memoryCard = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(mspblk|msblk)\d`) })
)

// notDisk reports whether a block device is not a disk of this machine.
func notDisk(name string, l location) bool {
	switch {
	case !diskName(name), notDisks().MatchString(name), nvmePath().MatchString(name), mmcArea().MatchString(name):
		return true
	case text(l.dir, "hidden") == "1": // the kernel makes no node in /dev for it
		return true
	case strings.HasPrefix(l.bus, "/rbd/"), networkBus().MatchString(l.bus):
		return true
	case strings.HasPrefix(l.bus, "/virtual/") && !strings.HasPrefix(l.bus, "/virtual/nvme-subsystem/"):
		return true // a virtual device is not hardware, except an NVMe namespace with several paths
	}
	return slices.ContainsFunc(transports(l), func(t string) bool { return t != "pcie" && t != "apple-nvme" })
}

// transports returns the transports of an NVMe disk's controllers: "pcie", or "tcp", "rdma" and
// "fc" for NVMe over fabrics. The controllers of a namespace with several paths are in the folder
// of its subsystem.
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

// The function `external` returns the reason why a disk may be external, or "" if it is built in.
// If the kernel does not report whether a disk is removable, the disk counts as removable.
func external(name string, l location) string {
	switch {
	case text(l.dir, "removable") != "0":
		return "removable"
	case usbBus().MatchString(l.bus):
		return "on USB"
	case fireWire().MatchString(l.bus):
		return "on FireWire"
	case strings.HasPrefix(name, "mmcblk") && text(l.dir, "device/type") != "MMC", memoryCard().MatchString(name):
		return "a memory card"
	}
	// The kernel marks a PCI device as "removable" if it is behind a port that firmware calls
	// external, such as Thunderbolt.
	if l.ancestor(func(dir string) bool { return text(dir, "removable") == "removable" }) != "" {
		return "on an external port"
	}
	return ""
}

// ancestor returns the nearest folder above the disk's folder for which the function `is` returns
// true, or "" if there is no such folder.
func (l location) ancestor(is func(dir string) bool) string {
	root := strings.TrimSuffix(l.dir+"/", l.bus)
	for dir := filepath.Dir(l.dir); len(dir) > len(root); dir = filepath.Dir(dir) {
		if is(dir) {
			return dir
		}
	}
	return ""
}

// usbSerial returns the serial number of the USB device that contains the disk. It is used because
// Linux does not ask a USB disk for the disk's own serial number.
func usbSerial(l location) string {
	if device := l.ancestor(func(dir string) bool { return text(dir, "idVendor") != "" }); device != "" {
		return text(device, "serial")
	}
	return ""
}

// sticks returns the disks from which the installer may have been started, and those that may be
// copies of them. It maps the name of each such disk to the reason. `known` contains names of disks
// and lower-case GUIDs of partitions, by which the installer knows the medium from which it runs.
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
			why[d.Name] = "the stick that the installer was started from"
		}
	}
	for name := range why {
		known = append(known, guids[name]...)
	}
	for _, d := range disks {
		if why[d.Name] == "" && slices.ContainsFunc(guids[d.Name], func(g string) bool { return slices.Contains(known, g) }) {
			why[d.Name] = "the stick that the installer was started from, or a copy of the stick: a partition has the same GUID"
		}
	}
	return why
}

// partitionGUIDs returns the GUIDs of a disk's partitions, in lower case. If the disk has no GUID
// partition table, the result is empty.
func partitionGUIDs(dev string, d Disk) (out []string) {
	if sectorProblem(d.Sector) != "" {
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

// Open opens a disk for exclusive use. `dev` is /dev. Open fails if the name d.Name now refers to
// another disk, which can happen if a person replugged disks after d was listed.
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

// check returns an error if the opened disk, with the sequence number `seq` and the given size, is
// not the listed disk d. If `seq` is 0, the sequence number of the opened disk is unknown.
func (d Disk) check(seq uint64, size int64) error {
	if (d.Seq != 0 && seq != 0 && seq != d.Seq) || size != d.Size {
		return fmt.Errorf("install: %s is no longer the disk that was chosen, because a disk was unplugged or plugged in after the choice; nothing was written; choose the disk again", d.Path())
	}
	return nil
}

// seq returns the kernel's sequence number of the device (Disk.Seq). The number is 0 for an image
// file, and on Linux before 5.15.
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
	return 0, fmt.Errorf("install: reading the disk's sequence number (BLKGETDISKSEQ): %w", e)
}

package installer

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"gangway/device/install"
	"gangway/device/install/netfile"
	"gangway/device/machine"

	"golang.org/x/sys/unix"
)

// Stick is the stick that the machine was started from.
type Stick struct {
	Disk     string // "sda"
	Manifest *install.Manifest
	SHA256   string            // SHA-256 of the manifest, in lower-case hexadecimal
	network  *netfile.Settings // nil: none
}

// stickDir is the mount point of the stick's EFI system partition.
const stickDir = "/run/stick"

// The errors of Sticks.Find.
var (
	errNoManifest = errors.New("the kernel's command line names no manifest: this system was not started from an installer stick; start the machine from a stick")
	errNoStick    = errors.New("the stick that this machine was started from was not found; check that it is plugged in")
	errOther      = errors.New("another manifest")
	errMode       = errors.New("the machine was started in a mode (install or wipe) that differs from the mode in the stick's manifest; write the stick again")
)

// sticks finds the stick among the partitions of this machine.
type sticks struct {
	dev, class string // /dev, and the folder of disks and partitions in /sys
	mounts     string // /proc/mounts
	dir, other string // mount points: `dir` for the stick, `other` for a partition that is only examined
	reset      bool   // the machine was started to be wiped
	mount      func(partition, at string, flags uintptr) error
	unmount    func(at string, force bool) error
	bootedFrom func() (espGUID string, err error)
}

func localSticks(reset bool) *sticks {
	return &sticks{
		dev: "/dev", class: machine.SysClass, mounts: "/proc/mounts", dir: stickDir, other: "/run/other", reset: reset,
		mount: machine.MountFAT, unmount: machine.Unmount, bootedFrom: machine.Firmware.BootedFrom,
	}
}

// Find implements Sticks.
func (s *sticks) Find(manifest string, patience time.Duration) (*Stick, error) {
	if len(manifest) != 2*sha256.Size {
		return nil, errNoManifest
	}
	for until := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		entries, err := os.ReadDir(s.class)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if found, err := s.try(e.Name(), manifest); err == nil {
				return found, nil
			}
		}
		if time.Now().After(until) {
			return nil, errNoStick
		}
	}
}

// try mounts a partition. If the partition does not have the manifest, try unmounts it again.
func (s *sticks) try(partition, manifest string) (*Stick, error) {
	if !machine.IsFAT(filepath.Join(s.dev, partition)) {
		return nil, errors.New("not a FAT file system")
	}
	if err := s.mount(partition, s.dir, unix.MS_RDONLY); err != nil {
		return nil, err
	}
	m, err := s.readManifest(manifest)
	if err != nil {
		s.unmount(s.dir, false)
		return nil, err
	}
	return &Stick{Disk: machine.DiskOf(s.class, partition), Manifest: m, SHA256: manifest}, nil
}

// Mounted implements Sticks.
func (s *sticks) Mounted(manifest string) (*Stick, error) {
	m, err := s.readManifest(manifest)
	if err != nil {
		return nil, err
	}
	disk := ""
	if partition := machine.MountedAt(s.mounts, s.dir); partition != "" {
		disk = machine.DiskOf(s.class, partition)
	}
	return &Stick{Disk: disk, Manifest: m, SHA256: manifest}, nil
}

// readManifest reads the manifest of the mounted stick.
func (s *sticks) readManifest(want string) (*install.Manifest, error) {
	b, err := manifestIn(s.dir, want)
	if err != nil {
		return nil, err
	}
	m, err := install.ParseManifest(b)
	if err == nil && m.Reset != s.reset {
		return nil, errMode
	}
	return m, err
}

// manifestIn returns the manifest of a mounted partition if the manifest's SHA-256 is `want`.
func manifestIn(dir, want string) ([]byte, error) {
	f, err := os.Open(filepath.Join(dir, install.ManifestPath))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return nil, err
	}
	if h := sha256.Sum256(b); hex.EncodeToString(h[:]) != want {
		return nil, errOther
	}
	return b, nil
}

// Network implements Sticks.
func (s *sticks) Network() (*netfile.Settings, error) {
	settings, err := install.ReadNetwork(s.dir)
	if err != nil || settings.Empty() {
		return nil, err
	}
	return settings, nil
}

// Marks implements Sticks. It returns the name of the stick's disk, the GUID of the partition that
// the firmware started, and the names of other disks with the same manifest. A disk with the same
// manifest is another stick with the same image, or the same stick in another port.
func (s *sticks) Marks(stick *Stick) []string {
	marks := []string{stick.Disk}
	if guid, err := s.bootedFrom(); err == nil {
		marks = append(marks, guid)
	}
	entries, err := os.ReadDir(s.class)
	if err != nil {
		return marks
	}
	for _, e := range entries {
		if disk := machine.DiskOf(s.class, e.Name()); !slices.Contains(marks, disk) && s.has(e.Name(), stick.SHA256) {
			marks = append(marks, disk)
		}
	}
	return marks
}

// The method `has` reports whether a partition contains the manifest whose SHA-256 is `manifest`.
func (s *sticks) has(partition, manifest string) bool {
	if !machine.IsFAT(filepath.Join(s.dev, partition)) || s.mount(partition, s.other, unix.MS_RDONLY) != nil {
		return false
	}
	defer s.unmount(s.other, false)
	_, err := manifestIn(s.other, manifest)
	return err == nil
}

// Forget implements Sticks.
func (s *sticks) Forget() { s.unmount(s.dir, true) }

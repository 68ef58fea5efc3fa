package installer

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
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

// Where things are while the installer runs.
const (
	stickDir = "/run/stick"
	espDir   = "/run/esp"
)

// stick is what the machine was started from.
type stick struct {
	disk     string // "sda"
	manifest *install.Manifest
	sha256   string // of the manifest
	// network are the stick's network settings; nil: none.
	network *netfile.Settings
}

// findStick mounts the partition that holds the manifest of this hash. USB
// takes its time, so it waits for it.
func findStick(want string, patience time.Duration) (*stick, error) {
	if len(want) != 2*sha256.Size {
		return nil, errors.New("the command line names no manifest: this is no installer")
	}
	for until := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		entries, err := os.ReadDir("/sys/class/block")
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			s, err := tryStick(e.Name(), want)
			if err == nil {
				return s, nil
			}
		}
		if time.Now().After(until) {
			return nil, errors.New("the stick that this was started from cannot be found: is it still in?")
		}
	}
}

func tryStick(name, want string) (*stick, error) {
	if !machine.IsFAT("/dev/" + name) {
		return nil, errors.New("no FAT")
	}
	if err := machine.MountFAT(name, stickDir, unix.MS_RDONLY); err != nil {
		return nil, err
	}
	m, err := readManifest(want)
	if err != nil {
		unix.Unmount(stickDir, 0)
		return nil, err
	}
	return &stick{disk: machine.DiskOf(name), manifest: m, sha256: want}, nil
}

// readNetwork reads the network settings, which a person may have edited.
func (s *stick) readNetwork() error {
	settings, err := install.ReadNetwork(stickDir)
	if err != nil {
		return fmt.Errorf("The stick's network settings cannot be used:\n%w", err) //lint:ignore ST1005 it is shown to a person
	}
	if s.network = settings; settings.Empty() {
		s.network = nil
	}
	return nil
}

// bringNetwork hands the stick's network settings to the system that it has
// installed already. The system looks whether they are other ones.
func (s *stick) bringNetwork(i *install.Installed) error {
	if s.network == nil {
		return nil
	}
	if err := machine.MountFAT(i.ESP(), espDir, 0); err != nil {
		return err
	}
	return errors.Join(install.BringNetwork(espDir, s.network), unix.Unmount(espDir, 0))
}

// known is all by which the stick is recognised (install.Disks): its disk's name;
// the GUID of the partition that firmware started; and the disks that have its
// manifest, as a second stick of the same image, and the first one after it was
// plugged in again.
func (s *stick) known() []string {
	known := []string{s.disk}
	if guid, err := machine.Firmware.BootedFrom(); err == nil {
		known = append(known, guid)
	}
	entries, err := os.ReadDir("/sys/class/block")
	if err != nil {
		return known
	}
	for _, e := range entries {
		if disk := machine.DiskOf(e.Name()); !slices.Contains(known, disk) && holds(e.Name(), s.sha256) {
			known = append(known, disk)
		}
	}
	return known
}

// holds reports whether a partition has the manifest of a hash.
func holds(name, want string) bool {
	const at = "/run/other"
	if !machine.IsFAT("/dev/"+name) || machine.MountFAT(name, at, unix.MS_RDONLY) != nil {
		return false
	}
	defer unix.Unmount(at, 0)
	_, err := manifestAt(at, want)
	return err == nil
}

// manifestAt reads the manifest of a hash in a mounted partition.
func manifestAt(dir, want string) ([]byte, error) {
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
		return nil, errors.New("another manifest")
	}
	return b, nil
}

// readManifest reads the mounted stick's.
func readManifest(want string) (*install.Manifest, error) {
	b, err := manifestAt(stickDir, want)
	if err != nil {
		return nil, err
	}
	m, err := install.ParseManifest(b)
	if err == nil && m.Reset != (machine.CommandLine()["gangway.mode"] == "reset") {
		return nil, errors.New("what was started is not what the stick is for")
	}
	return m, err
}

package installer

import (
	"context"
	"errors"
	"os"
	"time"

	"gangway/device/install"
	"gangway/device/install/luks"
	"gangway/device/install/netfile"
	"gangway/device/machine"
	"gangway/device/preflight"
	"gangway/tcg/eventlog"

	"golang.org/x/sys/unix"
)

// espDir is the mount point of an installed system's EFI system partition.
const espDir = "/run/esp"

// Local returns an Installer for the machine on which this program runs. `reset` is set if the
// machine was started to be wiped.
func Local(manifest string, reset bool, s Screen, p Power) *Installer {
	return &Installer{
		Manifest: manifest, Screen: s, Power: p,
		Sticks: localSticks(reset), Disks: localDisks{}, TPM: localTPM{s.Logf}, Firmware: machine.Firmware,
		Machine: preflight.Machine{OpenTPM: machine.OpenTPM, EventLog: eventlog.Path, Firmware: machine.Firmware, Now: time.Now},
	}
}

type localDisks struct{}

func (localDisks) List(marks ...string) ([]install.Disk, error) {
	return install.Disks(machine.SysBlock, "/dev", marks...)
}

func (localDisks) System(d install.Disk) (*install.Installed, error) {
	return install.Look("/dev", d.Name)
}

func (localDisks) Install(s *Stick, d *install.Disk, slots []luks.Slot, progress install.Progress) error {
	target, err := d.Open("/dev")
	if err != nil {
		return err
	}
	defer target.Close()
	return install.Job{
		Manifest: s.Manifest, Stick: os.DirFS(stickDir), Target: target,
		DiskGUID: install.DiskGUID(s.SHA256), Network: s.network, Encrypt: slots, Progress: progress,
	}.Run(context.Background())
}

func (localDisks) BringNetwork(i *install.Installed, s *netfile.Settings) error {
	if err := machine.MountFAT(i.ESP(), espDir, 0); err != nil {
		return err
	}
	return errors.Join(install.WritePendingNetwork(espDir, s), machine.Unmount(espDir, false))
}

func (localDisks) Erase(d install.Disk, i *install.Installed, progress install.Progress) error {
	return on(d, func(t *install.Device) error { return install.Erase(context.Background(), t, i, progress) })
}

func (localDisks) Unlist(d install.Disk, progress install.Progress) error {
	return on(d, func(t *install.Device) error { return install.Unlist(t, progress) })
}

func (localDisks) Sync() { unix.Sync() }

func on(d install.Disk, do func(*install.Device) error) error {
	t, err := d.Open("/dev")
	if err != nil {
		return err
	}
	return errors.Join(do(t), t.Close())
}

type localTPM struct {
	logf func(format string, args ...any)
}

func (localTPM) Check() error { return machine.CheckTPM() }
func (localTPM) Clear() error { return machine.ClearTPM() }

func (t localTPM) NewKeys(m *install.Manifest) (*Keys, error) {
	machine.LiftLockout(t.logf)
	tpm, err := machine.OpenTPM()
	if err != nil {
		return nil, err
	}
	defer tpm.Close()
	return newKeys(tpm, m)
}

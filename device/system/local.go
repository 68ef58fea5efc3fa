package system

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"gangway/device/install"
	"gangway/device/install/slots"
	"gangway/device/machine"
	"gangway/device/network"

	"golang.org/x/sys/unix"
)

const (
	agentPath = "/bin/gangway-agent"
	// escrowPath is the path of the file with the encrypted recovery key, which the agent reports.
	// The file is in memory.
	escrowPath = "/run/disk-recovery.age"
	// networkReport is the path of the file with the text that the agent reports as networkMeta.
	// The file is in memory.
	networkReport = "/run/gangway-network-report.txt"
)

var localPaths = Paths{
	Dev: "/dev", ESP: "/run/esp", Data: "/data",
	NetworkReport: networkReport, Escrow: escrowPath, Settings: network.SettingsPath, RevisionKey: "/" + install.RevisionKeyPath,
}

// LocalAgent runs the agent of this machine, and writes the agent's output to the consoles.
type LocalAgent struct {
	Processes *machine.Processes
	Copy      func(io.Reader)
}

// Run implements Agent.
func (a LocalAgent) Run(args ...string) (int, error) {
	return a.Processes.Run(a.Copy, agentPath, args...)
}

// Local returns the System of this machine. The caller sets Watchdog, Terminals, Wipe,
// Restart and Network.
func Local(s Screen, agent Agent) *System {
	return &System{
		Screen: s, Agent: agent, TPM: localTPM{s.Logf}, Firmware: machine.Firmware, Disks: localDisks{localPaths}, Slots: localSlots{slotHook(os.Stdout)},
		BootID: machine.BootID, TrialTime: TrialTime, NetworkTime: NetworkTime, Paths: localPaths,
	}
}

// LocalHook returns the Hook of this machine. The hook writes its messages for the owner to `out`.
func LocalHook(out io.Writer, logf func(format string, args ...any)) *Hook {
	h := slotHook(out)
	return &Hook{Logf: logf, Paths: localPaths, Slots: h, Restart: h.Restart, SetPIN: setPIN, In: os.Stdin, Out: out, ErrOut: os.Stderr}
}

// slotHook returns the Hook that updates this machine's system. The disk must be mounted.
func slotHook(out io.Writer) *slots.Hook {
	return &slots.Hook{
		ESP: slots.ESP{Dir: localPaths.ESP, Firmware: machine.Firmware}, Dir: localPaths.Data + "/gangway-system", Volatile: "/run/gangway-system",
		Synchronous: func(on bool) {
			if err := machine.SetSynchronous(localPaths.ESP, on); err != nil {
				fmt.Fprintf(out, "%s: %v\n", localPaths.ESP, err)
			}
		},
		Out: out, Restart: machine.RestartNow, BindKey: bindKeyTo,
	}
}

// The function `started` returns the installed system from which this machine started.
func started() (*install.Installed, error) {
	guid, err := machine.Firmware.BootedFrom()
	if err != nil {
		return nil, err
	}
	return localDisks{localPaths}.Find(guid)
}

// setPIN sets, changes or removes the PIN of this machine's disk.
func setPIN(current, pin string) error {
	i, err := started()
	if err != nil {
		return err
	}
	words, err := machine.CommandLine()
	if err != nil {
		return err
	}
	_, running, others, err := slotFiles(localPaths)
	if err != nil {
		return err
	}
	return machine.SetPIN(filepath.Join(localPaths.Dev, i.Data()), running, others, words["gangway.disk-pin"] == "allow", current, pin)
}

// bindKeyTo binds the key of this machine's disk to the system in a slot, before the system starts
// for the first time. If every system can open the disk, the key needs no binding.
func bindKeyTo(to slots.Slot) error {
	i, err := started()
	if err != nil {
		return err
	}
	if _, err = bindKey(localPaths, i, to); errors.Is(err, machine.ErrNotBound) {
		return nil
	}
	return err
}

// bindKey binds the disk's key to the running system, and to the system in the other slot. If the
// system in the slot `needed` could not open the disk, bindKey changes nothing and returns an
// error. With slots.None, only the running system must be able to open the disk.
func bindKey(p Paths, i *install.Installed, needed slots.Slot) (changed bool, err error) {
	slot, running, others, err := slotFiles(p)
	if err != nil {
		return false, err
	}
	must := ""
	if needed == slot.Other() && len(others) > 0 {
		must = others[0]
	}
	return machine.BindData(filepath.Join(p.Dev, i.Data()), running, others, must)
}

// slotFiles returns the slot and the file of the running system, and the file of the system in the
// other slot, if there is one.
func slotFiles(p Paths) (slot slots.Slot, running string, others []string, err error) {
	esp := slots.ESP{Dir: p.ESP, Firmware: machine.Firmware}
	if slot, err = esp.Running(); err != nil {
		return slot, "", nil, err
	}
	if running, err = esp.File(slot); err != nil {
		return slot, "", nil, err
	}
	switch other, err := esp.File(slot.Other()); {
	case err == nil:
		others = append(others, other)
	case !errors.Is(err, fs.ErrNotExist):
		return slot, "", nil, err
	}
	return slot, running, others, nil
}

type localSlots struct{ hook *slots.Hook }

func (l localSlots) Trial() (running, kept slots.Slot, tried bool, err error) { return l.hook.Trial() }
func (l localSlots) Default() (slots.Slot, error)                             { return l.hook.ESP.Default() }

type localTPM struct {
	logf func(format string, args ...any)
}

func (localTPM) Check() error   { return machine.CheckTPM() }
func (t localTPM) LiftLockout() { machine.LiftLockout(t.logf) }

type localDisks struct{ paths Paths }

func (d localDisks) Find(espGUID string) (*install.Installed, error) {
	i, err := install.Find(machine.SysBlock, d.paths.Dev, espGUID)
	if err == nil && !exists(d.paths.Dev+"/"+i.Data()) {
		return nil, fs.ErrNotExist
	}
	return i, err
}

func (d localDisks) MountESP(i *install.Installed) error {
	return machine.MountFAT(i.ESP(), d.paths.ESP, unix.MS_SYNCHRONOUS)
}

func (d localDisks) Unlock(i *install.Installed, ask func(why string) string) (device string, encrypted bool, err error) {
	return machine.UnlockData(d.paths.Dev+"/"+i.Data(), ask)
}

func (d localDisks) ClearTPM(i *install.Installed) error {
	return machine.ClearProtectedTPM(d.paths.Dev + "/" + i.Data())
}

func (d localDisks) BindKey(i *install.Installed, needed slots.Slot) (changed bool, err error) {
	return bindKey(d.paths, i, needed)
}

func (d localDisks) MountData(device string) error { return machine.MountData(device, d.paths.Data) }

func (d localDisks) Grow(device string) (int64, error) { return machine.Grow(device, d.paths.Data) }

// Command gangway-init is the first process of Gangway's machines, which have
// nothing but a kernel and the agent: it mounts what the kernel offers, loads
// the modules that its image brings, gets an address by DHCP and runs
// gangway-agent. It is the installer too, by the name of pvf-install the
// command with which a person installs, and by that of gangway-hook what the
// agent calls to update the system.
//
// It reads the kernel's command line, which is measured:
//
//	gangway.mode=auto           install to the disk that the image's rule chooses
//	gangway.mode=tpm            the same, encrypted
//	gangway.mode=manual         a shell, and pvf-install
//	gangway.mode=reset          wipe the machine for another owner
//	gangway.mode=system         an installed system: state is on its disk
//	gangway.manifest=SHA256     what the stick installs
//	gangway.poweroff=onboarded  power off as soon as the machine is aboard
//	gangway.poweroff=exit       power off when the agent ends
//	gangway.show=boot           print the firmware's event log and the PCRs
//
// Without a mode, state is in memory: at each boot the machine onboards anew, and its TPM makes
// it the same device.
//
// Its files are /etc/gangway/device_autojointoken.json, /bin/gangway-agent, perhaps
// /etc/gangway/network.txt, and /lib/modules/order, which names the modules beside it, one a line.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"gangway/device/install"
	"gangway/device/installer"
	"gangway/device/machine"
	"gangway/device/network"
	"gangway/device/screen"
	"gangway/device/system"
)

// Tests set other bounds when they build this program: system.TrialTime,
// system.NetworkTime and machine.WatchdogEvery.
var trialTime, networkTime, watchdogEvery string

func main() {
	for to, flag := range map[*string]string{&system.TrialTime: trialTime, &system.NetworkTime: networkTime, &machine.WatchdogEvery: watchdogEvery} {
		if flag != "" {
			*to = flag
		}
	}
	if filepath.Base(os.Args[0]) == "pvf-install" {
		os.Exit(installer.Command(os.Args[1:]))
	}
	if filepath.Base(os.Args[0]) == filepath.Base(install.HookPath) {
		os.Exit(system.Hook(os.Args[1:]))
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "gangway-init is the first process of a machine, and of no use here: see gangway-agent.")
		os.Exit(2)
	}
	for _, err := range machine.MountAll() {
		screen.Say("%v", err)
	}
	screen.Open()
	words := machine.CommandLine()
	go machine.Reap()
	screen.Say("up")
	for _, err := range machine.LoadModules("/lib/modules") {
		screen.Say("%v", err)
	}
	if words["gangway.show"] == "boot" {
		machine.ShowBoot()
	}
	if words["gangway.mode"] != "" {
		machine.MountFirmware()
	}
	switch words["gangway.mode"] {
	case "auto":
		installer.Automatic(words["gangway.manifest"], false)
	case "tpm":
		installer.Automatic(words["gangway.manifest"], true)
	case "manual":
		installer.Manual(words["gangway.manifest"])
	case "reset":
		installer.Reset(words["gangway.manifest"])
	case "system":
		system.Run()
	}
	settings, err := network.Live()
	if err != nil {
		screen.Alarm("%v", err)
	}
	network.Up(settings)
	system.Live(words["gangway.poweroff"])
	machine.PowerOff()
}

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
	"strings"
	"time"

	"gangway/device/install"
	"gangway/internal/version"

	"golang.org/x/sys/unix"
)

const (
	agentPath = "/bin/gangway-agent"
	tokenPath = "/etc/gangway/device_autojointoken.json"
	stateDir  = "/run/gangway-agent"

	// exitRefused is the agent's when the hub refuses for good.
	exitRefused = 3
	// pause is how long to wait before the agent is started again.
	pause = 10 * time.Second
)

func main() {
	if filepath.Base(os.Args[0]) == "pvf-install" {
		os.Exit(pvfInstall(os.Args[1:]))
	}
	if filepath.Base(os.Args[0]) == filepath.Base(install.HookPath) {
		os.Exit(systemHook(os.Args[1:]))
	}
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		fmt.Printf("gangway-init %s\n", version.Current)
		return
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "gangway-init is the first process of a machine, and of no use here: see gangway-agent.")
		os.Exit(2)
	}
	for _, err := range mountAll() {
		say("%v", err)
	}
	openConsoles()
	words := commandLine()
	go reap()
	say("up, version %s", version.Current)
	for _, err := range loadModules("/lib/modules") {
		say("%v", err)
	}
	if words["gangway.show"] == "boot" {
		showBoot()
	}
	if words["gangway.mode"] != "" {
		mountFirmware()
	}
	switch words["gangway.mode"] {
	case "auto":
		automatic(words["gangway.manifest"], false)
	case "tpm":
		automatic(words["gangway.manifest"], true)
	case "manual":
		manual(words["gangway.manifest"])
	case "reset":
		reset(words["gangway.manifest"])
	case "system":
		system()
	}
	settings, err := liveNetwork()
	if err != nil {
		alarm("%v", err)
	}
	network(settings)
	live(words["gangway.poweroff"])
	powerOff()
}

// commandLine is the kernel's, as words; those with = are split there.
func commandLine() map[string]string {
	words := map[string]string{}
	b, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		say("command line: %v", err)
	}
	for w := range strings.FieldsSeq(string(b)) {
		k, v, _ := strings.Cut(w, "=")
		words[k] = v
	}
	return words
}

// live runs the agent until the machine is to be switched off.
func live(poweroff string) {
	for {
		code, err := run(agentPath, "onboard", "--set-clock", "--network-file", networkPath, "--token-file", tokenPath, "--state", stateDir)
		if err == nil && code == 0 {
			say("onboarded")
			if poweroff == "onboarded" {
				return
			}
			code, err = run(agentPath, "run", "--set-clock", "--network-file", networkPath, "--state", stateDir)
		}
		switch {
		case err != nil:
			say("the agent cannot be run: %v", err)
		default:
			say("the agent ended with code %d", code)
		}
		if poweroff != "" {
			return
		}
		if code == exitRefused { // a person has to change something first
			time.Sleep(time.Hour)
		}
		time.Sleep(pause)
	}
}

func powerOff() {
	say("power off")
	leave(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func restart() {
	say("restart")
	leave(unix.LINUX_REBOOT_CMD_RESTART)
}

func leave(how int) {
	unix.Sync()
	if err := unix.Reboot(how); err != nil {
		say("the machine does not switch itself off: %v", err)
	}
	for { // the kernel panics when its first process ends
		time.Sleep(time.Hour)
	}
}

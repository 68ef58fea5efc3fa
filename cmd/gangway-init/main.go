// Command gangway-init is the first process (PID 1) of Gangway's machines, whose images have only a
// kernel and the agent. It mounts the kernel's file systems, loads the kernel modules of its image,
// connects to the network, and runs gangway-agent. It also contains the installer. Under the name
// pvf-install, it is the command with which a person installs a machine. Under the name
// gangway-hook, it is the program that the agent calls to update the system.
//
// It reads its settings from the kernel's command line, which firmware measures:
//
//	gangway.mode=auto           install to the disk that the image's rule chooses
//	gangway.mode=tpm            install as with auto, and encrypt the data partition
//	gangway.mode=manual         run a shell, in which a person calls pvf-install
//	gangway.mode=reset          wipe the machine for another owner
//	gangway.mode=system         run an installed system, whose state is on its disk
//	gangway.manifest=SHA256     hash of the manifest of the stick
//	gangway.console=LEVEL       limit the console of the machine: off, read, on or full
//	gangway.disk-pin=allow      allow a person at the console to give the disk a PIN
//	gangway.poweroff=onboarded  power off as soon as the machine is onboarded
//	gangway.poweroff=exit       power off when the agent ends
//	gangway.show=boot           print the firmware's event log and the PCRs
//
// Without gangway.mode, the agent's state is only in memory, so the machine onboards again at each
// boot. To the hub, it is still the same device, because its TPM is the same.
//
// The image has the files /etc/gangway/device_autojointoken.json, /bin/gangway-agent,
// /etc/gangway/network.txt (optional) and /lib/modules/order. The last file names the modules in
// the folder /lib/modules, one on each line.
//
// The packages device/screen, device/machine, device/network, device/installer and device/system
// do the work. This package only connects them.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"time"

	"gangway/device/console/access"
	"gangway/device/install"
	"gangway/device/installer"
	"gangway/device/machine"
	"gangway/device/network"
	"gangway/device/screen"
	"gangway/device/system"
	"gangway/internal/version"

	"golang.org/x/sys/unix"
)

// Tests set these variables when they build the program (-ldflags -X). A variable that is set
// replaces system.TrialTime, system.NetworkTime or machine.WatchdogEvery.
var trialTime, networkTime, watchdogEvery string

// bound parses a time limit. If `text` is not a duration, bound returns the argument `otherwise`.
func bound(text string, otherwise time.Duration) time.Duration {
	if d, err := time.ParseDuration(text); err == nil {
		return d
	}
	return otherwise
}

func main() {
	switch name := filepath.Base(os.Args[0]); {
	case name == "pvf-install":
		os.Exit(pvfInstall(os.Args[1:]))
	case name == filepath.Base(install.HookPath):
		os.Exit(hook(os.Args[1:]))
	case len(os.Args) == 2 && os.Args[1] == "--version":
		fmt.Printf("gangway-init %s\n", version.Current)
		return
	case os.Getpid() != 1:
		fmt.Fprintln(os.Stderr, "gangway-init runs only as the first process of a machine. To onboard this machine, use gangway-agent.")
		os.Exit(2)
	}
	boot()
}

// pvfInstall runs pvf-install, the command with which a person installs a machine in the manual
// mode (gangway.mode=manual).
func pvfInstall(args []string) int {
	words, err := machine.CommandLine()
	if err != nil {
		fmt.Fprintf(os.Stderr, "pvf-install: the kernel's command line: %v\n", err)
	}
	terminal := screen.New(screen.Console{ReadWriter: os.Stdout})
	i := installer.Local(words["gangway.manifest"], words["gangway.mode"] == "reset", terminal, machine.Power{Logf: terminal.Logf})
	c := installer.Command{Installer: i, In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
	return c.Run(args)
}

// hook runs gangway-hook, the command that the agent calls to update the system. It writes the
// messages for the owner to the standard output, and the messages for a person at the machine to
// the consoles.
func hook(args []string) int {
	consoles := sync.OnceValue(screen.Open)
	return system.LocalHook(os.Stdout, func(format string, args ...any) { consoles().Logf(format, args...) }).Run(args)
}

// boot runs as PID 1. It does not return.
func boot() {
	mounted := machine.Mount()
	s := screen.Open()
	for _, err := range mounted {
		s.Logf("%v", err)
	}
	words, err := machine.CommandLine()
	if err != nil {
		s.Logf("command line: %v", err)
	}
	processes := machine.NewProcesses()
	go processes.Reap()
	s.Logf("up, version %s", version.Current)
	for _, err := range machine.LoadModules("/lib/modules") {
		s.Logf("%v", err)
	}
	if words["gangway.show"] == "boot" {
		machine.LogBoot(s.Logf)
	}
	mode, power := words["gangway.mode"], machine.Power{Logf: s.Logf}
	if mode != "" {
		if err := machine.MountFirmware(); err != nil {
			s.Logf("%v", err)
		}
	}
	agent := system.LocalAgent{Processes: processes, Copy: s.Copy}
	stick := installer.Local(words["gangway.manifest"], mode == "reset", s, power)
	switch mode {
	case "auto":
		stick.Automatic(false)
	case "tpm":
		stick.Automatic(true)
	case "manual":
		requests := make(chan os.Signal, 1)
		signal.Notify(requests, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2)
		stick.Manual(s.Terminals("tty1"), processes.Shell, requests) // tty0 is an alias of the foreground terminal
	case "reset":
		stick.Reset()
	case "system":
		i := installed(s, agent, power, stick)
		i.Terminals = terminals(s, processes, consoleLimit(words, s.Logf), i.Paths.AgentState())
		i.Run()
	}
	settings, err := network.LiveSettings()
	if err != nil {
		s.Alarmf("%v", err)
	}
	network.New(s).Up(settings)
	t := terminals(s, processes, consoleLimit(words, s.Logf), system.LiveState)
	t.Mounted()
	t.Start()
	system.Live(agent, network.SettingsPath, words["gangway.poweroff"], s.Logf)
	power.PowerOff()
}

// consoleLimit returns the highest access level that the image allows on the machine's console. The
// image gives this level in the parameter gangway.console of the kernel's command line. If the
// parameter is not a valid level, the result is Read, because the person who built the image wanted
// a limit.
func consoleLimit(words map[string]string, logf func(format string, args ...any)) access.Level {
	word, set := words["gangway.console"]
	if !set {
		return access.Full
	}
	limit, err := access.Parse(word)
	if err != nil {
		logf("gangway.console: %v", err)
		return access.Read
	}
	return limit
}

// consoleLog is the path of the log that the console shows. The file is in a file system in memory.
const consoleLog = "/run/gangway.log"

// terminals returns the Terminals for the screen and the serial ports of this machine.
func terminals(s *screen.Screen, processes *machine.Processes, limit access.Level, state string) *system.Terminals {
	s.KeepLog(consoleLog)
	if limit != access.Off {
		s.Hint("Press Enter for the machine's console.")
	}
	return &system.Terminals{
		PasswordFile: "/" + install.ConsolePath, Shells: s.Terminals("tty2"), Consoles: s.Terminals("tty1"), Limit: limit, Logf: s.Logf, Shell: processes.Shell,
		Console: func(terminal string, limit access.Level) error {
			defer s.Lend(terminal)()
			args := []string{"console", "--limit", limit.String(), "--machine-hook", "/" + install.HookPath, "--log-file", consoleLog, "--idle", consoleIdle, "--state", state}
			if _, err := os.Stat(network.SettingsPath); err == nil { // it does not exist while the disk is locked
				args = append(args, "--network-file", network.SettingsPath)
			}
			return processes.OnTerminal(terminal, nil, "/bin/gangway-agent", args...)
		},
	}
}

// consoleIdle is the time without a key press after which the console closes. Then the screen shows
// the machine's status and its log again.
const consoleIdle = "10m"

// The function `installed` returns the system.System of this machine.
func installed(s *screen.Screen, agent system.Agent, power machine.Power, stick *installer.Installer) *system.System {
	i := system.Local(s, agent)
	i.Network, i.Restart = network.New(s), power.Restart
	i.Wipe = func(espGUID string) {
		if err := machine.Unmount(i.Paths.ESP, false); err != nil {
			s.Logf("%v", err)
		}
		stick.WipeSystem(espGUID)
	}
	i.TrialTime, i.NetworkTime = bound(trialTime, system.TrialTime), bound(networkTime, system.NetworkTime)
	i.Watchdog = func() { machine.Watchdog(bound(watchdogEvery, machine.WatchdogEvery), s.Logf) }
	return i
}

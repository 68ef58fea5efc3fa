// Command gangway-init is the first process of a machine that has nothing but
// a kernel and the agent: it mounts what the kernel offers, loads the modules
// that its image brings, gets an address by DHCP and runs gangway-agent.
//
// It reads the kernel's command line, which is measured:
//
//	gangway.poweroff=onboarded  power off as soon as the machine is aboard
//	gangway.poweroff=exit       power off when the agent ends
//	gangway.show=boot           print the firmware's event log and the PCRs
//
// State is in memory: at each boot the machine onboards anew, and its TPM makes
// it the same device. The address is not renewed, so it lasts as long as the
// lease.
//
// Its files are /etc/gangway/device_autojointoken.json, /bin/gangway-agent and
// /lib/modules/order, which names the modules beside it, one a line.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

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
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "gangway-init is the first process of a machine, and of no use here: see gangway-agent.")
		os.Exit(2)
	}
	for _, err := range mountAll() {
		say("%v", err)
	}
	words := commandLine()
	say("up")
	for _, err := range loadModules("/lib/modules") {
		say("%v", err)
	}
	if words["gangway.show"] == "boot" {
		showBoot()
	}
	network()
	live(words["gangway.poweroff"])
	powerOff()
}

// say prints a line to the console, with the seconds since the kernel started.
func say(format string, args ...any) {
	up := "?"
	if b, err := os.ReadFile("/proc/uptime"); err == nil {
		up, _, _ = strings.Cut(string(b), " ")
	}
	// One write, so that the kernel's own lines do not fall into it.
	fmt.Fprintf(os.Stdout, "gangway-init [%s]: %s\n", up, fmt.Sprintf(format, args...))
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
		code, err := run(agentPath, "onboard", "--token-file", tokenPath, "--state", stateDir)
		if err == nil && code == 0 {
			say("onboarded")
			if poweroff == "onboarded" {
				return
			}
			code, err = run(agentPath, "run", "--state", stateDir)
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
		for code == exitRefused { // which does not change by itself
			time.Sleep(time.Hour)
		}
		time.Sleep(pause)
	}
}

func powerOff() {
	say("power off")
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		say("power off: %v", err)
	}
	for { // the kernel panics when its first process ends
		time.Sleep(time.Hour)
	}
}

// run runs a program on the console and returns its exit code. As the first
// process of the machine it waits for everybody's orphans too.
func run(path string, args ...string) (code int, err error) {
	p, err := os.StartProcess(path, append([]string{filepath.Base(path)}, args...), &os.ProcAttr{
		Dir: "/", Env: []string{"PATH=/bin", "HOME=/"}, Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		return -1, err
	}
	defer p.Release()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return -1, fmt.Errorf("waiting for %s: %w", path, err)
		case pid == p.Pid && status.Signaled():
			return -1, fmt.Errorf("%s ended by signal %d", path, status.Signal())
		case pid == p.Pid:
			return status.ExitStatus(), nil
		}
	}
}

package main

import (
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// manual gives a shell on each console. It ends with the machine's restart.
func manual(manifest string) {
	if _, err := findStick(manifest, stickWait); err != nil {
		say("%v", err)
	}
	if wrong := hasTPM(); wrong != "" {
		say("%s", wrong)
	}
	say("pvf-install lists the disks and installs; reboot restarts.")
	consoles.Lock()
	names := consoles.names
	consoles.Unlock()
	for _, name := range names {
		if isScreen(name) {
			name = "tty1" // tty0 is whichever is in front
		}
		go shell("/dev/" + name)
	}
	// What busybox's reboot, poweroff and halt send to the first process.
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2)
	if <-c == unix.SIGTERM {
		restart()
	}
	powerOff()
}

// shell runs a shell on a console, again and again.
func shell(console string) {
	for {
		if err := oneShell(console); err != nil {
			say("shell on %s: %v", console, err)
		}
		time.Sleep(time.Second)
	}
}

func oneShell(console string) error {
	f, err := os.OpenFile(console, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	ended, err := begin("/bin/sh", &os.ProcAttr{
		Env:   []string{"PS1=gangway# ", "TERM=linux"},
		Files: []*os.File{f, f, f},
		Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0},
	})
	if err != nil {
		return err
	}
	<-ended
	return nil
}

package machine

import (
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Shell runs a shell on a terminal, and returns when the shell has ended.
func (p *Processes) Shell(terminal string) error {
	return p.OnTerminal(terminal, []string{"PS1=gangway# "}, "/bin/sh")
}

// OnTerminal runs a program on a terminal until the program ends. Then it restores the terminal's
// settings, which a killed program leaves changed. The program's environment is `env` and TERM.
func (p *Processes) OnTerminal(terminal string, env []string, path string, args ...string) error {
	f, err := os.OpenFile(terminal, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if before, err := term.GetState(int(f.Fd())); err == nil {
		defer term.Restore(int(f.Fd()), before)
	}
	ended, err := p.Start(path, &os.ProcAttr{
		Env:   append(env, terminalType(terminal)...),
		Files: []*os.File{f, f, f},
		Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0},
	}, args...)
	if err != nil {
		return err
	}
	<-ended
	return nil
}

// terminalType returns the variables that describe a terminal. The type and the character set of a
// terminal at a serial port are not known; all common terminal programs understand a VT220.
func terminalType(path string) []string {
	if rest, ok := strings.CutPrefix(path, "/dev/tty"); ok && rest != "" && rest[0] >= '0' && rest[0] <= '9' {
		return []string{"TERM=linux", "LANG=C.UTF-8"}
	}
	return []string{"TERM=vt220"}
}

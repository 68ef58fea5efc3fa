package machine

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Shell runs a shell on a terminal, and returns when the shell has ended.
func (p *Processes) Shell(terminal string) error {
	f, err := os.OpenFile(terminal, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	ended, err := p.Start("/bin/sh", &os.ProcAttr{
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

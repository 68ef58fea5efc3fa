package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a server process.
type process struct {
	cmd *exec.Cmd
	log string
}

// startProcess starts a server, and waits until it completes a TLS handshake at the address `addr`.
// A TCP connection does not show that the server is ready: Gangway listens before it makes its data
// folder.
func startProcess(dir, addr, program string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(program, args...), log: filepath.Join(dir, "log")}
	f, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, f, f
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	for end := time.Now().Add(deadline); ; time.Sleep(50 * time.Millisecond) {
		// Nothing is sent here, so the certificate does not matter.
		c, err := tls.DialWithDialer(&net.Dialer{Deadline: end}, "tcp", addr, &tls.Config{InsecureSkipVerify: true})
		if err == nil {
			c.Close()
			return p, nil
		}
		if time.Now().After(end) {
			p.stop()
			text, _ := os.ReadFile(p.log)
			return nil, fmt.Errorf("%s does not answer at %s: %w\n%s", program, addr, err, text)
		}
	}
}

// cpu returns the CPU time that the process has used.
func (p *process) cpu() (time.Duration, error) {
	var t unix.Timespec
	// The number of the process's CPU clock (CPUCLOCK_SCHED); see clock_getcpuclockid(3).
	if err := unix.ClockGettime(int32(^p.cmd.Process.Pid<<3|2), &t); err != nil {
		return 0, err
	}
	return time.Duration(t.Nano()), nil
}

// resident returns the resident memory in bytes.
func (p *process) resident() (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	var size, pages int64
	_, err = fmt.Sscan(string(b), &size, &pages)
	return pages * int64(os.Getpagesize()), err
}

// lastLines returns the end of the process's log, because compare deletes the log when it ends.
func (p *process) lastLines() []byte {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return nil
	}
	return text[max(0, len(text)-2000):]
}

func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan struct{})
	go func() { p.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		p.cmd.Process.Kill()
		<-done
	}
}

// freeAddress returns an address on loopback at which nothing listens.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// output runs a program and returns its output. An error contains the program's messages.
func output(c *exec.Cmd) ([]byte, error) {
	out, err := c.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Base(c.Path), err)
	}
	return out, nil
}

// Package process runs a program that ends with this one: for the software
// TPMs and emulated machines of tests and the demo, of which nothing may be
// left behind.
package process

import (
	"bytes"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is one run of a program.
type Process struct {
	cmd  *exec.Cmd
	out  output
	done chan struct{} // closed when the child was waited for
	err  error         // of Wait, once done is closed
}

// Start starts cmd so that it dies with this process, and keeps the beginning
// of what it prints to where cmd does not send it elsewhere. The kernel ties
// the parent-death signal to the thread that forked, so that thread is kept
// for as long as the child lives.
func Start(cmd *exec.Cmd) (*Process, error) {
	p := &Process{cmd: cmd, done: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = &p.out
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &p.out
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Pid is the program's process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Err is how it ended, as of exec.Cmd.Wait; call it after Done.
func (p *Process) Err() error { return p.err }

// Stop asks the program to end, after grace makes it, and waits until it has.
// Without grace it is killed at once. A nil Process is no program.
func (p *Process) Stop(grace time.Duration) {
	if p == nil {
		return
	}
	if grace > 0 {
		p.cmd.Process.Signal(syscall.SIGTERM) // an error means that it has ended
		select {
		case <-p.done:
			return
		case <-time.After(grace):
		}
	}
	p.cmd.Process.Kill()
	<-p.done
}

// Tail is the end of what the program has printed, for an error message.
func (p *Process) Tail() string { return Tail(p.out.bytes()) }

// Tail is the end of a program's output, for an error message.
func Tail(out []byte) string {
	s := strings.TrimSpace(string(out))
	if len(s) > 2000 {
		s = "..." + s[len(s)-2000:]
	}
	return s
}

// output keeps what the child prints: written by the goroutine that copies it,
// read for error messages.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.b.Len() < 64<<10 {
		o.b.Write(p)
	}
	return len(p), nil
}

func (o *output) bytes() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Clone(o.b.Bytes())
}

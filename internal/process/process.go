// Package process starts programs that end when the process that started them ends. Tests and the
// demo use this package for software TPMs and emulated machines. The hub uses it for its image
// builder.
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

// Process is a running program.
type Process struct {
	cmd  *exec.Cmd
	out  output
	done chan struct{} // closed after the kernel reported the end of the program
	err  error         // result of exec.Cmd.Wait; valid after `done` is closed
}

// Start starts the program `cmd`. The kernel kills the program when the thread that started it ends
// (parent-death signal). Start keeps this thread until the program has ended, so the kernel kills
// the program only if the whole process ends. If `cmd` does not redirect the output, Start stores
// the first 64 KiB of the output for Tail.
func Start(cmd *exec.Cmd) (*Process, error) {
	p := &Process{cmd: cmd, done: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = &p.out
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &p.out
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
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

// Done returns a channel that is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Pid returns the program's process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Err returns the result of exec.Cmd.Wait. Call it only after Done is closed.
func (p *Process) Err() error { return p.err }

// Stop sends SIGTERM. If the program has not ended after the time `grace`, Stop kills it. Stop
// returns after the program has ended. If `grace` is 0, Stop kills it at once. On a nil Process,
// Stop does nothing.
func (p *Process) Stop(grace time.Duration) {
	if p == nil {
		return
	}
	if grace > 0 {
		p.cmd.Process.Signal(syscall.SIGTERM) // this fails only if the program has already ended
		select {
		case <-p.done:
			return
		case <-time.After(grace):
		}
	}
	p.cmd.Process.Kill()
	<-p.done
}

// Tail returns the last 2000 bytes of the stored output, for an error message.
func (p *Process) Tail() string { return Tail(p.out.bytes()) }

// Tail returns the last 2000 bytes of a program's output, for an error message.
func Tail(out []byte) string {
	s := strings.TrimSpace(string(out))
	if len(s) > 2000 {
		s = "..." + s[len(s)-2000:]
	}
	return s
}

// output stores the program's output. A goroutine of exec.Cmd writes it, and Tail reads it.
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

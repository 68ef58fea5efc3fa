package machine

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Processes starts programs for the first process of a machine. The kernel also makes the first
// process the parent of all orphaned processes. So one goroutine, Reap, waits for every child. Do
// not call os.Process.Wait, which would compete with Reap.
type Processes struct {
	mu    sync.Mutex
	ended map[int]chan unix.WaitStatus // the children that Start has started, by PID; guarded by mu
}

// NewProcesses returns Processes. Run Reap in a goroutine before you start a program.
func NewProcesses() *Processes { return &Processes{ended: map[int]chan unix.WaitStatus{}} }

// Reap waits for every child that ends, and does not return.
func (p *Processes) Reap() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil { // ECHILD: there are no children now
			time.Sleep(20 * time.Millisecond)
			continue
		}
		p.mu.Lock()
		ended := p.ended[pid]
		delete(p.ended, pid)
		p.mu.Unlock()
		if ended != nil {
			ended <- status
		}
	}
}

// Start starts a program. When the program has ended, the returned channel gets the program's exit
// status.
func (p *Processes) Start(path string, attr *os.ProcAttr, args ...string) (<-chan unix.WaitStatus, error) {
	attr.Dir = "/"
	attr.Env = append(attr.Env, "PATH=/bin", "HOME=/")
	ended := make(chan unix.WaitStatus, 1)
	p.mu.Lock() // hold the lock until the program is in the map, so that Reap finds it there
	defer p.mu.Unlock()
	child, err := os.StartProcess(path, append([]string{filepath.Base(path)}, args...), attr)
	if err != nil {
		return nil, err
	}
	p.ended[child.Pid] = ended
	return ended, child.Release()
}

// Run runs a program, passes the program's output to the function `copy`, and returns the exit
// code.
func (p *Processes) Run(copy func(io.Reader), path string, args ...string) (code int, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return -1, err
	}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		copy(r)
		r.Close()
	}()
	null, err := os.Open(os.DevNull)
	if err != nil {
		w.Close()
		return -1, err
	}
	defer null.Close()
	ended, err := p.Start(path, &os.ProcAttr{Files: []*os.File{null, w, w}}, args...)
	w.Close()
	if err != nil {
		return -1, err
	}
	status := <-ended
	<-copied
	if status.Signaled() {
		return -1, fmt.Errorf("%s was killed by signal %d", path, status.Signal())
	}
	return status.ExitStatus(), nil
}

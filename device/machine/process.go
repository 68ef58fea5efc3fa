package machine

import (
	"fmt"
	"gangway/device/screen"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// children are the programs that were started and not waited for yet. The
// first process of a machine waits for everybody's orphans too, so one
// goroutine waits for all.
var children = struct {
	sync.Mutex
	ended map[int]chan unix.WaitStatus
}{ended: map[int]chan unix.WaitStatus{}}

// Reap waits for whatever ends, for ever.
func Reap() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil { // no children now
			time.Sleep(20 * time.Millisecond)
			continue
		}
		children.Lock()
		ended := children.ended[pid]
		delete(children.ended, pid)
		children.Unlock()
		if ended != nil {
			ended <- status
		}
	}
}

// Begin starts a program.
func Begin(path string, attr *os.ProcAttr, args ...string) (<-chan unix.WaitStatus, error) {
	attr.Dir = "/"
	attr.Env = append(attr.Env, "PATH=/bin", "HOME=/")
	ended := make(chan unix.WaitStatus, 1)
	children.Lock() // so that it cannot end before it is known
	defer children.Unlock()
	p, err := os.StartProcess(path, append([]string{filepath.Base(path)}, args...), attr)
	if err != nil {
		return nil, err
	}
	children.ended[p.Pid] = ended
	return ended, p.Release()
}

// Run runs a program on the console and returns its exit code.
func Run(path string, args ...string) (code int, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return -1, err
	}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		screen.CopyLines(r)
		r.Close()
	}()
	null, err := os.Open("/dev/null")
	if err != nil {
		return -1, err
	}
	defer null.Close()
	ended, err := Begin(path, &os.ProcAttr{Files: []*os.File{null, w, w}}, args...)
	w.Close()
	if err != nil {
		return -1, err
	}
	status := <-ended
	<-copied
	if status.Signaled() {
		return -1, fmt.Errorf("%s ended by signal %d", path, status.Signal())
	}
	return status.ExitStatus(), nil
}

package swtpm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// process is one run of the program swtpm.
type process struct {
	cmd  *exec.Cmd
	out  lockedBuffer
	done chan struct{} // closed when the child was waited for
	err  error         // of Wait, once done is closed
}

// startProcess starts cmd so that it dies with this process. The kernel ties
// the parent-death signal to the thread that forked, so that thread is kept
// for as long as the child lives.
func startProcess(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &p.out, &p.out
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

// stop asks the child to end, then makes it, and waits. nil is no child.
func (p *process) stop() {
	if p == nil {
		return
	}
	p.cmd.Process.Signal(syscall.SIGTERM) // an error means that it has ended
	select {
	case <-p.done:
	case <-time.After(3 * time.Second):
		p.cmd.Process.Kill()
		<-p.done
	}
}

// startTimeout is how long swtpm may take to answer its first command.
const startTimeout = 20 * time.Second

// startLocked starts swtpm and waits until it answers. t.mu is held.
func (t *TPM) startLocked(ctx context.Context) error {
	if t.proc != nil {
		return errors.New("swtpm: it runs already")
	}
	os.Remove(t.socket) // left by a process that was killed
	os.Remove(t.control)
	// Run in its folder with relative paths, for swtpm's options end at a comma.
	at := ""
	if t.temp != "" {
		at = t.temp + "/"
	}
	cmd := exec.Command("swtpm", "socket", "--tpm2",
		"--tpmstate", "dir=state",
		"--server", "type=unixio,path="+at+filepath.Base(t.socket),
		"--ctrl", "type=unixio,path="+at+filepath.Base(t.control),
		"--flags", "not-need-init,startup-clear")
	cmd.Dir = t.dir
	p, err := startProcess(cmd)
	if err != nil {
		return fmt.Errorf("swtpm: starting the TPM: %w", err)
	}
	t.proc = p
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for !answers(t.socket) {
		select {
		case <-p.done:
			t.proc = nil
			return fmt.Errorf("swtpm: the TPM in %s ended at once (%v); is another process using it?\n%s", t.dir, p.err, tail(p.out.bytes()))
		case <-ctx.Done():
			p.stop()
			t.proc = nil
			return fmt.Errorf("swtpm: the TPM in %s does not answer: %w\n%s", t.dir, ctx.Err(), tail(p.out.bytes()))
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// answers reports whether the TPM answers TPM2_GetRandom of one byte.
func answers(socket string) bool {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return false
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := c.Write([]byte{0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x7B, 0, 1}); err != nil {
		return false
	}
	head := make([]byte, 10)
	n, err := c.Read(head)
	return err == nil && n == len(head) && bytes.Equal(head[6:10], []byte{0, 0, 0, 0})
}

// lockedBuffer keeps what the child prints: written by the goroutine that
// copies it, read for error messages.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.b.Len() < 64<<10 {
		l.b.Write(p)
	}
	return len(p), nil
}

func (l *lockedBuffer) bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.b.Bytes())
}

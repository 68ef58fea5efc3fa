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
	"time"

	"gangway/internal/process"
)

// grace is how long swtpm may take to end after SIGTERM.
const grace = 3 * time.Second

// startTimeout is how long swtpm may take to answer its first command.
const startTimeout = 20 * time.Second

// startLocked starts swtpm and waits until it answers. The caller holds t.mu.
func (t *TPM) startLocked(ctx context.Context) error {
	return t.runLocked(ctx, func() bool { return answers(t.socket) },
		"--server", "type=unixio,path="+t.relative(t.socket),
		"--ctrl", "type=unixio,path="+t.relative(t.control),
		"--flags", "not-need-init,startup-clear")
}

// runLocked starts swtpm with arguments and waits until it is ready. The caller holds t.mu.
func (t *TPM) runLocked(ctx context.Context, ready func() bool, args ...string) error {
	if t.proc != nil {
		return errors.New("swtpm: the TPM is already running")
	}
	os.Remove(t.socket) // remove the socket of an earlier process that was killed
	os.Remove(t.control)
	cmd := exec.Command("swtpm", append([]string{"socket", "--tpm2", "--tpmstate", "dir=state"}, args...)...)
	cmd.Dir = t.dir
	p, err := process.Start(cmd)
	if err != nil {
		return fmt.Errorf("swtpm: starting the TPM: %w", err)
	}
	t.proc = p
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for !ready() {
		select {
		case <-p.Done():
			t.proc = nil
			return fmt.Errorf("swtpm: the TPM in %s ended at once (%v); is another process using it?\n%s", t.dir, p.Err(), p.Tail())
		case <-ctx.Done():
			p.Stop(grace)
			t.proc = nil
			return fmt.Errorf("swtpm: the TPM in %s does not answer: %w\n%s", t.dir, ctx.Err(), p.Tail())
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// relative returns a socket's path relative to the TPM's folder, in which swtpm runs. The path is
// not absolute, because it becomes a part of swtpm's option "type=unixio,path=...": a comma in the
// path of the TPM's folder would end the path there.
func (t *TPM) relative(socket string) string {
	if t.temp != "" {
		return t.temp + "/" + filepath.Base(socket)
	}
	return filepath.Base(socket)
}

// The function `answers` reports whether the TPM responds to TPM2_GetRandom for one byte.
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

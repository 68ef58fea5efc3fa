package swtpm

import (
	"context"
	"os"
)

// PowerOn makes the TPM available to a machine that is about to start. It closes the command socket
// and returns the control socket for QEMU's `-tpmdev emulator`. The machine starts the TPM, as a
// real power-on does. When the machine releases the TPM, the TPM ends by itself. Nothing answers at
// Address until Restart starts the TPM for this process again.
func (t *TPM) PowerOn(ctx context.Context) (control string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.proc.Stop(grace)
	t.proc = nil
	listens := func() bool {
		_, err := os.Stat(t.control) // do not connect: swtpm would take the connection for the machine's
		return err == nil
	}
	err = t.runLocked(ctx, listens, "--ctrl", "type=unixio,path="+t.relative(t.control), "--terminate")
	return t.control, err
}

// PowerOff ends the TPM that PowerOn started, if it has not ended by itself.
func (t *TPM) PowerOff() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.proc.Stop(grace)
	t.proc = nil
}

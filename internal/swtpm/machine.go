package swtpm

import (
	"context"
	"os"
)

// PowerOn prepares the TPM for an emulated machine that is about to start. It closes the command
// socket and returns the path of the control socket for QEMU's `-tpmdev emulator`. The machine
// starts the TPM, as a real power-on does. When the machine ends, the TPM ends too. No program can
// use Address until Restart is called.
func (t *TPM) PowerOn(ctx context.Context) (control string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.proc.Stop(grace)
	t.proc = nil
	listens := func() bool {
		_, err := os.Stat(t.control) // do not connect: swtpm would take this for the machine's connection
		return err == nil
	}
	err = t.runLocked(ctx, listens, "--ctrl", "type=unixio,path="+t.relative(t.control), "--terminate")
	return t.control, err
}

// PowerOff ends the TPM that PowerOn prepared, if it has not ended with its machine.
func (t *TPM) PowerOff() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.proc.Stop(grace)
	t.proc = nil
}

package swtpm

import (
	"context"
	"os"
)

// PowerOn takes the TPM off its command socket and makes it the TPM of a
// machine that is about to be switched on: it returns the control socket that
// QEMU's `-tpmdev emulator` wants. The machine starts the TPM, as a power-on
// does; when the machine lets go of it, the TPM ends by itself. Address answers
// nothing until Restart, which takes the TPM back.
func (t *TPM) PowerOn(ctx context.Context) (control string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.proc.Stop(grace)
	t.proc = nil
	listens := func() bool {
		_, err := os.Stat(t.control) // to connect would be to be the machine
		return err == nil
	}
	err = t.runLocked(ctx, listens, "--ctrl", "type=unixio,path="+t.relative(t.control), "--terminate")
	return t.control, err
}

// PowerOff ends what PowerOn started, if it has not ended by itself.
func (t *TPM) PowerOff() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.proc.Stop(grace)
	t.proc = nil
}

package qemu_test

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"testing"

	"gangway/internal/hubtest"
	"gangway/internal/qemu"
	"gangway/internal/swtpm"
)

// Another command line, or a kernel with one byte altered, boots and onboards
// as the same device, and is measured, and nothing else is measured differently:
//
//	PCR 4   the program that the firmware starts: the whole image
//	PCR 9   the command line again, by the kernel's own stub
//	PCR 10  IMA's aggregate of PCR 0 to 9
//	PCR 11  the parts of the image, by systemd's stub
func TestAlteredBootIsMeasured(t *testing.T) {
	need(t)
	tpm := newTPM(t, swtpm.RSA2048)
	h := hubtest.New(t, tpm.Roots(), []*x509.Certificate{tpm.Issuer()})
	tok := guestToken(t, h)
	const cmdline = "gangway.poweroff=onboarded gangway.show=boot"
	dir := t.TempDir()
	var reference [16]string
	for _, c := range []struct {
		name string
		g    guest
		want string // PCRs that differ
	}{
		{"reference", guest{token: tok, cmdline: cmdline}, "[]"},
		{"command line", guest{token: tok, cmdline: cmdline + " init.debug"}, "[4 9 10 11]"},
		{"kernel", guest{token: tok, cmdline: cmdline, kernel: otherKernel}, "[4 10 11]"},
	} {
		m, ctx := boot(t, qemu.Config{Dir: dir, TPM: tpm, Disks: []qemu.Disk{{Path: c.g.disk(t), ReadOnly: true}}})
		if err := m.WaitOff(ctx); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		waitFor(t, ctx, m, `: onboarded$`)
		pcrs := explained(t, m)
		if c.name == "reference" {
			reference = pcrs
		}
		differ := []int{}
		for i := range pcrs {
			if pcrs[i] != reference[i] {
				differ = append(differ, i)
			}
		}
		if got := fmt.Sprint(differ); got != c.want {
			t.Errorf("%s: PCRs %s differ, %s were expected", c.name, got, c.want)
		}
	}
	if n := len(h.Devices(t, h.Owner)); n != 1 {
		t.Errorf("%d devices", n)
	}
}

// otherKernel alters one byte of the version that a kernel says it has before
// it runs (Documentation/arch/x86/boot.rst, kernel_version): another file, and
// as bootable as before.
func otherKernel(kernel []byte) []byte {
	kernel = bytes.Clone(kernel)
	kernel[0x200+int(binary.LittleEndian.Uint16(kernel[0x20E:]))] ^= 1
	return kernel
}

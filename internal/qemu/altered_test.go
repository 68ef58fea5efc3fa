package qemu_test

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	bootlog "gangway/hub/boot"
	"gangway/hub/store"
	"gangway/internal/hubtest"
	"gangway/internal/qemu"
	"gangway/internal/swtpm"
)

// A person with access to the disk cannot change the boot unnoticed. A machine that boots with
// another command line, or with a kernel that differs in one byte, onboards as the same device. The
// TPM measures the change, and the hub describes it to the owner. Only these PCRs differ:
//
//	PCR 4   the program that the firmware starts: the whole image
//	PCR 9   the command line again, by the kernel's own stub
//	PCR 10  IMA's aggregate of PCR 0 to 9
//	PCR 11  the parts of the image, by systemd's stub
func TestAlteredBootIsMeasured(t *testing.T) {
	t.Parallel()
	need(t)
	tpm := newTPM(t, swtpm.RSA2048)
	h := hubtest.New(t, tpm.Roots(), []*x509.Certificate{tpm.Issuer()})
	tok := guestToken(t, h)
	dir := t.TempDir()
	var reference []string
	for _, c := range []struct {
		name   string
		g      guest
		differ string // PCRs
		state  string
		says   string // the hub's text for the owner
	}{
		{"reference", guest{token: tok}, "[]", "matches", ""},
		{"command line", guest{token: tok, cmdline: "init.debug"}, "[4 9 10 11]", "changed", "The kernel command line's hash differs from the reference of "},
		{"kernel", guest{token: tok, kernel: otherKernel}, "[4 10 11]", "changed", "The kernel's hash differs from the reference of "},
	} {
		m, ctx := boot(t, qemu.Config{Dir: dir, TPM: tpm, Disks: []qemu.Disk{{Path: c.g.disk(t), ReadOnly: true}}})
		waitFor(t, ctx, m, `^Connected to https://10.0.2.2:\d+ as `)
		m.Stop()
		b, measured, changes := latestBoot(t, h)
		if c.name == "reference" {
			reference = measured.PCRs
		}
		differ := []int{}
		for i := range reference {
			if measured.PCRs[i] != reference[i] {
				differ = append(differ, i)
			}
		}
		if got := fmt.Sprint(differ); got != c.differ {
			t.Errorf("%s: PCRs %s differ, want %s", c.name, got, c.differ)
		}
		if b.State != c.state {
			t.Errorf("%s: the boot state is %s, want %s: %q", c.name, b.State, c.state, changes)
		}
		if c.says != "" && !slices.ContainsFunc(changes, func(w string) bool { return strings.HasPrefix(w, c.says) }) {
			t.Errorf("%s: the owner does not read %q in %q", c.name, c.says, changes)
		}
		if len(measured.Unexplained) > 0 && fmt.Sprint(measured.Unexplained) != "[10]" {
			t.Errorf("%s: the log does not explain PCRs %v", c.name, measured.Unexplained)
		}
		t.Logf("%s: %s %q", c.name, b.State, changes)
	}
	if n := len(h.Devices(t, h.Owner)); n != 1 {
		t.Errorf("%d devices, want 1", n)
	}
}

// latestBoot returns the row in the hub's database for the last boot of the only machine. `m` is
// the measurement in this row, and `words` contains one sentence for each change in it.
func latestBoot(t *testing.T, h *hubtest.Hub) (b store.Boot, m bootlog.Measurement, words []string) {
	t.Helper()
	b, err := h.Store.LatestBoot(t.Context(), h.Devices(t, h.Owner)[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	var changes []bootlog.Change
	if err := errors.Join(json.Unmarshal(b.Measurement, &m), json.Unmarshal(b.Changes, &changes)); err != nil {
		t.Fatal(err)
	}
	for _, c := range changes {
		words = append(words, c.Words)
	}
	return b, m, words
}

// otherKernel changes one byte of the version text in the kernel's header
// (Documentation/arch/x86/boot.rst, kernel_version). The kernel then has other bytes, but boots in
// the same way.
func otherKernel(kernel []byte) []byte {
	kernel = bytes.Clone(kernel)
	kernel[0x200+int(binary.LittleEndian.Uint16(kernel[0x20E:]))] ^= 1
	return kernel
}

package qemu_test

import (
	"crypto/x509"
	"testing"
	"time"

	"gangway/internal/hubtest"
	"gangway/internal/qemu"
	"gangway/internal/swtpm"
)

// A machine onboards even if its clock is wrong by decades, so that the hub's certificate seems to
// be expired or not yet valid. Afterwards the machine's clock is right.
func TestMachineWithAWrongClockComesAboard(t *testing.T) {
	t.Parallel()
	long(t)
	need(t)
	for _, clock := range []string{"1970-01-01T00:00:00", "2090-06-01T00:00:00"} {
		t.Run(clock[:4], func(t *testing.T) {
			tpm := newTPM(t, swtpm.P384)
			h := hubtest.New(t, tpm.Roots(), []*x509.Certificate{tpm.Issuer()})
			disk := guest{token: guestToken(t, h)}.disk(t)
			m, ctx := boot(t, qemu.Config{Dir: t.TempDir(), TPM: tpm, Clock: clock, Disks: []qemu.Disk{{Path: disk, ReadOnly: true}}})
			_, match := waitFor(t, ctx, m, `^The machine's clock was set from (\S+) \S+ to (\S+ \S+), according to the hub's clock\.`)
			waitFor(t, ctx, m, `^Connected to https://10.0.2.2:\d+ as `)
			is, err := time.Parse(time.DateTime, match[2])
			if err != nil || time.Since(is).Abs() > 2*bootTime {
				t.Errorf("the clock was set to %s, %v", match[2], err)
			}
			t.Logf("the clock was set from %s", match[1])
			m.Stop()
			if devices := h.Devices(t, h.Owner); len(devices) != 1 {
				t.Errorf("devices: %+v", devices)
			}
		})
	}
}

package boot_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"gangway/hub/boot"
	"gangway/internal/fleet"
	"gangway/tcg"

	"github.com/google/go-eventlog/register"
	upstream "github.com/google/go-eventlog/tcg"
	"github.com/google/go-eventlog/testdata"
)

// quoted returns the evidence of a machine with these PCR values and this log.
func quoted(t testing.TB, pcrs [][]byte, log []byte) (*fleet.Device, *boot.Evidence) {
	t.Helper()
	d := must(machine())(t)
	e := &boot.Evidence{Nonce: nonce, Bank: tcg.AlgSHA256, PCRs: pcrs, Log: log}
	sign(t, d, e)
	return d, e
}

// real reads the PCRs and the event log of a machine in QEMU from testdata; see testdata/README.md.
func real(t testing.TB, name string) (pcrs [][]byte, log []byte) {
	t.Helper()
	var f struct {
		PCRs []string
		Log  []byte
	}
	if err := json.Unmarshal(must(os.ReadFile(filepath.Join("testdata", name+".json")))(t), &f); err != nil || len(f.PCRs) != boot.PCRs {
		t.Fatal(err)
	}
	for _, v := range f.PCRs {
		pcrs = append(pcrs, must(hex.DecodeString(v))(t))
	}
	return pcrs, f.Log
}

func realMeasured(t testing.TB, name string) *boot.Measurement {
	t.Helper()
	pcrs, log := real(t, name)
	d, e := quoted(t, pcrs, log)
	return must(boot.Verify(d.IAK.Public, e))(t)
}

// These boots were measured by a real kernel's stub, by systemd's stub and by systemd-boot. Each
// altered boot differs from the reference in one thing, for example the kernel. Compare must name
// this thing, and report changes only in the PCRs that contain it.
func TestRealBootsAreToldApart(t *testing.T) {
	t.Parallel()
	const date = " hash differs from the reference of 3 May 2026."
	for _, c := range []struct {
		reference, name string
		says            string
		pcrs            string // the PCRs that change
	}{
		{"uki", "uki", "", "[]"},
		{"uki", "uki-cmdline", "The kernel command line's" + date, "[4 9 11]"},
		{"uki", "uki-kernel", "The kernel's" + date, "[4 11]"},
		{"sdboot", "sdboot", "", "[]"},
		{"sdboot", "sdboot-cmdline", "", "[9 12]"},
		{"sdboot", "sdboot-kernel", "Boot image 2's" + date, "[4]"},
		{"sdboot", "sdboot-initrd", `Something that the boot loader measured into PCR 9, which the log calls "Linux initrd", differs from the reference of 3 May 2026.`, "[9]"},
	} {
		changes := boot.Compare(boot.NewReference(realMeasured(t, c.reference), "the first boot", may3), realMeasured(t, c.name))
		pcrs := []int{}
		for _, x := range changes {
			pcrs = append(pcrs, x.PCR)
		}
		slices.Sort(pcrs)
		if got := fmt.Sprint(slices.Compact(pcrs)); got != c.pcrs || c.says != "" && !slices.Contains(words(changes), c.says) {
			t.Errorf("%s as %s: PCRs %s, %q", c.name, c.reference, got, words(changes))
		}
	}
}

// The project go-eventlog publishes event logs of many machines. The hub can read these logs, and
// finds the state of Secure Boot in each of them.
func TestLogsOfOthersMachinesAreRead(t *testing.T) {
	t.Parallel()
	for name, raw := range map[string][]byte{
		"Arch Linux workstation": testdata.ArchLinuxWorkstationEventLog, "Debian 10": testdata.Debian10EventLog,
		"glinux": testdata.GlinuxAlexEventLog, "RHEL 8": testdata.Rhel8EventLog, "Ubuntu 18.04": testdata.Ubuntu1804AmdSevEventLog,
		"Ubuntu 21.04 without dbx": testdata.Ubuntu2104NoDbxEventLog, "Ubuntu 21.04 without Secure Boot": testdata.Ubuntu2104NoSecureBootEventLog,
		"Ubuntu 24.04": testdata.Ubuntu2404AmdSevSnpEventLog, "COS 85": testdata.Cos85AmdSevEventLog, "COS 101": testdata.Cos101AmdSevEventLog,
	} {
		log := must(upstream.ParseEventLog(raw, upstream.ParseOpts{}))(t)
		pcrs := make([][]byte, boot.PCRs)
		for i := range pcrs {
			pcrs[i] = make([]byte, 32)
		}
		for _, e := range log.Events(register.HashSHA256) {
			if e.Type == upstream.NoAction && e.Index == 0 && bytes.HasPrefix(e.Data, []byte("StartupLocality\x00")) {
				pcrs[0][31] = e.Data[16]
			}
			if e.Type != upstream.NoAction && e.Index < boot.PCRs && len(e.Digest) == 32 {
				v := sha256.Sum256(append(pcrs[e.Index], e.Digest...))
				pcrs[e.Index] = v[:]
			}
		}
		d, e := quoted(t, pcrs, raw)
		if !slices.Contains(log.Algs, register.HashSHA256) { // the log has only SHA-1 digests
			if m := must(boot.Verify(d.IAK.Public, e))(t); m.LogProblem == "" || len(m.Events) > 0 {
				t.Errorf("%s: %q, %d events", name, m.LogProblem, len(m.Events))
			}
			continue
		}
		m, err := boot.Verify(d.IAK.Public, e)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if m.SecureBoot != "on" && m.SecureBoot != "off" || len(m.Events) < 20 {
			t.Errorf("%s: Secure Boot %s, %d events", name, m.SecureBoot, len(m.Events))
		}
		if c := boot.Compare(boot.NewReference(m, "itself", may3), m); len(c) > 0 {
			t.Errorf("%s differs from itself: %q", name, words(c))
		}
	}
}

package api_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/eventlog"
	"gangway/internal/fleet"
	"gangway/tcg"
	"gangway/wire"
	"gangway/wire/manifest"
)

// diskTable returns a partition table with one EFI system partition, as firmware measures it. The
// byte `n` distinguishes tables.
func diskTable(n byte) []byte {
	table := make([]byte, 92+8+128)
	copy(table, "EFI PART")
	table[84], table[92], table[56] = 128, 1, n
	copy(table[100:], []byte{0x28, 0x73, 0x2A, 0xC1, 0x1F, 0xF8, 0xD2, 0x11, 0xBA, 0x4B, 0x00, 0xA0, 0xC9, 0x3E, 0xC9, 0x3B})
	table[100+32], table[100+40] = 8, 9
	return table
}

// fromDisk returns the log of a boot in which firmware starts the boot manager from a disk with
// this partition table, and the boot manager starts a system.
func fromDisk(kernel string, table []byte) eventlog.Log {
	manager := sha256.Sum256([]byte("boot manager"))
	l := system(kernel)
	i := slices.IndexFunc(l, func(e eventlog.Event) bool { return e.Type == eventlog.EFIBootApplication })
	return slices.Insert(l, i, eventlog.Event{PCR: 5, Type: 0x80000006, Data: table}, eventlog.Event{PCR: 4, Type: eventlog.EFIBootApplication, Data: []byte{1}, Digest: manager[:]})
}

// bootedWith sends a measurement with an installer's report, and returns the verdict.
func bootedWith(t *testing.T, c *fleet.Conn, d *fleet.Device, l eventlog.Log, installed *wire.InstallReport, resets uint32) wire.BootVerdict {
	t.Helper()
	r := report(t, d, challenge(t, c).Nonce, l, resets)
	r.Installed = installed
	a := sendBoot(t, c, r)
	var v wire.BootVerdict
	if err := json.Unmarshal(a.Body, &v); err != nil || a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	return v
}

// If a device sends the report of its owner's installer, even its first boot counts as expected,
// and satisfies a policy that requires an expected boot. If the partition table is altered later,
// the boot counts as changed. The hub ignores an invalid report, but accepts the measurement.
func TestInstallersReportDecidesAboutThePartitionTable(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	c, _, id := s.connected(t)
	k := newSigner(t)
	ada.addKey(k)
	m := manifestOf("linux 1", 1)
	m.BootManager = &manifest.Program{SHA256: hexSum("file"), Authenticode: map[string]string{bank: hexSum("boot manager")}}
	m.Installers = []manifest.System{manifestOf("installer", 1).System}
	ada.addManifest(k.sign(t, m))
	s.Policy(t, s.Owner.ID, "version: 1\nmeasured_boot: {boot-path: expected}\n")
	admitted := func(want bool) {
		t.Helper()
		if a := requestSecret(t, c); (a.Status == 200) != want {
			t.Errorf("%d %s; admitted should be %v", a.Status, a.Body, want)
		}
	}
	says := func(state, words string) {
		t.Helper()
		v := want[api.BootView](ada, "GET", "/devices/"+id+"/boot", nil, 200)
		if p := v.Parts[2]; p.State != state || !strings.Contains(p.Words, words) {
			t.Errorf("%s, not %s %q", brief.Of(p), state, words)
		}
	}
	table := diskTable(1)
	installer := fromDisk("installer", diskTable(0))
	attest, signature, err := s.victim.Quote(wire.InstallQualifying(table, installer.Bytes()), tcg.AlgSHA256, installer.PCRs(), 4)
	if err != nil {
		t.Fatal(err)
	}
	good := &wire.InstallReport{Table: table, Bank: uint16(tcg.AlgSHA256), PCRs: installer.PCRs(), Attest: attest, Signature: signature, EventLog: installer.Bytes()}
	bad := *good
	bad.Table = diskTable(2)
	// Without a valid report of the installer, the state of the partition table is only "known",
	// and a policy that requires an expected boot does not admit the device.
	if v := bootedWith(t, c, s.victim, fromDisk("linux 1", table), &bad, 5); v.State != store.BootMatches {
		t.Fatalf("%s", brief.Of(v))
	}
	says("known", "The report of an installer is not valid: The quote was not made for the reported partition table.")
	admitted(false)
	bootedWith(t, c, s.victim, fromDisk("linux 1", table), nil, 6)
	says("known", "Firmware started the boot manager of the reference")
	admitted(false)
	if v := bootedWith(t, c, s.victim, fromDisk("linux 1", table), good, 7); v.State != store.BootMatches {
		t.Fatalf("%s", brief.Of(v))
	}
	says("expected", `PCR 5 has the partition table that the installer of "system linux 1" wrote on this disk.`)
	admitted(true)
	view := want[api.BootView](ada, "GET", "/devices/"+id+"/boot", nil, 200)
	if i := view.Latest.Installed; i == nil || !bytes.Equal(i.Table, table) || i.Boot.ResetCount != 4 || len(i.Attest) == 0 || view.System.Installed != 4 {
		t.Errorf("%s", brief.Of(view.Latest.Installed))
	}
	if v := bootedWith(t, c, s.victim, fromDisk("linux 1", diskTable(3)), good, 8); v.State != store.BootChanged {
		t.Errorf("%s", brief.Of(v))
	}
	says("changed", "PCR 5 does not have the partition table that the installer")
	admitted(false)
	// The owner removes the key that signed the manifest. After that, the hub ignores the
	// installer's report.
	want[map[string]string](ada, "DELETE", "/boots/keys/"+k.id, nil, 200)
	bootedWith(t, c, s.victim, fromDisk("linux 1", table), good, 9)
	says("known", "as in the reference")
}

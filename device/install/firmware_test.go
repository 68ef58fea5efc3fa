package install

import (
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var system = &Installed{
	Disk: "nvme0n1", ESPGUID: "00112233-4455-6677-8899-aabbccddeeff", Sector: 512, ESPStart: 2048 * 512, ESPSize: 524288 * 512,
}

func variable(t *testing.T, f Firmware, name string) string {
	t.Helper()
	b, err := f.read(name, globalVendor)
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(b)
}

func TestFirmwareStartsTheSystemFirst(t *testing.T) {
	t.Parallel()
	f := Firmware(t.TempDir())
	for name, value := range map[string]string{"Boot0000": "windows", "Boot0001": "stick", "BootOrder": "\x01\x00\x00\x00"} {
		if err := f.write(name, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second call must not make a second boot entry
		if err := f.Start(system); err != nil {
			t.Fatal(err)
		}
		if got := variable(t, f, "BootOrder"); got != "020001000000" {
			t.Errorf("boot order: %s", got)
		}
		if got := variable(t, f, "BootNext"); got != "0200" {
			t.Errorf("next: %s", got)
		}
	}
	// The fields of an EFI_LOAD_OPTION (UEFI 2.10, 3.1.3), in order: the attributes, the length of
	// the path, the name, and the path. The path has three nodes: the partition, the file and the
	// end.
	want := "01000000" + "5e00" + "470061006e0067007700610079000000" +
		"04012a00" + "01000000" + "0008000000000000" + "0000080000000000" + "33221100554477668899aabbccddeeff" + "0202" +
		"04043000" + "5c004500460049005c0042004f004f0054005c0042004f004f0054005800360034002e004500460049000000" + "7fff0400"
	if got := variable(t, f, "Boot0002"); got != want {
		t.Errorf("entry:\n%s\nwant\n%s", got, want)
	}
	if b, err := os.ReadFile(f.path("Boot0002", globalVendor)); err != nil || hex.EncodeToString(b[:4]) != "07000000" {
		t.Errorf("attributes %x, %v", b[:4], err)
	}
}

func TestReadsWhatTheBootManagerSays(t *testing.T) {
	t.Parallel()
	f := Firmware(t.TempDir())
	if p, err := f.Counted(); p != "" || err != nil {
		t.Errorf("not counted: %q, %v", p, err)
	}
	if _, err := f.BootedFrom(); err == nil {
		t.Error("BootedFrom succeeds without the boot manager's variable")
	}
	set := func(name, value string) {
		t.Helper()
		path := filepath.Join(string(f), name+"-"+loaderVendor)
		if err := os.WriteFile(path, append([]byte{6, 0, 0, 0}, utf16z(value)...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	set("LoaderDevicePartUUID", strings.ToUpper(system.ESPGUID))
	set("LoaderBootCountPath", `\EFI\Linux\gangway-a+2-1.efi`)
	if guid, err := f.BootedFrom(); guid != system.ESPGUID || err != nil {
		t.Errorf("booted from %q, %v", guid, err)
	}
	if p, err := f.Counted(); p != "EFI/Linux/gangway-a+2-1.efi" || err != nil {
		t.Errorf("counted: %q, %v", p, err)
	}
	set("LoaderBootCountPath", `\..\..\data\x+1.efi`)
	if p, err := f.Counted(); err == nil {
		t.Errorf("a path outside the partition is accepted: %q", p)
	}
}

// The path of a boot entry may contain the boot manager's attempt counter, such as +3. Uncounted
// removes this counter, and leaves paths alone that only look as if they had one.
func TestTakesTheCounterOff(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"EFI/Linux/gangway-a+3.efi":   "EFI/Linux/gangway-a.efi",
		"EFI/Linux/gangway-a+2-1.efi": "EFI/Linux/gangway-a.efi",
		"EFI/Linux/c++3.efi":          "EFI/Linux/c+.efi",
		"EFI/Linux/gangway-a.efi":     "",
		"EFI/Linux/gangway+.efi":      "",
		"EFI/Linux/gangway+x.efi":     "",
		"a+1/b.efi":                   "",
		"gangway+3.conf":              "",
	} {
		got, ok := Uncounted(path)
		if ok != (want != "") || ok && got != want {
			t.Errorf("Uncounted(%q) is %q, %v; want %q", path, got, ok, want)
		}
	}
}

// Look finds a system that this package installed, and tells whether the installation was
// completed.
func TestFindsItsOwnWork(t *testing.T) {
	t.Parallel()
	m, stick, _ := smallStick(t)
	guid := DiskGUID(strings.Repeat("a", 64))
	disk := newMemory(12 * mib)
	if err := (Job{Manifest: m, Stick: stick, Target: disk, DiskGUID: guid}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	dev := t.TempDir()
	put := func() {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dev, "sda"), disk.disk, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put()
	i, err := Look(dev, "sda")
	if err != nil {
		t.Fatal(err)
	}
	if !i.Whole || i.DiskGUID != guid || i.ESPStart != mib || i.ESPSize != 3*mib || i.ESP() != "sda1" || i.Data() != "sda2" {
		t.Errorf("found %+v", i)
	}
	if (Installed{Disk: "nvme0n1"}).Data() != "nvme0n1p2" {
		t.Error("the partition's name has no p after the disk's number")
	}
	clear(disk.disk[mib : mib+sector]) // the power failed before the last sector
	put()
	if i, err := Look(dev, "sda"); err != nil || i.Whole {
		t.Errorf("an incomplete system: %+v, %v", i, err)
	}
	clear(disk.disk)
	put()
	if i, err := Look(dev, "sda"); err == nil {
		t.Errorf("an empty disk: %+v", i)
	}
}

func TestFirmwareForgetsTheSystem(t *testing.T) {
	t.Parallel()
	f := Firmware(t.TempDir())
	for name, value := range map[string]string{"Boot0000": "windows", "Boot0001": "stick", "BootOrder": "\x01\x00\x00\x00"} {
		if err := f.write(name, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Start(system); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.setLoader(oneShot, "gangway-b.efi"), f.NoteStick()); err != nil {
		t.Fatal(err)
	}
	for range 2 { // Forget succeeds even if nothing is left to remove
		if err := f.Forget(); err != nil {
			t.Fatal(err)
		}
		left, err := os.ReadDir(string(f))
		if err != nil || len(left) != 3 {
			t.Errorf("variables left: %v, %v", left, err)
		}
		if got := variable(t, f, "BootOrder"); got != "01000000" {
			t.Errorf("boot order: %s", got)
		}
	}
	// If BootNext names an entry of another system, Forget does not change BootNext. If the
	// boot order has only Gangway's entry, Forget removes the boot order.
	f = Firmware(t.TempDir())
	if err := f.Start(system); err != nil {
		t.Fatal(err)
	}
	if err := f.write("BootNext", []byte{1, 0}); err != nil {
		t.Fatal(err)
	}
	if err := f.Forget(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(string(f)); err != nil || len(left) != 1 || !strings.HasPrefix(left[0].Name(), "BootNext-") {
		t.Errorf("variables left: %v, %v", left, err)
	}
}

// A system on an external disk belongs to this machine if this machine's firmware has a boot entry
// for the system. Otherwise the system belongs to another machine.
func TestFirmwareTellsThisMachinesSystemFromAnothers(t *testing.T) {
	t.Parallel()
	f := Firmware(t.TempDir())
	if f.Names(system.ESPGUID) {
		t.Error("Names is true without a boot entry")
	}
	if err := f.Start(system); err != nil {
		t.Fatal(err)
	}
	for guid, want := range map[string]bool{
		system.ESPGUID: true, strings.ToUpper(system.ESPGUID): true,
		"00112233-4455-6677-8899-aabbccddeefe": false, "": false, "none": false,
	} {
		if got := f.Names(guid); got != want {
			t.Errorf("Names(%q) is %v; want %v", guid, got, want)
		}
	}
	if err := f.Forget(); err != nil {
		t.Fatal(err)
	}
	if f.Names(system.ESPGUID) {
		t.Error("Names is true after Forget")
	}
}

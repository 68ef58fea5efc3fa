package install

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// sysBlock makes a folder like /sys/block, in which each disk is a symbolic link to the disk's
// folder on a bus.
func sysBlock(t *testing.T, disks map[string]map[string]string) string {
	t.Helper()
	root := t.TempDir()
	block := filepath.Join(root, "block")
	for name, files := range disks {
		place := filepath.Join(root, "devices", files["bus"], name)
		for f, text := range map[string]string{"removable": "0", "ro": "0", "queue/logical_block_size": "512"} {
			if _, ok := files[f]; !ok {
				files[f] = text
			}
		}
		for f, text := range files {
			if f == "bus" {
				continue
			}
			path := filepath.Join(place, f)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.MkdirAll(block, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(place, filepath.Join(block, name)); err != nil {
			t.Fatal(err)
		}
	}
	return block
}

// gb converts a number of gigabytes to the unit in which /sys gives the size of a disk, 512 bytes.
func gb(n int) string { return strconv.Itoa(n * 1e9 / 512) }

func listDisks(t *testing.T, stick string, disks map[string]map[string]string) []Disk {
	t.Helper()
	got, err := Disks(sysBlock(t, disks), t.TempDir(), stick)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestListsDisksAndWhatKeepsThemFromBeingErased(t *testing.T) {
	t.Parallel()
	got := listDisks(t, "sda", map[string]map[string]string{
		"nvme0n1":      {"bus": "pci0/nvme", "size": gb(512), "device/model": "Fast\x1b[2J ", "device/serial": "S1", "nvme0n1p1/partition": "1"},
		"sda":          {"bus": "pci0/ata1", "size": gb(2000)}, // the stick, which looks like a built-in disk
		"sdb":          {"bus": "pci0/usb1", "size": gb(8000)},
		"sdc":          {"bus": "pci0/ata2", "size": gb(8000), "removable": "1"},
		"sdd":          {"bus": "pci0/ata3", "size": gb(8000), "ro": "1"},
		"sde":          {"bus": "pci0/ata4", "size": gb(8000), "queue/logical_block_size": "8192"},
		"sdf":          {"bus": "pci0/ata5", "size": "1000"},
		"sdg":          {"bus": "pci0/ata6", "size": "0"},
		"sdh":          {"bus": "pci0/usb2", "size": "0", "removable": "1"}, // a card reader without a card
		"mmcblk0":      {"bus": "mmc", "size": gb(64), "device/type": "MMC", "device/name": "eMMC64"},
		"mmcblk1":      {"bus": "mmc", "size": gb(9000), "device/type": "SD"},
		"mmcblk0boot0": {"bus": "mmc", "size": gb(9000), "device/type": "MMC"},
		"loop0":        {"bus": "virtual", "size": gb(9000)},
		"dm-0":         {"bus": "virtual", "size": gb(9000)},
		"sr0":          {"bus": "pci0/ata7", "size": gb(9000)},
	})
	var lines []string
	for _, d := range got {
		lines = append(lines, d.Name+": "+d.External+"|"+d.Unfit)
	}
	want := `mmcblk0: |
mmcblk1: a memory card|
nvme0n1: |
sda: |the stick that the installer was started from
sdb: on USB|
sdc: removable|
sdd: |read-only
sde: |its sectors have 8192 bytes; only 512 and 4096 are supported
sdf: |too small: at least 1.1 GB are needed
sdg: |the disk has no size: the disk is not ready, or Linux does not support its sector size, such as 520 bytes`
	if s := strings.Join(lines, "\n"); s != want {
		t.Errorf("got:\n%s", s)
	}
	if s := got[2].String(); s != "/dev/nvme0n1  512.0 GB  Fast[2J  serial S1" || got[2].Content != "1 partition(s)" {
		t.Errorf("got %q, %q", s, got[2].Content)
	}
	chosen, err := Choose(Largest, got)
	if err != nil || len(chosen) != 1 || chosen[0].Name != "nvme0n1" {
		t.Errorf("chosen: %v, %v", chosen, err)
	}
}

func TestChoosesByTheRule(t *testing.T) {
	t.Parallel()
	ssd := []Disk{
		{Name: "nvme0n1", Size: 500e9, Model: "Samsung 990", Serial: "A"},
		{Name: "nvme1n1", Size: 500e9, Model: "Intel", Serial: "B"},
		{Name: "sda", Size: 100e9, Model: "Samsung 870", Serial: "C"},
		{Name: "sdb", Size: 900e9, Model: "Samsung T7", Serial: "D", External: "on USB"},
		{Name: "sdc", Size: 900e9, Model: "Backup", Serial: "0123456789", External: "on USB"},
		{Name: "sdd", Size: 950e9, Model: "Backup", Serial: "0123456789", External: "on USB"},
		{Name: "sde", Size: 990e9, Model: "Stick", Serial: "F", External: "removable", Unfit: "the stick that the installer was started from"},
		{Name: "sdf", Size: 800e9, Model: "Twin", Serial: "0123456789"},
	}
	hotPlug := []Disk{{Name: "sda", Size: 500e9, Model: "WDC", Serial: "A", External: "removable"}, ssd[6]}
	for _, c := range []struct {
		rule  Rule
		disks []Disk
		want  string // ?: ErrAmbiguous; x: ErrExternal; !: no disk
	}{
		{"largest", ssd[:7], "nvme0n1 nvme1n1 ?"},
		{"serial:B", ssd, "nvme1n1"},
		{"serial:E", ssd, "!"},
		{"model:Samsung*", ssd, "nvme0n1"},
		{"model:*", ssd[:7], "nvme0n1 nvme1n1 ?"},
		{"/dev/sda", ssd, "sda"},
		{"/dev/sdz", ssd, "!"},
		// A rule may name an external disk.
		{"/dev/sdb", ssd, "sdb"},
		{"serial:D", ssd, "sdb"},
		{"model:Samsung T7", ssd, "sdb"},
		{"model:Samsung T*", ssd, "sdb x"},
		{"model:Samsung T?", ssd, "sdb x"},
		{"model:Samsung T[7]", ssd, "sdb x"},
		{"model:Backup", ssd, "sdc sdd ?"}, // for external disks, the size does not decide
		{"serial:0123456789", ssd, "sdf"},  // a built-in disk is preferred
		{"serial:0123456789", ssd[:6], "sdc sdd ?"},
		{"largest", hotPlug, "sda x"},
		{"/dev/sda", hotPlug, "sda"},
		{"serial:A", hotPlug, "sda"},
		// No rule chooses the stick.
		{"/dev/sde", ssd, "!"},
		{"serial:F", ssd, "!"},
		{"model:Stick", ssd, "!"},
		{"model:St*", ssd, "!"},
		{"largest", hotPlug[1:], "!"},
		{"largest", nil, "!"},
	} {
		got, err := Choose(c.rule, c.disks)
		var words []string
		for _, d := range got {
			words = append(words, d.Name)
		}
		switch {
		case errors.Is(err, ErrAmbiguous):
			words = append(words, "?")
		case errors.Is(err, ErrExternal):
			words = append(words, "x")
		case errors.Is(err, os.ErrNotExist):
			words = append(words, "!")
		case err != nil:
			t.Error(err)
		}
		if s := strings.Join(words, " "); s != c.want {
			t.Errorf("%s: %s, %v; want %s", c.rule, s, err, c.want)
		}
	}
}

func TestRefusesRulesThatNameNoDisk(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"biggest", "/dev/", "/dev/../mem", "/dev/disk/by-id/x", "serial:", "model:", "model:[", "serial:a\nb", "Largest"} {
		if _, err := ParseRule(bad); err == nil {
			t.Errorf("%q: accepted", bad)
		}
	}
	if r, err := ParseRule(""); r != Largest || err != nil {
		t.Errorf("the default is %q, %v", r, err)
	}
}

package install

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gangway/tcg/eventlog"
	"gangway/wire"
)

// The table that the installer reports is the table on the disk.
func TestReadTableReturnsTheWrittenTable(t *testing.T) {
	t.Parallel()
	for _, size := range []int{sector, largeSector} {
		m, stick, _ := smallStick(t)
		disk := newMemoryOf(size, 12*mib)
		const guid = "c0ffee00-0000-4000-8000-000000000001"
		if err := (Job{Manifest: m, Stick: stick, Target: disk, DiskGUID: guid}).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		table, err := ReadTable(disk, int64(size))
		if err != nil || eventlog.CheckPartitions(table) != nil || table[eventlog.PartitionHeader] != 2 {
			t.Fatalf("sectors of %d bytes: %v: %x", size, err, table)
		}
		if _, start, length, ok := eventlog.FirstESP(table); !ok || start*uint64(size) != mib || length*uint64(size) != 3*mib {
			t.Errorf("sectors of %d bytes: the EFI system partition is at %d, with %d sectors", size, start, length)
		}
		if !bytes.Contains(table, []byte{0x00, 0xee, 0xff, 0xc0, 0, 0, 0, 0x40, 0x80, 0, 0, 0, 0, 0, 0, 1}) {
			t.Errorf("sectors of %d bytes: the disk's GUID is not in the table: %x", size, table)
		}
		head := make([]byte, eventlog.PartitionHeader)
		disk.ReadAt(head, int64(size))
		if !bytes.HasPrefix(table, head) {
			t.Errorf("sectors of %d bytes: another header: %x", size, table)
		}
	}
}

func TestRejectsADiskWithoutATable(t *testing.T) {
	t.Parallel()
	large := make([]byte, mib)
	copy(large[sector:], "EFI PART\x00\x00\x01\x00")
	large[sector+entrySize], large[sector+entryCount+3] = 128, 0xFF
	for name, disk := range map[string][]byte{"empty": nil, "zero": make([]byte, mib), "random": newMemory(mib).disk, "a table that is too large": large} {
		if table, err := ReadTable(bytes.NewReader(disk), sector); err == nil {
			t.Errorf("%s: %x", name, table)
		}
	}
}

// WriteReport does not change the size of the report's file. FAT has no journal, so a power cut
// during a change of the size could damage the file system.
func TestReportIsWrittenInPlace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, ReportPath)
	r := &wire.InstallReport{Table: []byte("table"), PCRs: [][]byte{{1}}}
	if err := WriteReport(dir, r); err == nil {
		t.Error("a report in an image that has no file for it")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, NoReport(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{strings.Repeat("long ", 1000), "short"} {
		r.Table = []byte(table)
		if err := WriteReport(dir, r); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		var got wire.InstallReport
		if err != nil || len(text) != reportFile || json.Unmarshal(text, &got) != nil || string(got.Table) != table {
			t.Errorf("%d bytes, %v: %.100s", len(text), err, text)
		}
	}
	r.EventLog = make([]byte, wire.MaxInstallReport)
	if err := WriteReport(dir, r); err == nil || !strings.Contains(err.Error(), "at most 32768") {
		t.Errorf("a report that is too large: %v", err)
	}
}

package install

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"gangway/tcg/eventlog"
	"gangway/wire"
)

// ReportPath is the path of the installer's report on the partition table (wire.InstallReport), in
// the EFI system partition of an installed system. The file has reportFile bytes: JSON, and then
// spaces. In an image, the file has only spaces.
const ReportPath = "gangway/installed.json"

// reportFile is the size of the file ReportPath, in bytes.
const reportFile = wire.MaxInstallReport

// NoReport returns the content of the file ReportPath before an installer has reported.
func NoReport() []byte { return bytes.Repeat([]byte{' '}, reportFile) }

// WriteReport writes an installer's report to the EFI system partition that is mounted at `esp`. It
// overwrites the file in place and keeps the file's size: FAT has no journal, so a power cut during
// a change of the size could damage the file system. After a power cut, an incomplete report is not
// valid JSON.
func WriteReport(esp string, r *wire.InstallReport) error {
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("install: the report: %w", err)
	}
	if len(text) > reportFile {
		return fmt.Errorf("install: the report has %d bytes; at most %d are possible", len(text), reportFile)
	}
	f, err := os.OpenFile(filepath.Join(esp, ReportPath), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("install: the report: %w", err)
	}
	padded := NoReport()
	copy(padded, text)
	_, err = f.WriteAt(padded, 0)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("install: the report: %w", err)
	}
	return nil
}

// Offsets of fields in a GUID partition table's header, in bytes (UEFI 2.10, 5.3.2).
const (
	entriesAt   = 72 // the first sector of the array of entries
	entryCount  = 80
	entrySize   = 84
	maxTable    = 1 << 20 // bytes of the array of entries
	tableSector = 1       // the sector of the header
)

// ReadTable reads a disk's partition table, and returns it as firmware measures it into PCR 5. The
// disk's sectors have `sector` bytes.
func ReadTable(disk io.ReaderAt, sector int64) ([]byte, error) {
	header := make([]byte, eventlog.PartitionHeader)
	if _, err := disk.ReadAt(header, tableSector*sector); err != nil {
		return nil, fmt.Errorf("install: reading the partition table: %w", err)
	}
	le := binary.LittleEndian
	at, size := le.Uint64(header[entriesAt:]), uint64(le.Uint32(header[entryCount:]))*uint64(le.Uint32(header[entrySize:]))
	if at > 1<<32 || size > maxTable {
		return nil, fmt.Errorf("install: reading the partition table: %w", eventlog.ErrPartitions)
	}
	entries := make([]byte, size)
	if _, err := disk.ReadAt(entries, int64(at)*sector); err != nil {
		return nil, fmt.Errorf("install: reading the partition table: %w", err)
	}
	table, err := eventlog.Partitions(header, entries)
	if err != nil {
		return nil, fmt.Errorf("install: reading the partition table: %w", err)
	}
	return table, nil
}

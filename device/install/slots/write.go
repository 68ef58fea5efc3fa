package slots

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

const (
	sector = 512
	chunk  = 1 << 20
)

// Write writes a system of `size` bytes to the slot `s`. `sum` is the system's SHA-256. The slot
// becomes bootable only when the disk has the whole system. After a power cut at any moment, the
// other slot is unchanged, and the slot `s` is either complete or unbootable.
func (e *ESP) Write(s Slot, system io.ReaderAt, size int64, sum string) error {
	f, err := os.OpenFile(e.path(s), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := e.disarm(f, s); err != nil {
		return err
	}
	first, err := e.fill(f, s, system, size)
	if err != nil {
		return fmt.Errorf("writing slot %s: %w", s, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("writing slot %s: %w", s, err)
	}
	if err := e.flush(); err != nil {
		return fmt.Errorf("writing slot %s: %w", s, err)
	}
	got, err := readBack(f, first)
	if err != nil {
		return fmt.Errorf("reading slot %s back: %w", s, err)
	}
	if got != sum {
		return fmt.Errorf("reading slot %s back: the disk returned different data from what was written; the disk may be failing", s)
	}
	e.changing("arm %s", s)
	if _, err := f.WriteAt(first, 0); err != nil {
		return fmt.Errorf("writing slot %s: %w", s, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("writing slot %s: %w", s, err)
	}
	return nil
}

// disarm makes a slot unbootable: it zeroes the first sector of the slot's file.
func (e *ESP) disarm(f *os.File, s Slot) error {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return err
	}
	e.changing("disarm %s", s)
	if _, err := f.WriteAt(make([]byte, min(sector, info.Size())), 0); err != nil {
		return err
	}
	return f.Sync()
}

// fill writes all sectors of a system except the first sector, and returns the first sector.
func (e *ESP) fill(f *os.File, s Slot, system io.ReaderAt, size int64) (first []byte, err error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > size { // otherwise the end of the longer file would remain
		e.changing("empty %s", s)
		if err := f.Truncate(0); err != nil {
			return nil, err
		}
	}
	buf := make([]byte, chunk)
	for at := int64(0); at < size; at += chunk {
		b := buf[:min(chunk, size-at)]
		if _, err := system.ReadAt(b, at); err != nil && (err != io.EOF || at+int64(len(b)) != size) {
			return nil, err
		}
		if at == 0 {
			first = bytes.Clone(b[:min(sector, len(b))])
			clear(b[:len(first)])
		}
		e.changing("write %s at %d", s, at)
		if _, err := f.WriteAt(b, at); err != nil {
			return nil, err
		}
	}
	return first, nil
}

// readBack returns the hash of the file's bytes as the disk returns them. The first sector is not
// written yet, so readBack hashes the bytes `first` instead.
func readBack(f *os.File, first []byte) (string, error) {
	// Drop the cached pages, so that the data comes from the disk.
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return "", err
	}
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	return digest(io.MultiReader(bytes.NewReader(first), io.NewSectionReader(f, int64(len(first)), info.Size()-int64(len(first)))))
}

func digest(r io.Reader) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

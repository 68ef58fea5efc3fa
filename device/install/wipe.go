package install

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"gangway/device/install/luks"
)

// The stages of a wipe, in their order.
const (
	Destroying Stage = "destroy keys"
	Erasing    Stage = "erase"
	Unlisting  Stage = "unlist"
)

// discarder is a Target that supports TRIM.
type discarder interface {
	Discard(at, size int64) error
}

// erasePiece is the number of bytes that are erased between two progress reports.
const erasePiece = 64 * mib

// Erase destroys a system's data on its disk. If the data partition is encrypted, Erase overwrites
// its encryption keys with random bytes and checks that the disk stored these bytes. If it is not
// encrypted, Erase zeroes the whole partition. It also zeroes the EFI system partition, which may
// contain a join token. Erase does not remove the partition table, so that Look finds the disk
// again after an interruption. Unlist removes the partition table later.
func Erase(ctx context.Context, t Target, i *Installed, progress Progress) error {
	if progress == nil {
		progress = func(Stage, int64, int64) {}
	}
	esp := [2]int64{i.ESPStart, i.ESPSize}
	data := [2]int64{i.DataStart, i.DataSize}
	magic := make([]byte, len(luks.Magic))
	if _, err := t.ReadAt(magic, data[0]); err != nil {
		return fmt.Errorf("install: erasing the disk: %w", err)
	}
	ranges := [][2]int64{data, esp}
	if string(magic) == luks.Magic && data[1] > luks.Overhead {
		progress(Destroying, 0, 1)
		if err := scramble(t, data[0]+i.Sector, luks.Overhead-i.Sector); err != nil {
			return err
		}
		// Destroy the keys first, and the sector that marks the partition as encrypted last. Until
		// that sector is destroyed, a retry finds the keys and destroys them again.
		if err := scramble(t, data[0], i.Sector); err != nil {
			return err
		}
		progress(Destroying, 1, 1)
		if d, ok := t.(discarder); ok { // without the keys, nobody can read the data, so an error here does no harm
			_ = d.Discard(data[0]+luks.Overhead, data[1]-luks.Overhead)
		}
		ranges = [][2]int64{{data[0], luks.Overhead}, esp}
	}
	done, total := int64(0), int64(0)
	for _, r := range ranges {
		total += r[1]
	}
	for _, r := range ranges {
		for at, left := r[0], r[1]; left > 0; {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("install: stopped: %w", err)
			}
			n := min(left, erasePiece)
			if err := t.Zero(at, n); err != nil {
				return fmt.Errorf("install: erasing the disk: %w", err)
			}
			at, left, done = at+n, left-n, done+n
			progress(Erasing, done, total)
		}
	}
	return flushed(t)
}

// scramble overwrites a range with random bytes and checks that the disk stored them.
func scramble(t Target, at, size int64) error {
	noise := make([]byte, size)
	rand.Read(noise)
	if _, err := t.WriteAt(noise, at); err != nil {
		return fmt.Errorf("install: destroying the disk's keys: %w", err)
	}
	if err := flushed(t); err != nil {
		return err
	}
	got := make([]byte, size)
	if _, err := t.ReadAt(got, at); err != nil || !bytes.Equal(got, noise) {
		return errors.Join(errors.New("install: the disk did not overwrite its encryption keys and may be failing; destroy the disk physically"), err)
	}
	return nil
}

// Unlist removes the partition tables at both ends of the disk. It is the last step of a wipe.
func Unlist(t Target, progress Progress) error {
	if progress != nil {
		progress(Unlisting, 0, 1)
		defer progress(Unlisting, 1, 1)
	}
	size := t.Size() / t.Sector() * t.Sector()
	for _, at := range []int64{0, size - mib} {
		if err := t.Zero(at, mib); err != nil {
			return fmt.Errorf("install: erasing the disk: %w", err)
		}
	}
	return flushed(t)
}

func flushed(t Target) error {
	if err := t.Flush(); err != nil {
		return fmt.Errorf("install: erasing the disk: %w", err)
	}
	return nil
}

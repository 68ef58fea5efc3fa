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

// discarder is a Target that may be told that nobody needs a range any more.
type discarder interface {
	Discard(at, size int64) error
}

// erasePiece is what is erased between two reports of the progress, in bytes.
const erasePiece = 64 * mib

// Erase destroys for good what a system has on its disk: the keys of an
// encrypted data partition, which are overwritten with random bytes and read
// back; all of one that is not encrypted; and the EFI system partition, which
// may have a join token. The partition table stays until Unlist, so that Look
// finds the disk again when it was interrupted.
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
		// What says that it is encrypted goes last.
		if err := scramble(t, data[0], i.Sector); err != nil {
			return err
		}
		progress(Destroying, 1, 1)
		if d, ok := t.(discarder); ok { // without its keys it is noise
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

// scramble overwrites a range with random bytes, and reads them back.
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
		return errors.Join(errors.New("install: the disk does not give up its keys: it may be failing; destroy it"), err)
	}
	return nil
}

// Unlist removes the partition tables at both ends: the last step of a wipe.
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

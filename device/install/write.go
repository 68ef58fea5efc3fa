package install

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"gangway/device/install/luks"
	"gangway/device/install/netfile"

	"github.com/diskfs/go-diskfs/backend"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/google/uuid"
)

const (
	mib = 1 << 20
	// sector is the smallest size of a disk's sectors, and the unit of encryption, in bytes.
	sector = 512
	// largeSector is the other size of sectors ("4K native").
	largeSector = 4096
)

// Target is the disk to which an installation writes.
type Target interface {
	io.ReaderAt
	io.WriterAt
	// Flush writes all data to the disk itself and drops cached data, so that later reads come
	// from the disk.
	Flush() error
	// Zero fills a range with zeros. `at` and `size` are multiples of the sector size.
	Zero(at, size int64) error
	// Size is the disk's size in bytes.
	Size() int64
	// Sector is the size of the disk's logical sectors, in bytes. The disk writes each sector
	// completely or not at all.
	Sector() int64
}

// Stage is a stage of an installation or a wipe.
type Stage string

// The stages of an installation, in their order.
const (
	Verifying Stage = "verify"
	Wiping    Stage = "wipe"
	Writing   Stage = "write"
	Reading   Stage = "read back"
	Arming    Stage = "arm" // write the one sector that makes the disk boot
	Done      Stage = "done"
)

// Progress receives the progress of a stage: how many bytes are done, and how many bytes the stage
// has in total.
type Progress func(s Stage, done, total int64)

// Job is one installation.
type Job struct {
	Manifest *Manifest
	Stick    fs.FS // the stick's EFI system partition
	Target   Target
	// DiskGUID is the disk's GUID, usually the result of the function DiskGUID for the manifest's
	// hash. Default: a result of NewGUID.
	DiskGUID string
	// Network has the stick's network settings, for the installed system. Manifest.Network is their
	// offset in the part "esp". If Network is nil, the stick has no settings.
	Network *netfile.Settings
	// Encrypt has the LUKS2 key slots of the data partition. Empty: the data partition is not
	// encrypted.
	Encrypt []luks.Slot
	// NewGUID makes the GUIDs of the partitions, and of the disk if DiskGUID is empty. Default:
	// random GUIDs.
	NewGUID  func() string
	Progress Progress
}

// Names of the partitions in the partition table.
const (
	espName  = "gangway-esp"
	dataName = "gangway-data"
)

// place is a part of the manifest, and the partition to which the part is written.
type place struct {
	Part
	at, room int64  // start and size of the partition on the disk, in bytes
	head     []byte // the LUKS header, which precedes the part in an encrypted partition; otherwise empty
	// target receives the part's bytes, beginning at the position `offset` of target.
	target Target
	offset int64
}

// Run installs the system. If it fails in the stage Verifying, the disk is unchanged. If it fails
// in a later stage, the disk is not bootable, so the machine boots the stick again.
func (j Job) Run(ctx context.Context) error {
	if j.NewGUID == nil {
		j.NewGUID = uuid.NewString
	}
	if j.DiskGUID == "" {
		j.DiskGUID = j.NewGUID()
	}
	if j.Progress == nil {
		j.Progress = func(Stage, int64, int64) {}
	}
	places, err := j.layout()
	if err != nil {
		return err
	}
	r := &run{Job: j}
	if r.network, err = j.settings(); err != nil {
		return err
	}
	for _, stage := range []func(context.Context, []place) error{r.verify, r.wipe, r.write, r.table, r.readBack, r.arm} {
		if err := stage(ctx, places); err != nil {
			return err
		}
	}
	j.Progress(Done, 1, 1)
	return nil
}

// run is an installation in progress.
type run struct {
	Job
	// stickHead has the first bytes of the EFI system partition, as the method `verify` read them
	// from the stick and hashed them. diskHead has the same bytes, converted to this disk's sector
	// size. The first sector of diskHead is written last.
	stickHead, diskHead []byte
	network             network
}

func (j Job) layout() ([]place, error) {
	esp, data := j.Manifest.part(ESP), j.Manifest.part(Data)
	size := j.Target.Size() / mib * mib
	room := size - 2*mib - esp.Size // a partition table at both ends
	need := data.Size
	if len(j.Encrypt) > 0 {
		need += luks.Overhead
	}
	if room < need {
		return nil, fmt.Errorf("install: the disk is too small: the disk has %s, but the system needs at least %s", Size(j.Target.Size()), Size(2*mib+esp.Size+need))
	}
	places := []place{
		{Part: esp, at: mib, room: esp.Size, target: j.Target, offset: mib},
		{Part: data, at: mib + esp.Size, room: room, target: j.Target, offset: mib + esp.Size},
	}
	if len(j.Encrypt) > 0 {
		return places, j.encrypt(&places[1])
	}
	return places, nil
}

func (j Job) total(places []place) (n int64) {
	for _, p := range places {
		n += p.Packed()
	}
	return n
}

// verify reads all files of the stick and checks their hashes. Run writes nothing to the disk
// before verify succeeds.
func (j *run) verify(ctx context.Context, places []place) error {
	done, total := int64(0), j.total(places)
	for _, p := range places {
		h := sha256.New()
		err := j.eachBlock(ctx, p, func(at int64, b []byte) error {
			if p.Name == ESP && at == 0 {
				j.stickHead = bytes.Clone(b[:fatHead])
			}
			if in, of := j.network.overlap(p, at, b, j.network.onStick); in != nil {
				copy(of, in)
			}
			h.Write(b)
			done += int64(len(b))
			j.Progress(Verifying, done, total)
			return nil
		})
		if err != nil {
			return err
		}
		if hex.EncodeToString(h.Sum(nil)) != p.SHA256 {
			return fmt.Errorf("install: the stick is damaged: %s does not match its SHA-256; nothing was written; write the stick again", p.File)
		}
	}
	var err error
	if j.diskHead, err = fatFor(j.Target.Sector(), j.stickHead); err != nil {
		return fmt.Errorf("install: %w; nothing was written", err)
	}
	return nil
}

// eachBlock calls `f` with each block of a part's file, and with the block's offset in the part.
func (j Job) eachBlock(ctx context.Context, p place, f func(at int64, b []byte) error) error {
	in, err := j.Stick.Open(p.File)
	if err != nil {
		return fmt.Errorf("install: opening a file of the stick: %w; check that the stick is still plugged in", err)
	}
	defer in.Close()
	buf := make([]byte, mib)
	for _, e := range p.Extents {
		at, end := e[0]*BlockSize, (e[0]+e[1])*BlockSize
		for at < end {
			b := buf[:min(int64(len(buf)), end-at)]
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("install: stopped: %w", err)
			}
			if _, err := io.ReadFull(in, b); err != nil {
				return fmt.Errorf("install: reading the stick's %s: %w; check that the stick is still plugged in", p.File, err)
			}
			if err := f(at, b); err != nil {
				return err
			}
			at += int64(len(b))
		}
	}
	if n, err := in.Read(buf[:1]); n != 0 || (err != nil && err != io.EOF) {
		return fmt.Errorf("install: the stick is damaged: %s is too long", p.File)
	}
	return nil
}

// wipe makes the disk unbootable for firmware. It first clears the first sector of the future EFI
// system partition, because an earlier system may have its own EFI system partition there. Then it
// clears the partition tables at both ends. It flushes the disk between these two steps. Otherwise
// a power cut might leave the tables cleared, but not that sector.
func (j Job) wipe(_ context.Context, places []place) error {
	j.Progress(Wiping, 0, 1)
	sector, esp := j.Target.Sector(), places[0].at
	size := j.Target.Size() / sector * sector
	for _, ranges := range [][][2]int64{{{esp, sector}}, {{0, mib}, {esp, BlockSize}, {size - mib, mib}}} {
		for _, r := range ranges {
			if err := j.Target.Zero(r[0], r[1]); err != nil {
				return fmt.Errorf("install: wiping the disk: %w", err)
			}
		}
		if err := j.Target.Flush(); err != nil {
			return fmt.Errorf("install: wiping the disk: %w", err)
		}
	}
	j.Progress(Wiping, 1, 1)
	return nil
}

// The method `write` writes all parts except the first sector of the EFI system partition.
func (j *run) write(ctx context.Context, places []place) error {
	done, total := int64(0), j.total(places)
	for _, p := range places {
		if _, err := j.Target.WriteAt(p.head, p.at); err != nil {
			return fmt.Errorf("install: writing %s: %w", p.Name, err)
		}
		if err := eachGap(p.Part, func(at, size int64) error { return p.target.Zero(p.offset+at, size) }); err != nil {
			return fmt.Errorf("install: writing %s: %w", p.Name, err)
		}
		err := j.eachBlock(ctx, p, func(at int64, b []byte) error {
			done += int64(len(b))
			if p.Name == ESP && at == 0 {
				copy(b, j.diskHead)
				clear(b[:j.Target.Sector()])
			}
			if in, of := j.network.overlap(p, at, b, j.network.text); in != nil {
				copy(in, of)
			}
			if _, err := p.target.WriteAt(b, p.offset+at); err != nil {
				return fmt.Errorf("install: writing %s: %w", p.Name, err)
			}
			j.Progress(Writing, done, total)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return j.Target.Flush()
}

// eachGap calls `f` for the ranges between a part's extents.
func eachGap(p Part, f func(at, size int64) error) error {
	at := int64(0)
	for _, e := range append(p.Extents[:len(p.Extents):len(p.Extents)], Extent{p.Size / BlockSize, 0}) {
		if gap := e[0]*BlockSize - at; gap > 0 {
			if err := f(at, gap); err != nil {
				return err
			}
		}
		at = (e[0] + e[1]) * BlockSize
	}
	return nil
}

func (j Job) table(_ context.Context, places []place) error {
	esp, data := places[0], places[1]
	size := j.Target.Sector()
	t := &gpt.Table{
		LogicalSectorSize: int(size), PhysicalSectorSize: int(size), ProtectiveMBR: true, GUID: j.DiskGUID,
		Partitions: []*gpt.Partition{
			partition(1, size, esp, gpt.EFISystemPartition, espName, j.NewGUID()),
			partition(2, size, data, gpt.LinuxFilesystem, dataName, j.NewGUID()),
		},
	}
	if err := t.Write(tableFile{Target: j.Target}, j.Target.Size()); err != nil {
		return fmt.Errorf("install: writing the partition table: %w", err)
	}
	if err := j.Target.Flush(); err != nil {
		return fmt.Errorf("install: writing the partition table: %w", err)
	}
	return nil
}

func partition(n int, sector int64, p place, kind gpt.Type, name, guid string) *gpt.Partition {
	return &gpt.Partition{
		Index: n, Start: uint64(p.at / sector), End: uint64((p.at+p.room)/sector - 1), Size: uint64(p.room),
		Type: kind, Name: name, GUID: guid,
	}
}

// tableFile gives a Target the methods of a file, so that package gpt can write to it.
type tableFile struct {
	Target
	backend.WritableFile // the other methods, which gpt does not call
}

func (f tableFile) ReadAt(p []byte, at int64) (int, error)  { return f.Target.ReadAt(p, at) }
func (f tableFile) WriteAt(p []byte, at int64) (int, error) { return f.Target.WriteAt(p, at) }

// readBack reads each part from the disk, and compares the SHA-256 of the part with the manifest.
// On the disk, two ranges differ from the stick on purpose: the head of the EFI system partition
// (run.diskHead), and the network settings. readBack compares these two ranges with the bytes that
// were written, and then hashes the stick's bytes in place of them. It skips the first sector of
// the EFI system partition, which is still zero.
func (j *run) readBack(ctx context.Context, places []place) error {
	done, total := int64(0), j.total(places)
	buf, zero := make([]byte, mib), make([]byte, mib)
	for _, p := range places {
		h := sha256.New()
		read := func(at, size int64, f func([]byte) error) error {
			for ; size > 0; size -= mib {
				b := buf[:min(size, mib)]
				if err := ctx.Err(); err != nil {
					return fmt.Errorf("install: stopped: %w", err)
				}
				if _, err := p.target.ReadAt(b, p.offset+at); err != nil {
					return fmt.Errorf("install: reading %s back: %w", p.Name, err)
				}
				if p.Name == ESP && at == 0 {
					if s := j.Target.Sector(); !bytes.Equal(b[s:fatHead], j.diskHead[s:]) {
						return damaged(p)
					}
					copy(b, j.stickHead)
				}
				if in, of := j.network.overlap(p, at, b, j.network.text); in != nil {
					if !bytes.Equal(in, of) {
						return damaged(p)
					}
					in, of = j.network.overlap(p, at, b, j.network.onStick)
					copy(in, of)
				}
				if err := f(b); err != nil {
					return err
				}
				at += int64(len(b))
			}
			return nil
		}
		for _, e := range p.Extents {
			err := read(e[0]*BlockSize, e[1]*BlockSize, func(b []byte) error {
				h.Write(b)
				done += int64(len(b))
				j.Progress(Reading, done, total)
				return nil
			})
			if err != nil {
				return err
			}
		}
		head := make([]byte, len(p.head))
		if _, err := j.Target.ReadAt(head, p.at); err != nil || !bytes.Equal(head, p.head) {
			return errors.Join(damaged(p), err)
		}
		if hex.EncodeToString(h.Sum(nil)) != p.SHA256 {
			return damaged(p)
		}
		err := eachGap(p.Part, func(at, size int64) error {
			return read(at, size, func(b []byte) error {
				if !bytes.Equal(b, zero[:len(b)]) {
					return damaged(p)
				}
				return nil
			})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func damaged(p place) error {
	return fmt.Errorf("install: reading %s back: the disk returned different data from what was written; the disk may be failing", p.Name)
}

// arm writes the sector that makes the disk boot.
func (j *run) arm(_ context.Context, places []place) error {
	j.Progress(Arming, 0, 1)
	first := j.diskHead[:j.Target.Sector()]
	if _, err := j.Target.WriteAt(first, places[0].at); err != nil {
		return fmt.Errorf("install: writing the last sector: %w", err)
	}
	if err := j.Target.Flush(); err != nil {
		return fmt.Errorf("install: writing the last sector: %w", err)
	}
	got := make([]byte, len(first))
	if _, err := j.Target.ReadAt(got, places[0].at); err != nil || !bytes.Equal(got, first) {
		return errors.Join(errors.New("install: reading the last sector back: the disk returned different data from what was written; the disk may be failing"), err)
	}
	j.Progress(Arming, 1, 1)
	return nil
}

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
	// sector is the smallest that disks have, and what is encrypted by.
	sector = 512
	// largeSector is the other size that disks have ("4K native").
	largeSector = 4096
)

// Target is the disk that is written to.
type Target interface {
	io.ReaderAt
	io.WriterAt
	// Flush brings what was written to the disk itself, and drops what is
	// kept of it in memory, so that reading reads the disk.
	Flush() error
	// Zero makes a range zero. Both are multiples of the sector.
	Zero(at, size int64) error
	// Size is in bytes.
	Size() int64
	// Sector is the size of the disk's logical sectors, in bytes: each is
	// written whole or not at all.
	Sector() int64
}

// Stage is what an installation is at.
type Stage string

// The stages, in their order.
const (
	Verifying Stage = "verify"
	Wiping    Stage = "wipe"
	Writing   Stage = "write"
	Reading   Stage = "read back"
	Arming    Stage = "arm" // the one sector that makes it boot
	Done      Stage = "done"
)

// Progress is told what is done of what, in bytes.
type Progress func(s Stage, done, total int64)

// Job is one installation.
type Job struct {
	Manifest *Manifest
	Stick    fs.FS // the stick's EFI system partition
	Target   Target
	// DiskGUID names the disk: DiskGUID of the manifest's hash.
	DiskGUID string
	// Network are the stick's network settings, for the installed system. Nil:
	// none. The manifest says where they go.
	Network *netfile.Settings
	// Encrypt has the data partition encrypted: LUKS2 with these key slots.
	// None: it is not.
	Encrypt []luks.Slot
	// NewGUID makes the partitions' names, and the disk's where there is none. Default: random.
	NewGUID  func() string
	Progress Progress
}

// Names of the partitions, in the table.
const (
	espName  = "gangway-esp"
	dataName = "gangway-data"
)

// place is a part with its partition.
type place struct {
	Part
	at, room int64  // of the partition on the disk
	head     []byte // what the partition begins with, before the part
	// to is what the part is written to, from offset on.
	to     Target
	offset int64
}

// Run installs. After an error in the stage Verifying the disk is as it was;
// after a later one it does not boot, and the stick does.
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

// run is an installation in work.
type run struct {
	Job
	// The EFI system partition's head as verify has hashed it, and as this disk
	// has it. The latter's first sector is written last.
	packed, head []byte
	network      network
}

func (j Job) layout() ([]place, error) {
	esp, data := j.Manifest.part(ESP), j.Manifest.part(Data)
	size := j.Target.Size() / mib * mib
	room := size - 2*mib - esp.Size // a table at both ends
	need := data.Size
	if len(j.Encrypt) > 0 {
		need += luks.Overhead
	}
	if room < need {
		return nil, fmt.Errorf("install: the disk has %s; at least %s are needed", Size(j.Target.Size()), Size(2*mib+esp.Size+need))
	}
	places := []place{
		{Part: esp, at: mib, room: esp.Size, to: j.Target, offset: mib},
		{Part: data, at: mib + esp.Size, room: room, to: j.Target, offset: mib + esp.Size},
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

// verify reads all of the stick's files, before anything is written.
func (j *run) verify(ctx context.Context, places []place) error {
	done, total := int64(0), j.total(places)
	for _, p := range places {
		h := sha256.New()
		err := j.blocks(ctx, p, func(at int64, b []byte) error {
			if p.Name == ESP && at == 0 {
				j.packed = bytes.Clone(b[:fatHead])
			}
			if in, of := j.network.part(p, at, b, j.network.stick); in != nil {
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
			return fmt.Errorf("install: the stick is damaged: %s is not what it should be; nothing was written; make the stick anew", p.File)
		}
	}
	var err error
	if j.head, err = fatFor(j.Target.Sector(), j.packed); err != nil {
		return fmt.Errorf("install: %w; nothing was written", err)
	}
	return nil
}

// blocks calls f with each block of a part's file, and where it goes in the
// part.
func (j Job) blocks(ctx context.Context, p place, f func(at int64, b []byte) error) error {
	in, err := j.Stick.Open(p.File)
	if err != nil {
		return fmt.Errorf("install: the stick: %w; is it still in?", err)
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
				return fmt.Errorf("install: reading the stick's %s: %w; is it still in?", p.File, err)
			}
			if err := f(at, b); err != nil {
				return err
			}
			at += int64(len(b))
		}
	}
	if n, err := in.Read(buf[:1]); n != 0 || (err != nil && err != io.EOF) {
		return fmt.Errorf("install: the stick is damaged: %s is longer than it should be", p.File)
	}
	return nil
}

// wipe makes the disk none that firmware boots: first the first sector of the
// EFI system partition that will be, which may be that of one that is, then the
// tables at both ends. Between the two the disk is flushed, or it might keep of
// a system all but what follows its first sector.
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

// write writes the parts, but for the first sector.
func (j *run) write(ctx context.Context, places []place) error {
	done, total := int64(0), j.total(places)
	for _, p := range places {
		if _, err := j.Target.WriteAt(p.head, p.at); err != nil {
			return fmt.Errorf("install: writing %s: %w", p.Name, err)
		}
		if err := eachGap(p.Part, func(at, size int64) error { return p.to.Zero(p.offset+at, size) }); err != nil {
			return fmt.Errorf("install: writing %s: %w", p.Name, err)
		}
		err := j.blocks(ctx, p, func(at int64, b []byte) error {
			done += int64(len(b))
			if p.Name == ESP && at == 0 {
				copy(b, j.head)
				clear(b[:j.Target.Sector()])
			}
			if in, of := j.network.part(p, at, b, j.network.text); in != nil {
				copy(in, of)
			}
			if _, err := p.to.WriteAt(b, p.offset+at); err != nil {
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

// eachGap calls f for the ranges between a part's extents.
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
		return fmt.Errorf("install: partition table: %w", err)
	}
	if err := j.Target.Flush(); err != nil {
		return fmt.Errorf("install: partition table: %w", err)
	}
	return nil
}

func partition(n int, sector int64, p place, kind gpt.Type, name, guid string) *gpt.Partition {
	return &gpt.Partition{
		Index: n, Start: uint64(p.at / sector), End: uint64((p.at+p.room)/sector - 1), Size: uint64(p.room),
		Type: kind, Name: name, GUID: guid,
	}
}

// tableFile is what gpt writes to.
type tableFile struct {
	Target
	backend.WritableFile // the rest, which is not called
}

func (f tableFile) ReadAt(p []byte, at int64) (int, error)  { return f.Target.ReadAt(p, at) }
func (f tableFile) WriteAt(p []byte, at int64) (int, error) { return f.Target.WriteAt(p, at) }

// readBack compares what is on the disk with what should be, but for the first
// sector, which is still zero. Where the disk has the head in a form of its own,
// that is compared, and the stick's is hashed in its place.
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
				if _, err := p.to.ReadAt(b, p.offset+at); err != nil {
					return fmt.Errorf("install: reading %s back: %w", p.Name, err)
				}
				if p.Name == ESP && at == 0 {
					if s := j.Target.Sector(); !bytes.Equal(b[s:fatHead], j.head[s:]) {
						return damaged(p)
					}
					copy(b, j.packed)
				}
				if in, of := j.network.part(p, at, b, j.network.text); in != nil {
					if !bytes.Equal(in, of) {
						return damaged(p)
					}
					in, of = j.network.part(p, at, b, j.network.stick)
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
	return fmt.Errorf("install: the disk does not hold what was written to it (%s): it may be failing", p.Name)
}

// arm writes the sector that makes the disk boot.
func (j *run) arm(_ context.Context, places []place) error {
	j.Progress(Arming, 0, 1)
	first := j.head[:j.Target.Sector()]
	if _, err := j.Target.WriteAt(first, places[0].at); err != nil {
		return fmt.Errorf("install: the last sector: %w", err)
	}
	if err := j.Target.Flush(); err != nil {
		return fmt.Errorf("install: the last sector: %w", err)
	}
	got := make([]byte, len(first))
	if _, err := j.Target.ReadAt(got, places[0].at); err != nil || !bytes.Equal(got, first) {
		return errors.Join(errors.New("install: the disk does not hold the last sector that was written: it may be failing"), err)
	}
	j.Progress(Arming, 1, 1)
	return nil
}

package install

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"golang.org/x/sys/unix"

	"gangway/internal/race"
)

// smallStick makes a stick with an EFI system partition of 3 MiB and a data partition of 2 MiB.
func smallStick(t testing.TB) (*Manifest, fstest.MapFS, map[string][]byte) {
	t.Helper()
	esp, data := make([]byte, 3*mib), make([]byte, 2*mib)
	copy(esp, "boot sector")
	le := binary.LittleEndian
	le.PutUint16(esp[fatSector:], 512)
	esp[fatPerCluster] = 8
	le.PutUint16(esp[fatReserved:], 32)
	le.PutUint32(esp[fatTotal:], 3*mib/512)
	le.PutUint32(esp[fatTableSize:], 8)
	le.PutUint16(esp[fatInfo:], 1)
	le.PutUint16(esp[fatBackup:], 6)
	copy(esp[510:], "\x55\xaa")
	copy(esp[512:], "information sector")
	copy(esp[6*512:], esp[:1024])
	copy(esp[fatHead:], "table")
	copy(esp[mib+100:], strings.Repeat("kernel", 50000))
	copy(data[1024:], "superblock")
	m := &Manifest{Version: 1, Target: "test", Disk: Largest}
	stick := fstest.MapFS{}
	for name, image := range map[string][]byte{ESP: esp, Data: data} {
		extents, packed := Pack(image)
		sum := sha256.Sum256(packed)
		p := Part{Name: name, File: "gangway/" + name + ".img", SHA256: hex.EncodeToString(sum[:]), Size: int64(len(image)), Extents: extents}
		if name == ESP {
			m.Parts = append([]Part{p}, m.Parts...)
		} else {
			m.Parts = append(m.Parts, p)
		}
		stick[p.File] = &fstest.MapFile{Data: packed}
	}
	return m, stick, map[string][]byte{ESP: esp, Data: data}
}

var errCut = errors.New("the power failed")

// memory is a disk in memory. A power cut may lose any of the sectors that were written after the
// last flush.
type memory struct {
	sector  int
	disk    []byte         // the content after a flush
	pending map[int][]byte // sectors written since the last flush
	writes  int            // number of writes until the power cut; negative: no power cut
	broken  int            // number of the sector that does not store written data; -1: none
}

func newMemory(size int) *memory { return newMemoryOf(sector, size) }

func newMemoryOf(sector, size int) *memory {
	m := &memory{sector: sector, disk: make([]byte, size), pending: map[int][]byte{}, writes: -1, broken: -1}
	r := rand.New(rand.NewPCG(1, 2))
	for at := 0; at < size; at += 8 { // random old content
		binary.LittleEndian.PutUint64(m.disk[at:], r.Uint64())
	}
	return m
}

// The method `clone` returns a copy of the disk whose power fails after `writes` writes.
func (m *memory) clone(writes int) *memory {
	return &memory{sector: m.sector, disk: bytes.Clone(m.disk), pending: map[int][]byte{}, writes: writes, broken: -1}
}

// The method `file` returns a file with the content of the disk. The file is in memory, because the
// tests of power cuts make hundreds of them.
func (m *memory) file(t testing.TB) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("disk", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "disk")
	if _, err := f.Write(m.disk); err != nil {
		t.Fatal(err)
	}
	return f
}

func (m *memory) Size() int64   { return int64(len(m.disk)) }
func (m *memory) Sector() int64 { return int64(m.sector) }

func (m *memory) step() error {
	if m.writes == 0 {
		return errCut
	}
	m.writes--
	return nil
}

func (m *memory) WriteAt(p []byte, at int64) (int, error) {
	for i := 0; i < len(p); {
		if err := m.step(); err != nil {
			return i, err
		}
		n, in := (int(at)+i)/m.sector, (int(at)+i)%m.sector
		whole := make([]byte, m.sector) // a write may change only a part of a sector
		m.ReadAt(whole, int64(n*m.sector))
		i += copy(whole[in:], p[i:])
		if n != m.broken {
			m.pending[n] = whole
		}
	}
	return len(p), nil
}

func (m *memory) Zero(at, size int64) error {
	_, err := m.WriteAt(make([]byte, size), at)
	return err
}

func (m *memory) ReadAt(p []byte, at int64) (int, error) {
	for i := 0; i < len(p); {
		s, in := (int(at)+i)/m.sector, (int(at)+i)%m.sector
		from := m.disk[s*m.sector : (s+1)*m.sector]
		if b, ok := m.pending[s]; ok {
			from = b
		}
		i += copy(p[i:], from[in:])
	}
	return len(p), nil
}

func (m *memory) Flush() error {
	if err := m.step(); err != nil {
		return err
	}
	m.keep(func() bool { return true })
	return nil
}

// keep simulates a power cut. For each pending sector, it calls `luck`, and writes the sector to
// the disk only if the result is true.
func (m *memory) keep(luck func() bool) {
	for s, b := range m.pending {
		if luck() {
			copy(m.disk[s*m.sector:], b)
		}
	}
	m.pending = map[int][]byte{}
}

// boots reports whether firmware would boot the disk. The disk must have a partition table at one
// end or at both ends, and the EFI system partition in that table must begin with a boot sector.
func boots(t testing.TB, m *memory) (table *gpt.Table, ok bool) {
	t.Helper()
	disk := m.disk
	f := m.file(t)
	defer f.Close()
	table, err := gpt.Read(file.New(f, true), m.sector, m.sector)
	if err != nil {
		return nil, false
	}
	at := int(table.Partitions[0].Start) * m.sector
	return table, table.Partitions[0].Type == gpt.EFISystemPartition && bytes.HasPrefix(disk[at:], []byte("boot sector"))
}

func TestInstalls(t *testing.T) {
	t.Parallel()
	forEachSectorSize(t, func(t *testing.T, sector int) {
		m, stick, images := smallStick(t)
		disk := newMemoryOf(sector, 12*mib+4096)
		var stages []Stage
		err := Job{Manifest: m, Stick: stick, Target: disk, Progress: func(s Stage, done, total int64) {
			if len(stages) == 0 || stages[len(stages)-1] != s {
				stages = append(stages, s)
			}
			if done > total {
				t.Errorf("stage %s reports %d of %d bytes", s, done, total)
			}
		}}.Run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		table, ok := boots(t, disk)
		if !ok {
			t.Fatal("the disk does not boot")
		}
		checkPartitions(t, "installed", disk, table, images)
		// The data partition ends where the second table begins.
		if end := int(table.Partitions[1].End+1) * sector; end != 11*mib {
			t.Errorf("the data partition ends at %d", end)
		}
		if got := len(stages); got != 6 {
			t.Errorf("stages: %v", stages)
		}
	})
}

// forEachSectorSize runs a test for both sizes of sectors.
func forEachSectorSize(t *testing.T, f func(t *testing.T, sector int)) {
	for _, size := range []int{sector, largeSector} {
		t.Run(fmt.Sprint(size), func(t *testing.T) { f(t, size) })
	}
}

// checkPartitions checks that both partitions have the images' bytes. `after` names the situation
// in the failure message.
func checkPartitions(t *testing.T, after string, disk *memory, table *gpt.Table, images map[string][]byte) {
	t.Helper()
	for i, name := range []string{ESP, Data} {
		p := table.Partitions[i]
		want := bytes.Clone(images[name])
		if name == ESP {
			head, err := fatFor(disk.Sector(), want)
			if err != nil {
				t.Fatal(err)
			}
			copy(want, head)
		}
		if p.Name != "gangway-"+name || !bytes.HasPrefix(disk.disk[int(p.Start)*disk.sector:], want) {
			t.Fatalf("%s: partition %d, %s, does not hold its image", after, i+1, p.Name)
		}
	}
}

// The power may fail at any write, and the disk may have stored any of the unflushed sectors. In
// each case, if firmware boots the disk, the system on the disk is complete.
func TestPowerCutAtAnyWriteLeavesADiskThatBootsOrDoesNot(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	forEachSectorSize(t, cutAtAnyWrite)
}

func cutAtAnyWrite(t *testing.T, sector int) {
	m, stick, images := smallStick(t)
	before := newMemoryOf(sector, 8*mib)
	before.writes = 1 << 40
	if err := (Job{Manifest: m, Stick: stick, Target: before}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	steps := 1<<40 - before.writes
	// The disk already has another system. While the installer erases that system, the disk
	// must not boot.
	r := rand.New(rand.NewPCG(3, 4))
	started := 0
	var cuts []int
	count := 60
	if testing.Short() {
		count = 6 // enough to cut each stage; the full test takes 20 s
	}
	for n := range count {
		cuts = append(cuts, n*steps/count, steps-n-1) // cuts spread over all writes, and cuts at the last writes
	}
	for _, cut := range cuts {
		disk := before.clone(cut)
		err := Job{Manifest: m, Stick: stick, Target: disk}.Run(t.Context())
		if err == nil || !strings.Contains(err.Error(), errCut.Error()) { // gpt does not wrap errors
			t.Fatalf("cut at %d of %d: %v", cut, steps, err)
		}
		disk.keep(func() bool { return r.IntN(2) == 0 })
		table, ok := boots(t, disk)
		if !ok {
			continue
		}
		started++
		checkPartitions(t, fmt.Sprintf("cut at %d of %d", cut, steps), disk, table, images)
		// After any number of power cuts, an installation without a power cut succeeds.
		disk.writes = -1
		if err := (Job{Manifest: m, Stick: stick, Target: disk}).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if started == 0 {
		t.Error("no disk boots after a cut, so the test checked nothing")
	}
	t.Logf("%d cuts in %d writes; the disk boots after %d of them", len(cuts), steps, started)
}

// The installer verifies the stick before it writes to the disk.
func TestDamagedStickLeavesTheDiskAsItWas(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(*Manifest, fstest.MapFS){
		"one bit":   func(_ *Manifest, s fstest.MapFS) { s["gangway/data.img"].Data[7] ^= 1 },
		"truncated": func(_ *Manifest, s fstest.MapFS) { s["gangway/esp.img"].Data = s["gangway/esp.img"].Data[:100] },
		"too long":  func(_ *Manifest, s fstest.MapFS) { s["gangway/esp.img"].Data = append(s["gangway/esp.img"].Data, 0) },
		"no file":   func(_ *Manifest, s fstest.MapFS) { delete(s, "gangway/esp.img") },
	} {
		t.Run(name, func(t *testing.T) {
			m, stick, _ := smallStick(t)
			damage(m, stick)
			disk := newMemory(12 * mib)
			before := bytes.Clone(disk.disk)
			if err := (Job{Manifest: m, Stick: stick, Target: disk}).Run(t.Context()); err == nil {
				t.Fatal("a damaged stick is installed")
			}
			if len(disk.pending) > 0 || !bytes.Equal(disk.disk, before) {
				t.Error("the disk was written to")
			}
		})
	}
}

// changingStick is a stick on which one file changes: the file with the EFI system partition
// changes by one byte between the first and the second reading.
type changingStick struct {
	fstest.MapFS
	at     int
	opened *int
}

func (c changingStick) Open(name string) (fs.File, error) {
	if name == "gangway/esp.img" {
		if *c.opened++; *c.opened > 1 {
			other := bytes.Clone(c.MapFS[name].Data)
			other[c.at] ^= 1
			return fstest.MapFS{name: {Data: other}}.Open(name)
		}
	}
	return c.MapFS.Open(name)
}

// If a faulty or hostile stick returns different bytes after the installer has verified its files,
// the disk must not boot.
func TestStickThatChangesAfterItWasVerifiedDoesNotBoot(t *testing.T) {
	t.Parallel()
	m, stick, images := smallStick(t)
	disk := newMemory(12 * mib)
	err := Job{Manifest: m, Stick: changingStick{stick, 64<<10 + 200, new(int)}, Target: disk}.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "different data from what was written") {
		t.Errorf("got %v", err)
	}
	if _, ok := boots(t, disk); ok {
		t.Error("the disk boots")
	}
	// The byte that changes here is in the head of the partition. The installation writes the head
	// that it read when it verified the file, so the change has no effect.
	if err := (Job{Manifest: m, Stick: changingStick{stick, 0, new(int)}, Target: disk}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	table, ok := boots(t, disk)
	if !ok {
		t.Fatal("the disk does not boot")
	}
	checkPartitions(t, "the stick's head changed", disk, table, images)
}

// If a faulty disk does not store one of the sectors, the installation fails and the disk must not
// boot.
func TestDiskThatDoesNotKeepWhatIsWrittenDoesNotBoot(t *testing.T) {
	t.Parallel()
	forEachSectorSize(t, func(t *testing.T, sector int) {
		for _, at := range []int{mib, mib + sector, mib + fatHead, mib + mib/2, 2*mib + 1024, 4*mib + 1024} {
			m, stick, _ := smallStick(t)
			disk := newMemoryOf(sector, 12*mib)
			disk.broken = at / sector
			err := Job{Manifest: m, Stick: stick, Target: disk}.Run(t.Context())
			if err == nil || !strings.Contains(err.Error(), "may be failing") {
				t.Errorf("with the sector at %d broken: got %v", at, err)
			}
			if _, ok := boots(t, disk); ok {
				t.Errorf("at %d: the disk boots", at)
			}
		}
	})
}

// Before the installer writes to the disk, it refuses an image whose file system does not support
// the disk's sector size.
func TestImageThatIsNoneForLargeSectorsLeavesTheDiskAsItWas(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(boot []byte){
		"small clusters":     func(b []byte) { b[fatPerCluster] = 1 },
		"odd table size":     func(b []byte) { b[fatTableSize]++ },
		"odd total size":     func(b []byte) { b[fatTotal]++ },
		"other head size":    func(b []byte) { b[fatReserved] = 33 },
		"no information":     func(b []byte) { b[fatInfo] = 0 },
		"information beyond": func(b []byte) { b[fatInfo], b[fatInfo+1] = 0xFF, 0xFF },
		"large sectors":      func(b []byte) { b[fatSector+1] = 16 },
	} {
		t.Run(name, func(t *testing.T) {
			m, stick, _ := smallStick(t)
			change(stick["gangway/esp.img"].Data)
			sum := sha256.Sum256(stick["gangway/esp.img"].Data)
			m.Parts[0].SHA256 = hex.EncodeToString(sum[:])
			disk := newMemoryOf(largeSector, 12*mib)
			before := bytes.Clone(disk.disk)
			if err := (Job{Manifest: m, Stick: stick, Target: disk}).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "nothing was written") {
				t.Errorf("got %v", err)
			}
			if len(disk.pending) > 0 || !bytes.Equal(disk.disk, before) {
				t.Error("the disk was written to")
			}
		})
	}
}

func TestRefusesADiskThatIsTooSmall(t *testing.T) {
	t.Parallel()
	m, stick, _ := smallStick(t)
	disk := newMemory(6 * mib)
	if err := (Job{Manifest: m, Stick: stick, Target: disk}).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "the disk is too small") {
		t.Errorf("got %v", err)
	}
	if len(disk.pending) > 0 {
		t.Error("the disk was written to")
	}
}

// If the context ends during an installation, Run returns.
func TestStopsWhenItIsToldTo(t *testing.T) {
	t.Parallel()
	m, stick, _ := smallStick(t)
	ctx, cancel := context.WithCancel(t.Context())
	err := Job{Manifest: m, Stick: stick, Target: newMemory(12 * mib), Progress: func(s Stage, _, _ int64) {
		if s == Writing {
			cancel()
		}
	}}.Run(ctx)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

package install

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/partition/gpt"

	"gangway/internal/race"
)

// A small stick: an EFI system partition of 3 MiB, a data partition of 2 MiB.
func small(t testing.TB) (*Manifest, fstest.MapFS, map[string][]byte) {
	t.Helper()
	esp, data := make([]byte, 3*mib), make([]byte, 2*mib)
	copy(esp, "boot sector")
	copy(esp[510:], "\x55\xaa")
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

// memory is a disk that may lose, in a power cut, any of the sectors that were
// written since it was last flushed.
type memory struct {
	disk    []byte         // what it holds for sure
	pending map[int][]byte // sectors written since
	writes  int            // that are left before the cut; negative: no cut
	broken  int            // this sector does not keep what is written
}

func newMemory(size int) *memory {
	m := &memory{disk: make([]byte, size), pending: map[int][]byte{}, writes: -1, broken: -1}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range m.disk { // what was there
		m.disk[i] = byte(r.Uint32())
	}
	return m
}

func (m *memory) Size() int64 { return int64(len(m.disk)) }

func (m *memory) step() error {
	if m.writes == 0 {
		return errCut
	}
	m.writes--
	return nil
}

func (m *memory) WriteAt(p []byte, at int64) (int, error) {
	if at%sector != 0 { // the protective table, in the middle of sector 0
		whole := make([]byte, sector)
		if _, err := m.ReadAt(whole, at/sector*sector); err != nil {
			return 0, err
		}
		n := copy(whole[at%sector:], p)
		_, err := m.WriteAt(whole, at/sector*sector)
		return n, err
	}
	for i := 0; i < len(p); i += sector {
		if err := m.step(); err != nil {
			return i, err
		}
		if n := (int(at) + i) / sector; n != m.broken {
			m.pending[n] = bytes.Clone(p[i : i+sector])
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
		s, in := (int(at)+i)/sector, (int(at)+i)%sector
		from := m.disk[s*sector : (s+1)*sector]
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

// keep brings those of the pending sectors to the disk that luck has it.
func (m *memory) keep(luck func() bool) {
	for s, b := range m.pending {
		if luck() {
			copy(m.disk[s*sector:], b)
		}
	}
	m.pending = map[int][]byte{}
}

// boots reports whether firmware would start the disk: it has a table, in
// either place, with an EFI system partition that begins as a file system does.
func boots(t testing.TB, disk []byte) (table *gpt.Table, ok bool) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(disk); err != nil {
		t.Fatal(err)
	}
	table, err = gpt.Read(file.New(f, true), sector, sector)
	if err != nil {
		return nil, false
	}
	at := int64(table.Partitions[0].Start) * sector
	return table, table.Partitions[0].Type == gpt.EFISystemPartition && bytes.HasPrefix(disk[at:], []byte("boot sector"))
}

func TestInstalls(t *testing.T) {
	m, stick, images := small(t)
	disk := newMemory(12*mib + 4096)
	var stages []Stage
	err := Job{Manifest: m, Stick: stick, Target: disk, Progress: func(s Stage, done, total int64) {
		if len(stages) == 0 || stages[len(stages)-1] != s {
			stages = append(stages, s)
		}
		if done > total {
			t.Errorf("%s: %d of %d", s, done, total)
		}
	}}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	table, ok := boots(t, disk.disk)
	if !ok {
		t.Fatal("it would not boot")
	}
	for i, name := range []string{ESP, Data} {
		p := table.Partitions[i]
		if p.Name != "gangway-"+name || !bytes.HasPrefix(disk.disk[p.Start*sector:], images[name]) {
			t.Errorf("partition %d, %s, does not hold what it should", i+1, p.Name)
		}
	}
	// The data partition ends with the disk, but for the second table.
	if end := int64(table.Partitions[1].End+1) * sector; end != 11*mib {
		t.Errorf("the data partition ends at %d", end)
	}
	if got := len(stages); got != 6 {
		t.Errorf("stages: %v", stages)
	}
}

// Whenever the power fails, and whatever of the last writes the disk kept: if
// firmware would start it, all of it is there.
func TestPowerCutAtAnyWriteLeavesADiskThatBootsOrDoesNot(t *testing.T) {
	race.Skip(t)
	m, stick, images := small(t)
	whole := newMemory(8 * mib)
	whole.writes = 1 << 40
	if err := (Job{Manifest: m, Stick: stick, Target: whole}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	steps := 1<<40 - whole.writes
	// There is a system on the disk before, which must not start half erased.
	r := rand.New(rand.NewPCG(3, 4))
	started := 0
	var cuts []int
	for n := range 60 {
		cuts = append(cuts, n*steps/60, steps-n-1) // all over, and each of the last
	}
	for _, cut := range cuts {
		disk := newMemory(8 * mib)
		copy(disk.disk, whole.disk)
		disk.writes = cut
		err := Job{Manifest: m, Stick: stick, Target: disk}.Run(t.Context())
		if err == nil || !strings.Contains(err.Error(), errCut.Error()) { // gpt does not wrap errors
			t.Fatalf("cut at %d of %d: %v", cut, steps, err)
		}
		disk.keep(func() bool { return r.IntN(2) == 0 })
		table, ok := boots(t, disk.disk)
		if !ok {
			continue
		}
		started++
		for i, name := range []string{ESP, Data} {
			if at := table.Partitions[i].Start * sector; !bytes.HasPrefix(disk.disk[at:], images[name]) {
				t.Fatalf("cut at %d of %d: it starts, and %s is not whole", cut, steps, name)
			}
		}
		// Cut again and again, it installs in the end.
		disk.writes = -1
		if err := (Job{Manifest: m, Stick: stick, Target: disk}).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if started == 0 {
		t.Error("none of the disks started, so nothing was tested")
	}
	t.Logf("%d cuts in %d steps; %d times the disk starts", len(cuts), steps, started)
}

// What the stick holds is verified before the disk is touched.
func TestDamagedStickLeavesTheDiskAsItWas(t *testing.T) {
	for name, damage := range map[string]func(*Manifest, fstest.MapFS){
		"a bit":    func(_ *Manifest, s fstest.MapFS) { s["gangway/data.img"].Data[7] ^= 1 },
		"the end":  func(_ *Manifest, s fstest.MapFS) { s["gangway/esp.img"].Data = s["gangway/esp.img"].Data[:100] },
		"too long": func(_ *Manifest, s fstest.MapFS) { s["gangway/esp.img"].Data = append(s["gangway/esp.img"].Data, 0) },
		"no file":  func(_ *Manifest, s fstest.MapFS) { delete(s, "gangway/esp.img") },
	} {
		t.Run(name, func(t *testing.T) {
			m, stick, _ := small(t)
			damage(m, stick)
			disk := newMemory(12 * mib)
			before := bytes.Clone(disk.disk)
			if err := (Job{Manifest: m, Stick: stick, Target: disk}).Run(t.Context()); err == nil {
				t.Fatal("it installs")
			}
			if len(disk.pending) > 0 || !bytes.Equal(disk.disk, before) {
				t.Error("the disk was written to")
			}
		})
	}
}

// changing is a stick that holds something else when it is read again.
type changing struct {
	fstest.MapFS
	opened map[string]int
}

func (c changing) Open(name string) (fs.File, error) {
	c.opened[name]++
	if c.opened[name] > 1 && name == "gangway/esp.img" {
		other := bytes.Clone(c.MapFS[name].Data)
		other[0] ^= 1
		return fstest.MapFS{name: {Data: other}}.Open(name)
	}
	return c.MapFS.Open(name)
}

func TestStickThatChangesAfterItWasVerifiedDoesNotBoot(t *testing.T) {
	m, stick, _ := small(t)
	disk := newMemory(12 * mib)
	err := Job{Manifest: m, Stick: changing{stick, map[string]int{}}, Target: disk}.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "does not hold") {
		t.Errorf("got %v", err)
	}
	if _, ok := boots(t, disk.disk); ok {
		t.Error("it boots")
	}
}

func TestDiskThatDoesNotKeepWhatIsWrittenDoesNotBoot(t *testing.T) {
	for _, at := range []int{2*mib + 1024, mib + mib/2, 4*mib + 1024} {
		m, stick, _ := small(t)
		disk := newMemory(12 * mib)
		disk.broken = at / sector
		err := Job{Manifest: m, Stick: stick, Target: disk}.Run(t.Context())
		if err == nil || !strings.Contains(err.Error(), "may be failing") {
			t.Errorf("sector %d: %v", disk.broken, err)
		}
		if _, ok := boots(t, disk.disk); ok {
			t.Errorf("sector %d: it boots", disk.broken)
		}
	}
}

func TestRefusesADiskThatIsTooSmall(t *testing.T) {
	m, stick, _ := small(t)
	disk := newMemory(6 * mib)
	if err := (Job{Manifest: m, Stick: stick, Target: disk}).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "are needed") {
		t.Errorf("got %v", err)
	}
	if len(disk.pending) > 0 {
		t.Error("it was written to")
	}
}

func TestStopsWhenItIsToldTo(t *testing.T) {
	m, stick, _ := small(t)
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

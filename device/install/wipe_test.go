package install

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gangway/device/install/luks"
	"gangway/internal/race"
)

var passphrase = []byte(strings.Repeat("passphrase", 3))

// installedDisk returns a disk with an installed system.
func installedDisk(t *testing.T, encrypted bool) *memory {
	t.Helper()
	m, stick, _ := smallStick(t)
	job := Job{Manifest: m, Stick: stick, Target: newMemory(24 * mib)}
	if encrypted {
		job.Encrypt = []luks.Slot{{Passphrase: passphrase}}
	}
	if err := job.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	return job.Target.(*memory)
}

// look calls Look for a disk in memory.
func look(t *testing.T, m *memory) (*Installed, error) {
	t.Helper()
	f := m.file(t)
	defer f.Close()
	dev := t.TempDir()
	if err := os.Symlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), filepath.Join(dev, "sda")); err != nil {
		t.Fatal(err)
	}
	return Look(dev, "sda")
}

func dataOf(m *memory, i *Installed) []byte { return m.disk[i.DataStart:][:i.DataSize] }

// After a wipe of an encrypted disk, no passphrase opens it.
func TestWipedDiskOpensNoMore(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	disk := installedDisk(t, true)
	i, err := look(t, disk)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := luks.Open(bytes.NewReader(dataOf(disk, i)), passphrase); err != nil {
		t.Fatalf("before: %v", err)
	}
	slots := bytes.Clone(dataOf(disk, i)[:luks.Overhead])
	var stages []Stage
	progress := func(s Stage, done, total int64) {
		if done > total {
			t.Errorf("stage %s reports %d of %d bytes", s, done, total)
		}
		if !slices.Contains(stages, s) {
			stages = append(stages, s)
		}
	}
	if err := Erase(t.Context(), disk, i, progress); err != nil {
		t.Fatal(err)
	}
	// If a wipe stops here, a second wipe is possible, because Look still finds the system.
	if again, err := look(t, disk); err != nil || again.Whole || again.DataStart != i.DataStart {
		t.Errorf("erased: %+v, %v", again, err)
	}
	for at := 0; at < len(slots); at += sector {
		if s := slots[at : at+sector]; !bytes.Equal(s, make([]byte, sector)) && bytes.Contains(disk.disk, s) {
			t.Fatalf("the header's sector at %d is still on the disk", at)
		}
	}
	if err := Unlist(disk, progress); err != nil {
		t.Fatal(err)
	}
	if _, err := look(t, disk); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("wiped: %v", err)
	}
	if !slices.Equal(stages, []Stage{Destroying, Erasing, Unlisting}) {
		t.Errorf("stages: %v", stages)
	}
}

// A wipe of a disk without encryption overwrites all data with zeros.
func TestWipedDiskHoldsNothingThatWasNotEncrypted(t *testing.T) {
	t.Parallel()
	disk := installedDisk(t, false)
	i, err := look(t, disk)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(disk.disk, []byte("superblock")) || !bytes.Contains(disk.disk, []byte("kernel")) {
		t.Fatal("the disk has no data before the wipe")
	}
	if err := errors.Join(Erase(t.Context(), disk, i, nil), Unlist(disk, nil)); err != nil {
		t.Fatal(err)
	}
	// Now everything on the disk is zero, including the partition tables.
	if !bytes.Equal(disk.disk, make([]byte, len(disk.disk))) {
		t.Error("some data is left on the disk")
	}
}

// If a disk does not overwrite its encryption keys, Erase fails, so that the installer does not
// report the disk as wiped.
func TestDiskThatKeepsItsKeysIsFoundOut(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	disk := installedDisk(t, true)
	i, err := look(t, disk)
	if err != nil {
		t.Fatal(err)
	}
	disk.broken = int(i.DataStart)/sector + 100
	if err := Erase(t.Context(), disk, i, nil); err == nil || !strings.Contains(err.Error(), "destroy the disk physically") {
		t.Errorf("got %v", err)
	}
}

// If the machine's power fails at any point of a wipe, either the disk's keys are destroyed or Look
// finds the disk again, so that a second wipe is possible.
func TestPowerCutInAWipeLeavesNoKeysThatAreNotFoundAgain(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	if testing.Short() {
		t.Skip("it wipes dozens of disks: make test runs this test")
	}
	whole := installedDisk(t, true)
	i, err := look(t, whole)
	if err != nil {
		t.Fatal(err)
	}
	wipe := func(m *memory) error {
		i, err := look(t, m)
		if err != nil {
			return err
		}
		if err := Erase(t.Context(), m, i, nil); err != nil {
			return err
		}
		return Unlist(m, nil)
	}
	uncut := whole.clone(1 << 40)
	if err := wipe(uncut); err != nil {
		t.Fatal(err)
	}
	steps := 1<<40 - uncut.writes
	r := rand.New(rand.NewPCG(5, 6))
	found, lost := 0, 0
	const count = 12
	// A power cut keeps a random set of the written sectors. So the loop continues until Look has
	// found the disk after some power cuts, and has not found it after others.
	for n := 0; n < count || (found == 0 || lost == 0) && n < 10*count; n++ {
		for _, cut := range []int{n % count * steps / count, steps - 1 - n} { // spread over all writes, and at the end, when the tables are removed
			m := whole.clone(cut)
			if err := wipe(m); !errors.Is(err, errCut) {
				t.Fatalf("cut at %d of %d: %v", cut, steps, err)
			}
			m.keep(func() bool { return r.IntN(2) == 0 })
			_, open := luks.Open(bytes.NewReader(dataOf(m, i)), passphrase)
			m.writes = -1
			switch err := wipe(m); {
			case err == nil:
				found++
			case !errors.Is(err, fs.ErrNotExist):
				t.Fatalf("cut at %d of %d: %v", cut, steps, err)
			default:
				lost++
				if open == nil {
					t.Fatalf("cut at %d of %d: Look does not find the disk, but its key still opens it", cut, steps)
				}
			}
			if _, err := luks.Open(bytes.NewReader(dataOf(m, i)), passphrase); err == nil {
				t.Fatalf("cut at %d of %d: the key opens the disk after the wipe", cut, steps)
			}
		}
	}
	if found == 0 || lost == 0 {
		t.Errorf("the disk was found again %d times and not found %d times: one of the two cases was not tested", found, lost)
	}
	t.Logf("%d writes; found again %d times, not found %d times", steps, found, lost)
}

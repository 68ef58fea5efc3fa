package install

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"gangway/device/install/netfile"
	"gangway/internal/race"
)

// networkAt is the offset of the settings in this test. It is chosen so that the settings cross the
// border between two pieces that Job.Run writes.
const networkAt = mib - 8192

// smallStickWithNetwork returns a stick like that of smallStick, with a file for network settings.
// It also returns network settings, and the images that the partitions must have after an
// installation with these settings.
func smallStickWithNetwork(t testing.TB) (*Manifest, fstest.MapFS, map[string][]byte, *netfile.Settings) {
	t.Helper()
	m, stick, images := smallStick(t)
	copy(images[ESP][networkAt:], NoNetwork())
	extents, packed := Pack(images[ESP])
	sum := sha256.Sum256(packed)
	m.Parts[0].Extents, m.Parts[0].SHA256, m.Network = extents, hex.EncodeToString(sum[:]), networkAt
	stick[m.Parts[0].File] = &fstest.MapFile{Data: packed}
	s, err := netfile.Parse([]byte("version = 1\nmtu = 1280\naddress = 192.0.2.10/24\n"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := Padded(s.Text())
	if err != nil {
		t.Fatal(err)
	}
	copy(images[ESP][networkAt:], text)
	return m, stick, images, s
}

// If the machine's power fails at any moment of the installation, and the disk boots, the installed
// system has the stick's network settings.
func TestInstalledSystemHasTheSticksNetworkSettings(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	forEachSectorSize(t, func(t *testing.T, sector int) {
		m, stick, images, s := smallStickWithNetwork(t)
		job := Job{Manifest: m, Stick: stick, Network: s}
		disk := newMemoryOf(sector, 8*mib)
		disk.writes = 1 << 40
		job.Target = disk
		if err := job.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		steps := 1<<40 - disk.writes
		table, ok := boots(t, disk)
		if !ok {
			t.Fatal("the disk does not boot")
		}
		checkPartitions(t, "installed", disk, table, images)
		r := rand.New(rand.NewPCG(5, 6))
		for n := range 8 {
			disk := newMemoryOf(sector, 8*mib)
			disk.writes = steps - 1 - n
			job.Target = disk
			if err := job.Run(t.Context()); err == nil {
				t.Fatal("Run succeeds despite the power cut")
			}
			disk.keep(func() bool { return r.IntN(2) == 0 })
			if table, ok := boots(t, disk); ok {
				checkPartitions(t, "cut", disk, table, images)
			}
		}
	})
}

// If the disk does not store the network settings correctly, the disk must not boot. If the image
// has no file for network settings, an installation with network settings fails.
func TestNetworkSettingsAreReadBack(t *testing.T) {
	t.Parallel()
	m, stick, images, s := smallStickWithNetwork(t)
	disk := newMemory(12 * mib)
	disk.broken = (mib + networkAt) / sector
	err := Job{Manifest: m, Stick: stick, Target: disk, Network: s}.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "different data from what was written") {
		t.Errorf("the disk does not store the settings: %v", err)
	}
	if _, ok := boots(t, disk); ok {
		t.Error("the disk boots")
	}
	disk = newMemory(12 * mib)
	if err := (Job{Manifest: m, Stick: stick, Target: disk}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	table, _ := boots(t, disk)
	copy(images[ESP][networkAt:], NoNetwork())
	checkPartitions(t, "without settings", disk, table, images)
	m.Network = 0
	if err := (Job{Manifest: m, Stick: stick, Target: newMemory(12 * mib), Network: s}).Run(t.Context()); err == nil {
		t.Error("a manifest without a place for settings: they are dropped without an error")
	}
}

// If the power fails while a stick's installer writes network settings to an installed system, the
// system has either all of the settings or no settings.
func TestSettingsThatAStickBringsAreAllOrNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if s, err := ReadPendingNetwork(dir); err != nil || !s.Empty() {
		t.Fatalf("without the file: got %v, %v; want no settings", s, err)
	}
	if err := os.Mkdir(filepath.Join(dir, "gangway"), 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := netfile.Parse([]byte("version = 1\nvlan = 7\nproxy = http://ada:secret@proxy.example:3128\n"))
	if err != nil {
		t.Fatal(err)
	}
	if err := WritePendingNetwork(dir, s); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadPendingNetwork(dir); err != nil || !got.Equal(s) {
		t.Fatalf("read back: got %v, %v; want %v", got, err, s)
	}
	name := filepath.Join(dir, NetworkPath)
	before, err := os.ReadFile(name)
	if err != nil || len(before) != netfile.MaxFile {
		t.Fatalf("%d bytes, %v", len(before), err)
	}
	if err := ClearPendingNetwork(dir); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(name)
	if err != nil || len(after) != netfile.MaxFile || bytes.Contains(after, []byte("secret")) {
		t.Errorf("%d bytes, %q, %v", len(after), bytes.TrimSpace(after), err)
	}
	if s, err := ReadPendingNetwork(dir); err != nil || !s.Empty() {
		t.Errorf("after the clear: got %v, %v; want no settings", s, err)
	}
	// If the power fails before the first sector is written, the rest of the file must not be
	// valid as settings.
	half := append(bytes.Clone(NoNetwork()[:largeSector]), before[largeSector:]...)
	copy(half[largeSector:], "mtu = 1280\n")
	if err := os.WriteFile(name, half, 0o600); err != nil {
		t.Fatal(err)
	}
	var m *netfile.Mistake
	if s, err := ReadPendingNetwork(dir); !errors.As(err, &m) {
		t.Errorf("a file without its first sector: got %v, %v; want a *netfile.Mistake", s, err)
	}
}

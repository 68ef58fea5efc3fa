package installer

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gangway/device/install"
	"gangway/device/install/netfile"

	"golang.org/x/sys/unix"
)

// shelf simulates a machine's partitions: each partition is a folder with files. Mounting the
// partition copies that folder to the mount point.
type shelf struct {
	t     *testing.T
	dir   string
	found *sticks
	log   []string // mounts and unmounts, in order
}

func newShelf(t *testing.T) *shelf {
	s := &shelf{t: t, dir: t.TempDir()}
	in := func(name string) string { return filepath.Join(s.dir, name) }
	s.found = &sticks{
		dev: in("dev"), class: in("class"), mounts: in("mounts"), dir: in("stick"), other: in("other"),
		mount: func(partition, at string, flags uintptr) error {
			s.log = append(s.log, "mount "+partition)
			if flags != unix.MS_RDONLY {
				t.Errorf("%s is mounted with the flags %#x", partition, flags)
			}
			return os.CopyFS(at, os.DirFS(in("files/"+partition)))
		},
		unmount: func(at string, force bool) error {
			s.log = append(s.log, "unmount "+filepath.Base(at))
			return os.RemoveAll(at)
		},
		bootedFrom: func() (string, error) { return "guid", nil },
	}
	for _, folder := range []string{"dev", "class", "files"} {
		if err := os.Mkdir(in(folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *shelf) write(name string, content []byte) {
	s.t.Helper()
	name = filepath.Join(s.dir, name)
	err := os.MkdirAll(filepath.Dir(name), 0o700)
	if err == nil {
		err = os.WriteFile(name, content, 0o600)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// plug adds a disk with one partition. The partition is named after the disk and has the files
// `files`.
func (s *shelf) plug(disk string, fat bool, files map[string][]byte) {
	s.t.Helper()
	partition := disk + "1"
	boot := make([]byte, 512)
	if fat {
		copy(boot[82:], "FAT32")
	}
	s.write("dev/"+partition, boot)
	s.write("devices/"+disk+"/"+partition+"/partition", []byte("1"))
	for name, place := range map[string]string{disk: disk, partition: disk + "/" + partition} {
		if err := os.Symlink(filepath.Join(s.dir, "devices", place), filepath.Join(s.dir, "class", name)); err != nil {
			s.t.Fatal(err)
		}
	}
	s.write("files/"+partition+"/README", nil)
	for name, content := range files {
		s.write("files/"+partition+"/"+name, content)
	}
}

// manifest returns a manifest and its SHA-256.
func manifest(t *testing.T, reset bool, owner string) (b []byte, sum string) {
	t.Helper()
	m := install.Manifest{Version: 1, Target: "x64-uefi-installer", Kernel: "test", Reset: true}
	if !reset {
		m = install.Manifest{Version: 1, Target: "x64-uefi-installer", Kernel: "test", Disk: install.Largest, Owner: owner}
		for _, p := range []string{install.ESP, install.Data} {
			m.Parts = append(m.Parts, install.Part{Name: p, File: "gangway/" + p, SHA256: strings.Repeat("0", 64), Size: 1 << 20, Extents: []install.Extent{{0, 1}}})
		}
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := install.ParseManifest(b); err != nil {
		t.Fatal(err)
	}
	h := sha256.Sum256(b)
	return b, hex.EncodeToString(h[:])
}

// The stick is the partition whose manifest has the hash on the command line. The mode in the
// manifest (install or wipe) must be the mode in which the machine was started. Find unmounts all
// other partitions again.
func TestStickIsFoundByItsManifest(t *testing.T) {
	t.Parallel()
	install1, sum := manifest(t, false, "ada")
	other, _ := manifest(t, false, "eve")
	wipe, wipeSum := manifest(t, true, "")
	at := func(b []byte) map[string][]byte { return map[string][]byte{install.ManifestPath: b} }
	for name, c := range map[string]struct {
		want  string
		reset bool
		err   error
	}{
		"the installer":               {sum, false, nil},
		"the wiping stick":            {wipeSum, true, nil},
		"a wiping stick, to install":  {wipeSum, false, errNoStick},
		"an installer, to wipe":       {sum, true, errNoStick},
		"a stick that is not there":   {strings.Repeat("0", 64), false, errNoStick},
		"no hash on the command line": {"", false, errNoManifest},
		"a hash that is cut":          {sum[:63], false, errNoManifest},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newShelf(t)
				s.plug("sda", false, at(install1)) // not a FAT file system, so Find never mounts it
				s.plug("sdb", true, nil)
				s.plug("sdc", true, at(other))
				s.plug("sdd", true, at(install1))
				s.plug("sde", true, at(wipe))
				s.found.reset = c.reset
				began := time.Now()
				const patience = 2 * time.Second
				stick, err := s.found.Find(c.want, patience)
				if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
					t.Fatalf("got %v", err)
				}
				if slices.Contains(s.log, "mount sda1") {
					t.Errorf("%q", s.log)
				}
				if err != nil {
					if waited := time.Since(began); waited < patience && c.err == errNoStick {
						t.Errorf("it gave up after %s", waited)
					}
					if _, err := os.Stat(s.found.dir); err == nil {
						t.Error("a partition is still mounted")
					}
					return
				}
				want := map[string]string{sum: "sdd", wipeSum: "sde"}[c.want]
				if stick.Disk != want || stick.SHA256 != c.want || stick.Manifest.Reset != c.reset {
					t.Errorf("%+v", stick)
				}
			})
		})
	}
}

// Find waits for a stick that appears late.
func TestStickMayBeLate(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		b, sum := manifest(t, false, "ada")
		s := newShelf(t)
		go func() {
			time.Sleep(9 * time.Second)
			s.plug("sda", true, map[string][]byte{install.ManifestPath: b})
		}()
		if stick, err := s.found.Find(sum, 10*time.Second); err != nil || stick.Disk != "sda" {
			t.Errorf("%+v, %v", stick, err)
		}
		synctest.Wait()
	})
}

// If the installer has already mounted the stick, a second process such as pvf-install finds that
// mount and uses it.
func TestMountedStickIsUsed(t *testing.T) {
	t.Parallel()
	b, sum := manifest(t, false, "ada")
	s := newShelf(t)
	s.plug("sdd", true, map[string][]byte{install.ManifestPath: b})
	if _, err := s.found.Mounted(sum); err == nil {
		t.Error("a stick that is not mounted is found")
	}
	if _, err := s.found.Find(sum, 0); err != nil {
		t.Fatal(err)
	}
	if stick, err := s.found.Mounted(sum); err != nil || stick.Disk != "" {
		t.Errorf("without /proc/mounts: %+v, %v", stick, err)
	}
	s.write("mounts", []byte("/dev/sdd1 "+s.found.dir+" vfat ro 0 0\n"))
	if stick, err := s.found.Mounted(sum); err != nil || stick.Disk != "sdd" {
		t.Errorf("%+v, %v", stick, err)
	}
	if _, err := s.found.Mounted(strings.Repeat("0", 64)); !errors.Is(err, errOther) {
		t.Errorf("with another manifest: %v", err)
	}
	s.found.Forget()
	if _, err := s.found.Mounted(sum); err == nil {
		t.Error("it is still mounted")
	}
}

// Marks returns the names of the disks to which the installer must never install: the stick's own
// disk, a copy of the stick, and the same stick in another port.
func TestCopiesOfTheStickAreMarked(t *testing.T) {
	t.Parallel()
	b, sum := manifest(t, false, "ada")
	other, _ := manifest(t, false, "eve")
	s := newShelf(t)
	s.plug("sda", true, map[string][]byte{install.ManifestPath: b})
	s.plug("sdb", true, map[string][]byte{install.ManifestPath: other})
	s.plug("sdc", true, map[string][]byte{install.ManifestPath: b})
	s.plug("sdd", false, map[string][]byte{install.ManifestPath: b})
	stick, err := s.found.Find(sum, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.found.Marks(stick); !slices.Equal(got, []string{"sda", "guid", "sdc"}) {
		t.Errorf("marks %q", got)
	}
	if _, err := os.Stat(s.found.other); err == nil {
		t.Error("a partition is still mounted")
	}
	s.found.bootedFrom = func() (string, error) { return "", errBroken }
	if got := s.found.Marks(stick); !slices.Equal(got, []string{"sda", "sdc"}) {
		t.Errorf("marks without firmware's word: %q", got)
	}
}

func TestNetworkSettingsOfTheStick(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		vlan int
		bad  bool
	}{
		"settings":      {"version = 1\nvlan = 7\n", 7, false},
		"comments only": {netfile.Template, 0, false},
		"a mistake":     {"vlan 7", 0, true},
	} {
		s := newShelf(t)
		s.write("stick/"+netfile.Name, []byte(c.text))
		settings, err := s.found.Network()
		if vlan(settings) != c.vlan || (settings != nil) != (c.vlan > 0) || (err != nil) != c.bad {
			t.Errorf("%s: %+v, %v", name, settings, err)
		}
	}
	if settings, err := newShelf(t).found.Network(); settings != nil || err != nil {
		t.Errorf("without a file: %+v, %v", settings, err)
	}
}

package sqlite

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"gangway/hub/store"
	"gangway/hub/store/storetest"

	"golang.org/x/sys/unix"
	sqlite3 "modernc.org/sqlite/lib"
)

// loopDisk makes an ext4 file system of this size in a file, and returns the file's path.
func loopDisk(t *testing.T, dir, size string) (image string) {
	t.Helper()
	image = filepath.Join(dir, "disk")
	if out, err := exec.Command("mkfs.ext4", "-q", image, size).CombinedOutput(); err != nil {
		t.Skipf("a disk cannot be made here: mkfs.ext4: %v: %s", err, out)
	}
	return image
}

// mountLoop mounts the file system in a file until the test ends or `unmount` is called, and returns
// the folder.
func mountLoop(t *testing.T, image string) (dir string, unmount func()) {
	t.Helper()
	dir = t.TempDir()
	if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		t.Skipf("a disk in a file cannot be mounted here: %v: %s", err, out)
	}
	unmount = sync.OnceFunc(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	t.Cleanup(unmount)
	return dir, unmount
}

func appendMessage(t *testing.T, s *Store, message string) error {
	t.Helper()
	return s.AppendEvent(t.Context(), store.Event{Time: storetest.Epoch, Kind: "k", Message: message})
}

// checkAfterPowerCut checks that the database on a copy of a disk is intact, and has this number of
// events.
func checkAfterPowerCut(t *testing.T, image string, events int) {
	t.Helper()
	later := filepath.Join(t.TempDir(), "later")
	if out, err := exec.Command("cp", "--sparse=always", image, later).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
	dir, unmount := mountLoop(t, later)
	defer unmount()
	s, err := Open(t.Context(), filepath.Join(dir, "hub.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	checkMessages(t, s, fmt.Sprint(events, " 0"))
}

// What the hub has confirmed is on the disk: a copy of the disk, made while the hub runs, has it.
func TestPowerCutForgetsNothing(t *testing.T) {
	t.Parallel()
	for _, background := range []bool{true, false} {
		t.Run(fmt.Sprintf("background=%t", background), func(t *testing.T) {
			t.Parallel()
			image := loopDisk(t, t.TempDir(), "64M")
			dir, _ := mountLoop(t, image)
			s, err := Open(t.Context(), filepath.Join(dir, "hub.db"))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if !background {
				withoutBackground(t, s)
			}
			for n := 1; n < 6; n++ {
				if err := appendMessage(t, s, fmt.Sprint("message ", n)); err != nil {
					t.Fatal(err)
				}
				checkAfterPowerCut(t, image, n)
			}
		})
	}
}

// withoutBackground makes the kernel refuse to sync the writer's log in the background.
func withoutBackground(t *testing.T, s *Store) {
	t.Helper()
	file, err := s.writer.conn.file(sqlite3.SQLITE_FCNTL_JOURNAL_POINTER)
	if err != nil {
		t.Fatal(err)
	}
	found, ok := backgroundSyncs.Load(file)
	if !ok {
		t.Skip("the log cannot be synced in the background here")
	}
	b := found.(*backgroundSync)
	if _, _, errno := unix.Syscall(unix.SYS_IO_DESTROY, b.context, 0, 0); errno != 0 {
		t.Fatal(errno)
	}
	b.context = 0
	if begun, err := b.fdatasync((*sqlite3.TunixFile)(pointer(file)).Fh); begun || err != nil {
		t.Errorf("without a context: begun is %t, %v", begun, err)
	}
}

// If the disk fails, the commit fails, and all commits that were confirmed are on the disk. The disk is
// a file that cannot grow, so the kernel notices only when it syncs.
func TestCommitFailsIfTheDiskFails(t *testing.T) {
	t.Parallel()
	image := loopDisk(t, smallDisk(t, "16m"), "64M")
	dir, _ := mountLoop(t, image)
	s, err := Open(t.Context(), filepath.Join(dir, "hub.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	confirmed := 0
	message := string(make([]byte, 100_000))
	for err = appendMessage(t, s, message); err == nil && confirmed < 640; err = appendMessage(t, s, message) {
		confirmed++
	}
	var failed *engineError
	if !errors.As(err, &failed) || failed.code&0xff != sqlite3.SQLITE_IOERR {
		t.Fatalf("after %d events on a failing disk: %v", confirmed, err)
	}
	checkAfterPowerCut(t, image, confirmed)
}

// A file can be synced several times, but not after the end.
func TestBackgroundSyncEnds(t *testing.T) {
	b, err := newBackgroundSync()
	if err != nil {
		t.Skip("files cannot be synced in the background here:", err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 3 {
		if begun, err := b.fdatasync(int32(f.Fd())); !begun || err != nil {
			t.Errorf("begun is %t, %v", begun, err)
		}
	}
	b.close()
	if begun, err := b.fdatasync(int32(f.Fd())); begun || err != nil {
		t.Errorf("after the end: begun is %t, %v", begun, err)
	}
}

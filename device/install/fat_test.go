package install

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"gangway/image"
)

// After the file system is converted to either sector size, fsck.fat finds no error in it, and
// mtools reads the same files from it.
func TestOthersReadTheFileSystemWithSectorsOfEitherSize(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("fsck.fat and mtools read whole images: make test runs this test")
	}
	const fsck, mcopy = "/usr/sbin/fsck.fat", "/usr/bin/mcopy"
	for _, p := range []string{fsck, mcopy} {
		if _, err := os.Stat(p); err != nil {
			t.Skipf("%s is not installed: apt-get install dosfstools mtools", p)
		}
	}
	files := []image.File{
		{Path: "EFI/BOOT/BOOTX64.EFI", Data: bytes.Repeat([]byte("0123456789abcde\n"), 3<<16)}, // 3 MiB
		{Path: "loader/loader.conf", Data: []byte("timeout 3\n")},
	}
	for i := range 70 { // the root folder is longer than a cluster
		files = append(files, image.File{Path: fmt.Sprintf("file number %d", i), Data: []byte{byte(i)}})
	}
	for _, size := range []int64{261 * mib, 265 * mib} {
		fat, err := image.Disk{ESP: files, ESPSize: size}.FAT()
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "esp")
		for _, s := range []int64{sector, largeSector} {
			head, err := fatFor(s, fat)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, append(head, fat[fatHead:]...), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(fsck, "-n", "-v", file).CombinedOutput(); err != nil || !bytes.Contains(out, fmt.Appendf(nil, "%d bytes per logical sector", s)) {
				t.Errorf("%d MiB, fsck.fat: %v: %.500s", size/mib, err, out)
			}
			for _, f := range files[:3] {
				out, err := exec.Command(mcopy, "-i", file, "::/"+f.Path, "-").Output()
				if err != nil || !bytes.Equal(out, f.Data) {
					t.Errorf("%d MiB, sectors of %d: mcopy reads %d bytes of %s, %v", size/mib, s, len(out), f.Path, err)
				}
			}
		}
	}
}

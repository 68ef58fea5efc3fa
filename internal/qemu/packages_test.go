package qemu_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"gangway/image"
	"gangway/internal/qemu"
	"gangway/internal/swtpm"
)

// packageTime is the time limit of TestPackages. Without KVM, on a machine with two busy cores, the
// emulated machine takes five times as long as on an idle one.
const packageTime = 4 * time.Hour

// switchRoot is the script of the first process. It mounts the disk with Debian, copies the test's
// files to it, and starts Debian's systemd.
const switchRoot = `#!/bin/busybox sh
set -e
b=/bin/busybox
$b mount -t devtmpfs dev /dev
while read -r module; do $b insmod /lib/modules/$module; done </lib/modules/order
until [ -b /dev/vda1 ] && [ -b /dev/vdb ]; do $b sleep 0.1; done
$b mount -t ext4 /dev/vdb /root
$b mkdir -p /esp
$b mount -t vfat -o ro,iocharset=ascii /dev/vda1 /esp
$b cp -r /esp/test /root/test
$b umount /esp
echo debian >/root/etc/hostname
echo "127.0.0.1 localhost debian" >/root/etc/hosts
$b cp /root/test/unit /root/etc/systemd/system/package-test.service
$b mkdir -p /root/etc/systemd/system/multi-user.target.wants
$b ln -s ../package-test.service /root/etc/systemd/system/multi-user.target.wants/
exec $b switch_root /root /sbin/init
`

const packageTestUnit = `[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh /test/run.sh
`

// An administrator can install, upgrade, use, remove and purge the Debian packages on a machine
// that runs Debian's systemd. testdata/packages.sh makes the checks on that machine. The variable
// GANGWAY_PACKAGES names a folder that scripts/package-test.sh has made, with these contents:
//
//	old/            the packages of an earlier commit
//	new/            the packages of this source tree
//	gangway-fleet   the program that puts the hub under load during the upgrade
//	debian/         a disk image with Debian, and busybox
func TestPackages(t *testing.T) {
	folder := os.Getenv("GANGWAY_PACKAGES")
	if folder == "" {
		t.Skip("it takes minutes: run `make package-test`")
	}
	need(t)
	tpm := newTPM(t, swtpm.RSA2048)
	dir := t.TempDir()
	root := filepath.Join(dir, "root.img")
	if out, err := exec.Command("cp", "--sparse=always", filepath.Join(folder, "debian/root.img"), root).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	boots := filepath.Join(dir, "boot.img")
	if err := (image.Disk{ESP: packageFiles(t, folder, tpm.CAPEM())}).Write(boots); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), packageTime)
	t.Cleanup(cancel)
	m, err := qemu.Start(ctx, qemu.Config{Dir: dir, TPM: tpm, Memory: 1536, Offline: true,
		Disks: []qemu.Disk{{Path: boots, ReadOnly: true}, {Path: root}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Stop)
	checks, done := 0, false
	for read, on := 0, true; on; {
		select {
		case <-m.Off:
			on = false // stop after this pass over the lines
		case <-time.After(time.Second):
		}
		lines := m.Lines()
		if on && len(lines) > 0 {
			lines = lines[:len(lines)-1] // the last line may be incomplete
		}
		for ; read < len(lines); read++ {
			l := lines[read]
			_, line, ours := strings.Cut(l.Text, "package-test: ")
			if !ours {
				continue
			}
			t.Logf("%6.1f s  %s", l.At.Seconds(), line)
			switch {
			case strings.HasPrefix(line, "ok "):
				checks++
			case strings.HasPrefix(line, "FAILED "):
				t.Error(line)
			case line == "done":
				done = true
			}
		}
	}
	if err := m.WaitOff(ctx); err != nil {
		t.Error(err)
	}
	if !done {
		t.Errorf("the machine did not come to the end of its checks; its last lines:\n%s", m.Tail())
	}
	t.Logf("%d checks passed", checks)
}

// machineCommands returns the commands of the blocks "```sh machine" of docs/operations.md, one on
// each line. The test types all of them in the emulated machine.
func machineCommands(t *testing.T, page []byte) []byte {
	t.Helper()
	var commands []byte
	for _, m := range regexp.MustCompile("(?s)\n```sh machine\n(.*?\n)```\n").FindAllSubmatch(page, -1) {
		commands = append(commands, m[1]...)
	}
	if len(commands) == 0 {
		t.Fatal("docs/operations.md has no commands for a machine with systemd")
	}
	return commands
}

// packageFiles returns the files of the EFI system partition from which the machine boots.
func packageFiles(t *testing.T, folder string, makers []byte) []image.File {
	t.Helper()
	kernel, err := qemu.KernelDir()
	if err != nil {
		t.Fatal(err)
	}
	files, err := image.Modules(os.DirFS(filepath.Join(kernel, "modules")), "virtio_pci", "virtio_blk", "virtio_rng", "ext4", "vfat", "nls_ascii", "nls_cp437")
	if err != nil {
		t.Fatal(err)
	}
	files = append(files,
		image.File{Path: "init", Data: []byte(switchRoot), Mode: 0o755},
		image.File{Path: "bin/busybox", Data: read(t, filepath.Join(folder, "debian/busybox")), Mode: 0o755},
		image.File{Path: "root/.keep", Mode: 0o644})
	initrd, err := image.Initramfs(files)
	if err != nil {
		t.Fatal(err)
	}
	uki, err := image.UKI{
		Stub: read(t, qemu.StubPath), Kernel: read(t, filepath.Join(kernel, "vmlinuz")), Initrd: initrd,
		Cmdline: "console=ttyS0 quiet loglevel=3 panic=-1 systemd.show_status=error", OSRelease: "ID=debian\nNAME=Debian\n",
	}.Build()
	if err != nil {
		t.Fatal(err)
	}
	esp := []image.File{
		{Path: "EFI/BOOT/BOOTX64.EFI", Data: uki},
		{Path: "test/run.sh", Data: read(t, "testdata/packages.sh")},
		{Path: "test/unit", Data: []byte(packageTestUnit)},
		{Path: "test/makers.pem", Data: makers},
	}
	page := read(t, "../../docs/operations.md")
	esp = append(esp, image.File{Path: "test/page", Data: machineCommands(t, page)})
	units := regexp.MustCompile("(?s)\n```ini\n# (gangway-[a-z]+\\.(?:service|timer))\n(.*?)```").FindAllSubmatch(page, -1)
	if len(units) != 4 {
		t.Fatalf("docs/operations.md has %d units, and 4 were expected", len(units))
	}
	for _, m := range units {
		esp = append(esp, image.File{Path: "test/units/" + string(m[1]), Data: m[2]})
	}
	esp = append(esp, image.File{Path: "test/gangway-fleet", Data: read(t, filepath.Join(folder, "gangway-fleet")), Mode: 0o755})
	for version, packages := range map[string]int{"old": 2, "new": 3} { // the earlier commit has no package of the signer
		debs, err := filepath.Glob(filepath.Join(folder, version, "*_amd64.deb"))
		if err != nil || len(debs) < packages {
			t.Fatalf("%s has %q, %v; %d packages were expected", version, debs, err, packages)
		}
		for _, deb := range debs {
			name, _, _ := strings.Cut(filepath.Base(deb), "_")
			// FAT limits the names of files, so leave the version out of the file's name. The
			// package itself contains the version.
			esp = append(esp, image.File{Path: "test/" + version + "/" + name + "_new_amd64.deb", Data: read(t, deb)})
		}
	}
	return esp
}

package qemu_test

import (
	"encoding/json"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"gangway/image/stick"
)

// A person at the serial console can choose the shell, list the disks, make a mistake, and install.
// The disk is larger than the file system in the image. The image is a debug image, so the
// installed system has a shell.
func TestManualInstallation(t *testing.T) {
	long(t)
	t.Parallel()
	s := newSite(t, stick.Config{Debug: true})
	if err := os.Truncate(s.disk, 3<<40); err != nil {
		t.Skipf("this file system does not support a sparse file of 3 TiB: %v", err)
	}
	m, ctx := boot(t, s.with(true))
	at := time.Duration(0)
	typed := func(expect, keys string) {
		t.Helper()
		at = after(t, ctx, m, at, expect).At
		if err := m.Type(keys); err != nil {
			t.Fatal(err)
		}
	}
	typed(`Install Gangway \(manual\)`, "\x1b[B\x1b[B\r")
	typed(`gangway-init .*: To list the disks and install, type pvf-install`, "")
	typed(`gangway# `, "pvf-install --list\r")
	typed(`^nvme0n1 +3\.3 TB +QEMU NVMe Ctrl +disk +no partitions`, "")
	typed(`cannot be installed to: the stick that the installer was started from`, "")
	typed(`gangway# `, "pvf-install --disk /dev/sda --yes; echo code $?\r")
	typed(`^pvf-install: /dev/sda cannot be installed to: the stick`, "")
	typed(`^code 1`, "pvf-install\r")
	typed(`Which disk\? `, "nvme0n1\r")
	typed(`Type the disk's name, nvme0n1, to go on: `, "yes\r")
	typed(`^pvf-install: the typed text is not nvme0n1, so nothing was erased`, "")
	typed(`gangway# `, "pvf-install --disk nvme0n1\r")
	typed(`Type the disk's name, nvme0n1, to go on: `, "nvme0n1\r")
	typed(`^Installed to /dev/nvme0n1`, "")
	typed(`gangway# `, "reboot\r")
	typed(`gangway-init .*: this boot is good`, "")
	waitFor(t, ctx, m, `gangway-init .*: data partition: 3145461 MiB`)
	password, err := stick.ConsolePassword(s.token)
	if err != nil {
		t.Fatal(err)
	}
	at = 0
	typed(`Gangway, password for a shell, or Enter for the console: `, "guess\r")
	typed(`Wrong password`, "")
	typed(`Gangway, password for a shell, or Enter for the console: `, password+"\r")
	typed(`gangway# `, "ls /run/esp/gangway /run/esp/EFI/Linux; mount | grep ext4\r")
	typed(`^gangway-a.efi`, "")
	typed(`/dev/nvme0n1p2 on /data type ext4`, "")
	typed(`gangway# `, "grep VmHWM /proc/$(pidof gangway-agent)/status\r")
	_, most := waitFor(t, ctx, m, `^VmHWM:\s+(\d+) kB`)
	if kib, err := strconv.Atoi(most[1]); err != nil || kib > 24<<10 {
		t.Errorf("the agent has used %s KiB of memory, %v; at most 24 MiB are allowed", most[1], err)
	}
	t.Logf("the agent has used at most %s KiB of memory", most[1])
	if l, _, ok := m.Find(regexp.MustCompile(`^device_autojointoken.json`)); ok {
		t.Errorf("the join token is still on the disk: %s", l.Text)
	}
	// Type the README's command as it is written, with the real /dev/tpmrm0. The TPM is the same as
	// before, so the device must be the same too.
	token, err := json.Marshal(s.token)
	if err != nil {
		t.Fatal(err)
	}
	typed(`gangway# `, "cd /run && cat > device_autojointoken.json\r")
	typed("", string(token)+"\r\x04")
	typed(`gangway# `, readmeCommand(t, "gangway-agent onboard ")+"; echo code $?\r")
	typed(`^code 0`, "")
	m.Stop()
	s.listed(t)
}

// readmeCommand returns the command in README.md that begins with the words `begins`.
func readmeCommand(t *testing.T, begins string) string {
	t.Helper()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(readme)) {
		if strings.HasPrefix(line, begins) {
			return strings.TrimSpace(line)
		}
	}
	t.Fatalf("README.md has no command that begins with %q", begins)
	return ""
}

package machine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gangway/device/install/luks"

	"golang.org/x/sys/unix"
)

// journal records the lines that are logged.
type journal []string

func (j *journal) logf(format string, args ...any) { *j = append(*j, fmt.Sprintf(format, args...)) }

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// If the mount of one file system fails, Mount still mounts the other file systems. The mount flags
// forbid programs and set-user-ID bits on these file systems.
func TestKernelFileSystemsAreMounted(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	var mounted []string
	errs := mountKernel(root, func(source, target, kind string, flags uintptr, data string) error {
		if info, err := os.Stat(target); err != nil || !info.IsDir() {
			t.Errorf("%s is not a folder", target)
		}
		if flags&unix.MS_NOSUID == 0 || flags&unix.MS_NOEXEC == 0 || flags&unix.MS_NODEV == 0 && kind != "devtmpfs" {
			t.Errorf("%s has the flags %#x", kind, flags)
		}
		mounted = append(mounted, strings.TrimPrefix(target, root)+" "+kind)
		if kind == "sysfs" {
			return unix.EPERM
		}
		return nil
	})
	if want := []string{"/proc proc", "/sys sysfs", "/dev devtmpfs", "/sys/kernel/security securityfs", "/run tmpfs"}; !slices.Equal(mounted, want) {
		t.Errorf("mounted %q", mounted)
	}
	if len(errs) != 1 || !errors.Is(errs[0], unix.EPERM) || !strings.Contains(errs[0].Error(), "sysfs") {
		t.Errorf("errors: %v", errs)
	}
}

func TestCommandLineIsSplit(t *testing.T) {
	t.Parallel()
	got := words("quiet console=ttyS0,115200 gangway.mode=auto  root=UUID=1\n")
	if want := map[string]string{"quiet": "", "console": "ttyS0,115200", "gangway.mode": "auto", "root": "UUID=1"}; !maps.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestTPMIsChecked(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]error{"": ErrNoTPM, "1\n": ErrOldTPM, "2\n": nil, "20": ErrOldTPM} {
		class := t.TempDir()
		if version != "" {
			write(t, filepath.Join(class, "tpm_version_major"), version)
		}
		if err := checkTPM(class); err != want {
			t.Errorf("version %q: %v", version, err)
		}
	}
}

func TestPartitionsAreRecognised(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	boot := make([]byte, 512)
	write(t, filepath.Join(dir, "other"), string(boot))
	copy(boot[82:], "FAT32   ")
	write(t, filepath.Join(dir, "fat"), string(boot))
	write(t, filepath.Join(dir, "short"), string(boot[:100]))
	for name, want := range map[string]bool{"fat": true, "other": false, "short": false, "missing": false} {
		if got := IsFAT(filepath.Join(dir, name)); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}

	// As in /sys, class/block has symbolic links to the devices' folders.
	write(t, filepath.Join(dir, "devices", "sda", "sda1", "partition"), "1\n")
	write(t, filepath.Join(dir, "devices", "sda", "size"), "8\n")
	class := filepath.Join(dir, "class")
	if err := os.Mkdir(class, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"sda": "../devices/sda", "sda1": "../devices/sda/sda1"} {
		if err := os.Symlink(to, filepath.Join(class, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"sda1": "sda", "sda": "sda", "gone": "gone"} {
		if got := DiskOf(class, name); got != want {
			t.Errorf("the disk of %s: %s", name, got)
		}
	}

	mounts := filepath.Join(dir, "mounts")
	write(t, mounts, "proc /proc proc rw 0 0\n/dev/sda1 /run/stick vfat ro 0 0\n\n")
	for at, want := range map[string]string{"/run/stick": "sda1", "/run": ""} {
		if got := MountedAt(mounts, at); got != want {
			t.Errorf("at %s: %q", at, got)
		}
	}
	if got := MountedAt(filepath.Join(dir, "gone"), "/run/stick"); got != "" {
		t.Errorf("without mounts: %q", got)
	}
}

// cryptTarget returns bytes that the kernel's parser reads (linux/dm-ioctl.h, struct
// dm_target_spec), with the parameters of dm-crypt.
func TestCryptTargetIsForTheKernel(t *testing.T) {
	t.Parallel()
	key := luks.Key(strings.Repeat("\xab", 64))
	for _, partition := range []string{"/dev/sda2", "/dev/nvme0n1p2", "/dev/sdab22", "/dev/mmcblk0p2"} {
		target := cryptTarget(partition, luks.Overhead+100*512, key)
		params, zeros, ended := strings.Cut(string(target[40:]), "\x00")
		if want := "aes-xts-plain64 " + strings.Repeat("ab", 64) + " 0 " + partition + " 32768"; params != want || !ended {
			t.Errorf("parameters %q", params)
		}
		if len(target)%8 != 0 || strings.Trim(zeros, "\x00") != "" {
			t.Errorf("%d bytes, %q after the parameters", len(target), zeros)
		}
		if got := binary.NativeEndian.Uint64(target[8:]); got != 100 {
			t.Errorf("%d sectors", got)
		}
		if got := string(target[24:30]); got != "crypt\x00" {
			t.Errorf("target type %q", got)
		}
	}
}

// A data partition without encryption needs no TPM. If the partition has an invalid LUKS2 header,
// or does not exist, UnlockData fails.
func TestDataPartitionWithoutEncryptionIsUsedAsItIs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	clear := filepath.Join(dir, "clear")
	write(t, clear, strings.Repeat("\x00", 4096))
	if device, encrypted, err := UnlockData(clear, nil); device != clear || encrypted || err != nil {
		t.Errorf("%q, %v, %v", device, encrypted, err)
	}
	damaged := filepath.Join(dir, "damaged")
	write(t, damaged, luks.Magic+strings.Repeat("\x00", 4096))
	if device, encrypted, err := UnlockData(damaged, nil); device != "" || !encrypted || err == nil {
		t.Errorf("a damaged header: %q, %v, %v", device, encrypted, err)
	}
	if _, _, err := UnlockData(filepath.Join(dir, "gone"), nil); err == nil {
		t.Error("a partition that is not there opens")
	}
}

func TestFileSystemThatFillsItsDeviceDoesNotGrow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		have, blocks uint64
		want         bool
	}{{16 << 10, 1 << 20, true}, {950_000, 1_000_000, false}, {900_000, 1_000_000, false}, {899_999, 1_000_000, true}} {
		if got := smaller(c.have, c.blocks); got != c.want {
			t.Errorf("%d of %d blocks: %v", c.have, c.blocks, got)
		}
	}
	if _, err := Grow(filepath.Join(t.TempDir(), "gone"), "/"); err == nil {
		t.Error("a device that is not there grows")
	}
}

// dog simulates a watchdog that resets the machine.
type dog struct {
	timeout time.Duration
	last    time.Time
	kept    int
	refuses bool // the watchdog refuses to set its timeout (SET_TIMEOUT)
	breaks  int  // number of keepalives after which Write fails; 0: never
}

func (d *dog) SetTimeout(seconds int) error {
	if d.refuses {
		return unix.EOPNOTSUPP
	}
	d.timeout = time.Duration(seconds) * time.Second
	return nil
}

func (d *dog) Write(b []byte) (int, error) {
	if slices.Contains(b, 'V') {
		panic("the magic close disarms the watchdog")
	}
	if d.kept++; d.breaks > 0 && d.kept > d.breaks {
		return 0, unix.EIO
	}
	if silence := time.Since(d.last); silence >= d.timeout/2 && d.kept > 1 {
		panic(fmt.Sprintf("no keepalive for %s", silence))
	}
	d.last = time.Now()
	return len(b), nil
}

// Watchdog sends keepalives for as long as the program runs, and more often than the watchdog's
// timeout requires.
func TestWatchdogIsKeptAlive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var j journal
		began, d := time.Now(), &dog{breaks: 240}
		keepAlive(d, "iTCO_wdt", WatchdogEvery, j.logf)
		if ran := time.Since(began); ran != 240*15*time.Second || d.timeout != 60*time.Second {
			t.Errorf("after %s, with a timeout of %s", ran, d.timeout)
		}
		if want := []string{"watchdog: iTCO_wdt, 60 s", "watchdog: input/output error"}; !slices.Equal(j, want) {
			t.Errorf("logged %q", j)
		}
		d = &dog{refuses: true, timeout: time.Hour, breaks: 3}
		keepAlive(d, "a watchdog", WatchdogEvery, j.logf)
		if d.kept != 4 {
			t.Errorf("a watchdog with a fixed timeout got %d keepalives", d.kept)
		}
	})
}

// Power makes the kernel write all data to the disks before it switches the machine off. If the
// machine stays on, the first process does not end, because then the kernel would panic.
func TestPowerIsSwitchedOffAfterSync(t *testing.T) {
	t.Parallel()
	for _, fails := range []error{nil, unix.EPERM} {
		for says, c := range map[string]struct {
			leave func(Power)
			how   int
		}{
			"power off": {Power.PowerOff, unix.LINUX_REBOOT_CMD_POWER_OFF},
			"restart":   {Power.Restart, unix.LINUX_REBOOT_CMD_RESTART},
		} {
			var j journal
			var steps []string
			p := Power{Logf: j.logf, sync: func() { steps = append(steps, "sync") }}
			p.reboot = func(how int) error {
				steps = append(steps, fmt.Sprintf("reboot %#x", how))
				return fails
			}
			waits := 0
			p.wait = func() {
				if waits++; waits > 3 {
					panic("enough")
				}
			}
			func() {
				defer func() { recover() }()
				c.leave(p)
			}()
			if want := []string{"sync", fmt.Sprintf("reboot %#x", c.how)}; !slices.Equal(steps, want) || j[0] != says || waits != 4 {
				t.Errorf("%s: %q, logged %q, waited %d times", says, steps, j, waits)
			}
			if logged := len(j) > 1; logged != (fails != nil) {
				t.Errorf("%s with the error %v: logged %q", says, fails, j)
			}
		}
	}
}

func TestEventLogAndPCRsAreLogged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	events, pcrs := filepath.Join(dir, "events"), filepath.Join(dir, "pcrs")
	var j journal
	logBoot(events, pcrs, j.logf)
	write(t, events, "\x01\x02")
	write(t, filepath.Join(pcrs, "0"), "AB CD\n")
	logBoot(events, pcrs, j.logf)
	if len(j) != 4 || !strings.HasPrefix(j[0], "no event log: ") || j[1] != "event log AQI=" || j[2] != "PCR 0 ab cd" || !strings.HasPrefix(j[3], "no PCR 1: ") {
		t.Errorf("logged %q", j)
	}
}

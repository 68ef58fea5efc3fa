package installer

import (
	"bytes"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"gangway/device/install"
	"gangway/device/machine"
	"gangway/internal/finding"

	"golang.org/x/sys/unix"
)

// In the manual mode, the installer runs a shell on every terminal. When a shell has ended, the
// installer starts a new one. The commands of busybox work too: reboot restarts the machine, and
// poweroff and halt switch it off.
func TestManualModeRunsShells(t *testing.T) {
	t.Parallel()
	for signal, leaves := range map[os.Signal]string{unix.SIGTERM: "restart", unix.SIGUSR1: "power off", unix.SIGUSR2: "power off"} {
		t.Run(leaves, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				l := newLab(t, nvme)
				l.noStick, l.tpm = errNoStick, machine.ErrNoTPM // shells run even without a stick and a TPM
				requests, off := make(chan os.Signal), make(chan bool)
				go func() {
					time.Sleep(5500 * time.Millisecond)
					close(off)
					requests <- signal
				}()
				l.run(func(i *Installer) {
					i.Manual([]string{"/dev/tty1", "/dev/ttyS0"}, func(terminal string) error {
						select {
						case <-off:
							runtime.Goexit()
						default:
						}
						return l.step("shell on %s", terminal)
					}, requests)
				}, 0)
				time.Sleep(time.Second)
				l.want("log "+errNoStick.Error(), "log No TPM", "log To list the disks and install, type pvf-install", leaves)
				for _, terminal := range []string{"shell on /dev/tty1", "shell on /dev/ttyS0"} {
					l.want(terminal, terminal, terminal, terminal, terminal, leaves)
				}
			})
		})
	}
}

// pvf runs pvf-install with `args`, and a person types the text `typed`.
func pvf(l *lab, typed string, args ...string) (code int, out string) {
	var b bytes.Buffer
	c := &Command{Installer: l.installer(), In: strings.NewReader(typed), Out: &b, ErrOut: &b}
	code = c.Run(args)
	return code, b.String()
}

func TestPVFInstall(t *testing.T) {
	t.Parallel()
	weakBanks := func(l *lab) {
		l.findings = []finding.Finding{{Code: "tpm-banks-weak", Severity: finding.Problem, Fact: "SHA-1 only.", Remedy: "Enable SHA-256."}}
	}
	for name, c := range map[string]struct {
		typed   string
		args    string
		spoil   func(l *lab)
		code    int
		out     string // text that the output must contain
		install string // the expected step that installs; empty: pvf-install must erase nothing
	}{
		"asks for the disk and its name":     {"nvme0n1\nnvme0n1\n", "", nil, 0, "Installed to /dev/nvme0n1.", "install to nvme0n1 with 0 keys and VLAN 0"},
		"a path":                             {"/dev/sda\nsda\n", "", nil, 0, "Installed to /dev/sda.", "install to sda with 0 keys and VLAN 0"},
		"an external disk that is named":     {"", "--disk sdb --yes", nil, 0, "Installed to /dev/sdb.", "install to sdb with 0 keys and VLAN 0"},
		"encrypted":                          {"sda\n", "--encrypt --disk sda", nil, 0, "Recovery key, shown only once: ", "install to sda with 2 keys and VLAN 0"},
		"a list":                             {"", "--list", nil, 0, "cannot be installed to: the stick", ""},
		"a list of external disks":           {"", "--list", nil, 0, "only if you name it: on USB", ""},
		"help":                               {"", "--help", nil, 0, "Exit codes: 0 done", ""},
		"an unknown flag":                    {"", "--force", nil, 2, "pvf-install installs Gangway", ""},
		"an argument":                        {"", "sda", nil, 2, "pvf-install installs Gangway", ""},
		"--yes without a disk":               {"", "--yes", nil, 2, "pvf-install installs Gangway", ""},
		"the stick":                          {"", "--disk sdz --yes", nil, 1, "pvf-install: /dev/sdz cannot be installed to: the stick", ""},
		"an unknown disk":                    {"", "--disk sdx --yes", nil, 1, `disk "sdx" not found`, ""},
		"another name as the confirmation":   {"nvme0n1\nyes\n", "", nil, 1, "the typed text is not nvme0n1, so nothing was erased", ""},
		"nothing typed":                      {"", "", nil, 1, "no answer was typed, so nothing was erased", ""},
		"no TPM":                             {"", "--disk sda --yes", func(l *lab) { l.tpm = machine.ErrNoTPM }, 1, "pvf-install: No TPM", ""},
		"no stick":                           {"", "--disk sda --yes", func(l *lab) { l.noStick = errNoStick }, 1, "was not found", ""},
		"wrong network settings":             {"", "--disk sda --yes", func(l *lab) { l.badText = errBroken }, 1, "network settings cannot be used", ""},
		"no keys":                            {"", "--disk sda --yes --encrypt", func(l *lab) { l.failing["keys for age1x"] = errBroken }, 1, "it is broken", ""},
		"firmware that refuses a boot entry": {"", "--disk sda --yes", func(l *lab) { l.failing["start sda"] = errBroken }, 0, "Choose the disk in the firmware's boot menu.", "install to sda with 0 keys and VLAN 0"},
		"findings":                           {"", "--disk sda --yes", weakBanks, 0, "problem  SHA-1 only. (tpm-banks-weak)", "install to sda with 0 keys and VLAN 0"},
		"a contradiction":                    {"", "--disk sda --yes --encrypt", weakBanks, 1, "pvf-install: SHA-1 only.\nEnable SHA-256.", ""},
		"a stick that comes later":           {"", "--disk sda --yes", func(l *lab) { l.failing["the mounted stick"] = errOther }, 0, "Installed to", "install to sda with 0 keys and VLAN 0"},
		"a failure":                          {"", "--disk sda --yes", func(l *lab) { l.failing["install to sda with 0 keys and VLAN 0"] = errBroken }, 1, "it is broken\nrun pvf-install again", "install to sda with 0 keys and VLAN 0"},
	} {
		l := newLab(t, nvme, small, usb, stick)
		if c.spoil != nil {
			c.spoil(l)
		}
		code, out := pvf(l, c.typed, strings.Fields(c.args)...)
		if code != c.code || !strings.Contains(out, c.out) {
			t.Errorf("%s: code %d, output\n%s", name, code, out)
		}
		if c.install == "" {
			l.never("install to", "start")
		} else {
			l.want(c.install)
		}
	}
}

// The list of pvf-install shows every disk, and the name that a person must type before pvf-install
// erases the disk.
func TestPVFInstallShowsWhatIsErased(t *testing.T) {
	t.Parallel()
	l := newLab(t, install.Disk{Name: "sda", Size: 100e9, Model: strings.Repeat("m", 30), Serial: "S1", Content: "Windows"})
	_, out := pvf(l, "sda\nno\n")
	for _, want := range []string{"sda", "100.0 GB", strings.Repeat("m", 21) + "...", "S1", "Windows", "Type the disk's name, sda, to go on: "} {
		if !strings.Contains(out, want) {
			t.Errorf("the output has no %q:\n%s", want, out)
		}
	}
}

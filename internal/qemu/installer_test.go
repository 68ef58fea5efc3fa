package qemu_test

import (
	"compress/gzip"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"gangway/image/stick"
	"gangway/internal/hubtest"
	"gangway/internal/qemu"
	"gangway/internal/swtpm"
	"gangway/wire"
)

// installerParts returns the parts of an installer image, with the real kernel and the device's
// real programs.
var installerParts = sync.OnceValues(func() (*stick.Parts, error) {
	kernel, err := qemu.InstallerKernelDir()
	if err != nil {
		return nil, err
	}
	if err := programs(); err != nil {
		return nil, err
	}
	return stick.LoadParts(kernel, "", scratch)
})

// site has all that a test needs to install one machine: a hub, a USB stick with the owner's join
// token, and a machine with a TPM and an empty disk.
type site struct {
	hub   *hubtest.Hub
	token *wire.TokenFile
	stick string // path of the stick's image
	disk  string
	large bool // if true, the disk's sectors have 4096 bytes
	bus   qemu.Bus
	tpm   *swtpm.TPM
	cfg   qemu.Config

	manifestKey crypto.Signer // the owner's key that signs manifests; nil until publish is called
}

// upPattern matches the first line that a system prints. Its submatch is the number of seconds
// since the kernel started.
const upPattern = `gangway-init \[([0-9.]+)\]: up`

var started = regexp.MustCompile(upPattern)

// kernelStart returns the time at which the kernel of a system started. `up` is the first line that
// the system printed.
func kernelStart(t *testing.T, up qemu.Line) time.Duration {
	t.Helper()
	ran, err := time.ParseDuration(started.FindStringSubmatch(up.Text)[1] + "s")
	if err != nil {
		t.Fatal(err)
	}
	return up.At - ran
}

const diskSize = 4 << 30 // sparse

func newSite(t *testing.T, cfg stick.Config) *site {
	t.Helper()
	return newSiteWith(t, func(*site) stick.Config { return cfg })
}

// newSiteWith does the same as newSite, but takes the configuration of the image from `config`.
// This configuration may depend on the site's hub.
func newSiteWith(t *testing.T, config func(*site) stick.Config) *site {
	t.Helper()
	return newSiteOf(t, func(*stick.Parts) {}, config)
}

// newSiteOf does the same as newSiteWith, but `change` may first alter the parts of the image.
func newSiteOf(t *testing.T, change func(*stick.Parts), config func(*site) stick.Config) *site {
	t.Helper()
	need(t)
	if _, err := qemu.InstallerKernelDir(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	s := &site{tpm: newTPM(t, swtpm.P384), bus: qemu.NVMe}
	s.hub = hubtest.New(t, s.tpm.Roots(), []*x509.Certificate{s.tpm.Issuer()})
	s.token = guestToken(t, s.hub)
	parts := s.parts(t)
	change(&parts)
	dir := t.TempDir()
	s.disk = filepath.Join(dir, "disk.img")
	s.makeStick(t, parts, config(s))
	s.empty(t)
	s.cfg = qemu.Config{Dir: dir, TPM: s.tpm, Memory: 1024, Reboot: true, Screen: true}
	return s
}

// makeStick makes a stick with the site's join token.
func (s *site) makeStick(t *testing.T, parts stick.Parts, cfg stick.Config) {
	t.Helper()
	if cfg.Hub == nil {
		token, err := json.Marshal(s.token)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Token = token
	}
	s.stick = filepath.Join(t.TempDir(), "installer.img")
	if _, err := stick.Build(&parts, cfg, s.stick); err != nil {
		t.Fatal(err)
	}
}

// The method `empty` replaces the machine's disk with an empty disk.
func (s *site) empty(t *testing.T) {
	t.Helper()
	os.Remove(s.disk)
	if err := os.WriteFile(s.disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(s.disk, diskSize); err != nil {
		t.Fatal(err)
	}
}

// The method `with` returns the machine's configuration. If `stick` is true, the stick is plugged
// in.
func (s *site) with(stick bool) qemu.Config {
	cfg := s.cfg
	if stick {
		cfg.Disks = append(cfg.Disks, qemu.Disk{Path: s.stick, Bus: qemu.USB, ReadOnly: true})
	}
	disk := qemu.Disk{Path: s.disk, Bus: s.bus}
	if s.large {
		disk.Sector = 4096
	}
	cfg.Disks = append(cfg.Disks, disk)
	return cfg
}

// The function `long` skips a test that takes minutes, unless `make e2e-full` runs it.
func long(t *testing.T) {
	t.Helper()
	if os.Getenv("GANGWAY_E2E_FULL") == "" {
		t.Skip("it takes minutes: run it with make e2e-full")
	}
}

// A person plugs in a stick and switches the machine on, and the device appears in its owner's
// device list without a key press. At the next boot the machine works without the stick. Both boots
// have the measurements that the image builder computed in advance. The owner's manifest states
// these measurements, so the hub judges even the first boot as expected.
func TestStickToDeviceList(t *testing.T) {
	if os.Getenv("GANGWAY_TIMED") == "" { // run alone if this run measures times
		t.Parallel()
	}
	var reference reference
	s := newSite(t, stick.Config{Boots: reference.compute, Installs: reference.installs})
	s.publish(t, &reference, 1)
	m, ctx := boot(t, s.with(true))
	if pictures() != "" {
		waitFor(t, ctx, m, `Install Gangway \(manual\)`)
		s.picture(t, m, "menu")
	}
	up, _ := waitFor(t, ctx, m, upPattern)
	// The installer checks the firmware of this machine, which is OVMF. It finds nothing wrong
	// except that this OVMF has no Secure Boot keys.
	waitFor(t, ctx, m, `gangway-init .*: check: 0 problem\(s\), 0 warning\(s\), `)
	waitFor(t, ctx, m, `gangway-init .*: check: ok: The firmware's event log explains PCR 0 to 7. \(event-log-replays\)`)
	waitFor(t, ctx, m, `gangway-init .*: check: ok: The firmware can store and remove variables. \(firmware-variables\)`)
	waitFor(t, ctx, m, `gangway-init .*: check: .*Secure Boot`)
	if pictures() != "" {
		waitFor(t, ctx, m, `will be erased in`)
		time.Sleep(3 * time.Second)
		s.picture(t, m, "countdown")
		waitFor(t, ctx, m, `: installing: write 50%`)
		s.picture(t, m, "installing")
	}
	installed, _ := waitFor(t, ctx, m, `gangway-init .*: installed in`)
	again := after(t, ctx, m, installed.At, upPattern)
	network := after(t, ctx, m, installed.At, `gangway-init .*: network: `)
	onboarded := after(t, ctx, m, installed.At, `gangway-init .*: onboarded`)
	good := after(t, ctx, m, installed.At, `gangway-init .*: this boot is good: gangway-a.efi`)
	waitFor(t, ctx, m, `gangway-init .*: data partition: 3829 MiB`)
	s.picture(t, m, "onboarded")
	m.Stop()
	sec := func(d time.Duration) float64 { return d.Seconds() }
	kernel, second := kernelStart(t, up), kernelStart(t, again)
	t.Logf("from power-on to listed %.1f s: firmware and menu %.1f, kernel %.1f, installer %.1f, restart and firmware %.1f, kernel %.1f, network %.1f, onboarding %.1f",
		sec(onboarded.At), sec(kernel), sec(up.At-kernel), sec(installed.At-up.At), sec(second-installed.At), sec(again.At-second), sec(network.At-again.At), sec(onboarded.At-network.At))
	t.Logf("from the installed kernel's start to listed %.1f s, and %.1f more to the first report", sec(onboarded.At-second), sec(good.At-onboarded.At))
	s.listed(t)
	if state, changes := s.booted(t); state != "matches" {
		t.Errorf("the hub's boot state is %s, %q; want matches", state, changes)
	}
	s.isMeasured(t, &reference) // even the first boot after the installation
	s.judged(t, "boot-path expected", "system expected", "firmware known", "keys known")
	s.hasReportedTable(t)

	// Without the stick, the firmware measures one boot entry fewer.
	m, ctx = boot(t, s.with(false))
	waitFor(t, ctx, m, `gangway-init .*: the hub has accepted a report`)
	if l, _, ok := m.Find(regexp.MustCompile(`^gangway-init .*: (growing|mounting|.*cannot)`)); ok {
		t.Errorf("the second boot repeats work or fails: %s", l.Text)
	}
	m.Stop()
	s.listed(t)
	if state, changes := s.booted(t); state != "matches" {
		t.Errorf("without the stick, the hub's boot state is %s, %q; want matches", state, changes)
	}
	s.isMeasured(t, &reference)
	s.hasReportedTable(t)
	s.small(t)
	if n := s.hub.Uses(t, s.token); n != 1 {
		t.Errorf("the token was used %d times; want 1", n)
	}
	if os.Getenv("GANGWAY_E2E_FULL") == "" {
		return
	}
	// A person alters the partition table. The device still sends the installer's report of the old
	// table, so the hub must not treat the new table as expected.
	s.alterTable(t)
	m, ctx = boot(t, s.with(false))
	waitFor(t, ctx, m, `gangway-init .*: the hub has accepted a report`)
	m.Stop()
	s.judged(t, "boot-path changed", "system expected")
	s.says(t, "boot-path", "the table was changed, or firmware started another disk.")
}

// A machine without a network displays instructions for the person at the machine.
func TestMachineWithoutNetworkSaysSo(t *testing.T) {
	t.Parallel()
	long(t)
	s := newSite(t, stick.Config{})
	m, ctx := boot(t, s.with(true))
	waitFor(t, ctx, m, `gangway-init .*: installed in`)
	m.Stop()
	cfg := s.with(false)
	cfg.Offline = true
	m, ctx = boot(t, cfg)
	waitFor(t, ctx, m, `gangway-init .*: No network: check the cable\.$`)
	s.picture(t, m, "no-network")
	m.Stop()
	if devices := s.hub.Devices(t, s.hub.Owner); len(devices) != 0 {
		t.Errorf("a device onboarded without a network: %+v", devices)
	}
}

// pictures returns the folder for the documentation's screenshots, or "" if the tests take none.
func pictures() string { return os.Getenv("GANGWAY_PICTURES") }

// picture saves a screenshot if pictures() is not empty.
func (s *site) picture(t *testing.T, m *qemu.Machine, name string) {
	t.Helper()
	if pictures() == "" {
		return
	}
	time.Sleep(300 * time.Millisecond) // wait until the screen is drawn
	if err := m.Screenshot(t.Context(), filepath.Join(pictures(), name+".png")); err != nil {
		t.Error(err)
	}
}

// The method `small` checks that the compressed image and the agent are not larger than the
// documentation promises.
func (s *site) small(t *testing.T) {
	t.Helper()
	f, err := os.Open(s.stick)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var packed counter
	z := gzip.NewWriter(&packed)
	if _, err := io.Copy(z, f); err != nil {
		t.Fatal(err)
	}
	z.Close()
	agent, err := os.Stat(filepath.Join(scratch, "gangway-agent"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the image has %.1f MiB compressed, the agent %.1f MiB", float64(packed)/(1<<20), float64(agent.Size())/(1<<20))
	if packed > 72<<20 || agent.Size() > 12<<20 {
		t.Error("the image is larger than 72 MiB, or the agent larger than 12 MiB")
	}
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// The method `listed` checks that this machine is the only device in the owner's list.
func (s *site) listed(t *testing.T) {
	t.Helper()
	devices := s.hub.Devices(t, s.hub.Owner)
	if len(devices) != 1 {
		t.Fatalf("devices: %+v", devices)
	}
	if kernel := devices[0].DeviceMeta["gangway.kernel"]; kernel == nil || !strings.HasPrefix(kernel.(string), "6.") {
		t.Errorf("the device reports the kernel %v", kernel)
	}
}

// The method `booted` returns the hub's result for the machine's last boot (such as "matches"), and
// the changes.
func (s *site) booted(t *testing.T) (state string, changes []string) {
	t.Helper()
	b, _, diff := latestBoot(t, s.hub)
	return string(b.State), diff
}

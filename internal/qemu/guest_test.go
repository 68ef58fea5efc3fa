package qemu_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"

	"gangway/device/install/netfile"
	"gangway/image"
	"gangway/internal/qemu"
	"gangway/internal/swtpm"
	"gangway/internal/swtpm/swtpmtest"
	"gangway/wire"
)

// makers is the folder with the CA of the maker of all TPMs in this test run. scratch is a
// temporary folder that all tests use.
var makers, scratch string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "gw")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		makers = filepath.Join(dir, "maker")
		if err := swtpmtest.NewMaker(makers); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		scratch = dir
		return m.Run()
	}())
}

// need skips a test if -short is set, or if this computer cannot emulate machines. In CI, it fails
// the test in the second case.
func need(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("it emulates a machine")
	}
	missing := qemu.Missing()
	if missing == "" {
		missing = swtpm.Missing()
	}
	if missing == "" {
		if _, err := qemu.KernelDir(); err != nil {
			missing = err.Error()
		}
	}
	if missing != "" && os.Getenv("CI") != "" {
		t.Fatal(missing)
	}
	if missing != "" {
		t.Skip(missing)
	}
}

// programs builds the device's real programs in scratch, like `make build`.
var programs = sync.OnceValue(func() error {
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", scratch+"/", "gangway/cmd/gangway-agent", "gangway/cmd/gangway-init")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w: %.500s", err, out)
	}
	return nil
})

// system returns the initial file system that all guests have in common: programs and kernel
// modules. The file system is made only once, because its compression takes several seconds.
var system = sync.OnceValues(func() ([]byte, error) {
	kernel, err := qemu.KernelDir()
	if err != nil {
		return nil, err
	}
	files, err := image.Modules(os.DirFS(filepath.Join(kernel, "modules")), "virtio_pci", "virtio_net", "virtio_blk", "virtio_rng", "8021q")
	if err != nil {
		return nil, err
	}
	if err := programs(); err != nil {
		return nil, err
	}
	for path, name := range map[string]string{"init": "gangway-init", "bin/gangway-agent": "gangway-agent"} {
		b, err := os.ReadFile(filepath.Join(scratch, name))
		if err != nil {
			return nil, err
		}
		files = append(files, image.File{Path: path, Data: b, Mode: 0o755})
	}
	return image.Initramfs(files)
})

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// guest describes the system that an emulated machine boots.
type guest struct {
	token   *wire.TokenFile
	cmdline string              // appended to the command line that all guests have in common
	kernel  func([]byte) []byte // changes the kernel
	network *netfile.Settings   // nil: none
}

// disk makes the guest's disk image and returns its path.
func (g guest) disk(t testing.TB) string {
	t.Helper()
	dir, err := qemu.KernelDir()
	if err != nil {
		t.Fatal(err)
	}
	token, err := json.Marshal(g.token)
	if err != nil {
		t.Fatal(err)
	}
	base, err := system()
	if err != nil {
		t.Fatal(err)
	}
	files := []image.File{{Path: "etc/gangway/device_autojointoken.json", Data: token, Mode: 0o600}}
	if g.network != nil {
		files = append(files, image.File{Path: "etc/gangway/network.txt", Data: []byte(g.network.Text()), Mode: 0o600})
	}
	own, err := image.Initramfs(files)
	if err != nil {
		t.Fatal(err)
	}
	kernel := read(t, filepath.Join(dir, "vmlinuz"))
	if g.kernel != nil {
		kernel = g.kernel(kernel)
	}
	uki, err := image.UKI{
		Stub: read(t, qemu.StubPath), Kernel: kernel, Initrd: image.Join(base, own),
		Cmdline:   "console=ttyS0 quiet loglevel=3 panic=-1 " + g.cmdline,
		OSRelease: "ID=gangway\nNAME=Gangway\n",
	}.Build()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := (image.Disk{ESP: []image.File{{Path: "EFI/BOOT/BOOTX64.EFI", Data: uki}}}).Write(path); err != nil {
		t.Fatal(err)
	}
	return path
}

// bootTime is the time limit of a boot. A boot takes 12 s on an idle computer, and 55 s with an
// installation before it. With other tests in parallel and with the race detector, it takes many
// times as long.
const bootTime = 7 * time.Minute

// boot starts a machine, which runs until the test ends.
func boot(t testing.TB, cfg qemu.Config) (*qemu.Machine, context.Context) {
	t.Helper()
	return boots(t, cfg, 1)
}

// boots starts a machine that restarts up to n-1 times. The time limit of all boots together is
// n*bootTime.
func boots(t testing.TB, cfg qemu.Config, n int) (*qemu.Machine, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n)*bootTime)
	t.Cleanup(cancel)
	m, err := qemu.Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Stop)
	return m, ctx
}

func waitFor(t testing.TB, ctx context.Context, m *qemu.Machine, pattern string) (qemu.Line, []string) {
	t.Helper()
	l, match, err := m.WaitFor(ctx, regexp.MustCompile(pattern))
	if err != nil {
		t.Fatal(err)
	}
	return l, match
}

func newTPM(t testing.TB, ek swtpm.EK) *swtpm.TPM {
	t.Helper()
	return swtpmtest.Start(t, swtpm.Options{EK: ek, Maker: makers})
}

// The function `after` waits for a console line that matches the pattern `pattern` and that the
// machine printed after the time `since`.
func after(t testing.TB, ctx context.Context, m *qemu.Machine, since time.Duration, pattern string) qemu.Line {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for {
		for _, l := range m.Lines() {
			if l.At > since && re.MatchString(l.Text) {
				return l
			}
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the machine did not print %q: its last lines:\n%s", pattern, m.Tail())
		case <-m.Off:
			t.Fatalf("the machine ended without printing %q: its last lines:\n%s", pattern, m.Tail())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

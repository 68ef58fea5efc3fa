package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"gangway/image/stick"
	"gangway/internal/qemu"
	"gangway/internal/swtpm"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// tryOptions are the options of 'gangway image try'.
type tryOptions struct {
	dir, disk, vnc, accel string
	memory                int // MiB
	window                bool
}

// Bounds of the emulated machine.
const (
	minTryMemory = 512     // MiB
	minTryDisk   = 2 << 30 // bytes; the installer needs 1.1 GB
	vncPort      = 5900    // TCP port of display 0
)

func (a *app) imageTry() *cobra.Command {
	var o tryOptions
	c := &cobra.Command{
		Use:   "try IMAGE",
		Short: "Boot an installer image in an emulated machine, without hardware",
		Long: `Try boots the image as a USB stick in QEMU, on a machine with UEFI firmware (OVMF), a
software TPM (swtpm) and an empty disk. The machine's serial port is your terminal:
Ctrl-A X switches the machine off. The image is not changed, and without --dir
everything else is removed at the end.

In the machine, this computer has the address 10.0.2.2. So the image's hub must have
the URL https://10.0.2.2:PORT, for example a hub that was started with
'gangway serve --url https://10.0.2.2:12443 --listen 127.0.0.1:12443'. The hub must
also trust the software TPMs' maker, and its policy must allow software TPMs; 'try'
prints the commands.

With --dir the machine is kept: its disk, its TPM and its firmware's settings. The next
'try' with the same folder continues with this machine.

KVM is used if you may open /dev/kvm. Without it a boot takes minutes.`,
		Example: `  gangway image try installer.img
  gangway image try installer.img --dir machine1
  gangway image try installer.img --window --memory 2048`,
		Args: args("IMAGE"),
		RunE: func(c *cobra.Command, arg []string) error { return a.tryImage(c.Context(), o, arg[0]) },
	}
	f := c.Flags()
	f.StringVar(&o.dir, "dir", "", "folder to keep the machine in (default: a temporary folder, removed at the end)")
	f.StringVar(&o.disk, "disk-size", "8GiB", "size of the machine's disk; it uses only as much space as the machine writes")
	f.IntVar(&o.memory, "memory", 1024, "size of the machine's memory, in MiB")
	f.BoolVar(&o.window, "window", false, "show the machine's screen in a window; needs qemu-system-gui")
	f.StringVar(&o.vnc, "vnc", "", "serve the machine's screen over VNC on this loopback address and port, for example 127.0.0.1:5901")
	f.StringVar(&o.accel, "accel", "auto", "auto, kvm, or tcg (emulation)")
	return c
}

// tryImage boots an image, and returns when the machine is off.
func (a *app) tryImage(ctx context.Context, o tryOptions, image string) error {
	cfg, size, err := a.tryConfig(o)
	if err != nil {
		return err
	}
	for _, m := range []string{swtpm.Missing(), cfg.Person.Missing()} {
		if m != "" {
			return errors.New(m)
		}
	}
	content, err := stick.Inspect(image, "")
	if err != nil {
		return err
	}
	dir, remove, err := tryFolder(o.dir)
	if err != nil {
		return err
	}
	defer remove()
	maker, err := tryMaker()
	if err != nil {
		return err
	}
	cfg.TPM, err = swtpm.New(ctx, filepath.Join(dir, "tpm"), swtpm.Options{EK: swtpm.P384, Maker: maker})
	if err != nil {
		return err
	}
	defer cfg.TPM.Stop()
	disk := filepath.Join(dir, "disk.img")
	if err := makeDisk(disk, size); err != nil {
		return err
	}
	cfg.Dir = dir
	cfg.Disks = []qemu.Disk{{Path: image, Bus: qemu.USB, ReadOnly: true}, {Path: disk, Bus: qemu.NVMe}}
	makers := filepath.Join(maker, "makers.pem")
	if err := os.WriteFile(makers, cfg.TPM.CAPEM(), 0o600); err != nil {
		return err
	}
	a.adviseTry(content, cfg, makers)
	return a.runMachine(ctx, cfg)
}

// tryConfig checks the options. The result `size` is the size of the disk, in bytes.
func (a *app) tryConfig(o tryOptions) (cfg qemu.Config, size int64, err error) {
	if o.memory < minTryMemory {
		return cfg, 0, usagef("--memory %d is too small: give at least %d MiB", o.memory, minTryMemory)
	}
	bytes, err := humanize.ParseBytes(o.disk)
	if err != nil || bytes < minTryDisk || bytes > 1<<46 {
		return cfg, 0, usagef("--disk-size %q is not a size of 2GiB or more, such as 8GiB", o.disk)
	}
	kvm, err := o.kvm()
	if err != nil {
		return cfg, 0, err
	}
	person := &qemu.Person{In: a.stdin, Out: a.stdout, Window: o.window}
	if o.vnc != "" {
		if person.VNC, err = vncDisplay(o.vnc); err != nil {
			return cfg, 0, err
		}
	}
	switch {
	case o.window && o.vnc != "":
		return cfg, 0, usagef("--window and --vnc are mutually exclusive")
	case o.window && os.Getenv("DISPLAY") == "" && os.Getenv("WAYLAND_DISPLAY") == "":
		return cfg, 0, usagef("--window needs a graphical session; use --vnc 127.0.0.1:5901 instead")
	}
	return qemu.Config{
		Memory: o.memory, KVM: kvm, Person: person, Reboot: true, Screen: o.window || o.vnc != "",
	}, int64(bytes), nil
}

// kvm decides whether to use KVM.
func (o *tryOptions) kvm() (bool, error) {
	if o.accel != "auto" && o.accel != "kvm" && o.accel != "tcg" {
		return false, usagef("--accel %q is unknown; use auto, kvm or tcg", o.accel)
	}
	if o.accel == "tcg" {
		return false, nil
	}
	err := unix.Access("/dev/kvm", unix.R_OK|unix.W_OK)
	if err != nil && o.accel == "kvm" {
		return false, fmt.Errorf("KVM cannot be used: /dev/kvm: %w. Switch virtualization on in the firmware's setup, and join the group kvm (adduser $USER kvm); or use --accel tcg, which is slower", err)
	}
	return err == nil, nil
}

// vncDisplay returns QEMU's name for a VNC server's address. The server has no password, so it
// listens only on loopback.
func vncDisplay(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", usagef("--vnc %q is not an address with a port, such as 127.0.0.1:5901", address)
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || !ip.IsLoopback() {
		return "", usagef("--vnc %q is not a loopback address: the VNC server has no password, so use 127.0.0.1:5901, and forward the port with ssh", address)
	}
	n, err := strconv.Atoi(port)
	if err != nil || n < vncPort || n > 65535 {
		return "", usagef("--vnc %q: the port must be a number from %d to 65535", address, vncPort)
	}
	if ip.Is6() {
		host = "[" + ip.String() + "]"
	}
	return fmt.Sprintf("%s:%d", host, n-vncPort), nil
}

// tryFolder returns the machine's folder, and a function that removes the folder if it is
// temporary.
func tryFolder(dir string) (_ string, remove func(), err error) {
	if dir != "" {
		return dir, func() {}, os.MkdirAll(dir, 0o700)
	}
	if dir, err = os.MkdirTemp("", "gangway-try-"); err != nil {
		return "", nil, err
	}
	return dir, func() { os.RemoveAll(dir) }, nil
}

// tryMaker returns the folder with the keys of the TPM maker that 'gangway image try' uses. The
// folder is kept, so that a hub needs to trust the maker only once.
func tryMaker() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir = filepath.Join(dir, "gangway", "tpm-maker")
	return dir, os.MkdirAll(dir, 0o700)
}

// makeDisk makes a sparse disk at the path, unless a disk exists there already.
func makeDisk(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && info.Size() == 0 {
		err = f.Truncate(size)
	}
	return errors.Join(err, f.Close())
}

// adviseTry prints advice for the person, before the machine uses the terminal.
func (a *app) adviseTry(c *stick.Contents, cfg qemu.Config, makers string) {
	if hub := c.Manifest.Hub; hub != "" {
		if u, err := url.Parse(hub); err == nil && loopbackHost(u.Hostname()) {
			a.note("Warning: the image's hub is at %s. In the emulated machine, this address is the machine itself. Use a hub with the URL https://10.0.2.2:%s, and build the image with a join token of that hub.", hub, u.Port())
		}
		a.note("Do this once, so that the hub at %s trusts these software TPMs: run\n  gangway trust import --data DIR %s\nand add 'software_tpms: [swtpm]' to the hub's policy with 'gangway policy set'.", hub, makers)
	}
	if !cfg.KVM {
		a.note("Without KVM the boot takes minutes.")
	}
	if cfg.Person.VNC != "" {
		a.note("The screen is at VNC display %s.", cfg.Person.VNC)
	}
	a.note("The machine's serial port is this terminal. Ctrl-A X switches the machine off.")
}

func loopbackHost(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// runMachine runs the machine until the machine is off. It restores the terminal, however QEMU
// ends.
func (a *app) runMachine(ctx context.Context, cfg qemu.Config) error {
	fd := int(a.stdin.Fd())
	if before, err := term.GetState(fd); err == nil {
		defer term.Restore(fd, before)
	}
	m, err := qemu.Start(ctx, cfg)
	if err != nil {
		return err
	}
	defer m.Stop()
	<-m.Off
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := m.WaitOff(ctx); err != nil {
		return err
	}
	a.note("\nThe machine is off.")
	return nil
}

package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"gangway/internal/process"
	"gangway/internal/swtpm"
)

// Bus is the bus or controller to which a disk is attached.
type Bus string

// The buses. A disk on USB is removable, like a stick; a disk on USBFixed is not.
const (
	VirtIO     Bus = "virtio"
	NVMe       Bus = "nvme"
	NVMePaths  Bus = "nvme-subsys" // a namespace with two paths: one by each of two controllers
	USB        Bus = "usb"
	USBFixed   Bus = "usb-fixed" // a disk that does not report itself as removable
	SATA       Bus = "sata"
	MegaRAID   Bus = "megasas-gen2" // Debian's OVMF cannot boot from it
	PVSCSI     Bus = "pvscsi"       // Debian's OVMF cannot boot from this controller either
	VirtIOSCSI Bus = "virtio-scsi-pci"
	SDCard     Bus = "sdhci-pci" // its size must be a power of two; firmware cannot boot from it
)

// Disk is a raw disk image. The firmware tries the disks in the order of Config.Disks.
type Disk struct {
	Path     string
	Bus      Bus  // empty: VirtIO
	ReadOnly bool // not possible with NVMe
	Sector   int  // size of a logical sector in bytes; 0 means 512
}

// Config configures a machine. The firmware measures memory and processors too, so the PCRs are the
// same only with the same Config.
type Config struct {
	Dir     string     // folder of the machine's files; created if it does not exist
	TPM     *swtpm.TPM // nil: no TPM. While the machine runs, the TPM's command socket is closed
	CRB     bool       // the TPM's interface is CRB instead of TIS
	Disks   []Disk
	Memory  int    // MiB. Default: 512
	CPUs    int    // Default: 2
	Clock   string // time of the machine's clock at power-on, "1970-01-01T00:00:00"; empty: now
	Offline bool   // no network interface
	IPv6    bool   // no IPv4 on the network; the computer that runs the test is fec0::2
	Wire    *Wire  // network that can drop packets; nil: a network that drops no packets
	Screen  bool   // the machine has a screen, for Screenshot
	Reboot  bool   // the machine may reboot; otherwise a reset switches it off
	// SecureBoot chooses firmware that supports Secure Boot. The firmware is in setup mode until
	// keys are enrolled.
	SecureBoot bool
	// KVM uses the processor's virtualisation, so the machine has the same processor as the
	// computer that runs it. Tests do not use KVM, because PCRs and times would depend on that
	// computer.
	KVM bool
	// Person, if set, connects the machine's console and screen to a person instead of a test.
	Person *Person
}

// Machine is a running machine. Its methods may be called from several goroutines.
type Machine struct {
	*Console
	// Off is closed when the machine has ended.
	Off  <-chan struct{}
	cfg  Config
	proc *process.Process
	qmp  string
	keys io.WriteCloser
	log  *os.File
}

// Start starts a machine. The machine runs until it switches itself off, Stop is called, or the
// context `ctx` ends.
func Start(ctx context.Context, cfg Config) (*Machine, error) {
	m := Missing()
	if cfg.Person != nil {
		m = cfg.Person.Missing()
	}
	if m != "" {
		return nil, errors.New("qemu: " + m)
	}
	return start(ctx, cfg)
}

func start(ctx context.Context, cfg Config) (*Machine, error) {
	if cfg.Memory == 0 {
		cfg.Memory = 512
	}
	if cfg.CPUs == 0 {
		cfg.CPUs = 2
	}
	m := &Machine{cfg: cfg}
	if err := m.prepare(); err != nil {
		return nil, err
	}
	args, err := m.arguments(ctx)
	if err != nil {
		m.log.Close()
		return nil, err
	}
	cmd := exec.Command(program, args...)
	m.Console = newConsole(m.log, time.Now())
	if cfg.Person != nil {
		cmd.Stdin, cmd.Stdout = cfg.Person.In, cfg.Person.Out
	} else {
		cmd.Stdout = m.Console
		m.keys, err = cmd.StdinPipe()
	}
	if err == nil {
		m.proc, err = process.Start(cmd)
	}
	if err != nil {
		m.log.Close()
		return nil, fmt.Errorf("qemu: %w", err)
	}
	unplug := func() {}
	if cfg.Wire != nil {
		if unplug, err = cfg.Wire.lay(filepath.Dir(m.qmp)); err != nil {
			m.proc.Stop(0)
			m.log.Close()
			return nil, err
		}
	}
	off := make(chan struct{})
	m.Off = off
	go func() {
		select {
		case <-ctx.Done():
			m.proc.Stop(cfg.Person.grace())
		case <-m.proc.Done():
		}
		if cfg.TPM != nil {
			cfg.TPM.PowerOff()
		}
		unplug()
		m.log.Close()
		os.RemoveAll(filepath.Dir(m.qmp))
		close(off)
	}()
	return m, nil
}

// prepare creates the machine's folder and files.
func (m *Machine) prepare() error {
	if err := os.MkdirAll(m.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("qemu: %w", err)
	}
	if _, err := os.Stat(m.vars()); errors.Is(err, os.ErrNotExist) {
		b, err := os.ReadFile(varsPath)
		if err == nil {
			err = os.WriteFile(m.vars(), b, 0o600)
		}
		if err != nil {
			return fmt.Errorf("qemu: copying the firmware's variables: %w", err)
		}
	}
	// Use a separate folder, because the paths of Unix sockets must be short.
	dir, err := os.MkdirTemp("", "qmp")
	if err != nil {
		return fmt.Errorf("qemu: %w", err)
	}
	m.qmp = filepath.Join(dir, "s")
	m.log, err = os.OpenFile(filepath.Join(m.cfg.Dir, "console.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("qemu: %w", err)
	}
	return nil
}

func (m *Machine) vars() string { return filepath.Join(m.cfg.Dir, "vars.fd") }

// cpu is a processor model without AVX. With AVX, which QEMU has emulated since 7.2, the self-tests
// of the kernel's ciphers take longer, and once did not end.
const cpu = "Westmere,+rdrand"

// arguments returns QEMU's arguments. They list all of the machine's devices.
func (m *Machine) arguments(ctx context.Context) ([]string, error) {
	cfg := m.cfg
	code, machine := codePath, "q35"
	if cfg.SecureBoot {
		code, machine = signedCodePath, "q35,smm=on"
	}
	accel, processor := "tcg,thread=multi", cpu
	if cfg.KVM {
		accel, processor = "kvm", "host"
	}
	args := []string{
		"-nodefaults", "-no-user-config", "-display", cfg.Person.display(),
		"-machine", machine, "-accel", accel, "-cpu", processor,
		"-m", strconv.Itoa(cfg.Memory), "-smp", strconv.Itoa(cfg.CPUs),
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file=" + code,
		"-drive", "if=pflash,unit=1,format=raw,file=" + value(m.vars()),
		"-chardev", cfg.Person.console(), "-serial", "chardev:console",
		"-qmp", "unix:" + value(m.qmp) + ",server=on,wait=off",
		"-device", "virtio-rng-pci", // so that the boot does not wait for random numbers
		"-global", "ICH9-LPC.noreboot=false", // so that the watchdog resets the machine, as on real boards
	}
	if cfg.SecureBoot { // so that the operating system cannot overwrite the firmware's keys
		args = append(args, "-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1")
	}
	if cfg.Clock != "" {
		args = append(args, "-rtc", "base="+value(cfg.Clock))
	}
	if !cfg.Offline {
		user := "user,id=emulated"
		if cfg.IPv6 {
			user += ",ipv4=off"
		}
		card := "virtio-net-pci,netdev=emulated,romfile="
		if cfg.Wire != nil {
			args, card = append(args, netdevs(filepath.Dir(m.qmp), user)...), "virtio-net-pci,netdev=net,romfile="
		} else {
			args = append(args, "-netdev", user)
		}
		args = append(args, "-device", card)
	}
	if !cfg.Reboot {
		args = append(args, "-no-reboot")
	}
	if cfg.Screen {
		args = append(args, "-vga", "std")
	}
	if cfg.TPM != nil {
		control, err := cfg.TPM.PowerOn(ctx)
		if err != nil {
			return nil, err
		}
		device := "tpm-tis"
		if cfg.CRB {
			device = "tpm-crb"
		}
		args = append(args, "-chardev", "socket,id=tpm,path="+value(control),
			"-tpmdev", "emulator,id=tpm,chardev=tpm", "-device", device+",tpmdev=tpm")
	}
	usb := false
	for i, d := range cfg.Disks {
		id := fmt.Sprintf("disk%d", i)
		drive := "if=none,format=raw,cache=unsafe,id=" + id + ",file=" + value(d.Path)
		if d.ReadOnly {
			drive += ",readonly=on"
		}
		device := fmt.Sprintf(",drive=%s,bootindex=%d", id, i)
		if d.Sector != 0 {
			device += fmt.Sprintf(",logical_block_size=%d,physical_block_size=%d", d.Sector, d.Sector)
		}
		// Use the file's name as the disk's serial number, so that a disk keeps its serial number
		// when the order of the disks changes.
		serial := ",serial=" + value(strings.TrimSuffix(filepath.Base(d.Path), filepath.Ext(d.Path)))
		var controllers []string
		switch d.Bus {
		case VirtIO, "":
			device = "virtio-blk-pci" + device
		case NVMe:
			device = "nvme" + serial + device
		case NVMePaths:
			controllers = []string{"nvme-subsys,id=" + id + "s", "nvme,id=" + id + "a,subsys=" + id + "s" + serial, "nvme,id=" + id + "b,subsys=" + id + "s" + serial}
			device = "nvme-ns,nsid=1,shared=on,bus=" + id + "a" + device
		case USB, USBFixed:
			removable := ",removable=on"
			if d.Bus == USBFixed {
				removable = ",removable=off" + serial
			}
			device = "usb-storage" + removable + device
			if !usb {
				controllers = []string{"qemu-xhci,addr=0x10"} // a fixed PCI slot, so that the slots of other devices do not change
			}
			usb = true
		case SATA:
			device = fmt.Sprintf("ide-hd,bus=ide.%d", i) + serial + device
		case MegaRAID, PVSCSI, VirtIOSCSI:
			controllers = []string{string(d.Bus) + ",id=" + id + "c"}
			device = "scsi-hd,bus=" + id + "c.0" + serial + device
		case SDCard:
			controllers = []string{string(d.Bus)}
			device = "sd-card,drive=" + id
		default:
			return nil, fmt.Errorf("qemu: unknown bus %q", d.Bus)
		}
		args = append(args, "-drive", drive)
		for _, c := range append(controllers, device) {
			args = append(args, "-device", c)
		}
	}
	return args, nil
}

// value doubles the commas in the text `s`, because a single comma ends an option of QEMU.
func value(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// WaitFor waits until the console has a line that matches the pattern `re`, and returns the line
// and the submatches.
func (m *Machine) WaitFor(ctx context.Context, re *regexp.Regexp) (Line, []string, error) {
	return m.wait(ctx, m.Off, re)
}

// Type types keys on the serial console.
func (m *Machine) Type(s string) error {
	_, err := io.WriteString(m.keys, s)
	return err
}

// WaitOff waits until the machine switches itself off. If it ends in another way, WaitOff returns
// an error.
func (m *Machine) WaitOff(ctx context.Context) error {
	select {
	case <-m.Off:
	case <-ctx.Done():
		return fmt.Errorf("qemu: the machine is still on: %w; its last lines:\n%s", ctx.Err(), m.Tail())
	}
	if err := m.proc.Err(); err != nil {
		return fmt.Errorf("qemu: the machine failed: %w: %s; its last lines:\n%s", err, m.proc.Tail(), m.Tail())
	}
	return nil
}

// Stop cuts the power, and waits until the machine and its TPM have ended. A second call does
// nothing.
func (m *Machine) Stop() {
	m.proc.Stop(0)
	<-m.Off
}

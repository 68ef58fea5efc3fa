package stick

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"debug/pe"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"gangway/image"
	"gangway/image/authenticode"
	"gangway/wire/trail/sig"
)

// Parts are the programs of an image: programs of other projects, and Gangway's own programs.
type Parts struct {
	Kernel  []byte // bzImage
	Release string // name of the kernel's package, for people
	Modules fs.FS  // the folder lib/modules/VERSION of a kernel package
	// Stub and BootManager are the files linuxx64.efi.stub and systemd-bootx64.efi of systemd.
	Stub, BootManager []byte
	Init, Agent       []byte // gangway-init and gangway-agent
	Busybox           []byte // statically linked; provides the shell of the manual installation
	// Signer signs the programs that firmware starts, for Secure Boot. If it is nil, they have no
	// signature.
	Signer *authenticode.Signer
	// RevisionKeys are the owner's keys that every system built from these parts pins. If it is
	// nil, the systems also install revisions without a signature.
	RevisionKeys *sig.Keys
	// Owner, if it is not nil, approves the installed system: TPMs then release the keys of
	// encrypted disks only to systems that this key approved.
	Owner crypto.Signer
	// DiskPIN allows a person at the machine to give an encrypted disk a PIN.
	DiskPIN bool

	cache *packedCache // shared by copies of the same Parts; if nil, nothing is cached
}

// packedCache maps the hash of the files of an initial file system to the compressed file system.
// Compressing all modules takes about 10 s, and tests build many images of the same parts.
type packedCache struct {
	mu     sync.Mutex // also held during compression, so the same files are not compressed twice
	packed map[[sha256.Size]byte][]byte
}

// initramfs does the same as image.Initramfs, but caches the result. The caller must not change the
// result.
func (c *packedCache) initramfs(files []image.File) ([]byte, error) {
	if c == nil {
		return image.Initramfs(files)
	}
	h := sha256.New()
	for _, f := range files {
		fmt.Fprintf(h, "%q %o %d ", f.Path, f.Mode, len(f.Data))
		h.Write(f.Data)
	}
	key := [sha256.Size]byte(h.Sum(nil))
	c.mu.Lock()
	defer c.mu.Unlock()
	if b, ok := c.packed[key]; ok {
		return b, nil
	}
	b, err := image.Initramfs(files)
	if err != nil {
		return nil, err
	}
	if c.packed == nil {
		c.packed = map[[sha256.Size]byte][]byte{}
	}
	c.packed[key] = b
	return b, nil
}

// The method `signed` signs an EFI program if there is a Signer. Otherwise it returns `efi`
// unchanged. If `err` is not nil, it returns `err`, so that a call can wrap a function that returns
// a program and an error.
func (p *Parts) signed(efi []byte, err error) ([]byte, error) {
	if err != nil || p.Signer == nil {
		return efi, err
	}
	return p.Signer.Sign(efi)
}

// BootDir is the folder in which Debian's package systemd-boot-efi installs its EFI programs.
const BootDir = "/usr/lib/systemd/boot/efi"

// partFile has the path of a file from which images are built, and a hint for a person if this file
// is missing.
type partFile struct{ path, hint string }

// partFiles returns the files of the parts, in the order kernel, busybox, stub, boot manager, init,
// agent.
func partFiles(kernel, boot, programs string) [6]partFile {
	if boot == "" {
		boot = BootDir
	}
	return [6]partFile{
		{filepath.Join(kernel, "vmlinuz"), "a kernel folder has vmlinuz and modules/; make one with `gangway image fetch`"},
		{filepath.Join(kernel, "busybox"), "copy a static busybox to this path, or run `gangway image fetch`"},
		{filepath.Join(boot, "linuxx64.efi.stub"), "apt-get install systemd-boot-efi"},
		{filepath.Join(boot, "systemd-bootx64.efi"), "apt-get install systemd-boot-efi"},
		{filepath.Join(programs, "gangway-init"), "build it with `make build`"},
		{filepath.Join(programs, "gangway-agent"), "build it with `make build`"},
	}
}

func (f partFile) wrap(err error) error { return fmt.Errorf("image: %w: %s", err, f.hint) }

// HaveParts returns an error if a file that LoadParts needs from these folders is missing. It does
// not read the files.
func HaveParts(kernel, boot, programs string) error {
	for _, f := range partFiles(kernel, boot, programs) {
		if _, err := os.Stat(f.path); err != nil {
			return f.wrap(err)
		}
	}
	return nil
}

// LoadParts reads the parts from three folders. The folder `kernel` contains vmlinuz, modules/ and
// busybox. It may also contain a file with the name `package`, whose content is the name of the
// kernel's package. The folder `boot` contains systemd's EFI programs; if `boot` is empty,
// LoadParts uses Debian's folder. The folder `programs` contains gangway-init and gangway-agent.
func LoadParts(kernel, boot, programs string) (*Parts, error) {
	p := &Parts{Modules: os.DirFS(filepath.Join(kernel, "modules")), cache: new(packedCache)}
	to := [6]*[]byte{&p.Kernel, &p.Busybox, &p.Stub, &p.BootManager, &p.Init, &p.Agent}
	for i, f := range partFiles(kernel, boot, programs) {
		b, err := os.ReadFile(f.path)
		if err != nil {
			return nil, f.wrap(err)
		}
		*to[i] = b
	}
	if b, err := os.ReadFile(filepath.Join(kernel, "package")); err == nil {
		p.Release = firstLine(b)
	}
	return p, nil
}

// The method `kernel` returns the kernel for a unified kernel image. If there is a Signer, kernel
// signs the kernel too, for stubs that start the kernel through the firmware while Secure Boot is
// on.
func (p *Parts) kernel() ([]byte, error) {
	if _, err := pe.NewFile(bytes.NewReader(p.Kernel)); err != nil {
		return p.Kernel, nil // the kernel has no EFI stub, so firmware cannot start it
	}
	return p.signed(p.Kernel, nil)
}

func firstLine(b []byte) string {
	for i, c := range b {
		if c < ' ' || c > '~' {
			return string(b[:i])
		}
	}
	return string(b)
}

// Modules names the kernel modules in every image: drivers of common x86-64 hardware, and modules
// that the installer needs. A module that is built into a kernel is left out.
var Modules = []string{
	// Drivers of disks. They load before the drivers of USB, so that the kernel gives the name sda
	// to a built-in disk and not to the USB stick with the installer.
	"crc32c_generic", "crc32c_intel", "sd_mod", "vmd", "nvme", "ahci", "ata_piix", "mmc_block", "sdhci_pci", "sdhci_acpi", "ufshcd_pci", "ext4",
	// Storage controllers of servers: Broadcom and LSI, Microchip and Adaptec, HPE.
	"megaraid_sas", "mpt3sas", "mpi3mr", "smartpqi", "aacraid", "hpsa",
	// Disks and network cards of virtual machines: KVM, Hyper-V, VMware, Xen.
	"virtio_pci", "virtio_blk", "virtio_scsi", "hv_storvsc", "pci_hyperv", "hv_netvsc", "hyperv_keyboard",
	"vmw_pvscsi", "mptsas", "mptspi", "vmxnet3", "xen_blkfront", "xen_netfront",
	// USB storage and its file system, for the USB stick with the installer.
	"xhci_pci", "ehci_pci", "usb_storage", "uas", "vfat", "nls_cp437", "nls_ascii",
	// Modules for encrypted disks.
	"dm_mod", "dm_crypt", "ecb", "xts", "aesni_intel",
	// Network cards and VLANs.
	"virtio_net", "e1000e", "e1000", "igb", "igc", "r8169", "realtek", "8021q",
	// Keyboards, a source of random numbers, and the firmware's variables.
	"usbhid", "hid_generic", "virtio_rng", "efivarfs",
	// Watchdogs: Intel's with its two bus drivers, the firmware's (wdat_wdt), and AMD's.
	"lpc_ich", "i2c_i801", "iTCO_wdt", "wdat_wdt", "sp5100_tco",
}

// base builds the part of the initial file system that the installer and the installed system have
// in common.
func (p *Parts) base() ([]byte, error) {
	files, err := image.Modules(p.Modules, Modules...)
	if err != nil { // for example, an earlier version fetched this kernel with fewer modules
		return nil, fmt.Errorf("%w; this version needs a kernel with more modules: run `gangway image fetch`", err)
	}
	return p.cache.initramfs(append(files, image.File{Path: "init", Data: p.Init, Mode: 0o755}))
}

// applets names the commands of busybox that the shell offers.
var applets = []string{
	"sh", "ls", "cat", "more", "less", "grep", "dmesg", "mount", "umount", "df", "free", "ps", "pidof", "ip", "ping",
	"lspci", "lsusb", "blkid", "hexdump", "dd", "vi", "head", "tail", "cp", "mv", "rm", "mkdir", "reboot", "poweroff", "sync", "date", "uname",
}

// shell returns busybox and a link to it for each applet, as files for the initial file system.
func (p *Parts) shell() []image.File {
	files := []image.File{{Path: "bin/busybox", Data: p.Busybox, Mode: 0o755}}
	for _, a := range applets {
		files = append(files, image.File{Path: "bin/" + a, Data: []byte("busybox"), Mode: fs.ModeSymlink})
	}
	return files
}

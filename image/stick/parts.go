package stick

import (
	"bytes"
	"crypto/sha256"
	"debug/pe"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"gangway/image"
	"gangway/image/authenticode"
)

// Parts are the programs that an image is made of: other projects' and our own.
type Parts struct {
	Kernel  []byte // bzImage
	Release string // origin of the kernel, for people
	Modules fs.FS  // a kernel package's folder lib/modules/VERSION
	// Stub and BootManager are systemd's linuxx64.efi.stub and
	// systemd-bootx64.efi.
	Stub, BootManager []byte
	Init, Agent       []byte // gangway-init and gangway-agent
	Busybox           []byte // static; the shell of the manual installation
	// Signer signs the programs that firmware starts, for Secure Boot. Nil: they are not
	// signed.
	Signer *authenticode.Signer

	cache *packedCache // shared by copies of the same Parts; nil: nothing is cached
}

// packedCache keeps compressed initial file systems, by a hash of their files. Compressing all
// modules takes about 10 s, and tests build many images of the same parts.
type packedCache struct {
	mu     sync.Mutex // held while compressing, so that nothing is compressed twice
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

// signed returns an EFI program in the form that goes into an image: if there is a Signer, the
// program is signed. It passes err on.
func (p *Parts) signed(efi []byte, err error) ([]byte, error) {
	if err != nil || p.Signer == nil {
		return efi, err
	}
	return p.Signer.Sign(efi)
}

// bootDir is the folder of the programs in Debian's systemd-boot-efi.
const bootDir = "/usr/lib/systemd/boot/efi"

// partFile is a file that images are built from.
type partFile struct{ path, hint string }

// partFiles are the files of the parts, in the order kernel, busybox, stub, boot manager, init, agent.
func partFiles(kernel, boot, programs string) [6]partFile {
	if boot == "" {
		boot = bootDir
	}
	return [6]partFile{
		{filepath.Join(kernel, "vmlinuz"), "a kernel's folder has vmlinuz and modules/; make it with `gangway image fetch`"},
		{filepath.Join(kernel, "busybox"), "put a static busybox there, or run `gangway image fetch`"},
		{filepath.Join(boot, "linuxx64.efi.stub"), "apt-get install systemd-boot-efi"},
		{filepath.Join(boot, "systemd-bootx64.efi"), "apt-get install systemd-boot-efi"},
		{filepath.Join(programs, "gangway-init"), "build it with `make build`"},
		{filepath.Join(programs, "gangway-agent"), "build it with `make build`"},
	}
}

func (f partFile) wrap(err error) error { return fmt.Errorf("image: %w: %s", err, f.hint) }

// HaveParts returns the error of LoadParts with these folders if a file is missing, without reading
// the files.
func HaveParts(kernel, boot, programs string) error {
	for _, f := range partFiles(kernel, boot, programs) {
		if _, err := os.Stat(f.path); err != nil {
			return f.wrap(err)
		}
	}
	return nil
}

// LoadParts reads the parts from three folders. kernel has vmlinuz, modules/, busybox and
// optionally package. boot has systemd's programs for EFI; empty means Debian's folder.
// programs has gangway-init and gangway-agent.
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

// kernel returns the kernel for a unified image. If there is a Signer, the kernel is also signed on
// its own: systemd's stub (at least up to version 252) starts the kernel through firmware, which
// requires a signature.
func (p *Parts) kernel() ([]byte, error) {
	if _, err := pe.NewFile(bytes.NewReader(p.Kernel)); err != nil {
		return p.Kernel, nil // not an EFI program, so firmware cannot load it
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

// Modules are the kernel modules in every image: for common x86-64 hardware, and for the
// installer. Modules that are built into a kernel are left out.
var Modules = []string{
	// Disks. They come before USB, so that a built-in disk is sda and the stick is not.
	"crc32c_generic", "crc32c_intel", "sd_mod", "vmd", "nvme", "ahci", "ata_piix", "mmc_block", "sdhci_pci", "sdhci_acpi", "ufshcd_pci", "ext4",
	// Controllers of servers: Broadcom and LSI, Microchip and Adaptec, HPE.
	"megaraid_sas", "mpt3sas", "mpi3mr", "smartpqi", "aacraid", "hpsa",
	// Disks and networks of virtual machines: KVM, Hyper-V, VMware, Xen.
	"virtio_pci", "virtio_blk", "virtio_scsi", "hv_storvsc", "pci_hyperv", "hv_netvsc", "hyperv_keyboard",
	"vmw_pvscsi", "mptsas", "mptspi", "vmxnet3", "xen_blkfront", "xen_netfront",
	// The stick and its file system.
	"xhci_pci", "ehci_pci", "usb_storage", "uas", "vfat", "nls_cp437", "nls_ascii",
	// Encrypted disks.
	"dm_mod", "dm_crypt", "ecb", "xts", "aesni_intel",
	// Networks.
	"virtio_net", "e1000e", "e1000", "igb", "igc", "r8169", "realtek", "8021q",
	// Keyboards, randomness, the firmware's variables.
	"usbhid", "hid_generic", "virtio_rng", "efivarfs",
	// Watchdogs: Intel's, with the bridges that it needs; firmware's; AMD's.
	"lpc_ich", "i2c_i801", "iTCO_wdt", "wdat_wdt", "sp5100_tco",
}

// base builds the initial file system that installer and system share.
func (p *Parts) base() ([]byte, error) {
	files, err := image.Modules(p.Modules, Modules...)
	if err != nil { // for example, an earlier version fetched this kernel without all modules
		return nil, fmt.Errorf("%w; fetch a kernel with all modules that this version needs with `gangway image fetch`", err)
	}
	return p.cache.initramfs(append(files, image.File{Path: "init", Data: p.Init, Mode: 0o755}))
}

// applets names busybox's commands, which the shell can call.
var applets = []string{
	"sh", "ls", "cat", "more", "less", "grep", "dmesg", "mount", "umount", "df", "free", "ps", "pidof", "ip", "ping",
	"lspci", "lsusb", "blkid", "hexdump", "dd", "vi", "head", "tail", "cp", "mv", "rm", "mkdir", "reboot", "poweroff", "sync", "date", "uname",
}

// shell returns the files of a shell and of its commands.
func (p *Parts) shell() []image.File {
	files := []image.File{{Path: "bin/busybox", Data: p.Busybox, Mode: 0o755}}
	for _, a := range applets {
		files = append(files, image.File{Path: "bin/" + a, Data: []byte("busybox"), Mode: fs.ModeSymlink})
	}
	return files
}

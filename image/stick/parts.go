package stick

import (
	"bytes"
	"debug/pe"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"gangway/image"
	"gangway/image/authenticode"
)

// Parts are what an image is made of: programs of others and our own.
type Parts struct {
	Kernel  []byte // bzImage
	Release string // where the kernel is from, for people
	Modules fs.FS  // a kernel package's folder lib/modules/VERSION
	// Stub and BootManager are systemd's linuxx64.efi.stub and
	// systemd-bootx64.efi.
	Stub, BootManager []byte
	Init, Agent       []byte // gangway-init and gangway-agent
	Busybox           []byte // static; the shell of the manual installation
	// Signer signs what firmware starts, for Secure Boot. Nil: it is not signed.
	Signer *authenticode.Signer
}

// signed is an EFI program as an image has it.
func (p *Parts) signed(efi []byte, err error) ([]byte, error) {
	if err != nil || p.Signer == nil {
		return efi, err
	}
	return p.Signer.Sign(efi)
}

// Where Debian's systemd-boot-efi has its programs.
const bootDir = "/usr/lib/systemd/boot/efi"

// LoadParts reads parts: the kernel's folder has vmlinuz, modules/ and
// package; busybox may be in it. boot is the folder of systemd's programs for
// EFI, empty for Debian's; programs that of gangway-init and gangway-agent.
func LoadParts(kernel, boot, programs string) (*Parts, error) {
	p := &Parts{Modules: os.DirFS(filepath.Join(kernel, "modules"))}
	if boot == "" {
		boot = bootDir
	}
	for _, f := range []struct {
		to         *[]byte
		path, hint string
	}{
		{&p.Kernel, filepath.Join(kernel, "vmlinuz"), "a kernel's folder has vmlinuz and modules/; `gangway image fetch` makes one"},
		{&p.Busybox, filepath.Join(kernel, "busybox"), "put a static busybox there; `gangway image fetch` does"},
		{&p.Stub, filepath.Join(boot, "linuxx64.efi.stub"), "apt-get install systemd-boot-efi"},
		{&p.BootManager, filepath.Join(boot, "systemd-bootx64.efi"), "apt-get install systemd-boot-efi"},
		{&p.Init, filepath.Join(programs, "gangway-init"), "`make build` makes it"},
		{&p.Agent, filepath.Join(programs, "gangway-agent"), "`make build` makes it"},
	} {
		b, err := os.ReadFile(f.path)
		if err != nil {
			return nil, fmt.Errorf("image: %w: %s", err, f.hint)
		}
		*f.to = b
	}
	if b, err := os.ReadFile(filepath.Join(kernel, "package")); err == nil {
		p.Release = firstLine(b)
	}
	return p, nil
}

// kernel is the kernel as it is in a unified image. It is signed by itself too:
// systemd's stub, up to version 252 at least, has firmware load it, which asks
// for a signature.
func (p *Parts) kernel() ([]byte, error) {
	if _, err := pe.NewFile(bytes.NewReader(p.Kernel)); err != nil {
		return p.Kernel, nil // firmware does not load it
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

// Modules that every image has: common x86-64 hardware, and what the installer
// needs. What a kernel has built in is left out.
var Modules = []string{
	// Disks. They come before USB, so that one that is built in is sda and no stick is.
	"crc32c_generic", "crc32c_intel", "sd_mod", "vmd", "nvme", "ahci", "ata_piix", "mmc_block", "sdhci_pci", "sdhci_acpi", "ufshcd_pci", "ext4",
	// Controllers of servers: Broadcom's and LSI's, Microchip's and Adaptec's, HPE's.
	"megaraid_sas", "mpt3sas", "mpi3mr", "smartpqi", "aacraid", "hpsa",
	// Virtual machines, with their networks: KVM, Hyper-V, VMware, Xen.
	"virtio_pci", "virtio_blk", "virtio_scsi", "hv_storvsc", "pci_hyperv", "hv_netvsc", "hyperv_keyboard",
	"vmw_pvscsi", "mptsas", "mptspi", "vmxnet3", "xen_blkfront", "xen_netfront",
	// The stick, and what it is read with.
	"xhci_pci", "ehci_pci", "usb_storage", "uas", "vfat", "nls_cp437", "nls_ascii",
	// Encrypted disks.
	"dm_mod", "dm_crypt", "ecb", "xts", "aesni_intel",
	// Networks.
	"virtio_net", "e1000e", "e1000", "igb", "igc", "r8169", "realtek", "8021q",
	// Keyboards, randomness, the firmware's variables.
	"usbhid", "hid_generic", "virtio_rng", "efivarfs",
	// Watchdogs: Intel's, with the bridges that it is found by; firmware's; AMD's.
	"lpc_ich", "i2c_i801", "iTCO_wdt", "wdat_wdt", "sp5100_tco",
}

// base is the initial file system that installer and system share.
func (p *Parts) base() ([]byte, error) {
	files, err := image.Modules(p.Modules, Modules...)
	if err != nil { // as with what an earlier version fetched
		return nil, fmt.Errorf("%w; `gangway image fetch` fetches a kernel with all modules that this version wants", err)
	}
	return image.Initramfs(append(files, image.File{Path: "init", Data: p.Init, Mode: 0o755}))
}

// applets are the shell's commands.
var applets = []string{
	"sh", "ls", "cat", "more", "less", "grep", "dmesg", "mount", "umount", "df", "free", "ps", "pidof", "ip", "ping",
	"lspci", "lsusb", "blkid", "hexdump", "dd", "vi", "head", "tail", "cp", "mv", "rm", "mkdir", "reboot", "poweroff", "sync", "date", "uname",
}

// shell is a shell with its commands.
func (p *Parts) shell() []image.File {
	files := []image.File{{Path: "bin/busybox", Data: p.Busybox, Mode: 0o755}}
	for _, a := range applets {
		files = append(files, image.File{Path: "bin/" + a, Data: []byte("busybox"), Mode: fs.ModeSymlink})
	}
	return files
}

// Package stick builds and inspects the installer image for x86-64 machines with UEFI. The owner of
// a fleet writes the image to a USB stick. `gangway image` uses this package: LoadParts reads the
// programs, Build makes an image, and Inspect checks any image before it is used. The same parts
// and configuration give the same bytes.
//
// The image's EFI system partition has
//
//	EFI/BOOT/BOOTX64.EFI        the boot manager (systemd-boot)
//	EFI/Linux/gangway-*.efi     a unified kernel image for each menu entry
//	loader/loader.conf          the boot manager's settings
//	network.txt                 network settings, for a person to edit
//	gangway/manifest.json       what to install, by hash (install.Manifest)
//	gangway/esp.img, data.img   the contents of the partitions, without zero blocks
//
// All entries contain the same kernel, modules and gangway-init; the entry "manual" also has a
// shell. Each entry has its own command line, which contains the manifest's SHA-256. Firmware
// measures the command line into the TPM. Because of the SHA-256, this measurement also covers what
// the entry installs. The network settings are not measured, because the person with the stick may
// edit them.
package stick

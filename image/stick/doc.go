// Package stick builds the installer image for x86-64 machines with UEFI, which a fleet's owner
// writes to a USB stick, and inspects such images. It is the package behind `gangway image`: load
// the Parts, build the image with Build, and check any image with Inspect before you use it. The
// same parts and configuration give the same bytes.
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
// All entries contain the same kernel, modules and gangway-init; the entry manual has a shell too.
// Each entry has its own command line. Every command line holds the manifest's SHA-256. So the TPM
// measures what is installed, together with the entry that installs it. The network settings are
// not measured, because a person with the stick may edit them.
package stick

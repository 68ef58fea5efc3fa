// Package stick makes the installer image for x86-64 machines with UEFI: what
// a fleet's owner writes to a USB stick, and looks into what one holds.
//
// Its EFI system partition has
//
//	EFI/BOOT/BOOTX64.EFI        the boot manager (systemd-boot)
//	EFI/Linux/gangway-*.efi     a unified kernel image for each entry of the menu
//	loader/loader.conf          the boot manager's settings
//	network.txt                 network settings, for a person to edit
//	gangway/manifest.json       what is installed, by hash (install.Manifest)
//	gangway/esp.img, data.img   that, the blocks that are not zero
//
// The entries have a kernel, its modules and gangway-init in common (manual has
// a shell too), and differ in the command line, which names the manifest's SHA-256: so what is installed is
// measured with the entry that installs it. The network settings are not: a
// person with the stick may edit them.
package stick

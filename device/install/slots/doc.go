// Package slots manages the two systems of an installed machine: the one that runs and the one that
// is tried. Each is a unified kernel image in the EFI system partition. The installed system uses
// this package as the agent's hook: an update calls Hook.Do with the agent's verbs.
//
//	EFI/Linux/gangway-a.efi, gangway-b.efi   the slots
//	loader/loader.conf                       names the default slot
//
// # Each change is one sector
//
// A power cut at any moment leaves a complete system that boots. FAT has no journal, and a file
// that is being renamed has two names for a moment, so this package renames nothing. To write a
// slot, it writes everything with the first sector zero, flushes, and reads it back; the boot
// manager ignores a file without its first sector. Then it writes that sector. The default slot
// is one letter of loader.conf, which is changed in place: again one sector. A disk writes each
// sector completely or not at all.
//
// # A new system is tried once
//
// A new system is named only in the variable LoaderEntryOneShot. The boot manager removes this
// variable before it starts the system. So, whatever ends the trial (a panic, the watchdog, a
// power cut), the next boot starts the default of loader.conf. Commit changes that default.
package slots

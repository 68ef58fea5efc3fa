// Package slots manages the two systems of an installed machine: the running system and the system
// on trial. Each system is a unified kernel image in the EFI system partition. The installed system
// uses this package for the agent's hook: to update the system, the agent calls the hook, and the
// hook calls Hook.Do.
//
//	EFI/Linux/gangway-a.efi, gangway-b.efi   the slots
//	loader/loader.conf                       names the default slot
//
// # Each change is one sector
//
// A power cut at any moment leaves a complete system that boots. FAT has no journal, and a file
// that is being renamed has two names for a moment, so this package renames no file. To write a
// slot, it fills the first sector with zeros and writes all other sectors. It flushes these sectors
// and reads them back. The boot manager ignores a file whose first sector is zero. Then the package
// writes the first sector. One letter of loader.conf names the default slot. The package changes
// this letter in place, which again changes only one sector. A disk writes each sector completely
// or not at all.
//
// # A new system is tried once
//
// Only the variable LoaderEntryOneShot names a new system. The boot manager removes this variable
// before it starts the system. So if anything ends the trial (a panic, the watchdog, a power cut),
// the next boot starts the default slot that loader.conf names. Commit changes that default.
package slots

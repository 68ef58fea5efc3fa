// Package slots keeps the two systems of an installed machine: the one that
// runs and the one that is tried, each a unified kernel image in the EFI system
// partition.
//
//	EFI/Linux/gangway-a.efi, gangway-b.efi   the slots
//	loader/loader.conf                       names the one that is started
//
// # Each change is one sector
//
// FAT has no journal, and a file that is renamed has two names for a moment, of
// which one must never be removed. So nothing is renamed. A slot is written
// with its first sector zero, which the boot manager takes for no program, is
// flushed and read back; then that sector is written. Which slot is started is
// a letter of loader.conf, changed in its place: one sector again. A sector is
// written or not, so at any moment the machine starts a system that is whole.
//
// # Tried once
//
// A new system is named in the variable LoaderEntryOneShot alone, which the
// boot manager removes before it starts it. Whatever ends the trial, a panic,
// the watchdog or somebody's hand on the switch, the next start is of the
// system that loader.conf names. It is another one only after Commit.
package slots

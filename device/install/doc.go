// Package install puts Gangway on a machine's disk, from the stick that the
// machine was started from: it finds the disks, chooses one by a rule, and
// writes to it so that the power may fail at any moment.
//
// The disk gets a GUID partition table with an EFI system partition, which
// holds the boot manager and the system's two slots (a unified kernel image
// each), and a data partition up to its end.
//
// The data partition may be encrypted (LUKS2). It is encrypted here as it is
// written, so the installer needs nothing of the kernel for that.
//
// # The order of writing
//
// What the stick has is verified first, and the disk is not touched unless
// all of it is right. Then the old tables and the first sector of the place
// where the EFI system partition will be are wiped: from here to the end the
// disk is none that firmware boots, so the machine starts the stick again.
// Contents and tables are written, flushed and read back. The EFI system
// partition's first sector, without which firmware sees no file system, is
// written last: one sector is there or not.
package install

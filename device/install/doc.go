// Package install writes a Gangway system to a machine's disk. The installer, which boots from a
// USB stick, uses this package on the machine. Package image/stick builds the image for that stick,
// in the formats that this package defines.
//
// To install, list the disks with Disks, choose a disk with Choose, open the disk with Disk.Open
// and run a Job. Then call Firmware.Start, so that the machine boots the new system. Look and Find
// find an installed system; Erase and Unlist wipe an installed system.
//
// The disk gets a GUID partition table with two partitions. The EFI system partition has the boot
// manager and the system's two slots, each with a unified kernel image. The data partition uses the
// rest of the disk.
//
// The data partition may be encrypted (LUKS2). This package encrypts the data before it writes
// them, so the installer's kernel does not need dm-crypt.
//
// # Power cuts
//
// A power cut at any moment leaves a disk that either boots the whole system or does not boot at
// all. Job.Run works in this order:
//
//  1. Verify every file of the stick. If a file is damaged, the disk is not touched.
//  2. Wipe the first sector of the future EFI system partition, and then the old partition tables.
//     From here until step 5 firmware cannot boot the disk, so the machine boots the stick again.
//  3. Write the contents and the partition tables, and flush them.
//  4. Read everything back and compare it with the stick's files.
//  5. Write the first sector of the EFI system partition. Without this sector, firmware does not
//     find the file system. A disk writes one sector completely or not at all.
package install

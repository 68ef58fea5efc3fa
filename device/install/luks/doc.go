// Package luks makes and opens encrypted partitions in the LUKS2 format (LUKS2 On-Disk Format
// Specification, 1.1.1). The installer makes an encrypted partition with Format, and the installed
// system opens the partition with Open. cryptsetup can open a partition that Format made. But Open
// cannot open partitions that cryptsetup made with other parameters than Format's.
//
// The package supports only what the installer needs: AES-XTS with a key of 512 bits, and key
// slots for passphrases of high entropy. It uses few iterations of PBKDF2, which do not protect a
// weak passphrase, so never use a password that a person chose.
package luks

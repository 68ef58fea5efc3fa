// Package luks makes and opens encrypted partitions in the LUKS2 format (LUKS2 On-Disk Format
// Specification, 1.1.1). The installer makes an encrypted partition with Format, and the installed
// system opens the partition with Open. cryptsetup can open a partition that Format made, but Open
// cannot open a partition that cryptsetup made with parameters other than Format's.
//
// The package supports only what the installer needs: AES-XTS with a key of 512 bits, and key slots
// for passphrases of high entropy. It uses so few iterations of PBKDF2 that a weak passphrase is
// not protected, so never use a password that a person chose.
package luks

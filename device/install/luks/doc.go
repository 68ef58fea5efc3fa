// Package luks makes and opens encrypted partitions in the LUKS2 format (LUKS2 On-Disk Format
// Specification, 1.1.1). The installer makes a partition with Format, and the installed system
// opens it with Open. cryptsetup can open a partition that Format made. Open cannot open every
// partition that cryptsetup made: it opens only those that Format made.
//
// The package supports only what the installer needs: AES-XTS with a key of 512 bits, and key slots
// for passphrases of high entropy. The few iterations of PBKDF2 do not protect a weak passphrase,
// so never use a person's password.
package luks

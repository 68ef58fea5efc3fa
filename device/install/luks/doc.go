// Package luks makes and opens encrypted partitions in the form of LUKS2
// (LUKS2 On-Disk Format Specification, 1.1.1): what it makes, cryptsetup opens.
//
// It knows what the installer needs and nothing else: AES-XTS with a key of 512
// bits, and key slots for passphrases of high entropy, which PBKDF2 does not
// stretch. A person's password must not be one of them.
package luks

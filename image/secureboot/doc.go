// Package secureboot makes an owner's Secure Boot keys, and the signed variables with which
// firmware in setup mode enrols these keys. `gangway image keys` makes the keys with New. Package
// image/stick reads the variables with Load and writes them to an installer's USB stick.
//
// There are three keys, each with its own certificate. The platform key (PK) identifies the owner
// of the machine, and may change the KEK. The key exchange key (KEK) may change the variable db.
// Firmware starts only programs that are signed with the third key, db. See UEFI 2.10, 32.3 (the
// variables) and 8.2.2 (their signatures).
package secureboot

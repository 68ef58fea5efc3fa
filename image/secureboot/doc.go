// Package secureboot makes an owner's keys for Secure Boot, and the signed
// variables by which firmware in setup mode takes them.
//
// Three keys, each with a certificate of its own: the platform key (PK), whose
// owner the machine is; the key exchange key (KEK), which may change the
// databases; and db, whose certificate firmware finds programs to be signed by.
// See UEFI 2.10, 32.3 (the variables) and 8.2.2 (their signatures).
package secureboot

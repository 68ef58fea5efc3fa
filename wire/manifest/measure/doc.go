// Package measure computes, from the files of an image, what a machine's TPM measures when the
// machine starts these files. It fills the reference manifest (wire/manifest) of a system.
//
// Authenticode gives the digests that firmware extends into PCR 4 before it starts an EFI program.
// PCR11 gives the value that systemd's stub leaves in PCR 11. The package does no I/O, and runs no
// other program: its tests compare its results with systemd-measure and osslsigncode.
package measure

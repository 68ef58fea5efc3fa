// Package tcg contains the Trusted Computing Group's formats and constants that the device and the
// hub share: TPM 2.0 structures, key templates, NV indices, endorsement key certificates and the
// TCG-CSR-IDEVID. Package wire contains Gangway's own messages.
//
// The package does no I/O and keeps no state. Every parser is strict: it checks sizes before it
// uses them, accepts nothing after the structure, and accepts only one encoding of a value. A
// parser's input may come from an attacker. A parser's result aliases its input, which must not
// change afterwards. A key's name is always computed from the key's public area; a name from a
// sender is never used.
//
// Specifications, by the short names used in comments:
//
//	Part 1, Part 2    TPM 2.0 Library, architecture and structures
//	EK profile        TCG EK Credential Profile for TPM Family 2.0
//	DevID             TPM 2.0 Keys for Device Identity and Attestation
package tcg

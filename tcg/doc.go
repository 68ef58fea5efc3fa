// Package tcg holds the wire formats and constants of the Trusted Computing
// Group that a device and a hub must agree on: TPM 2.0 structures, key
// templates, NV indices, endorsement key certificates and the
// TCG-CSR-IDEVID. It is where the device's side and the hub's side of Gangway
// meet, and all that they share (with package join, Gangway's own messages).
//
// The package does no I/O and keeps no state. Every parser is strict: sizes
// are checked before they are used, nothing may follow the structure, and a
// value that has two encodings is accepted in one. A parser's input may come
// from an attacker; its result aliases the input, which must not change
// afterwards. A key's name is always computed from its public area, never
// taken from a sender.
//
// Specifications, by the short names used in comments:
//
//	Part 1, Part 2    TPM 2.0 Library, architecture and structures
//	EK profile        TCG EK Credential Profile for TPM Family 2.0
//	DevID             TPM 2.0 Keys for Device Identity and Attestation
package tcg

// Package join holds Gangway's own messages of the one-round-trip onboarding,
// which the device and the hub must agree on: the join token's file, the
// ownership proof that rides in a TCG-CSR-IDEVID's prodCaData, the reply with
// the certificates sealed to the TPM, and the activation proof. docs/protocol.md
// shows them byte by byte.
//
// Like package tcg it is pure: no I/O, no state, no clock, strict parsers.
package wire

// Package wire holds Gangway's own messages, which the device and the hub must agree on: the token
// file, the ownership proof in a TCG-CSR-IDEVID's prodCaData, the reply with the certificates
// sealed to the TPM, the activation proof, claim codes, boot reports and the messages of the
// two-step enrolment. docs/protocol.md describes them byte by byte.
//
// Like package tcg, it does no I/O, keeps no state and reads no clock, and its parsers are strict.
package wire

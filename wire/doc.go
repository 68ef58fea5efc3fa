// Package wire contains Gangway's own messages between the device and the hub: the token file, the
// ownership proof in a TCG-CSR-IDEVID's prodCaData, the sealed reply, the activation proof, claim
// codes, boot reports and the messages of the two-step enrolment. docs/protocol.md describes the
// messages byte by byte.
//
// Like package tcg, it does no I/O, keeps no state and reads no clock, and its parsers are strict.
package wire

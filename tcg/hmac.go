package tcg

import "crypto/sha256"

// HMACSHA256 is HMAC-SHA256 (RFC 2104) of the concatenated parts. The result equals the result of
// crypto/hmac. HMACSHA256 keeps no hash state on the heap, because each enrolment computes nine
// HMACs over short messages.
func HMACSHA256(key []byte, parts ...[]byte) [sha256.Size]byte {
	if len(key) > sha256.BlockSize {
		short := sha256.Sum256(key)
		return HMACSHA256(short[:], parts...)
	}
	var room [4 * sha256.BlockSize]byte
	inner := room[:sha256.BlockSize]
	copy(inner, key)
	for i := range inner {
		inner[i] ^= 0x36
	}
	for _, p := range parts {
		inner = append(inner, p...)
	}
	sum := sha256.Sum256(inner)

	var outer [sha256.BlockSize + sha256.Size]byte
	copy(outer[:], key)
	for i := range sha256.BlockSize {
		outer[i] ^= 0x5C
	}
	copy(outer[sha256.BlockSize:], sum[:])
	return sha256.Sum256(outer[:])
}

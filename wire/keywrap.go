package wire

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"errors"
)

// This file implements AES key wrap (RFC 3394) for 256-bit keys, the only size in a sealed reply. A
// wrapped key has five blocks of 64 bits: four blocks of the key, and one block that authenticates
// the key.

const (
	keySize     = 32
	wrappedSize = keySize + 8
	wrapRounds  = 6
)

// wrapIV is the initial value of RFC 3394, 2.2.3.1.
const wrapIV = 0xA6A6A6A6A6A6A6A6

var errUnwrap = errors.New("the key was wrapped with another key encryption key, or was altered")

// wrapKey wraps `key` with the key encryption key `kek` (RFC 3394, 2.2.1, in the alternative
// description with an index).
func wrapKey(kek cipher.Block, key *[keySize]byte) (wrapped [wrappedSize]byte) {
	binary.BigEndian.PutUint64(wrapped[:], wrapIV)
	copy(wrapped[8:], key[:])
	var block [aes.BlockSize]byte // A, then R[i]
	copy(block[:8], wrapped[:8])
	step := uint64(0)
	for range wrapRounds {
		for at := 8; at < wrappedSize; at += 8 {
			step++
			copy(block[8:], wrapped[at:at+8])
			kek.Encrypt(block[:], block[:])
			binary.BigEndian.PutUint64(block[:], binary.BigEndian.Uint64(block[:])^step)
			copy(wrapped[at:], block[8:])
		}
	}
	copy(wrapped[:8], block[:8])
	return wrapped
}

// unwrapKey unwraps a key that wrapKey wrapped (RFC 3394, 2.2.2). It fails if the key was wrapped
// with another key encryption key, or was altered.
func unwrapKey(kek cipher.Block, wrapped []byte) (key [keySize]byte, err error) {
	if len(wrapped) != wrappedSize {
		return key, errUnwrap
	}
	copy(key[:], wrapped[8:])
	var block [aes.BlockSize]byte
	copy(block[:8], wrapped)
	step := uint64(wrapRounds * keySize / 8)
	for range wrapRounds {
		for at := keySize - 8; at >= 0; at -= 8 {
			binary.BigEndian.PutUint64(block[:], binary.BigEndian.Uint64(block[:])^step)
			step--
			copy(block[8:], key[at:at+8])
			kek.Decrypt(block[:], block[:])
			copy(key[at:], block[8:])
		}
	}
	var iv [8]byte
	binary.BigEndian.PutUint64(iv[:], wrapIV)
	if subtle.ConstantTimeCompare(block[:8], iv[:]) != 1 {
		return [keySize]byte{}, errUnwrap
	}
	return key, nil
}

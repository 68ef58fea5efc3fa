package onboard

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"

	"gangway/hub/pki"
	"gangway/tcg"
	"gangway/wire"
)

// Ownership proofs in Pantacor's form are HMACs, so the hub needs the HMAC's key to verify a proof.
// Because anyone who has this key can also make proofs, the hub stores it only for join tokens made
// for Pantacor, and encrypts it, so that a copy of the database does not reveal it.

// SealOwnershipKey encrypts the SHA-256 of a join token's secret with AES-256-GCM, with a key that
// is derived from the hub's seal key, and with the token's id as the additional data. The result is
// nonce (12 bytes) || ciphertext || tag.
func SealOwnershipKey(ca *pki.Hub, secret []byte, tokenID string) ([]byte, error) {
	aead, err := ownershipAEAD(ca.SealKey())
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, aead.NonceSize())
	rand.Read(nonce) // never fails
	key := sha256.Sum256(secret)
	return aead.Seal(nonce, nonce, key[:], []byte(tokenID)), nil
}

var errOwnershipKey = errors.New("onboard: decrypt a join token's stored key: the stored key was altered, or the hub's seal key has changed; make a new join token")

func openOwnershipKey(sealKey, sealed []byte, tokenID string) (key [32]byte, err error) {
	aead, err := ownershipAEAD(sealKey)
	if err != nil {
		return key, err
	}
	if len(sealed) < aead.NonceSize() {
		return key, errOwnershipKey
	}
	plain, err := aead.Open(nil, sealed[:aead.NonceSize()], sealed[aead.NonceSize():], []byte(tokenID))
	if err != nil || len(plain) != len(key) {
		return key, errOwnershipKey
	}
	return [32]byte(plain), nil
}

func ownershipAEAD(sealKey []byte) (cipher.AEAD, error) {
	key := tcg.HMACSHA256(sealKey, []byte("gangway pantacor ownership key v1\x00"), nil)
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, fmt.Errorf("onboard: %w", err)
	}
	return cipher.NewGCM(block)
}

// owns reports whether `mac` is the ownership proof for `name`. `sealed` is the token's encrypted
// key, as SealOwnershipKey returns it.
func owns(sealKey, sealed []byte, tokenID, name string, mac []byte) (bool, error) {
	if len(sealed) == 0 {
		return false, nil
	}
	key, err := openOwnershipKey(sealKey, sealed, tokenID)
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(wire.OwnershipMAC(key, name), mac) == 1, nil
}

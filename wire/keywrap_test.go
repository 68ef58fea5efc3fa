package wire

import (
	"bytes"
	"crypto/aes"
	"encoding/hex"
	"testing"

	"pgregory.net/rapid"
)

// wrapKey gives the published result of RFC 3394, 4.6: 256 bits of key data under a 256-bit key.
func TestKeyWrapIsThatOfRFC3394(t *testing.T) {
	t.Parallel()
	kek, err := aes.NewCipher(unhex(t, "000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F"))
	if err != nil {
		t.Fatal(err)
	}
	key := [keySize]byte(unhex(t, "00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F"))
	want := unhex(t, "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21")
	wrapped := wrapKey(kek, &key)
	if !bytes.Equal(wrapped[:], want) {
		t.Errorf("wrapped: %x", wrapped)
	}
	if got, err := unwrapKey(kek, want); err != nil || got != key {
		t.Errorf("unwrapped: %x, %v", got, err)
	}
}

func TestRejectsAlteredWrappedKey(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		kek, err := aes.NewCipher(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(r, "kek"))
		if err != nil {
			r.Fatal(err)
		}
		key := [keySize]byte(rapid.SliceOfN(rapid.Byte(), keySize, keySize).Draw(r, "key"))
		wrapped := wrapKey(kek, &key)
		if got, err := unwrapKey(kek, wrapped[:]); err != nil || got != key {
			r.Fatalf("unwrapped %x, %v", got, err)
		}
		wrapped[rapid.IntRange(0, wrappedSize-1).Draw(r, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(r, "bit")
		if got, err := unwrapKey(kek, wrapped[:]); err == nil || got != [keySize]byte{} {
			r.Fatal("unwrapped though it was altered")
		}
		if _, err := unwrapKey(kek, wrapped[:rapid.IntRange(0, wrappedSize-1).Draw(r, "size")]); err == nil {
			r.Fatal("unwrapped though it was cut")
		}
	})
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

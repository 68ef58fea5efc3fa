package tcg

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

func TestHMACIsThatOfTheStandardLibrary(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		key := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(r, "key")
		parts := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 300), 0, 5).Draw(r, "parts")
		for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
			m := hmac.New(h.New, key)
			for _, p := range parts {
				m.Write(p)
			}
			if got := hmacOf(h, key, parts...); !bytes.Equal(got, m.Sum(nil)) {
				r.Fatalf("%v: %x", h, got)
			}
		}
	})
}

// The hub stores KeyHash as a device's permanent identifier. For every kind and size of key, it
// must be the hash of the SubjectPublicKeyInfo that crypto/x509 encodes.
func TestKeyHashIsOfTheSubjectPublicKeyInfo(t *testing.T) {
	t.Parallel()
	check := func(key any) {
		t.Helper()
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := KeyHash(key); err != nil || got != sha256.Sum256(der) {
			t.Errorf("%T: %x, %v", key, got, err)
		}
	}
	for _, c := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		for range 20 {
			k, err := ecdsa.GenerateKey(c, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			check(&k.PublicKey)
		}
	}
	for _, bits := range []int{2040, 2047, 2048, 2049, 3072, 4096} {
		for _, e := range []int{3, 65537, 1<<31 - 1} {
			n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), uint(bits-1)))
			if err != nil {
				t.Fatal(err)
			}
			n.SetBit(n, bits-1, 1)
			check(&rsa.PublicKey{N: n, E: e})
		}
	}
	if _, err := KeyHash("no key"); err == nil {
		t.Error("a string was accepted as a key")
	}
}

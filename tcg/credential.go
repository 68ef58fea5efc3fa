package tcg

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"fmt"
)

// MakeCredential does in software what the command TPM2_MakeCredential does in a TPM (Part 1, 24).
// It encrypts `secret` so that only one TPM can decrypt it with TPM2_ActivateCredential: the TPM
// that has both the endorsement key `ek` and an object with the name `objectName`. `secret` is at
// most as long as a digest of the name algorithm of `ek`.
//
// `credentialBlob` and `encryptedSecret` are the buffers of a TPM2B_ID_OBJECT and of a
// TPM2B_ENCRYPTED_SECRET.
func MakeCredential(ek *Public, objectName, secret []byte) (credentialBlob, encryptedSecret []byte, err error) {
	h, err := ek.NameAlg.Hash()
	if err != nil {
		return nil, nil, err
	}
	if len(secret) > h.Size() {
		return nil, nil, fmt.Errorf("tcg: the credential has %d bytes; at most %d are allowed with this EK", len(secret), h.Size())
	}
	if ek.Symmetric != AlgAES || ek.SymmetricMode != AlgCFB || (ek.SymmetricBits != 128 && ek.SymmetricBits != 256) {
		return nil, nil, errors.New("tcg: the EK's symmetric algorithm is neither AES-128-CFB nor AES-256-CFB")
	}
	seed, encryptedSecret, err := encapsulate(ek, h)
	if err != nil {
		return nil, nil, err
	}
	block, err := aes.NewCipher(kdfa(h, seed, "STORAGE", objectName, int(ek.SymmetricBits)))
	if err != nil {
		return nil, nil, fmt.Errorf("tcg: %w", err)
	}
	size := 2 + h.Size()
	blob := make([]byte, size, size+2+len(secret))
	binary.BigEndian.PutUint16(blob, uint16(h.Size()))
	blob = binary.BigEndian.AppendUint16(blob, uint16(len(secret)))
	blob = append(blob, secret...)
	enc := blob[size:]
	// A zero IV is safe in AES-CFB here, because the key encrypts only this one message.
	var iv [aes.BlockSize]byte
	for at := 0; at < len(enc); at += aes.BlockSize {
		block.Encrypt(iv[:], iv[:])
		for i := at; i < min(at+aes.BlockSize, len(enc)); i++ {
			enc[i] ^= iv[i-at]
			iv[i-at] = enc[i]
		}
	}
	copy(blob[2:], hmacOf(h, kdfa(h, seed, "INTEGRITY", nil, h.Size()*8), enc, objectName))
	return blob, encryptedSecret, nil
}

// encapsulate makes a random seed and encrypts it so that only the TPM with the endorsement key
// `ek` can decrypt the seed (Part 1, B.10.4 for RSA, C.6.4 for ECC). The seed is as long as a
// digest of the name algorithm of `ek`.
func encapsulate(ek *Public, h crypto.Hash) (seed, encrypted []byte, err error) {
	const label = "IDENTITY\x00"
	key, err := ek.Key()
	if err != nil {
		return nil, nil, err
	}
	switch k := key.(type) {
	case *rsa.PublicKey:
		seed = make([]byte, h.Size())
		rand.Read(seed) // never fails
		if encrypted, err = rsa.EncryptOAEP(h.New(), rand.Reader, k, seed, []byte(label)); err != nil {
			return nil, nil, fmt.Errorf("tcg: %w", err)
		}
		return seed, encrypted, nil
	case *ecdsa.PublicKey:
		peer, err := k.ECDH()
		if err != nil {
			return nil, nil, fmt.Errorf("tcg: %w", err)
		}
		ephemeral, err := peer.Curve().GenerateKey(rand.Reader)
		if err != nil {
			return nil, nil, fmt.Errorf("tcg: %w", err)
		}
		z, err := ephemeral.ECDH(peer)
		if err != nil {
			return nil, nil, fmt.Errorf("tcg: %w", err)
		}
		point, static := ephemeral.PublicKey().Bytes()[1:], peer.Bytes()[1:]
		half := len(point) / 2
		x, y := point[:half], point[half:]
		// KDFe (Part 1, 11.4.10.3). One block is enough, because the seed is one digest long.
		d := h.New()
		d.Write([]byte{0, 0, 0, 1})
		d.Write(z)
		d.Write([]byte(label))
		d.Write(x)
		d.Write(static[:half])
		seed = d.Sum(nil)
		encrypted = make([]byte, 0, 4+len(point)) // TPMS_ECC_POINT
		encrypted = append(binary.BigEndian.AppendUint16(encrypted, uint16(half)), x...)
		encrypted = append(binary.BigEndian.AppendUint16(encrypted, uint16(half)), y...)
		return seed, encrypted, nil
	}
	return nil, nil, errors.New("tcg: the key is neither RSA nor ECC")
}

// kdfa is KDFa (Part 1, 11.4.10.2; SP 800-108 in counter mode with HMAC) with an empty contextV.
// `bits` is the length of the result in bits, at most the length of one digest.
func kdfa(h crypto.Hash, key []byte, label string, contextU []byte, bits int) []byte {
	var size [4]byte
	binary.BigEndian.PutUint32(size[:], uint32(bits))
	return hmacOf(h, key, []byte{0, 0, 0, 1}, []byte(label), []byte{0}, contextU, size[:])[:bits/8]
}

// hmacOf returns the HMAC of the concatenated `parts` with the hash `h`.
func hmacOf(h crypto.Hash, key []byte, parts ...[]byte) []byte {
	if h == crypto.SHA256 {
		sum := HMACSHA256(key, parts...)
		return sum[:]
	}
	m := hmac.New(h.New, key)
	m.Write(bytes.Join(parts, nil)) // Join copies the parts, so the compiler can keep them off the heap for SHA-256
	return m.Sum(nil)
}

package luks

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
)

// stripes is the number of pieces into which a key is split (LUKS1's anti-forensic splitter). All
// pieces are needed to recover the key, so overwriting a single piece destroys the key slot.
const stripes = 4000

func split(key []byte) []byte {
	out := make([]byte, stripes*len(key))
	last := len(out) - len(key)
	rand.Read(out[:last])
	subtle.XORBytes(out[last:], key, mix(out[:last], len(key)))
	return out
}

func merge(pieces []byte, size int) []byte {
	last := len(pieces) - size
	key := make([]byte, size)
	subtle.XORBytes(key, pieces[last:], mix(pieces[:last], size))
	return key
}

// mix combines all pieces except the last piece into a single piece.
func mix(pieces []byte, size int) []byte {
	d := make([]byte, size)
	for ; len(pieces) > 0; pieces = pieces[size:] {
		subtle.XORBytes(d, d, pieces[:size])
		diffuse(d)
	}
	return d
}

// diffuse replaces each block of 32 bytes with the SHA-256 of the block's number and the block.
func diffuse(d []byte) {
	for i := 0; i*sha256.Size < len(d); i++ {
		part := d[i*sha256.Size : min((i+1)*sha256.Size, len(d))]
		sum := sha256.Sum256(append(binary.BigEndian.AppendUint32(nil, uint32(i)), part...))
		copy(part, sum[:])
	}
}

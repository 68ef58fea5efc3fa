package swtpmtest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Bus is the bus between a program and a TPM. It records what crosses the bus, as a probe does.
type Bus struct {
	transport.TPM
	Commands []tpm2.TPMCC // in the order in which they crossed the bus
	Honest   int          // number of storage keys that ReplaceStorageKey leaves as they are at first
	bytes    []byte
	alter    func(code tpm2.TPMCC, rsp []byte) []byte
}

// Send implements transport.TPM.
func (b *Bus) Send(cmd []byte) ([]byte, error) {
	code := tpm2.TPMCC(binary.BigEndian.Uint32(cmd[6:])) // after the tag and the size
	b.Commands = append(b.Commands, code)
	rsp, err := b.TPM.Send(cmd)
	b.bytes = append(append(b.bytes, cmd...), rsp...)
	if err == nil && b.alter != nil {
		rsp = b.alter(code, rsp)
	}
	return rsp, err
}

// Alter makes the bus an interposer, which replaces each of the TPM's responses with the result of
// `alter`. The function may change `rsp`, and return it.
func (b *Bus) Alter(alter func(code tpm2.TPMCC, rsp []byte) []byte) {
	b.alter = func(code tpm2.TPMCC, rsp []byte) []byte { return alter(code, bytes.Clone(rsp)) }
}

// Flip makes the bus an interposer, which inverts the bits `bits` of one byte in the TPM's
// responses to a command. The byte is `end` bytes before the end of the response's parameters.
func (b *Bus) Flip(command tpm2.TPMCC, end int, bits byte) {
	b.Alter(func(code tpm2.TPMCC, rsp []byte) []byte {
		if code != command {
			return rsp
		}
		size := len(rsp)
		if binary.BigEndian.Uint16(rsp) == 0x8002 { // TPM_ST_SESSIONS: the authorisations follow the parameters
			size = 14 + int(binary.BigEndian.Uint32(rsp[10:]))
		}
		rsp[size-end] ^= bits
		return rsp
	})
}

// Lack makes the TPM behave like one that does not implement a command.
func (b *Bus) Lack(command tpm2.TPMCC) {
	b.Alter(func(code tpm2.TPMCC, rsp []byte) []byte {
		if code != command {
			return rsp
		}
		rsp = []byte{0x80, 0x01, 0, 0, 0, 10} // TPM_ST_NO_SESSIONS, and the size
		return binary.BigEndian.AppendUint32(rsp, uint32(tpm2.TPMRCCommandCode))
	})
}

// Saw reports whether eight successive bytes of a secret crossed the bus in the clear.
func (b *Bus) Saw(secret []byte) bool {
	for at := 0; at+8 <= len(secret); at++ {
		if bytes.Contains(b.bytes, secret[at:at+8]) {
			return true
		}
	}
	return false
}

// ReplaceStorageKey makes the bus an attacker (an interposer), who replaces the public key of each
// P-256 storage key with the attacker's key. If `name` is true, the attacker replaces the key's
// name too.
func (b *Bus) ReplaceStorageKey(t testing.TB, name bool) {
	t.Helper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := own.PublicKey.Bytes() // 4, x, y
	if err != nil {
		t.Fatal(err)
	}
	const public = 20 // offset in the response: header, handle, size of the parameters, size of the public area
	b.alter = func(code tpm2.TPMCC, rsp []byte) []byte {
		if code != tpm2.TPMCCCreatePrimary || len(rsp) < public {
			return rsp
		}
		if b.Honest > 0 {
			b.Honest--
			return rsp
		}
		end := public + int(binary.BigEndian.Uint16(rsp[public-2:]))
		altered := bytes.Clone(rsp)
		copy(altered[end-66:], point[1:33]) // the area ends with two coordinates of 32 bytes, each after its size
		copy(altered[end-32:], point[33:])
		if bytes.Equal(altered, rsp) {
			t.Error("the interposer did not replace the key")
		}
		if name {
			was, is := sha256.Sum256(rsp[public:end]), sha256.Sum256(altered[public:end])
			if !bytes.Contains(altered, was[:]) {
				t.Error("the response does not have the key's name")
			}
			altered = bytes.ReplaceAll(altered, was[:], is[:])
		}
		return altered
	}
}

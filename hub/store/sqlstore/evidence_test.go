package sqlstore

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"testing"

	"gangway/hub/store"
)

// TestEvidenceIsPackedWithoutLoss packs random evidence. Its fields repeat the row's other values
// (the names), parts of these values, and the bytes that begin an abbreviation.
func TestEvidenceIsPackedWithoutLoss(t *testing.T) {
	t.Parallel()
	for seed := range uint64(600) {
		v := randomEvidence(seed)
		if seed%2 == 0 {
			v.share()
		}
		if seed%10 == 9 { // another encoder packs long evidence
			v.request = bytes.Repeat(v.request, 1+2*shortEvidence/(1+len(v.request)))
		}
		packed := v.pack(seed%4 < 2)
		got := evidence{device: v.device, owner: v.owner, token: v.token, model: v.model, serial: v.serial, iakName: v.iakName, idevidName: v.idevidName, ek: v.ek}
		if err := got.unpack(packed); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if got.hasChain != v.hasChain || got.chain != v.chain {
			t.Fatalf("seed %d: another chain", seed)
		}
		for i, f := range v.fields() {
			want := *f
			if f == &v.ekLinks && v.hasChain {
				want = nil
			}
			if is := *got.fields()[i]; !bytes.Equal(is, want) {
				t.Fatalf("seed %d: field %d is %x, want %x", seed, i, is, want)
			}
		}
	}
}

func randomEvidence(seed uint64) evidence {
	r := rand.New(rand.NewPCG(seed, 1))
	// With only a few different bytes, the row's names also occur in the evidence by chance, and
	// overlap with abbreviations.
	few := []byte{escape, noName, noName + 1, noName + 7, noName + maxNames, 'a', 'b', escape}
	some := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			if b[i] = few[r.IntN(len(few))]; seed%3 == 0 {
				b[i] = byte(r.Uint32())
			}
		}
		return b
	}
	v := evidence{device: string(some(8 + r.IntN(4))), owner: "aaaaaaaa", token: string(some(8)), model: "ab" + string(some(6)), iakName: append([]byte{0, 0xb}, some(32)...), idevidName: append([]byte{0}, some(9)...), ek: store.Hash(some(32))}
	for _, f := range v.fields() {
		for range r.IntN(12) {
			names := v.names(packedS2)
			name := names[r.IntN(len(names))]
			*f = append(append(*f, some(r.IntN(5))...), name[:r.IntN(len(name)+1)]...)
			*f = append(*f, name...)
		}
	}
	return v
}

// unpack returns an error for evidence that is cut off, or whose fields have impossible lengths. It
// must not panic, whatever bytes were changed.
func TestDamagedEvidenceIsAnError(t *testing.T) {
	t.Parallel()
	v := randomEvidence(3)
	v.share()
	r := rand.New(rand.NewPCG(5, 5))
	for _, shared := range []bool{true, false} {
		packed := v.pack(shared)
		for n := range len(packed) {
			if err := new(evidence).unpack(packed[:n]); !errors.Is(err, errBadEvidence) {
				t.Fatalf("the first %d of %d bytes: %v", n, len(packed), err)
			}
		}
		for range 1000 {
			bad := bytes.Clone(packed)
			bad[r.IntN(len(bad))] ^= 1 << r.IntN(8)
			_ = v.unpack(bad) // must not panic
		}
	}
	for name, b := range map[string][]byte{
		"a field longer than the frame": {200, 1},
		"bytes after the last field":    {0, 0, 0, 0, 0, 0, 0, 0},
		"no field":                      {},
		"an unknown abbreviation":       {2, escape, noName + 60, 0, 0, 0, 0, 0, 0},
		"half an abbreviation":          {1, escape},
	} {
		for _, packed := range [][]byte{evidenceEncoder.EncodeAll(b, []byte{packedZstd, 0}), append([]byte{packedS2, 0}, evidenceS2.Encode(nil, b)...)} {
			if err := new(evidence).unpack(packed); !errors.Is(err, errBadEvidence) {
				t.Errorf("%s, form %x: %v", name, packed[0], err)
			}
		}
	}
}

// A small row must not make the hub allocate more than maxEvidence when it is unpacked.
func TestEvidenceOfADecompressionBombIsAnError(t *testing.T) {
	t.Parallel()
	for _, bomb := range [][]byte{
		evidenceEncoder.EncodeAll(make([]byte, maxEvidence+1), []byte{packedZstd, 0}),
		append([]byte{packedS2, 0}, evidenceS2.Encode(nil, make([]byte, maxEvidence+1))...),
		binary.AppendUvarint([]byte{packedS2, 0}, 1<<31), // it claims a length
	} {
		if len(bomb) > 4<<20 {
			t.Fatalf("the bomb has %d bytes", len(bomb))
		}
		if err := new(evidence).unpack(bomb); !errors.Is(err, errBadEvidence) {
			t.Error(err)
		}
	}
	v := evidence{iakName: make([]byte, 1<<10)} // abbreviations that expand to 2 KiB each
	many := bytes.Repeat([]byte{escape, noName + 1}, maxEvidence/(2<<10)+2)
	if _, err := v.expand(packedZstd, many); !errors.Is(err, errBadEvidence) {
		t.Error(err)
	}
}

// The dictionary must not change, because stored rows need it.
func TestEvidenceDictionaryStays(t *testing.T) {
	t.Parallel()
	const want = "39777c979b35e30e016ed2156c7164b673dec0e7ffece51271f788b9707b6419"
	if sum := sha256.Sum256(evidenceWords); hex.EncodeToString(sum[:]) != want {
		t.Errorf("the dictionary has changed: %x", sum)
	}
	v := evidence{device: "0123456789abcdef01234567", owner: "owner of it", token: "token of it", ek: store.Hash{1, 2, 3}, iakName: append([]byte{0, 11}, make([]byte, 32)...)}
	for stored, request := range map[string]string{
		"e10028b52ffd010001e500001401000000002b7d5d7d44206f6620f7822e0002140b227440164f0b":           "The request is signed by the IDevID key of 0123456789abcdef01234567.",
		"e2007010000000002b9ec20b107d5d7d91019a380858206f6620f7822c20454b20f78b2c2049414b20f7892e00": "The request is signed by the IDevID key of 0123456789abcdef01234567, EK 01020300000000000000000000000000, IAK " + string(v.names(packedS2)[8]) + ".",
	} {
		packed, err := hex.DecodeString(stored)
		if err != nil {
			t.Fatal(err)
		}
		if err := v.unpack(packed); err != nil || string(v.request) != request || string(v.verdict) != `{"steps":[{"check":"ownership","ok":true}]}` {
			t.Errorf("%v: %q, %q", err, v.request, v.verdict)
		}
	}
}

package sqlstore

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// TestFramesAreReadWithoutLoss packs contents of many lengths and kinds into frames, and reads the
// frames with package zstd.
func TestFramesAreReadWithoutLoss(t *testing.T) {
	t.Parallel()
	lengths := []int{0, 1, 7, 8, 9, 31, 32, 255, 256, 257, 4095, 4096, 4097, shortEvidence - 1, shortEvidence}
	r := rand.New(rand.NewPCG(7, 7))
	for len(lengths) < 400 {
		lengths = append(lengths, r.IntN(6<<10))
	}
	kinds := map[string]func(n int) []byte{
		"random bytes": func(n int) []byte {
			b := make([]byte, n)
			for i := range b {
				b[i] = byte(r.Uint32())
			}
			return b
		},
		"one byte": func(n int) []byte { return bytes.Repeat([]byte{'x'}, n) },
		"few different bytes": func(n int) []byte {
			b := make([]byte, n)
			for i := range b {
				b[i] = byte(r.IntN(3))
			}
			return b
		},
		"parts of the dictionary": func(n int) (b []byte) {
			for len(b) < n {
				at := r.IntN(len(evidenceWords))
				b = append(b, evidenceWords[at:min(len(evidenceWords), at+r.IntN(300))]...)
				if r.IntN(2) == 0 {
					b = append(b, byte(r.Uint32()))
				}
			}
			return b[:n]
		},
		"repetitions of itself": func(n int) (b []byte) {
			for len(b) < n {
				if len(b) > 0 && r.IntN(3) > 0 {
					at := r.IntN(len(b))
					b = append(b, b[at:min(len(b), at+r.IntN(2000))]...)
				}
				b = append(b, byte(r.Uint32()), byte(r.Uint32()))
			}
			return b[:n]
		},
	}
	for name, make := range kinds {
		for _, n := range lengths {
			content := make(n)
			frame := appendFrame([]byte("before"), content)
			if max := len("before") + n + 12; len(frame) > max {
				t.Fatalf("%s, %d bytes: the frame has %d bytes, more than %d", name, n, len(frame), max)
			}
			got, err := evidenceDecoder.DecodeAll(bytes.TrimPrefix(frame, []byte("before")), nil)
			if err != nil || !bytes.Equal(got, content) {
				t.Fatalf("%s, %d bytes: %v, %d bytes", name, n, err, len(got))
			}
		}
	}
}

// Frames are much smaller than their content, if the content repeats the dictionary or itself.
func TestFramesAreSmall(t *testing.T) {
	t.Parallel()
	words := evidenceWords[3000:7000]
	if n := len(appendFrame(nil, words)); n > 40 {
		t.Errorf("4000 bytes of the dictionary: %d bytes", n)
	}
	random := make([]byte, 500)
	r := rand.New(rand.NewPCG(8, 8))
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	if n := len(appendFrame(nil, bytes.Repeat(random, 8))); n > 540 {
		t.Errorf("500 bytes, 8 times: %d bytes", n)
	}
}

package fleet

import (
	"bytes"
	"iter"
	"math/rand/v2"
)

// Mutations yields `n` altered copies of `good`. No copy equals `good`. Mutations flips bits,
// replaces, removes and doubles bytes, and truncates copies. The same seed gives the same copies.
func Mutations(good []byte, n int, seed uint64) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		r := rand.New(rand.NewPCG(seed, 0))
		for i := 0; i < n; {
			b := bytes.Clone(good)
			at := r.IntN(len(b))
			switch r.IntN(6) {
			case 0, 1:
				b[at] ^= 1 << r.IntN(8)
			case 2:
				b[at] = byte(r.Uint32())
			case 3:
				b = b[:at]
			case 4:
				b = append(b[:at:at], b[min(len(b), at+1+r.IntN(8)):]...)
			case 5:
				b = append(append(b[:at:at], b[at:min(len(b), at+1+r.IntN(8))]...), b[at:]...)
			}
			if bytes.Equal(b, good) {
				continue
			}
			if !yield(i, b) {
				return
			}
			i++
		}
	}
}

package evidence

import (
	"math/big"
	"math/bits"
	"sync"
)

// ROCA (CVE-2017-15361): until 2017, Infineon's RSA library made primes of the form k*M + (65537^a
// mod M), where M is a product of the first primes. The product of two such primes is a power of
// 65537 modulo each prime factor of M, and anyone can factor it. isROCA tests a modulus with the
// primes up to 167, because these primes divide M for every key of 512 bits or more. A modulus of
// another origin passes all these tests with a probability of about 2^-28.

// rocaChunk has some primes and their product, which fits in 64 bits. Dividing a large modulus once
// by this product replaces a division by each of the primes.
type rocaChunk struct {
	product uint64
	primes  []rocaPrime
}

type rocaPrime struct {
	p      uint64
	powers [3]uint64 // bit r is set if r is a power of 65537 modulo p
}

var rocaChunks = sync.OnceValue(rocaTable)

func rocaTable() []rocaChunk {
	var chunks []rocaChunk
	for p := uint64(3); p <= 167; p += 2 {
		if !big.NewInt(int64(p)).ProbablyPrime(0) {
			continue
		}
		prime := rocaPrime{p: p}
		n := uint64(0)
		for r := uint64(1); prime.powers[r/64]>>(r%64)&1 == 0; r = r * 65537 % p {
			prime.powers[r/64] |= 1 << (r % 64)
			n++
		}
		if n == p-1 {
			continue // 65537 generates the whole group, so this prime excludes no modulus
		}
		if k := len(chunks); k > 0 {
			if hi, lo := bits.Mul64(chunks[k-1].product, p); hi == 0 {
				chunks[k-1].product = lo
				chunks[k-1].primes = append(chunks[k-1].primes, prime)
				continue
			}
		}
		chunks = append(chunks, rocaChunk{p, []rocaPrime{prime}})
	}
	return chunks
}

// isROCA reports whether an RSA modulus is a product of two ROCA primes, which anyone can factor.
func isROCA(n *big.Int) bool {
	words := n.Bits()
	for _, c := range rocaChunks() {
		rem := uint64(0)
		for i := len(words) - 1; i >= 0; i-- {
			if bits.UintSize == 64 {
				_, rem = bits.Div64(rem, uint64(words[i]), c.product)
				continue
			}
			_, rem = bits.Div64(rem>>32, rem<<32|uint64(words[i]), c.product)
		}
		for _, p := range c.primes {
			r := rem % p.p
			if p.powers[r/64]>>(r%64)&1 == 0 {
				return false
			}
		}
	}
	return true
}

package bearer

import (
	"crypto/sha256"
	"sync"
)

// verified is a token whose signature, key and issuer were checked. The results of these checks
// stay valid; the caller must check the token's times again.
type verified struct {
	claims Claims
	kid    string
}

// cache remembers tokens that were verified, by their SHA-256. Devices send the same token with
// each request, and the verification takes longer than the rest of a short request. Only tokens
// that the hub signed get into the cache. The cache stores their hashes and claims, and not their
// text.
type cache struct {
	mu         sync.Mutex
	young, old map[[sha256.Size]byte]verified // guarded by mu
}

// maxYoung bounds the cache: it has at most 2*maxYoung tokens, each of about 1 KiB.
const maxYoung = 16384

func (c *cache) get(sum [sha256.Size]byte) (verified, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.young[sum]
	if !ok {
		if v, ok = c.old[sum]; ok {
			c.add(sum, v)
		}
	}
	return v, ok
}

func (c *cache) put(sum [sha256.Size]byte, v verified) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.add(sum, v)
}

// The method `add` adds a token to the map `young`. If this map is full, add drops the map `old`,
// which has the tokens that nobody has used recently, and `young` becomes `old`. The caller holds
// c.mu.
func (c *cache) add(sum [sha256.Size]byte, v verified) {
	if c.young == nil || len(c.young) >= maxYoung {
		c.young, c.old = map[[sha256.Size]byte]verified{}, c.young
	}
	c.young[sum] = v
}

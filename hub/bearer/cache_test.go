package bearer

import (
	"crypto/sha256"
	"encoding/binary"
	"testing"
)

// A person who signs in very often must not fill the hub's memory with tokens.
func TestCacheOfVerifiedTokensIsBounded(t *testing.T) {
	t.Parallel()
	var c cache
	used := sha256.Sum256([]byte("used often"))
	c.put(used, verified{kid: "used"})
	for i := range 5 * maxYoung {
		c.put(sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i))), verified{})
		if i%1000 == 0 {
			if v, ok := c.get(used); !ok || v.kid != "used" {
				t.Fatalf("after %d others, the cache forgot a token in use", i)
			}
		}
	}
	if n := len(c.young) + len(c.old); n > 2*maxYoung {
		t.Errorf("%d tokens", n)
	}
	if _, ok := c.get(sha256.Sum256(binary.BigEndian.AppendUint64(nil, 0))); ok {
		t.Error("a token that nobody uses is still in the cache")
	}
}

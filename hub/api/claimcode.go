package api

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"gangway/hub/store"
	"gangway/wire"
)

const (
	// claimantsFor is how long a hub remembers a machine that displays a claim code. maxClaimants
	// is the largest number of machines that it remembers.
	claimantsFor, maxClaimants = time.Minute, store.MaxTemporary
	// shareAgain is the interval at which a hub writes a machine to the database again, if the
	// machine keeps asking whether somebody has claimed it.
	shareAgain = 20 * time.Second
	// shareAtOnce is the largest number of machines that a hub writes to the database in each
	// interval of the length tellEvery.
	shareAtOnce = 64
	claimKind   = "claim"
)

// claimant is a machine that displays a claim code.
type claimant struct {
	code, addr string
	asked      time.Time
	shared     time.Time // when the hub last wrote the machine to the database
}

// claimants holds the machines that asked the hub within claimantsFor whether somebody has claimed
// them, by the short forms of their claim codes (see wire.ClaimWords). A hub with replicas also
// stores these machines in the database, for the same time.
type claimants struct {
	mu      sync.Mutex
	byWords map[string]claimant
}

// The method `note` remembers that a machine asked whether somebody has claimed it. If there are
// maxClaimants machines, it forgets the machine that asked longest ago.
func (c *claimants) note(code, addr string, now time.Time) {
	words := wire.ClaimWords(code)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byWords == nil {
		c.byWords = map[string]claimant{}
	}
	was, known := c.byWords[words]
	if !known && len(c.byWords) >= maxClaimants {
		oldest := ""
		for w, one := range c.byWords {
			if oldest == "" || one.asked.Before(c.byWords[oldest].asked) {
				oldest = w
			}
		}
		delete(c.byWords, oldest)
	}
	c.byWords[words] = claimant{code, addr, now, was.shared}
}

// The method `find` returns the machine with this short form of its code, if the machine asked
// within claimantsFor.
func (c *claimants) find(words string, now time.Time) (claimant, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	one, ok := c.byWords[words]
	if ok && now.Sub(one.asked) > claimantsFor {
		delete(c.byWords, words)
		ok = false
	}
	return one, ok
}

// unshared returns at most shareAtOnce machines that the hub should write to the database, by the
// short forms of their codes: machines that it has not written yet, or that asked again at least
// shareAgain after the last write.
func (c *claimants) unshared(now time.Time) map[string]claimant {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := map[string]claimant{}
	for words, one := range c.byWords {
		if now.Sub(one.asked) > claimantsFor {
			delete(c.byWords, words)
			continue
		}
		if len(list) < shareAtOnce && one.asked.Sub(one.shared) >= shareAgain {
			list[words] = one
		}
	}
	return list
}

func (c *claimants) share(list map[string]claimant, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for words := range list {
		if one, ok := c.byWords[words]; ok {
			one.shared = now
			c.byWords[words] = one
		}
	}
}

// claimVault encrypts claim codes for the database, so that whoever sees the database or a backup
// of it learns neither a code nor its short form.
type claimVault struct {
	mac  []byte
	aead cipher.AEAD
}

func newClaimVault(seal []byte) (v claimVault, err error) {
	keys, err := hkdf.Key(sha256.New, seal, nil, "gangway claim codes v1", 64)
	if err != nil {
		return v, err
	}
	block, err := aes.NewCipher(keys[32:])
	if err != nil {
		return v, err
	}
	v.mac = keys[:32]
	v.aead, err = cipher.NewGCMWithRandomNonce(block)
	return v, err
}

// key returns the database key for the claim code with this short form.
func (v claimVault) key(words string) []byte {
	m := hmac.New(sha256.New, v.mac)
	m.Write([]byte(words))
	return m.Sum(nil)
}

type sharedClaimant struct {
	Code  string    `json:"code"`
	Addr  string    `json:"addr"`
	Asked time.Time `json:"asked"`
}

func (v claimVault) seal(words string, c claimant) (store.Temporary, error) {
	text, err := json.Marshal(sharedClaimant{c.code, c.addr, c.asked})
	key := v.key(words)
	return store.Temporary{Key: key, Value: v.aead.Seal(nil, nil, text, key)}, err
}

func (v claimVault) open(key, value []byte) (c claimant, err error) {
	text, err := v.aead.Open(nil, nil, value, key)
	if err != nil {
		return c, err
	}
	var one sharedClaimant
	if err := json.Unmarshal(text, &one); err != nil {
		return c, err
	}
	return claimant{code: one.Code, addr: one.Addr, asked: one.Asked}, nil
}

// shareClaimants writes the machines that display a claim code to the database, so that the other
// replicas find them.
func (s *Server) shareClaimants(ctx context.Context) {
	now := s.cfg.Now()
	list := s.claimants.unshared(now)
	if len(list) == 0 {
		return
	}
	var values []store.Temporary
	for words, one := range list {
		value, err := s.vault.seal(words, one)
		if err != nil {
			continue // strings and times can always be encoded
		}
		values = append(values, value)
	}
	if err := s.cfg.Store.PutTemporary(ctx, claimKind, values, claimantsFor); err != nil {
		if ctx.Err() == nil {
			s.log.Warn("could not share claim codes with the other replicas; the hub tries again", "err", err)
		}
		return
	}
	s.claimants.share(list, now)
}

// findClaimant returns the machine with this short form of its code, if the machine asked this hub
// or one of its replicas within claimantsFor.
func (s *Server) findClaimant(ctx context.Context, words string) (claimant, bool) {
	one, ok := s.claimants.find(words, s.cfg.Now())
	if ok || !s.cfg.Replicas {
		return one, ok
	}
	key := s.vault.key(words)
	value, err := s.cfg.Store.Temporary(ctx, claimKind, key)
	if err == nil {
		one, err = s.vault.open(key, value)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		s.log.Error("could not read a claim code of another replica", "err", err)
	}
	return one, err == nil && wire.ClaimWords(one.code) == words
}

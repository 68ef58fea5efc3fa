package api

import (
	"context"
	"net/http"
	"time"

	"golang.org/x/time/rate"
)

// Unlimited disables the rate limits, for tests that are not about these limits.
func (s *Server) Unlimited() {
	for _, name := range []string{signInRate, registerRate, claimRate, signatureRate, onboardRate} {
		s.limiters[name].unlimited()
	}
	s.boots.unlimited()
}

func (l *limiter[K]) unlimited() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.every, l.burst = rate.Inf, 1
	clear(l.clients)
}

// realPasswordCost is the cost of hashing a password in a real hub. The tests of this package use a
// lower cost.
var realPasswordCost = passwordCost

func init() { passwordCost = argonCost{passes: 1, memory: 64} }

// HashAtRealCost hashes a password as HashPassword does outside of this package's tests.
func HashAtRealCost(password string) (string, error) { return hashPassword(password, realPasswordCost) }

// VerifyPassword reports whether `hash` is the hash of the password.
func VerifyPassword(password, hash string) (bool, error) { return verifyPassword(password, hash) }

// RealPasswordCost gives the decoy hash the cost of a real hub, and returns the decoy hash. If
// somebody tries to sign in to an account that does not exist, the hub checks the password with the
// decoy hash, so that this check takes as long as the check for a real account.
func (s *Server) RealPasswordCost() string {
	s.passwords.decoy = decoy(realPasswordCost)
	return s.passwords.decoy
}

// FlushCounters writes the counts of frequent events.
func (s *Server) FlushCounters(ctx context.Context) { s.flushCounters(ctx) }

// SweepOnce removes the rows that have expired or are too old.
func (s *Server) SweepOnce(ctx context.Context) { s.sweepOnce(ctx) }

// Maximum numbers of rows that unproven peers may add to the audit trail.
const (
	CrowdOfNobody = unprovenOfNobody
	CrowdADay     = unprovenOfAll + 4*24*60
)

// Claimants returns the number of machines with a claim code that the hub remembers.
func (s *Server) Claimants() int {
	s.claimants.mu.Lock()
	defer s.claimants.mu.Unlock()
	return len(s.claimants.byWords)
}

// FreshReadings makes the hub read the values of its metrics at each scrape, without a cache. It
// also makes the hub believe that a time server sets the clock, so the clock of the machine that
// runs the tests does not matter.
func (s *Server) FreshReadings() {
	s.gauge.mu.Lock()
	defer s.gauge.mu.Unlock()
	s.gauge.age = 0
	s.gauge.clock = func() (unset, known bool) { return false, true }
}

// ScanAgain is the time after which the hub repeats a scan that found devices whose certificates
// are no longer trusted.
const ScanAgain = scanAgain

// ScanTrust examines about `most` devices after a change of trust. It returns the number of devices
// that it found to be no longer trusted, and whether the scan has ended.
func (s *Server) ScanTrust(ctx context.Context, most int) (found int, done bool, err error) {
	if err := s.scanTrust(ctx, most); err != nil {
		return 0, false, err
	}
	t, err := s.trustScan(ctx)
	return t.Found, t.Done, err
}

// Panic answers a request with a handler that panics.
func (s *Server) Panic(w http.ResponseWriter, r *http.Request) {
	s.secured(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("test") })).ServeHTTP(w, r)
}

// Work does the periodic work once, as if the hub had run for a day.
func (s *Server) Work(ctx context.Context) { s.work(ctx, s.cfg.Now().Add(-24*time.Hour)) }

package hub

import "golang.org/x/time/rate"

// Unlimited lets tests call as often as they like; what is limited has its own
// tests.
func (s *Server) Unlimited() {
	for _, l := range []*limiter{s.logins, s.registrations, s.claims, s.signatures, s.onboards} {
		l.mu.Lock()
		l.every, l.burst = rate.Inf, 1
		clear(l.clients)
		l.mu.Unlock()
	}
}

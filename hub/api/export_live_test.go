package api

import "time"

// LiveBeat sets the interval at which the hub checks the session of each stream of live changes.
func (s *Server) LiveBeat(d time.Duration) {
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	s.live.beat = d
}

// Listeners returns the number of open streams of live changes.
func (s *Server) Listeners() int {
	s.live.mu.Lock()
	defer s.live.mu.Unlock()
	return s.live.n
}

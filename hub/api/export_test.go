package api

import (
	"context"

	"golang.org/x/time/rate"
)

// Unlimited lets tests call as often as they like; what is limited has its own
// tests.
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

// FlushTally writes the counts of frequent events.
func (s *Server) FlushTally(ctx context.Context) { s.flushCounters(ctx) }

// SweepOnce removes what has expired or is too old.
func (s *Server) SweepOnce(ctx context.Context) { s.sweepOnce(ctx) }

// Bounds of what unproven peers make the trail grow by.
const (
	CrowdOfNobody = unprovenOfNobody
	CrowdADay     = unprovenOfAll + 4*24*60
)

package api

import (
	"context"
	"time"

	"gangway/hub/store"
)

const (
	// DefaultEventsAge is how long the audit trail keeps events.
	DefaultEventsAge = 2 * 365 * 24 * time.Hour
	// DefaultUnprovenAge is how long it keeps events of peers that had proven
	// nothing.
	DefaultUnprovenAge = 30 * 24 * time.Hour

	sweepEvery = time.Minute
	// sweepRows and sweepRounds bound what one sweep removes of a kind: other
	// writers wait for no more than sweepRows.
	sweepRows   = 1000
	sweepRounds = 60
)

// sweep removes what has expired or is too old, every minute until ctx ends.
func (s *Server) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.sweepOnce(ctx)
		}
	}
}

func (s *Server) sweepOnce(ctx context.Context) {
	now, st := s.cfg.Now(), s.cfg.Store
	unproven, all := now.Add(-s.cfg.UnprovenAge), time.Time{}
	if s.cfg.EventsAge > 0 {
		all = now.Add(-s.cfg.EventsAge)
	}
	for _, part := range []struct {
		what   string
		remove func(limit int) (int, error)
	}{
		{"enrolments that nobody activated", func(n int) (int, error) { return st.ExpireEnrolments(ctx, now, n) }},
		{"expired enrolments", func(n int) (int, error) {
			return st.RemoveExpiredEnrolments(ctx, now.Add(-store.ExpiredFor), store.MaxExpired, n)
		}},
		{"devices that nobody claims", func(n int) (int, error) { return st.RemoveUnclaimed(ctx, now.Add(-unclaimedFor), n) }},
		{"AIK certificates of first steps", func(n int) (int, error) { return st.ExpireIssuedAIKs(ctx, now, n) }},
		{"machines that wait", func(n int) (int, error) { return st.ExpireWaitingDevices(ctx, now, n) }},
		{"EK certificates of EKs that are not proven", func(n int) (int, error) { return st.ExpireEKCertificates(ctx, now, n) }},
		{"old events", func(n int) (int, error) { return st.RemoveEvents(ctx, unproven, all, n) }},
	} {
		for range sweepRounds {
			n, err := part.remove(sweepRows)
			if err != nil && ctx.Err() == nil {
				s.log.Error("removing what is too old", "what", part.what, "err", err)
			}
			if err != nil || n < sweepRows {
				break
			}
		}
	}
}

package api

import (
	"context"
	"time"

	"gangway/hub/store"
)

const (
	// DefaultEventsAge is how long the audit trail keeps events.
	DefaultEventsAge = 2 * 365 * 24 * time.Hour
	// DefaultUnprovenAge is how long the audit trail keeps events caused by peers that had not
	// proven anything.
	DefaultUnprovenAge = 30 * 24 * time.Hour

	sweepEvery = time.Minute
	// One sweep removes at most sweepRounds batches of sweepRows rows of each kind. Other writers
	// wait for at most one batch.
	sweepRows   = 1000
	sweepRounds = 60
)

// sweep removes expired and old rows, every minute until ctx ends.
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
		{"enrolments that were not activated", func(n int) (int, error) { return st.ExpireEnrolments(ctx, now, n) }},
		{"expired enrolments", func(n int) (int, error) {
			return st.RemoveExpiredEnrolments(ctx, now.Add(-store.ExpiredFor), store.MaxExpired, n)
		}},
		{"devices that were not claimed", func(n int) (int, error) { return st.RemoveUnclaimed(ctx, now.Add(-unclaimedLife), n) }},
		{"AIK certificates of unfinished two-step enrolments", func(n int) (int, error) { return st.ExpireIssuedAIKs(ctx, now, n) }},
		{"waiting devices", func(n int) (int, error) { return st.ExpireWaitingDevices(ctx, now, n) }},
		{"EK certificates of unproven EKs", func(n int) (int, error) { return st.ExpireEKCertificates(ctx, now, n) }},
		{"old events", func(n int) (int, error) { return st.RemoveEvents(ctx, unproven, all, n) }},
	} {
		for range sweepRounds {
			n, err := part.remove(sweepRows)
			if err != nil && ctx.Err() == nil {
				s.log.Error("removing expired rows", "what", part.what, "err", err)
			}
			if err != nil || n < sweepRows {
				break
			}
		}
	}
}

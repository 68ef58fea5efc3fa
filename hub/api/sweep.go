package api

import (
	"context"
	"time"

	"gangway/hub/store"
)

const (
	// DefaultEventsAge is how long the audit trail keeps events.
	DefaultEventsAge = 2 * 365 * 24 * time.Hour
	// DefaultUnprovenAge is how long the audit trail keeps events caused by peers that did not
	// prove an identity.
	DefaultUnprovenAge = 30 * 24 * time.Hour

	sweepEvery = time.Minute
	// Of each kind of row, one sweep removes at most sweepRounds batches of sweepRows rows. Other
	// writers wait for at most one batch.
	sweepRows   = 1000
	sweepRounds = 60
)

// sweep does the periodic work, such as removing expired rows, every minute until ctx ends. If
// there are several replicas, only one of them does the work.
func (s *Server) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	var up uptime
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.work(ctx, up.since(s.cfg.Now()))
		}
	}
}

// work does the periodic work once, if this hub holds the lease. `up` is the time since which the
// hub has run without a long pause.
func (s *Server) work(ctx context.Context, up time.Time) {
	duty, ok := s.lease.duty(ctx)
	if !ok {
		return
	}
	s.sweepOnce(duty)
	s.packEvidence(duty)
	s.markQuiet(duty, up)
	s.judgeStale(duty)
	s.watch(duty)
	// Ping fails if this hub has lost the lease in the database. The work above may then have had
	// no effect, so do not record that it was done.
	if s.cfg.Store.Ping(duty) == nil {
		s.worked.set(s.cfg.Now())
	}
}

// packRows is the number of enrolments that packEvidence rewrites in one transaction. At
// sweepRounds transactions in each sweep, a million enrolments take a little more than an hour.
const packRows = 250

// packEvidence rewrites enrolments that were stored by an earlier version of the hub, so that they
// need less space.
func (s *Server) packEvidence(ctx context.Context) {
	for range sweepRounds {
		more, err := s.cfg.Store.PackEvidence(ctx, packRows)
		if err != nil && !interrupted(ctx, err) {
			s.log.Error("packing the evidence of enrolments", "err", err)
		}
		if err != nil || !more {
			return
		}
	}
}

// uptime measures for how long the hub has been running without a long pause.
type uptime struct{ begun, last time.Time }

// The method `since` records that the hub is running at the time `now`. It returns the time since
// which the hub has run without a long pause. If the hub's machine slept between two calls, that
// time is `now`, as after a start of the hub.
func (u *uptime) since(now time.Time) time.Time {
	if pause := now.Sub(u.last); pause < 0 || pause > 5*sweepEvery {
		u.begun = now
	}
	u.last = now
	return u.begun
}

// markQuiet marks the devices from which the hub has not heard for store.QuietAfter. A hub that is
// down cannot hear from any device, so it marks devices only after it has run for store.QuietAfter.
func (s *Server) markQuiet(ctx context.Context, up time.Time) {
	before := s.cfg.Now().Add(-store.QuietAfter)
	if before.Before(up) {
		return
	}
	n, err := s.cfg.Store.MarkQuiet(ctx, before, sweepRows*sweepRounds)
	if n > 0 {
		s.live.tellAll()
	}
	if err != nil && !interrupted(ctx, err) {
		s.log.Error("marking quiet devices", "err", err)
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
			if err != nil && !interrupted(ctx, err) {
				s.log.Error("removing expired rows", "what", part.what, "err", err)
			}
			if err != nil || n < sweepRows {
				break
			}
		}
	}
}

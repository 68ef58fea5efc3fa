package hub

import (
	"context"
	"sync"
	"time"

	"gangway/store"
)

// record appends to the audit trail, with who did it; what cannot be written is
// reported.
func (s *Server) record(ctx context.Context, e store.Event) {
	if err := s.cfg.Store.AppendEvent(ctx, e.By(store.ActorIn(ctx))); err != nil {
		s.log.Error("audit trail", "kind", e.Kind, "err", err)
	}
}

// count is record for what devices, or anybody, may cause often. Events that
// differ only in time, address and message are one row a day, with their
// number: see store.CountEvents.
func (s *Server) count(ctx context.Context, e store.Event) {
	if first := s.tally.add(e.By(store.ActorIn(ctx))); first != nil {
		if err := s.cfg.Store.CountEvents(ctx, []store.Event{*first}); err != nil {
			s.log.Error("audit trail", "kind", e.Kind, "err", err)
		}
	}
}

// tallyEvery is how often counts are written. A crash loses younger ones.
const tallyEvery = time.Minute

// maxTally bounds the memory of a tally; past it, each event is written at once.
const maxTally = 65536

// tally holds counts between two writes. The first event of a kind is written
// at once, so that it shows; those that follow wait here.
type tally struct {
	mu   sync.Mutex
	held map[store.Event]*store.Event // guarded by mu; by what makes events alike, with the day as Time
}

// add returns the event if it is to be written now.
func (t *tally) add(e store.Event) (first *store.Event) {
	key := e
	key.Time, key.Addr, key.Message = e.Time.UTC().Truncate(24*time.Hour), "", ""
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held == nil {
		t.held = make(map[store.Event]*store.Event)
	}
	held, ok := t.held[key]
	switch {
	case !ok && len(t.held) >= maxTally:
		return &e
	case !ok:
		t.held[key] = nil
		return &e
	case held == nil:
		e.Count, e.Last = 1, e.Time
		t.held[key] = &e
	default:
		held.Count++
		held.Last, held.Addr, held.Message = e.Time, e.Addr, e.Message
	}
	return nil
}

// take returns what waits to be written, and forgets the days before now's.
func (t *tally) take(now time.Time) (events []store.Event) {
	today := now.UTC().Truncate(24 * time.Hour)
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, held := range t.held {
		if held != nil {
			events = append(events, *held)
			t.held[key] = nil
		}
		if key.Time.Before(today) {
			delete(t.held, key)
		}
	}
	return events
}

// flushTally writes the counts, some hundred at a time so as not to hold up
// other writers.
func (s *Server) flushTally(ctx context.Context) {
	events := s.tally.take(s.cfg.Now())
	for len(events) > 0 {
		n := min(len(events), 256)
		if err := s.cfg.Store.CountEvents(ctx, events[:n]); err != nil {
			s.log.Error("audit trail: counts are lost", "events", n, "err", err)
		}
		events = events[n:]
	}
}

// tallying writes the counts until ctx ends, and once more then.
func (s *Server) tallying(ctx context.Context) {
	tick := time.NewTicker(tallyEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.flushTally(ctx)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			s.flushTally(last)
			return
		}
	}
}

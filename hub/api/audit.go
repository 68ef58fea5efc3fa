package api

import (
	"context"
	"strings"
	"sync"
	"time"

	"gangway/hub/store"

	"golang.org/x/time/rate"
)

// record appends an event to the audit trail, with the request's actor. If this fails, the hub only
// logs the error.
func (s *Server) record(ctx context.Context, e store.Event) {
	s.live.tell(e)
	if err := s.cfg.Store.AppendEvent(ctx, e.By(store.ActorIn(ctx))); err != nil {
		s.log.Error("audit trail", "kind", e.Kind, "err", err)
	}
}

// The method `count` is like the method `record`, but for events that devices and people may cause
// often. Events that differ only in time, address and message share one row a day. The row has the
// number of these events: see store.AppendCounted. An event without an owner is passed to
// recordUnproven.
func (s *Server) count(ctx context.Context, e store.Event) {
	if e.Owner == "" {
		s.recordUnproven(ctx, e)
		return
	}
	s.live.tell(e)
	s.write(ctx, s.counters.add(e.By(store.ActorIn(ctx)), 0))
}

// recordOrCount writes a separate row for each of the first ownRows equal events of a day, and
// counts the later ones in one shared row. Events are equal if they differ only in time, address
// and message.
func (s *Server) recordOrCount(ctx context.Context, e store.Event) {
	if e.Owner == "" {
		s.recordUnproven(ctx, e)
		return
	}
	s.live.tell(e)
	s.write(ctx, s.counters.add(e.By(store.ActorIn(ctx)), ownRows))
}

// recordUnproven is like the method `record`, but for an event that a peer caused without proving
// an identity. The event may be in any account's audit trail. unprovenLimiter bounds the number of
// rows that all such peers together can cause, whatever they send.
func (s *Server) recordUnproven(ctx context.Context, e store.Event) {
	e = e.By(store.ActorIn(ctx))
	e.Unproven = true
	if e.Kind == "device.waiting" {
		s.live.tell(e)
	}
	if len(e.Message) > maxUnprovenMessage {
		e.Message = strings.ToValidUTF8(e.Message[:maxUnprovenMessage], "") + "..."
	}
	s.write(ctx, s.counters.addUnproven(e))
}

// write writes the event `e`, which a method of eventCounters returned, into the database. If this
// fails, the next flush writes the event.
func (s *Server) write(ctx context.Context, e *store.Event) {
	if e == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), countTimeout)
	defer cancel()
	var err error
	if e.Count == 0 {
		err = s.cfg.Store.AppendEvent(ctx, *e)
	} else {
		err = s.cfg.Store.AppendCounted(ctx, []store.Event{*e})
	}
	if err != nil {
		s.log.Error("audit trail: could not write an event; the hub tries again with the next flush", "kind", e.Kind, "err", err)
		s.counters.putBack([]store.Event{*e})
	}
}

// countTimeout bounds how long a request waits for its event to be counted. If the store does not
// accept the event in that time, the request continues.
const countTimeout = 2 * time.Second

// flushEvery is the interval at which the hub writes the counters to the database. A crash loses
// the counts since the last flush.
const flushEvery = time.Minute

const (
	// maxCounters bounds the memory of eventCounters. When the bound is reached, events without a
	// counter are written immediately.
	maxCounters = 65536
	// ownRows is how many equal events of a day get a separate row each.
	ownRows = 20
	// maxUnprovenMessage bounds the message of an unproven peer's event, in bytes.
	maxUnprovenMessage = 400
)

// eventCounters counts equal events between two flushes. The first of several equal events is
// written immediately, so that people see it. The later events wait here for the next flush.
type eventCounters struct {
	mu       sync.Mutex
	byKey    map[store.Event]*eventCounter // guarded by mu; the keys are results of counterKey
	unproven unprovenLimiter
}

// eventCounter counts the equal events of a day.
type eventCounter struct {
	rows    int          // how many events were recorded in a separate row each
	pending *store.Event // the event with its Count, which the next flush writes; nil: none
}

// The method `add` counts an event. It returns nil if the event waits for the next flush. If it
// returns an event, the caller must write this event now. `own` is the number of equal events of a
// day that get a separate row each, without a Count. Later equal events share one row with a Count.
func (t *eventCounters) add(e store.Event, own int) *store.Event {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.put(e, own)
}

// addUnproven is like the method `add`, but for an event of an unproven peer.
func (t *eventCounters) addUnproven(e store.Event) *store.Event {
	t.mu.Lock()
	defer t.mu.Unlock()
	apart := e
	apart.Group = e.Time.UTC().Format("2006-01-02T15 ") + network(e.Addr).String()
	if _, counted := t.byKey[counterKey(apart)]; !counted && !t.unproven.admits(e.Owner, e.Time) {
		apart = store.Event{Time: e.Time, Kind: e.Kind, Code: e.Code, Owner: e.Owner, Addr: e.Addr, Message: e.Message, Unproven: true, Group: "crowd"}
	}
	return t.put(apart, 0)
}

// counterKey returns `e` without the fields in which equal events may differ, and with its Time
// truncated to the day.
func counterKey(e store.Event) store.Event {
	e.Time, e.Addr, e.Message, e.Count, e.Last = e.Time.UTC().Truncate(24*time.Hour), "", "", 0, time.Time{}
	return e
}

func (t *eventCounters) put(e store.Event, own int) *store.Event {
	if t.byKey == nil {
		t.byKey = make(map[store.Event]*eventCounter)
	}
	key := counterKey(e)
	c, known := t.byKey[key]
	if !known && len(t.byKey) < maxCounters {
		c = new(eventCounter)
		t.byKey[key] = c
	}
	switch {
	case c == nil:
		e.Count, e.Last = 1, e.Time
		return &e
	case c.rows < own:
		c.rows++
		return &e
	case c.rows == own: // the first event that shares a row with later events
		c.rows++
		e.Count, e.Last = 1, e.Time
		return &e
	case c.pending == nil:
		e.Count, e.Last = 1, e.Time
		c.pending = &e
	default:
		c.pending.Count++
		c.pending.Last, c.pending.Addr, c.pending.Message = e.Time, e.Addr, e.Message
	}
	return nil
}

// The method `take` returns the events that wait for a write. It drops the counters of all days
// before the day of `now`.
func (t *eventCounters) take(now time.Time) (events []store.Event) {
	today := now.UTC().Truncate(24 * time.Hour)
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, c := range t.byKey {
		if c.pending != nil {
			events = append(events, *c.pending)
			c.pending = nil
		}
		if key.Time.Before(today) {
			delete(t.byKey, key)
		}
	}
	return events
}

// putBack keeps events that the hub could not write to the database, so that the next flush writes
// these events.
func (t *eventCounters) putBack(events []store.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byKey == nil {
		t.byKey = make(map[store.Event]*eventCounter)
	}
	for _, e := range events {
		if e.Count == 0 {
			e.Count, e.Last = 1, e.Time
		}
		key := counterKey(e)
		c := t.byKey[key]
		if c == nil && len(t.byKey) >= maxCounters {
			continue // the method `write` has logged the failure
		}
		if c == nil {
			c = new(eventCounter)
			t.byKey[key] = c
		}
		if later := c.pending; later != nil {
			e.Count += later.Count
			e.Last, e.Addr, e.Message = later.Last, later.Addr, later.Message
		}
		c.pending = &e
	}
}

// These constants bound how many rows peers without a proven identity can add to audit trails. Each
// constant is the size of a burst, and its comment gives the rate after the burst.
const (
	unprovenOfNobody = 16 // rows in the operator's trail, then 1 row a minute
	unprovenOfOwner  = 64 // rows in each owner's trail, then 1 row a minute
	unprovenOfAll    = 64 // rows in all trails together, then 4 rows a minute
)

// unprovenLimiter bounds how many rows peers without a proven identity can add to audit trails.
// Until a bound is reached, equal events share one row for each hour and network. From then on, all
// events with the same kind, code and trail share one row a day.
type unprovenLimiter struct {
	nobodys *limiter[struct{}]
	owners  *limiter[string]
	all     *limiter[struct{}]
}

func newUnprovenLimiter() unprovenLimiter {
	return unprovenLimiter{
		nobodys: newLimiter[struct{}](rate.Every(time.Minute), unprovenOfNobody),
		owners:  newLimiter[string](rate.Every(time.Minute), unprovenOfOwner),
		all:     newLimiter[struct{}](rate.Every(time.Minute/4), unprovenOfAll),
	}
}

func (c *unprovenLimiter) admits(owner string, now time.Time) bool {
	own := c.owners.allow
	if owner == "" {
		own = func(string, time.Time) bool { return c.nobodys.allow(struct{}{}, now) }
	}
	return own(owner, now) && c.all.allow(struct{}{}, now)
}

// flushCounters writes the counts in batches, so that other writers wait only for one batch.
func (s *Server) flushCounters(ctx context.Context) {
	events := s.counters.take(s.cfg.Now())
	for len(events) > 0 {
		n := min(len(events), 256)
		if err := s.cfg.Store.AppendCounted(ctx, events[:n]); err != nil {
			s.log.Error("audit trail: could not write counts of events; the hub tries again with the next flush", "events", len(events), "err", err)
			s.counters.putBack(events)
			return
		}
		events = events[n:]
	}
}

// flushLoop writes the counts regularly until ctx ends, and then a last time.
func (s *Server) flushLoop(ctx context.Context) {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.flushCounters(ctx)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			s.flushCounters(last)
			return
		}
	}
}

package api

import (
	"context"
	"strings"
	"sync"
	"time"

	"gangway/hub/store"

	"golang.org/x/time/rate"
)

// record appends to the audit trail, with who did it; what cannot be written is
// reported.
func (s *Server) record(ctx context.Context, e store.Event) {
	if err := s.cfg.Store.AppendEvent(ctx, e.By(store.ActorIn(ctx))); err != nil {
		s.log.Error("audit trail", "kind", e.Kind, "err", err)
	}
}

// count is record for what devices and people may cause often. Events that
// differ only in time, address and message are one row a day, with their
// number: see store.AppendCounted. Those that are in nobody's trail are unproven.
func (s *Server) count(ctx context.Context, e store.Event) {
	if e.Owner == "" {
		s.unproven(ctx, e)
		return
	}
	s.write(ctx, s.tally.add(e.By(store.ActorIn(ctx)), 0))
}

// often is count for what is worth a row of its own, as long as it does not
// come too often: the first few of a day are recorded, the others counted.
func (s *Server) often(ctx context.Context, e store.Event) {
	if e.Owner == "" {
		s.unproven(ctx, e)
		return
	}
	s.write(ctx, s.tally.add(e.By(store.ActorIn(ctx)), ownRows))
}

// unproven is record for what a peer causes that has proven nothing, in whosever
// trail it is. How many rows these make is bounded, whoever sends whatever from
// however many addresses: see crowd.
func (s *Server) unproven(ctx context.Context, e store.Event) {
	e = e.By(store.ActorIn(ctx))
	e.Unproven = true
	if len(e.Message) > maxUnprovenMessage {
		e.Message = strings.ToValidUTF8(e.Message[:maxUnprovenMessage], "") + "..."
	}
	s.write(ctx, s.tally.addUnproven(e))
}

// write writes an event that the tally returned. One that cannot be written is
// counted with the next ones.
func (s *Server) write(ctx context.Context, e *store.Event) {
	if e == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), countFor)
	defer cancel()
	var err error
	if e.Count == 0 {
		err = s.cfg.Store.AppendEvent(ctx, *e)
	} else {
		err = s.cfg.Store.AppendCounted(ctx, []store.Event{*e})
	}
	if err != nil {
		s.log.Error("audit trail: tried again later", "kind", e.Kind, "err", err)
		s.tally.putBack([]store.Event{*e})
	}
}

// countFor bounds how long a request waits for its count: it goes on while
// nothing can be written.
const countFor = 2 * time.Second

// tallyEvery is how often counts are written. A crash loses younger ones.
const tallyEvery = time.Minute

const (
	// maxTally bounds the memory of a tally; past it, each event is written at once.
	maxTally = 65536
	// ownRows is how many events that are alike have rows of their own in a day.
	ownRows = 20
	// maxUnprovenMessage bounds what a stranger may have said in a trail, in bytes.
	maxUnprovenMessage = 400
)

// tally holds counts between two writes. The first event of a kind is written
// at once, so that it shows; those that follow wait here.
type tally struct {
	mu    sync.Mutex
	held  map[store.Event]*alike // guarded by mu; by what makes events alike, with the day as Time
	crowd crowd
}

// alike are events of a day that are alike.
type alike struct {
	rows int          // how many were recorded in rows of their own
	held *store.Event // what is to be counted
}

// add returns the event if it is to be written now: with a Count if it is to be
// counted. The first own events of a day are to be recorded.
func (t *tally) add(e store.Event, own int) *store.Event {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.put(e, own)
}

// addUnproven is add for what peers cause that have proven nothing.
func (t *tally) addUnproven(e store.Event) *store.Event {
	t.mu.Lock()
	defer t.mu.Unlock()
	apart := e
	apart.Group = e.Time.UTC().Format("2006-01-02T15 ") + network(e.Addr).String()
	if _, counted := t.held[alikeAs(apart)]; !counted && !t.crowd.admits(e.Owner, e.Time) {
		apart = store.Event{Time: e.Time, Kind: e.Kind, Code: e.Code, Owner: e.Owner, Addr: e.Addr, Message: e.Message, Unproven: true, Group: "crowd"}
	}
	return t.put(apart, 0)
}

// alikeAs is what an event has in common with those that are alike.
func alikeAs(e store.Event) store.Event {
	e.Time, e.Addr, e.Message, e.Count, e.Last = e.Time.UTC().Truncate(24*time.Hour), "", "", 0, time.Time{}
	return e
}

func (t *tally) put(e store.Event, own int) *store.Event {
	if t.held == nil {
		t.held = make(map[store.Event]*alike)
	}
	key := alikeAs(e)
	is, known := t.held[key]
	if !known && len(t.held) < maxTally {
		is = new(alike)
		t.held[key] = is
	}
	switch {
	case is == nil:
		e.Count, e.Last = 1, e.Time
		return &e
	case is.rows < own:
		is.rows++
		return &e
	case is.rows == own: // counted from now on
		is.rows++
		e.Count, e.Last = 1, e.Time
		return &e
	case is.held == nil:
		e.Count, e.Last = 1, e.Time
		is.held = &e
	default:
		is.held.Count++
		is.held.Last, is.held.Addr, is.held.Message = e.Time, e.Addr, e.Message
	}
	return nil
}

// take returns what waits to be written, and forgets the days before now's.
func (t *tally) take(now time.Time) (events []store.Event) {
	today := now.UTC().Truncate(24 * time.Hour)
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, is := range t.held {
		if is.held != nil {
			events = append(events, *is.held)
			is.held = nil
		}
		if key.Time.Before(today) {
			delete(t.held, key)
		}
	}
	return events
}

// putBack keeps events that could not be written for the next time.
func (t *tally) putBack(events []store.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held == nil {
		t.held = make(map[store.Event]*alike)
	}
	for _, e := range events {
		if e.Count == 0 {
			e.Count, e.Last = 1, e.Time
		}
		key := alikeAs(e)
		is := t.held[key]
		if is == nil && len(t.held) >= maxTally {
			continue // the log has said so
		}
		if is == nil {
			is = new(alike)
			t.held[key] = is
		}
		if later := is.held; later != nil {
			e.Count += later.Count
			e.Last, e.Addr, e.Message = later.Last, later.Addr, later.Message
		}
		is.held = &e
	}
}

// Bounds of the rows that unproven peers make: so many at once, and then so
// many a minute.
const (
	crowdOfNobody = 16 // in the operator's trail, and 1 a minute
	crowdOfOwner  = 64 // in an owner's, and 1 a minute
	crowdOfAll    = 64 // in all trails, and 4 a minute
)

// crowd bounds the rows of unproven peers. Within the bounds, events that are
// alike are one row for each hour and network; past them, one row for each
// kind, code, trail and day.
type crowd struct {
	nobodys *limiter[struct{}]
	owners  *limiter[string]
	all     *limiter[struct{}]
}

func newCrowd() crowd {
	return crowd{
		nobodys: newLimiter[struct{}](rate.Every(time.Minute), crowdOfNobody),
		owners:  newLimiter[string](rate.Every(time.Minute), crowdOfOwner),
		all:     newLimiter[struct{}](rate.Every(time.Minute/4), crowdOfAll),
	}
}

func (c *crowd) admits(owner string, now time.Time) bool {
	own := c.owners.allow
	if owner == "" {
		own = func(string, time.Time) bool { return c.nobodys.allow(struct{}{}, now) }
	}
	return own(owner, now) && c.all.allow(struct{}{}, now)
}

// flushTally writes the counts, some hundred at a time so as not to hold up
// other writers.
func (s *Server) flushTally(ctx context.Context) {
	events := s.tally.take(s.cfg.Now())
	for len(events) > 0 {
		n := min(len(events), 256)
		if err := s.cfg.Store.AppendCounted(ctx, events[:n]); err != nil {
			s.log.Error("audit trail: counts are tried again later", "events", len(events), "err", err)
			s.tally.putBack(events)
			return
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

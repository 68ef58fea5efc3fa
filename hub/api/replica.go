package api

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"gangway/hub/store"
)

// Several hubs, called replicas, may share one database (Config.Replicas). docs/operations.md lists
// what each of them keeps in memory. This file has the messages by which replicas tell each other
// which web pages have changed, and the leases, by which replicas divide the work.

const (
	// tellEvery is how often a replica sends its changes, if any, to the other replicas.
	tellEvery = 200 * time.Millisecond
	// pollEvery is how often a replica reads the messages of the other replicas. So an event at one
	// replica reaches the open web pages of another replica within tellEvery + pollEvery.
	pollEvery = time.Second
	// pollMessages is the largest number of messages that are read at once.
	pollMessages = 100
	// One message has at most newsChanges changes, of at most newsOwners accounts. If an account
	// has too many changes, all its open web pages load again, and if there are too many accounts,
	// all web pages do.
	newsChanges, newsOwners = 1000, 1000
)

// news is the body of a message to the other replicas: what has changed on the web pages. A later
// version may add fields.
type news struct {
	// All says that every open web page must load its parts again.
	All bool `json:"all,omitempty"`
	// Owners has the changes of each account, by Account.ID. If an account's list is empty, all its
	// open web pages must load their parts again.
	Owners map[string][]liveChange `json:"owners,omitempty"`
}

// outbox collects the news for the other replicas. newsOwners and newsChanges bound its size.
type outbox struct {
	mu     sync.Mutex
	all    bool
	owners map[string]map[liveChange]bool // nil for an owner: too many changes
	n      int                            // changes of all owners
}

func (o *outbox) add(owner string, c liveChange) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.all {
		return
	}
	changes, known := o.owners[owner]
	switch {
	case known && changes == nil:
	case !known && len(o.owners) >= newsOwners:
		o.all, o.owners, o.n = true, nil, 0
	case changes[c]:
	case len(changes) >= liveChanges || o.n >= newsChanges:
		o.n -= len(changes)
		o.put(owner, nil)
	default:
		if changes == nil {
			changes = map[liveChange]bool{}
			o.put(owner, changes)
		}
		changes[c] = true
		o.n++
	}
}

func (o *outbox) put(owner string, changes map[liveChange]bool) {
	if o.owners == nil {
		o.owners = map[string]map[liveChange]bool{}
	}
	o.owners[owner] = changes
}

func (o *outbox) addAll() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all, o.owners, o.n = true, nil, 0
}

// The method `take` returns and removes the collected news. The result `some` is false if there is
// none.
func (o *outbox) take() (n news, some bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n.All = o.all
	for owner, changes := range o.owners {
		if n.Owners == nil {
			n.Owners = map[string][]liveChange{}
		}
		n.Owners[owner] = slices.Collect(maps.Keys(changes))
	}
	o.all, o.owners, o.n = false, nil, 0
	return n, n.All || n.Owners != nil
}

// tellLoop sends this replica's changes to the other replicas, until ctx ends.
func (s *Server) tellLoop(ctx context.Context) {
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			s.tellOthers(last)
			return
		case <-tick.C:
			s.tellOthers(ctx)
			s.shareClaimants(ctx)
		}
	}
}

func (s *Server) tellOthers(ctx context.Context) {
	n, some := s.outbox.take()
	if !some {
		return
	}
	body, err := json.Marshal(n)
	if err == nil {
		err = s.cfg.Store.Tell(ctx, s.replica, body)
	}
	if err != nil {
		s.outbox.addAll()
		if ctx.Err() == nil {
			s.log.Warn("could not send changes to the other replicas; the hub tries again", "err", err)
		}
	}
}

// mailbox reads the messages of the other replicas.
type mailbox struct {
	store   store.Replicas
	replica string // this replica
	last    int64  // Seq of the last message that was read
	read    time.Time
	behind  bool // messages may have been missed
}

// Poll calls `hear` with each message that has arrived since the last Poll. If messages may have
// been missed, Poll instead calls `hear` once, with the field All set. This happens at the first
// call, after a long pause, and after an error, because an error may mean a failover to a database
// server that numbers messages differently.
func (m *mailbox) Poll(ctx context.Context, now time.Time, hear func(news)) error {
	if m.behind || now.Sub(m.read) > store.MessageLife/2 {
		last, err := m.store.LastMessage(ctx)
		if err != nil {
			return err
		}
		m.last, m.read, m.behind = last, now, false
		hear(news{All: true})
		return nil
	}
	for {
		list, err := m.store.Messages(ctx, m.last, pollMessages)
		if err != nil {
			m.behind = true
			return err
		}
		for _, one := range list {
			m.last = one.Seq
			if one.Origin != m.replica {
				hear(readNews(one.Body))
			}
		}
		if len(list) < pollMessages {
			m.read = now
			return nil
		}
	}
}

// readNews parses a message. If this version does not understand the message, all pages load their
// parts again.
func readNews(body []byte) (n news) {
	if json.Unmarshal(body, &n) != nil {
		return news{All: true}
	}
	return n
}

// pollLoop passes the news from other replicas to the open web pages, until ctx ends.
func (s *Server) pollLoop(ctx context.Context) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	m := mailbox{store: s.cfg.Store, replica: s.replica}
	for {
		switch err := m.Poll(ctx, time.Now(), s.live.hear); {
		case err == nil:
			s.heard.set(s.cfg.Now())
		case ctx.Err() == nil:
			s.log.Warn("could not read the changes of the other replicas; the hub tries again", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

const (
	leaseName = "periodic-work"
	// leaseLife is how long the other replicas must wait after a crash of the lease's holder before
	// one of them can do the periodic work.
	leaseLife  = 15 * time.Second
	leaseRenew = 5 * time.Second
	// leaseMargin is a safety margin: the lease's holder stops the periodic work this long before
	// the lease ends.
	leaseMargin = 4 * time.Second
)

// lease is the right to do the periodic work. Only one of several replicas holds it at a time. A
// hub without replicas always holds it.
type lease struct {
	store   store.Replicas // nil: there are no other replicas
	replica string

	mu    sync.Mutex
	held  context.Context // guarded by mu: ends when the lease is lost; nil: not held
	lose  context.CancelFunc
	fence store.Fence
	until time.Time // when the holder stops, by its own clock
	timer *time.Timer
}

// duty returns the context for periodic work, in which each write to the database first checks that
// this replica still holds the lease. `ok` is false if another replica does the work.
func (l *lease) duty(ctx context.Context) (_ context.Context, ok bool) {
	if l.store == nil {
		return ctx, ctx.Err() == nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil || l.held.Err() != nil {
		return nil, false
	}
	return store.WithFence(l.held, l.fence), true
}

// try takes or renews the lease.
func (l *lease) try(ctx context.Context) error {
	begun := time.Now()
	limited, cancel := context.WithTimeout(ctx, leaseRenew)
	defer cancel()
	f, err := l.store.Lease(limited, leaseName, l.replica, leaseLife)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case errors.Is(err, store.ErrLeased):
		l.stop()
		return nil
	case err != nil:
		return err // the timer stops the work in time
	}
	if l.held == nil || l.held.Err() != nil || l.fence != f {
		l.stop()
		l.held, l.lose = context.WithCancel(ctx)
		l.fence = f
	}
	l.until = begun.Add(leaseLife - leaseMargin)
	if l.timer != nil {
		l.timer.Stop()
	}
	l.timer = time.AfterFunc(time.Until(l.until), l.lose)
	return nil
}

// The method `stop` cancels the context of the periodic work. The caller holds l.mu.
func (l *lease) stop() {
	if l.lose != nil {
		l.lose()
	}
	l.held, l.lose = nil, nil
}

// The method `end` gives the lease back, so that another replica can take it at once.
func (l *lease) end(ctx context.Context) error {
	l.mu.Lock()
	l.stop()
	f := l.fence
	l.mu.Unlock()
	if f.Number == 0 {
		return nil
	}
	return l.store.EndLease(ctx, f)
}

// objectsLease is the name of a lease whose holder is not a replica, but the place where replicas
// store objects, such as a bucket. So all replicas that use the same place hold the lease together.
const objectsLease = "objects"

// shareObjects returns an error if another replica stores its objects elsewhere, because neither
// replica would find the objects of the other, and each would treat them as lost.
func (s *Server) shareObjects(ctx context.Context) error {
	if !s.cfg.Replicas || s.cfg.ObjectsAt == "" {
		return nil
	}
	_, err := s.cfg.Store.Lease(ctx, objectsLease, s.cfg.ObjectsAt, leaseLife)
	if errors.Is(err, store.ErrLeased) {
		return fmt.Errorf("hub: another replica stores its objects elsewhere: give all replicas the same S3 bucket and prefix; if the objects were moved, stop all replicas, wait %v, and start them again", leaseLife)
	}
	return err
}

// periodic does the hub's periodic work until ctx ends.
func (s *Server) periodic(ctx context.Context) {
	var working sync.WaitGroup
	if s.cfg.Replicas {
		s.tryLease(ctx)
		working.Go(func() {
			tick := time.NewTicker(leaseRenew)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					s.tryLease(ctx)
					if err := s.shareObjects(ctx); err != nil && ctx.Err() == nil {
						s.log.Error("objects of replicas", "err", err)
					}
				}
			}
		})
	}
	working.Go(func() { s.sweep(ctx) })
	working.Go(func() { s.collectLoop(ctx) })
	working.Wait()
	if s.cfg.Replicas {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if err := s.lease.end(last); err != nil {
			s.log.Warn("could not give up the lease of the periodic work; another hub takes over when the lease expires", "err", err)
		}
	}
}

func (s *Server) tryLease(ctx context.Context) {
	if err := s.lease.try(ctx); err != nil && ctx.Err() == nil {
		s.log.Warn("could not take the lease of the periodic work; the hub tries again", "err", err)
	}
}

// interrupted reports whether periodic work ended because the hub is stopping, or because another
// replica does the work now.
func interrupted(ctx context.Context, err error) bool {
	return ctx.Err() != nil || errors.Is(err, store.ErrFenced)
}

// newReplica returns a random name for this process among the replicas.
func newReplica() string { return rand.Text() }

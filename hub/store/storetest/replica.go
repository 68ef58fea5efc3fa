package storetest

import (
	"fmt"
	"sync/atomic"
	"time"

	"gangway/hub/store"
)

const (
	longLease  = time.Hour
	shortLease = 30 * time.Millisecond
)

// takenOver gives the lease to `holder` as soon as the previous holder's lease has expired.
func (f *fixture) takenOver(name, holder string) store.Fence {
	f.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		fence, err := f.Lease(f.ctx, name, holder, longLease)
		if err == nil {
			return fence
		}
		if time.Now().After(deadline) {
			f.Fatalf("the lease does not end: %v", err)
		}
		f.refused(err, store.ErrLeased)
	}
}

var replicaTests = []test{
	{"OneHoldsALease", func(f *fixture) {
		first, err := f.Lease(f.ctx, "sweep", "a", longLease)
		f.must(err)
		again, err := f.Lease(f.ctx, "sweep", "a", longLease)
		f.must(err)
		equal(f, "the fence of a longer lease", again, first)
		_, err = f.Lease(f.ctx, "sweep", "b", longLease)
		f.refused(err, store.ErrLeased)
		_, err = f.Lease(f.ctx, "another", "b", longLease)
		f.must(err)
		f.must(f.EndLease(f.ctx, first))
		second, err := f.Lease(f.ctx, "sweep", "b", longLease)
		f.must(err)
		if second.Number <= first.Number {
			f.Fatalf("fence %d follows %d", second.Number, first.Number)
		}
		f.must(f.EndLease(f.ctx, first)) // an old holder cannot end the lease
		_, err = f.Lease(f.ctx, "sweep", "a", longLease)
		f.refused(err, store.ErrLeased)
	}},
	// A replica is paused for longer than its lease, another replica takes the lease, and then the
	// first replica continues its work. The writes of the first replica must fail with ErrFenced.
	{"PausedHolderIsFenced", func(f *fixture) {
		event := func(f *fixture, kind string) store.Event {
			return store.Event{Time: Epoch, Kind: kind, Owner: f.owner.ID}
		}
		old, err := f.Lease(f.ctx, "sweep", "a", shortLease)
		f.must(err)
		paused := store.WithFence(f.ctx, old)
		f.must(f.AppendEvent(paused, event(f, "before")))
		now := f.takenOver("sweep", "b")
		f.refused(f.AppendEvent(paused, event(f, "late")), store.ErrFenced)
		_, err = f.RemoveEvents(paused, time.Time{}, Epoch.Add(time.Hour), 10)
		f.refused(err, store.ErrFenced)
		f.refused(f.PutTemporary(paused, "k", nil, time.Hour), store.ErrFenced)
		f.must(f.AppendEvent(store.WithFence(f.ctx, now), event(f, "after")))
		events, err := f.Events(f.ctx, store.EventFilter{Owner: f.owner.ID})
		f.must(err)
		var kinds []string
		for _, e := range events {
			kinds = append(kinds, e.Kind)
		}
		equal(f, "events", kinds, []string{"after", "before"})
	}},
	// A lease has expired. Until another replica takes it, writes with its fence succeed, and its
	// holder can renew it with the same fence.
	{"EndedLeaseIsProlonged", func(f *fixture) {
		old, err := f.Lease(f.ctx, "sweep", "a", time.Microsecond)
		f.must(err)
		time.Sleep(2 * time.Millisecond)
		f.must(f.AppendEvent(store.WithFence(f.ctx, old), store.Event{Time: Epoch, Kind: "k"}))
		again, err := f.Lease(f.ctx, "sweep", "a", longLease)
		f.must(err)
		equal(f, "the fence", again, old)
	}},
	{"ManyWantALease", func(f *fixture) {
		var won atomic.Int32
		var run []func()
		for i := range 20 {
			run = append(run, func() {
				if _, err := f.Lease(f.ctx, "sweep", fmt.Sprint(i), longLease); err == nil {
					won.Add(1)
				}
			})
		}
		together(run...)
		equal(f, "holders", won.Load(), 1)
	}},
	{"Messages", func(f *fixture) {
		last, err := f.LastMessage(f.ctx)
		f.must(err)
		equal(f, "the first number", last, 0)
		for i := range 5 {
			f.must(f.Tell(f.ctx, "a", []byte(fmt.Sprint("\x00", i))))
		}
		list, err := f.Messages(f.ctx, last, 3)
		f.must(err)
		equal(f, "messages", len(list), 3)
		rest, err := f.Messages(f.ctx, list[2].Seq, 100)
		f.must(err)
		for i, m := range append(list, rest...) {
			if string(m.Body) != fmt.Sprint("\x00", i) || m.Origin != "a" || m.Seq <= last {
				f.Fatalf("message %d: %+v", i, m)
			}
			last = m.Seq
		}
		newest, err := f.LastMessage(f.ctx)
		f.must(err)
		equal(f, "the newest", newest, last)
	}},
	// A reader that has read up to some number has not missed any message with a smaller number.
	{"MessagesAppearInOrder", func(f *fixture) {
		const senders, each = 8, 10
		var sent atomic.Int32
		var run []func()
		for i := range senders {
			run = append(run, func() {
				for range each {
					f.must(f.Tell(f.ctx, fmt.Sprint(i), []byte("x")))
				}
				sent.Add(each)
			})
		}
		read := 0
		run = append(run, func() {
			for after := int64(0); ; {
				all := sent.Load() == senders*each
				list, err := f.Messages(f.ctx, after, 1000)
				f.must(err)
				if all && len(list) == 0 {
					return
				}
				read += len(list)
				if len(list) > 0 {
					after = list[len(list)-1].Seq
				}
			}
		})
		together(run...)
		equal(f, "messages that were read", read, senders*each)
	}},
	{"TemporaryValuesEnd", func(f *fixture) {
		key := []byte{0, 1}
		put := func(value string, life time.Duration) {
			f.Helper()
			f.must(f.PutTemporary(f.ctx, "k", []store.Temporary{{Key: key, Value: []byte(value)}}, life))
		}
		put("one", time.Hour)
		put("two", time.Hour)
		value, err := f.Temporary(f.ctx, "k", key)
		f.must(err)
		equal(f, "the value", string(value), "two")
		_, err = f.Temporary(f.ctx, "another kind", key)
		f.refused(err, store.ErrNotFound)
		put("three", time.Microsecond)
		time.Sleep(2 * time.Millisecond)
		_, err = f.Temporary(f.ctx, "k", key)
		f.refused(err, store.ErrNotFound)
		_, err = f.TakeTemporary(f.ctx, "k", key)
		f.refused(err, store.ErrNotFound)
	}},
	{"TemporaryValueIsTakenOnce", func(f *fixture) {
		f.must(f.PutTemporary(f.ctx, "k", []store.Temporary{{Key: []byte("a"), Value: []byte("v")}}, time.Hour))
		var won atomic.Int32
		var run []func()
		for range 10 {
			run = append(run, func() {
				if v, err := f.TakeTemporary(f.ctx, "k", []byte("a")); err == nil && string(v) == "v" {
					won.Add(1)
				}
			})
		}
		together(run...)
		equal(f, "takers", won.Load(), 1)
	}},
	// Temporary values are stored for peers that have not authenticated, so their number is
	// bounded. The newest values stay.
	{"TemporaryValuesAreBounded", func(f *fixture) {
		value := func(i int) store.Temporary { return store.Temporary{Key: []byte(fmt.Sprint(i)), Value: []byte("v")} }
		var first []store.Temporary
		for i := range store.MaxTemporary {
			first = append(first, value(i))
		}
		f.must(f.PutTemporary(f.ctx, "k", first, time.Minute))
		f.must(f.PutTemporary(f.ctx, "other", []store.Temporary{value(1)}, time.Minute))
		f.must(f.PutTemporary(f.ctx, "k", []store.Temporary{value(-1), value(-2), value(-3)}, time.Hour))
		left := 0
		for i := -3; i < store.MaxTemporary; i++ {
			if _, err := f.Temporary(f.ctx, "k", value(i).Key); err == nil {
				left++
			} else if i < 0 {
				f.Errorf("a new value is gone: %v", err)
			}
		}
		equal(f, "values", left, store.MaxTemporary)
		_, err := f.Temporary(f.ctx, "other", value(1).Key)
		f.must(err)
	}},
}

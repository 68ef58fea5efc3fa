package load

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

// Reasons for a missed start.
const (
	missedOutstanding = "too-many-outstanding"
	missedNoDevice    = "no-idle-device"
)

// schedule starts the operations of one kind at their planned times.
func (r *runner) schedule(ctx context.Context, k *running, seed uint64, working *sync.WaitGroup) {
	defer k.ended.Store(true)
	random := rand.New(rand.NewPCG(seed, 21))
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	gap := func() time.Duration {
		g := 1 / k.rate
		if r.cfg.Poisson {
			g *= random.ExpFloat64()
		}
		return time.Duration(g * float64(time.Second))
	}
	first := gap()
	if !r.cfg.Poisson {
		first /= 2 // so that the number of starts is the rate times the duration
	}
	for at := first; at < r.cfg.For; at += gap() {
		due := r.began.Add(at)
		if wait := time.Until(due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			}
		} else if ctx.Err() != nil {
			return
		}
		if k.onboards && r.pending.Load() == 0 {
			return // all devices are onboarded
		}
		r.start(ctx, k, due, working)
	}
	// The last operation may start long before the end of the measurement. But rates and CPU times
	// refer to the whole measurement, so wait for its end.
	timer.Reset(time.Until(r.began.Add(r.cfg.For)))
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// start starts one operation, or counts it as missed.
func (r *runner) start(ctx context.Context, k *running, due time.Time, working *sync.WaitGroup) {
	var d *device
	switch {
	case k.onboards:
		if d = r.fresh.pop(); d == nil {
			return // the last devices are onboarding now, so no device is left to schedule
		}
	case k.device:
		if d = r.idle.pop(); d == nil {
			k.scheduled.Add(1)
			k.missed.add(missedNoDevice)
			return
		}
	}
	k.scheduled.Add(1)
	select {
	case k.slots <- struct{}{}:
	default:
		k.missed.add(missedOutstanding)
		r.giveBack(k, d)
		return
	}
	working.Go(func() {
		r.perform(ctx, k, d, due)
		<-k.slots
		if d == nil {
			return
		}
		if k.onboards && d.id != "" {
			r.setUpOnboarded(ctx, d)
			r.idle.push(d)
			return
		}
		r.giveBack(k, d)
	})
}

func (r *runner) giveBack(k *running, d *device) {
	switch {
	case d == nil:
	case k.onboards && d.id == "":
		r.fresh.push(d)
	default:
		r.idle.push(d)
	}
}

// setUpOnboarded sets up a device that has onboarded during the measurement, as the preparation
// does for the other devices. If that fails, the device's next operation sets the device up.
func (r *runner) setUpOnboarded(ctx context.Context, d *device) {
	r.pending.Add(-1)
	_ = r.setUp(ctx, d)
}

// perform does one operation and records the result.
func (r *runner) perform(ctx context.Context, k *running, d *device, due time.Time) {
	r.late.record(time.Since(due))
	err := k.run(ctx, r, d)
	took := time.Since(due)
	var refused *expected
	switch {
	case err == nil:
		k.ok.Add(1)
	case errors.As(err, &refused):
		k.refused.add(refused.code)
	default:
		k.errors.add(errorCode(ctx, err))
		k.failed.record(took)
		return
	}
	k.latency.record(took)
	r.all.record(took)
}

// queue is a first-in, first-out queue of devices, so each device gets its turn.
type queue struct {
	mu   sync.Mutex
	ring []*device
	head int
	n    int
}

func (q *queue) push(d *device) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.n == len(q.ring) {
		grown := make([]*device, max(16, 2*q.n))
		for i := range q.n {
			grown[i] = q.ring[(q.head+i)%len(q.ring)]
		}
		q.ring, q.head = grown, 0
	}
	q.ring[(q.head+q.n)%len(q.ring)] = d
	q.n++
}

// pop removes and returns the first device, or returns nil if the queue is empty.
func (q *queue) pop() *device { return q.popIdle(time.Time{}) }

// popIdle is like pop, but returns the first device only if its last request on its connection
// ended before the time `before`. The zero time means any time.
func (q *queue) popIdle(before time.Time) *device {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.n == 0 || !before.IsZero() && !q.ring[q.head].used.Before(before) {
		return nil
	}
	d := q.ring[q.head]
	q.ring[q.head] = nil
	q.head = (q.head + 1) % len(q.ring)
	q.n--
	return d
}

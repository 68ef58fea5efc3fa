package api

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"
)

// lifo lets a few run at once. When more come, the last one goes first: under
// a flood, whoever comes now is served now, and those that have waited too long
// to be of use are turned away. A queue in order would make everybody wait for
// all of the flood. Those that are known go before strangers.
type lifo struct {
	most     int // how many of a lane wait; one more turns its oldest away
	patience time.Duration

	mu    sync.Mutex
	free  int     // guarded by mu: how many more may run
	lanes [2]lane // guarded by mu
}

// lane is who waits, oldest first. Each gets one word: run, or not.
type lane []chan bool

// Lanes, in the order in which they are served.
const (
	known = iota
	stranger
)

var errBusy = problem(http.StatusServiceUnavailable, "busy", "Try again in some seconds.", "Too many people sign in at once.")

// do runs f when its turn comes. errBusy if that is not soon; ctx's error if
// that ends first.
func (l *lifo) do(ctx context.Context, lane int, f func() error) error {
	if turn := l.enter(lane); turn != nil {
		if err := l.wait(ctx, lane, turn); err != nil {
			return err
		}
	}
	defer l.leave()
	return f()
}

// enter takes a place. It returns nil if one is free at once.
func (l *lifo) enter(lane int) (turn chan bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.free > 0 {
		l.free--
		return nil
	}
	waiting := &l.lanes[lane]
	if len(*waiting) >= l.most {
		(*waiting)[0] <- false
		*waiting = slices.Delete(*waiting, 0, 1)
	}
	turn = make(chan bool, 1)
	*waiting = append(*waiting, turn)
	return turn
}

func (l *lifo) wait(ctx context.Context, lane int, turn chan bool) error {
	timer := time.NewTimer(l.patience)
	defer timer.Stop()
	var err error
	select {
	case run := <-turn:
		if run {
			return nil
		}
		return errBusy
	case <-ctx.Done():
		err = ctx.Err()
	case <-timer.C:
		err = errBusy
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.lanes[lane], turn); i >= 0 {
		l.lanes[lane] = slices.Delete(l.lanes[lane], i, i+1)
		return err
	}
	if <-turn { // it came meanwhile
		return nil
	}
	return err
}

// leave hands the place to the last that came.
func (l *lifo) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for lane, waiting := range l.lanes {
		if n := len(waiting); n > 0 {
			waiting[n-1] <- true
			l.lanes[lane] = waiting[:n-1]
			return
		}
	}
	l.free++
}

package api

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"
)

// lifoSemaphore lets a few callers run at the same time. The others wait, and the newest waiting
// caller runs next. So during a flood of requests, the hub answers new requests in time and refuses
// old ones, whose clients have probably given up. In a first-in-first-out queue, every request
// would wait for all earlier requests of the flood. Requests from known networks run before
// requests from unknown networks.
type lifoSemaphore struct {
	maxWaiting int // callers in one lane; if one more arrives, the oldest caller of the lane is refused
	timeout    time.Duration

	mu    sync.Mutex
	free  int     // guarded by mu: how many more callers may run
	lanes [2]lane // guarded by mu
}

// lane has a channel for each waiting caller, oldest first. Each caller receives one value from its
// channel: true if the caller may run, or false if it is refused.
type lane []chan bool

// The lanes of waiting callers, from known and from unknown networks. Callers in the first lane run
// first.
const (
	knownNetwork = iota
	unknownNetwork
)

var errBusy = problem(http.StatusServiceUnavailable, "busy", "Try again in a few seconds.", "Too many people are signing in at the same time.")

// The method `do` runs `f` when it is the caller's turn. It returns errBusy if that takes longer
// than the timeout, and the error of `ctx` if `ctx` ends first.
func (l *lifoSemaphore) do(ctx context.Context, lane int, f func() error) error {
	if turn := l.enter(lane); turn != nil {
		if err := l.wait(ctx, lane, turn); err != nil {
			return err
		}
	}
	defer l.leave()
	return f()
}

// waitingNow returns the number of waiting callers.
func (l *lifoSemaphore) waitingNow() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.lanes[knownNetwork]) + len(l.lanes[unknownNetwork])
}

// enter adds the caller to the lane and returns its channel, or returns nil if the caller may run
// at once.
func (l *lifoSemaphore) enter(lane int) (turn chan bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.free > 0 {
		l.free--
		return nil
	}
	waiting := &l.lanes[lane]
	if len(*waiting) >= l.maxWaiting {
		(*waiting)[0] <- false
		*waiting = slices.Delete(*waiting, 0, 1)
	}
	turn = make(chan bool, 1)
	*waiting = append(*waiting, turn)
	return turn
}

func (l *lifoSemaphore) wait(ctx context.Context, lane int, turn chan bool) error {
	timer := time.NewTimer(l.timeout)
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
	if <-turn { // the method `leave` let this caller run before the method `wait` locked the mutex
		return nil
	}
	return err
}

// leave is called when a caller has finished. It lets the next waiting caller run: the newest in
// the first lane that is not empty.
func (l *lifoSemaphore) leave() {
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

package api

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"gangway/internal/brief"
)

// During a flood, the hub serves the newest waiting request next. If too many requests wait, it
// refuses the oldest. No request waits longer than the queue's timeout.
func TestQueueServesTheLastThatCameFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &lifoSemaphore{free: 1, maxWaiting: 3, timeout: 5 * time.Second}
		finish := make(chan struct{})
		var order []int
		results := make([]error, 6)
		for i := range 6 {
			go func() {
				results[i] = l.do(t.Context(), unknownNetwork, func() error {
					order = append(order, i)
					<-finish
					return nil
				})
			}()
			synctest.Wait()
		}
		// Request 0 is running, and requests 4 and 5 have displaced requests 1 and 2.
		for _, i := range []int{1, 2} {
			if !errors.Is(results[i], error(errBusy)) {
				t.Errorf("%d: %v", i, results[i])
			}
		}
		for range 4 {
			finish <- struct{}{}
			synctest.Wait()
		}
		if want := []int{0, 5, 4, 3}; len(order) != 4 || order[0] != want[0] || order[1] != want[1] || order[2] != want[2] || order[3] != want[3] {
			t.Errorf("served in the order %s, want %s", brief.Of(order), brief.Of(want))
		}
	})
}

// Waiting requests from known networks run before earlier requests from unknown networks.
func TestQueueServesTheKnownBeforeStrangers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &lifoSemaphore{free: 1, maxWaiting: 3, timeout: 5 * time.Second}
		finish := make(chan struct{})
		var order []string
		run := func(lane int, name string) {
			go l.do(t.Context(), lane, func() error {
				order = append(order, name)
				<-finish
				return nil
			})
			synctest.Wait()
		}
		run(unknownNetwork, "runs")
		run(knownNetwork, "knownNetwork")
		for range 9 { // more requests than may wait; the request of knownNetwork stays
			run(unknownNetwork, "unknownNetwork")
		}
		for range 5 {
			finish <- struct{}{}
			synctest.Wait()
		}
		if len(order) != 5 || order[1] != "knownNetwork" {
			t.Errorf("served in the order %s", brief.Of(order))
		}
	})
}

func TestQueueLetsNobodyWaitForEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &lifoSemaphore{free: 1, maxWaiting: 3, timeout: 5 * time.Second}
		finish := make(chan struct{})
		go l.do(t.Context(), unknownNetwork, func() error { <-finish; return nil })
		synctest.Wait()
		start := time.Now()
		if err := l.do(t.Context(), unknownNetwork, func() error { return nil }); !errors.Is(err, error(errBusy)) || time.Since(start) != l.timeout {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := l.do(ctx, unknownNetwork, func() error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		close(finish)
		synctest.Wait()
		// If a client cancels its request, the request no longer occupies a place in the queue.
		if len(l.lanes[unknownNetwork]) != 0 || l.free != 1 {
			t.Errorf("%d wait, %d are free", len(l.lanes[unknownNetwork]), l.free)
		}
		if err := l.do(t.Context(), unknownNetwork, func() error { return nil }); err != nil {
			t.Error(err)
		}
	})
}

package api

import (
	"context"
	"net/http"
	"time"
)

// A hub that stops lets its clients go to another replica, so that no request fails. After the
// signal to stop, the hub continues to serve requests for the duration Config.Drain, but GET
// /readyz answers 503, and each answer ends its connection. Then the hub closes its listeners, the
// idle connections and the live streams, and waits for the running requests.

// drain returns a context that ends when the listeners must be closed, which is Config.Drain after
// the end of ctx, or when `end` is called.
func (s *Server) drain(ctx context.Context) (serving context.Context, end context.CancelFunc) {
	serving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	forget := context.AfterFunc(ctx, func() {
		s.stopping.Store(true)
		select {
		case <-time.After(max(s.cfg.Drain, time.Duration(s.drainAtLeast.Load()))):
		case <-serving.Done():
		}
		cancel()
	})
	return serving, func() {
		forget()
		cancel()
	}
}

// DrainFor makes the duration Config.Drain at least d. It may be called before or after Serve.
func (s *Server) DrainFor(d time.Duration) { s.drainAtLeast.Store(int64(d)) }

var errStopping = problem(http.StatusServiceUnavailable, "not-ready", "Use another replica of the hub, or wait until this replica has restarted.", "The hub is stopping.")

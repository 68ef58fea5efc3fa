package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// prepare loads, makes and onboards the devices, and opens their persistent connections.
func (r *runner) prepare(ctx context.Context, report *Report) error {
	p := &report.Preparation
	if err := r.loadDevices(); err != nil {
		return err
	}
	p.Loaded = len(r.devices)
	for len(r.devices) < r.cfg.Devices {
		r.devices = append(r.devices, &device{number: len(r.devices)})
	}
	first := r.devices[:max(p.Loaded, r.cfg.Onboarded)]
	later := r.devices[len(first):]
	if err := r.each(ctx, PhaseOnboard, first[p.Loaded:], r.onboardNow); err != nil {
		return err
	}
	p.Onboarded = len(first) - p.Loaded
	if err := r.each(ctx, PhaseMake, later, func(_ context.Context, d *device) error { return r.freshen(d) }); err != nil {
		return err
	}
	if err := r.prepareKinds(ctx, first); err != nil {
		return err
	}
	before, err := r.readHub(ctx)
	if err != nil {
		return err
	}
	if err := r.connectAll(ctx, first); err != nil {
		return err
	}
	for _, d := range first {
		if d.conn != nil {
			p.Connected++
		}
	}
	for _, d := range later {
		r.fresh.push(d)
	}
	r.pending.Store(int64(len(later)))
	after, err := r.readHub(ctx)
	if err != nil {
		return err
	}
	if r.probe.source() != "" {
		p.HubBefore, p.HubIdle = &before, &after
	}
	p.Seconds = seconds(time.Since(r.started))
	// The measurement counts only its own requests.
	p.Requests, r.routes = r.routes.reports(), routes{}
	p.Handshakes = r.to.handshakes.Swap(0)
	p.Reconnects = r.reconnects.Swap(0)
	return nil
}

func (r *runner) loadDevices() error {
	if r.cfg.State == "" {
		return nil
	}
	all, err := loadState(r.cfg.State, r.stateHeader())
	if err != nil {
		return err
	}
	n := min(len(all), r.cfg.Devices)
	r.devices, r.spare = slices.Clone(all[:n]), all[n:]
	if n > 0 {
		r.ca = all[0].ca
	}
	return nil
}

// prepareKinds makes the data that the kinds of the mix need, once for all devices.
func (r *runner) prepareKinds(ctx context.Context, onboarded []*device) error {
	for _, k := range r.kinds {
		switch k.name {
		case "forged":
			if err := r.forge(); err != nil {
				return err
			}
		case "update":
			if len(onboarded) == 0 {
				return errors.New("the kind \"update\" needs a device that is onboarded before the measurement")
			}
			if err := r.patiently(ctx, func() error { return r.upload(ctx, onboarded[0]) }); err != nil {
				return fmt.Errorf("upload the object that all updates download: %w", err)
			}
		}
	}
	return nil
}

func (r *runner) onboardNow(ctx context.Context, d *device) error {
	if err := r.freshen(d); err != nil {
		return err
	}
	return onboard(ctx, r, d)
}

// setUp creates the device's trail and signs the device in, if the mix needs trails or access
// tokens.
func (r *runner) setUp(ctx context.Context, d *device) error {
	if r.needsTrail() {
		if err := r.createTrail(ctx, d); err != nil {
			return err
		}
	}
	if r.needsToken() {
		return r.signIn(ctx, d)
	}
	return nil
}

// connect sets a device up and opens its persistent connection. The device sends a report at once,
// as a real one does: the hub soon closes a connection on which no request has come.
func (r *runner) connect(ctx context.Context, d *device) error {
	if err := r.setUp(ctx, d); err != nil {
		return err
	}
	if r.keeps() {
		return report(ctx, r, d)
	}
	if d.conn != nil {
		d.conn.close()
		d.conn = nil
	}
	return nil
}

// connectAll connects the devices and lets them settle. All devices are idle afterwards.
func (r *runner) connectAll(ctx context.Context, list []*device) error {
	alive, stop := context.WithCancel(ctx)
	var keeping sync.WaitGroup
	for range r.cfg.Workers / 4 {
		keeping.Go(func() { r.keepAlive(alive) })
	}
	err := r.each(ctx, PhaseConnect, list, func(ctx context.Context, d *device) error {
		err := r.connect(ctx, d)
		if err == nil {
			r.idle.push(d)
		}
		return err
	})
	if err == nil {
		err = r.settle(ctx)
	}
	stop()
	keeping.Wait()
	return err
}

// keepAliveAfter is how long a device may be idle during the preparation before it sends a report.
// The hub closes a connection that is idle for two minutes, and connecting 100,000 devices takes
// longer.
const keepAliveAfter = time.Minute

// keepAlive sends a report for each device that has been idle for keepAliveAfter, until ctx ends.
func (r *runner) keepAlive(ctx context.Context) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for r.keeps() {
		d := r.idle.popIdle(time.Now().Add(-keepAliveAfter))
		if d != nil {
			// If the report fails, the device's next request opens another connection. The report
			// is not interrupted, because an interrupted request makes the connection unusable.
			_ = report(context.WithoutCancel(ctx), r, d)
			d.used = time.Now()
			r.idle.push(d)
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// settle waits for Config.Settle while all devices are idle, and then calls Config.Ready.
func (r *runner) settle(ctx context.Context) error {
	if r.cfg.Settle > 0 {
		r.say(Progress{Phase: PhaseSettle, Of: r.cfg.Settle})
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(r.cfg.Settle):
		}
	}
	if r.cfg.Ready == nil {
		return nil
	}
	return r.cfg.Ready(ctx)
}

// The method `each` calls `f` for each device, for several devices at the same time.
func (r *runner) each(ctx context.Context, phase string, list []*device, f func(context.Context, *device) error) error {
	group, inside := errgroup.WithContext(ctx)
	group.SetLimit(r.cfg.Workers)
	var done atomic.Int64
	r.say(Progress{Phase: phase, Total: len(list)})
	for _, d := range list {
		if inside.Err() != nil {
			break
		}
		group.Go(func() error {
			if err := r.patiently(inside, func() error { return f(inside, d) }); err != nil {
				return fmt.Errorf("%s device %d: %w", phase, d.number, err)
			}
			r.say(Progress{Phase: phase, Done: int(done.Add(1)), Total: len(list)})
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// attempts is how many times the preparation tries an action whose errors may be temporary.
const attempts = 8

// The method `patiently` calls `f`, and retries while the error may be temporary: an overloaded
// hub, a rate limit or a broken connection.
func (r *runner) patiently(ctx context.Context, f func() error) error {
	pause := 100 * time.Millisecond
	for try := 1; ; try++ {
		err := f()
		if err == nil || try == attempts || ctx.Err() != nil || !temporary(ctx, err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause + rand.N(pause)):
		}
		pause = min(2*pause, 5*time.Second)
	}
}

func temporary(ctx context.Context, err error) bool {
	var no *refusal
	if errors.As(err, &no) {
		return no.status == http.StatusTooManyRequests || no.status >= 500
	}
	switch errorCode(ctx, err) {
	case "timeout", "connection-reset", "connection-closed", "no-port":
		return true
	}
	return false
}

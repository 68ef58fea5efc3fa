// Package load puts a hub under the load of many emulated devices: over real TLS, with the real
// protocol.
//
// The load follows the open model: each request has a scheduled start, which does not depend on
// when earlier requests end. Its latency is measured from the scheduled start. If the hub stalls,
// requests wait, and their latencies include the time that they wait. A load in which each request
// starts only after the answer to the previous request would hide this time ("coordinated
// omission").
//
// A request is counted as missed if it cannot start at its time, because too many requests of its
// kind are outstanding or because no device is idle.
package load

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gangway/internal/fleet"
	"gangway/wire"
)

// Config configures a run.
type Config struct {
	// Token is the join token with which devices onboard. It also names the hub.
	Token *wire.TokenFile
	// Maker makes the devices' TPMs; the hub must trust it. It may be nil if State has all devices.
	Maker *fleet.Maker
	// Devices is the number of emulated devices.
	Devices int
	// Onboarded is how many of the devices are onboarded before the measurement. The others onboard
	// during the measurement. If Onboarded is negative, the number depends on the mix: all devices
	// if no kind in the mix onboards devices, none if all kinds do, and otherwise half of them.
	Onboarded int
	// Mix lists the kinds of operations that the fleet performs, with their rates.
	Mix []Share
	// For is the duration of the measurement, during which the fleet starts operations.
	For time.Duration
	// Poisson makes the intervals between the operations of a kind random, with an exponential
	// distribution. Otherwise the intervals are equal.
	Poisson bool
	// Outstanding is the largest number of operations of one kind that may be under way at the same
	// time. Default: 2000.
	Outstanding int
	// Workers is the number of devices that are prepared at the same time. Default: 64.
	Workers int
	// NewConnections makes a device open a new connection for each request. Otherwise it keeps its
	// connection.
	NewConnections bool
	// State is the path of a file from which onboarded devices are loaded, and to which they are
	// saved. If State is empty, devices are neither loaded nor saved.
	State string
	// TestHub confirms that the hub is a test hub. Without it, Run refuses a hub that is not on
	// loopback.
	TestHub bool
	// Addresses is the number of source addresses from which the devices connect. Default: one for
	// each device. It has an effect only if the hub is on IPv4's loopback.
	Addresses int
	// Timeout bounds each request. Default: 60 seconds.
	Timeout time.Duration
	// Settle is how long all devices are idle before the measurement.
	Settle time.Duration
	// Ready, if set, is called when all devices are idle. The measurement starts when Ready
	// returns, so a test can start several fleets at the same time.
	Ready func(context.Context) error
	// HubPID is the id of the hub's process, and HubMetrics the URL of the hub's metrics. The run
	// reads how much CPU time and memory the hub uses from the metrics, or from the process if
	// HubMetrics is empty. Both may be zero.
	HubPID     int
	HubMetrics string
	// Forged contains the requests that the kind "forged" sends. Default: each run makes new ones.
	// The hub stores the EK certificates of unknown devices up to a limit, so new requests make its
	// database larger; several runs can send the same requests to avoid that.
	Forged [][]byte
	// LogLines is the number of lines in a POST of log lines. Default: 20.
	LogLines int
	// ObjectSize is the size of the object of an update, in bytes. Default: 64 KiB.
	ObjectSize int
	// Progress, if set, is called about once a second.
	Progress func(Progress)
}

// Share says how often a kind of operation starts. Several Shares form a mix.
type Share struct {
	Kind string  // see Kinds
	Rate float64 // operations a second
}

func (c Config) withDefaults() (Config, error) {
	c.Outstanding = cmp.Or(c.Outstanding, 2000)
	c.Workers = cmp.Or(c.Workers, 64)
	c.Timeout = cmp.Or(c.Timeout, time.Minute)
	c.LogLines = cmp.Or(c.LogLines, 20)
	c.ObjectSize = cmp.Or(c.ObjectSize, 64<<10)
	if len(c.Mix) == 0 {
		return c, errors.New("the mix is empty")
	}
	onboards := 0
	for i, s := range c.Mix {
		k := findKind(s.Kind)
		switch {
		case k == nil:
			return c, fmt.Errorf("unknown kind %q", s.Kind)
		case slices.ContainsFunc(c.Mix[:i], func(o Share) bool { return o.Kind == s.Kind }):
			return c, fmt.Errorf("the mix has %q twice", s.Kind)
		case !(s.Rate > 0) || s.Rate > 1e6:
			return c, fmt.Errorf("the rate of %q must be more than 0, and at most 1000000 a second", s.Kind)
		case k.onboards:
			onboards++
		}
	}
	if c.Devices < 1 || c.For <= 0 {
		return c, errors.New("the number of devices and the duration must be more than 0")
	}
	if c.Onboarded < 0 {
		switch onboards {
		case 0:
			c.Onboarded = c.Devices
		case len(c.Mix):
			c.Onboarded = 0
		default:
			c.Onboarded = c.Devices / 2
		}
	}
	c.Onboarded = min(c.Onboarded, c.Devices)
	return c, nil
}

// Phases of a run, in order.
const (
	PhaseOnboard = "onboarding" // make and onboard the devices of the preparation
	PhaseMake    = "making"     // make the devices that onboard in the measurement
	PhaseConnect = "connecting"
	PhaseSettle  = "settling"
	PhaseMeasure = "measuring"
	PhaseDrain   = "waiting for answers"
)

// Progress is the state of a run.
type Progress struct {
	Phase       string
	Done, Total int           // numbers of devices; 0 during the measurement
	Elapsed, Of time.Duration // time since the start of the measurement, and its whole duration
	Answered    int64         // operations that ended as expected
	Failed      int64
	Missed      int64
	Outstanding int64
	P99         time.Duration // 99th percentile of the latencies of all operations that ended as expected
}

// runner is a run.
type runner struct {
	cfg    Config
	to     *target
	probe  probe
	kinds  []*running
	all    *times
	late   *times
	routes routes

	devices []*device // the devices of this run
	spare   []*device // more devices in the state file
	idle    queue     // onboarded devices that have no request under way
	fresh   queue     // devices that are not onboarded
	pending atomic.Int64
	forged  [][]byte
	object  object

	anonymous connPool // connections for forged requests
	caMu      sync.Mutex
	ca        []byte // DER of the device CA

	reconnects atomic.Int64
	sources    atomic.Int64 // number of source addresses that hostile connections have used

	phase   atomic.Pointer[Progress]
	started time.Time // start of the run
	began   time.Time // start of the measurement
}

// device is an onboarded device, or a device whose onboarding request is ready to be sent. Only one
// goroutine at a time uses a device.
type device struct {
	number int
	id     string // empty: not onboarded
	key    *ecdsa.PrivateKey
	cert   []byte    // DER
	ca     []byte    // DER of the device CA; all devices share it
	conn   *conn     // nil: none
	used   time.Time // end of the last request on `conn`
	token  string    // access token
	until  time.Time
	trail  bool
	rev    int
	fresh  *freshDevice // nil: onboarded
}

type freshDevice struct {
	tpm     *fleet.Device
	request []byte
}

// running is the state of one kind of operation during a run: its rate, its counters and its
// latencies.
type running struct {
	*kind
	rate      float64
	slots     chan struct{}
	scheduled atomic.Int64
	missed    tally
	ok        atomic.Int64
	refused   tally // refusals that were expected
	errors    tally
	latency   *times // latencies of the operations that ended as expected, measured from the scheduled start
	failed    *times // latencies of the other operations
	ended     atomic.Bool
}

// Run prepares the devices, puts the hub under load, and returns the results. If `ctx` ends during
// the measurement, the report has the results up to that time. Run returns a report together with
// an error if it cannot save the devices or read the usage of the hub's process.
func Run(ctx context.Context, cfg Config) (report *Report, err error) {
	if cfg, err = cfg.withDefaults(); err != nil {
		return nil, err
	}
	host, name, at, err := resolve(ctx, cfg.Token.Hub, cfg.TestHub)
	if err != nil {
		return nil, err
	}
	r := &runner{cfg: cfg, probe: probe{cfg.HubPID, cfg.HubMetrics}, all: newTimes(), late: newTimes(), started: time.Now()}
	if r.to, err = newTarget(cfg.Token, host, name, at, cfg.Timeout); err != nil {
		return nil, err
	}
	r.to.spread = newSpread(at, cfg.Addresses)
	for _, s := range cfg.Mix {
		r.kinds = append(r.kinds, &running{kind: findKind(s.Kind), rate: s.Rate, slots: make(chan struct{}, cfg.Outstanding), latency: newTimes(), failed: newTimes()})
	}
	if err := allowDescriptors(r.descriptors()); err != nil {
		return nil, err
	}
	stop := r.reportProgress()
	defer stop()
	defer r.closeAll()
	defer func() { err = cmp.Or(err, r.saveDevices()) }()
	report = r.newReport(at)
	if err := r.prepare(ctx, report); err != nil {
		return nil, err
	}
	return report, r.measure(ctx, report)
}

// descriptors returns how many open files the run may need.
func (r *runner) descriptors() uint64 {
	n := 100 + 2*r.cfg.Workers
	for _, k := range r.kinds {
		if k.keeps && r.keeps() && !k.onboards && !k.trail {
			continue // its requests use the connections that are counted below
		}
		n += min(r.cfg.Outstanding, int(k.rate*r.cfg.Timeout.Seconds())+1)
	}
	if r.keeps() {
		n += r.cfg.Devices
	}
	return uint64(n)
}

// The method `keeps` reports whether devices keep their connections open between requests.
func (r *runner) keeps() bool {
	return !r.cfg.NewConnections && slices.ContainsFunc(r.kinds, func(k *running) bool { return k.keeps })
}

func (r *runner) needsTrail() bool {
	return slices.ContainsFunc(r.kinds, func(k *running) bool { return k.trail })
}

func (r *runner) needsToken() bool {
	return slices.ContainsFunc(r.kinds, func(k *running) bool { return k.token })
}

// deviceCA returns the certificate of the device CA, `der`, as a copy that all devices share.
func (r *runner) deviceCA(der []byte) []byte {
	r.caMu.Lock()
	defer r.caMu.Unlock()
	if !bytes.Equal(r.ca, der) {
		r.ca = der
	}
	return r.ca
}

func (r *runner) closeAll() {
	r.anonymous.close()
	for _, d := range r.devices {
		if d.conn != nil {
			d.conn.close()
			d.conn = nil
		}
	}
}

// saveDevices saves the onboarded devices in the state file.
func (r *runner) saveDevices() error {
	if r.cfg.State == "" || len(r.devices) == 0 {
		return nil
	}
	return saveState(r.cfg.State, r.stateHeader(), append(slices.Clone(r.devices), r.spare...))
}

func (r *runner) stateHeader() stateHeader {
	return stateHeader{HubName: r.cfg.Token.HubName, Owner: r.cfg.Token.Owner}
}

// measure runs the schedules of all kinds until they end, waits for the answers, and completes the
// report.
func (r *runner) measure(ctx context.Context, report *Report) error {
	before, err := r.readHub(ctx)
	if err != nil {
		return err
	}
	own := ownUsage()
	r.began = time.Now()
	r.say(Progress{Phase: PhaseMeasure, Of: r.cfg.For})
	var scheduling, working sync.WaitGroup
	for i, k := range r.kinds {
		scheduling.Go(func() { r.schedule(ctx, k, uint64(i), &working) })
	}
	scheduling.Wait()
	report.Interrupted = ctx.Err() != nil
	scheduled := time.Since(r.began)
	r.say(Progress{Phase: PhaseDrain, Elapsed: scheduled, Of: r.cfg.For})
	working.Wait()
	took := time.Since(r.began)
	after, err := r.readHub(context.WithoutCancel(ctx))
	report.finish(r, scheduled, took, before, after, own)
	return err
}

func (r *runner) readHub(ctx context.Context) (usage, error) {
	if r.probe.source() == "" {
		return usage{}, nil
	}
	return r.probe.read(ctx)
}

// say sets the phase that reportProgress reports. The method `progress` adds the counters later.
func (r *runner) say(p Progress) { r.phase.Store(&p) }

// reportProgress calls Config.Progress once a second until the returned function is called.
func (r *runner) reportProgress() (stop func()) {
	if r.cfg.Progress == nil {
		return func() {}
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				if p := r.phase.Load(); p != nil {
					r.cfg.Progress(r.progress(*p))
				}
			}
		}
	}()
	return sync.OnceFunc(func() { close(done); <-ended })
}

func (r *runner) progress(p Progress) Progress {
	if p.Phase == PhaseMeasure {
		p.Elapsed = time.Since(r.began)
	}
	for _, k := range r.kinds {
		p.Answered += k.ok.Load() + k.refused.sum()
		p.Failed += k.errors.sum()
		p.Missed += k.missed.sum()
		p.Outstanding += int64(len(k.slots))
	}
	p.P99 = time.Duration(r.all.summary().P99 * float64(time.Millisecond))
	return p
}

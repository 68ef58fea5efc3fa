package load

import (
	"math"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"time"

	"gangway/internal/version"
)

// Report is the result of a run. Times are seconds, latencies milliseconds.
type Report struct {
	Program     string      `json:"program"` // version of gangway-fleet
	CPUs        int         `json:"cpus"`    // number of CPUs of the machine on which the fleet runs
	Hub         string      `json:"hub"`
	HubName     string      `json:"hub_name"`
	Address     string      `json:"address"`
	Started     time.Time   `json:"started"`
	Devices     int         `json:"devices"`
	Arrivals    string      `json:"arrivals"` // "poisson" or "even"
	Kept        bool        `json:"connections_kept"`
	Interrupted bool        `json:"interrupted"`
	Preparation Preparation `json:"preparation"`

	// Scheduled is the time during which requests started. Seconds is the time until the last
	// answer.
	Scheduled  float64         `json:"seconds_scheduled"`
	Seconds    float64         `json:"seconds"`
	Active     int             `json:"devices_active"` // at the end
	Kinds      []KindReport    `json:"kinds"`
	Requests   []RequestReport `json:"requests"`
	Total      Total           `json:"total"`
	HubProcess *HubProcess     `json:"hub_process,omitempty"`
	Generator  Generator       `json:"generator"`
}

// Preparation describes the preparation of the devices, before the measurement.
type Preparation struct {
	Loaded    int             `json:"devices_loaded"` // devices loaded from the state file
	Onboarded int             `json:"devices_onboarded"`
	Connected int             `json:"devices_connected"`
	Seconds   float64         `json:"seconds"`
	Requests  []RequestReport `json:"requests"`

	Handshakes int64 `json:"handshakes"`
	Reconnects int64 `json:"reconnects"`
	// HubBefore is the hub's usage before devices opened their persistent connections. HubIdle is
	// the hub's usage when these connections are open and idle.
	HubBefore *usage `json:"hub_before,omitempty"`
	HubIdle   *usage `json:"hub_idle,omitempty"`
}

// KindReport is the result of one kind of operations.
type KindReport struct {
	Kind      string           `json:"kind"`
	Rate      float64          `json:"rate"` // planned starts per second
	Scheduled int64            `json:"scheduled"`
	Missed    map[string]int64 `json:"missed"`  // starts that were not possible, by reason
	OK        int64            `json:"ok"`      // operations that succeeded; 0 for hostile kinds
	Refused   map[string]int64 `json:"refused"` // hostile operations that the hub refused, by code
	Errors    map[string]int64 `json:"errors"`  // by code
	// Latency has the latencies of operations that ended as expected, and ErrorLatency the
	// latencies of the other operations. Both are measured from the scheduled start.
	Latency      Latency `json:"latency_ms"`
	ErrorLatency Latency `json:"error_latency_ms"`
}

// RequestReport counts the requests of one route of the hub. An operation may send several
// requests.
type RequestReport struct {
	Route    string           `json:"route"`
	Answered int64            `json:"answered"`
	Statuses map[string]int64 `json:"statuses"`
	Errors   map[string]int64 `json:"errors"`     // requests without an answer
	Latency  Latency          `json:"latency_ms"` // measured from the sending, so without the TLS handshake
}

// Total is the sum of all kinds.
type Total struct {
	Scheduled  int64   `json:"scheduled"`
	Missed     int64   `json:"missed"`
	OK         int64   `json:"ok"`
	Refused    int64   `json:"refused"`
	Errors     int64   `json:"errors"`
	PerSecond  float64 `json:"operations_per_second"` // operations that ended as expected
	Requests   int64   `json:"requests"`              // requests that the hub answered
	Handshakes int64   `json:"handshakes"`            // TLS handshakes that were completed
	Reconnects int64   `json:"reconnects"`            // requests repeated because the kept connection was closed
	Latency    Latency `json:"latency_ms"`
}

// HubProcess describes the resources that the hub's process used during the measurement.
type HubProcess struct {
	Source       string  `json:"source"`
	Before       usage   `json:"before"`
	After        usage   `json:"after"`
	CPU          float64 `json:"cpu_seconds"`
	PerRequest   float64 `json:"cpu_seconds_per_request"`
	PerOperation float64 `json:"cpu_seconds_per_operation"`
	Load         float64 `json:"cpus_used"` // CPU seconds per second
}

// Generator describes the resources that the fleet itself used. If StartDelay is large, the fleet
// started its operations too late, and the latencies in the report include this delay.
type Generator struct {
	CPU        float64 `json:"cpu_seconds"` // in the measurement
	MaxRSS     int64   `json:"max_rss_bytes"`
	StartDelay Latency `json:"start_delay_ms"` // time from the scheduled start to the real start
}

func (r *runner) newReport(at netip.AddrPort) *Report {
	arrivals := "even"
	if r.cfg.Poisson {
		arrivals = "poisson"
	}
	return &Report{
		Program: version.Current.Version, CPUs: runtime.NumCPU(), Hub: r.cfg.Token.Hub, HubName: r.cfg.Token.HubName, Address: at.String(),
		Started: time.Now().UTC().Truncate(time.Second), Devices: r.cfg.Devices, Arrivals: arrivals, Kept: r.keeps(),
	}
}

// finish adds the results of the measurement to the report.
func (p *Report) finish(r *runner, scheduled, took time.Duration, before, after, own usage) {
	p.Scheduled, p.Seconds = seconds(scheduled), seconds(took)
	for _, d := range r.devices {
		if d.id != "" {
			p.Active++
		}
	}
	t := &p.Total
	for _, k := range r.kinds {
		kr := KindReport{
			Kind: k.name, Rate: k.rate, Scheduled: k.scheduled.Load(), Missed: k.missed.copy(), OK: k.ok.Load(),
			Refused: k.refused.copy(), Errors: k.errors.copy(), Latency: k.latency.summary(), ErrorLatency: k.failed.summary(),
		}
		t.Scheduled += kr.Scheduled
		t.Missed += k.missed.sum()
		t.OK += kr.OK
		t.Refused += k.refused.sum()
		t.Errors += k.errors.sum()
		p.Kinds = append(p.Kinds, kr)
	}
	p.Requests = r.routes.reports()
	for _, q := range p.Requests {
		t.Requests += q.Answered
	}
	t.PerSecond = round(float64(t.OK+t.Refused) / took.Seconds())
	t.Reconnects = r.reconnects.Load()
	t.Handshakes = r.to.handshakes.Load()
	t.Latency = r.all.summary()
	if r.probe.source() != "" {
		h := &HubProcess{Source: r.probe.source(), Before: before, After: after, CPU: round(after.CPU - before.CPU), Load: round((after.CPU - before.CPU) / took.Seconds())}
		if t.Requests > 0 {
			h.PerRequest = (after.CPU - before.CPU) / float64(t.Requests)
		}
		if n := t.OK + t.Refused + t.Errors; n > 0 {
			h.PerOperation = (after.CPU - before.CPU) / float64(n)
		}
		p.HubProcess = h
	}
	now := ownUsage()
	p.Generator = Generator{CPU: round(now.CPU - own.CPU), MaxRSS: now.RSS, StartDelay: r.late.summary()}
}

// AsExpected reports whether all operations started and ended as expected.
func (p *Report) AsExpected() bool {
	return !p.Interrupted && p.Total.Errors == 0 && p.Total.Missed == 0
}

func (r *routes) reports() []RequestReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]RequestReport, 0, len(r.by))
	for name, c := range r.by {
		list = append(list, RequestReport{name, c.statuses.sum(), c.statuses.copy(), c.errors.copy(), c.latency.summary()})
	}
	slices.SortFunc(list, func(a, b RequestReport) int { return strings.Compare(a.Route, b.Route) })
	return list
}

func seconds(d time.Duration) float64 { return round(d.Seconds()) }

// round rounds to thousandths.
func round(v float64) float64 { return math.Round(v*1000) / 1000 }

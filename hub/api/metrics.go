package api

import (
	"net/http"
	"time"

	"gangway/hub/evidence"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

type metrics struct {
	registry    *prometheus.Registry
	enrolments  *prometheus.CounterVec
	activations *prometheus.CounterVec
	duration    *prometheus.HistogramVec
	panics      prometheus.Counter
	overloaded  prometheus.Counter
	refusals    *prometheus.CounterVec
	errors      *prometheus.CounterVec
	// refusedByRules counts the onboarding requests that a policy, an EK list or the trust store
	// refused.
	refusedByRules prometheus.Counter
}

// Values of the label "kind" of gangway_errors_total.
const (
	busyError     = "database-busy" // the database was locked, too slow, or unavailable
	fullError     = "disk-full"
	internalError = "internal" // anything else; the hub's log has the cause
)

// ruleCodes are the codes of refusals by a policy, an EK list or the trust store. The other
// refusals are about forged, broken or outdated requests.
var ruleCodes = map[string]bool{
	"policy": true, "tpm-software": true, "ek-unlisted": true, evidence.CodeKind: true, evidence.CodeCertificateRequired: true,
	evidence.CodeDistrusted: true, evidence.CodeUntrusted: true, evidence.CodeChainExpired: true,
}

// The method `judged` counts an onboarding request by its outcome, such as "accepted" or a problem
// code.
func (m *metrics) judged(outcome string) {
	m.enrolments.WithLabelValues(outcome).Inc()
	if ruleCodes[outcome] {
		m.refusedByRules.Inc()
	}
}

// count returns a counter's value.
func count(c prometheus.Counter) int { return int(counterOf(c).GetValue()) }

func newMetrics(r *prometheus.Registry) *metrics {
	m := &metrics{
		registry: r,
		enrolments: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gangway_enrolments_total", Help: "Onboarding requests by outcome: accepted, or the refusal's code."}, []string{"outcome"}),
		activations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gangway_activations_total", Help: "Activations by outcome: accepted, or the refusal's code."}, []string{"outcome"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "gangway_request_seconds", Help: "Time to answer, by route.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14)}, []string{"route"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "gangway_panics_total", Help: "Requests that ended in a panic. A value above 0 means that the hub has a defect."}),
		overloaded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "gangway_overloaded_total", Help: "Requests that were refused because too many other requests were running."}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gangway_refusals_total", Help: "Requests that were answered with an error, by the error's code."}, []string{"code"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gangway_errors_total", Help: "Requests that failed because of the hub, by kind: database-busy, disk-full or internal."}, []string{"kind"}),
		refusedByRules: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "gangway_rule_refusals_total", Help: "Onboarding requests that a policy, an EK list or the trust store refused."}),
	}
	for _, kind := range []string{busyError, fullError, internalError} {
		m.errors.WithLabelValues(kind) // the series exist before the first error, so that monitoring sees the first error as an increase
	}
	m.enrolments.WithLabelValues("accepted")
	r.MustRegister(m.refusals, m.errors, m.refusedByRules, m.enrolments, m.activations, m.duration, m.panics, m.overloaded,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// The method `timed` measures how long a route takes.
func (m *metrics) timed(route string, next http.Handler) http.Handler {
	o := m.duration.WithLabelValues(route)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		defer func() { o.Observe(time.Since(start).Seconds()) }()
		next.ServeHTTP(w, r)
	})
}

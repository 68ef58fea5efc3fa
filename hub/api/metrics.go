package api

import (
	"net/http"
	"time"

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
}

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
			Name: "gangway_overloaded_total", Help: "Requests that were refused because too many others were running."}),
	}
	r.MustRegister(m.enrolments, m.activations, m.duration, m.panics, m.overloaded,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// timed measures how long a route takes.
func (m *metrics) timed(route string, next http.Handler) http.Handler {
	o := m.duration.WithLabelValues(route)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		defer func() { o.Observe(time.Since(start).Seconds()) }()
		next.ServeHTTP(w, r)
	})
}

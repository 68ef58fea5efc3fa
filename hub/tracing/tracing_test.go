package tracing_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"gangway/hub/tracing"
	"gangway/hub/tracing/step"
	"gangway/hub/tracing/tracetest"
	"gangway/internal/locked"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.opentelemetry.io/otel/attribute"
)

var all = 1.0

func counts(t *testing.T, c prometheus.Collector) map[string]float64 {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(c)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		got[strings.TrimSuffix(strings.TrimPrefix(f.GetName(), "gangway_trace_spans_"), "total")] = value(f.Metric[0])
	}
	return got
}

func value(m *dto.Metric) float64 { return m.Counter.GetValue() }

// The environment variables of OpenTelemetry's specification must configure the exporter as the
// flags do.
func TestVariablesConfigureTraces(t *testing.T) {
	c := tracetest.New(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", strings.TrimSuffix(c.URL, "/v1/traces"))
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20secret")
	t.Setenv("OTEL_TRACES_SAMPLER", "always_on")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=hub-7")
	if on, err := tracing.Wanted(""); !on || err != nil {
		t.Fatal(on, err)
	}
	traces, err := tracing.New(t.Context(), tracing.Config{Version: "1.2.3", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, span := traces.Tracer().Start(t.Context(), "request")
	span.SetAttributes(attribute.String("long", strings.Repeat("x", 10_000)))
	_, child := step.Begin(ctx, "step")
	child.End()
	span.End()
	traces.Close()
	spans := c.Spans(t)
	if len(spans) != 2 || spans[0].Name != "step" || string(spans[0].ParentSpanId) != string(spans[1].SpanId) || string(spans[0].TraceId) != string(spans[1].TraceId) {
		t.Fatalf("%v", spans)
	}
	if n := len(tracetest.Attribute(spans[1], "long").GetStringValue()); n != 256 {
		t.Errorf("an attribute has %d bytes", n)
	}
	if got := c.Headers().Get("X-Key"); got != "a secret" {
		t.Errorf("the header is %q", got)
	}
	for _, part := range []string{"hub-7", "gangway", "1.2.3"} {
		if !strings.Contains(c.Text(), part) {
			t.Errorf("the resource lacks %s", part)
		}
	}
	if got := counts(t, traces); got[""] != 2 || got["sent_"] != 2 || got["lost_"] != 0 {
		t.Errorf("%v", got)
	}
}

func TestVariablesCanTurnTracesOff(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://traces.example/v1/traces")
	for _, c := range []struct{ variable, value, endpoint string }{{"OTEL_SDK_DISABLED", "true", "https://traces.example"}, {"OTEL_TRACES_EXPORTER", "none", ""}} {
		t.Run(c.variable, func(t *testing.T) {
			t.Setenv(c.variable, c.value)
			if on, err := tracing.Wanted(c.endpoint); on || err != nil {
				t.Error(on, err)
			}
		})
	}
	t.Setenv("OTEL_TRACES_EXPORTER", "zipkin")
	if _, err := tracing.Wanted(""); err == nil || !strings.Contains(err.Error(), "otlp or none") {
		t.Error(err)
	}
}

func TestRefusesDoubtfulConfiguration(t *testing.T) {
	two, no := 2.0, -0.5
	for name, c := range map[string]struct {
		endpoint, variable, value string
		ratio                     *float64
		want                      string
	}{
		"no URL":                {endpoint: "traces.example:4318", want: "is not a URL"},
		"a password in the URL": {endpoint: "https://u:hunter2@traces.example/", want: "is not a URL"},
		"plain HTTP":            {endpoint: "http://traces.example/v1/traces", want: "must begin with https"},
		"gRPC":                  {endpoint: "https://traces.example/", variable: "OTEL_EXPORTER_OTLP_PROTOCOL", value: "grpc", want: "http/protobuf"},
		"a ratio above 1":       {endpoint: "https://traces.example/", ratio: &two, want: "from 0 to 1"},
		"a negative ratio":      {endpoint: "https://traces.example/", ratio: &no, want: "from 0 to 1"},
		"an unknown sampler":    {endpoint: "https://traces.example/", variable: "OTEL_TRACES_SAMPLER", value: "mine", want: "traceidratio"},
		"a sampler without arg": {endpoint: "https://traces.example/", variable: "OTEL_TRACES_SAMPLER", value: "parentbased_traceidratio", want: "OTEL_TRACES_SAMPLER_ARG"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.variable != "" {
				t.Setenv(c.variable, c.value)
			}
			_, err := tracing.New(t.Context(), tracing.Config{Endpoint: c.endpoint, Ratio: c.ratio, Log: slog.New(slog.DiscardHandler)})
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// Threat: a collector that is down, or takes connections and never answers, stops the hub or fills
// its memory. Spans must be lost, the loss must be counted and logged once, and nothing must wait.
func TestCollectorThatIsDownLosesOnlyTraces(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	var log locked.Buffer
	traces, err := tracing.New(t.Context(), tracing.Config{Endpoint: "http://" + silent.Addr().String() + "/v1/traces", Ratio: &all, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	const many = 50_000
	begun := time.Now()
	for range many {
		_, span := traces.Tracer().Start(context.Background(), "request")
		span.End()
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("%d spans took %s", many, took)
	}
	begun = time.Now()
	traces.Close()
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("Close took %s", took)
	}
	got := counts(t, traces)
	// The queue holds at most 2048 spans, and one batch of 512 may be on its way.
	if got[""] != many || got["sent_"] != 0 || got["lost_"] > 2048+512 {
		t.Errorf("%v", got)
	}
}

func TestFirstFailureOfAnOutageIsLogged(t *testing.T) {
	t.Parallel()
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
	defer refusing.Close()
	var log locked.Buffer
	traces, err := tracing.New(t.Context(), tracing.Config{Endpoint: refusing.URL + "/v1/traces", Ratio: &all, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 { // two batches
		_, span := traces.Tracer().Start(context.Background(), "request")
		span.End()
	}
	traces.Close()
	if got := counts(t, traces); got["lost_"] != 1000 {
		t.Errorf("%v", got)
	}
	if n := strings.Count(log.String(), "could not send traces"); n != 1 {
		t.Errorf("%d lines: %s", n, log.String())
	}
}

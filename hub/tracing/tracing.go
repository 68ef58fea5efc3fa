// Package tracing sends traces of the hub's requests to the operator's collector, by OTLP over
// HTTP. It uses OpenTelemetry's SDK, and so the environment variables of its specification
// (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/).
//
// Traces never delay requests. Spans wait in a bounded queue in memory. If the collector is too
// slow or does not answer, spans are lost, which the package only counts and logs.
package tracing

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"gangway/hub/tracing/step"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// DefaultRatio is the fraction of the requests that are traced, unless the operator sets another
// ratio.
const DefaultRatio = 0.1

// maxValue bounds the value of an attribute, in bytes.
const maxValue = 256

// lastSpans is how long Close waits for the collector to take the last spans.
const lastSpans = 3 * time.Second

// The environment variables that this package reads itself. OpenTelemetry's packages read the
// other variables.
const (
	endpointVariable       = "OTEL_EXPORTER_OTLP_ENDPOINT"
	tracesEndpointVariable = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	protocolVariable       = "OTEL_EXPORTER_OTLP_PROTOCOL"
	tracesProtocolVariable = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
	exporterVariable       = "OTEL_TRACES_EXPORTER"
	samplerVariable        = "OTEL_TRACES_SAMPLER"
	samplerArgVariable     = "OTEL_TRACES_SAMPLER_ARG"
	disabledVariable       = "OTEL_SDK_DISABLED"
)

// Config configures New.
type Config struct {
	// Endpoint is the URL to which traces are sent, for example https://traces.example/v1/traces.
	// If Endpoint is empty, the URL comes from OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or
	// OTEL_EXPORTER_OTLP_ENDPOINT. The scheme http is allowed only for a collector on this machine.
	Endpoint string
	// Ratio is the fraction of the requests that are traced, from 0 to 1. If it is nil,
	// OTEL_TRACES_SAMPLER decides or, without this variable, DefaultRatio.
	Ratio *float64
	// Version is the program's version.
	Version string
	Log     *slog.Logger
}

// Traces makes traces and sends them.
type Traces struct {
	provider *sdktrace.TracerProvider
	counts
}

// counts are the metrics of the exporter.
type counts struct{ ended, sent, lost prometheus.Counter }

// Wanted reports whether traces are wanted: the endpoint of the command line is not empty, or the
// environment variables name an endpoint. OTEL_SDK_DISABLED turns traces off.
func Wanted(endpoint string) (bool, error) {
	if strings.EqualFold(os.Getenv(disabledVariable), "true") {
		return false, nil
	}
	if endpoint != "" {
		return true, nil
	}
	switch e := os.Getenv(exporterVariable); e {
	case "", "otlp":
		return endpointOf("") != "", nil
	case "none":
		return false, nil
	default:
		return false, fmt.Errorf("%s is %q: the hub supports only the exporter otlp; write otlp or none", exporterVariable, e)
	}
}

func endpointOf(endpoint string) string {
	return cmp.Or(endpoint, os.Getenv(tracesEndpointVariable), os.Getenv(endpointVariable))
}

// New prepares to send traces to the operator's collector. It does not connect to the collector
// yet.
func New(ctx context.Context, c Config) (*Traces, error) {
	if err := checkEndpoint(endpointOf(c.Endpoint)); err != nil {
		return nil, err
	}
	if p := cmp.Or(os.Getenv(tracesProtocolVariable), os.Getenv(protocolVariable)); p == "grpc" {
		return nil, fmt.Errorf("%s is grpc: the hub sends traces over HTTP only; write http/protobuf, and name the collector's port for HTTP", protocolVariable)
	}
	sampler, err := samplerOf(c.Ratio)
	if err != nil {
		return nil, err
	}
	exporter, err := otlptracehttp.New(ctx, exporterOptions(c.Endpoint)...)
	if err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	about, err := resource.New(ctx, resource.WithTelemetrySDK(),
		resource.WithAttributes(attribute.String("service.name", "gangway"), attribute.String("service.version", c.Version)), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("traces: OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	t := &Traces{counts: newCounts()}
	limits := sdktrace.NewSpanLimits()
	if limits.AttributeValueLengthLimit < 0 || limits.AttributeValueLengthLimit > maxValue {
		limits.AttributeValueLengthLimit = maxValue
	}
	options := []sdktrace.TracerProviderOption{
		sdktrace.WithResource(about), sdktrace.WithRawSpanLimits(limits),
		sdktrace.WithSpanProcessor(counting{sdktrace.NewBatchSpanProcessor(&reporting{SpanExporter: exporter, counts: t.counts, log: c.Log}), t.ended}),
	}
	if sampler != nil {
		options = append(options, sdktrace.WithSampler(sampler))
	}
	t.provider = sdktrace.NewTracerProvider(options...)
	return t, nil
}

func exporterOptions(endpoint string) (options []otlptracehttp.Option) {
	if endpoint != "" {
		options = append(options, otlptracehttp.WithEndpointURL(endpoint))
	}
	if os.Getenv("OTEL_EXPORTER_OTLP_COMPRESSION") == "" && os.Getenv("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION") == "" {
		options = append(options, otlptracehttp.WithCompression(otlptracehttp.GzipCompression))
	}
	return options
}

func checkEndpoint(endpoint string) error {
	u, err := url.Parse(endpoint)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http":
		return errors.New("the endpoint of the traces is not a URL like https://traces.example/v1/traces") // it may contain a secret
	case u.Scheme == "http" && !onThisMachine(u.Hostname()):
		return fmt.Errorf("the endpoint of the traces, http://%s, is on another machine, so its URL must begin with https", u.Host)
	}
	return nil
}

func onThisMachine(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// samplerOf returns the sampler for a ratio, or nil if OTEL_TRACES_SAMPLER names the sampler. It
// checks this variable, because if it were malformed, the SDK would record every request.
func samplerOf(ratio *float64) (sdktrace.Sampler, error) {
	if ratio != nil {
		if !(*ratio >= 0 && *ratio <= 1) {
			return nil, fmt.Errorf("the ratio of the traces is %v: write a number from 0 to 1, such as 0.1 for a tenth of the requests", *ratio)
		}
		return sdktrace.ParentBased(sdktrace.TraceIDRatioBased(*ratio)), nil
	}
	switch name := os.Getenv(samplerVariable); name {
	case "":
		return sdktrace.ParentBased(sdktrace.TraceIDRatioBased(DefaultRatio)), nil
	case "traceidratio", "parentbased_traceidratio":
		arg := os.Getenv(samplerArgVariable)
		if n, err := strconv.ParseFloat(arg, 64); err != nil || !(n >= 0 && n <= 1) {
			return nil, fmt.Errorf("%s is %q: write a number from 0 to 1, such as 0.1 for a tenth of the requests", samplerArgVariable, arg)
		}
	case "always_on", "always_off", "parentbased_always_on", "parentbased_always_off":
	default:
		return nil, fmt.Errorf("%s is %q: write traceidratio, always_on, always_off, or one of these after parentbased_", samplerVariable, name)
	}
	return nil, nil
}

// Tracer returns the tracer of the hub's requests.
func (t *Traces) Tracer() trace.Tracer { return t.provider.Tracer(step.Scope) }

// Close sends the spans that are still in the queue. It waits at most lastSpans for the collector.
func (t *Traces) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), lastSpans)
	defer cancel()
	_ = t.provider.Shutdown(ctx) // reporting has counted and logged what could not be sent
}

func newCounts() counts {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	return counts{
		ended: counter("gangway_trace_spans_total", "Trace spans that the hub has recorded. Those that the operator's collector has not accepted are waiting or lost."),
		sent:  counter("gangway_trace_spans_sent_total", "Trace spans that the operator's collector has accepted."),
		lost:  counter("gangway_trace_spans_lost_total", "Trace spans that were sent, but that the operator's collector did not accept."),
	}
}

// Describe implements prometheus.Collector.
func (c counts) Describe(d chan<- *prometheus.Desc) {
	c.ended.Describe(d)
	c.sent.Describe(d)
	c.lost.Describe(d)
}

// Collect implements prometheus.Collector.
func (c counts) Collect(m chan<- prometheus.Metric) {
	c.ended.Collect(m)
	c.sent.Collect(m)
	c.lost.Collect(m)
}

// counting counts the recorded spans before they enter the queue, which drops spans if it is full.
type counting struct {
	sdktrace.SpanProcessor
	ended prometheus.Counter
}

func (c counting) OnEnd(s sdktrace.ReadOnlySpan) {
	if s.SpanContext().IsSampled() {
		c.ended.Inc()
	}
	c.SpanProcessor.OnEnd(s)
}

// reporting counts the sent and the lost spans, and logs the first failure of each outage. Without
// this type, the SDK would log every failure to the standard error.
type reporting struct {
	sdktrace.SpanExporter
	counts
	log       *slog.Logger
	complains bool // the last batch failed; only the goroutine that sends batches uses it
}

func (r *reporting) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := r.SpanExporter.ExportSpans(ctx, spans)
	if err == nil {
		r.sent.Add(float64(len(spans)))
	} else {
		r.lost.Add(float64(len(spans)))
		if !r.complains {
			r.log.Warn("could not send traces; traces are lost until the collector works again", "err", err)
		}
	}
	r.complains = err != nil
	return nil
}

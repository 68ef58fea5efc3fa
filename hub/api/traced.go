package api

import (
	"context"
	"log/slog"
	"net/http"
	"strings"

	"gangway/hub/store"
	"gangway/hub/tracing/step"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Traces makes the traces of requests. Its own metrics are exported together with the hub's.
type Traces interface {
	prometheus.Collector
	Tracer() trace.Tracer
}

// traceparent is the header of W3C Trace Context that the hub reads. It never reads tracestate and
// baggage, whose texts are chosen by clients.
const (
	traceparent    = "Traceparent"
	traceparentLen = 55 // of version 00
)

// beginTrace begins the trace of a request. The span is nil if the sampler does not choose the
// request, or if the hub makes no traces.
func (s *Server) beginTrace(ctx context.Context, r *http.Request) (context.Context, trace.Span) {
	if s.tracer == nil {
		return ctx, nil
	}
	from, options := s.traceParent(ctx, r)
	traced, span := s.tracer.Start(from, "request", options...)
	if !span.IsRecording() {
		return ctx, nil
	}
	return traced, span
}

// traceParent decides what effect the traceparent header of a request has. Anyone can send this
// header, and a client must not decide which requests are traced, so the hub begins a new trace
// with a link to the client's trace. But if the header comes from the hub's proxy and the operator
// trusts it, the hub continues the proxy's trace.
func (s *Server) traceParent(ctx context.Context, r *http.Request) (context.Context, []trace.SpanStartOption) {
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindServer)}
	values := r.Header[traceparent]
	if len(values) != 1 || len(values[0]) != traceparentLen {
		return ctx, options
	}
	carrier := propagation.MapCarrier{strings.ToLower(traceparent): values[0]}
	remote := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), carrier))
	switch {
	case !remote.IsValid():
	case originIn(ctx).proxied && s.cfg.Proxy.Traces:
		ctx = trace.ContextWithRemoteSpanContext(ctx, remote)
	default:
		options = append(options, trace.WithLinks(trace.Link{SpanContext: remote}))
	}
	return ctx, options
}

// endTrace ends the trace of a request. The trace has the route's pattern instead of the path,
// because paths contain secrets. Call endTrace with defer: if the handler panics, endTrace panics
// again after ending the trace.
func (s *Server) endTrace(span trace.Span, a *answer, r *http.Request) {
	p := recover()
	status := a.status
	switch {
	case p != nil:
		status = http.StatusInternalServerError
		span.SetAttributes(attribute.String("error.type", "panic"))
	case status == 0:
		status = http.StatusOK // net/http sends this status if a handler writes nothing
	}
	method, path, ok := strings.Cut(r.Pattern, " ")
	if !ok { // no route
		method, path = knownMethod(r.Method), ""
	}
	span.SetName(method + " " + path)
	if path == "" {
		span.SetName(routeOf(&http.Request{Method: r.Method}))
	}
	span.SetAttributes(attribute.String("http.request.method", knownMethod(r.Method)), attribute.Int("http.response.status_code", status),
		attribute.String("url.scheme", "https"), attribute.Int64("http.response.body.size", a.bytes))
	if path != "" {
		span.SetAttributes(attribute.String("http.route", path))
	}
	if actor := store.ActorIn(r.Context()); actor != nil && actor.Means != "" {
		span.SetAttributes(attribute.String("gangway.means", actor.Means))
	}
	if c, ok := r.Context().Value(connKey{}).(*connState); ok {
		if shook := c.shook.Swap(0); shook > 0 { // the connection's first request with a trace
			span.SetAttributes(attribute.Float64("gangway.tls.handshake_seconds", float64(shook)/1e9))
		}
	}
	if status >= http.StatusInternalServerError {
		span.SetStatus(otelcodes.Error, "")
	}
	span.End()
	if p != nil {
		panic(p)
	}
}

// traceError adds the stable code of a refusal to the request's trace.
func traceError(r *http.Request, code string) {
	if span := trace.SpanFromContext(r.Context()); span.IsRecording() {
		span.SetAttributes(attribute.String("error.type", code))
	}
}

// traceOf returns an attribute for log lines that has the id of the request's trace. If there is no
// trace, the attribute is empty, so the log leaves it out.
func traceOf(ctx context.Context) slog.Attr {
	if id := step.ID(ctx); id != "" {
		return slog.String("trace", id)
	}
	return slog.Attr{}
}

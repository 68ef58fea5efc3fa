// Package step adds steps of a request, such as a signature or a read of the database, to the
// request's trace. If the request has no trace, a step costs nothing: it allocates no memory and
// reads no clock.
//
// The names of steps are constants, or names of functions. Neither names nor attributes contain
// text from a client or a secret, because the trace leaves the hub.
package step

import (
	"context"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Scope is the name of the hub's instrumentation in the traces.
const Scope = "gangway"

// Recorded reports whether the trace of the context's request is being recorded.
func Recorded(ctx context.Context) bool { return trace.SpanFromContext(ctx).IsRecording() }

// Begin begins a step of the context's request. The caller must end the span with its method End.
// If the request has no trace, Begin returns `ctx` and a span whose methods do nothing.
func Begin(ctx context.Context, name string) (context.Context, trace.Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, noop.Span{}
	}
	return parent.TracerProvider().Tracer(Scope).Start(ctx, name)
}

// ID returns the id of the context's trace, in hexadecimal digits, or "" if the request has no
// trace or its trace is not recorded. It also works after the trace has ended.
func ID(ctx context.Context) string {
	s := trace.SpanContextFromContext(ctx)
	if !s.IsSampled() {
		return ""
	}
	return s.TraceID().String()
}

// Without returns a context whose steps are not recorded. Use it for a request that lasts for days,
// such as a stream of events: its trace would grow without bound.
func Without(ctx context.Context) context.Context {
	return trace.ContextWithSpan(ctx, noop.Span{})
}

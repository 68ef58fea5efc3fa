package sqlstore

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"unicode"
	"unicode/utf8"

	"gangway/hub/store"
	"gangway/hub/tracing/step"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// traced is a database that adds each operation as a step to the trace of its request. The step has
// the name of the Store method that caused the operation. If there is no trace, this costs only one
// lookup in the context.
type traced struct{ DB }

func (d traced) Write(ctx context.Context, run func(Conn) error) error {
	if !step.Recorded(ctx) {
		return d.DB.Write(ctx, run)
	}
	ctx, span := begin(ctx, "write")
	err := d.DB.Write(ctx, withTurn(span, run))
	end(span, err)
	return err
}

func (d traced) Read(ctx context.Context, run func(Conn) error) error {
	if !step.Recorded(ctx) {
		return d.DB.Read(ctx, run)
	}
	ctx, span := begin(ctx, "read")
	err := d.DB.Read(ctx, withTurn(span, run))
	end(span, err)
	return err
}

func (d traced) Snapshot(ctx context.Context, run func(Conn) error) error {
	if !step.Recorded(ctx) {
		return d.DB.Snapshot(ctx, run)
	}
	ctx, span := begin(ctx, "snapshot")
	err := d.DB.Snapshot(ctx, withTurn(span, run))
	end(span, err)
	return err
}

func begin(ctx context.Context, kind string) (context.Context, trace.Span) {
	ctx, span := step.Begin(ctx, "store."+method())
	span.SetAttributes(attribute.String("gangway.store.operation", kind))
	return ctx, span
}

// withTurn returns a function that records in the trace when `run` begins. Until then, the
// operation waits for a connection, or for its turn in the queue of writes.
func withTurn(span trace.Span, run func(Conn) error) func(Conn) error {
	return func(c Conn) error {
		span.AddEvent("turn")
		return run(c)
	}
}

// The function `end` ends a step. The trace does not contain the error's text, because that text
// may contain values of rows. Errors that are a normal result, such as store.ErrNotFound, do not
// count as failures.
func end(span trace.Span, err error) {
	for _, failure := range []error{store.ErrBusy, store.ErrNoSpace, ErrClosed, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, failure) {
			span.SetStatus(codes.Error, failure.Error())
		}
	}
	span.End()
}

// methods is the beginning of the qualified names of Store's methods.
const methods = "gangway/hub/store/sqlstore.(*Store)."

// method returns the name of the Store method on the call stack that another package has called.
func method() string {
	var callers [32]uintptr
	frames := runtime.CallersFrames(callers[:runtime.Callers(4, callers[:])])
	name := "unknown"
	for {
		f, more := frames.Next()
		if rest, is := strings.CutPrefix(f.Function, methods); is {
			rest, _, _ = strings.Cut(rest, ".") // without the function literal in the method
			if first, _ := utf8.DecodeRuneInString(rest); unicode.IsUpper(first) {
				name = rest
			}
		} else if name != "unknown" && !strings.HasPrefix(f.Function, "gangway/hub/store/sqlstore.") {
			return name
		}
		if !more {
			return name
		}
	}
}

package sqlstore

import (
	"context"
	"testing"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// idleDB is a database that does nothing, so that a test measures only the layers above it.
type idleDB struct{ DB }

func (idleDB) Read(_ context.Context, run func(Conn) error) error { return run(nil) }

func nothing(Conn) error { return nil }

// A request without a trace must not pay for traces.
func TestTracesCostNothingWhenOff(t *testing.T) {
	db := traced{idleDB{}}
	for name, ctx := range map[string]context.Context{"off": t.Context(), "not sampled": trace.ContextWithSpan(t.Context(), noop.Span{})} {
		if n := testing.AllocsPerRun(100, func() { _ = db.Read(ctx, nothing) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkReadWithTracesOff(b *testing.B) {
	for name, db := range map[string]DB{"without the layer": idleDB{}, "with the layer": traced{idleDB{}}} {
		b.Run(name, func(b *testing.B) {
			type key int
			ctx := b.Context()
			for i := range 3 { // as many values as the context of a request has
				ctx = context.WithValue(ctx, key(i), i)
			}
			b.ReportAllocs()
			for b.Loop() {
				_ = db.Read(ctx, nothing)
			}
		})
	}
}

package main

import (
	"context"
	"log/slog"

	"gangway/hub/tracing"
	"gangway/internal/version"

	"github.com/spf13/pflag"
	"go.opentelemetry.io/otel"
)

// traceFlags are the flags of 'gangway serve' that control the traces of requests.
type traceFlags struct {
	endpoint string
	ratio    float64
}

func (t *traceFlags) add(f *pflag.FlagSet) {
	f.StringVar(&t.endpoint, "traces", "", "https URL of a collector to which the hub sends traces of requests by OTLP/HTTP, such as https://traces.example/v1/traces; the environment variables of OpenTelemetry (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER and others) work too (default: none)")
	f.Float64Var(&t.ratio, "traces-ratio", tracing.DefaultRatio, "fraction of the requests that get a trace, from 0 to 1; overrides OTEL_TRACES_SAMPLER")
}

// The method `into` makes the exporter of traces, if the flags or the environment name a collector.
// The function `end` sends the last traces.
func (t *traceFlags) into(ctx context.Context, o *serverOptions, ratioGiven bool, log *slog.Logger) (end func(), err error) {
	wanted, err := tracing.Wanted(t.endpoint)
	if err != nil {
		return t.unusable(err, log)
	}
	if !wanted {
		return func() {}, nil
	}
	c := tracing.Config{Endpoint: t.endpoint, Version: version.Current.Version, Log: log}
	if ratioGiven {
		c.Ratio = &t.ratio
	}
	traces, err := tracing.New(ctx, c)
	if err != nil {
		return t.unusable(err, log)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("traces", "err", err) }))
	o.traces = traces
	return traces.Close, nil
}

// unusable returns a usage error if the operator asked for traces on the command line. Otherwise
// the hub only logs a warning and runs without traces, because the environment may name a collector
// for all programs of the machine.
func (t *traceFlags) unusable(err error, log *slog.Logger) (end func(), _ error) {
	if t.endpoint != "" {
		return nil, usagef("--traces: %v", err)
	}
	log.Warn("no traces: the collector that the environment names cannot be used", "err", err)
	return func() {}, nil
}

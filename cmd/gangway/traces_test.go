package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// The environment may name a collector for all programs of the machine. A hub that cannot use this
// collector starts without traces. But if the operator named the collector on the command line, the
// hub must not start.
func TestUnusableCollectorOfTheEnvironmentStopsNoHub(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://traces.example:4318")
	var said bytes.Buffer
	log := slog.New(slog.NewTextHandler(&said, nil))
	o := new(serverOptions)
	end, err := new(traceFlags).into(t.Context(), o, false, log)
	if err != nil || o.traces != nil || !strings.Contains(said.String(), "no traces") {
		t.Errorf("%v, traces: %v, log: %s", err, o.traces != nil, said.String())
	} else {
		end()
	}
	if _, err := (&traceFlags{endpoint: "http://traces.example/v1/traces"}).into(t.Context(), o, false, log); err == nil || !strings.Contains(err.Error(), "--traces") {
		t.Errorf("on the command line: %v", err)
	}
}

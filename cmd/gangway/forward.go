package main

import (
	"cmp"
	"log/slog"
	"os"

	"gangway/hub/otlp"
)

// forwarder makes the exporter that forwards log lines to the endpoint of --otlp-logs-endpoint. If
// the endpoint is empty, it returns nil. The headers may contain a secret, so they come from the
// environment variables that the specification of OpenTelemetry names.
func forwarder(endpoint string, log *slog.Logger) (*otlp.Exporter, error) {
	if endpoint == "" {
		return nil, nil
	}
	headers, err := otlp.ParseHeaders(cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_LOGS_HEADERS"), os.Getenv("OTEL_EXPORTER_OTLP_HEADERS")))
	if err != nil {
		return nil, usagef("OTEL_EXPORTER_OTLP_HEADERS is not of the form name=value,name=value, with percent-encoded values")
	}
	e, err := otlp.New(otlp.Config{Endpoint: endpoint, Headers: headers, Log: log})
	if err != nil {
		return nil, usagef("--otlp-logs-endpoint: %v", err)
	}
	return e, nil
}

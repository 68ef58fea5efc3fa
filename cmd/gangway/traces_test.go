package main

import (
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"gangway/hub/pki"
	"gangway/hub/tracing/tracetest"
	"gangway/internal/cmdline"

	"github.com/spf13/pflag"
)

// The flags of serve for traces reach the exporter, and a wrong value is a usage error.
func TestTraceFlagsReachTheCollector(t *testing.T) {
	t.Parallel()
	c := tracetest.New(t)
	for name, want := range map[string]struct {
		args  []string
		spans int
		usage bool
	}{
		"no flag":              {args: nil, spans: 0},
		"each request":         {args: []string{"--traces", c.URL, "--traces-ratio", "1"}, spans: 20},
		"no request":           {args: []string{"--traces", c.URL, "--traces-ratio", "0"}, spans: 0},
		"a ratio above 1":      {args: []string{"--traces", c.URL, "--traces-ratio", "7"}, usage: true},
		"a host without https": {args: []string{"--traces", "http://traces.example/v1/traces"}, usage: true},
	} {
		var flags traceFlags
		f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
		flags.add(f)
		if err := f.Parse(want.args); err != nil {
			t.Fatal(err)
		}
		var o serverOptions
		before := len(c.Spans(t))
		end, err := flags.into(t.Context(), &o, f.Changed("traces-ratio"), slog.New(slog.DiscardHandler))
		if cmdline.IsUsage(err) != want.usage || (err != nil) != want.usage {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil {
			continue
		}
		if (o.traces != nil) != (want.args != nil) {
			t.Errorf("%s: the hub has traces: %t", name, o.traces != nil)
		}
		if o.traces != nil {
			for range 20 {
				_, span := o.traces.Tracer().Start(t.Context(), "request")
				span.End()
			}
		}
		end()
		if got := len(c.Spans(t)) - before; got != want.spans {
			t.Errorf("%s: %d spans, want %d", name, got, want.spans)
		}
	}
}

func TestProxysTracesNeedAProxy(t *testing.T) {
	t.Parallel()
	if _, err := (&proxyFlags{traces: true}).proxy(); err == nil {
		t.Error("--proxy-traces without a proxy is accepted")
	}
	hub, err := pki.Open(filepath.Join(t.TempDir(), "pki"), pki.Options{})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: hub.Root().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, traces := range []bool{true, false} {
		p, err := (&proxyFlags{ca: file, name: "proxy.internal", traces: traces}).proxy()
		if err != nil || p.Traces != traces {
			t.Errorf("%+v, %v", p, err)
		}
	}
}

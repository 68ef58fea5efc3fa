package api_test

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"

	"gangway/hub/api"
	"gangway/hub/tracing"
	"gangway/hub/tracing/tracetest"
	"gangway/internal/brief"
	"gangway/internal/eventlog"
	"gangway/internal/hubtest"
	"gangway/internal/locked"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
)

// tracesTo returns traces that are exported to a collector. `ratio` is the fraction of the requests
// that have a trace.
func tracesTo(t *testing.T, c *tracetest.Collector, ratio float64) *tracing.Traces {
	t.Helper()
	traces := must(tracing.New(t.Context(), tracing.Config{Endpoint: c.URL, Ratio: &ratio, Log: slog.New(slog.DiscardHandler)}))(t)
	t.Cleanup(traces.Close)
	return traces
}

// The function `roots` returns the server spans with the name `name`, one for each request, and the
// names of the spans directly below the first of them.
func roots(spans []*tracepb.Span, name string) (found []*tracepb.Span, children []string) {
	for _, s := range spans {
		if s.Kind == tracepb.Span_SPAN_KIND_SERVER && s.Name == name {
			found = append(found, s)
		}
	}
	for _, s := range spans {
		if len(found) > 0 && slices.Equal(s.TraceId, found[0].TraceId) && slices.Equal(s.ParentSpanId, found[0].SpanId) {
			children = append(children, s.Name)
		}
	}
	return found, children
}

// Each request has one trace, which shows the steps in the store and in cryptography.
func TestEachRequestHasOneTraceWithItsSteps(t *testing.T) {
	t.Parallel()
	c := tracetest.New(t)
	traces := tracesTo(t, c, 1)
	s := newSceneWith(t, func(c *api.Config) { c.Traces = traces })
	conn, _, _ := s.connected(t)
	booted(t, conn, s.victim, eventlog.Log{}, 1)
	ada := s.person(t, "ada")
	wantCode(ada, "GET", "/devices/none", nil, 404)
	s.person(t, "").do("BREW", "/coffee", nil)
	traces.Close()
	spans := c.Spans(t)
	for name, steps := range map[string][]string{
		"POST /onboard":          {"store.JoinTokenForEK", "evidence.verify", "ca.sign-certificates", "store.BeginEnrolment", "tpm.make-credential"},
		"POST /onboard/activate": {"store.Activate"},
		"POST /device/boot":      {"tpm.verify-quote", "store.PutBoot"},
		"POST /auth/login":       {"password.verify", "store.CreateSession"},
		"GET /devices/{id}":      {"store.DeviceByNick"},
		"other without a route":  {},
	} {
		found, children := roots(spans, name)
		if len(found) != 1 || len(found[0].ParentSpanId) != 0 {
			t.Errorf("%s: %d traces", name, len(found))
			continue
		}
		for _, step := range steps {
			if !slices.Contains(children, step) {
				t.Errorf("%s has the steps %v, and lacks %s", name, children, step)
			}
		}
	}
	// Each of these requests has a trace of its own: two requests of the onboarding, the challenge,
	// the boot, the sign-in, and two errors.
	ids := map[string]bool{}
	for _, span := range spans {
		if len(span.ParentSpanId) == 0 {
			if ids[string(span.TraceId)] {
				t.Errorf("the trace of %s has two roots", span.Name)
			}
			ids[string(span.TraceId)] = true
		}
		if strings.Contains(span.Name, "unknown") {
			t.Errorf("a step has no name: %v", span)
		}
	}
	if t.Failed() {
		return
	}
	found, _ := roots(spans, "GET /devices/{id}")
	if s := found[0]; tracetest.Attribute(s, "http.response.status_code").GetIntValue() != 404 || tracetest.Attribute(s, "error.type").GetStringValue() != "not-found" ||
		tracetest.Attribute(s, "http.route").GetStringValue() != "/devices/{id}" || s.Status.GetCode() == tracepb.Status_STATUS_CODE_ERROR {
		t.Errorf("%v", found[0])
	}
	found, _ = roots(spans, "POST /onboard/activate")
	if tracetest.Attribute(found[0], "gangway.tls.handshake_seconds").GetDoubleValue() <= 0 {
		t.Error("the first request of the connection does not say how long the handshake took")
	}
}

// Threat: traces leave the hub. So they must not contain passwords, tokens, claim codes, signed
// URLs, or other text that clients or devices have sent.
func TestTracesHaveNoSecretsAndNoClientsText(t *testing.T) {
	t.Parallel()
	c := tracetest.New(t)
	traces := tracesTo(t, c, 1)
	f := fleetOf(t, newSceneWith(t, func(c *api.Config) { c.Traces = traces }))
	created := want[api.JoinTokenCreated](f.ada, "POST", "/devices/tokens", nil, 200)
	object := announce(f.ada, "/objects/", "x", "content", 200)
	const mark = "xyzzy4711"
	for _, path := range []string{"/claims/" + mark, "/devices/" + mark, "/" + mark, "/fleet/devices?q=" + mark, "/local-s3/" + mark} {
		f.ada.request("GET", path, nil, map[string]string{"User-Agent": mark, "Referer": mark, "X-Forwarded-For": mark, "Tracestate": "a=" + mark, "Baggage": "b=" + mark,
			"Traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"})
	}
	f.ada.do(mark, "/devices", nil)
	traces.Close()
	text := c.Text()
	signed := object.PutURL[strings.LastIndexByte(object.PutURL, '/')+1:]
	for what, secret := range map[string]string{
		"password": hubtest.Password, "access token": f.ada.token, "join token": created.Token, "signed URL": signed, "client's text": mark, "device's id": f.boatID, "address": "127.0.0.1",
	} {
		if secret == "" || strings.Contains(text, secret) {
			t.Errorf("the traces contain the %s %q", what, secret)
		}
	}
	if !strings.Contains(text, "/local-s3/{") || !strings.Contains(text, "/claims/{code}") {
		t.Error("the requests have no traces")
	}
}

// Threat: with the headers traceparent, tracestate and baggage, a client forces the hub to trace
// its requests, adds them to a trace of its choice, or makes the hub store long texts.
func TestClientDoesNotChooseTraces(t *testing.T) {
	t.Parallel()
	const id, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	header := func(more string) map[string]string {
		return map[string]string{"Traceparent": "00-" + id + "-" + parent + "-01" + more, "Tracestate": strings.Repeat("k=v,", 500), "Baggage": strings.Repeat("k=v,", 500)}
	}
	never, always := tracetest.New(t), tracetest.New(t)
	off, on := tracesTo(t, never, 0), tracesTo(t, always, 1)
	for _, traces := range []*tracing.Traces{off, on} {
		ada := newSceneWith(t, func(c *api.Config) { c.Traces = traces }).person(t, "ada")
		for range 3 {
			ada.request("GET", "/devices", nil, header(""))
		}
		ada.request("GET", "/devices/tokens", nil, header("-more"))
		traces.Close()
	}
	if spans := never.Spans(t); len(spans) != 0 {
		t.Errorf("a client forced %d spans", len(spans))
	}
	found, _ := roots(always.Spans(t), "GET /devices")
	if len(found) != 3 {
		t.Fatalf("%d traces", len(found))
	}
	for _, s := range found {
		if hex.EncodeToString(s.TraceId) == id || len(s.ParentSpanId) != 0 || s.TraceState != "" {
			t.Errorf("the client chose the trace: %v", s)
		}
		if len(s.Links) != 1 || hex.EncodeToString(s.Links[0].TraceId) != id || s.Links[0].TraceState != "" {
			t.Errorf("the trace has no link to the client's: %v", s.Links)
		}
	}
	if found, _ = roots(always.Spans(t), "GET /devices/tokens"); len(found) != 1 || len(found[0].Links) != 0 {
		t.Errorf("a malformed header: %v", found)
	}
}

// With --proxy-traces, the hub continues the traces of its proxy, and of nobody else.
func TestOnlyTheProxysTraceContinues(t *testing.T) {
	t.Parallel()
	const id, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	header := http.Header{"Traceparent": {"00-" + id + "-" + parent + "-01"}}
	for _, trusted := range []bool{true, false} {
		c := tracetest.New(t)
		traces := tracesTo(t, c, 0)
		b := newBehindWith(t, func(c *api.Config) { c.Traces, c.Proxy.Traces = traces, trusted })
		b.through(t, nil, "GET", "/healthz", "", header)
		b.asPeer(t, nil, "GET", "/readyz", header)
		traces.Close()
		var got []string
		for _, s := range c.Spans(t) {
			got = append(got, fmt.Sprintf("%s %x %x", s.Name, s.TraceId, s.ParentSpanId))
		}
		var want []string
		if trusted {
			want = []string{"GET /healthz " + id + " " + parent}
		}
		if !slices.Equal(got, want) {
			t.Errorf("trusted %t: %q, want %q", trusted, got, want)
		}
	}
}

// The lines about a request in the access log and in the hub's log name the request's trace.
func TestLogsNameTheTrace(t *testing.T) {
	t.Parallel()
	c := tracetest.New(t)
	traces := tracesTo(t, c, 1)
	var log locked.Buffer
	s := newSceneWith(t, func(c *api.Config) { c.Traces, c.AccessLog = traces, slog.New(slog.NewJSONHandler(&log, nil)) })
	want[[]api.DeviceView](s.person(t, "ada"), "GET", "/devices", nil, 200)
	traces.Close()
	found, _ := roots(c.Spans(t), "GET /devices")
	var line struct{ Route, Trace string }
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &line); err != nil || len(found) != 1 || line.Route != "GET /devices" || line.Trace != hex.EncodeToString(found[0].TraceId) {
		t.Errorf("%v: %s, %s", err, brief.Of(line), brief.Of(lines))
	}
}

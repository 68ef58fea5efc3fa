package otlp_test

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"gangway/hub/otlp"
	"gangway/hub/store"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// engine is a log engine that decodes requests as the specification says.
type engine struct {
	mu      sync.Mutex
	answer  func(n int, w http.ResponseWriter) // answers the n-th request
	bodies  []string                           // JSON
	records int
	headers http.Header
}

func (e *engine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	z, err := gzip.NewReader(r.Body)
	var body struct {
		ResourceLogs []struct {
			ScopeLogs []struct {
				LogRecords []json.RawMessage `json:"logRecords"`
			} `json:"scopeLogs"`
		} `json:"resourceLogs"`
	}
	var text json.RawMessage
	if err != nil || json.NewDecoder(z).Decode(&text) != nil || json.Unmarshal(text, &body) != nil || r.Header.Get("Content-Type") != "application/json" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	e.headers = r.Header
	e.bodies = append(e.bodies, string(text))
	e.records = 0
	for _, one := range body.ResourceLogs {
		e.records += len(one.ScopeLogs[0].LogRecords)
	}
	e.answer(len(e.bodies), w)
}

func (e *engine) requests() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.bodies)
}

// run starts an exporter for an engine. The function `stop` ends it and returns the numbers of
// forwarded and lost lines.
func run(t *testing.T, e *engine) (x *otlp.Exporter, stop func() (sent, lost float64)) {
	t.Helper()
	server := httptest.NewServer(e)
	t.Cleanup(server.Close)
	x, err := otlp.New(otlp.Config{Endpoint: server.URL + "/v1/logs", Headers: http.Header{"Authorization": {"Bearer secret"}}, Log: slog.New(slog.DiscardHandler), Pause: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan bool)
	go func() { x.Run(ctx); close(ended) }()
	return x, func() (sent, lost float64) {
		cancel()
		<-ended
		return counts(t, x)
	}
}

func counts(t *testing.T, x *otlp.Exporter) (sent, lost float64) {
	t.Helper()
	c := make(chan prometheus.Metric, 2)
	x.Collect(c)
	var values [2]float64
	for i := range values {
		var m dto.Metric
		if err := (<-c).Write(&m); err != nil {
			t.Fatal(err)
		}
		values[i] = m.Counter.GetValue()
	}
	return values[0], values[1]
}

func line(device, message string) store.LogEntry {
	return store.LogEntry{Device: device, Owner: "anne", Created: time.Unix(1764417601, 5), Sec: 1764417600, Nano: 7, Level: "WARN", Source: "/pantavisor.log", Platform: "pantavisor", Rev: "3", Message: message}
}

func ok(_ int, w http.ResponseWriter) { fmt.Fprint(w, `{"partialSuccess":{}}`) }

func TestLinesReachTheEngine(t *testing.T) {
	t.Parallel()
	e := &engine{answer: ok}
	x, stop := run(t, e)
	odd := store.LogEntry{Device: "b", Created: time.Unix(1, 0), Sec: 1 << 62, Nano: -1, Level: "?", Message: "odd \x00 \xff </script>"}
	x.Forward([]store.LogEntry{line("a", "one"), odd, line("a", "two")})
	if sent, lost := stop(); sent != 3 || lost != 0 {
		t.Errorf("%v sent, %v lost", sent, lost)
	}
	text := strings.Join(e.bodies, "\n")
	for _, part := range []string{
		`{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"gangway-device"}},{"key":"device.id","value":{"stringValue":"a"}},{"key":"gangway.owner","value":{"stringValue":"anne"}}]},"scopeLogs":[{"scope":{"name":"gangway"},"logRecords":[`,
		`{"timeUnixNano":"1764417600000000007","observedTimeUnixNano":"1764417601000000005","severityNumber":13,"severityText":"WARN","body":{"stringValue":"one"},"attributes":[{"key":"gangway.source","value":{"stringValue":"/pantavisor.log"}},`,
		`{"observedTimeUnixNano":"1000000000","severityText":"?","body":`, // without the impossible time
	} {
		if !strings.Contains(text, part) {
			t.Errorf("%s lacks %s", text, part)
		}
	}
	if strings.Count(text, `"device.id"`) != 2 {
		t.Errorf("each device is a resource once: %s", text)
	}
	if e.headers.Get("Authorization") != "Bearer secret" {
		t.Error("the header is missing")
	}
}

func TestRefusedLinesAreCounted(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer     func(n int, w http.ResponseWriter)
		requests   int
		sent, lost float64
	}{
		"accepts some":     {func(_ int, w http.ResponseWriter) { fmt.Fprint(w, `{"partialSuccess":{"rejectedLogRecords":"1"}}`) }, 1, 1, 1},
		"lies about it":    {func(_ int, w http.ResponseWriter) { fmt.Fprint(w, `{"partialSuccess":{"rejectedLogRecords":99}}`) }, 1, 0, 2},
		"refuses":          {func(_ int, w http.ResponseWriter) { w.WriteHeader(400) }, 1, 0, 2},
		"redirects":        {func(_ int, w http.ResponseWriter) { w.Header().Set("Location", "/stolen"); w.WriteHeader(307) }, 1, 0, 2},
		"fails at first":   {func(n int, w http.ResponseWriter) { w.WriteHeader(map[bool]int{true: 503, false: 200}[n < 3]) }, 3, 2, 0},
		"answers no JSON":  {func(_ int, w http.ResponseWriter) { fmt.Fprint(w, "ok") }, 1, 2, 0},
		"closes its lines": {func(n int, w http.ResponseWriter) { hangUp(n < 2) }, 2, 2, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := &engine{answer: c.answer}
			x, stop := run(t, e)
			x.Forward([]store.LogEntry{line("a", "one"), line("a", "two")})
			for range 1000 {
				if sent, lost := counts(t, x); sent+lost == 2 {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			if sent, lost := stop(); sent != c.sent || lost != c.lost || e.requests() != c.requests {
				t.Errorf("%v sent, %v lost, %d requests", sent, lost, e.requests())
			}
		})
	}
}

func hangUp(yes bool) {
	if yes {
		panic(http.ErrAbortHandler)
	}
}

// If the engine does not answer while devices continue to send lines, Forward does not wait, and
// the queue does not grow without a limit.
func TestSilentEngineBlocksNobody(t *testing.T) {
	t.Parallel()
	release := make(chan bool)
	e := &engine{answer: func(_ int, w http.ResponseWriter) { <-release }}
	x, stop := run(t, e)
	list := make([]store.LogEntry, 100)
	for i := range list {
		list[i] = line("a", strings.Repeat("x", 1000))
	}
	begun := time.Now()
	const calls = 1000
	for range calls {
		x.Forward(list)
	}
	if took := time.Since(begun); took > time.Second {
		t.Errorf("1000 calls took %v", took)
	}
	_, lost := counts(t, x)
	if kept := calls*100 - lost; kept > 16<<10 || kept < 1000 {
		t.Errorf("%v lines are kept", kept)
	}
	close(release)
	if sent, lost := stop(); sent+lost != calls*100 {
		t.Errorf("%v sent, %v lost", sent, lost)
	}
}

func TestEndpointsAreChecked(t *testing.T) {
	t.Parallel()
	for endpoint, good := range map[string]bool{
		"https://logs.example/v1/logs": true, "http://127.0.0.1:4318/v1/logs": true, "http://localhost:4318/v1/logs": true, "http://[::1]:4318/v1/logs": true,
		"http://logs.example/v1/logs": false, "http://127.0.0.1.example/": false, "https://user:secret@logs.example": false, "ftp://logs.example": false, "logs.example": false, "": false,
	} {
		if _, err := otlp.New(otlp.Config{Endpoint: endpoint}); (err == nil) != good {
			t.Errorf("%q: %v", endpoint, err)
		}
	}
	h, err := otlp.ParseHeaders("Authorization=Bearer%20secret, X-Tenant = a=b ,")
	if err != nil || h.Get("Authorization") != "Bearer secret" || h.Get("X-Tenant") != "a=b" {
		t.Errorf("%v, %v", h, err)
	}
	for _, bad := range []string{"x", "=secret", "a b=secret", "a=secret%0d%0aX: y", "a=%zz"} {
		if _, err := otlp.ParseHeaders(bad); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// Package tracetest receives traces in tests, as an OpenTelemetry collector does.
package tracetest

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Collector is a receiver of OTLP/HTTP with protobuf.
type Collector struct {
	URL string // URL to which traces are sent, with the path /v1/traces

	mu        sync.Mutex
	requests  []*collector.ExportTraceServiceRequest
	headers   http.Header
	malformed int
}

// New starts a collector for a test.
func New(t testing.TB) *Collector {
	c := &Collector{}
	s := httptest.NewServer(c)
	t.Cleanup(s.Close)
	c.URL = s.URL + "/v1/traces"
	return c
}

func (c *Collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in collector.ExportTraceServiceRequest
	body, err := r.Body, error(nil)
	if r.Header.Get("Content-Encoding") == "gzip" {
		body, err = gzip.NewReader(r.Body)
	}
	var text []byte
	if err == nil {
		text, err = io.ReadAll(body)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil || r.Method != http.MethodPost || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" || proto.Unmarshal(text, &in) != nil {
		c.malformed++
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	c.requests, c.headers = append(c.requests, &in), r.Header
	answer, err := proto.Marshal(&collector.ExportTraceServiceResponse{})
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	_, _ = w.Write(answer)
}

// Headers returns the headers of the last request.
func (c *Collector) Headers() http.Header {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.headers
}

// Spans returns all spans that the collector has received.
func (c *Collector) Spans(t testing.TB) (list []*trace.Span) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.malformed > 0 {
		t.Errorf("%d requests are not OTLP", c.malformed)
	}
	for _, r := range c.requests {
		for _, of := range r.ResourceSpans {
			for _, scope := range of.ScopeSpans {
				list = append(list, scope.Spans...)
			}
		}
	}
	return list
}

// Text returns everything that the collector has received, as text.
func (c *Collector) Text() (text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.requests {
		text += r.String()
	}
	return text
}

// Attribute returns the value of a span's attribute, or nil.
func Attribute(s *trace.Span, key string) *common.AnyValue {
	for _, a := range s.Attributes {
		if a.Key == key {
			return a.Value
		}
	}
	return nil
}

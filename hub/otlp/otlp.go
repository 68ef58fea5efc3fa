// Package otlp forwards the log lines of devices to the operator's log engine, by the OpenTelemetry
// protocol: OTLP/HTTP 1.x with JSON (https://opentelemetry.io/docs/specs/otlp/).
//
// Forwarding never delays devices. The lines wait in a bounded queue in memory. If the engine is
// too slow or does not answer, the package drops lines, and counts them. The hub's own log still
// has these lines.
package otlp

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"gangway/hub/store"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxQueue is the largest total size of the lines in the queue, in bytes.
	maxQueue = 16 << 20
	// lineCost is the memory that a line needs in addition to its texts, in bytes.
	lineCost = 256
	// A request is full when the total size of its lines is maxBatch bytes or more, or when it has
	// maxBatchLines lines.
	maxBatch      = 1 << 20
	maxBatchLines = 5000
	// gather is how long a line waits for further lines to share its request.
	gather = time.Second
	// patience is how long the exporter retries a request. After that, the lines of the request are
	// lost.
	patience = time.Minute
	// maxAnswer is the maximum number of bytes that are read from an answer.
	maxAnswer = 64 << 10
)

// Config configures New.
type Config struct {
	// Endpoint is the URL to which requests are sent, for example https://logs.example/v1/logs. Its
	// scheme may be http only for an engine on this machine.
	Endpoint string
	// Headers are added to each request, for the engine's authentication.
	Headers http.Header
	// Client sends the requests. If it is nil, the exporter uses its own client.
	Client *http.Client
	Log    *slog.Logger
	// Pause is the pause before the first retry of a request. Default: 1 s.
	Pause time.Duration
}

// Exporter forwards log lines.
type Exporter struct {
	config    Config
	sent      prometheus.Counter
	lost      prometheus.Counter
	wake      chan struct{} // has a value if the queue is not empty
	mu        sync.Mutex
	queue     []store.LogEntry // guarded by mu
	size      int              // guarded by mu: bytes of the queue
	complains bool             // the last request failed; only Run uses it
}

// New makes an exporter. It does nothing until Run is called.
func New(c Config) (*Exporter, error) {
	u, err := url.Parse(c.Endpoint)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("otlp: the endpoint %q is not a URL like https://logs.example/v1/logs", c.Endpoint)
	case u.Scheme == "http" && !onThisMachine(u.Hostname()):
		return nil, fmt.Errorf("otlp: the endpoint %q is on another machine, so its URL must begin with https", c.Endpoint)
	}
	if c.Client == nil {
		c.Client = &http.Client{
			Timeout: 30 * time.Second,
			CheckRedirect: func(*http.Request, []*http.Request) error {
				return http.ErrUseLastResponse // the headers may contain a secret
			},
		}
	}
	c.Pause = cmp.Or(c.Pause, time.Second)
	return &Exporter{
		config: c, wake: make(chan struct{}, 1),
		sent: prometheus.NewCounter(prometheus.CounterOpts{Name: "gangway_log_lines_forwarded_total", Help: "Log lines that the operator's log engine has accepted."}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{Name: "gangway_log_lines_lost_total", Help: "Log lines that were not forwarded, because the operator's log engine was too slow, did not answer or refused them."}),
	}, nil
}

func onThisMachine(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// ParseHeaders parses the environment variable OTEL_EXPORTER_OTLP_HEADERS: "name=value,name=value",
// with percent-encoded values.
func ParseHeaders(text string) (http.Header, error) {
	h := http.Header{}
	for _, pair := range strings.Split(text, ",") {
		if pair = strings.TrimSpace(pair); pair == "" {
			continue
		}
		name, value, ok := strings.Cut(pair, "=")
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if name = strings.TrimSpace(name); !ok || err != nil || name == "" || strings.ContainsAny(name, " :\r\n") || strings.ContainsAny(value, "\r\n") {
			return nil, errors.New("otlp: a header of the log engine does not have the form name=value") // the value may be a secret
		}
		h.Set(name, value)
	}
	return h, nil
}

// Describe implements prometheus.Collector.
func (e *Exporter) Describe(c chan<- *prometheus.Desc) { e.sent.Describe(c); e.lost.Describe(c) }

// Collect implements prometheus.Collector.
func (e *Exporter) Collect(c chan<- prometheus.Metric) { e.sent.Collect(c); e.lost.Collect(c) }

func cost(e *store.LogEntry) int {
	return lineCost + len(e.Level) + len(e.Source) + len(e.Platform) + len(e.Rev) + len(e.Message)
}

// Forward puts lines into the queue, and never waits. The caller must have set Device, Owner and
// Created in each line. If the queue is full, the lines are lost.
func (e *Exporter) Forward(list []store.LogEntry) {
	size := 0
	for i := range list {
		size += cost(&list[i])
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.size+size > maxQueue {
		e.lost.Add(float64(len(list)))
		return
	}
	e.queue = append(e.queue, list...)
	e.size += size
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// take removes the lines of the next request from the queue.
func (e *Exporter) take() (list []store.LogEntry) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n, size := 0, 0
	for n < len(e.queue) && n < maxBatchLines && size < maxBatch {
		size += cost(&e.queue[n])
		n++
	}
	list = append(list, e.queue[:n]...)
	clear(e.queue[:n]) // releases the memory of the texts
	e.queue, e.size = e.queue[n:], e.size-size
	if len(e.queue) == 0 {
		e.queue = nil
	}
	return list
}

// Run sends lines until ctx ends. Then it tries for a few seconds to send the lines that are still
// in the queue.
func (e *Exporter) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
			defer cancel()
			e.drain(last)
			return
		case <-e.wake:
			select {
			case <-ctx.Done():
			case <-time.After(gather):
			}
			if ctx.Err() == nil {
				e.drain(ctx)
			}
		}
	}
}

func (e *Exporter) drain(ctx context.Context) {
	for list := e.take(); len(list) > 0; list = e.take() {
		refused, err := e.send(ctx, list)
		if err != nil {
			refused = len(list)
			if !e.complains {
				e.config.Log.Warn("could not forward log lines: these lines are lost, and so are further lines until the log engine works again", "endpoint", e.config.Endpoint, "err", err)
			}
		}
		e.complains = err != nil
		e.lost.Add(float64(refused))
		e.sent.Add(float64(len(list) - refused))
	}
}

// send sends one request, and retries it if it fails and the specification of OTLP allows a retry.
// It returns the number of lines that the engine has refused.
func (e *Exporter) send(ctx context.Context, list []store.LogEntry) (refused int, err error) {
	body, err := encode(list)
	if err != nil {
		return 0, err
	}
	deadline := time.Now().Add(patience)
	for pause := e.config.Pause; ; pause *= 2 {
		refused, wait, err := e.post(ctx, body, len(list))
		if err == nil || wait < 0 {
			return refused, err
		}
		wait = max(wait, pause/2+rand.N(pause))
		if time.Now().Add(wait).After(deadline) {
			return 0, err
		}
		select {
		case <-ctx.Done():
			return 0, err
		case <-time.After(wait):
		}
	}
}

// post sends one request. If `wait` is negative, the request must not be repeated. Otherwise, after
// an error, `wait` is the shortest time before a retry.
func (e *Exporter) post(ctx context.Context, body []byte, lines int) (refused int, wait time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.config.Endpoint, bytes.NewReader(body))
	if err != nil {
		return 0, -1, err
	}
	req.Header = e.config.Headers.Clone()
	if req.Header == nil {
		req.Header = http.Header{}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Content-Encoding", "gzip")
	req.Header.Set("User-Agent", "gangway")
	resp, err := e.config.Client.Do(req)
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return 0, 0, err
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return partial(text, lines), 0, nil
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
			wait = time.Duration(min(seconds, int(patience/time.Second)+1)) * time.Second
		}
	default:
		wait = -1
	}
	return 0, wait, fmt.Errorf("the log engine answered %s: %.200q", resp.Status, text)
}

// partial returns how many lines the engine has refused although it answered 200.
func partial(text []byte, lines int) int {
	var answer struct {
		PartialSuccess struct {
			RejectedLogRecords json.RawMessage `json:"rejectedLogRecords"` // a number, or a string with a number
		} `json:"partialSuccess"`
	}
	if json.Unmarshal(text, &answer) != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.Trim(string(answer.PartialSuccess.RejectedLogRecords), `"`))
	if err != nil {
		return 0
	}
	return min(max(n, 0), lines)
}

// The types of OTLP's JSON encoding, as far as they are used here.
type (
	request struct {
		ResourceLogs []resourceLogs `json:"resourceLogs"`
	}
	resourceLogs struct {
		Resource struct {
			Attributes []attribute `json:"attributes"`
		} `json:"resource"`
		ScopeLogs []scopeLogs `json:"scopeLogs"`
	}
	scopeLogs struct {
		Scope struct {
			Name string `json:"name"`
		} `json:"scope"`
		LogRecords []record `json:"logRecords"`
	}
	record struct {
		Time       string      `json:"timeUnixNano,omitempty"` // a 64-bit number is a string in JSON
		Observed   string      `json:"observedTimeUnixNano"`
		Number     int         `json:"severityNumber,omitempty"`
		Severity   string      `json:"severityText,omitempty"`
		Body       value       `json:"body"`
		Attributes []attribute `json:"attributes,omitempty"`
	}
	attribute struct {
		Key   string `json:"key"`
		Value value  `json:"value"`
	}
	value struct {
		Text string `json:"stringValue"`
	}
)

func appendAttribute(list []attribute, key, text string) []attribute {
	if text == "" {
		return list
	}
	return append(list, attribute{key, value{text}})
}

// severities maps the levels that devices use to OTLP's severity numbers.
var severities = map[string]int{"TRACE": 1, "DEBUG": 5, "INFO": 9, "NOTICE": 10, "WARN": 13, "WARNING": 13, "ERROR": 17, "FATAL": 21}

// encode makes the compressed body of a request, in which each device is a resource.
func encode(list []store.LogEntry) ([]byte, error) {
	var r request
	at := map[string]int{} // index in r.ResourceLogs by device
	for i := range list {
		e := &list[i]
		n, known := at[e.Device]
		if !known {
			n = len(r.ResourceLogs)
			at[e.Device] = n
			var one resourceLogs
			one.Resource.Attributes = []attribute{{"service.name", value{"gangway-device"}}, {"device.id", value{e.Device}}, {"gangway.owner", value{e.Owner}}}
			one.ScopeLogs = make([]scopeLogs, 1)
			one.ScopeLogs[0].Scope.Name = "gangway"
			r.ResourceLogs = append(r.ResourceLogs, one)
		}
		records := &r.ResourceLogs[n].ScopeLogs[0].LogRecords
		*records = append(*records, recordOf(e))
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if err := errors.Join(json.NewEncoder(z).Encode(r), z.Close()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func recordOf(e *store.LogEntry) record {
	r := record{
		Observed: strconv.FormatInt(e.Created.UnixNano(), 10), Severity: e.Level, Number: severities[strings.ToUpper(e.Level)], Body: value{e.Message},
	}
	// Sec and Nano come from the device, so they may not be a valid time.
	if e.Sec > 0 && e.Sec < math.MaxInt64/1_000_000_000-1 && e.Nano >= 0 && e.Nano < 1e9 {
		r.Time = strconv.FormatInt(e.Sec*1e9+e.Nano, 10)
	}
	r.Attributes = appendAttribute(r.Attributes, "gangway.source", e.Source)
	r.Attributes = appendAttribute(r.Attributes, "gangway.platform", e.Platform)
	r.Attributes = appendAttribute(r.Attributes, "gangway.revision", e.Rev)
	return r
}

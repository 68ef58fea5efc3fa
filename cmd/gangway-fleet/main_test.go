package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/fleet"
	"gangway/internal/fleet/load"
	"gangway/internal/hubtest"
	"gangway/wire"
)

// lab is a test hub that trusts a maker of emulated TPMs.
type lab struct {
	*hubtest.Hub
	t     *testing.T
	dir   string
	token *wire.TokenFile
}

// newLab makes a TPM maker with 'gangway-fleet maker', and starts a hub that trusts this maker.
func newLab(t *testing.T, change func(*api.Config)) *lab {
	t.Helper()
	dir := t.TempDir()
	l := &lab{t: t, dir: dir}
	code, out, _ := l.run(t.Context(), "maker", l.path("maker"))
	if code != 0 || !strings.Contains(out, l.path("maker/root.pem")) {
		t.Fatalf("maker: exit code %d: %s", code, out)
	}
	maker, err := fleet.LoadMaker(l.path("maker"))
	if err != nil {
		t.Fatal(err)
	}
	l.Hub = hubtest.NewWith(t, change, maker.Roots(), maker.Intermediates())
	l.token = l.Token(t, l.Owner, nil)
	l.write(l.token)
	return l
}

func (l *lab) path(name string) string { return filepath.Join(l.dir, name) }

// write writes `token` to the token file that 'gangway-fleet run' reads.
func (l *lab) write(token *wire.TokenFile) {
	l.t.Helper()
	b, err := json.Marshal(token)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(l.path("t.json"), b, 0o600); err != nil {
		l.t.Fatal(err)
	}
}

// run runs the program.
func (l *lab) run(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	l.t.Helper()
	var out, notes bytes.Buffer
	code = run(ctx, args, &out, &notes)
	return code, out.String(), notes.String()
}

// fleet runs 'gangway-fleet run' with the lab's hub and maker, and returns the report.
func (l *lab) fleet(ctx context.Context, args ...string) (code int, r *load.Report) {
	l.t.Helper()
	args = append([]string{"run", "--token", l.path("t.json"), "--maker", l.path("maker"), "--json", l.path("report.json"), "--workers", "4"}, args...)
	code, _, notes := l.run(ctx, args...)
	b, err := os.ReadFile(l.path("report.json"))
	if err != nil {
		l.t.Fatalf("exit code %d, no report: %s", code, notes)
	}
	r = new(load.Report)
	in := json.NewDecoder(bytes.NewReader(b))
	in.DisallowUnknownFields()
	if err := in.Decode(r); err != nil {
		l.t.Fatalf("the report: %v", err)
	}
	return code, r
}

func kindOf(t *testing.T, r *load.Report, name string) load.KindReport {
	t.Helper()
	for _, k := range r.Kinds {
		if k.Kind == name {
			return k
		}
	}
	t.Fatalf("the report has no kind %q", name)
	return load.KindReport{}
}

func total(n map[string]int64) (sum int64) {
	for _, v := range n {
		sum += v
	}
	return sum
}

// metrics serves the hub's metrics and returns their URL.
func (l *lab) metrics() string {
	l.t.Helper()
	private, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Server.ServePrivate(ctx, private) }()
	l.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			l.t.Error(err)
		}
	})
	return "http://" + private.Addr().String() + "/metrics"
}

// requests returns the number of requests for each route, as the hub's metrics count them.
func (l *lab) requests(metrics string) map[string]int64 {
	l.t.Helper()
	resp, err := http.Get(metrics)
	if err != nil {
		l.t.Fatal(err)
	}
	defer resp.Body.Close()
	counted := map[string]int64{}
	line := regexp.MustCompile(`^gangway_request_seconds_count\{route="([^"]*)"\} (\d+)$`)
	for s := bufio.NewScanner(resp.Body); s.Scan(); {
		if m := line.FindStringSubmatch(s.Text()); m != nil && m[2] != "0" {
			if counted[m[1]], err = strconv.ParseInt(m[2], 10, 64); err != nil {
				l.t.Fatal(err)
			}
		}
	}
	return counted
}

// Twenty devices send requests of every kind to a real hub. The fleet must count the same requests
// as the hub. The hub must list each device once, as active, and refuse every hostile request.
func TestFleetsNumbersAreTheHubs(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("measures a load of several seconds; TestStallIsInTheLatencies is shorter")
	}
	l := newLab(t, func(c *api.Config) { c.Timeouts.Header = 8 * time.Second })
	metrics := l.metrics()
	code, r := l.fleet(t.Context(), "--devices", "20", "--for", "1s", "--arrivals", "even", "--state", l.path("state"), "--hub-metrics", metrics,
		"--mix", "onboard=10/s,report=4/s,poll=3/s,logs=3/s,update=2/s,handshake=3/s,slow=2/s,garbage=3/s,oversized=2/s,forged=16/s")

	// On a slow machine, some requests may not start at their planned time. The report must count
	// them as missed.
	if want := map[bool]int{true: 0, false: exitUnexpected}[r.Total.Missed == 0]; code != want {
		t.Errorf("exit code %d, want %d: %+v", code, want, r.Total)
	}
	scheduled := map[string]int64{"onboard": 10, "report": 4, "poll": 3, "logs": 3, "update": 2, "handshake": 3, "slow": 2, "garbage": 3, "oversized": 2, "forged": 16}
	hostile := map[string]bool{"slow": true, "garbage": true, "oversized": true, "forged": true}
	for name, n := range scheduled {
		k := kindOf(t, r, name)
		right := k.OK
		if hostile[name] {
			right = total(k.Refused)
		}
		if k.Scheduled != n || right+total(k.Missed) != n || k.Latency.Count != right || len(k.Errors) != 0 {
			t.Errorf("%s: %+v, want %d scheduled, each one as expected or missed", name, k, n)
		}
		if k.Latency.Count > 0 && !(k.Latency.P50 > 0 && k.Latency.P50 <= k.Latency.P90 && k.Latency.P90 <= k.Latency.P99 && k.Latency.P99 <= k.Latency.P999 && k.Latency.P999 <= k.Latency.Max) {
			t.Errorf("%s: the quantiles do not grow: %+v", name, k.Latency)
		}
	}
	if k := kindOf(t, r, "forged"); k.Refused["ek-key-mismatch"] == 0 || k.Refused["certify-signature"] == 0 || k.Refused["ownership-proof"] == 0 {
		t.Errorf("forged requests: %+v", k.Refused)
	}
	if k := kindOf(t, r, "oversized"); k.Refused["body-too-large"] == 0 {
		t.Errorf("oversized requests: %+v", k.Refused)
	}

	hub := l.requests(metrics)
	own := map[string]int64{}
	for _, q := range append(r.Requests, r.Preparation.Requests...) {
		own[q.Route] += q.Answered
		if len(q.Errors) > 0 {
			t.Errorf("%s: %+v without an answer", q.Route, q.Errors)
		}
	}
	for route, n := range own {
		if hub[route] != n {
			t.Errorf("%s: the fleet counts %d requests, the hub %d", route, n, hub[route])
		}
		delete(hub, route)
	}
	if len(hub) != 0 {
		t.Errorf("the hub counts requests that the fleet does not: %v", hub)
	}

	active := map[string]bool{}
	addresses := map[string]bool{}
	for _, d := range l.Devices(t, l.Owner) {
		active[d.ID], addresses[d.LastSeenAddr] = true, true
	}
	missed := int(total(kindOf(t, r, "onboard").Missed))
	if len(active) != 20-missed || r.Active != 20-missed || l.Uses(t, l.token) != 20-missed {
		t.Errorf("%d devices at the hub, %d in the report, %d uses of the join token", len(active), r.Active, l.Uses(t, l.token))
	}
	if len(addresses) != len(active) {
		t.Errorf("%d devices connected from %d addresses, want one for each", len(active), len(addresses))
	}
	if h := r.HubProcess; h == nil || h.CPU <= 0 || h.PerRequest <= 0 || h.After.RSS == 0 {
		t.Errorf("the hub's process: %+v", h)
	}
	if r.Preparation.Onboarded != 10 || r.Preparation.Connected != 10 || r.Interrupted || !r.Kept {
		t.Errorf("the preparation: %+v", r.Preparation)
	}

	l.checkFields()

	// A second run loads devices from the state file, so it onboards no device.
	code, r = l.fleet(t.Context(), "--devices", "15", "--for", "200ms", "--arrivals", "even", "--state", l.path("state"), "--mix", "report=50/s", "--hub-pid", strconv.Itoa(os.Getpid()))
	if code != 0 || r.Preparation.Loaded != 15 || r.Preparation.Onboarded != 0 || kindOf(t, r, "report").OK != 10 || l.Uses(t, l.token) != 20-missed {
		t.Errorf("the second run: exit code %d: %+v %+v", code, r.Preparation, r.Total)
	}
	if h := r.HubProcess; h == nil || h.After.RSS == 0 || h.After.OpenFiles == 0 {
		t.Errorf("the hub's process, by its id: %+v", h)
	}
	// The state file still has the devices that this run did not use.
	if b, err := os.ReadFile(l.path("state")); err != nil || bytes.Count(b, []byte("\n")) != 1+20-missed {
		t.Errorf("%v: %d lines in the state file", err, bytes.Count(b, []byte("\n")))
	}
}

// checkFields checks the names of the report's fields, which other programs read.
func (l *lab) checkFields() {
	l.t.Helper()
	b, err := os.ReadFile(l.path("report.json"))
	if err != nil {
		l.t.Fatal(err)
	}
	var report any
	if err := json.Unmarshal(b, &report); err != nil {
		l.t.Fatal(err)
	}
	for _, path := range []string{
		"program", "cpus", "hub", "hub_name", "started", "devices", "devices_active", "arrivals", "connections_kept", "interrupted", "seconds", "seconds_scheduled",
		"preparation/devices_onboarded", "preparation/hub_before/rss_bytes", "preparation/hub_idle/rss_bytes",
		"kinds/0/kind", "kinds/0/rate", "kinds/0/scheduled", "kinds/0/ok", "kinds/0/missed", "kinds/0/refused", "kinds/0/errors",
		"kinds/0/latency_ms/count", "kinds/0/latency_ms/p50", "kinds/0/latency_ms/p90", "kinds/0/latency_ms/p99", "kinds/0/latency_ms/p99_9", "kinds/0/latency_ms/max",
		"kinds/0/error_latency_ms/p99", "requests/0/route", "requests/0/answered", "requests/0/statuses", "requests/0/errors", "requests/0/latency_ms/p99",
		"total/scheduled", "total/missed", "total/ok", "total/refused", "total/errors", "total/requests", "total/operations_per_second", "total/reconnects", "total/handshakes",
		"hub_process/cpu_seconds", "hub_process/cpu_seconds_per_request", "hub_process/cpus_used", "hub_process/after/rss_bytes",
		"generator/cpu_seconds", "generator/max_rss_bytes", "generator/start_delay_ms/p99",
	} {
		at := report
		for name := range strings.SplitSeq(path, "/") {
			switch v := at.(type) {
			case map[string]any:
				at = v[name]
			case []any:
				at = v[0]
			}
		}
		if at == nil {
			l.t.Errorf("the report has no %s", path)
		}
	}
}

// relay forwards connections to the hub. It pauses before it accepts connection number `at`.
type relay struct {
	l      net.Listener
	hub    string
	at     int
	pause  time.Duration
	copies sync.WaitGroup
}

// stalling puts a relay in front of the lab's hub. The relay's clients see a hub that stalls.
func (l *lab) stalling(at int, pause time.Duration) {
	l.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		l.t.Fatal(err)
	}
	r := &relay{l: listener, hub: strings.TrimPrefix(l.URL, "https://"), at: at, pause: pause}
	r.copies.Go(r.serve)
	l.t.Cleanup(func() { listener.Close(); r.copies.Wait() })
	token := *l.token
	token.Hub = "https://" + listener.Addr().String()
	l.write(&token)
}

func (r *relay) serve() {
	for n := 1; ; n++ {
		if n == r.at {
			time.Sleep(r.pause)
		}
		c, err := r.l.Accept()
		if err != nil {
			return
		}
		hub, err := net.Dial("tcp", r.hub)
		if err != nil {
			c.Close()
			continue
		}
		for from, to := range map[net.Conn]net.Conn{c: hub, hub: c} {
			r.copies.Go(func() {
				io.Copy(to, from)
				c.Close()
				hub.Close()
			})
		}
	}
}

// The hub stalls for a second. Requests must still start at their planned times, and the latency of
// each request must include the time that it waited. If each request started only after the answer
// to the previous request, only one latency would show the stall.
func TestStallIsInTheLatencies(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	l.stalling(20, time.Second)
	_, r := l.fleet(t.Context(), "--devices", "1", "--mix", "handshake=50/s", "--for", "1500ms", "--arrivals", "even")
	k := kindOf(t, r, "handshake")
	// Of the 75 handshakes, about 50 start during the stall. On average, these 50 wait for half a
	// second.
	if k.Scheduled != 75 || k.OK != 75 || k.Latency.P90 < 500 || k.Latency.P50 < 100 || k.Latency.Max < 900 {
		t.Errorf("%+v, want 75 handshakes, of which most waited", k)
	}
}

// If too many requests have no answer yet, the fleet starts no further requests, and the report
// counts the requests that it did not start.
func TestStartsBeyondTheBoundAreMissed(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	l.stalling(10, time.Second)
	code, r := l.fleet(t.Context(), "--devices", "1", "--mix", "handshake=50/s", "--for", "1s", "--arrivals", "even", "--outstanding", "5")
	k := kindOf(t, r, "handshake")
	if missed := k.Missed["too-many-outstanding"]; code != exitUnexpected || missed < 20 || k.Scheduled != 50 || k.OK+missed != 50 {
		t.Errorf("exit code %d, %+v, want 50 handshakes of which at least 20 are missed", code, k)
	}
}

// After an interrupt, gangway-fleet still writes its report and saves the devices.
func TestInterruptedRunWritesItsReport(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	metrics := l.metrics()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { // interrupt when the hub has counted some reports
		for ctx.Err() == nil && l.requests(metrics)["PATCH /device/meta"] < 8 {
			time.Sleep(20 * time.Millisecond)
		}
		cancel()
	}()
	code, r := l.fleet(ctx, "--devices", "3", "--mix", "report=20/s,slow=5/s", "--for", "1h", "--state", l.path("state"))
	k := kindOf(t, r, "report")
	if code != exitInterrupted || !r.Interrupted || k.OK == 0 || r.Scheduled > 1000 {
		t.Errorf("exit code %d: %+v", code, k)
	}
	if slow := kindOf(t, r, "slow"); slow.Scheduled != total(slow.Errors)+total(slow.Refused) {
		t.Errorf("slow clients: %+v", slow)
	}
	if b, err := os.ReadFile(l.path("state")); err != nil || bytes.Count(b, []byte("\n")) != 4 {
		t.Errorf("the state file: %v, %d lines", err, bytes.Count(b, []byte("\n")))
	}
}

// A user names a hub whose address is not on loopback. The program must refuse it, so that nobody
// onboards emulated devices at a real hub by mistake.
func TestRefusesAHubThatIsNotOnLoopback(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	token := *l.token
	token.Hub = "https://192.0.2.1:12443"
	l.write(&token)
	run := func(more ...string) (int, string) {
		code, _, notes := l.run(t.Context(), append([]string{"run", "--token", l.path("t.json"), "--maker", l.path("maker"), "--devices", "1", "--for", "1s", "--timeout", "100ms"}, more...)...)
		return code, notes
	}
	if code, notes := run(); code != exitFailed || !strings.Contains(notes, "--yes-this-is-a-test-hub") {
		t.Errorf("exit code %d: %s", code, notes)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if code, _, notes := l.run(ctx, "run", "--token", l.path("t.json"), "--maker", l.path("maker"), "--devices", "1", "--timeout", "100ms", "--yes-this-is-a-test-hub"); strings.Contains(notes, "loopback") || code == 0 {
		t.Errorf("with the confirmation: exit code %d: %s", code, notes)
	}
}

// If the hub does not trust the maker of the emulated TPMs, gangway-fleet says so and ends.
func TestUntrustedMakerEndsTheRun(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	l.Policy(t, store.HubWide, "version: 1\n") // accepts no emulated TPM
	code, _, notes := l.run(t.Context(), "run", "--token", l.path("t.json"), "--maker", l.path("maker"), "--devices", "3")
	if code != exitFailed || !strings.Contains(notes, "tpm-software") {
		t.Errorf("exit code %d: %s", code, notes)
	}
}

func TestWrongUsageSaysCauseAndRemedy(t *testing.T) {
	t.Parallel()
	l := &lab{t: t, dir: t.TempDir()}
	for line, want := range map[string]string{
		"":                                  "gangway-fleet maker",
		"maker":                             "DIR is missing",
		"run":                               "--token is missing",
		"run --token x --mix report,dance":  "the kinds are onboard, report",
		"run --token x --mix report,report": "twice",
		"run --token x --mix report=fast":   "50/s",
		"run --token x --rate 5/d":          "50/s",
		"run --token x --rate -1/s":         "50/s",
		"run --token x --mix poll=1/s --rate 1/s": "--rate has no effect",
		"run --token x --arrivals odd":            "poisson or even",
		"run --token x --devices 0":               "--devices must be at least 1",
		"run --token x --devices 99999999":        "at most 16000000",
		"run --token x --for 0s":                  "--for",
		"run --token x --object-size 1GB":         "2MiB",
		"run --token x --for 5":                   "has no unit",
		"run --token x --interval 5s":             "--interval",
		"start":                                   `"gangway-fleet run"`,
	} {
		code, out, notes := l.run(t.Context(), strings.Fields(line)...)
		wantCode := exitUsage
		if line == "" {
			wantCode = 0
		}
		if code != wantCode || !strings.Contains(out+notes, want) {
			t.Errorf("%q: exit code %d, want %d and %q: %s%s", line, code, wantCode, want, out, notes)
		}
	}
	if code, _, notes := l.run(t.Context(), "run", "--token", l.path("none")); code != exitFailed || !strings.Contains(notes, "none") {
		t.Errorf("no token file: exit code %d: %s", code, notes)
	}
}

// 'gangway-fleet maker' must not overwrite the keys of an existing TPM maker. Other users must not
// be able to read these keys.
func TestMakerIsNotOverwritten(t *testing.T) {
	t.Parallel()
	l := &lab{t: t, dir: t.TempDir()}
	if code, _, notes := l.run(t.Context(), "maker", l.path("m")); code != 0 {
		t.Fatal(notes)
	}
	before, err := os.ReadFile(l.path("m/root.key"))
	if err != nil {
		t.Fatal(err)
	}
	if code, _, notes := l.run(t.Context(), "maker", l.path("m")); code != exitFailed || !strings.Contains(notes, "already") {
		t.Errorf("the second time: exit code %d: %s", code, notes)
	}
	if after, err := os.ReadFile(l.path("m/root.key")); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the maker's key has changed: %v", err)
	}
	for _, name := range []string{"m/root.key", "m/intermediate.key"} {
		if s, err := os.Stat(l.path(name)); err != nil || s.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, s.Mode(), err)
		}
	}
}

package api_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/race"
	"gangway/wire"

	"github.com/prometheus/client_golang/prometheus"
)

func lines(page api.LogPage) string {
	var all []string
	for _, e := range page.Entries {
		all = append(all, e.Message)
	}
	return strings.Join(all, " ")
}

// The test reads logs as `pvr logs` does: it reads a page, follows the cursors until a page is
// empty, and then reads again from the time of the last line.
func TestLogsAreFollowed(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	var batch []string
	for i := range 120 {
		batch = append(batch, fmt.Sprintf(`{"tsec":%d,"tnano":5,"lvl":"INFO","src":"/pantavisor.log","plat":"pantavisor","rev":"1","msg":"%d"}`, i, i))
	}
	want[map[string]string](f.boat, "POST", "/logs/", "["+strings.Join(batch, ",")+"]", 200)
	f.Advance(2 * time.Second) // until the second in which the hub received the lines has ended
	q := url.Values{"cursor": {"true"}, "page": {"50"}, "sort": {"time-created"}, "dev": {wire.DevicePRN + f.boatID}, "after": {time.Now().Add(-time.Minute).UTC().Format(time.RFC3339)}}
	page := want[api.LogPage](f.ada, "GET", "/logs/?"+q.Encode(), nil, 200)
	seen := lines(page)
	if page.Count != 50 || page.Page != 50 || page.Next == "" {
		t.Fatalf("%s", brief.Of(page))
	}
	if e := page.Entries[7]; e.Device != wire.DevicePRN+f.boatID || e.Owner != wire.AccountPRN+f.Owner.ID || e.Sec != 7 || e.Nano != 5 || e.Rev != "1" || e.Platform != "pantavisor" || e.Source != "/pantavisor.log" || e.Level != "INFO" || len(e.ID) != 24 || time.Since(e.Created) > time.Minute {
		t.Errorf("%s", brief.Of(e))
	}
	for page.Count > 0 {
		page = want[api.LogPage](f.ada, "POST", "/logs/cursor", map[string]string{"next-cursor": page.Next}, 200)
		seen += " " + lines(page)
	}
	var all []string
	for i := range 120 {
		all = append(all, fmt.Sprint(i))
	}
	if strings.TrimSpace(seen) != strings.Join(all, " ") {
		t.Errorf("%s", brief.Of(seen))
	}
	// With the cursor of an empty page, a client later gets the lines that arrived after that page.
	want[map[string]string](f.boat, "POST", "/logs", `{"msg":"later"}`, 200)
	f.Advance(2 * time.Second)
	if page = want[api.LogPage](f.ada, "POST", "/logs/cursor/", map[string]string{"next-cursor": page.Next}, 200); lines(page) != "later" {
		t.Errorf("%s", brief.Of(page))
	}
	// With a malformed cursor, a client gets an empty page, as at the end of the list. The hub does
	// not answer 401, because pvr would then ask for a password.
	for _, bad := range []string{"", "x", "e30", page.Next + "x", "bnVsbA"} {
		if page := want[api.LogPage](f.ada, "POST", "/logs/cursor", map[string]string{"next-cursor": bad}, 200); page.Count != 0 || page.Entries == nil {
			t.Errorf("%q: %s", bad, brief.Of(page))
		}
	}
	// Mallory sends a cursor that the hub gave to Ada. The answer has only lines of Mallory's own
	// devices.
	if page := want[api.LogPage](f.mallory, "POST", "/logs/cursor", map[string]string{"next-cursor": want[api.LogPage](f.ada, "GET", "/logs?cursor=true&page=1&dev="+f.boatID, nil, 200).Next}, 200); page.Count != 0 {
		t.Errorf("%s", brief.Of(page))
	}
}

// To follow a log, pvr asks every second for the lines since its last line, whose time it truncates
// to whole seconds. It gets each line exactly once, whenever the device sent the line.
func TestFollowedLogBringsEachLineOnce(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	from := f.Now().Add(-time.Minute)
	var seen, sent []string
	poll := func() {
		take := func(page api.LogPage) api.LogPage {
			for _, e := range page.Entries {
				seen = append(seen, e.Message)
				from = e.Created
			}
			return page
		}
		q := url.Values{"cursor": {"true"}, "page": {"3000"}, "sort": {"time-created"}, "dev": {wire.DevicePRN + f.boatID}, "after": {from.UTC().Format(time.RFC3339)}}
		page := take(want[api.LogPage](f.ada, "GET", "/logs/?"+q.Encode(), nil, 200))
		for {
			page = take(want[api.LogPage](f.ada, "POST", "/logs/cursor", map[string]string{"next-cursor": page.Next}, 200))
			if page.Count == 0 {
				return
			}
		}
	}
	for i := range 40 {
		if i < 30 {
			msg := fmt.Sprint(i)
			want[map[string]string](f.boat, "POST", "/logs/", `{"msg":"`+msg+`"}`, 200)
			sent = append(sent, msg)
		}
		if i%3 == 0 {
			poll()
		}
		f.Advance(370 * time.Millisecond)
	}
	for range 3 { // the device is quiet
		poll()
		f.Advance(time.Second)
	}
	if fmt.Sprint(seen) != fmt.Sprint(sent) {
		t.Errorf("seen %s\nsent %s", brief.Of(seen), brief.Of(sent))
	}
	// A client that sends a time with fractions of a second gets the line at once.
	want[map[string]string](f.boat, "POST", "/logs/", `{"msg":"at once"}`, 200)
	page := want[api.LogPage](f.ada, "GET", "/logs/?cursor=true&after="+url.QueryEscape(from.UTC().Format("2006-01-02T15:04:05.000000Z07:00")), nil, 200)
	if lines(page) != "at once" {
		t.Errorf("%s", brief.Of(page))
	}
}

func TestLogsAreFiltered(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	second, secondID := f.onboarded(t, f.tok)
	want[api.DeviceView](f.ada, "PATCH", "/devices/"+secondID, map[string]string{"nick": "second"}, 200)
	want[map[string]string](f.boat, "POST", "/logs/", `[{"msg":"1","lvl":"INFO","src":"a","plat":"x","rev":3},{"msg":"2","lvl":"ERROR","src":"b","plat":"y","rev":"4"}]`, 200)
	want[map[string]string](second, "POST", "/logs/", `[{"msg":"3","lvl":"INFO","src":"a","plat":"y","rev":4}]`, 200)
	for query, wanted := range map[string]string{
		"":                                   "1 2 3",
		"sort=-time-created":                 "3 2 1",
		"lvl=ERROR":                          "2",
		"lvl=ERROR,INFO&src=a":               "1 3",
		"rev=4":                              "2 3",
		"plat=x,y":                           "1 2 3",
		"dev=second":                         "3",
		"dev=" + wire.DevicePRN + secondID:   "3",
		"dev=second," + f.boatID:             "1 2 3",
		"dev=" + f.pirateID:                  "",
		"dev=nothing":                        "",
		"dev=nothing&cursor=true":            "",
		"page=1&start=1":                     "2",
		"after=2999-01-01T00:00:00Z":         "",
		"before=2001-01-01T00:00:00%2B02:00": "",
	} {
		if got := lines(want[api.LogPage](f.ada, "GET", "/logs/?"+query, nil, 200)); got != wanted {
			t.Errorf("%s: %q", query, got)
		}
	}
}

func TestLogIsBoundedForEachDevice(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	f := newFleet(t)
	long := strings.Repeat("é", 20_000)
	want[map[string]string](f.boat, "POST", "/logs/", `[{"msg":"`+long+`","lvl":"`+long+`","tsec":"no time","rev":{"a":1}},{"msg":"nul\u0000"},{}]`, 200)
	got := want[api.LogPage](f.ada, "GET", "/logs/", nil, 200).Entries
	if len(got) != 3 || len(got[0].Message) > 17<<10 || !strings.HasSuffix(got[0].Message, "é…") || len(got[0].Level) > 300 || got[0].Rev != `{"a":1}` || strings.Contains(got[1].Message, "\x00") {
		t.Errorf("%d entries, the first of %d bytes", len(got), len(got[0].Message))
	}
	wantCode(f.boat, "POST", "/logs/", "["+strings.Repeat("{},", 1000)+"{}]", 413)
	wantCode(f.boat, "POST", "/logs/", `{"msg":"`+strings.Repeat("x", 2<<20)+`"}`, 413)
	wantCode(f.boat, "POST", "/logs/", `"text"`, 400)
	// The hub keeps 8 MiB of a device's log, and returns at most 1 MiB of it in one page.
	big := strings.Repeat("x", 15_000)
	batch := "[" + strings.TrimSuffix(strings.Repeat(`{"msg":"`+big+`"},`, 60), ",") + "]"
	for range 12 {
		want[map[string]string](f.boat, "POST", "/logs/", batch, 200)
	}
	f.Advance(2 * time.Second)
	bytes, page := 0, want[api.LogPage](f.ada, "GET", "/logs/?cursor=true&page=3000", nil, 200)
	for page.Count > 0 {
		if n := len(lines(page)); n > 1<<20+15_000 {
			t.Fatalf("a page has %d bytes", n)
		}
		bytes += len(lines(page))
		page = want[api.LogPage](f.ada, "POST", "/logs/cursor", map[string]string{"next-cursor": page.Next}, 200)
	}
	if bytes > 8<<20 || bytes < 7<<20 {
		t.Errorf("%d bytes are stored", bytes)
	}
	// After 30 days the log lines expire.
	f.Advance(31 * 24 * time.Hour)
	if err := f.Server.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := want[api.LogPage](f.person(t, "ada"), "GET", "/logs/", nil, 200); got.Count != 0 {
		t.Errorf("%d lines are left", got.Count)
	}
}

// The hub refuses or converts a time that it can parse but could not format, such as a time with an
// offset of 24 hours.
func TestLogsTakeAnyOffset(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	want[map[string]string](f.boat, "POST", "/logs", `[{"msg":"m"}]`, 200)
	for query, status := range map[string]int{
		"after=2026-01-01T00:00:00%2B24:00":  200,
		"before=2126-01-01T00:00:00-24:00":   200,
		"after=0000-01-01T00:00:00%2B24:00":  400,
		"before=9999-12-31T23:59:59-24:00":   400,
		"before=9999-12-31T23:59:59%2B24:00": 200,
	} {
		got, body := f.ada.do("GET", "/logs?cursor=true&"+query, nil)
		if got != status {
			t.Errorf("%s: %d %s", query, got, body)
		}
	}
}

// collected is a forwarder that stores the lines that it gets.
type collected struct {
	prometheus.Collector
	lines []store.LogEntry
}

func (c *collected) Forward(list []store.LogEntry) { c.lines = append(c.lines, list...) }

// The hub forwards the lines that it has stored. The forwarded device and owner are those that the
// hub knows, even if a line names others. The hub forwards no line that it refuses.
func TestStoredLinesAreForwarded(t *testing.T) {
	t.Parallel()
	c := &collected{Collector: prometheus.NewGauge(prometheus.GaugeOpts{Name: "collected"})}
	f := fleetOf(t, newSceneWith(t, func(config *api.Config) { config.LogForwarder = c }))
	want[map[string]string](f.boat, "POST", "/logs/", `[{"msg":"one","lvl":"INFO","dev":"`+f.pirateID+`","own":"mallory"},{"msg":"two"}]`, 200)
	wantCode(f.boat, "POST", "/logs/", `[{"msg":"three"},7]`, 400)
	want[map[string]string](f.boat, "POST", "/logs/", `[]`, 200)
	if len(c.lines) != 2 || c.lines[0].Message != "one" || c.lines[0].Level != "INFO" || c.lines[1].Message != "two" {
		t.Fatalf("%s", brief.Of(c.lines))
	}
	for _, e := range c.lines {
		if e.Device != f.boatID || e.Owner != f.Owner.ID || time.Since(e.Created) > time.Minute {
			t.Errorf("%s", brief.Of(e))
		}
	}
}

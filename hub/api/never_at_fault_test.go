package api_test

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"gangway/internal/brief"
	"gangway/internal/race"
)

// pieces are parts of bad inputs, each of which has caused an error in some other program.
var pieces = []string{"", "\x00", "\xff\xfe", "%00", "%ff", "../..", "..%2f..", "'", "\"", ";--", "%", "_", "^", "!", "^\x00", "$", "{}", "[]", "null", "-1", "0", "1", "2147483648", "9223372036854775807", "9223372036854775808", "1e999", "-0", "NaN",
	"0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-01-01T00:00:00+24:00", "99999-01-01T00:00:00Z", "\u202e", "\ud7ff", "😀", `{"$ne":"x"}`, `{"$where":"1"}`, `{"$in":[null]}`, `{"$in":["NEW"]}`, "device:", "latest", "values", "prn:::devices:/", "prn:::accounts:/",
	"eyJnIjoxLCJjIjoiOTk5OTktMDEtMDFUMDA6MDA6MDBaIn0", "eyJnIjo1MDAwLCJjIjoiMDAwMC0wMS0wMVQwMDowMDowMFoiLCJxIjotMX0", strings.Repeat("a", 300), strings.Repeat("a,", 100), strings.Repeat("0", 24), strings.Repeat("f", 64)}

var queryNames = []string{"owner", "owner-nick", "nick", "device", "dev", "after", "before", "limit", "page", "start", "sort", "filter", "progress.status", "cursor", "lvl", "src", "plat", "rev", "challenge", "autolink"}

// mutator makes random requests from a seed.
type mutator struct {
	*rand.Rand
	c    *contract
	good []string // existing ids and other existing values
}

func (m *mutator) piece() string {
	if m.IntN(3) == 0 {
		return m.good[m.IntN(len(m.good))]
	}
	return pieces[m.IntN(len(pieces))]
}

// value returns a random JSON value.
func (m *mutator) value(depth int) string {
	switch n := m.IntN(10); {
	case n < 2 && depth > 0:
		return "[" + m.value(depth-1) + "," + m.value(depth-1) + "]"
	case n < 5 && depth > 0:
		return m.object(depth - 1)
	case n < 8:
		return string(quoted(m.piece()))
	case n < 9:
		return []string{"null", "true", "0", "-1", "1e400", "1.5", "9223372036854775808", "12345678901234567890123"}[m.IntN(8)]
	}
	return m.piece()
}

func quoted(s string) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return b
}

var fieldNames = []string{"id", "prn", "nick", "owner", "public", "user-meta", "state", "rev", "commit-msg", "meta", "status", "progress", "status-msg", "downloads", "sha256sum", "size", "sizeint", "objectname", "mime-type", "username", "password", "scope", "email",
	"questions", "from", "bank", "pcrs", "lock", "max-uses", "expires-in", "default-user-meta", "without-tpm", "for-pantacor", "next-cursor", "msg", "tsec", "tnano", "lvl", "src", "plat", "nonce", "attest", "signature", "event-log", "proof", "csr", "name", "device-name",
	"ak-pub", "ak-name", "ek-cert", "ek-pub", "token-id", "idevid-name", "#spec", "a.json", "kernel"}

func (m *mutator) object(depth int) string {
	var b strings.Builder
	for i := range m.IntN(5) {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(quoted(fieldNames[m.IntN(len(fieldNames))]))
		b.WriteByte(':')
		b.WriteString(m.value(depth))
	}
	return "{" + b.String() + "}"
}

// body returns an altered good body, or a random body.
func (m *mutator) body(good string) string {
	switch m.IntN(4) {
	case 0:
		return good
	case 1:
		var fields map[string]json.RawMessage
		if json.Unmarshal([]byte(good), &fields) != nil || len(fields) == 0 {
			return m.object(3)
		}
		name := slices.Sorted(maps.Keys(fields))[m.IntN(len(fields))]
		// json.Marshal cannot be used here, because the value may be malformed on purpose.
		return strings.Replace(good, string(fields[name]), m.value(3), 1)
	case 2:
		b := []byte(good)
		for range 1 + m.IntN(3) {
			if len(b) > 0 {
				b[m.IntN(len(b))] = byte(m.IntN(256))
			}
		}
		return string(b[:len(b)-m.IntN(len(b)+1)/2])
	}
	return m.object(4)
}

// walk sends one request and fails the test if the answer is a 5xx.
func (m *mutator) walk(t *testing.T, routes []string, rows map[string]row) {
	t.Helper()
	route := routes[m.IntN(len(routes))]
	r := rows[route]
	method, path, _ := strings.Cut(route, " ")
	values := map[string]string{}
	for name := range m.c.secrets {
		if m.IntN(3) == 0 {
			values[name] = url.PathEscape(m.piece())
		}
	}
	address := m.c.at(path, values)
	q := url.Values{}
	for range m.IntN(4) {
		q.Add(queryNames[m.IntN(len(queryNames))], m.piece())
	}
	raw := q.Encode()
	if m.IntN(20) == 0 {
		raw += "&" + url.QueryEscape(m.piece()) + "=%zz;;&&="
	}
	body := m.body(r.body)
	u, err := url.Parse(m.c.URL + address)
	if err != nil {
		return // an HTTP server refuses such an address before the hub sees it
	}
	u.RawQuery = raw
	p := []*person{m.c.caller(r), m.c.ada, m.c.boat, m.c.mallory, m.c.anonymous}[m.IntN(5)]
	if path == "/auth/logout" || path == "/sign-out" {
		p = m.c.anonymous // a sign-out would end the session that later requests need
	}
	req, err := http.NewRequestWithContext(context.Background(), method, u.String(), strings.NewReader(body))
	if err != nil {
		return
	}
	if p.token != "" {
		req.Header.Set("Authorization", "Bearer "+p.token)
	}
	for k, v := range header(r) {
		req.Header.Set(k, v)
	}
	for _, name := range []string{"Authorization", "Cookie", "Accept", "Range", "If-Range", "Content-Type", "X-Forwarded-For", "Client-Cert", "Pantahub-Devices-Auto-Token-V1", "User-Agent", "Origin", "Sec-Fetch-Site", "If-None-Match", "Expect"} {
		if m.IntN(15) == 0 {
			v := m.piece()
			if name == "Range" {
				v = "bytes=" + v
			}
			if name == "Cookie" {
				v = "__Host-gangway=" + v
			}
			if !strings.ContainsAny(v, "\x00\r\n") {
				req.Header.Set(name, v)
			}
		}
	}
	if m.IntN(10) == 0 {
		req.ContentLength = -1
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return // the HTTP client does not send this request
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(resp.Body)
	if resp.StatusCode >= 500 {
		t.Errorf("%s %s as %s\n%s\n%.300q: %d %s", method, u, brief.Of(p), brief.Of(req.Header), body, resp.StatusCode, brief.Of(answer))
	}
	if resp.StatusCode >= 400 && strings.HasPrefix(resp.Header.Get("Content-Type"), "application/json") {
		isProblemOr409(t, method+" "+path, resp, answer)
	}
}

// isProblemOr409 does the same as isProblem. It also accepts a 409 with the record of an object
// that the caller owns.
func isProblemOr409(t *testing.T, what string, resp *http.Response, body []byte) {
	t.Helper()
	if resp.StatusCode == 409 && resp.Header.Get("Pantahub-Object-Type") != "" || resp.StatusCode >= 500 {
		return
	}
	isProblem(t, what, resp.StatusCode, body, resp.Header)
}

func newMutator(c *contract, seed uint64) *mutator {
	return &mutator{Rand: rand.New(rand.NewPCG(seed, 4)), c: c, good: []string{c.boatID, c.pirateID, c.secondID, c.contentSum, c.Owner.ID, "ada", "mallory", c.secrets["token"], c.expired, c.ada.token, "1", "0", "sha256", "DONE", "NEW", systemSpec}}
}

// No input makes a route answer 5xx. The random generator has a fixed seed, so the test always
// sends the same requests. "make e2e-full" sends three times as many.
func TestNoInputIsTheHubsFault(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	requests := 2000
	switch {
	case os.Getenv("GANGWAY_E2E_FULL") != "":
		requests = 6000
	case testing.Short():
		requests = 300
	}
	c := newContract(t)
	rows := contractRows()
	for seed := range requests {
		newMutator(c, uint64(seed)).walk(t, c.routes, rows)
	}
	if !strings.Contains(c.metrics(t), "gangway_panics_total 0") {
		t.Error("there was a panic")
	}
}

// FuzzNoInputIsTheHubsFault runs TestNoInputIsTheHubsFault with other seeds. Each seed gets a new
// hub.
func FuzzNoInputIsTheHubsFault(f *testing.F) {
	f.Add(uint64(1) << 40)
	requests := uint64(500)
	if testing.Short() {
		requests = 100
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		c := newContract(t)
		rows := contractRows()
		for i := range requests {
			newMutator(c, seed+i).walk(t, c.routes, rows)
		}
		if !strings.Contains(c.metrics(t), "gangway_panics_total 0") {
			t.Error("there was a panic")
		}
	})
}

// The test puts every piece into every query parameter of each route. "make e2e-full" sends all
// these queries, and "make test" every eleventh of them. The number of pieces and the number of
// parameters are not multiples of 11, so an eleventh still has each piece and each parameter.
func TestNoQueryIsTheHubsFault(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	if testing.Short() {
		t.Skip("sends thousands of queries")
	}
	every := 11
	if os.Getenv("GANGWAY_E2E_FULL") != "" {
		every = 1
	}
	c := newContract(t)
	want[map[string]string](c.boat, "POST", "/logs", `[{"msg":"m"}]`, 200)
	rows, calls := contractRows(), 0
	for _, route := range c.routes {
		if t.Failed() {
			break // a thousand queries of one route can fail in the same way
		}
		method, path, _ := strings.Cut(route, " ")
		r := rows[route]
		if method != "GET" || r.who == "all" || r.who == "self" || r.who == "chip" || path != "/" && strings.HasSuffix(path, "/") || strings.Count(path, "/") > 3 || strings.HasPrefix(path, "/policy") {
			continue
		}
		callers := []*person{c.ada, c.boat}
		if r.who == "operator" {
			callers = []*person{c.olga}
		}
		for _, name := range queryNames {
			for _, piece := range pieces {
				if t.Failed() {
					return // other queries of this route fail in the same way
				}
				for _, p := range callers {
					if p == c.boat && r.who == "owner" {
						continue
					}
					if calls++; calls%every != 0 {
						continue
					}
					status, body, h := p.request(method, c.at(path, nil)+"?cursor=true&"+name+"="+url.QueryEscape(piece), nil, nil)
					if status >= 400 {
						isProblem(t, path+"?"+name+"="+brief.Of(piece), status, body, h, 400, 404, max(r.status, 400))
					}
				}
			}
		}
	}
	if !strings.Contains(c.metrics(t), "gangway_panics_total 0") {
		t.Error("there was a panic")
	}
	t.Logf("%d calls", calls)
}

package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/hubtest"
	"gangway/internal/race"

	_ "modernc.org/sqlite"
)

// hostileRequests returns requests that anyone may send, and that the hub refuses. Each request
// causes an event with a different kind and code.
func (s *scene) hostileRequests(t testing.TB) [][2]string {
	t.Helper()
	request := s.request(t, s.victim)
	rogue := s.request(t, s.device(t))
	return [][2]string{
		{"/onboard", "no TCG-CSR-IDEVID"},
		{"/onboard", string(request[:len(request)-1])},
		{"/onboard", string(rogue[:len(rogue)/2])},
		{"/enroll/request", "{"},
		{"/enroll/request", `{"ak-pub":"AAAA"}`},
		{"/register", "{"},
		{"/devices/register", `{"csr":"AAAA"}`},
		{"/onboard/activate", `{"proof":"AAAA"}`},
		{"/auth/signature/verify", "{}"},
		{"/devices", ""},
	}
}

// sendFrom sends a request to the hub's handler, as if the request came from the address `addr`. It
// returns the status.
func (s *scene) sendFrom(addr, path, body string) int {
	r := httptest.NewRequest("POST", s.URL+path, strings.NewReader(body))
	r.RemoteAddr = addr
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "stranger")
	w := httptest.NewRecorder()
	s.Server.Handler().ServeHTTP(w, r)
	return w.Code
}

// network returns an address in the n-th of many networks.
func network(n int) string {
	if n%2 == 0 {
		return fmt.Sprintf("198.%d.%d.%d:4000", 18+n>>17&1, n>>9&255, n>>1&255)
	}
	return fmt.Sprintf("[2001:db8:%x:%x::1]:4000", n>>16&0xffff, n&0xffff)
}

// size returns how many bytes of the database are in use, and the length of its file.
func (s *scene) size(t testing.TB) (used, file int) {
	t.Helper()
	db := openDatabase(t, s.Data())
	defer db.Close()
	if err := db.QueryRow("SELECT sum(pgsize - unused) FROM dbstat").Scan(&used); err != nil {
		t.Fatal(err)
	}
	var page, pages int
	for of, to := range map[string]*int{"page_size": &page, "page_count": &pages} {
		if err := db.QueryRow("PRAGMA " + of).Scan(to); err != nil {
			t.Fatal(err)
		}
	}
	return used, page * pages
}

func (s *scene) rows(t testing.TB) int {
	t.Helper()
	db := openDatabase(t, s.Data())
	defer db.Close()
	var n int
	if err := db.QueryRow("SELECT count(*) FROM events").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// Attack: for a day, strangers send requests that the hub refuses, as many as they can and from any
// networks. The database grows by at most 50 MB.
func TestStrangersGrowTheDatabaseWithinBounds(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	s := newScene(t)
	s.Server.Unlimited()
	bodies := s.hostileRequests(t)
	flood := func(hour, requests int) {
		t.Helper()
		for i := range requests {
			b := bodies[i%len(bodies)]
			if status := s.sendFrom(network(hour<<12+i/len(bodies)), b[0], b[1]); status < 400 || status >= 500 {
				t.Fatalf("%s: %d", b[0], status)
			}
		}
		s.Server.FlushCounters(t.Context())
	}
	// Each kind of event occurs in the first hour. The hub stores one row a day for each kind, in
	// addition to the rows that the limits allow.
	flood(0, 4000)
	first := s.rows(t)
	if first < api.CrowdOfNobody || first > api.CrowdOfNobody+3*len(bodies) {
		t.Errorf("%d rows of the first hour, whose bound is %d", first, api.CrowdOfNobody)
	}
	before, _ := s.size(t)
	const hours = 12
	for hour := range hours {
		s.Advance(time.Hour)
		flood(1+hour, 1000)
	}
	grown := s.rows(t) - first
	if grown < hours*api.CrowdOfNobody || grown > hours*api.CrowdOfNobody+3*len(bodies) {
		t.Errorf("%d more rows in %d hours", grown, hours)
	}
	// The flood causes only events without an owner. A flood of events with owners would cause more
	// rows, up to CrowdADay.
	after, _ := s.size(t)
	aRow := (after - before) / grown
	if aDay := api.CrowdADay * aRow; aDay > 50e6/10 || aRow < 50 {
		t.Errorf("a row takes %d bytes, those of a day %d", aRow, aDay)
	}
	// The rows' counts include all requests, even those without a separate row.
	total := 0
	for _, e := range must(s.Store.Events(t.Context(), store.EventFilter{Kind: "enrolment.refused", Limit: 1000}))(t) {
		total += e.Count
	}
	if want := (4000 + hours*1000) * 7 / len(bodies); total != want {
		t.Errorf("%d refusals are counted, %d were sent", total, want)
	}
}

// The operator sees the first refusal of an attack at once, and the number of further refusals.
func TestFirstRefusalShowsAtOnceAndTheOthersAreCounted(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Server.Unlimited()
	events := func() []store.Event {
		return must(s.Store.Events(t.Context(), store.EventFilter{Kind: "enrolment.refused"}))(t)
	}
	s.sendFrom("192.0.2.1:1", "/onboard", "nothing")
	if is := events(); len(is) != 1 || is[0].Count != 1 || is[0].Addr != "192.0.2.1" || is[0].Code == "" || is[0].Message == "" {
		t.Fatalf("%s", brief.Of(is))
	}
	for range 99 {
		s.sendFrom("192.0.2.1:2", "/onboard", "nothing")
	}
	s.sendFrom("192.0.2.2:2", "/onboard", "nothing") // another network, another row
	s.Server.FlushCounters(t.Context())
	if is := events(); len(is) != 2 || is[0].Count != 1 || is[1].Count != 100 {
		t.Fatalf("%s", brief.Of(is))
	}
	// A device in an IPv6 network can use any of the network's addresses, so the hub counts them as
	// one address.
	for i := range 10 {
		s.sendFrom(fmt.Sprintf("[2001:db8::%x]:1", i+1), "/onboard", "nothing")
	}
	if is := events(); len(is) != 3 {
		t.Errorf("%d rows", len(is))
	}
	// The length of an event's message is bounded.
	s.sendFrom("192.0.2.3:1", "/register", `{"csr":"`+strings.Repeat("\u00e4", 20000)+`"}`)
	for _, e := range events() {
		if len(e.Message) > 500 || strings.ToValidUTF8(e.Message, "") != e.Message {
			t.Errorf("a message of %d bytes: %q", len(e.Message), e.Message)
		}
	}
}

// Strangers send many requests that the hub refuses. Their events do not hide an owner's own
// events.
func TestCrowdOfStrangersHidesNothingFromAnOwner(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Server.Unlimited()
	for i := range 500 {
		s.sendFrom(network(i), "/onboard", "nothing")
	}
	// A device proves that it has the owner's join token, but the hub refuses its evidence.
	s.Policy(t, s.Owner.ID, "version: 1\nsoftware_tpms: []\n")
	refused(t, s.post(t, s.request(t, s.victim)), 403, "tpm-software")
	is := must(s.Store.Events(t.Context(), store.EventFilter{Owner: s.Owner.ID, Kind: "enrolment.refused"}))(t)
	if len(is) != 1 || is[0].Code != "tpm-software" || is[0].Token != s.tok.ID {
		t.Errorf("%s", brief.Of(is))
	}
	// A flood of one owner's events does not hide the events of other owners.
	other := s.Account(t, "mary")
	again := string(s.request(t, s.victim))
	for i := range 100 {
		s.sendFrom(network(i), "/onboard", again)
	}
	if n := len(must(s.Store.Events(t.Context(), store.EventFilter{Owner: s.Owner.ID, Kind: "enrolment.refused", Limit: 1000}))(t)); n < 30 || n > 70 {
		t.Errorf("%d rows of 101 refusals from as many networks", n)
	}
	s.sendFrom("192.0.2.77:1", "/auth/login", `{"username":"mary","password":"wrong password"}`)
	is = must(s.Store.Events(t.Context(), store.EventFilter{Owner: other.ID, Kind: "account.sign-in-refused"}))(t)
	if len(is) != 1 || is[0].Addr != "192.0.2.77" {
		t.Errorf("%s", brief.Of(is))
	}
}

// After some time, the hub removes the events that strangers caused. It removes owners' events much
// later. The database reuses the space of removed events.
func TestOldEventsAreForgotten(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	s := newScene(t)
	s.Server.Unlimited()
	count := func(kind string) int {
		return len(must(s.Store.Events(t.Context(), store.EventFilter{Kind: kind, Limit: 1000}))(t))
	}
	var files []int
	for range 4 {
		for i := range 200 {
			s.sendFrom(network(i), "/onboard", "nothing")
			s.Advance(time.Minute)
		}
		if err := s.Store.AppendEvent(t.Context(), store.Event{Time: s.Now(), Kind: "account.signed-in", Owner: s.Owner.ID}); err != nil {
			t.Fatal(err)
		}
		_, file := s.size(t)
		files = append(files, file)
		if count("enrolment.refused") < 200 {
			t.Fatal("the events were not stored")
		}
		s.Advance(api.DefaultUnprovenAge)
		s.Server.SweepOnce(t.Context())
		if n := count("enrolment.refused"); n != 0 {
			t.Errorf("%d old refusals are left", n)
		}
	}
	if files[3] > files[0]+64<<10 {
		t.Errorf("the file grows: %s", brief.Of(files))
	}
	if count("account.signed-in") != 4 {
		t.Error("an owner's events were removed too")
	}
	s.Advance(api.DefaultEventsAge)
	s.Server.SweepOnce(t.Context())
	if n := count(""); n != 0 {
		t.Errorf("%d events are left", n)
	}
}

// An operator may keep the events of owners permanently, but not events that strangers caused.
func TestEventsAreKeptAsLongAsTheOperatorSays(t *testing.T) {
	t.Parallel()
	maker := must(goodMaker())(t)
	s := sceneOn(t, hubtest.NewWith(t, func(c *api.Config) { c.EventsAge, c.UnprovenAge = -1, 48*time.Hour }, maker.Roots(), maker.Intermediates()), maker)
	s.person(t, "ada")
	s.sendFrom("192.0.2.1:1", "/onboard", "nothing")
	kinds := func() (kinds []string) {
		for _, e := range must(s.Store.Events(t.Context(), store.EventFilter{}))(t) {
			kinds = append(kinds, e.Kind)
		}
		return kinds
	}
	s.Advance(47 * time.Hour)
	s.Server.SweepOnce(t.Context())
	if got := fmt.Sprint(kinds()); got != "[enrolment.refused account.signed-in]" {
		t.Error(got)
	}
	s.Advance(50 * 365 * 24 * time.Hour)
	s.Server.SweepOnce(t.Context())
	if got := fmt.Sprint(kinds()); got != "[account.signed-in]" {
		t.Error(got)
	}
}

// One device that onboards many times, each time with other keys, takes a bounded number of rows.
func TestDeviceThatOnboardsWithoutEndKeepsTheHubSmall(t *testing.T) {
	if testing.Short() {
		t.Skip("onboards a device hundreds of times")
	}
	t.Parallel()
	s := newScene(t)
	day := s.Now().UTC().Format(time.DateOnly)
	again := func(times int) {
		t.Helper()
		for range times {
			d := must(s.victim.WithNewIdentity())(t)
			must(d.Onboard(t.Context(), s.client, s.tok))(t)
		}
	}
	again(store.KeptSuperseded + store.KeptFingerprints + 1)
	before, _ := s.size(t)
	again(20)
	after, _ := s.size(t)
	if grown := after - before; grown > 32<<10 {
		t.Errorf("20 more onboardings of one device grow the database by %d bytes", grown)
	}
	if is := must(s.Store.Events(t.Context(), store.EventFilter{Kind: "device.activated"}))(t); len(is) != 2 {
		// The hub counts the onboardings of each day in one row.
		if len(is) != 3 || s.Now().UTC().Format(time.DateOnly) == day {
			t.Errorf("%d rows of the trail", len(is))
		}
	}
	if n := len(s.Devices(t, s.Owner)); n != 1 {
		t.Errorf("%d devices", n)
	}
}

// A large request counts as several requests at the rate limit, because it fills the hub's disk
// sooner.
func TestLargeRequestsCountAsSeveral(t *testing.T) {
	t.Parallel()
	maker := must(goodMaker())(t)
	s := sceneOn(t, hubtest.NewWith(t, func(c *api.Config) { c.Rates = api.Rates{"onboard": {PerSecond: 1e-6, Burst: 20}} }, maker.Roots(), maker.Intermediates()), maker)
	large := strings.Repeat("x", 255<<10) // 15 times 16 KiB and a remainder
	for i, want := range []int{400, 429, 400, 400, 400, 429} {
		body := large
		if i > 1 {
			body = "small"
		}
		if status := s.sendFrom("192.0.2.1:1", "/onboard", body); status != want {
			t.Errorf("request %d: %d, want %d", i, status, want)
		}
	}
	if status := s.sendFrom("192.0.2.2:1", "/onboard", large); status != 400 {
		t.Errorf("from another network: %d", status)
	}
}

// TestGrowthOfAMinute sends requests that the hub refuses, from some networks, as fast as the rate
// limits allow. The duration is in GANGWAY_GROWTH, such as 1m. The test logs the growth of the
// database in this time, and the growth in a day at the same rate. `make growth` runs the test.
func TestGrowthOfAMinute(t *testing.T) {
	t.Parallel()
	text := os.Getenv("GANGWAY_GROWTH")
	if text == "" {
		t.Skip("set GANGWAY_GROWTH=1m, or run make growth")
	}
	long := must(time.ParseDuration(text))(t)
	const networks = 5
	maker := must(goodMaker())(t)
	s := sceneOn(t, hubtest.NewWith(t, func(c *api.Config) { c.Rates = nil }, maker.Roots(), maker.Intermediates()), maker)
	bodies := s.hostileRequests(t)
	login, _ := json.Marshal(map[string]string{"username": s.Owner.Nick, "password": "wrong password"})
	bodies = append(bodies, [2]string{"/auth/login", string(login)})
	sent, answered := 0, map[int]int{}
	rows := s.rows(t)
	before, fileBefore := s.size(t)
	began := time.Now()
	for tick := time.NewTicker(100 * time.Millisecond); time.Since(began) < long; <-tick.C {
		for range 60 { // 600 a second, of which the limits admit some
			b := bodies[sent%len(bodies)]
			answered[s.sendFrom(network(sent/len(bodies)%networks), b[0], b[1])]++
			sent++
		}
	}
	s.Server.FlushCounters(t.Context())
	after, fileAfter := s.size(t)
	aDay := func(n int) float64 { return float64(n) * float64(24*time.Hour) / float64(time.Since(began)) / 1e6 }
	t.Logf("%d requests from %d networks in %v: %d were judged, %d were over the limit", sent, networks, time.Since(began).Round(time.Second), sent-answered[http.StatusTooManyRequests], answered[http.StatusTooManyRequests])
	t.Logf("%d more rows of the trail; the database grew by %d bytes, and its file by %d", s.rows(t)-rows, after-before, fileAfter-fileBefore)
	if log, err := os.Stat(filepath.Join(s.Data(), "gangway.db-wal")); err == nil {
		t.Logf("SQLite's log has %d bytes; after 32 MiB it starts again", log.Size())
	}
	t.Logf("if each minute added as much as the first, 24 hours would add %.1f MB", aDay(after-before))
	if aDay(after-before) > 50 {
		t.Error("more than 50 MB in 24 hours")
	}
}

package browser_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gangway/hub/store"
	"gangway/hub/store/sqlite"
	"gangway/hub/store/sqlite/sqlitetest"
	"gangway/internal/browser"
	"gangway/internal/hubtest"
	"gangway/internal/race"
)

// Upper bounds for the first load of every page, measured with full lists.
const (
	maxStatements = 120 // a list of 50 rows reads two records for each row
	maxRows       = 400
	maxTransfer   = 90_000 // compressed bytes of the page and of its static files
	maxFiles      = 4      // the style sheet, the script, the icon and, on a page that uses it, htmx
)

// pageCost is the cost of one page.
type pageCost struct {
	statements, rows uint64
	bytes, files     int // compressed bytes of the page and of its static files; number of these files
}

// hubWithFleet starts a hub whose account ada owns a fleet of this size and one join token.
func hubWithFleet(t testing.TB, devices int) *hubtest.Hub {
	t.Helper()
	dir := t.TempDir()
	database := filepath.Join(dir, "gangway.db")
	owner := hubtest.NewAccount("ada", time.Now())
	make := func() error {
		if err := sqlitetest.CopyEmpty(database); err != nil {
			return err
		}
		db, err := sqlite.Open(t.Context(), database)
		if err != nil {
			return err
		}
		if err := errors.Join(db.CreateAccount(t.Context(), owner), db.Close()); err != nil {
			return err
		}
		return sqlitetest.FillFleet(t.Context(), database, owner.ID, devices)
	}
	if err := make(); err != nil {
		t.Fatal(err)
	}
	h := hubtest.Open(t, dir, nil, nil, nil)
	h.Owner = owner
	h.Token(t, owner, nil)
	return h
}

// Every page stays within its budget of SQL statements, rows and bytes, and costs about the same in
// a fleet that is fifty times as large.
func TestPagesStayWithinTheirBudget(t *testing.T) {
	race.Skip(t)
	if testing.Short() {
		t.Skip("fills two databases")
	}
	costs := map[int]map[string]pageCost{}
	for _, devices := range []int{100, 5000} {
		costs[devices] = costOfPages(t, hubWithFleet(t, devices))
	}
	for name, small := range costs[100] {
		large := costs[5000][name]
		t.Logf("%-20s %3d statements %4d rows %6d bytes %d files", name, large.statements, large.rows, large.bytes, large.files)
		statements, rows := uint64(maxStatements), uint64(maxRows)
		if name == "bulk-delete" { // this page reads every device that the action changes, at most 1000
			statements, rows = 1100, 2100
			small = large
		}
		if name == "revisions" { // only a few of 100 devices install a revision, so this list is shorter than a page
			small = large
		}
		if large.statements == 0 || large.statements > statements || large.rows > rows || large.bytes > maxTransfer || large.files > maxFiles {
			t.Errorf("%s: %+v is over the budget", name, large)
		}
		// In a larger fleet, fields such as the firmware version have more different values, so a
		// page has more counters, and the list of devices names more join tokens.
		if large.statements > small.statements+30 || large.rows > small.rows+200 {
			t.Errorf("%s: %+v with 5000 devices, %+v with 100", name, large, small)
		}
	}
}

// addresses returns the pages that a person with a fleet can open: a map from the name of each page
// to the page's address.
func addresses(t testing.TB, h *hubtest.Hub) map[string]string {
	t.Helper()
	list, err := h.Store.SearchDevices(t.Context(), store.DeviceSearch{Owner: h.Owner.ID, Limit: 1})
	if err != nil || len(list.Rows) == 0 {
		t.Fatalf("%d devices, %v", len(list.Rows), err)
	}
	tokens, err := h.Store.JoinTokensPage(t.Context(), h.Owner.ID, "", 1)
	if err != nil || len(tokens) == 0 {
		t.Fatalf("%d tokens, %v", len(tokens), err)
	}
	fill := strings.NewReplacer("{id}", list.Rows[0].ID, "{token}", tokens[0].ID, "{code}", strings.Repeat("AbC", 19)+"Aw")
	all := map[string]string{"device": "/ui/devices/" + list.Rows[0].ID, "boots-cohort": "/ui/boots/firmware-code/" + strings.Repeat("0", 63) + "2"}
	for _, p := range pages {
		if !p.empty && !p.waiting && !p.signedOut && !p.operator && p.name != "operator-refused" && p.name != "problem" && p.name != "claim-wrong" && p.name != "boots-cohort" && !strings.Contains(p.path, "{manifest") {
			all[p.name] = fill.Replace(p.path)
		}
	}
	return all
}

func costOfPages(t *testing.T, h *hubtest.Hub) map[string]pageCost {
	t.Helper()
	client := loopback(t)
	cookie := browser.SignIn(t, client, h.URL, "ada", hubtest.Password)
	static := map[string]int{}
	costs := map[string]pageCost{}
	for name, path := range addresses(t, h) {
		var least pageCost
		for range 3 { // the hub's background work is counted too, so use the cheapest run
			before := h.Store.Work()
			page, n := load(t, client, h.URL+path, cookie)
			after := h.Store.Work()
			cost := pageCost{statements: after.Statements - before.Statements, rows: after.Rows - before.Rows, bytes: n}
			if loads, uses := strings.Contains(page, "/assets/htmx.min."), strings.Contains(page, " hx-"); loads != uses {
				t.Errorf("%s: loads htmx: %v, uses it: %v", name, loads, uses)
			}
			files := assets.FindAllStringSubmatch(page, -1)
			cost.files = len(files)
			for _, file := range files {
				if static[file[1]] == 0 {
					_, static[file[1]] = load(t, client, h.URL+file[1], "")
				}
				cost.bytes += static[file[1]]
			}
			if least.statements == 0 || cost.statements < least.statements {
				least = cost
			}
		}
		costs[name] = least
	}
	return costs
}

// assets matches the addresses of the static files that a page loads.
var assets = regexp.MustCompile(`(?:src|href)="(/assets/[^"]+)"`)

// load loads an address as a browser does, and returns the answer's text and its compressed size in
// bytes.
func load(t testing.TB, client *http.Client, url, cookie string) (text string, size int) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/html,*/*")
	req.Header.Set("Accept-Encoding", "gzip") // so that the client does not decompress the answer
	if cookie != "" {
		req.Header.Set("Cookie", cookie)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, resp.Status, err)
	}
	return string(b), len(b)
}

// coldLoads is the number of first loads that BenchmarkPages measures for each page.
const coldLoads = 5

// BenchmarkPages loads each page in Chromium, from a hub with a fleet. It reports the time until
// the page is interactive, that is, until the document is parsed and its scripts have run. The time
// is measured in the page, from the start of the navigation. In a first load, the browser also
// connects, starts a process for the page, and has no static file in its cache. The metrics cold-ms
// and cold-worst-ms are the median and the longest of several first loads, and cold-paint-ms is the
// median time until the browser has drawn the page. From the second load on, the static files are
// in the browser's cache.
func BenchmarkPages(b *testing.B) {
	devices := 20_000
	if n, err := strconv.Atoi(os.Getenv("FLEET")); err == nil {
		devices = n
	}
	h := hubWithFleet(b, devices)
	cookie := browser.SignIn(b, loopback(b), h.URL, "ada", hubtest.Password)
	all := addresses(b, h)
	all["healthz"] = "/healthz" // a text of a few bytes, to show which part of the time is the browser's own
	for _, name := range slices.Sorted(maps.Keys(all)) {
		b.Run(name, func(b *testing.B) {
			const interactive = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
			const drawn = "performance.getEntriesByName('first-contentful-paint')[0]"
			var tab *browser.Tab
			var cold, paint, times []float64
			for range coldLoads {
				tab = browser.Open(b, h.URL, cookie, browser.Options{}) // a new context, with an empty cache
				tab.Go(all[name])
				cold = append(cold, browser.Eval[float64](tab, interactive))
				tab.Until(drawn)
				paint = append(paint, browser.Eval[float64](tab, drawn+".startTime"))
			}
			for b.Loop() {
				tab.Go(all[name])
				times = append(times, browser.Eval[float64](tab, interactive))
			}
			slices.Sort(cold)
			slices.Sort(paint)
			slices.Sort(times)
			b.ReportMetric(cold[len(cold)/2], "cold-ms")
			b.ReportMetric(cold[len(cold)-1], "cold-worst-ms")
			b.ReportMetric(paint[len(paint)/2], "cold-paint-ms")
			b.ReportMetric(times[len(times)/2], "median-ms")
			b.ReportMetric(times[len(times)-1], "worst-ms")
			b.ReportMetric(0, "ns/op")
		})
	}
}

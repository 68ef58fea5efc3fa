package browser_test

import (
	"context"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gangway/hub/store"
	"gangway/hub/store/sqlite"
	"gangway/hub/store/sqlite/sqlitetest"
	"gangway/internal/browser"
	"gangway/internal/hubtest"
)

// Upper bounds for the first load of every page, with a full list where the page has one.
const (
	maxStatements = 120 // a list of 50 rows reads two records for each row
	maxRows       = 400
	maxTransfer   = 100_000 // bytes: the page, and its static files as a browser asks for them
)

// pageCost is the cost of one page.
type pageCost struct {
	statements, rows uint64
	bytes            int
}

// fleetIn makes a hub's data folder whose owner ada has a fleet.
func fleetIn(t *testing.T, dir string, devices int) {
	t.Run("fill", func(t *testing.T) { // in a test of its own, so that the hub has ended
		h := hubtest.NewIn(t, dir, nil, nil, nil)
		h.Token(t, h.Owner, nil)
	})
	database := filepath.Join(dir, "gangway.db")
	db, err := sqlite.Open(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	owner, err := db.AccountByNickOrEmail(t.Context(), "ada")
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := sqlitetest.FillFleet(t.Context(), database, owner.ID, devices); err != nil {
		t.Fatal(err)
	}
}

// Every page stays within its budget of statements, rows and bytes, and costs the same in a fleet
// that is fifty times as large.
func TestPagesStayWithinTheirBudget(t *testing.T) {
	if testing.Short() {
		t.Skip("fills two databases")
	}
	costs := map[int]map[string]pageCost{}
	for _, devices := range []int{100, 5000} {
		dir := t.TempDir()
		fleetIn(t, dir, devices)
		h := hubtest.Open(t, dir, nil, nil, nil)
		costs[devices] = costOfPages(t, h)
	}
	for name, small := range costs[100] {
		large := costs[5000][name]
		t.Logf("%-20s %3d statements %4d rows %6d bytes", name, large.statements, large.rows, large.bytes)
		statements, rows := uint64(maxStatements), uint64(maxRows)
		if name == "bulk-delete" { // reads the devices that the action changes, at most 1000
			statements, rows = 1100, 2100
			small = large
		}
		if large.statements == 0 || large.statements > statements || large.rows > rows || large.bytes > maxTransfer {
			t.Errorf("%s: %+v is over the budget", name, large)
		}
		// A larger fleet has more values of a field, such as firmwares, and so more counters. Its page
		// of the list names more join tokens.
		if large.statements > small.statements+30 || large.rows > small.rows+200 {
			t.Errorf("%s: %+v with 5000 devices, %+v with 100", name, large, small)
		}
	}
}

func costOfPages(t *testing.T, h *hubtest.Hub) map[string]pageCost {
	t.Helper()
	owner, err := h.Store.AccountByNickOrEmail(t.Context(), "ada")
	if err != nil {
		t.Fatal(err)
	}
	list, err := h.Store.SearchDevices(t.Context(), store.DeviceSearch{Owner: owner.ID, Limit: 1})
	if err != nil || len(list.Rows) == 0 {
		t.Fatalf("%d devices, %v", len(list.Rows), err)
	}
	tokens, err := h.Store.JoinTokensPage(t.Context(), owner.ID, "", 1)
	if err != nil || len(tokens) == 0 {
		t.Fatalf("%d tokens, %v", len(tokens), err)
	}
	client := loopback(t)
	cookie := browser.SignIn(t, client, h.URL, "ada", hubtest.Password)
	static := map[string]int{}
	costs := map[string]pageCost{}
	for _, p := range pages {
		if p.empty || p.waiting || p.signedOut || p.name == "problem" || p.name == "claim-wrong" {
			continue
		}
		path := strings.NewReplacer("{id}", list.Rows[0].ID, "{token}", tokens[0].ID, "{code}", strings.Repeat("AbC", 19)+"Aw").Replace(p.path)
		var least pageCost
		for range 3 { // the hub also works by itself, so the cheapest run counts
			before := h.Store.Work()
			page, n := load(t, client, h.URL+path, cookie)
			after := h.Store.Work()
			cost := pageCost{after.Statements - before.Statements, after.Rows - before.Rows, n}
			for _, file := range assets.FindAllStringSubmatch(page, -1) {
				if static[file[1]] == 0 {
					_, static[file[1]] = load(t, client, h.URL+file[1], "")
				}
				cost.bytes += static[file[1]]
			}
			if least.statements == 0 || cost.statements < least.statements {
				least = cost
			}
		}
		costs[p.name] = least
	}
	return costs
}

// assets matches the addresses of the static files that a page loads.
var assets = regexp.MustCompile(`(?:src|href)="(/assets/[^"]+)"`)

// load loads an address as a browser does, and returns the answer and its size on the wire.
func load(t testing.TB, client *http.Client, url, cookie string) (text string, size int) {
	t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/html,*/*")
	req.Header.Set("Accept-Encoding", "gzip") // so that the client does not decompress it
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

package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"gangway/hub/search"
	"gangway/hub/store"
	"gangway/hub/store/postgres"
	"gangway/hub/store/sqlite"
	"gangway/hub/store/sqlite/sqlitetest"
	"gangway/hub/store/sqlstore"
	"gangway/hub/store/storetest"
)

// Upper bounds on the time of a query about a fleet, whatever the fleet's size.
const (
	fleetP99 = 50 * time.Millisecond
	fleetCPU = 5 * time.Millisecond
	// fleetServer is the bound for the CPU time of PostgreSQL's processes. It is high because the
	// hub's web page about boots needs 25 SQL statements.
	fleetServer = 15 * time.Millisecond
)

// FleetResult is the content of build/bench-fleet.json.
type FleetResult struct {
	Devices int     `json:"devices"`
	Made    float64 `json:"seconds_to_make"`
	Indexed float64 `json:"seconds_to_index"`
	Engine  string  `json:"engine"`
	// Bytes is the size of the database divided by the number of devices. The database does not
	// contain the devices' evidence.
	Bytes    float64         `json:"bytes_per_device"`
	Question []FleetQuestion `json:"questions"`
	// Enrolment is set with -enrol.
	Enrolment *FleetEnrolment `json:"enrolment,omitempty"`
}

// FleetQuestion is the cost of one query, in milliseconds.
type FleetQuestion struct {
	What string  `json:"question"`
	P50  float64 `json:"p50_ms"`
	P99  float64 `json:"p99_ms"`
	CPU  float64 `json:"cpu_ms"` // user and system time of the hub's process, on average
	// Server is the CPU time of PostgreSQL's processes that answer the hub, on average.
	Server float64 `json:"server_cpu_ms,omitempty"`
	// Statements is the mean number of SQL statements for one call.
	Statements float64 `json:"statements"`
	Rows       int     `json:"rows"` // rows in the last result
}

// benchFleets measures the queries about fleets of the sizes in `list`, which are separated by
// commas. `database` is the URL of an empty PostgreSQL database, or startServer, or "" for SQLite.
// If `enrolments` is not 0, benchFleets also makes this number of onboardings into each fleet and
// into an empty database, and compares their costs.
func benchFleets(out, list, database string, rounds, enrolments int) error {
	var sizes []int
	for _, text := range strings.Split(list, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return fmt.Errorf("%q is not a number of devices", text)
		}
		sizes = append(sizes, n)
	}
	if database != "" && database != startServer && (len(sizes) > 1 || enrolments > 0) {
		return fmt.Errorf("-database %s is only one database: give only one number of devices, and leave out -enrol", database)
	}
	engines, err := newEngines(database)
	if err != nil {
		return err
	}
	defer engines.stop()
	return runFleets(out, sizes, rounds, enrolments, engines)
}

// startProfile starts a CPU profile in the file of -cpuprofile, with `what` appended to its name.
// The function `stop` ends the profile; it may be called more than once. Without -cpuprofile,
// startProfile and `stop` do nothing.
func startProfile(what string) (stop func(), err error) {
	if *profile == "" {
		return func() {}, nil
	}
	f, err := os.Create(*profile + "." + what)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return sync.OnceFunc(func() {
		pprof.StopCPUProfile()
		f.Close()
	}), nil
}

// writeJSON writes a result to a file. If the name of the file is empty, it does nothing.
func writeJSON(name string, result any) error {
	if name == "" {
		return nil
	}
	text, err := json.MarshalIndent(result, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(text, '\n'), 0o644)
}

// runFleets measures fleets of several sizes.
func runFleets(out string, sizes []int, rounds, enrolments int, engines *engines) error {
	var all []FleetResult
	for _, n := range sizes {
		r, err := runFleet(n, rounds, enrolments, engines)
		if err != nil {
			return err
		}
		all = append(all, *r)
	}
	var tooSlow []error
	if slow := printFleets(all); len(slow) > 0 {
		tooSlow = append(tooSlow, fmt.Errorf("these queries took more than %v (99th percentile), or more than %v of CPU in the hub, or more than %v in the database server: %q", fleetP99, fleetCPU, fleetServer, slow))
	}
	for _, r := range all {
		if r.Enrolment != nil {
			tooSlow = append(tooSlow, r.Enrolment.print())
		}
	}
	return errors.Join(append(tooSlow, writeJSON(out, all))...)
}

func runFleet(n, rounds, enrolments int, engines *engines) (*FleetResult, error) {
	ctx := context.Background()
	f, err := openFleet(ctx, n, engines)
	if err != nil {
		return nil, err
	}
	defer f.close()
	r := &f.result
	size, err := f.store.DatabaseSize(ctx)
	if err != nil {
		return nil, err
	}
	r.Bytes = float64(size) / float64(n)
	token, err := benchToken(ctx, f.store)
	if err != nil {
		return nil, err
	}
	stop, err := startProfile("questions")
	if err != nil {
		return nil, err
	}
	defer stop()
	for _, q := range append(fleetQuestions(f.store, fleetOwner, n), onboarding(f.store, token)) {
		if !asked.MatchString(q.what) {
			continue
		}
		one, err := f.measure(ctx, q, rounds)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", q.what, err)
		}
		r.Question = append(r.Question, one)
	}
	stop()
	if enrolments > 0 {
		r.Enrolment, err = f.compareWithEmpty(ctx, enrolments, engines)
	}
	return r, err
}

const fleetOwner = "aaaaaaaaaaaaaaaaaaaaaaaa"

// testFleet is a database with a fleet.
type testFleet struct {
	result     FleetResult
	database   string // the URL of the database in PostgreSQL, or the path of SQLite's file
	store      *sqlstore.Store
	statements func() uint64 // the number of statements that the store has run since it was opened
	server     func() time.Duration
	wal        func() float64 // bytes that PostgreSQL has written to its log
	close      func()
}

// openFleet makes a database with n devices. With -fleet-dir, it opens the database of an earlier
// run, if there is one.
func openFleet(ctx context.Context, n int, engines *engines) (*testFleet, error) {
	f := &testFleet{result: FleetResult{Devices: n, Engine: "SQLite"}, server: engines.cpu, wal: engines.wal}
	begin := time.Now()
	if engines.postgres() {
		var err error
		if f.database, err = engines.filled(ctx, fleetOwner, n); err != nil {
			return nil, err
		}
		db, err := postgres.Open(ctx, postgres.Config{URL: f.database})
		if err != nil {
			return nil, err
		}
		f.store, f.close = db.Store, func() { db.Close() }
		f.statements = func() uint64 { return db.Work().Statements }
		f.result.Engine, f.result.Made = "PostgreSQL", time.Since(begin).Seconds()
		fmt.Fprintf(os.Stderr, "%d devices in PostgreSQL: %.0f s to make, with indexes\n", n, f.result.Made)
		return f, nil
	}
	dir, remove := *fleetDir, func() {}
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp("", "gangway-fleet"); err != nil {
			return nil, err
		}
		remove = func() { os.RemoveAll(dir) }
	}
	f.database = filepath.Join(dir, fmt.Sprintf("fleet-%d.db", n))
	err := fillFile(ctx, f.database, n)
	if err != nil {
		remove()
		return nil, err
	}
	f.result.Made = time.Since(begin).Seconds()
	begin = time.Now()
	db, err := sqlite.Open(ctx, f.database)
	if err != nil {
		remove()
		return nil, err
	}
	f.result.Indexed = time.Since(begin).Seconds()
	f.store, f.close = db.Store, func() { db.Close(); remove() }
	f.statements = func() uint64 { return db.Work().Statements }
	fmt.Fprintf(os.Stderr, "%d devices in SQLite: %.0f s to make, %.0f s to index\n", n, f.result.Made, f.result.Indexed)
	return f, nil
}

// fillFile makes a fleet of n devices in the file at `path`, unless the file exists. If n is 0, it
// replaces the file, because an earlier run has enrolled devices. Until the fleet is complete, it is
// in another file, so that no later run takes an incomplete fleet for a complete one.
func fillFile(ctx context.Context, path string, n int) error {
	switch _, err := os.Stat(path); {
	case err == nil && n > 0:
		return nil
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return err
	}
	part, err := filepath.Abs(path + ".part")
	if err != nil {
		return err
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		_, _ = os.Remove(path+suffix), os.Remove(part+suffix)
	}
	if err := sqlitetest.CopyEmpty(part); err != nil {
		return err
	}
	if n > 0 {
		if err := sqlitetest.FillFleet(ctx, part, fleetOwner, n); err != nil {
			return err
		}
	}
	return os.Rename(part, path)
}

// onboarding returns a question that is not a query: it adds a device to the fleet, in two durable
// transactions.
func onboarding(s *sqlstore.Store, token store.JoinToken) question {
	run := rand.Text()
	return question{onboardQuestion, func(ctx context.Context, round int) (int, error) {
		e, err := s.BeginEnrolment(ctx, storetest.Machine{Name: fmt.Sprint(run, round)}.Enrolment(token.Owner, token.ID), storetest.Epoch)
		if err != nil {
			return 0, err
		}
		_, err = s.Activate(ctx, store.Activation{IDevIDHash: e.IDevIDHash, Nick: fmt.Sprint(run, round), Now: storetest.Epoch, Addr: "192.0.2.1:443"})
		return 1, err
	}}
}

// onboardQuestion is the name of the question that onboards a device. This question waits twice for
// the disk, so the benchmark sets no limit for its time.
const onboardQuestion = "onboard a device, without cryptography"

// question is a query of a store, with its name. The function `ask` makes the query and returns the
// number of rows in the result. `round` is the number of the call, and calls with different numbers
// query different devices.
type question struct {
	what string
	ask  func(ctx context.Context, round int) (int, error)
}

func (f *testFleet) measure(ctx context.Context, q question, rounds int) (FleetQuestion, error) {
	r := FleetQuestion{What: q.what}
	for round := range 3 { // warm up: each connection prepares a statement at its first use
		if _, err := q.ask(ctx, rounds+round); err != nil {
			return r, err
		}
	}
	times := make([]time.Duration, rounds)
	used, served, statements := cpu(), f.server(), f.statements()
	for round := range rounds {
		begin := time.Now()
		n, err := q.ask(ctx, round)
		if err != nil {
			return r, err
		}
		times[round], r.Rows = time.Since(begin), n
	}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	r.CPU = ms((cpu() - used) / time.Duration(rounds))
	r.Server = ms((f.server() - served) / time.Duration(rounds))
	r.Statements = float64(f.statements()-statements) / float64(rounds)
	slices.Sort(times)
	r.P50, r.P99 = ms(times[rounds/2]), ms(times[min(rounds*99/100, rounds-1)])
	return r, nil
}

// fleetQuestions returns the queries that the hub's web pages, its API and its command line make.
func fleetQuestions(s *sqlstore.Store, owner string, n int) []question {
	searched := func(text, sort string, down bool) question {
		what := "search " + text
		if text == "" {
			what = "list"
		}
		if sort != "" {
			what += ", sorted by " + sort
		}
		if down {
			what += ", down"
		}
		q, err := search.Parse(text)
		if err != nil {
			panic(err) // cannot happen: the searches below are valid
		}
		q.Owner, q.Sort, q.Descending = owner, store.SortKey(sort), down
		after := ""
		return question{what, func(ctx context.Context, _ int) (int, error) { // each call reads the next page of the list
			q.After = after
			page, err := s.SearchDevices(ctx, q)
			after = page.Next
			return len(page.Rows), err
		}}
	}
	counted := func(text string) question {
		q, err := search.Parse(text)
		if err != nil {
			panic(err)
		}
		q.Owner = owner
		return question{"count " + text, func(ctx context.Context, _ int) (int, error) {
			c, err := s.CountSearch(ctx, q)
			return c.N, err
		}}
	}
	list := []question{searched("", "", false)}
	for _, sort := range []string{"nick", "created", "seen", "model"} {
		for _, down := range []bool{false, true} {
			list = append(list, searched("", sort, down))
		}
	}
	for _, text := range []string{
		"forklift", "forklift-00004", "00042", fmt.Sprintf("forklift-%07d", n/2), "sn", "sn-0000001", "nuc", `"nuc 1"`, "ifx", "nothing", "0f3a",
		`model:"NUC 1"`, `model:"NUC 19"`, "maker:STM", "firmware:7.85", "token:000000000000000000000007", fmt.Sprintf("serial:SN-%08d", n/3), "id:0f3a", "id:0f3a5b",
		`meta.site="site 7"`, "meta.rack=r77", "state:active", "state:quiet", "state:boot-changed", "state:updating", "state:failed", "state:cloned",
		`model:"NUC 1" state:quiet meta.site="site 13"`, `maker:STM meta.site="site 8"`, `maker:STM meta.kernel=6.12 nuc sn state:active`,
		`firmware:7.85 token:000000000000000000000008`, "nuc ifx forklift sn", `model:"NUC 1" model:"NUC 0"`,
	} {
		list = append(list, searched(text, "", false), counted(text))
	}
	for _, sort := range []string{"created", "seen", "model"} {
		for _, text := range []string{"forklift", "state:quiet", `model:"NUC 19"`, `meta.site="site 7"`, "meta.rack=r77", "firmware:7.85"} {
			list = append(list, searched(text, sort, true))
		}
	}
	return append(list, overview(s, owner), devicePage(s, n), boots(s, owner), cohort(s, owner))
}

// overview queries all numbers on the overview page.
func overview(s *sqlstore.Store, owner string) question {
	return question{"overview", func(ctx context.Context, _ int) (int, error) {
		counts, err := s.FleetCounts(ctx, owner)
		if err != nil {
			return 0, err
		}
		for _, field := range []store.SearchField{store.FieldModel, store.FieldMaker, store.FieldFirmware, store.FieldToken} {
			if _, _, err := s.Facets(ctx, owner, field, 10); err != nil {
				return 0, err
			}
		}
		_, err = s.Arrivals(ctx, owner, time.UnixMicro(1700000000000000).AddDate(0, 0, 90), 90)
		return counts.Total, err
	}}
}

// devicePage queries everything on a device's page.
func devicePage(s *sqlstore.Store, n int) question {
	return question{"a device's page", func(ctx context.Context, round int) (int, error) {
		i := round * 997 % n
		id := fmt.Sprintf("%08x%016x", uint32(i*2654435761), i)
		d, err := s.Device(ctx, id)
		if err != nil {
			return 0, err
		}
		for _, read := range []func() error{
			func() error { _, err := s.Enrolment(ctx, d.Enrolment); return err },
			func() error { _, err := s.BootState(ctx, id); return err },
			func() error { _, err := s.BootHistory(ctx, id); return err },
			func() error { _, err := s.TrailSummary(ctx, id); return err },
			func() error {
				_, err := s.Revisions(ctx, store.RevisionFilter{Device: id, After: -1, Limit: 20})
				return err
			},
			func() error { _, err := s.Events(ctx, store.EventFilter{Device: id, Limit: 50}); return err },
		} {
			if err := read(); err != nil {
				return 0, err
			}
		}
		return 1, nil
	}}
}

// boots queries everything on the hub's web page about boots.
func boots(s *sqlstore.Store, owner string) question {
	return question{"boots: outliers and changes", func(ctx context.Context, _ int) (int, error) {
		var all []store.BootCohort
		for _, most := range []bool{false, true} {
			list, err := s.BadBootCohorts(ctx, owner, most, 60)
			if err != nil {
				return 0, err
			}
			all = append(all, list...)
		}
		for _, part := range []string{"firmware-code", "keys"} {
			if _, err := s.RareBootCohorts(ctx, owner, part, 20); err != nil {
				return 0, err
			}
		}
		for _, c := range all[:min(len(all), 20)] {
			if _, err := s.BootMembers(ctx, owner, store.BootMembers{Part: c.Part, Value: c.Value, Model: c.Model, Limit: 3}); err != nil {
				return 0, err
			}
		}
		_, err := s.BootDecisions(ctx, owner)
		return len(all), err
	}}
}

// cohort queries the preview of one decision that covers the boots of a third of the fleet.
func cohort(s *sqlstore.Store, owner string) question {
	value := strings.Repeat("0", 63) + "2"
	return question{"boots: preview of a decision", func(ctx context.Context, _ int) (int, error) {
		list, err := s.BootMembers(ctx, owner, store.BootMembers{Part: "firmware-code", Value: value, Limit: 200})
		if err != nil {
			return 0, err
		}
		_, err = s.BootCohortOf(ctx, owner, store.BootMembers{Part: "firmware-code", Value: value})
		return len(list), err
	}}
}

// printFleets prints a table, and returns the queries that are slower than the bounds.
func printFleets(all []FleetResult) (slow []string) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "question")
	for _, r := range all {
		fmt.Fprintf(w, "\t%d: rows\tp50 ms\tp99 ms\tCPU ms\tserver's CPU ms\tstatements", r.Devices)
	}
	fmt.Fprintln(w)
	for i := range all[0].Question {
		fmt.Fprint(w, all[0].Question[i].What)
		for _, r := range all {
			q := r.Question[i]
			mark := ""
			if q.What != onboardQuestion && (q.P99 > float64(fleetP99.Milliseconds()) || q.CPU > float64(fleetCPU.Milliseconds()) || q.Server > float64(fleetServer.Milliseconds())) {
				slow, mark = append(slow, fmt.Sprintf("%s at %d devices", q.What, r.Devices)), " !"
			}
			fmt.Fprintf(w, "\t%d\t%.2f\t%.2f\t%.2f\t%.2f\t%.1f%s", q.Rows, q.P50, q.P99, q.CPU, q.Server, q.Statements, mark)
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	return slow
}

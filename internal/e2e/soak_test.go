package e2e_test

import (
	"bufio"
	"database/sql"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gangway/internal/fleet"
	"gangway/internal/fleet/load"
	"gangway/internal/hubtest"
	"gangway/wire"

	"github.com/dustin/go-humanize"
)

// loadedHub is a `gangway serve` process for load tests, with a join token and the URL of its
// metrics.
type loadedHub struct {
	hubProcess
	maker   *fleet.Maker
	token   *wire.TokenFile
	metrics string
}

// newLoadedHub builds the program, and starts `gangway serve` with the environment variables `env`
// and the flags `flags` in addition to the usual ones.
func newLoadedHub(t *testing.T, env []string, flags ...string) *loadedHub {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "gangway")
	buildGangway(t, bin)
	return startLoadedHub(t, bin, env, flags...)
}

// startLoadedHub does the same as newLoadedHub, with the program `bin`.
func startLoadedHub(t *testing.T, bin string, env []string, flags ...string) *loadedHub {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	maker, err := fleet.NewMaker("good", fleet.MakerOptions{})
	check(err)
	makers := filepath.Join(dir, "makers.pem")
	var bundle []byte
	for _, der := range [][]byte{maker.Root.Raw, maker.Intermediate.Raw} {
		bundle = append(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	check(os.WriteFile(makers, bundle, 0o600))
	logFile, err := os.Create(filepath.Join(dir, "hub.log"))
	check(err)
	t.Cleanup(func() { logFile.Close() })
	private := "127.0.0.1:" + loopbackPort(t)
	h := &loadedHub{maker: maker, metrics: "http://" + private + "/metrics", hubProcess: hubProcess{
		t: t, bin: bin, data: filepath.Join(dir, "hub"), addr: "127.0.0.1:" + loopbackPort(t),
		flags: append([]string{"--metrics-listen", private}, flags...),
		env:   env, logFile: logFile,
	}}
	h.start()
	t.Cleanup(h.kill)
	const password = "correct horse battery\n"
	h.run("", "trust", "import", "--data", h.data, makers)
	h.run(password, "account", "create", "--data", h.data, "--nick", "ada", "--password-stdin")
	h.run(password, "login", "https://"+h.addr, "--data", h.data, "--nick", "ada", "--password-stdin")
	h.run(hubtest.LabPolicy, "policy", "set", "-", "--data", h.data)
	h.token, err = wire.ParseTokenFile(h.run("", "token", "create"))
	check(err)
	return h
}

// metric returns the values of some of the hub's metrics.
func (h *loadedHub) metric(names ...string) []float64 {
	h.t.Helper()
	resp, err := http.Get(h.metrics)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	found := map[string]float64{}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		found[name], _ = strconv.ParseFloat(value, 64)
	}
	values := make([]float64, len(names))
	for i, name := range names {
		v, ok := found[name]
		if !ok {
			h.t.Fatalf("the hub has no metric %s", name)
		}
		values[i] = v
	}
	return values
}

// databaseSize returns the size of the used pages of the hub's database.
func (h *loadedHub) databaseSize() float64 {
	h.t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(h.data, "gangway.db")+"?mode=ro")
	if err != nil {
		h.t.Fatal(err)
	}
	defer db.Close()
	var size float64
	if err := db.QueryRow(`SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size`).Scan(&size); err != nil {
		h.t.Fatal(err)
	}
	return size
}

// series has the values of one quantity, such as the hub's memory: one value for each round of the
// test, measured while the hub is idle.
type series struct {
	name          string
	bytes         bool
	factor, extra float64 // by which factor, or by how much, a value may grow by chance
	values        []float64
}

// grows reports whether the values grew by more than chance allows (see factor and extra). It
// compares the smallest value of the last third of the rounds with the largest value of the first
// third. A single high value does not change the result.
func (s *series) grows() bool {
	third := len(s.values) / 3
	first, last := slices.Max(s.values[:third]), slices.Min(s.values[len(s.values)-third:])
	return last > first*s.factor+s.extra
}

// slope returns the growth per round: the median of the slopes of all pairs of rounds.
func (s *series) slope() float64 {
	var slopes []float64
	for i, a := range s.values {
		for j := i + 1; j < len(s.values); j++ {
			slopes = append(slopes, (s.values[j]-a)/float64(j-i))
		}
	}
	slices.Sort(slopes)
	return slopes[len(slopes)/2]
}

func (s *series) String() string {
	show := func(v float64) string {
		if s.bytes {
			return humanize.IBytes(uint64(max(v, 0)))
		}
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%-12s first %s, largest %s, last %s", s.name, show(s.values[0]), show(slices.Max(s.values)), show(s.values[len(s.values)-1]))
}

// series.grows reports a leak, and does not report noise.
func TestSoakFindsALeak(t *testing.T) {
	t.Parallel()
	noise := func(i int) float64 { return float64(i*i%7) * 2 }
	for name, c := range map[string]struct {
		value func(i int) float64
		grows bool
	}{
		"flat":             {func(i int) float64 { return 100 + noise(i) }, false},
		"a high start":     {func(i int) float64 { return 100 + 300/float64(i+1) }, false},
		"one high value":   {func(i int) float64 { return 100 + float64(i/29)*1000 }, false},
		"one in a round":   {func(i int) float64 { return 100 + noise(i) + float64(i) }, false},
		"three in a round": {func(i int) float64 { return 100 + noise(i) + 3*float64(i) }, true},
	} {
		s := series{factor: 1.05, extra: 10}
		for i := range 30 {
			s.values = append(s.values, c.value(i))
		}
		if s.grows() != c.grows {
			t.Errorf("%s: grows is %v", name, s.grows())
		}
	}
}

// A hub serves devices, and refuses attackers, in many rounds. After each round it is idle, and
// then its goroutines, open files, memory and database are as small as before. GANGWAY_SOAK sets
// how long the test takes, such as 30m.
func TestSoakIsFlat(t *testing.T) {
	needFullRun(t)
	rounds, each := 6, 2*time.Second
	if text := os.Getenv("GANGWAY_SOAK"); text != "" {
		length, err := time.ParseDuration(text)
		if err != nil || length < time.Minute {
			t.Fatalf("GANGWAY_SOAK is %q, not a time of at least a minute", text)
		}
		each = 18 * time.Second
		rounds = int(length / (20 * time.Second))
	} else {
		t.Parallel()
	}
	// The test computes the live heap from the garbage collector's next goal. With this GOGC, the
	// goal is twice the memory that is in use.
	h := newLoadedHub(t, []string{"GOGC=100"}, "--header-timeout", "2s", "--rate", "onboard=1000/2000")
	goroutines, files := &series{name: "goroutines", factor: 1.05, extra: 10}, &series{name: "open files", factor: 1.05, extra: 10}
	memory, database := &series{name: "live heap", bytes: true, factor: 1.2, extra: 4 << 20}, &series{name: "database", bytes: true, factor: 1.02, extra: 256 << 10}
	resident := &series{name: "resident", bytes: true}
	cfg := load.Config{
		Token: h.token, Maker: h.maker, Devices: 20, Onboarded: -1, For: each, Poisson: true, State: filepath.Join(t.TempDir(), "state"), Timeout: 30 * time.Second,
		Mix: []load.Share{{Kind: "report", Rate: 40}, {Kind: "poll", Rate: 10}, {Kind: "slow", Rate: 4}, {Kind: "garbage", Rate: 10}, {Kind: "oversized", Rate: 2}, {Kind: "forged", Rate: 20}},
	}
	var err error
	if cfg.Forged, err = load.Forge(h.token, h.maker); err != nil {
		t.Fatal(err)
	}
	for round := range rounds {
		report, err := load.Run(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		// Some errors are allowed: on a busy machine, a client can be so slow that the hub ends its
		// connection.
		if report.Total.Errors > report.Total.OK/20 || report.Total.OK == 0 || report.Total.Refused == 0 {
			t.Fatalf("round %d: %+v", round, report.Kinds)
		}
		time.Sleep(500 * time.Millisecond) // until the hub has also ended the connections that the fleet has closed
		v := h.metric("go_goroutines", "process_open_fds", "go_memstats_next_gc_bytes", "process_resident_memory_bytes")
		for i, s := range []*series{goroutines, files, memory, resident} {
			s.values = append(s.values, v[i])
		}
		memory.values[round] /= 2
		database.values = append(database.values, h.databaseSize())
	}
	for _, s := range []*series{goroutines, files, memory, database, resident} {
		t.Log(s)
		if s != resident && s.grows() {
			t.Errorf("%s: grows by %.0f a round: %.0f", s.name, s.slope(), s.values)
		}
	}
}

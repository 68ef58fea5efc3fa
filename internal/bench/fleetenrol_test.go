package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"gangway/hub/search"
	"gangway/hub/store/sqlite"
)

// TestMain lets this test's program serve a hub: see startChild.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "-serve" {
		main()
		return
	}
	os.Exit(m.Run())
}

// Few onboardings have no stable costs, so this test checks only what the comparison onboards.
func TestComparisonOnboardsTheSameDevicesIntoBothDatabases(t *testing.T) {
	if testing.Short() {
		t.Skip("onboards hundreds of devices")
	}
	t.Parallel()
	const devices, each = 300, 5
	ctx := t.Context()
	f, err := openFleet(ctx, devices, new(engines))
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	r, err := f.compareWithEmpty(ctx, each*enrolRounds, new(engines))
	if err != nil {
		t.Fatal(err)
	}
	// Each of the three comparisons has one more round, which warms up. The new devices resemble
	// those of the fleet.
	want := devices + 3*each*(enrolRounds+1)
	for _, text := range []string{"", "forklift"} {
		q, err := search.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		q.Owner = fleetOwner
		if n, err := f.store.CountSearch(ctx, q); err != nil || n.N != want {
			t.Errorf("after the comparison, the search %q finds %d devices of the fleet, not %d: %v", text, n.N, want, err)
		}
	}
	for _, c := range []Comparison{r.OverTLS, r.Whole, r.Store} {
		if c.Full.CPU <= 0 || c.Full.Wall <= 0 || c.Empty.CPU <= 0 || c.Empty.Wall <= 0 || c.CPU <= 0 || c.Time <= 0 || len(c.EachRound) != enrolRounds {
			t.Errorf("a cost is missing: %+v", c)
		}
	}
	if r.OverTLS.Empty.CPU <= r.Whole.Empty.CPU || r.Whole.Empty.CPU <= r.Store.Empty.CPU {
		t.Errorf("an onboarding costs %.0f µs over TLS, %.0f µs without TLS, and %.0f µs without cryptography", r.OverTLS.Empty.CPU, r.Whole.Empty.CPU, r.Store.Empty.CPU)
	}
}

func TestInterruptedFleetIsMadeAgain(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "fleet.db")
	interrupted, cancel := context.WithCancel(t.Context())
	cancel()
	if err := fillFile(interrupted, path, 10); err == nil {
		t.Fatal("fillFile was interrupted, but returned no error")
	}
	if err := fillFile(t.Context(), path, 10); err != nil {
		t.Fatal(err)
	}
	s, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if counts, err := s.FleetCounts(t.Context(), fleetOwner); err != nil || counts.Total != 10 {
		t.Errorf("the fleet has %d devices, not 10: %v", counts.Total, err)
	}
}

// The devices are emulated in this process, so its CPU time must not count.
func TestCostOverTLSIsOnlyThatOfTheHubsProcess(t *testing.T) {
	t.Parallel()
	idle := exec.CommandContext(t.Context(), "sleep", "60")
	if err := idle.Start(); err != nil {
		t.Fatal(err)
	}
	h := &fleetHub{process: &child{cmd: idle}}
	defer h.process.kill()
	const busy = 50 * time.Millisecond
	used, wall, err := h.spent(func() error {
		for begin := cpu(); cpu()-begin < busy; {
		}
		return nil
	})
	if err != nil || used >= busy || wall <= used {
		t.Errorf("the idle process used %v of CPU time in %v: %v", used, wall, err)
	}
}

func TestOnlyOnboardingsOverTLSHaveABound(t *testing.T) {
	t.Parallel()
	within, beyond := Comparison{CPU: enrolBound, Time: 1}, Comparison{CPU: 1, Time: enrolBound + 0.01}
	if err := (&FleetEnrolment{OverTLS: within, Whole: beyond, Store: beyond}).print(); err != nil {
		t.Errorf("only parts of an onboarding are beyond the bound: %v", err)
	}
	if err := (&FleetEnrolment{OverTLS: beyond, Whole: within, Store: within}).print(); err == nil {
		t.Error("onboardings over TLS are beyond the bound, but print returned no error")
	}
}

package main

import (
	"testing"
)

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
	counts, err := f.store.FleetCounts(ctx, fleetOwner)
	if err != nil {
		t.Fatal(err)
	}
	// Each of the two comparisons has one more round, which warms up.
	if want := devices + 2*each*(enrolRounds+1); counts.Total != want {
		t.Errorf("the fleet has %d devices after the comparison, not %d", counts.Total, want)
	}
	for _, c := range []Comparison{r.Whole, r.Store} {
		if c.Full.CPU <= 0 || c.Full.Wall <= 0 || c.Empty.CPU <= 0 || c.Empty.Wall <= 0 || c.CPU <= 0 || c.Time <= 0 || len(c.EachRound) != enrolRounds {
			t.Errorf("a cost is missing: %+v", c)
		}
	}
	if r.Whole.Empty.CPU <= r.Store.Empty.CPU {
		t.Errorf("an onboarding with its cryptography costs %.0f µs, and without it %.0f µs", r.Whole.Empty.CPU, r.Store.Empty.CPU)
	}
}

func TestOnlyWholeOnboardingsHaveABound(t *testing.T) {
	t.Parallel()
	within, beyond := Comparison{CPU: enrolBound, Time: 1}, Comparison{CPU: 1, Time: enrolBound + 0.01}
	if err := (&FleetEnrolment{Whole: within, Store: beyond}).print(); err != nil {
		t.Errorf("only the store's work is beyond the bound: %v", err)
	}
	if err := (&FleetEnrolment{Whole: beyond, Store: within}).print(); err == nil {
		t.Error("whole onboardings are beyond the bound, and there is no error")
	}
}

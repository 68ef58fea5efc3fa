package api_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/hubtest"
)

// judgements reads the judgements of all devices of an owner, page by page.
func judgements(p *person, limit int) (all api.Judgements) {
	p.t.Helper()
	for after := ""; ; {
		page := want[api.Judgements](p, "GET", fmt.Sprintf("/fleet/judgements?limit=%d&after=%s", limit, after), nil, 200)
		all.Devices = append(all.Devices, page.Devices...)
		all.Accepted += page.Accepted
		all.WithoutEvidence += page.WithoutEvidence
		if after = page.Next; after == "" {
			return all
		}
	}
}

func outcomes(all api.Judgements) (list []string) {
	for _, j := range all.Devices {
		list = append(list, j.Outcome+" "+j.Code)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// When an operator distrusts a maker whose devices have onboarded, the owner sees which devices the
// hub would refuse today. This preview changes nothing: the devices stay active.
func TestRejudgeListsWhatTheHubWouldRefuseToday(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.Policy(t, store.HubWide, hubtest.LabPolicy+"without_tpm: accept\n")
	must(f.victim.Onboard(t.Context(), f.client, f.tok))(t)
	want[api.Registered](f.ada, "POST", "/devices", "{}", 200)
	if all := judgements(f.ada, 1); len(all.Devices) > 0 || all.Accepted != 2 || all.WithoutEvidence != 1 {
		t.Fatalf("before the change: %s", brief.Of(all))
	}
	setTrust(t, f.Store, store.Distrusted, f.maker.Root)
	for _, limit := range []int{1, 100} {
		all := judgements(f.ada, limit)
		if got := outcomes(all); len(all.Devices) != 2 || all.WithoutEvidence != 1 || !slices.Equal(got, []string{"refused ek-chain-distrusted"}) {
			t.Errorf("%d at a time, with a distrusted maker: %s", limit, brief.Of(all))
		}
		for _, j := range all.Devices {
			if j.Nick == "" || j.Reason == "" {
				t.Errorf("%s", brief.Of(j))
			}
			if d := want[api.DeviceView](f.ada, "GET", "/devices/"+j.ID, nil, 200); d.Status != "active" {
				t.Errorf("the preview changed the device: %s", d.Status)
			}
		}
	}
	setTrust(t, f.Store, store.TrustedRoot, f.maker.Root)
	f.Policy(t, store.HubWide, "version: 1\n")
	if got := outcomes(judgements(f.ada, 100)); !slices.Equal(got, []string{"refused tpm-software"}) {
		t.Errorf("with a stricter policy: %q", got)
	}
	if got := must(f.Store.Events(t.Context(), store.EventFilter{Owner: f.Owner.ID, Kind: "enrolment.refused"}))(t); len(got) > 0 {
		t.Errorf("the preview left events: %s", brief.Of(got))
	}
}

// Another owner's devices are not in the list, whatever the request says.
func TestRejudgeShowsNoDeviceOfAnotherOwner(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	setTrust(t, f.Store, store.Distrusted, f.maker.Root)
	all := judgements(f.mallory, 100)
	if len(all.Devices) != 1 || all.Devices[0].ID != f.pirateID {
		t.Errorf("mallory sees %s", brief.Of(all))
	}
	for _, query := range []string{"?owner=" + f.Owner.ID, "?after=" + "%00", "?after=zzzz"} {
		for _, j := range want[api.Judgements](f.mallory, "GET", "/fleet/judgements"+query, nil, 200).Devices {
			if j.ID != f.pirateID {
				t.Errorf("%s: mallory sees %s", query, brief.Of(j))
			}
		}
	}
}

// An owner's requests can run at most two such judgements at a time, however many requests the
// owner sends.
func TestRejudgeIsBoundedForEachOwner(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	first := f.Server.HoldPreview(f.Owner.ID)
	second := f.Server.HoldPreview(f.Owner.ID)
	wantCode(f.ada, "GET", "/fleet/judgements", nil, 429)
	want[api.Judgements](f.mallory, "GET", "/fleet/judgements", nil, 200)
	second()
	want[api.Judgements](f.ada, "GET", "/fleet/judgements", nil, 200)
	first()
}

// After a change of the trust store, the hub scans the devices in several rounds. Each round
// continues where the last one ended, even at another replica, and the scan counts each device
// once.
func TestTrustScanGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	must(f.victim.Onboard(t.Context(), f.client, f.tok))(t)
	scan := func() (found int, rounds int) {
		for done := false; !done; rounds++ {
			if rounds > 20 {
				t.Fatal("the scan does not end")
			}
			found, done = must2(f.Server.ScanTrust(context.Background(), 1))(t)
		}
		return found, rounds
	}
	if found, _ := scan(); found != 0 {
		t.Errorf("%d devices before the change", found)
	}
	setTrust(t, f.Store, store.Distrusted, f.maker.Root)
	found, rounds := scan()
	if found != 3 || rounds < 2 { // two of ada and one of mallory
		t.Errorf("%d devices in %d parts, want 3 in several", found, rounds)
	}
	if again, rounds := scan(); again != 3 || rounds != 1 {
		t.Errorf("a scan that has ended begins again: %d devices in %d parts", again, rounds)
	}
	// After the owner has deleted a device, the next scan counts one device fewer.
	f.deleteDevice(t, f.boatID)
	f.Advance(2 * api.ScanAgain)
	if again, _ := scan(); again != 2 {
		t.Errorf("%d devices after one was deleted, want 2", again)
	}
	setTrust(t, f.Store, store.TrustedRoot, f.maker.Root)
	if again, _ := scan(); again != 0 {
		t.Errorf("%d devices after the maker is trusted again", again)
	}
}

func must2[A, B any](a A, b B, err error) func(testing.TB) (A, B) {
	return func(t testing.TB) (A, B) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return a, b
	}
}

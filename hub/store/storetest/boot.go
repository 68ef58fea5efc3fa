package storetest

import (
	"fmt"
	"time"

	"gangway/hub/store"
)

var bootTests = []test{
	{"FirstBootBecomesTheReferenceOnce", firstBootIsLearnt},
	{"HistoryIsBounded", bootHistoryIsBounded},
	{"SameBootKeepsItsPlace", sameBootKeepsItsPlace},
	{"RefusalHidesTheFormerState", bootIsRefused},
	{"EmptyReferenceIsNotStored", bootOfNothing},
	{"BootsGoWithTheDevice", bootsGo},
}

func booted(device string, n int) store.Boot {
	return store.Boot{Device: device, Time: Epoch.Add(time.Duration(n) * time.Hour), State: "matches", Measurement: []byte(fmt.Sprintf(`{"n":%d}`, n)), Changes: []byte("[]"),
		Nonce: []byte("nonce"), Attest: []byte("attest"), Signature: []byte("signature"), Log: []byte("log")}
}

func firstBootIsLearnt(f *fixture) {
	d := f.onboard(Machine{Name: "raft"}, f.token)
	_, err := f.LatestBoot(f.ctx, d.ID)
	f.refused(err, store.ErrNotFound)
	_, err = f.BootReference(f.ctx, d.ID)
	f.refused(err, store.ErrNotFound)
	ref, err := f.PutBoot(f.ctx, booted(d.ID, 1), []byte("first"))
	f.must(err)
	equal(f, "reference", string(ref), "first")
	// The hub may judge two measurements of a device without a reference at the same time. The
	// second PutBoot then stores nothing, and returns the reference that the first one stored.
	// PutBoot also stores nothing if the measurement was compared with a former reference.
	ref, err = f.PutBoot(f.ctx, booted(d.ID, 2), []byte("second"))
	f.must(err)
	equal(f, "reference", string(ref), "first")
	b, err := f.LatestBoot(f.ctx, d.ID)
	f.must(err)
	equal(f, "latest", string(b.Measurement), `{"n":1}`)
	equal(f, "evidence", string(b.Attest)+string(b.Log), "attestlog")
	changed := booted(d.ID, 3)
	changed.State = "changed"
	ref, err = f.PutBoot(f.ctx, changed, []byte("first"))
	f.must(err)
	equal(f, "reference", string(ref), "first")
	states, err := f.BootStates(f.ctx, f.owner.ID)
	f.must(err)
	equal(f, "states", states, map[string]string{d.ID: "changed"})
	states, err = f.BootStates(f.ctx, f.other.ID)
	f.must(err)
	equal(f, "the other's states", len(states), 0)
	// The owner decides about a measurement, but the hub has stored a newer one since the owner saw
	// it. The decision must fail.
	given := store.BootReference{Device: d.ID, Text: []byte("given"), Replaces: []byte("first")}
	f.refused(f.PutBootReference(f.ctx, given, b), store.ErrChanged)
	f.refused(f.PutBootReference(f.ctx, given, store.Boot{Device: d.ID}), store.ErrChanged)
	latest, err := f.LatestBoot(f.ctx, d.ID)
	f.must(err)
	latest.State, latest.Changes = "matches", []byte("[1]")
	f.refused(f.PutBootReference(f.ctx, store.BootReference{Device: d.ID, Text: []byte("given")}, latest), store.ErrChanged)
	f.must(f.PutBootReference(f.ctx, given, latest))
	// The decision also fails if the reference has changed since the owner saw it.
	f.refused(f.PutBootReference(f.ctx, given, latest), store.ErrChanged)
	now, err := f.LatestBoot(f.ctx, d.ID)
	f.must(err)
	equal(f, "latest", now, latest)
	states, err = f.BootStates(f.ctx, f.owner.ID)
	f.must(err)
	equal(f, "states", states, map[string]string{d.ID: "matches"})
	r, err := f.BootReference(f.ctx, d.ID)
	f.must(err)
	equal(f, "reference", string(r.Text), "given")
	asked := func(want bool) {
		f.Helper()
		got, err := f.BootRequested(f.ctx, d.ID)
		f.must(err)
		equal(f, "requested", got, want)
		byID, err := f.Device(f.ctx, d.ID)
		f.must(err)
		byCertificate, err := f.DeviceByCertificate(f.ctx, d.IDevIDHash)
		f.must(err)
		equal(f, "requested, in the device", []bool{byID.BootRequested, byCertificate.BootRequested}, []bool{want, want})
	}
	asked(false)
	f.must(f.RequestBoot(f.ctx, d.ID))
	asked(true)
	_, err = f.PutBoot(f.ctx, booted(d.ID, 4), []byte("given"))
	f.must(err)
	asked(false)
	// A device that was never measured can get a reference too.
	other := f.onboard(Machine{Name: "buoy"}, f.token)
	f.must(f.PutBootReference(f.ctx, store.BootReference{Device: other.ID, Text: []byte("x")}, store.Boot{}))
}

func bootHistoryIsBounded(f *fixture) {
	d := f.onboard(Machine{Name: "raft"}, f.token)
	for n := range 20 {
		_, err := f.PutBoot(f.ctx, booted(d.ID, n), []byte("first"))
		f.must(err)
	}
	list, err := f.BootHistory(f.ctx, d.ID)
	f.must(err)
	equal(f, "kept", len(list), 11)
	equal(f, "newest", string(list[0].Measurement), `{"n":19}`)
	equal(f, "evidence", list[0].Attest == nil && list[1].Attest == nil, true)
}

func sameBootKeepsItsPlace(f *fixture) {
	d := f.onboard(Machine{Name: "raft"}, f.token)
	put := func(b store.Boot) store.Boot {
		f.Helper()
		_, err := f.PutBoot(f.ctx, b, []byte("first"))
		f.must(err)
		latest, err := f.LatestBoot(f.ctx, d.ID)
		f.must(err)
		return latest
	}
	one := put(booted(d.ID, 1))
	two := put(booted(d.ID, 2))
	f.must(f.RequestBoot(f.ctx, d.ID))
	again := booted(d.ID, 3)
	again.Number, again.Nonce, again.State = two.Number, []byte("another"), "changed"
	equal(f, "the same boot", put(again), again)
	asked, err := f.BootRequested(f.ctx, d.ID)
	f.must(err)
	equal(f, "requested", asked, false)
	states, err := f.BootStates(f.ctx, f.owner.ID)
	f.must(err)
	equal(f, "states", states, map[string]string{d.ID: "changed"})
	// A measurement with the same number as an older one does not replace the latest measurement.
	old := booted(d.ID, 4)
	old.Number = one.Number
	latest := put(old)
	equal(f, "the number is larger", latest.Number > two.Number, true)
	list, err := f.BootHistory(f.ctx, d.ID)
	f.must(err)
	equal(f, "kept", len(list), 3)
	equal(f, "the first", string(list[2].Measurement), `{"n":1}`)
	// A measurement with the same number as another device's measurement replaces nothing.
	other := f.onboard(Machine{Name: "buoy"}, f.token)
	foreign := booted(other.ID, 5)
	foreign.Number = latest.Number
	put(foreign)
	list, err = f.BootHistory(f.ctx, d.ID)
	f.must(err)
	equal(f, "latest", string(list[0].Measurement), `{"n":4}`)
}

// After the hub has refused a measurement, BootState must return BootRefused, and not an older
// state, until the device sends a measurement that the hub does not refuse.
func bootIsRefused(f *fixture) {
	d := f.onboard(Machine{Name: "raft"}, f.token)
	state := func(want string) {
		f.Helper()
		got, err := f.BootState(f.ctx, d.ID)
		f.must(err)
		equal(f, "state", got, want)
		states, err := f.BootStates(f.ctx, f.owner.ID)
		f.must(err)
		if want == store.BootUnmeasured {
			want = ""
		}
		equal(f, "state in the list", states[d.ID], want)
	}
	refuse := func(r store.BootRefusal, news bool) {
		f.Helper()
		f.must(f.RequestBoot(f.ctx, d.ID))
		got, err := f.RefuseBoot(f.ctx, d.ID, r)
		f.must(err)
		equal(f, "news", got, news)
		is, err := f.BootRefusal(f.ctx, d.ID)
		f.must(err)
		equal(f, "refusal", is, r)
		asked, err := f.BootRequested(f.ctx, d.ID)
		f.must(err)
		equal(f, "requested", asked, false)
		state(store.BootRefused)
	}
	state(store.BootUnmeasured)
	_, err := f.BootRefusal(f.ctx, d.ID)
	f.refused(err, store.ErrNotFound)
	first := store.BootRefusal{Time: Epoch, Code: "boot-nonce", Reason: "Old.", Hint: "Again."}
	refuse(first, true) // before the first measurement
	_, err = f.PutBoot(f.ctx, booted(d.ID, 1), []byte("first"))
	f.must(err)
	state(store.BootMatches)
	_, err = f.BootRefusal(f.ctx, d.ID)
	f.refused(err, store.ErrNotFound)
	refuse(first, true)
	later := first
	later.Time = Epoch.Add(time.Hour)
	refuse(later, false)
	later.Reason = "Another."
	refuse(later, true)
	// The owner decides about the latest measurement that was not refused. The boot state stays
	// BootRefused.
	latest, err := f.LatestBoot(f.ctx, d.ID)
	f.must(err)
	equal(f, "latest", latest.State, store.BootMatches)
	is, err := f.BootReference(f.ctx, d.ID)
	f.must(err)
	f.must(f.PutBootReference(f.ctx, store.BootReference{Device: d.ID, Text: []byte("given"), Replaces: is.Text}, latest))
	state(store.BootRefused)
	_, err = f.PutBoot(f.ctx, booted(d.ID, 2), []byte("given"))
	f.must(err)
	state(store.BootMatches)
	f.must(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch))
	state(store.BootUnmeasured)
	// A call that began before the device was deleted stores nothing.
	_, err = f.PutBoot(f.ctx, booted(d.ID, 3), []byte("given"))
	f.refused(err, store.ErrNotFound)
	_, err = f.RefuseBoot(f.ctx, d.ID, first)
	f.refused(err, store.ErrNotFound)
	f.refused(f.PutBootReference(f.ctx, store.BootReference{Device: d.ID, Text: []byte("given")}, store.Boot{}), store.ErrNotFound)
	f.refused(f.RequestBoot(f.ctx, d.ID), store.ErrNotFound)
	_, err = f.LatestBoot(f.ctx, d.ID)
	f.refused(err, store.ErrNotFound)
	state(store.BootUnmeasured)
}

// If the parameter `reference` is empty, PutBoot stores the measurement, but the device gets no
// reference.
func bootOfNothing(f *fixture) {
	d := f.onboard(Machine{Name: "raft"}, f.token)
	nothing := booted(d.ID, 1)
	nothing.State = store.BootNothing
	is, err := f.PutBoot(f.ctx, nothing, nil)
	f.must(err)
	equal(f, "reference", len(is), 0)
	_, err = f.BootReference(f.ctx, d.ID)
	f.refused(err, store.ErrNotFound)
	state, err := f.BootState(f.ctx, d.ID)
	f.must(err)
	equal(f, "state", state, store.BootNothing)
	is, err = f.PutBoot(f.ctx, booted(d.ID, 2), []byte("first"))
	f.must(err)
	equal(f, "reference", string(is), "first")
	// If the device has a reference, PutBoot does not store a measurement that was not compared
	// with the reference.
	is, err = f.PutBoot(f.ctx, nothing, nil)
	f.must(err)
	equal(f, "reference", string(is), "first")
	b, err := f.LatestBoot(f.ctx, d.ID)
	f.must(err)
	equal(f, "latest", b.State, store.BootMatches)
}

func bootsGo(f *fixture) {
	d := f.onboard(Machine{Name: "raft"}, f.token)
	_, err := f.PutBoot(f.ctx, booted(d.ID, 1), []byte("first"))
	f.must(err)
	f.must(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch))
	_, err = f.LatestBoot(f.ctx, d.ID)
	f.refused(err, store.ErrNotFound)
	_, err = f.BootReference(f.ctx, d.ID)
	f.refused(err, store.ErrNotFound)
}

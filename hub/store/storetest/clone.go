package storetest

import (
	"errors"
	"sync"
	"sync/atomic"

	"gangway/hub/store"
)

var cloneTests = []test{
	{"PutAndReplacedByVersion", clonesAreReplacedByVersion},
	{"OneOfManyWritersWins", cloneRace},
	{"RefusedDeviceDoesNotActivate", clonedIsRefused},
	{"GoWithTheDevice", clonesGo},
}

func cloned(device string, version int64, state, record string) store.Clone {
	return store.Clone{Device: device, Version: version, State: state, Record: []byte(record)}
}

func clonesAreReplacedByVersion(f *fixture) {
	d := f.onboard(Machine{Name: "one"}, f.token)
	_, err := f.Clone(f.ctx, d.ID)
	f.refused(err, store.ErrNotFound)
	event := store.Event{Time: Epoch, Kind: "device.clone-suspected", Owner: f.owner.ID, Device: d.ID, Message: "m"}
	v, err := f.PutClone(f.ctx, cloned(d.ID, 0, "suspected", "{1}"), event)
	f.must(err)
	is, err := f.Clone(f.ctx, d.ID)
	f.must(err)
	equal(f, "the record", is, cloned(d.ID, v, "suspected", "{1}"))
	is2, err := f.Device(f.ctx, d.ID)
	f.must(err)
	equal(f, "the device's state", is2.Clone, "suspected")

	// If the version differs from the stored one, nothing changes and no event is appended.
	for _, version := range []int64{0, v + 1} {
		_, err = f.PutClone(f.ctx, cloned(d.ID, version, "certain", "{2}"), event)
		f.refused(err, store.ErrChanged)
	}
	again, err := f.PutClone(f.ctx, cloned(d.ID, v, "", "{3}"))
	f.must(err)
	if again <= v {
		f.Errorf("version %d after %d", again, v)
	}
	is, err = f.Clone(f.ctx, d.ID)
	f.must(err)
	equal(f, "the record", is, cloned(d.ID, again, "", "{3}"))
	events, err := f.Events(f.ctx, store.EventFilter{Device: d.ID})
	f.must(err)
	count := 0
	for _, e := range events {
		if e.Kind == event.Kind {
			count++
		}
	}
	equal(f, "events", count, 1)

	_, err = f.PutClone(f.ctx, cloned(ID("nobody"), 0, "suspected", "{}"), event)
	f.refused(err, store.ErrNotFound)
}

func cloneRace(f *fixture) {
	d := f.onboard(Machine{Name: "one"}, f.token)
	var won atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			switch _, err := f.PutClone(f.ctx, cloned(d.ID, 0, "suspected", "{}"), store.Event{Time: Epoch, Kind: "device.clone-suspected", Device: d.ID}); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, store.ErrChanged):
				f.Error(err)
			}
		})
	}
	all.Wait()
	equal(f, "writers that won", won.Load(), 1)
}

func clonedIsRefused(f *fixture) {
	d := f.onboard(Machine{Name: "one"}, f.token)
	v, err := f.PutClone(f.ctx, cloned(d.ID, 0, store.CloneRefused, "{}"))
	f.must(err)
	next := f.begin(Machine{Name: "one", Request: "again"}, f.token)
	_, err = f.activate(next)
	f.refused(err, store.ErrCloned)
	equal(f, "the enrolment's state", f.state(next), store.Pending)
	_, err = f.activate(store.Enrolment{IDevIDHash: d.IDevIDHash}) // the active enrolment
	f.refused(err, store.ErrCloned)
	// The owner withdraws the decision.
	_, err = f.PutClone(f.ctx, cloned(d.ID, v, "", "{}"))
	f.must(err)
	_, err = f.activate(next)
	f.must(err)
}

func clonesGo(f *fixture) {
	d := f.onboard(Machine{Name: "one"}, f.token)
	_, err := f.PutClone(f.ctx, cloned(d.ID, 0, store.CloneRefused, "{}"))
	f.must(err)
	f.must(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch))
	_, err = f.Clone(f.ctx, d.ID)
	f.refused(err, store.ErrNotFound)
	_, err = f.PutClone(f.ctx, cloned(d.ID, 0, "suspected", "{}"))
	f.refused(err, store.ErrNotFound)
}

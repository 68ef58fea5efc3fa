package storetest

import (
	"strings"
	"time"

	"gangway/hub/store"
)

var chipTests = []test{
	{"OwnersAreToldOnce", ownersOfOneChipAreToldOnce},
	{"PendingLinksNothing", pendingEnrolmentLinksNothing},
	{"DeletedDeviceIsNotLinked", deletedDeviceIsNotLinked},
	{"EventOnce", eventIsAppendedOnce},
}

// withMarks onboards the machine `m`, whose EK certificate contains `marks`: properties that
// identify the TPM chip.
func (f *fixture) withMarks(m Machine, t store.JoinToken, marks ...string) store.Device {
	f.Helper()
	a := proof(f.begin(m, t))
	for _, name := range marks {
		a.Marks = append(a.Marks, store.ChipMark{Hash: Hash(name), What: "the same " + name})
	}
	d, err := f.Activate(f.ctx, a)
	f.must(err)
	return d
}

// The method `linked` returns the devices that an owner's EventSameChip events are about, oldest
// event first.
func (f *fixture) linked(owner string) (devices []string) {
	f.Helper()
	events, err := f.Events(f.ctx, store.EventFilter{Owner: owner, Limit: 1000})
	f.must(err)
	for _, e := range events {
		if e.Kind == store.EventSameChip {
			if !strings.Contains(e.Message, "the same ") {
				f.Fatalf("no reason: %q", e.Message)
			}
			devices = append([]string{e.Device}, devices...)
		}
	}
	return devices
}

func ownersOfOneChipAreToldOnce(f *fixture) {
	theirs := JoinToken(f.other.ID, "theirs", 0)
	f.must(f.CreateJoinToken(f.ctx, theirs))
	raft := f.withMarks(Machine{Name: "raft"}, f.token, "serial", "id")
	equal(f, "events", len(f.linked(f.owner.ID)), 0)
	barge := f.withMarks(Machine{Name: "barge"}, theirs, "serial", "id")
	equal(f, "first owner", f.linked(f.owner.ID), []string{raft.ID})
	equal(f, "second owner", f.linked(f.other.ID), []string{barge.ID})
	// If a device retries its activation or onboards again, its owner and the other owner get no
	// further event.
	f.withMarks(Machine{Name: "barge"}, theirs, "serial", "id")
	f.withMarks(Machine{Name: "barge", Request: "again"}, theirs, "serial", "id")
	f.withMarks(Machine{Name: "raft", Request: "again"}, f.token, "serial", "id")
	f.withMarks(Machine{Name: "tug"}, f.token, "another serial")
	equal(f, "first owner", f.linked(f.owner.ID), []string{raft.ID})
	equal(f, "second owner", f.linked(f.other.ID), []string{barge.ID})
	// If the first owner onboards a third device with the mark, both owners get one event each.
	ship := f.withMarks(Machine{Name: "ship"}, f.token, "serial")
	equal(f, "first owner", f.linked(f.owner.ID), []string{raft.ID, ship.ID})
	equal(f, "second owner", f.linked(f.other.ID), []string{barge.ID, barge.ID})
}

func pendingEnrolmentLinksNothing(f *fixture) {
	f.withMarks(Machine{Name: "raft"}, f.token, "serial")
	f.begin(Machine{Name: "barge"}, f.token)
	equal(f, "events", len(f.linked(f.owner.ID)), 0)
	// A refused activation causes no event.
	theirs := JoinToken(f.other.ID, "theirs", 0)
	f.must(f.CreateJoinToken(f.ctx, theirs))
	a := proof(f.begin(Machine{Name: "raft"}, theirs))
	a.Marks = []store.ChipMark{{Hash: Hash("serial"), What: "the same serial"}}
	_, err := f.Activate(f.ctx, a)
	f.refused(err, store.ErrOtherOwner)
	equal(f, "events", len(f.linked(f.owner.ID)), 0)
}

func deletedDeviceIsNotLinked(f *fixture) {
	d := f.withMarks(Machine{Name: "raft"}, f.token, "serial")
	f.must(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch.Add(time.Hour)))
	f.withMarks(Machine{Name: "barge"}, f.token, "serial")
	equal(f, "events", len(f.linked(f.owner.ID)), 0)
}

func eventIsAppendedOnce(f *fixture) {
	d := f.onboard(Machine{Name: "raft"}, f.token)
	tell := func(mark string) {
		f.Helper()
		f.must(f.AppendEventOnce(f.ctx, store.Event{Time: Epoch, Kind: "test.once", Owner: f.owner.ID, Device: d.ID}, Hash(mark)))
	}
	events := func() (n int) {
		f.Helper()
		events, err := f.Events(f.ctx, store.EventFilter{Owner: f.owner.ID, Limit: 1000})
		f.must(err)
		for _, e := range events {
			if e.Kind == "test.once" {
				n++
			}
		}
		return n
	}
	tell("one")
	tell("one")
	equal(f, "events", events(), 1)
	tell("another")
	equal(f, "events", events(), 2)
	f.must(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch.Add(time.Hour)))
	tell("one")
	equal(f, "events", events(), 3)
}

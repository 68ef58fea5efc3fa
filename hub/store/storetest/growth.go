package storetest

import (
	"fmt"
	"slices"
	"time"

	"gangway/hub/store"
)

// growthTests check the bounds that keep an attacker from filling the disk: the bounds on rows that
// unauthenticated peers can add, and on the rows of one device.
var growthTests = []test{
	{"OldEventsAreRemoved", func(f *fixture) {
		at := func(kind string, hours int, unproven bool) store.Event {
			return store.Event{Time: Epoch.Add(time.Duration(hours) * time.Hour), Kind: kind, Owner: f.owner.ID, Unproven: unproven}
		}
		for i := range 3 {
			f.must(f.AppendEvent(f.ctx, at(fmt.Sprint("proven", i), i, false)))
			f.must(f.AppendEvent(f.ctx, at(fmt.Sprint("unproven", i), i, true)))
		}
		counted := at("counted", 0, true)
		counted.Last = Epoch.Add(5 * time.Hour)
		f.must(f.AppendCounted(f.ctx, []store.Event{counted}))
		forget := func(unproven, all time.Time, limit, want int, left ...string) {
			f.Helper()
			n, err := f.RemoveEvents(f.ctx, unproven, all, limit)
			f.must(err)
			equal(f, "removed", n, want)
			kinds := f.kinds()
			slices.Sort(kinds)
			equal(f, "left", kinds, left)
		}
		after := func(hours int) time.Time { return Epoch.Add(time.Duration(hours) * time.Hour) }
		never := time.Time{}
		forget(never, never, 10, 0, "counted", "proven0", "proven1", "proven2", "unproven0", "unproven1", "unproven2")
		forget(after(9), after(9), 0, 0, "counted", "proven0", "proven1", "proven2", "unproven0", "unproven1", "unproven2")
		forget(after(2), never, 1, 1, "counted", "proven0", "proven1", "proven2", "unproven1", "unproven2")
		forget(after(2), never, 10, 1, "counted", "proven0", "proven1", "proven2", "unproven2")
		forget(after(2), after(1), 10, 1, "counted", "proven1", "proven2", "unproven2")
		forget(never, after(3), 2, 2, "counted", "unproven2")
		forget(never, after(5), 10, 1, "counted")
		forget(after(6), after(6), 10, 1)
	}},
	{"ExpiredEnrolmentsAreForgotten", func(f *fixture) {
		var all []store.Enrolment
		for i := range 5 {
			e := Machine{Name: fmt.Sprint(i)}.Enrolment(f.owner.ID, f.token.ID)
			e.Expires = e.Expires.Add(time.Duration(i) * time.Hour)
			_, err := f.BeginEnrolment(f.ctx, e, Epoch)
			f.must(err)
			all = append(all, e)
		}
		forget := func(before time.Time, keep, limit, want, left int) {
			f.Helper()
			n, err := f.RemoveExpiredEnrolments(f.ctx, before, keep, limit)
			f.must(err)
			equal(f, "removed", n, want)
			found := 0
			for _, e := range all {
				if _, err := f.Enrolment(f.ctx, e.RequestHash); err == nil {
					found++
				} else {
					f.refused(err, store.ErrNotFound)
				}
			}
			equal(f, "left", found, left)
		}
		forget(all[4].Expires, 0, 10, 0, 5) // the enrolments are still pending, so none is removed
		_, err := f.ExpireEnrolments(f.ctx, all[3].Expires, 10)
		f.must(err)
		forget(all[0].Expires.Add(-time.Microsecond), 4, 10, 0, 5)
		forget(all[0].Expires, 9, 10, 1, 4)
		forget(all[0].Expires, 2, 10, 1, 3)
		equal(f, "the youngest", f.state(all[3]), store.Expired)
		forget(all[3].Expires, 9, 1, 1, 2)
		forget(all[3].Expires, 9, 0, 0, 2)
		forget(all[3].Expires, 9, 9, 1, 1)
		equal(f, "the pending one", f.state(all[4]), store.Pending)
		again := f.begin(Machine{Name: "0"}, f.token)
		_, err = f.activate(again)
		f.must(err)
	}},
	{"PendingEnrolmentsPushOutTheOldest", func(f *fixture) {
		// The request of each enrolment has a quarter of the size that all pending enrolments of an
		// owner may have together.
		begin := func(owner, token, name string) store.Enrolment {
			f.Helper()
			e := Machine{Name: name}.Enrolment(owner, token)
			e.Request = bytesOf(name, store.MaxPending/4)
			e, err := f.BeginEnrolment(f.ctx, e, Epoch)
			f.must(err)
			return e
		}
		foreign := begin(f.other.ID, "", "foreign")
		var all []store.Enrolment
		for i := range 4 {
			all = append(all, begin(f.owner.ID, f.token.ID, fmt.Sprint(i)))
		}
		states := func(want ...store.EnrolmentState) {
			f.Helper()
			var got []store.EnrolmentState
			for _, e := range all {
				got = append(got, f.state(e))
			}
			equal(f, "states", got, want)
		}
		states(store.Expired, store.Pending, store.Pending, store.Pending)
		// An active enrolment does not count against the bound, and a repeated request does not
		// count twice.
		_, err := f.activate(all[1])
		f.must(err)
		again, err := f.BeginEnrolment(f.ctx, all[2], Epoch)
		f.must(err)
		equal(f, "answer", again, all[2])
		all = append(all, begin(f.owner.ID, f.token.ID, "4"))
		states(store.Expired, store.Active, store.Pending, store.Pending, store.Pending)
		all = append(all, begin(f.owner.ID, f.token.ID, "5"))
		states(store.Expired, store.Active, store.Expired, store.Pending, store.Pending, store.Pending)
		// The request of an expired enrolment is repeated, so the enrolment begins again. To make
		// room for it, the oldest pending enrolment of the owner must expire.
		all[0], err = f.BeginEnrolment(f.ctx, all[0], Epoch)
		f.must(err)
		states(store.Pending, store.Active, store.Expired, store.Expired, store.Pending, store.Pending)
		n, err := f.ExpireEnrolments(f.ctx, all[0].Expires, 10)
		f.must(err)
		equal(f, "expired", n, 4)
		for i := range 3 {
			all = append(all, begin(f.owner.ID, f.token.ID, fmt.Sprint(6+i)))
		}
		states(store.Expired, store.Active, store.Expired, store.Expired, store.Expired, store.Expired, store.Pending, store.Pending, store.Pending)
		_, err = f.activate(all[0])
		f.refused(err, store.ErrEnrolmentExpired)
		if n, err = f.ExpireEnrolments(f.ctx, foreign.Expires, 1); err != nil || n != 1 {
			f.Fatalf("%d %v", n, err)
		}
	}},
	{"DeviceThatComesAgainKeepsTheLast", func(f *fixture) {
		const times = 2 + store.KeptSuperseded + store.KeptFingerprints
		var all []store.Enrolment
		var d store.Device
		for i := range times {
			m := Machine{Name: "one", Request: fmt.Sprint(i), IAK: fmt.Sprint(i % 30)}
			e := f.begin(m, f.token)
			var err error
			d, err = f.activate(e)
			f.must(err)
			all = append(all, e)
		}
		slices.Reverse(all) // newest first
		for i, e := range all {
			got, err := f.Enrolment(f.ctx, e.RequestHash)
			_, aikErr := f.AIK(f.ctx, e.IAKName)
			if i == times-1 {
				f.refused(err, store.ErrNotFound)
				f.refused(aikErr, store.ErrNotFound)
				_, err = f.EnrolmentByCertificate(f.ctx, e.IDevIDHash)
				f.refused(err, store.ErrNotFound)
				continue
			}
			f.must(err)
			f.must(aikErr)
			want := e
			want.State = store.Superseded
			if i == 0 {
				want.State = store.Active
			}
			if i > store.KeptSuperseded {
				want.Request, want.Verdict, want.EKCertificate, want.EKLinks, want.IDevIDCert = nil, nil, nil, nil, nil
			}
			equal(f, fmt.Sprint("enrolment ", i), got, want)
		}
		got, err := f.Device(f.ctx, d.ID)
		f.must(err)
		equal(f, "device", got.Enrolment, all[0].RequestHash)
		// A removed enrolment can begin again: the store treats it as a new one.
		again, err := f.BeginEnrolment(f.ctx, all[times-1], Epoch)
		f.must(err)
		_, err = f.activate(again)
		f.must(err)
		f.must(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch))
		for _, e := range all {
			_, err := f.AIK(f.ctx, e.IAKName)
			f.refused(err, store.ErrNotFound)
		}
	}},
	{"DeviceThatComesAgainIsCounted", func(f *fixture) {
		m := Machine{Name: "one"}
		for i := range 5 {
			m.Request = fmt.Sprint(i)
			f.onboard(m, f.token)
		}
		e := f.begin(Machine{Name: "one", Request: "moved"}, f.token)
		_, err := f.activate(e)
		f.must(err)
		events, err := f.Events(f.ctx, store.EventFilter{Kind: "device.activated"})
		f.must(err)
		equal(f, "events", len(events), 2)
		equal(f, "count", events[0].Count, 5)
		equal(f, "the first", events[1].Count, 0)
	}},
	{"WaitingMachinesAreBoundedInBytes", func(f *fixture) {
		w := func(name string, size int) store.WaitingDevice {
			return store.WaitingDevice{Owner: f.owner.ID, EK: Hash(name), DeviceID: ID(name), Codes: []string{"ek-chain-untrusted"},
				Request: bytesOf(name, size), Verdict: []byte("{}"), Since: Epoch, LastSeen: Epoch, Expires: Epoch.Add(time.Hour)}
		}
		const large = store.MaxWaitingBytes/2 - 100
		for _, name := range []string{"one", "two"} {
			_, err := f.PutWaiting(f.ctx, w(name, large), 1000)
			f.must(err)
		}
		_, err := f.PutWaiting(f.ctx, w("three", 1000), 1000)
		f.refused(err, store.ErrFull)
		_, err = f.PutWaiting(f.ctx, w("two", large+1000), 1000)
		f.refused(err, store.ErrFull)
		_, err = f.PutWaiting(f.ctx, w("two", 1000), 1000) // a retry of a waiting device
		f.must(err)
		_, err = f.PutWaiting(f.ctx, w("three", 1000), 1000)
		f.must(err)
		other := w("three", large)
		other.Owner = f.other.ID
		_, err = f.PutWaiting(f.ctx, other, 1000)
		f.must(err)
	}},
}

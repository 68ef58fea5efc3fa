package storetest

import (
	"fmt"
	"time"

	"gangway/hub/store"
)

var hubNumberTests = []test{
	{"RoleIsGivenAndTaken", func(f *fixture) {
		role := func() bool {
			a, err := f.Account(f.ctx, f.owner.ID)
			f.must(err)
			return a.Operator
		}
		event := func(kind string) store.Event {
			return store.Event{Time: Epoch, Kind: kind, Owner: f.owner.ID, Message: "The role was changed."}
		}
		equal(f, "role of a new account", role(), false)
		for range 2 { // the second call changes nothing, and appends no event
			f.must(f.SetOperator(f.ctx, f.owner.ID, true, event("account.operator-given")))
		}
		equal(f, "role", role(), true)
		for range 2 {
			f.must(f.SetOperator(f.ctx, f.owner.ID, false, event("account.operator-taken")))
		}
		equal(f, "role after it was taken", role(), false)
		events, err := f.Events(f.ctx, store.EventFilter{Owner: f.owner.ID, Kind: "account.", Limit: 10})
		f.must(err)
		equal(f, "number of events", len(events), 2)
		f.refused(f.SetOperator(f.ctx, ID("nobody"), true, event("account.operator-given")), store.ErrNotFound)
		born := Account("grace")
		born.Operator = true
		f.must(f.CreateAccount(f.ctx, born))
		got, err := f.Account(f.ctx, born.ID)
		f.must(err)
		equal(f, "account", got, born)
	}},
	{"OwnersWithTheirNumbers", func(f *fixture) {
		f.join(Machine{Name: "machine"}, func(*store.Enrolment) {})
		used, err := f.Usage(f.ctx, f.owner.ID)
		f.must(err)
		for i, at := range []time.Time{Epoch.Add(time.Hour), Epoch} { // SignedIn must be the later time
			f.must(f.CreateSession(f.ctx, store.Session{TokenHash: Hash(fmt.Sprint("session ", i)), AccountID: f.owner.ID, Created: at, Expires: at.Add(time.Hour)}, f.owner.PasswordHash))
		}
		f.must(f.DisableAccount(f.ctx, f.other.ID, store.Event{Time: Epoch, Kind: "account.disabled", Owner: f.other.ID, Message: "Disabled."}))
		owners, err := f.Owners(f.ctx, "", 0)
		f.must(err)
		equal(f, "owners", owners, []store.OwnerRow{
			{ID: f.owner.ID, Nick: f.owner.Nick, Created: f.owner.Created, SignedIn: Epoch.Add(time.Hour), Devices: 1, Bytes: used},
			{ID: f.other.ID, Nick: f.other.Nick, Created: f.other.Created, Disabled: true},
		})
		first, err := f.Owners(f.ctx, "", 1)
		f.must(err)
		equal(f, "first page", len(first), 1)
		rest, err := f.Owners(f.ctx, first[0].Nick, 1)
		f.must(err)
		equal(f, "second page", rest, owners[1:])
		rest, err = f.Owners(f.ctx, owners[1].Nick, 1)
		f.must(err)
		equal(f, "number of rows after the last", len(rest), 0)
	}},
	{"SumsFollowEveryChange", func(f *fixture) {
		sums := func(what string, accounts, disabled, devices int, bytes int64) {
			f.Helper()
			n, err := f.HubCounts(f.ctx)
			f.must(err)
			of := 0
			for _, m := range n.Makers {
				of += m.N
			}
			equal(f, what, []int64{int64(n.Accounts), int64(n.Disabled), int64(n.Devices), n.Bytes, int64(of)}, []int64{int64(accounts), int64(disabled), int64(devices), bytes, int64(devices)})
		}
		sums("at first", 2, 0, 0, 0)
		one := f.join(Machine{Name: "one"}, func(*store.Enrolment) {}).ID
		f.join(Machine{Name: "two"}, func(*store.Enrolment) {})
		sums("with devices", 2, 0, 2, 0)
		_, err := f.AnnounceObject(f.ctx, store.Object{Owner: f.owner.ID, Sum: Hash("object"), Size: 100, Created: Epoch, Modified: Epoch}, 1<<30)
		f.must(err)
		used, err := f.Usage(f.ctx, f.owner.ID)
		f.must(err)
		sums("with an object", 2, 0, 2, used)
		f.must(f.DeleteDevice(f.ctx, f.owner.ID, one, Epoch))
		sums("with a device less", 2, 0, 1, used)
		event := store.Event{Time: Epoch, Kind: "account.disabled", Owner: f.other.ID, Message: "Changed."}
		f.must(f.DisableAccount(f.ctx, f.other.ID, event))
		f.must(f.DisableAccount(f.ctx, f.other.ID, event))
		sums("with a disabled account", 2, 1, 1, used)
		f.must(f.EnableAccount(f.ctx, f.other.ID, event))
		sums("enabled again", 2, 0, 1, used)
		f.must(f.DisableAccount(f.ctx, f.other.ID, event))
		f.must(f.DeleteAccount(f.ctx, f.other.ID, event))
		sums("with an account less", 1, 0, 1, used)
		size, err := f.DatabaseSize(f.ctx)
		f.must(err)
		equal(f, "the database has a size", size > 4096, true)
	}},
}

package storetest

import (
	"errors"
	"time"

	"gangway/hub/store"
)

var enrolmentTests = []test{
	{"StoredAsPending", func(f *fixture) {
		want := Machine{Name: "one"}.Enrolment(f.owner.ID, f.token.ID)
		e := want
		e.State = store.Active // the store sets the state
		got, err := f.BeginEnrolment(f.ctx, e, Epoch)
		f.must(err)
		equal(f, "answer", got, want)
		got, err = f.Enrolment(f.ctx, want.RequestHash)
		f.must(err)
		equal(f, "by request", got, want)
		got, err = f.EnrolmentByCertificate(f.ctx, want.IDevIDHash)
		f.must(err)
		equal(f, "by certificate", got, want)
	}},
	{"ToActivateHasTheActiveEnrolment", func(f *fixture) {
		first := f.begin(Machine{Name: "one"}, f.token)
		second := f.begin(Machine{Name: "one", Request: "later"}, f.token)
		for _, c := range []struct {
			e      store.Enrolment
			before store.Hash
		}{{first, store.Hash{}}, {second, first.RequestHash}} {
			want := c.e
			want.Request, want.Verdict, want.IAKPublic, want.IAKCert, want.IDevIDCert, want.EKLinks = nil, nil, nil, nil, nil, nil
			got, before, err := f.EnrolmentToActivate(f.ctx, c.e.IDevIDHash)
			f.must(err)
			equal(f, "enrolment", got, want)
			equal(f, "enrolment before", before, c.before)
			_, err = f.activate(c.e)
			f.must(err)
		}
		f.must(f.DeleteDevice(f.ctx, f.owner.ID, first.DeviceID, Epoch.Add(time.Minute)))
		_, before, err := f.EnrolmentToActivate(f.ctx, second.IDevIDHash)
		f.must(err)
		equal(f, "enrolment of a deleted device", before, store.Hash{})
	}},
	{"UnknownIsNotFound", func(f *fixture) {
		_, _, err := f.EnrolmentToActivate(f.ctx, Hash("nothing"))
		f.refused(err, store.ErrNotFound)
		_, err = f.Enrolment(f.ctx, Hash("nothing"))
		f.refused(err, store.ErrNotFound)
		_, err = f.EnrolmentByCertificate(f.ctx, Hash("nothing"))
		f.refused(err, store.ErrNotFound)
	}},
	{"BareOneComesBackBare", func(f *fixture) {
		e := store.Enrolment{
			RequestHash: Hash("bare"), IDevIDHash: Hash("bare certificate"),
			Created: Epoch, Expires: Epoch.Add(time.Hour),
		}
		_, err := f.BeginEnrolment(f.ctx, e, Epoch)
		f.must(err)
		got, err := f.Enrolment(f.ctx, e.RequestHash)
		f.must(err)
		e.State = store.Pending
		equal(f, "enrolment", got, e)
	}},
	{"PendingOnesOfAnOwner", func(f *fixture) {
		one, two := f.begin(Machine{Name: "one"}, f.token), f.begin(Machine{Name: "two"}, f.token)
		active := f.begin(Machine{Name: "three"}, f.token)
		_, err := f.activate(active)
		f.must(err)
		read := func(owner string, now time.Time, limit int) (names []string) {
			f.Helper()
			list, err := f.PendingEnrolments(f.ctx, owner, now, limit)
			f.must(err)
			for _, e := range list {
				names = append(names, e.ProdSerial)
				if e.State != store.Pending || e.TokenID != f.token.ID || e.EK == (store.Hash{}) || e.Created.IsZero() || e.DeviceID != "" || e.Request != nil {
					f.Errorf("%+v", e)
				}
			}
			return names
		}
		equal(f, "newest first", read(f.owner.ID, Epoch, 0), []string{two.ProdSerial, one.ProdSerial})
		equal(f, "limit", read(f.owner.ID, Epoch, 1), []string{two.ProdSerial})
		equal(f, "expired", len(read(f.owner.ID, two.Expires, 0)), 0)
		equal(f, "the other's", len(read(f.other.ID, Epoch, 0)), 0)
	}},
	{"SameRequestSameAnswer", func(f *fixture) {
		first := f.begin(Machine{Name: "one"}, f.token)
		for _, now := range []time.Time{Epoch, first.Expires.Add(-time.Microsecond)} {
			got, err := f.BeginEnrolment(f.ctx, reissued(first), now)
			f.must(err)
			equal(f, "answer", got, first)
		}
	}},
	{"SameRequestAfterActivation", func(f *fixture) {
		first := f.begin(Machine{Name: "one"}, f.token)
		_, err := f.activate(first)
		f.must(err)
		got, err := f.BeginEnrolment(f.ctx, reissued(first), first.Expires.Add(time.Hour))
		f.must(err)
		first.State = store.Active
		equal(f, "answer", got, first)
	}},
	{"SameRequestAfterDeletionStaysRevoked", func(f *fixture) {
		first := f.begin(Machine{Name: "one"}, f.token)
		d, err := f.activate(first)
		f.must(err)
		f.must(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch))
		got, err := f.BeginEnrolment(f.ctx, reissued(first), Epoch)
		f.must(err)
		first.State = store.Revoked
		equal(f, "answer", got, first)
	}},
	{"UnchangedIsStored", func(f *fixture) {
		version := f.version()
		for g := range 2 {
			e := Machine{Name: "one", Generation: g}.Enrolment(f.owner.ID, f.token.ID)
			got, err := f.BeginEnrolmentIfUnchanged(f.ctx, e, version, Epoch)
			f.must(err)
			equal(f, "answer", got, e)
			got, err = f.Enrolment(f.ctx, e.RequestHash)
			f.must(err)
			equal(f, "stored", got, e)
			got, err = f.BeginEnrolmentIfUnchanged(f.ctx, reissued(e), version, Epoch)
			f.must(err)
			equal(f, "answer to the same request", got, e)
			d, err := f.activate(e)
			f.must(err)
			got, err = f.BeginEnrolmentIfUnchanged(f.ctx, reissued(e), version, Epoch)
			f.must(err)
			equal(f, "state", got.State, store.Active)
			f.must(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch))
		}
	}},
	// The hub judged the request under a wrong assumption, so the store must not store the
	// enrolment, and not return an earlier one either.
	{"ChangedIsNotStored", func(f *fixture) {
		one := Machine{Name: "one"}
		used := f.newToken("used", 0)
		for _, c := range []struct {
			name    string
			m       Machine
			token   store.JoinToken
			change  func(e *store.Enrolment)
			at      time.Duration
			version int64
			before  func()
		}{
			{name: "unknown token", m: one, token: JoinToken(f.owner.ID, "never stored", 0)},
			{name: "another owner", m: one, token: f.token, change: func(e *store.Enrolment) { e.Owner = f.other.ID }},
			{name: "expired token", m: one, token: f.token, at: f.token.Expires.Sub(Epoch)},
			{name: "generation from the future", m: Machine{Name: "one", Generation: 1}, token: f.token},
			{name: "earlier config version", m: one, token: f.token, version: -1},
			{name: "later config version", m: one, token: f.token, version: +1},
			{name: "former generation", m: one, token: f.token, before: func() {
				d := f.onboard(Machine{Name: "one", Request: "former"}, f.token)
				f.must(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch))
			}},
			{name: "waiting device", m: Machine{Name: "waiting"}, token: f.token, before: func() { f.wait(Machine{Name: "waiting"}.waiting(f.token, "a question")) }},
			{name: "denied device", m: Machine{Name: "denied"}, token: f.token, before: func() { f.decide(f.wait(Machine{Name: "denied"}.waiting(f.token, "a question")), false) }},
			{name: "disabled token", m: Machine{Name: "two"}, token: used, before: func() {
				f.begin(Machine{Name: "two"}, used)
				f.must(f.DisableJoinToken(f.ctx, f.owner.ID, used.ID))
			}},
		} {
			if c.before != nil {
				c.before()
			}
			e := c.m.Enrolment(f.owner.ID, c.token.ID)
			if c.change != nil {
				c.change(&e)
			}
			was, wasErr := f.Enrolment(f.ctx, e.RequestHash)
			if _, err := f.BeginEnrolmentIfUnchanged(f.ctx, e, f.version()+c.version, Epoch.Add(c.at)); !errors.Is(err, store.ErrChanged) {
				f.Errorf("%s: got %v, want %v", c.name, err, store.ErrChanged)
			}
			is, err := f.Enrolment(f.ctx, e.RequestHash)
			equal(f, c.name+": error afterwards", err, wasErr)
			equal(f, c.name+": stored", is, was)
		}
	}},
	{"DisabledAccountsEnrolmentIsNotStored", func(f *fixture) {
		f.must(f.DisableAccount(f.ctx, f.owner.ID, store.Event{Time: Epoch, Kind: "account.disabled", Owner: f.owner.ID, Message: "Disabled."}))
		e := Machine{Name: "one"}.Enrolment(f.owner.ID, f.token.ID)
		_, err := f.BeginEnrolmentIfUnchanged(f.ctx, e, f.version(), Epoch)
		f.refused(err, store.ErrChanged)
		_, err = f.Enrolment(f.ctx, e.RequestHash)
		f.refused(err, store.ErrNotFound)
	}},
	{"OverduePendingIsReplaced", func(f *fixture) {
		first := f.begin(Machine{Name: "one"}, f.token)
		second := reissued(first)
		got, err := f.BeginEnrolment(f.ctx, second, first.Expires)
		f.must(err)
		equal(f, "answer", got, second)
		_, err = f.EnrolmentByCertificate(f.ctx, first.IDevIDHash)
		f.refused(err, store.ErrNotFound)
	}},
	{"ExpiredIsReplaced", func(f *fixture) {
		first := f.begin(Machine{Name: "one"}, f.token)
		n, err := f.ExpireEnrolments(f.ctx, first.Expires, 10)
		f.must(err)
		equal(f, "expired", n, 1)
		second := reissued(first)
		got, err := f.BeginEnrolment(f.ctx, second, first.Expires)
		f.must(err)
		equal(f, "answer", got, second)
		a := proof(second)
		a.Now = first.Expires
		_, err = f.Activate(f.ctx, a)
		f.must(err)
	}},
	{"CertificateOfAnotherRequestExists", func(f *fixture) {
		first := f.begin(Machine{Name: "one"}, f.token)
		e := Machine{Name: "two"}.Enrolment(f.owner.ID, f.token.ID)
		e.IDevIDHash = first.IDevIDHash
		_, err := f.BeginEnrolment(f.ctx, e, Epoch)
		f.refused(err, store.ErrExists)
	}},
	{"PendingTouchesNothing", func(f *fixture) {
		once := f.newToken("once", 1)
		d := f.onboard(Machine{Name: "one"}, once)
		before, err := f.TPM(f.ctx, d.EK)
		f.must(err)
		f.begin(Machine{Name: "one", Request: "again", IAK: "new"}, once)
		stranger := f.begin(Machine{Name: "two"}, once)
		after, err := f.TPM(f.ctx, d.EK)
		f.must(err)
		equal(f, "TPM", after, before)
		again, err := f.Device(f.ctx, d.ID)
		f.must(err)
		equal(f, "device", again, d)
		equal(f, "uses", f.uses(once), 1)
		_, err = f.TPM(f.ctx, stranger.EK)
		f.refused(err, store.ErrNotFound)
		_, err = f.AIK(f.ctx, stranger.IAKName)
		f.refused(err, store.ErrNotFound)
		_, err = f.Device(f.ctx, stranger.DeviceID)
		f.refused(err, store.ErrNotFound)
		_, err = f.DeviceByCertificate(f.ctx, stranger.IDevIDHash)
		f.refused(err, store.ErrNotFound)
	}},
	{"ExpireKeepsFingerprints", func(f *fixture) {
		e := f.begin(Machine{Name: "one"}, f.token)
		n, err := f.ExpireEnrolments(f.ctx, e.Expires, 10)
		f.must(err)
		equal(f, "expired", n, 1)
		got, err := f.Enrolment(f.ctx, e.RequestHash)
		f.must(err)
		equal(f, "expired enrolment", got, store.Enrolment{
			RequestHash: e.RequestHash,
			State:       store.Expired,
			DeviceID:    e.DeviceID,
			Owner:       e.Owner,
			TokenID:     e.TokenID,
			Generation:  e.Generation,
			EK:          e.EK,
			IAKName:     e.IAKName,
			IDevIDName:  e.IDevIDName,
			IAKHash:     e.IAKHash,
			IDevIDHash:  e.IDevIDHash,
			Created:     e.Created,
			Expires:     e.Expires,
		})
	}},
	{"ExpireSparesTheRest", func(f *fixture) {
		active := f.begin(Machine{Name: "one"}, f.token)
		_, err := f.activate(active)
		f.must(err)
		young := Machine{Name: "two"}.Enrolment(f.owner.ID, f.token.ID)
		young.Expires = young.Expires.Add(time.Microsecond)
		_, err = f.BeginEnrolment(f.ctx, young, Epoch)
		f.must(err)
		n, err := f.ExpireEnrolments(f.ctx, active.Expires, 10)
		f.must(err)
		equal(f, "expired", n, 0)
		equal(f, "active one", f.state(active), store.Active)
		equal(f, "young one", f.state(young), store.Pending)
	}},
	{"ExpireInPortions", func(f *fixture) {
		var all []store.Enrolment
		for _, name := range []string{"one", "two", "three", "four", "five"} {
			all = append(all, f.begin(Machine{Name: name}, f.token))
		}
		for _, want := range []int{2, 2, 1, 0} {
			n, err := f.ExpireEnrolments(f.ctx, Epoch.Add(2*time.Hour), 2)
			f.must(err)
			equal(f, "expired", n, want)
		}
		for _, e := range all {
			equal(f, "state", f.state(e), store.Expired)
		}
	}},
}

// reissued returns the enrolment that the hub makes if it judges the request of `e` again: it has
// other certificates and another expiry.
func reissued(e store.Enrolment) store.Enrolment {
	e.State = store.Pending
	e.IAKCert = append([]byte("reissued "), e.IAKCert...)
	e.IDevIDCert = append([]byte("reissued "), e.IDevIDCert...)
	e.IAKHash = Hash(string(e.IAKCert))
	e.IDevIDHash = Hash(string(e.IDevIDCert))
	e.Created = e.Created.Add(time.Minute)
	e.Expires = e.Expires.Add(time.Hour)
	return e
}

package storetest

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"gangway/hub/store"
)

// signIn stores a session of f.owner and returns it.
func (f *fixture) signIn(name string) store.Session {
	f.Helper()
	ses := session(f)
	ses.TokenHash = Hash(name)
	f.must(f.CreateSession(f.ctx, ses, f.owner.PasswordHash))
	return ses
}

// apiToken returns an API token of f.owner that is not stored yet.
func (f *fixture) apiToken(name string) store.APIToken {
	return store.APIToken{
		ID: ID("api " + name), Hash: Hash("api " + name), Account: f.owner.ID, Name: name,
		Scopes: "devices.readonly", Created: Epoch, Expires: Epoch.Add(time.Hour),
	}
}

func (f *fixture) noSession(ses store.Session) {
	f.Helper()
	_, err := f.Session(f.ctx, ses.TokenHash, Epoch)
	f.refused(err, store.ErrNotFound)
}

func (f *fixture) noAPIToken(t store.APIToken) {
	f.Helper()
	_, err := f.APIToken(f.ctx, t.Hash, Epoch)
	f.refused(err, store.ErrNotFound)
}

// kinds lists the kinds of all events, newest first.
func (f *fixture) kinds() []string {
	f.Helper()
	events, err := f.Events(f.ctx, store.EventFilter{Limit: 1000})
	f.must(err)
	var kinds []string
	for _, e := range events {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}

func event(kind string) store.Event { return store.Event{Time: Epoch, Kind: kind, Message: "m"} }

var accountChangeTests = []test{
	{"ListedByNick", func(f *fixture) {
		for _, nick := range []string{"Bob", "zoe", "Charlie"} {
			f.must(f.CreateAccount(f.ctx, Account(nick)))
		}
		var nicks []string
		for after := ""; ; {
			page, err := f.Accounts(f.ctx, after, 2)
			f.must(err)
			if len(page) == 0 {
				break
			}
			for _, a := range page {
				nicks = append(nicks, a.Nick)
			}
			after = page[len(page)-1].Nick
		}
		equal(f, "nicks", nicks, []string{"anne", "Bob", "Charlie", "mary", "zoe"})
	}},
	{"PublicOwners", func(f *fixture) {
		d := f.onboard(Machine{Name: "one"}, f.token)
		f.must(f.CreateAccount(f.ctx, Account("an_x")))
		see := func(prefix, self string, want ...string) {
			f.Helper()
			got, err := f.PublicOwners(f.ctx, prefix, self, 10)
			f.must(err)
			if !slices.Equal(got, want) {
				f.Fatalf("%q: got %q, want %q", prefix, got, want)
			}
		}
		see("", f.other.ID, "mary")
		f.must(f.SetPublic(f.ctx, f.owner.ID, d.ID, true))
		see("", f.other.ID, "anne", "mary")
		see("AN", f.other.ID, "anne")
		see("an_", f.other.ID)
		see("%", f.other.ID)
		f.must(f.DisableAccount(f.ctx, f.owner.ID, event("k")))
		see("", f.other.ID, "mary")
	}},
	{"PasswordEndsOtherSessions", func(f *fixture) {
		mine, others, late := f.signIn("mine"), f.signIn("another"), session(f)
		token := f.apiToken("ci")
		f.must(f.CreateAPIToken(f.ctx, token, mine.TokenHash, 9, event("made")))
		change := store.PasswordChange{Account: f.owner.ID, VerifiedHash: f.owner.PasswordHash, NewHash: "new", KeepSession: mine.TokenHash, Event: event("changed")}
		f.must(f.ChangePassword(f.ctx, change))
		_, err := f.Session(f.ctx, mine.TokenHash, Epoch)
		f.must(err)
		f.noSession(others)
		_, err = f.APIToken(f.ctx, token.Hash, Epoch)
		f.must(err)
		a, err := f.Account(f.ctx, f.owner.ID)
		f.must(err)
		equal(f, "hash", a.PasswordHash, "new")
		equal(f, "events", f.kinds(), []string{"changed", "made"})
		// CreateSession must fail if the old password was verified before the password change.
		f.refused(f.CreateSession(f.ctx, late, f.owner.PasswordHash), store.ErrChanged)
		f.refused(f.ChangePassword(f.ctx, change), store.ErrChanged)
		f.must(f.ChangePassword(f.ctx, store.PasswordChange{Account: f.owner.ID, NewHash: "reset", EndAPITokens: true, Event: event("reset")}))
		f.noSession(mine)
		f.noAPIToken(token)
		change.Account = ID("nobody")
		f.refused(f.ChangePassword(f.ctx, change), store.ErrNotFound)
	}},
	{"DisabledIsShutOut", func(f *fixture) {
		ses, token := f.signIn("mine"), f.apiToken("ci")
		f.must(f.CreateAPIToken(f.ctx, token, ses.TokenHash, 9, event("made")))
		d := f.onboard(Machine{Name: "one"}, f.token)
		e := f.begin(Machine{Name: "two"}, f.token)
		plain := store.Device{ID: ID("plain"), Nick: "plain", Created: Epoch}
		plain, err := f.CreateDevice(f.ctx, plain, Hash("secret"))
		f.must(err)
		before := len(f.kinds())
		for range 2 {
			f.must(f.DisableAccount(f.ctx, f.owner.ID, event("disabled")))
		}
		equal(f, "events", len(f.kinds())-before, 1)
		a, err := f.Account(f.ctx, f.owner.ID)
		f.must(err)
		equal(f, "disabled", a.Disabled, true)
		f.noSession(ses)
		f.noAPIToken(token)
		f.refused(f.CreateSession(f.ctx, ses, f.owner.PasswordHash), store.ErrChanged)
		f.refused(f.CreateAPIToken(f.ctx, token, ses.TokenHash, 9, event("made")), store.ErrNotFound)
		f.refused(f.ChangePassword(f.ctx, store.PasswordChange{Account: f.owner.ID, VerifiedHash: f.owner.PasswordHash, NewHash: "new", Event: event("k")}), store.ErrChanged)
		_, err = f.activate(e)
		f.refused(err, store.ErrTokenUnusable)
		_, err = f.ClaimDevice(f.ctx, plain.ID, f.owner.ID, Epoch)
		f.refused(err, store.ErrNotFound)
		t, err := f.JoinToken(f.ctx, f.token.ID)
		f.must(err)
		equal(f, "token disabled", t.Disabled, true)
		// The account's device stays active.
		_, err = f.DeviceByCertificate(f.ctx, d.IDevIDHash)
		f.must(err)

		for range 2 {
			f.must(f.EnableAccount(f.ctx, f.owner.ID, event("enabled")))
		}
		equal(f, "events", len(f.kinds())-before, 2)
		f.noSession(ses)
		f.noAPIToken(token)
		f.must(f.CreateSession(f.ctx, ses, f.owner.PasswordHash))
		_, err = f.activate(e)
		f.must(err)
		f.refused(f.DisableAccount(f.ctx, ID("nobody"), event("k")), store.ErrNotFound)
		f.refused(f.EnableAccount(f.ctx, ID("nobody"), event("k")), store.ErrNotFound)
	}},
	{"DeletedIsGone", func(f *fixture) {
		ses, token := f.signIn("mine"), f.apiToken("ci")
		f.must(f.CreateAPIToken(f.ctx, token, ses.TokenHash, 9, event("made")))
		d := f.onboard(Machine{Name: "one"}, f.token)
		e := f.begin(Machine{Name: "two"}, f.token)
		f.must(f.PutPolicy(f.ctx, store.Policy{Owner: f.owner.ID, Text: "version: 1", Updated: Epoch}))
		version, err := f.ConfigVersion(f.ctx)
		f.must(err)
		f.refused(f.DeleteAccount(f.ctx, f.owner.ID, event("deleted")), store.ErrHasDevices)
		_, err = f.Session(f.ctx, ses.TokenHash, Epoch)
		f.must(err)
		f.must(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch))
		f.must(f.DeleteAccount(f.ctx, f.owner.ID, event("deleted")))
		f.noSession(ses)
		f.noAPIToken(token)
		_, err = f.Account(f.ctx, f.owner.ID)
		f.refused(err, store.ErrNotFound)
		_, err = f.JoinToken(f.ctx, f.token.ID)
		f.refused(err, store.ErrNotFound)
		_, err = f.Policy(f.ctx, f.owner.ID)
		f.refused(err, store.ErrNotFound)
		_, err = f.activate(e)
		f.refused(err, store.ErrTokenUnusable)
		now, err := f.ConfigVersion(f.ctx)
		f.must(err)
		if now == version {
			f.Error("the config version did not increase when the policy was deleted")
		}
		equal(f, "newest event", f.kinds()[0], "deleted")
		f.refused(f.DeleteAccount(f.ctx, f.owner.ID, event("deleted")), store.ErrNotFound)
		// The other account's rows are not deleted.
		_, err = f.Account(f.ctx, f.other.ID)
		f.must(err)
	}},
	{"DeletedNickIsReserved", func(f *fixture) {
		f.must(f.DeleteAccount(f.ctx, f.owner.ID, event("deleted")))
		another := Account("ANNE")
		another.ID = ID("another")
		f.refused(f.CreateAccount(f.ctx, another), store.ErrExists)
		for range 2 {
			f.must(f.ReleaseNick(f.ctx, "anne"))
		}
		f.must(f.CreateAccount(f.ctx, another))
	}},
	{"SessionsListedAndEnded", func(f *fixture) {
		var all []store.Session
		for i := range 3 {
			ses := session(f)
			ses.TokenHash, ses.Created = Hash(fmt.Sprint(i)), Epoch.Add(time.Duration(i)*time.Second)
			f.must(f.CreateSession(f.ctx, ses, f.owner.PasswordHash))
			all = append([]store.Session{ses}, all...)
		}
		theirs := session(f)
		theirs.TokenHash, theirs.AccountID = Hash("theirs"), f.other.ID
		f.must(f.CreateSession(f.ctx, theirs, f.other.PasswordHash))
		list, err := f.Sessions(f.ctx, f.owner.ID, Epoch)
		f.must(err)
		equal(f, "sessions", list, all)
		list, err = f.Sessions(f.ctx, f.owner.ID, all[0].Expires)
		f.must(err)
		equal(f, "expired", len(list), 0)

		f.refused(f.EndSession(f.ctx, f.owner.ID, theirs.ID(), event("k")), store.ErrNotFound)
		f.refused(f.EndSession(f.ctx, f.owner.ID, "nothing", event("k")), store.ErrNotFound)
		f.must(f.EndSession(f.ctx, f.owner.ID, all[1].ID(), event("ended")))
		f.noSession(all[1])
		n, err := f.EndSessions(f.ctx, f.owner.ID, all[0].TokenHash, event("all ended"))
		f.must(err)
		equal(f, "ended", n, 1)
		f.noSession(all[2])
		n, err = f.EndSessions(f.ctx, f.owner.ID, all[0].TokenHash, event("all ended"))
		f.must(err)
		equal(f, "ended again", n, 0)
		equal(f, "events", f.kinds(), []string{"all ended", "ended"})
		n, err = f.EndSessions(f.ctx, f.owner.ID, store.Hash{}, event("all ended"))
		f.must(err)
		equal(f, "the last", n, 1)
		_, err = f.Session(f.ctx, theirs.TokenHash, Epoch)
		f.must(err)
	}},
	{"SessionsAreBounded", func(f *fixture) {
		for i := range store.MaxSessions + 3 {
			ses := session(f)
			ses.TokenHash, ses.Created = Hash(fmt.Sprint("s", i)), Epoch.Add(time.Duration(i)*time.Millisecond)
			f.must(f.CreateSession(f.ctx, ses, f.owner.PasswordHash))
		}
		list, err := f.Sessions(f.ctx, f.owner.ID, Epoch)
		f.must(err)
		equal(f, "sessions", len(list), store.MaxSessions)
		equal(f, "newest", list[0].TokenHash, Hash(fmt.Sprint("s", store.MaxSessions+2)))
	}},
	{"SignInAgainstDisable", func(f *fixture) {
		// Sign-ins race with DisableAccount. In every order, the account must have no session after
		// DisableAccount.
		var racers sync.WaitGroup
		for i := range 20 {
			racers.Go(func() {
				ses := session(f)
				ses.TokenHash = Hash(fmt.Sprint("racer", i))
				if err := f.CreateSession(f.ctx, ses, f.owner.PasswordHash); err != nil && err != store.ErrChanged {
					f.Error(err)
				}
			})
		}
		f.must(f.DisableAccount(f.ctx, f.owner.ID, event("disabled")))
		racers.Wait()
		list, err := f.Sessions(f.ctx, f.owner.ID, Epoch)
		f.must(err)
		equal(f, "sessions", len(list), 0)
	}},
	{"JoinTokensByPage", func(f *fixture) {
		for i := range 5 {
			t := JoinToken(f.owner.ID, fmt.Sprint(i), 0)
			t.Created = Epoch.Add(time.Duration(1+i/2) * time.Second)
			f.must(f.CreateJoinToken(f.ctx, t))
		}
		all, err := f.JoinTokens(f.ctx, f.owner.ID)
		f.must(err)
		var paged []store.JoinToken
		for after := ""; ; after = paged[len(paged)-1].ID {
			page, err := f.JoinTokensPage(f.ctx, f.owner.ID, after, 2)
			f.must(err)
			if len(page) == 0 {
				break
			}
			paged = append(paged, page...)
		}
		equal(f, "tokens", paged, all)
		_, err = f.JoinTokensPage(f.ctx, f.other.ID, f.token.ID, 2)
		f.refused(err, store.ErrNotFound)
	}},
	{"JoinTokenDeletedWhenDisabled", func(f *fixture) {
		d := f.onboard(Machine{Name: "one"}, f.token)
		e := f.begin(Machine{Name: "two"}, f.token)
		f.refused(f.DeleteJoinToken(f.ctx, f.owner.ID, f.token.ID, event("k")), store.ErrStatus)
		f.must(f.DisableJoinToken(f.ctx, f.owner.ID, f.token.ID))
		f.refused(f.DeleteJoinToken(f.ctx, f.other.ID, f.token.ID, event("k")), store.ErrNotFound)
		f.must(f.DeleteJoinToken(f.ctx, f.owner.ID, f.token.ID, event("token.deleted")))
		_, err := f.JoinToken(f.ctx, f.token.ID)
		f.refused(err, store.ErrNotFound)
		f.refused(f.DeleteJoinToken(f.ctx, f.owner.ID, f.token.ID, event("k")), store.ErrNotFound)
		_, err = f.activate(e)
		f.refused(err, store.ErrTokenUnusable)
		back, err := f.DeviceByCertificate(f.ctx, d.IDevIDHash)
		f.must(err)
		equal(f, "token of the device", back.TokenID, f.token.ID)
		equal(f, "newest event", f.kinds()[0], "token.deleted")
	}},
}

var apiTokenTests = []test{
	{"UntilItExpires", func(f *fixture) {
		ses, want := f.signIn("mine"), f.apiToken("ci")
		f.must(f.CreateAPIToken(f.ctx, want, ses.TokenHash, 9, event("made")))
		got, err := f.APIToken(f.ctx, want.Hash, want.Expires.Add(-time.Microsecond))
		f.must(err)
		equal(f, "token", got, want)
		_, err = f.APIToken(f.ctx, want.Hash, want.Expires)
		f.refused(err, store.ErrNotFound)
		_, err = f.APIToken(f.ctx, Hash("nothing"), Epoch)
		f.refused(err, store.ErrNotFound)
		f.must(f.MarkAPITokenUsed(f.ctx, want.Hash, "192.0.2.8", Epoch.Add(time.Minute)))
		f.must(f.MarkAPITokenUsed(f.ctx, Hash("nothing"), "192.0.2.8", Epoch))
		want.Used, want.UsedAddr = Epoch.Add(time.Minute), "192.0.2.8"
		list, err := f.APITokens(f.ctx, f.owner.ID)
		f.must(err)
		equal(f, "tokens", list, []store.APIToken{want})
		list, err = f.APITokens(f.ctx, f.other.ID)
		f.must(err)
		equal(f, "another's", len(list), 0)
	}},
	{"EndedSessionMakesNone", func(f *fixture) {
		ses, theirs := f.signIn("mine"), session(f)
		theirs.TokenHash, theirs.AccountID = Hash("theirs"), f.other.ID
		f.must(f.CreateSession(f.ctx, theirs, f.other.PasswordHash))
		f.refused(f.CreateAPIToken(f.ctx, f.apiToken("ci"), theirs.TokenHash, 9, event("made")), store.ErrNotFound)
		f.must(f.DeleteSession(f.ctx, ses.TokenHash))
		f.refused(f.CreateAPIToken(f.ctx, f.apiToken("ci"), ses.TokenHash, 9, event("made")), store.ErrNotFound)
		equal(f, "events", len(f.kinds()), 0)
	}},
	{"NamesAreUniqueAndMany", func(f *fixture) {
		ses := f.signIn("mine")
		f.must(f.CreateAPIToken(f.ctx, f.apiToken("one"), ses.TokenHash, 2, event("made")))
		again := f.apiToken("again")
		again.Name = "one"
		f.refused(f.CreateAPIToken(f.ctx, again, ses.TokenHash, 2, event("made")), store.ErrExists)
		f.must(f.CreateAPIToken(f.ctx, f.apiToken("two"), ses.TokenHash, 2, event("made")))
		f.refused(f.CreateAPIToken(f.ctx, f.apiToken("three"), ses.TokenHash, 2, event("made")), store.ErrTooMany)
		late := f.apiToken("late") // made after the other tokens have expired
		late.Created, late.Expires = Epoch.Add(time.Hour), Epoch.Add(2*time.Hour)
		f.must(f.CreateAPIToken(f.ctx, late, ses.TokenHash, 2, event("made")))
		list, err := f.APITokens(f.ctx, f.owner.ID)
		f.must(err)
		equal(f, "tokens", list, []store.APIToken{late})
	}},
	{"DeletedIsGone", func(f *fixture) {
		ses, token := f.signIn("mine"), f.apiToken("ci")
		f.must(f.CreateAPIToken(f.ctx, token, ses.TokenHash, 9, event("made")))
		f.refused(f.DeleteAPIToken(f.ctx, f.other.ID, token.ID, event("k")), store.ErrNotFound)
		f.must(f.DeleteAPIToken(f.ctx, f.owner.ID, token.ID, event("revoked")))
		f.noAPIToken(token)
		f.refused(f.DeleteAPIToken(f.ctx, f.owner.ID, token.ID, event("k")), store.ErrNotFound)
		equal(f, "events", f.kinds(), []string{"revoked", "made"})
	}},
}

var countedEventTests = []test{
	{"AlikeOfADayAreOne", func(f *fixture) {
		e := store.Event{Time: Epoch, Kind: "device.signed-in", Owner: f.owner.ID, Device: ID("d"), Actor: "a", ActorName: "n", Means: store.BySecret, Addr: "192.0.2.1", Message: "first"}
		later := e
		later.Time, later.Addr, later.Message = Epoch.Add(time.Minute), "192.0.2.2", "second"
		f.must(f.AppendCounted(f.ctx, []store.Event{e, later}))
		several := e
		several.Time, several.Count, several.Last = Epoch.Add(time.Second), 40, Epoch.Add(time.Hour)
		several.Addr, several.Message = "192.0.2.3", "last"
		f.must(f.AppendCounted(f.ctx, []store.Event{several}))
		events, err := f.Events(f.ctx, store.EventFilter{})
		f.must(err)
		want := e
		want.Count, want.Last, want.Addr, want.Message = 42, Epoch.Add(time.Hour), "192.0.2.3", "last"
		equal(f, "number", len(events), 1)
		events[0].Seq = 0
		equal(f, "event", events[0], want)
	}},
	{"WhateverDiffersIsAnother", func(f *fixture) {
		e := store.Event{Time: Epoch, Kind: "k", Message: "m"}
		for _, change := range []func(*store.Event){
			func(*store.Event) {},
			func(e *store.Event) { e.Time = e.Time.Add(24 * time.Hour) },
			func(e *store.Event) { e.Kind = "l" },
			func(e *store.Event) { e.Code = "x" },
			func(e *store.Event) { e.Owner = "x" },
			func(e *store.Event) { e.Device = "x" },
			func(e *store.Event) { e.Token = "x" },
			func(e *store.Event) { e.Actor = "x" },
			func(e *store.Event) { e.Means = "x" },
			func(e *store.Event) { e.Credential = "x" },
			func(e *store.Event) { e.Group = "x" },
		} {
			other := e
			change(&other)
			f.must(f.AppendCounted(f.ctx, []store.Event{other}))
		}
		equal(f, "events", len(f.kinds()), 11)
	}},
	{"FoundAtABoundedCost", func(f *fixture) {
		for i := range 9 {
			e := store.Event{Time: Epoch, Kind: "often", Owner: f.owner.ID, Message: fmt.Sprint(i)}
			if i == 1 {
				e = store.Event{Time: Epoch, Kind: "rare", Owner: f.owner.ID, Device: ID("d"), Token: ID("t"), Actor: "prn:a", ActorName: "Ada"}
			}
			f.must(f.AppendEvent(f.ctx, e))
			e.Owner = f.other.ID
			f.must(f.AppendEvent(f.ctx, e))
		}
		for _, c := range []struct {
			filter  store.EventFilter
			examine int
			pages   []int // the number of events on each page
		}{
			{store.EventFilter{}, 100, []int{9}},
			{store.EventFilter{Limit: 9}, 100, []int{9}},
			{store.EventFilter{Limit: 4}, 100, []int{4, 4, 1}},
			{store.EventFilter{Kind: "rare"}, 100, []int{1}},
			{store.EventFilter{Kind: "rare"}, 4, []int{0, 1, 0}},
			{store.EventFilter{Token: ID("t")}, 4, []int{0, 1, 0}},
			{store.EventFilter{Token: ID("u")}, 100, []int{0}},
			{store.EventFilter{Actor: "aDA"}, 100, []int{1}},
			{store.EventFilter{Actor: "prn:a"}, 100, []int{1}},
			{store.EventFilter{Actor: "prn:A"}, 100, []int{0}},
			{store.EventFilter{Device: ID("d")}, 100, []int{1}},
			{store.EventFilter{Device: ID("d")}, 1, []int{0, 1, 0}}, // FindEvents examines the other owner's event, but does not return it
		} {
			c.filter.Owner = f.owner.ID
			var pages []int
			for more := true; more && len(pages) < 9; more = c.filter.Before != 0 {
				events, next, err := f.FindEvents(f.ctx, c.filter, c.examine)
				f.must(err)
				for _, e := range events {
					equal(f, "owner", e.Owner, f.owner.ID)
				}
				pages, c.filter.Before = append(pages, len(events)), next
			}
			if !slices.Equal(pages, c.pages) {
				f.Errorf("filter %+v, at most %d events examined: the pages have %d events, want %d", c.filter, c.examine, pages, c.pages)
			}
		}
		all, _, err := f.FindEvents(f.ctx, store.EventFilter{Owner: f.owner.ID}, 100)
		f.must(err)
		later, _, err := f.FindEvents(f.ctx, store.EventFilter{Owner: f.owner.ID, After: all[2].Seq}, 100)
		f.must(err)
		equal(f, "events after one", len(later), 2)
	}},
	{"FilteredByKindAndTime", func(f *fixture) {
		for i, kind := range []string{"a.one", "a.two", "ab", "a_one"} {
			f.must(f.AppendEvent(f.ctx, store.Event{Time: Epoch.Add(time.Duration(i) * time.Hour), Kind: kind, Owner: f.owner.ID}))
		}
		f.must(f.AppendCounted(f.ctx, []store.Event{{Time: Epoch, Kind: "c", Owner: f.owner.ID, Last: Epoch.Add(2 * time.Hour)}}))
		f.must(f.AppendCounted(f.ctx, []store.Event{{Time: Epoch.Add(-time.Hour), Kind: "d", Code: "refused", Owner: f.owner.ID}}))
		for _, c := range []struct {
			filter store.EventFilter
			want   []string
		}{
			{store.EventFilter{Kind: "a.one"}, []string{"a.one"}},
			{store.EventFilter{Kind: "a."}, []string{"a.two", "a.one"}},
			{store.EventFilter{Kind: "a"}, nil},
			{store.EventFilter{Kind: "a."}, []string{"a.two", "a.one"}},
			{store.EventFilter{Since: Epoch.Add(2 * time.Hour)}, []string{"c", "a_one", "ab"}},
			{store.EventFilter{Since: Epoch.Add(2 * time.Hour), NoRoutine: true}, []string{"a_one", "ab"}},
			{store.EventFilter{Kind: "d", NoRoutine: true}, []string{"d"}},
			{store.EventFilter{Until: Epoch.Add(time.Hour)}, []string{"d", "c", "a.one"}},
			{store.EventFilter{Since: Epoch.Add(time.Hour), Until: Epoch.Add(2 * time.Hour)}, []string{"c", "a.two"}},
			{store.EventFilter{Kind: "a.", Since: Epoch.Add(time.Hour), Limit: 1}, []string{"a.two"}},
		} {
			for _, owner := range []string{"", f.owner.ID} {
				c.filter.Owner = owner
				events, err := f.Events(f.ctx, c.filter)
				f.must(err)
				var kinds []string
				for _, e := range events {
					kinds = append(kinds, e.Kind)
				}
				if !slices.Equal(kinds, c.want) {
					f.Errorf("%+v: got %q, want %q", c.filter, kinds, c.want)
				}
			}
		}
	}},
}

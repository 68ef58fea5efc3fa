package storetest

import (
	"encoding/json"
	"time"

	"gangway/hub/store"
)

var tokenTests = []test{
	{"ByID", func(f *fixture) {
		want := JoinToken(f.owner.ID, "with everything", 7)
		want.DefaultUserMeta = map[string]any{"berth": "north", "tide": json.Number("2.50"), "tags": []any{"a", "b"}, "none": nil}
		want.ForPantacor, want.PantacorKey = true, []byte("sealed")
		f.must(f.CreateJoinToken(f.ctx, want))
		got, err := f.JoinToken(f.ctx, want.ID)
		f.must(err)
		equal(f, "token", got, want)
	}},
	{"WithTheTPMsGeneration", func(f *fixture) {
		want := func(ek store.Hash, generation int) {
			stored, err := f.JoinToken(f.ctx, f.token.ID)
			f.must(err)
			t, err := f.JoinTokenForEK(f.ctx, f.token.ID, ek, Epoch)
			f.must(err)
			equal(f, "token", t, store.TokenForEK{ID: stored.ID, Owner: stored.Owner, PublicKey: stored.PublicKey, Expires: stored.Expires,
				Generation: generation, ConfigVersion: t.ConfigVersion})
		}
		want(Hash("nothing"), 0)
		for g := range 3 {
			d := f.onboard(Machine{Name: "one", Generation: g}, f.token)
			want(d.EK, g)
			f.must(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch))
			want(d.EK, g+1)
		}
		want(Hash("nothing"), 0)
	}},
	{"DisabledIsKnownWithTheEK", func(f *fixture) {
		want := func(when string, disabled bool) {
			t, err := f.JoinTokenForEK(f.ctx, f.token.ID, Hash("any"), Epoch)
			f.must(err)
			equal(f, when, t.Disabled, disabled)
		}
		want("new", false)
		f.must(f.DisableAccount(f.ctx, f.owner.ID, store.Event{Time: Epoch, Kind: "account.disabled", Owner: f.owner.ID, Message: "Disabled."}))
		want("disabled account", true)
		f.must(f.EnableAccount(f.ctx, f.owner.ID, store.Event{Time: Epoch, Kind: "account.enabled", Owner: f.owner.ID, Message: "Enabled."}))
		want("enabled account", false)
		f.must(f.DisableJoinToken(f.ctx, f.owner.ID, f.token.ID))
		want("disabled token", true)
	}},
	{"WithTheConfigVersion", func(f *fixture) {
		for range 2 {
			version, err := f.ConfigVersion(f.ctx)
			f.must(err)
			t, err := f.JoinTokenForEK(f.ctx, f.token.ID, Hash("any"), Epoch)
			f.must(err)
			equal(f, "config version", t.ConfigVersion, version)
			f.must(f.PutPolicy(f.ctx, store.Policy{Owner: f.owner.ID, Text: "version: 1\n", Updated: Epoch}))
		}
	}},
	// If WaitingByEK finds the device, Waits must be true. Otherwise the hub would not read the
	// owner's decision, and would not notice that the owner has denied the device.
	{"WithTheOwnersDecision", func(f *fixture) {
		w := f.wait(Machine{Name: "one"}.waiting(f.token, "a question"))
		others := JoinToken(f.other.ID, "another's", 0)
		f.must(f.CreateJoinToken(f.ctx, others))
		check := func(when string, at time.Time, want bool) {
			t, err := f.JoinTokenForEK(f.ctx, f.token.ID, w.EK, at)
			f.must(err)
			equal(f, when, t.Waits, want)
			_, err = f.WaitingByEK(f.ctx, f.owner.ID, w.EK, at)
			equal(f, when+": found", err == nil, want)
			t, err = f.JoinTokenForEK(f.ctx, others.ID, w.EK, at)
			f.must(err)
			equal(f, when+", another owner", t.Waits, false)
		}
		check("undecided", w.Since, true)
		check("undecided and expired", w.Expires, false)
		_, err := f.Decide(f.ctx, f.owner.ID, w.DeviceID, store.Decision{By: "anne", At: Epoch, Expires: Epoch.Add(time.Hour)})
		f.must(err)
		check("denied", w.Since, true)
		check("denied, later", Epoch.Add(time.Hour-time.Microsecond), true)
		t, err := f.JoinTokenForEK(f.ctx, f.token.ID, Hash("another EK"), w.Since)
		f.must(err)
		equal(f, "another EK", t.Waits, false)
	}},
	{"UnknownIsNotFound", func(f *fixture) {
		_, err := f.JoinToken(f.ctx, ID("nothing"))
		f.refused(err, store.ErrNotFound)
		_, err = f.JoinTokenForEK(f.ctx, ID("nothing"), Hash("nothing"), Epoch)
		f.refused(err, store.ErrNotFound)
	}},
	{"TakenIDExists", func(f *fixture) {
		t := f.token
		t.Owner = f.other.ID
		f.refused(f.CreateJoinToken(f.ctx, t), store.ErrExists)
	}},
	{"NicksMayRepeat", func(f *fixture) {
		t := f.token
		t.ID = ID("a second one")
		f.must(f.CreateJoinToken(f.ctx, t))
	}},
	{"ListedNewestFirst", func(f *fixture) {
		for i, nick := range []string{"second", "third", "fourth"} {
			t := JoinToken(f.owner.ID, nick, 0)
			t.Created = Epoch.Add(time.Duration(i+1) * time.Second)
			f.must(f.CreateJoinToken(f.ctx, t))
		}
		f.must(f.CreateJoinToken(f.ctx, JoinToken(f.other.ID, "another's", 0)))
		tokens, err := f.JoinTokens(f.ctx, f.owner.ID)
		f.must(err)
		var nicks []string
		for _, t := range tokens {
			nicks = append(nicks, t.Nick)
		}
		equal(f, "nicks", nicks, []string{"fourth", "third", "second", "fleet"})
	}},
	{"ListOfNobodyIsEmpty", func(f *fixture) {
		tokens, err := f.JoinTokens(f.ctx, ID("nobody"))
		f.must(err)
		equal(f, "tokens", len(tokens), 0)
	}},
	{"DisableTwice", func(f *fixture) {
		for range 2 {
			f.must(f.DisableJoinToken(f.ctx, f.owner.ID, f.token.ID))
			t, err := f.JoinToken(f.ctx, f.token.ID)
			f.must(err)
			equal(f, "disabled", t.Disabled, true)
		}
	}},
	{"DisableIsForItsOwner", func(f *fixture) {
		f.refused(f.DisableJoinToken(f.ctx, f.other.ID, f.token.ID), store.ErrNotFound)
		f.refused(f.DisableJoinToken(f.ctx, f.owner.ID, ID("nothing")), store.ErrNotFound)
		t, err := f.JoinToken(f.ctx, f.token.ID)
		f.must(err)
		equal(f, "disabled", t.Disabled, false)
	}},
	{"UsesCountDevicesOnce", func(f *fixture) {
		first := Machine{Name: "one"}
		f.onboard(first, f.token)
		f.onboard(Machine{Name: "one", Request: "again"}, f.token)
		f.onboard(Machine{Name: "one", Request: "and again", IAK: "new"}, f.token)
		equal(f, "uses by one device", f.uses(f.token), 1)
		f.onboard(Machine{Name: "two"}, f.token)
		equal(f, "uses by two devices", f.uses(f.token), 2)
	}},
	{"EachTokenCountsTheDevice", func(f *fixture) {
		second := f.newToken("second", 1)
		f.onboard(Machine{Name: "one"}, f.token)
		f.onboard(Machine{Name: "one"}, second)
		f.onboard(Machine{Name: "one", Request: "again"}, second)
		f.onboard(Machine{Name: "one", Request: "back"}, f.token)
		equal(f, "uses of the first", f.uses(f.token), 1)
		equal(f, "uses of the second", f.uses(second), 1)
	}},
	{"DeletionGivesNoUseBack", func(f *fixture) {
		once := f.newToken("once", 1)
		d := f.onboard(Machine{Name: "one"}, once)
		f.must(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch))
		equal(f, "uses", f.uses(once), 1)
		_, err := f.activate(f.begin(Machine{Name: "one", Generation: 1}, once))
		f.refused(err, store.ErrTokenUsedUp)
	}},
	{"ReturningDevicePassesAUsedUpToken", func(f *fixture) {
		once := f.newToken("once", 1)
		f.onboard(Machine{Name: "one"}, once)
		f.onboard(Machine{Name: "one", Request: "again"}, once)
		equal(f, "uses", f.uses(once), 1)
	}},
}

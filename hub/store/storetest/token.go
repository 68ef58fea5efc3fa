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
			t, g, err := f.JoinTokenAndGeneration(f.ctx, f.token.ID, ek)
			f.must(err)
			equal(f, "token", t, stored)
			equal(f, "generation", g, generation)
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
	{"UnknownIsNotFound", func(f *fixture) {
		_, err := f.JoinToken(f.ctx, ID("nothing"))
		f.refused(err, store.ErrNotFound)
		_, _, err = f.JoinTokenAndGeneration(f.ctx, ID("nothing"), Hash("nothing"))
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

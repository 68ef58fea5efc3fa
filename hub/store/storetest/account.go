package storetest

import (
	"time"

	"gangway/hub/store"
)

var accountTests = []test{
	{"ByID", func(f *fixture) {
		got, err := f.Account(f.ctx, f.owner.ID)
		f.must(err)
		equal(f, "account", got, f.owner)
	}},
	{"UnknownIsNotFound", func(f *fixture) {
		_, err := f.Account(f.ctx, ID("nobody"))
		f.refused(err, store.ErrNotFound)
		for _, login := range []string{"nobody", "nobody@harbour.example", "", "ann", "anne%", "ann_"} {
			_, err := f.AccountByNickOrEmail(f.ctx, login)
			f.refused(err, store.ErrNotFound)
		}
	}},
	{"ByLoginInAnyCase", func(f *fixture) {
		for _, login := range []string{"anne", "ANNE", "Anne", "anne@harbour.example", "ANNE@Harbour.Example"} {
			got, err := f.AccountByNickOrEmail(f.ctx, login)
			f.must(err)
			equal(f, login, got, f.owner)
		}
	}},
	{"TakenNamesExist", func(f *fixture) {
		for _, clash := range []func(*store.Account){
			func(a *store.Account) { a.ID = f.owner.ID },
			func(a *store.Account) { a.Nick = "anne" },
			func(a *store.Account) { a.Nick = "aNNe" },
			func(a *store.Account) { a.Email = "anne@harbour.example" },
			func(a *store.Account) { a.Email = "Anne@HARBOUR.example" },
		} {
			a := Account("grace")
			clash(&a)
			f.refused(f.CreateAccount(f.ctx, a), store.ErrExists)
		}
		n, err := f.CountAccounts(f.ctx)
		f.must(err)
		equal(f, "accounts", n, 2)
	}},
	{"ManyWithoutEmail", func(f *fixture) {
		for _, nick := range []string{"grace", "jeanne"} {
			a := Account(nick)
			a.Email = ""
			f.must(f.CreateAccount(f.ctx, a))
		}
	}},
	{"Count", func(f *fixture) {
		n, err := f.CountAccounts(f.ctx)
		f.must(err)
		equal(f, "accounts", n, 2)
	}},
	{"Ping", func(f *fixture) { f.must(f.Ping(f.ctx)) }},
}

var sessionTests = []test{
	{"UntilItExpires", func(f *fixture) {
		want := session(f)
		f.must(f.CreateSession(f.ctx, want, f.owner.PasswordHash))
		got, err := f.Session(f.ctx, want.TokenHash, want.Expires.Add(-time.Microsecond))
		f.must(err)
		equal(f, "session", got, want)
		_, err = f.Session(f.ctx, want.TokenHash, want.Expires)
		f.refused(err, store.ErrNotFound)
	}},
	{"UnknownIsNotFound", func(f *fixture) {
		_, err := f.Session(f.ctx, Hash("nothing"), Epoch)
		f.refused(err, store.ErrNotFound)
	}},
	{"DeletedIsGone", func(f *fixture) {
		ses := session(f)
		f.must(f.CreateSession(f.ctx, ses, f.owner.PasswordHash))
		f.must(f.DeleteSession(f.ctx, ses.TokenHash))
		_, err := f.Session(f.ctx, ses.TokenHash, Epoch)
		f.refused(err, store.ErrNotFound)
		f.must(f.DeleteSession(f.ctx, ses.TokenHash))
	}},
	{"TakenHashExists", func(f *fixture) {
		ses := session(f)
		f.must(f.CreateSession(f.ctx, ses, f.owner.PasswordHash))
		ses.AccountID = f.other.ID
		f.refused(f.CreateSession(f.ctx, ses, f.owner.PasswordHash), store.ErrExists)
		got, err := f.Session(f.ctx, ses.TokenHash, Epoch)
		f.must(err)
		equal(f, "account", got.AccountID, f.owner.ID)
	}},
	{"OfNobodyIsNotFound", func(f *fixture) {
		ses := session(f)
		ses.AccountID = ID("nobody")
		f.refused(f.CreateSession(f.ctx, ses, f.owner.PasswordHash), store.ErrNotFound)
	}},
}

func session(f *fixture) store.Session {
	return store.Session{
		TokenHash: Hash("session"),
		AccountID: f.owner.ID,
		Created:   Epoch,
		Expires:   Epoch.Add(time.Hour),
		Addr:      "192.0.2.7",
		Means:     store.ByAPI,
	}
}

package storetest

import (
	"fmt"
	"time"

	"gangway/hub/store"
)

var durabilityTests = []struct {
	name string
	run  func(f *fixture, reopen func())
}{
	{"EverythingIsThereAgain", func(f *fixture, reopen func()) {
		ses := session(f)
		f.must(f.CreateSession(f.ctx, ses, f.owner.PasswordHash))
		d := f.onboard(Machine{Name: "one"}, f.token)
		f.must(f.PatchUserMeta(f.ctx, f.owner.ID, d.ID, map[string]any{"berth": "north"}))
		f.must(f.patchDeviceMeta(d.ID, map[string]any{"load": 0.5}))
		gone := f.onboard(Machine{Name: "two"}, f.token)
		f.must(f.DeleteDevice(f.ctx, f.owner.ID, gone.ID, Epoch))
		pending := f.begin(Machine{Name: "three"}, f.token)
		f.must(f.AppendEvent(f.ctx, store.Event{Time: Epoch, Kind: "k", Message: "m"}))
		before := f.snapshot(d.IDevIDHash)

		reopen()

		equal(f, "what an activation writes", f.snapshot(d.IDevIDHash), before)
		account, err := f.AccountByNickOrEmail(f.ctx, "anne")
		f.must(err)
		equal(f, "account", account, f.owner)
		got, err := f.Session(f.ctx, ses.TokenHash, Epoch)
		f.must(err)
		equal(f, "session", got, ses)
		e, err := f.Enrolment(f.ctx, pending.RequestHash)
		f.must(err)
		equal(f, "pending enrolment", e, pending)
		tpm, err := f.TPM(f.ctx, gone.EK)
		f.must(err)
		equal(f, "generation", tpm.Generation, 1)

		_, err = f.activate(pending)
		f.must(err)
		events, err := f.Events(f.ctx, store.EventFilter{Limit: 1})
		f.must(err)
		if events[0].Seq <= before.Events[0].Seq {
			f.Fatalf("sequence %d follows %d", events[0].Seq, before.Events[0].Seq)
		}
	}},
	{"AddressesAreThereAgain", func(f *fixture, reopen func()) {
		urls, err := f.URLs(f.ctx)
		f.must(err)
		equal(f, "number of URLs at first", len(urls), 0)
		f.must(f.SetURLs(f.ctx, []string{"https://old.example"}))
		want := []string{"https://hub.example", "https://192.0.2.1:8443"}
		f.must(f.SetURLs(f.ctx, want))

		reopen()

		urls, err = f.URLs(f.ctx)
		f.must(err)
		equal(f, "URLs", urls, want)
	}},
	{"LatestSightingIsThereAgain", func(f *fixture, reopen func()) {
		d := f.onboard(Machine{Name: "one"}, f.token)
		latest := proof(store.Enrolment{}).Now.Add(time.Hour)
		f.must(f.MarkDeviceSeen(f.ctx, d.ID, "192.0.2.1:1", latest.Add(-time.Minute)))
		f.must(f.MarkDeviceSeen(f.ctx, d.ID, "192.0.2.2:2", latest))
		f.must(f.MarkDeviceSeen(f.ctx, d.ID, "192.0.2.3:3", latest.Add(-time.Second)))
		reopen()
		got, err := f.Device(f.ctx, d.ID)
		f.must(err)
		d.LastSeen, d.LastSeenAddr = latest, "192.0.2.2:2"
		equal(f, "device", got, d)
	}},
	{"TrustIsThereAgain", func(f *fixture, reopen func()) {
		f.must(f.ChangeTrust(f.ctx, store.TrustChange{Put: []store.TrustedCertificate{trusted("one", store.TrustedRoot), trusted("two", store.Distrusted)}}))
		certs, version := f.trust()
		reopen()
		again, sameVersion := f.trust()
		equal(f, "trusted certificates", again, certs)
		equal(f, "version", sameVersion, version)
	}},
	{"AgainAndAgain", func(f *fixture, reopen func()) {
		for i := range 4 {
			f.onboard(Machine{Name: fmt.Sprint(i)}, f.token)
			reopen()
			equal(f, "uses", f.uses(f.token), i+1)
		}
	}},
}

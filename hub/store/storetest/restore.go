package storetest

import (
	"slices"
	"strings"
	"time"

	"gangway/hub/store"
)

var restoreTests = []test{
	{"EpochsIncrease", func(f *fixture) {
		for want := range int64(3) {
			n, err := f.NextEpoch(f.ctx)
			f.must(err)
			equal(f, "epoch", n, want+1)
		}
	}},
	// The hub may have begun further epochs after the backup was made. Their numbers must not be
	// used again.
	{"EpochsAfterARestoreAreNew", func(f *fixture) {
		for want := int64(store.EpochsPerRestore + 1); want < 3*store.EpochsPerRestore; want += store.EpochsPerRestore {
			done, err := f.MarkRestored(f.ctx, store.Restore{Epoch: want - store.EpochsPerRestore, Backup: Epoch, Time: Epoch.Add(time.Hour)})
			f.must(err)
			equal(f, "epoch", done.Epoch, want)
		}
		n, err := f.NextEpoch(f.ctx)
		f.must(err)
		equal(f, "next epoch", n, int64(2*store.EpochsPerRestore+2))
	}},
	{"LatestRestore", func(f *fixture) {
		_, err := f.LatestRestore(f.ctx)
		f.refused(err, store.ErrNotFound)
		want := store.Restore{Epoch: 3, Backup: Epoch, Time: Epoch.Add(time.Hour)}
		_, err = f.MarkRestored(f.ctx, want)
		f.must(err)
		got, err := f.LatestRestore(f.ctx)
		f.must(err)
		equal(f, "restore", got, want)
	}},
	{"RestoreEndsSessionsAndTellsEverybody", func(f *fixture) {
		s := store.Session{TokenHash: Hash("session"), AccountID: f.owner.ID, Created: Epoch, Expires: Epoch.Add(24 * time.Hour)}
		f.must(f.CreateSession(f.ctx, s, f.owner.PasswordHash))
		done := f.restored()
		equal(f, "ended sessions", done.Sessions, 1)
		_, err := f.Session(f.ctx, s.TokenHash, Epoch)
		f.refused(err, store.ErrNotFound)
		for _, owner := range []string{f.owner.ID, f.other.ID} {
			list, err := f.Events(f.ctx, store.EventFilter{Owner: owner, Kind: store.EventRestored})
			f.must(err)
			equal(f, "events of an owner", len(list), 1)
			equal(f, "names what is lost", strings.Contains(list[0].Message, "deleted later may work again"), true)
		}
		list, err := f.Events(f.ctx, store.EventFilter{Kind: store.EventRestored})
		f.must(err)
		equal(f, "events", len(list), 3)
	}},
	// After a restore, the hub may no longer know about some uses of a token. So no device may use
	// a token with a limit until the operator resumes it.
	{"LimitedTokensArePaused", func(f *fixture) {
		limited, unlimited := f.newToken("limited", 5), f.token
		f.onboard(Machine{Name: "before"}, limited)
		equal(f, "paused", f.restored().Tokens, 1)
		_, err := f.activate(f.begin(Machine{Name: "new"}, limited))
		f.refused(err, store.ErrTokenPaused)
		f.onboard(Machine{Name: "before", Request: "again"}, limited) // it spends no use
		f.onboard(Machine{Name: "other"}, unlimited)
		list, err := f.PausedTokens(f.ctx)
		f.must(err)
		equal(f, "paused tokens", len(list), 1)
		f.refused(f.ResumeToken(f.ctx, unlimited.ID, 0, store.Event{Time: Epoch}), store.ErrNotFound)
		f.must(f.ResumeToken(f.ctx, limited.ID, 2, store.Event{Time: Epoch, Kind: store.EventTokenResumed, Message: "Resumed."}))
		f.onboard(Machine{Name: "new"}, limited)
		f.onboard(Machine{Name: "third"}, limited)
		_, err = f.activate(f.begin(Machine{Name: "fourth"}, limited))
		f.refused(err, store.ErrTokenUsedUp)
		equal(f, "uses", f.uses(limited), 3)
	}},
	{"LostUsesCannotMakeATokenUnlimited", func(f *fixture) {
		once := f.newToken("once", 1)
		f.restored()
		f.must(f.ResumeToken(f.ctx, once.ID, 1, store.Event{Time: Epoch, Kind: store.EventTokenResumed}))
		t, err := f.JoinToken(f.ctx, once.ID)
		f.must(err)
		equal(f, "disabled", t.Disabled, true)
		equal(f, "limit", t.MaxUses, 1)
	}},
	{"PausedTokenWithoutTPM", func(f *fixture) {
		t := JoinToken(f.owner.ID, "auto", 3)
		t.WithoutTPM, t.SecretHash = true, Hash("secret")
		f.must(f.CreateJoinToken(f.ctx, t))
		f.restored()
		_, err := f.CreateDevice(f.ctx, store.Device{ID: ID("plain"), Nick: "plain", Owner: f.owner.ID, TokenID: t.ID, Created: Epoch}, Hash("device"))
		f.refused(err, store.ErrTokenPaused)
	}},
	{"LostDeviceIsToldOnce", func(f *fixture) {
		d := f.lost("gone", f.owner.ID)
		d.LastSeen = Epoch.Add(time.Hour)
		f.must(f.RecordLostDevice(f.ctx, d, lostEvent(d)))
		list, err := f.LostDevices(f.ctx, "", 10)
		f.must(err)
		equal(f, "lost", list, []store.LostDevice{d})
		events, err := f.Events(f.ctx, store.EventFilter{Owner: f.owner.ID, Kind: store.EventLostDevice})
		f.must(err)
		equal(f, "events", len(events), 1)
	}},
	{"LostDevicesOfOneOwner", func(f *fixture) {
		var mine []store.LostDevice
		for _, name := range []string{"a", "b", "c"} {
			mine = append(mine, f.lost(ID(name), f.owner.ID))
			f.lost(ID("their "+name), f.other.ID)
		}
		slices.SortFunc(mine, func(a, b store.LostDevice) int { return strings.Compare(a.ID, b.ID) })
		list, err := f.LostDevicesOf(f.ctx, f.owner.ID, "", 10)
		f.must(err)
		equal(f, "the owner's", list, mine)
		list, err = f.LostDevicesOf(f.ctx, f.owner.ID, mine[0].ID, 1)
		f.must(err)
		equal(f, "the second page", list, mine[1:2])
		list, err = f.LostDevicesOf(f.ctx, ID("nobody"), "", 10)
		f.must(err)
		equal(f, "of an unknown owner", len(list), 0)
	}},
	// The restored database does not know the TPM, and only the device's certificate names the
	// owner. Another owner must not be able to onboard the TPM.
	{"LostDeviceComesBackOnlyToItsOwner", func(f *fixture) {
		m := Machine{Name: "stray"}
		theirs := JoinToken(f.other.ID, "theirs", 0)
		f.must(f.CreateJoinToken(f.ctx, theirs))
		e := f.begin(m, theirs)
		d := f.lost(e.DeviceID, f.owner.ID)
		_, err := f.Activate(f.ctx, store.Activation{IDevIDHash: e.IDevIDHash, Nick: "stray", Now: Epoch, DeviceIDs: func() []string { return []string{ID("x"), d.ID} }})
		f.refused(err, store.ErrOtherOwner)
		e = f.begin(Machine{Name: "stray", Request: "again"}, f.token)
		_, err = f.Activate(f.ctx, store.Activation{IDevIDHash: e.IDevIDHash, Nick: "stray", Now: Epoch, DeviceIDs: func() []string { return []string{d.ID} }})
		f.must(err)
		list, err := f.LostDevices(f.ctx, "", 10)
		f.must(err)
		equal(f, "lost", len(list), 0)
	}},
	{"LostDeviceOfALostAccountIsFree", func(f *fixture) {
		e := f.begin(Machine{Name: "stray"}, f.token)
		d := f.lost(e.DeviceID, ID("nobody"))
		_, err := f.Activate(f.ctx, store.Activation{IDevIDHash: e.IDevIDHash, Nick: "stray", Now: Epoch, DeviceIDs: func() []string { return []string{d.ID} }})
		f.must(err)
	}},
}

func (f *fixture) restored() store.Restored {
	f.Helper()
	done, err := f.MarkRestored(f.ctx, store.Restore{Epoch: 1, Backup: Epoch.Add(-time.Hour), Time: Epoch})
	f.must(err)
	return done
}

// The method `lost` calls RecordLostDevice for a device that onboarded after the backup.
func (f *fixture) lost(id, owner string) store.LostDevice {
	f.Helper()
	d := store.LostDevice{ID: id, Owner: owner, TokenID: f.token.ID, Certificate: Hash(id), Issued: Epoch, FirstSeen: Epoch, LastSeen: Epoch, Addr: "192.0.2.1"}
	f.must(f.RecordLostDevice(f.ctx, d, lostEvent(d)))
	return d
}

func lostEvent(d store.LostDevice) store.Event {
	return store.Event{Time: d.LastSeen, Kind: store.EventLostDevice, Code: "device-lost", Owner: d.Owner, Device: d.ID, Message: "Lost."}
}

package storetest

import (
	"fmt"
	"strings"
	"time"

	"gangway/hub/store"
)

var activationTests = []test{
	{"MakesTheDevice", func(f *fixture) {
		t := JoinToken(f.owner.ID, "with meta", 0)
		t.DefaultUserMeta = map[string]any{"berth": "north"}
		f.must(f.CreateJoinToken(f.ctx, t))
		e := f.begin(Machine{Name: "one"}, t)
		a := proof(e)
		a.Nick = "brave-otter"
		got, err := f.Activate(f.ctx, a)
		f.must(err)
		want := store.Device{
			ID: e.DeviceID, Nick: "brave-otter", Owner: f.owner.ID, TokenID: t.ID,
			EK: e.EK, Enrolment: e.RequestHash, IDevIDHash: e.IDevIDHash,
			TPMMaker: e.Manufacturer, TPMModel: e.Model, TPMFirmware: e.Firmware,
			ProdModel: e.ProdModel, ProdSerial: e.ProdSerial, KeyAlgorithm: e.KeyAlgorithm,
			UserMeta: map[string]any{"berth": "north"}, DeviceMeta: map[string]any{},
			Created: a.Now, Activated: a.Now, LastSeen: a.Now, LastSeenAddr: a.Addr,
		}
		equal(f, "answer", got, want)
		got, err = f.Device(f.ctx, e.DeviceID)
		f.must(err)
		equal(f, "by id", got, want)
		got, err = f.DeviceByCertificate(f.ctx, e.IDevIDHash)
		f.must(err)
		want.UserMeta, want.DeviceMeta, want.ConfigVersion = nil, nil, got.ConfigVersion
		equal(f, "by certificate", got, want)
		equal(f, "state", f.state(e), store.Active)
		equal(f, "uses", f.uses(t), 1)
	}},
	{"FirstOnlyOfANewDevice", func(f *fixture) {
		e := f.begin(Machine{Name: "one"}, f.token)
		a := proof(e)
		a.First = true
		d, err := f.Activate(f.ctx, a)
		f.must(err)
		again, err := f.Activate(f.ctx, a)
		f.must(err)
		equal(f, "device of an active enrolment", again.ID, d.ID)
		second := f.begin(Machine{Name: "one", Request: "later", IAK: "new"}, f.token)
		before := f.snapshot(second.IDevIDHash)
		a = proof(second)
		a.First = true
		_, err = f.Activate(f.ctx, a)
		f.refused(err, store.ErrChanged)
		equal(f, "after the refusal", f.snapshot(second.IDevIDHash), before)
		a.First = false
		_, err = f.Activate(f.ctx, a)
		f.must(err)
		equal(f, "state of the first", f.state(e), store.Superseded)
		equal(f, "state of the second", f.state(second), store.Active)
		// A reason to refuse the activation counts more than the wrong assumption.
		a = proof(e)
		a.First = true
		_, err = f.Activate(f.ctx, a)
		f.refused(err, store.ErrSuperseded)
	}},
	{"BindsTheTPM", func(f *fixture) {
		e := f.begin(Machine{Name: "one"}, f.token)
		_, err := f.activate(e)
		f.must(err)
		got, err := f.TPM(f.ctx, e.EK)
		f.must(err)
		equal(f, "TPM", got, store.TPM{
			EK: e.EK, Owner: f.owner.ID, DeviceID: e.DeviceID, Certificate: e.EKCertificate,
			Manufacturer: e.Manufacturer, Model: e.Model, Firmware: e.Firmware, FirstSeen: proof(e).Now,
		})
	}},
	{"RegistersTheAIK", func(f *fixture) {
		e := f.begin(Machine{Name: "one"}, f.token)
		_, err := f.activate(e)
		f.must(err)
		got, err := f.AIK(f.ctx, e.IAKName)
		f.must(err)
		equal(f, "AIK", got, store.AIK{
			Name: e.IAKName, EK: e.EK, DeviceID: e.DeviceID, Public: e.IAKPublic,
			Certificate: e.IAKCert, Registered: proof(e).Now,
		})
	}},
	{"AppendsOneEvent", func(f *fixture) {
		e := f.begin(Machine{Name: "one"}, f.token)
		a := proof(e)
		a.Nick = "brave-otter"
		for range 3 {
			_, err := f.Activate(f.ctx, a)
			f.must(err)
		}
		events, err := f.Events(f.ctx, store.EventFilter{Device: e.DeviceID})
		f.must(err)
		equal(f, "number of events", len(events), 1)
		got := events[0]
		for _, part := range []string{`"brave-otter"`, e.Manufacturer, e.Model, f.token.ID} {
			if !strings.Contains(got.Message, part) {
				f.Errorf("the message %q does not contain %s", got.Message, part)
			}
		}
		got.Seq, got.Message = 0, ""
		equal(f, "event", got, store.Event{
			Time: a.Now, Kind: "device.activated", Owner: f.owner.ID, Device: e.DeviceID,
			Token: f.token.ID, Addr: a.Addr,
			Actor: "prn:::devices:/" + e.DeviceID, ActorName: "brave-otter", Means: store.ByCertificate,
		})
	}},
	{"TwiceIsOnce", func(f *fixture) {
		once := f.newToken("once", 1)
		e := f.begin(Machine{Name: "one"}, once)
		first, err := f.activate(e)
		f.must(err)
		// An active enrolment can be activated again, even if its join token is disabled and the
		// enrolment's Expires has passed.
		f.must(f.DisableJoinToken(f.ctx, f.owner.ID, once.ID))
		a := proof(e)
		a.Now = e.Expires.Add(240 * time.Hour)
		a.Nick, a.Addr = "another", "198.51.100.1:1"
		again, err := f.Activate(f.ctx, a)
		f.must(err)
		first.LastSeen, first.LastSeenAddr = a.Now, a.Addr
		equal(f, "device", again, first)
		equal(f, "uses", f.uses(once), 1)
	}},
	{"LaterRequestSupersedes", func(f *fixture) {
		first := f.begin(Machine{Name: "one"}, f.token)
		d, err := f.activate(first)
		f.must(err)
		f.must(f.RenameDevice(f.ctx, f.owner.ID, d.ID, "renamed"))
		f.must(f.PatchUserMeta(f.ctx, f.owner.ID, d.ID, map[string]any{"mine": "kept"}))
		f.must(f.patchDeviceMeta(d.ID, map[string]any{"its": "kept"}))

		second := Machine{Name: "one", Request: "again"}.Enrolment(f.owner.ID, f.token.ID)
		second.Firmware = "7.86"
		_, err = f.BeginEnrolment(f.ctx, second, Epoch)
		f.must(err)
		a := proof(second)
		a.Now = a.Now.Add(time.Minute)
		got, err := f.Activate(f.ctx, a)
		f.must(err)

		d.Nick, d.Enrolment, d.IDevIDHash, d.TPMFirmware = "renamed", second.RequestHash, second.IDevIDHash, "7.86"
		d.UserMeta, d.DeviceMeta = map[string]any{"mine": "kept"}, map[string]any{"its": "kept"}
		d.Activated, d.LastSeen = a.Now, a.Now
		equal(f, "answer", got, d)
		got, err = f.Device(f.ctx, d.ID)
		f.must(err)
		equal(f, "device", got, d)
		equal(f, "first", f.state(first), store.Superseded)
		equal(f, "second", f.state(second), store.Active)
		_, err = f.DeviceByCertificate(f.ctx, first.IDevIDHash)
		f.refused(err, store.ErrNotFound)
		tpm, err := f.TPM(f.ctx, d.EK)
		f.must(err)
		equal(f, "firmware in the registry", tpm.Firmware, "7.86")
		equal(f, "first seen", tpm.FirstSeen, proof(first).Now)
	}},
	// If a device repeats a request whose enrolment has expired, the enrolment begins again at that
	// time. So it is then newer than the device's active enrolment, and must supersede it. The
	// result must not depend on whether ExpireEnrolments has run before the repetition.
	{"RequestThatBeginsAgainSupersedes", func(f *fixture) {
		for _, swept := range []bool{false, true} {
			machine := fmt.Sprint("swept ", swept)
			older := f.begin(Machine{Name: machine}, f.token)
			newer := f.onboard(Machine{Name: machine, Request: "newer"}, f.token)
			if swept {
				_, err := f.ExpireEnrolments(f.ctx, older.Expires, 10)
				f.must(err)
			}
			older.Created, older.Expires = older.Expires, older.Expires.Add(time.Hour)
			_, err := f.BeginEnrolment(f.ctx, older, older.Created)
			f.must(err)
			a := proof(older)
			a.Now = older.Created.Add(time.Minute)
			d, err := f.Activate(f.ctx, a)
			f.must(err)
			equal(f, "device", d.ID, newer.ID)
			equal(f, "active", d.Enrolment, older.RequestHash)
			equal(f, "newer", f.state(Machine{Name: machine, Request: "newer"}.Enrolment(f.owner.ID, f.token.ID)), store.Superseded)
		}
	}},
	{"SecretEndsWithItsCertificate", func(f *fixture) {
		first := f.begin(Machine{Name: "one"}, f.token)
		d, err := f.activate(first)
		f.must(err)
		f.refused(f.PutDeviceSecret(f.ctx, d.ID, store.Hash{}, Hash("secret"), time.Time{}), store.ErrNotFound)
		f.must(f.PutDeviceSecret(f.ctx, d.ID, d.IDevIDHash, Hash("secret"), time.Time{}))

		second := Machine{Name: "one", Request: "again"}.Enrolment(f.owner.ID, f.token.ID)
		_, err = f.BeginEnrolment(f.ctx, second, Epoch)
		f.must(err)
		_, err = f.DeviceSecret(f.ctx, d.ID, Epoch)
		f.must(err) // a pending enrolment does not delete the device secret
		_, err = f.Activate(f.ctx, proof(second))
		f.must(err)
		_, err = f.DeviceSecret(f.ctx, d.ID, Epoch)
		f.refused(err, store.ErrNotFound)
		// A late request with the old certificate must not restore the device secret.
		f.refused(f.PutDeviceSecret(f.ctx, d.ID, first.IDevIDHash, Hash("secret"), time.Time{}), store.ErrNotFound)
		f.must(f.PutDeviceSecret(f.ctx, d.ID, second.IDevIDHash, Hash("secret"), time.Time{}))
	}},
	{"NewAIKJoinsTheOld", func(f *fixture) {
		first := f.begin(Machine{Name: "one"}, f.token)
		_, err := f.activate(first)
		f.must(err)
		second := f.begin(Machine{Name: "one", IAK: "new"}, f.token)
		_, err = f.activate(second)
		f.must(err)
		for _, e := range []store.Enrolment{first, second} {
			aik, err := f.AIK(f.ctx, e.IAKName)
			f.must(err)
			equal(f, "EK", aik.EK, e.EK)
		}
	}},
	{"UsedNickGetsASuffix", func(f *fixture) {
		nick := func(name string) string {
			a := proof(f.begin(Machine{Name: name}, f.token))
			a.Nick = "otter"
			d, err := f.Activate(f.ctx, a)
			f.must(err)
			return d.Nick
		}
		var nicks []string
		for _, name := range []string{"one", "two", "three", "four", "five", "six", "seven"} {
			nicks = append(nicks, nick(name))
		}
		equal(f, "nicks", nicks, []string{"otter", "otter-2", "otter-3", "otter-4", "otter-5", "otter-6", "otter-7"})

		// After a device is deleted, another device of the same owner may use its nick. Devices of
		// different owners may always have the same nick.
		f.must(f.DeleteDevice(f.ctx, f.owner.ID, Machine{Name: "one"}.DeviceID(f.owner.ID), Epoch))
		equal(f, "nick after a deletion", nick("eight"), "otter")
		theirs := JoinToken(f.other.ID, "theirs", 0)
		f.must(f.CreateJoinToken(f.ctx, theirs))
		a := proof(f.begin(Machine{Name: "nine"}, theirs))
		a.Nick = "otter"
		d, err := f.Activate(f.ctx, a)
		f.must(err)
		equal(f, "nick at another owner", d.Nick, "otter")
	}},
	{"WithoutANickTheIDServes", func(f *fixture) {
		a := proof(f.begin(Machine{Name: "one"}, f.token))
		a.Nick = ""
		d, err := f.Activate(f.ctx, a)
		f.must(err)
		equal(f, "nick", d.Nick, d.ID)
	}},
}

// refusalTests check that Activate refuses an enrolment and changes nothing. The function `tell`
// prepares the store and returns the activation that Activate must refuse.
var refusalTests = func() (tests []test) {
	for _, story := range []struct {
		name string
		want error
		tell func(*fixture) store.Activation
	}{
		{"UnknownCertificate", store.ErrNotFound, func(f *fixture) store.Activation {
			return store.Activation{IDevIDHash: Hash("nothing"), Now: Epoch}
		}},
		{"PendingTooLong", store.ErrEnrolmentExpired, func(f *fixture) store.Activation {
			e := f.begin(Machine{Name: "one"}, f.token)
			a := proof(e)
			a.Now = e.Expires
			return a
		}},
		{"Expired", store.ErrEnrolmentExpired, func(f *fixture) store.Activation {
			e := f.begin(Machine{Name: "one"}, f.token)
			_, err := f.ExpireEnrolments(f.ctx, e.Expires, 10)
			f.must(err)
			return proof(e)
		}},
		{"Superseded", store.ErrSuperseded, func(f *fixture) store.Activation {
			e := f.begin(Machine{Name: "one"}, f.token)
			_, err := f.activate(e)
			f.must(err)
			f.onboard(Machine{Name: "one", Request: "again"}, f.token)
			return proof(e)
		}},
		{"LateActivationOfAnOlderRequest", store.ErrSuperseded, func(f *fixture) store.Activation {
			f.onboard(Machine{Name: "one"}, f.token)
			older := f.begin(Machine{Name: "one", Request: "older"}, f.token)
			f.onboard(Machine{Name: "one", Request: "newer"}, f.token)
			return proof(older)
		}},
		// The older request is also refused if it is the first request of the TPM.
		{"LateActivationOfTheFirstRequest", store.ErrSuperseded, func(f *fixture) store.Activation {
			older := f.begin(Machine{Name: "one"}, f.token)
			f.onboard(Machine{Name: "one", Request: "newer"}, f.token)
			return proof(older)
		}},
		// The hub's clock is set back between the two requests. The order of the requests, not
		// their times, decides which enrolment is newer.
		{"LateActivationAfterTheClockWentBack", store.ErrSuperseded, func(f *fixture) store.Activation {
			older := f.begin(Machine{Name: "one"}, f.token)
			newer := Machine{Name: "one", Request: "newer"}.Enrolment(f.owner.ID, f.token.ID)
			newer.Created = newer.Created.Add(-time.Hour)
			_, err := f.BeginEnrolment(f.ctx, newer, newer.Created)
			f.must(err)
			_, err = f.activate(newer)
			f.must(err)
			return proof(older)
		}},
		{"DeviceDeletedAfterwards", store.ErrRevoked, func(f *fixture) store.Activation {
			e := f.begin(Machine{Name: "one"}, f.token)
			d, err := f.activate(e)
			f.must(err)
			f.must(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch))
			return proof(e)
		}},
		{"DeviceDeletedWhilePending", store.ErrRevoked, func(f *fixture) store.Activation {
			d := f.onboard(Machine{Name: "one"}, f.token)
			e := f.begin(Machine{Name: "one", Request: "again"}, f.token)
			f.must(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch))
			return proof(e)
		}},
		{"AnotherOwnersPendingIsRefusedToo", store.ErrRevoked, func(f *fixture) store.Activation {
			d := f.onboard(Machine{Name: "one"}, f.token)
			theirs := JoinToken(f.other.ID, "theirs", 0)
			f.must(f.CreateJoinToken(f.ctx, theirs))
			e := f.begin(Machine{Name: "one"}, theirs)
			f.must(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch))
			return proof(e)
		}},
		{"GenerationFromTheFuture", store.ErrRevoked, func(f *fixture) store.Activation {
			return proof(f.begin(Machine{Name: "one", Generation: 1}, f.token))
		}},
		{"DeletedDeviceUnderItsOldID", store.ErrRevoked, func(f *fixture) store.Activation {
			d := f.onboard(Machine{Name: "one"}, f.token)
			f.must(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch))
			e := Machine{Name: "one", Generation: 1}.Enrolment(f.owner.ID, f.token.ID)
			e.DeviceID = d.ID
			_, err := f.BeginEnrolment(f.ctx, e, Epoch)
			f.must(err)
			return proof(e)
		}},
		{"TPMOfAnotherOwner", store.ErrOtherOwner, func(f *fixture) store.Activation {
			f.onboard(Machine{Name: "one"}, f.token)
			theirs := JoinToken(f.other.ID, "theirs", 0)
			f.must(f.CreateJoinToken(f.ctx, theirs))
			return proof(f.begin(Machine{Name: "one"}, theirs))
		}},
		{"IAKOfAnotherEK", store.ErrOtherEK, func(f *fixture) store.Activation {
			f.onboard(Machine{Name: "one"}, f.token)
			e := Machine{Name: "two"}.Enrolment(f.owner.ID, f.token.ID)
			e.IAKName = Machine{Name: "one"}.Enrolment(f.owner.ID, f.token.ID).IAKName
			_, err := f.BeginEnrolment(f.ctx, e, Epoch)
			f.must(err)
			return proof(e)
		}},
		{"SecondDeviceOnOneTPM", store.ErrExists, func(f *fixture) store.Activation {
			f.onboard(Machine{Name: "one"}, f.token)
			e := Machine{Name: "one", Request: "again"}.Enrolment(f.owner.ID, f.token.ID)
			e.DeviceID = ID("a second device")
			_, err := f.BeginEnrolment(f.ctx, e, Epoch)
			f.must(err)
			return proof(e)
		}},
		{"SecondTPMForOneDevice", store.ErrExists, func(f *fixture) store.Activation {
			d := f.onboard(Machine{Name: "one"}, f.token)
			e := Machine{Name: "two"}.Enrolment(f.owner.ID, f.token.ID)
			e.DeviceID = d.ID
			_, err := f.BeginEnrolment(f.ctx, e, Epoch)
			f.must(err)
			return proof(e)
		}},
		{"TokenUnknown", store.ErrTokenUnusable, func(f *fixture) store.Activation {
			return proof(f.begin(Machine{Name: "one"}, JoinToken(f.owner.ID, "never stored", 0)))
		}},
		{"TokenOfAnotherOwner", store.ErrTokenUnusable, func(f *fixture) store.Activation {
			e := Machine{Name: "one"}.Enrolment(f.other.ID, f.token.ID)
			_, err := f.BeginEnrolment(f.ctx, e, Epoch)
			f.must(err)
			return proof(e)
		}},
		{"OwnerGone", store.ErrTokenUnusable, func(f *fixture) store.Activation {
			orphan := JoinToken(ID("nobody"), "orphan", 0)
			f.must(f.CreateJoinToken(f.ctx, orphan))
			return proof(f.begin(Machine{Name: "one"}, orphan))
		}},
		{"TokenDisabled", store.ErrTokenUnusable, func(f *fixture) store.Activation {
			e := f.begin(Machine{Name: "one"}, f.token)
			f.must(f.DisableJoinToken(f.ctx, f.owner.ID, f.token.ID))
			return proof(e)
		}},
		{"TokenDisabledForAReturningDevice", store.ErrTokenUnusable, func(f *fixture) store.Activation {
			f.onboard(Machine{Name: "one"}, f.token)
			e := f.begin(Machine{Name: "one", Request: "again"}, f.token)
			f.must(f.DisableJoinToken(f.ctx, f.owner.ID, f.token.ID))
			return proof(e)
		}},
		{"TokenExpired", store.ErrTokenUnusable, func(f *fixture) store.Activation {
			short := JoinToken(f.owner.ID, "short", 0)
			e := Machine{Name: "one"}.Enrolment(f.owner.ID, short.ID)
			short.Expires = proof(e).Now
			f.must(f.CreateJoinToken(f.ctx, short))
			return proof(f.begin(Machine{Name: "one"}, short))
		}},
		{"TokenUsedUp", store.ErrTokenUsedUp, func(f *fixture) store.Activation {
			once := f.newToken("once", 1)
			f.onboard(Machine{Name: "one"}, once)
			return proof(f.begin(Machine{Name: "two"}, once))
		}},
		{"SecondTokenUsedUpForAKnownDevice", store.ErrTokenUsedUp, func(f *fixture) store.Activation {
			once := f.newToken("once", 1)
			f.onboard(Machine{Name: "one"}, once)
			f.onboard(Machine{Name: "two"}, f.token)
			return proof(f.begin(Machine{Name: "two"}, once))
		}},
	} {
		tests = append(tests, test{story.name, func(f *fixture) {
			a := story.tell(f)
			before := f.snapshot(a.IDevIDHash)
			_, err := f.Activate(f.ctx, a)
			f.refused(err, story.want)
			equal(f, "the store after the refusal", f.snapshot(a.IDevIDHash), before)
		}})
	}
	return tests
}()

// snapshot holds all rows that an activation can change.
type snapshot struct {
	Enrolment store.Enrolment
	TPM       store.TPM
	AIK       store.AIK
	Devices   []store.Device
	Tokens    []store.JoinToken
	Events    []store.Event
}

func (f *fixture) snapshot(idevid store.Hash) (s snapshot) {
	f.Helper()
	// The errors are ignored: the field of a row that does not exist stays zero, so the test
	// notices if a refused activation creates the row.
	s.Enrolment, _ = f.EnrolmentByCertificate(f.ctx, idevid)
	s.TPM, _ = f.TPM(f.ctx, s.Enrolment.EK)
	s.AIK, _ = f.AIK(f.ctx, s.Enrolment.IAKName)
	for _, owner := range []string{f.owner.ID, f.other.ID, ID("nobody")} {
		devices, err := f.Devices(f.ctx, owner, "", 0)
		f.must(err)
		s.Devices = append(s.Devices, devices...)
		tokens, err := f.JoinTokens(f.ctx, owner)
		f.must(err)
		s.Tokens = append(s.Tokens, tokens...)
	}
	var err error
	s.Events, err = f.Events(f.ctx, store.EventFilter{})
	f.must(err)
	return s
}

package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"gangway/hub/store"
)

// The function `together` runs the functions concurrently and waits for all of them.
func together(run ...func()) {
	var done sync.WaitGroup
	start := make(chan struct{})
	for _, f := range run {
		done.Go(func() {
			<-start
			f()
		})
	}
	close(start)
	done.Wait()
}

var raceTests = []test{
	{"FiftyDevicesForTheLastUse", func(f *fixture) {
		const devices = 50
		last := f.newToken("last", 1)
		errs := make([]error, devices)
		var all []store.Enrolment
		var run []func()
		for i := range devices {
			all = append(all, f.begin(Machine{Name: fmt.Sprint(i)}, last))
			run = append(run, func() { _, errs[i] = f.activate(all[i]) })
		}
		together(run...)
		won := 0
		for i, err := range errs {
			if err == nil {
				won++
				equal(f, "the winner", f.state(all[i]), store.Active)
				continue
			}
			f.refused(err, store.ErrTokenUsedUp)
			equal(f, "a loser", f.state(all[i]), store.Pending)
			_, err := f.TPM(f.ctx, all[i].EK)
			f.refused(err, store.ErrNotFound)
		}
		equal(f, "winners", won, 1)
		equal(f, "uses", f.uses(last), 1)
		n, err := f.CountDevices(f.ctx, f.owner.ID)
		f.must(err)
		equal(f, "devices", n, 1)
	}},
	{"FiftyDevicesOneNick", func(f *fixture) {
		const devices = 50
		nicks := make(map[string]bool)
		var mu sync.Mutex
		var run []func()
		for i := range devices {
			a := proof(f.begin(Machine{Name: fmt.Sprint(i)}, f.token))
			a.Nick = "otter"
			run = append(run, func() {
				d, err := f.Activate(f.ctx, a)
				if err != nil {
					f.Error(err)
					return
				}
				mu.Lock()
				nicks[d.Nick] = true
				mu.Unlock()
			})
		}
		together(run...)
		equal(f, "different nicks", len(nicks), devices)
		for n := 2; n <= devices; n++ {
			if nick := fmt.Sprintf("otter-%d", n); !nicks[nick] {
				f.Errorf("no device has the nick %s", nick)
			}
		}
	}},
	// Enrolments that arrive together share a transaction. One of them may violate a constraint, and
	// the transaction is then repeated without it.
	{"OneEnrolmentOfManyIsRefused", func(f *fixture) {
		const enrolments = 40
		errs := make([]error, enrolments)
		stored := make([]store.Enrolment, enrolments)
		all := make([]store.Enrolment, enrolments)
		var run []func()
		for i := range enrolments {
			all[i] = Machine{Name: fmt.Sprint(i)}.Enrolment(f.owner.ID, f.token.ID)
			if i%10 == 1 {
				all[i].IDevIDHash = all[i-1].IDevIDHash
			}
			run = append(run, func() { stored[i], errs[i] = f.BeginEnrolment(f.ctx, all[i], Epoch) })
		}
		together(run...)
		for i, err := range errs {
			if i%10 > 1 {
				f.must(err)
			}
			if i%10 == 1 {
				first, second := err, errs[i-1]
				if (first == nil) == (second == nil) {
					f.Fatalf("of two enrolments with the same certificate, both or none were stored: %v, %v", first, second)
				}
				f.refused(errors.Join(first, second), store.ErrExists)
			}
			if err == nil {
				equal(f, "the answer's request", stored[i].RequestHash, all[i].RequestHash)
				equal(f, "the state", f.state(all[i]), store.Pending)
				continue
			}
			_, err := f.Enrolment(f.ctx, all[i].RequestHash)
			f.refused(err, store.ErrNotFound)
		}
	}},
	{"TwentyTimesTheSameRequest", func(f *fixture) {
		const times = 20
		first := Machine{Name: "one"}.Enrolment(f.owner.ID, f.token.ID)
		answers := make([]store.Enrolment, times)
		var run []func()
		for i := range times {
			e := first
			e.IDevIDCert = fmt.Appendf(nil, "certificate %d", i)
			e.IDevIDHash = Hash(string(e.IDevIDCert))
			run = append(run, func() {
				var err error
				if answers[i], err = f.BeginEnrolment(f.ctx, e, Epoch); err != nil {
					f.Error(err)
				}
			})
		}
		together(run...)
		for _, answer := range answers {
			equal(f, "answer", answer, answers[0])
		}
		found := 0
		for i := range times {
			if _, err := f.EnrolmentByCertificate(f.ctx, Hash(fmt.Sprint("certificate ", i))); err == nil {
				found++
			}
		}
		equal(f, "certificates in the store", found, 1)
	}},
	{"TwoEnrolmentsOfOneDevice", func(f *fixture) {
		for round := range 10 {
			m := Machine{Name: fmt.Sprint("machine ", round)}
			first := f.begin(m, f.token)
			m.Request = "again"
			second := f.begin(m, f.token)
			var errs [2]error
			together(
				func() { _, errs[0] = f.activate(first) },
				func() { _, errs[1] = f.activate(second) },
			)
			// The enrolment that began later must be active, even if it was activated first.
			f.must(errs[1])
			equal(f, "second", f.state(second), store.Active)
			if errs[0] == nil {
				equal(f, "first", f.state(first), store.Superseded)
			} else {
				f.refused(errs[0], store.ErrSuperseded)
				equal(f, "first", f.state(first), store.Pending)
			}
			d, err := f.Device(f.ctx, first.DeviceID)
			f.must(err)
			active, err := f.Enrolment(f.ctx, d.Enrolment)
			f.must(err)
			equal(f, "the device's enrolment", active.State, store.Active)
			equal(f, "uses", f.uses(f.token), round+1)
		}
	}},
	{"OneEnrolmentTwentyTimes", func(f *fixture) {
		e := f.begin(Machine{Name: "one"}, f.token)
		var run []func()
		for range 20 {
			run = append(run, func() {
				if _, err := f.activate(e); err != nil {
					f.Error(err)
				}
			})
		}
		together(run...)
		equal(f, "uses", f.uses(f.token), 1)
		events, err := f.Events(f.ctx, store.EventFilter{Device: e.DeviceID})
		f.must(err)
		equal(f, "events", len(events), 1)
	}},
	{"ActivationAndDeletion", func(f *fixture) {
		for round := range 20 {
			m := Machine{Name: fmt.Sprint("machine ", round)}
			d := f.onboard(m, f.token)
			m.Request = "again"
			e := f.begin(m, f.token)
			var activated error
			together(
				func() { _, activated = f.activate(e) },
				func() { f.check(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch)) },
			)
			if activated != nil {
				f.refused(activated, store.ErrRevoked)
			}
			// Whichever call came first, the device must be deleted and its enrolment revoked.
			equal(f, "enrolment", f.state(e), store.Revoked)
			_, err := f.DeviceByCertificate(f.ctx, e.IDevIDHash)
			f.refused(err, store.ErrNotFound)
			tpm, err := f.TPM(f.ctx, e.EK)
			f.must(err)
			equal(f, "owner of the TPM", tpm.Owner, "")
			_, err = f.AIK(f.ctx, e.IAKName)
			f.refused(err, store.ErrNotFound)
		}
	}},
	{"ActivationAndDisablingTheToken", func(f *fixture) {
		for round := range 20 {
			t := f.newToken(fmt.Sprint("token ", round), 0)
			e := f.begin(Machine{Name: fmt.Sprint("machine ", round)}, t)
			var activated error
			together(
				func() { _, activated = f.activate(e) },
				func() { f.check(f.DisableJoinToken(f.ctx, f.owner.ID, t.ID)) },
			)
			if activated == nil {
				equal(f, "uses", f.uses(t), 1)
				equal(f, "enrolment", f.state(e), store.Active)
			} else {
				f.refused(activated, store.ErrTokenUnusable)
				equal(f, "uses", f.uses(t), 0)
				equal(f, "enrolment", f.state(e), store.Pending)
			}
		}
	}},
	{"ActivationAndExpiry", func(f *fixture) {
		for round := range 20 {
			e := f.begin(Machine{Name: fmt.Sprint("machine ", round)}, f.token)
			var activated error
			var expired int
			together(
				func() { _, activated = f.activate(e) },
				func() {
					var err error
					expired, err = f.ExpireEnrolments(f.ctx, e.Expires, 100)
					f.check(err)
				},
			)
			if activated == nil {
				equal(f, "expired", expired, 0)
				equal(f, "enrolment", f.state(e), store.Active)
				continue
			}
			f.refused(activated, store.ErrEnrolmentExpired)
			equal(f, "expired", expired, 1)
			equal(f, "enrolment", f.state(e), store.Expired)
			_, err := f.Device(f.ctx, e.DeviceID)
			f.refused(err, store.ErrNotFound)
		}
	}},
	{"PatchesOfDifferentKeys", func(f *fixture) {
		d := f.onboard(Machine{Name: "one"}, f.token)
		want := make(map[string]any)
		var run []func()
		for i := range 30 {
			key := fmt.Sprint("key ", i)
			want[key] = json.Number(strconv.Itoa(i))
			run = append(run, func() {
				f.check(f.PatchDeviceMeta(f.ctx, d.ID, map[string]any{key: i}))
			})
		}
		together(run...)
		d, err := f.Device(f.ctx, d.ID)
		f.must(err)
		equal(f, "meta", d.DeviceMeta, want)
	}},
	{"WritesOfMetasKeepTheBound", writesOfMetas},
	{"AccountsOfOneName", func(f *fixture) {
		var mu sync.Mutex
		made := 0
		var run []func()
		for i := range 20 {
			a := Account("grace")
			a.ID = ID(fmt.Sprint("grace ", i))
			run = append(run, func() {
				switch err := f.CreateAccount(f.ctx, a); {
				case err == nil:
					mu.Lock()
					made++
					mu.Unlock()
				case !errors.Is(err, store.ErrExists):
					f.Error(err)
				}
			})
		}
		together(run...)
		equal(f, "accounts made", made, 1)
	}},
}

// The method `check` reports an error as the method `must` does, but does not end the goroutine.
// Use it in goroutines that a test starts, where Fatal is not allowed.
func (f *fixture) check(err error) {
	f.Helper()
	if err != nil {
		f.Error(err)
	}
}

var cancelledTests = []test{
	{"BeforeTheCall", func(f *fixture) {
		ctx, cancel := context.WithCancel(f.ctx)
		cancel()
		a := Account("grace")
		f.refused(f.CreateAccount(ctx, a), context.Canceled)
		_, err := f.Account(f.ctx, a.ID)
		f.refused(err, store.ErrNotFound)
		_, err = f.Account(ctx, f.owner.ID)
		f.refused(err, context.Canceled)
	}},
	{"DuringTheCallAllOrNothing", func(f *fixture) {
		for i := range 60 {
			e := f.begin(Machine{Name: fmt.Sprint(i)}, f.token)
			ctx, cancel := context.WithTimeout(f.ctx, time.Duration(i)*20*time.Microsecond)
			_, err := f.Activate(ctx, proof(e))
			cancel()
			if err != nil {
				f.refused(err, context.DeadlineExceeded)
			}
			_, missing := f.Device(f.ctx, e.DeviceID)
			switch state := f.state(e); state {
			case store.Active:
				f.must(missing)
			case store.Pending:
				f.refused(missing, store.ErrNotFound)
				if err == nil {
					f.Fatal("the activation was acknowledged, but not stored")
				}
			default:
				f.Fatalf("state %q", state)
			}
		}
		n, err := f.CountDevices(f.ctx, f.owner.ID)
		f.must(err)
		equal(f, "uses", f.uses(f.token), n)
	}},
}

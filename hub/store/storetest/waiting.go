package storetest

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"gangway/hub/store"
)

var waitingTests = []test{
	{"OneRowForAnOwnerAndAnEK", oneRowForAnOwnerAndAnEK},
	{"ApprovalAnswersWhatWasAsked", approvalAnswersWhatWasAsked},
	{"NoRequestUndoesADecision", noRequestUndoesADecision},
	{"DecisionAboutWhatHasChanged", decisionAboutWhatHasChanged},
	{"DecisionAboutOtherEvidence", decisionAboutOtherEvidence},
	{"WaitingPages", waitingPages},
	{"OnlyTheOwnerSeesItsWaitingDevices", onlyTheOwnerSeesItsWaitingDevices},
	{"WaitingExpires", waitingExpires},
	{"WaitingDevicesAreBounded", roomIsBounded},
	{"DeletionEndsTheApproval", deletedDeviceIsNoLongerApproved},
	{"Policies", policies},
	{"SwappedPolicies", swappedPolicies},
	{"EKLists", ekLists},
	{"EKListPages", ekListPages},
}

// waiting returns the machine as a waiting device, which has waited since Epoch and expires a week
// after Epoch.
func (m Machine) waiting(t store.JoinToken, codes ...string) store.WaitingDevice {
	e := m.Enrolment(t.Owner, t.ID)
	return store.WaitingDevice{
		Owner: t.Owner, EK: e.EK, DeviceID: e.DeviceID, TokenID: t.ID, State: store.Undecided, Codes: codes,
		RequestHash: e.RequestHash, Request: e.Request, Verdict: e.Verdict,
		Manufacturer: e.Manufacturer, Model: e.Model, Firmware: e.Firmware, ProdModel: e.ProdModel, ProdSerial: e.ProdSerial, KeyAlgorithm: e.KeyAlgorithm,
		Addr: "192.0.2.7:51000", Since: Epoch, LastSeen: Epoch, Expires: Epoch.Add(week),
	}
}

const week = 7 * 24 * time.Hour

func (f *fixture) wait(w store.WaitingDevice) store.WaitingDevice {
	f.Helper()
	got, err := f.PutWaiting(f.ctx, w, 100)
	f.must(err)
	return got
}

func (f *fixture) decide(w store.WaitingDevice, approve bool) store.WaitingDevice {
	f.Helper()
	got, err := f.Decide(f.ctx, w.Owner, w.DeviceID, store.Decision{Approve: approve, By: "anne", Codes: w.Codes, At: Epoch.Add(time.Hour), Expires: Epoch.Add(2 * week)})
	f.must(err)
	return got
}

func cut(w store.WaitingDevice) store.WaitingDevice {
	w.Since, w.LastSeen, w.Expires = micros(w.Since), micros(w.LastSeen), micros(w.Expires)
	return w
}

func micros(t time.Time) time.Time { return t.Truncate(time.Microsecond) }

func oneRowForAnOwnerAndAnEK(f *fixture) {
	m := Machine{Name: "raft"}
	first := f.wait(m.waiting(f.token, "ek-certificate-none"))
	equal(f, "first", cut(first), cut(m.waiting(f.token, "ek-certificate-none")))
	again := m.waiting(f.token, "ek-chain-untrusted")
	again.LastSeen, again.Since, again.Expires = Epoch.Add(time.Hour), Epoch.Add(time.Hour), Epoch.Add(time.Hour+week)
	again.ProdSerial = "renamed"
	got := f.wait(again)
	equal(f, "since", got.Since, micros(Epoch))
	equal(f, "serial", got.ProdSerial, "renamed")
	list, err := f.WaitingDevices(f.ctx, f.owner.ID, Epoch, 0)
	f.must(err)
	if len(list) != 1 || list[0].Request != nil {
		f.Fatalf("the list has %d waiting devices, the first with a request of %d bytes; want 1 device without its request", len(list), len(list[0].Request))
	}
	stored, err := f.WaitingByEK(f.ctx, f.owner.ID, got.EK, Epoch)
	f.must(err)
	equal(f, "stored", stored, got)
}

func approvalAnswersWhatWasAsked(f *fixture) {
	m := Machine{Name: "raft"}
	w := f.decide(f.wait(m.waiting(f.token, "ek-certificate-none")), true)
	equal(f, "state", w.State, store.Approved)
	equal(f, "by", w.By, "anne")
	if !w.Approves([]string{"ek-certificate-none"}) || w.Approves([]string{"ek-certificate-none", "policy"}) || w.Approves(nil) {
		f.Fatal("the approval must cover exactly the questions that were asked")
	}
	// If a later request leaves another question open, the owner must decide again. The first
	// question stays answered.
	more := f.wait(m.waiting(f.token, "policy"))
	equal(f, "state", more.State, store.Undecided)
	if !more.Approves([]string{"ek-certificate-none"}) {
		f.Fatal("a request raised another question, and the owner's approval of the first question is lost")
	}
	both := f.decide(more, true)
	equal(f, "answered", both.Answered, []string{"ek-certificate-none", "policy"})
	// An approved waiting device does not expire, and WaitingDevices does not list it.
	kept, err := f.WaitingByID(f.ctx, f.owner.ID, w.DeviceID, Epoch.Add(1000*week))
	f.must(err)
	equal(f, "kept", kept.State, store.Approved)
	list, err := f.WaitingDevices(f.ctx, f.owner.ID, Epoch, 0)
	f.must(err)
	equal(f, "list", len(list), 0)
}

func noRequestUndoesADecision(f *fixture) {
	m := Machine{Name: "raft"}
	denied := f.decide(f.wait(m.waiting(f.token, "policy")), false)
	again := f.wait(m.waiting(f.token, "ek-certificate-none"))
	equal(f, "state", again.State, store.Denied)
	equal(f, "expires", again.Expires, denied.Expires)
	// The owner may change the decision.
	equal(f, "state", f.decide(again, true).State, store.Approved)
}

func decisionAboutWhatHasChanged(f *fixture) {
	m := Machine{Name: "raft"}
	seen := f.wait(m.waiting(f.token, "policy"))
	f.wait(m.waiting(f.token, "ek-certificate-none"))
	_, err := f.Decide(f.ctx, seen.Owner, seen.DeviceID, store.Decision{Approve: true, Codes: seen.Codes, At: Epoch})
	f.refused(err, store.ErrChanged)
	w, err := f.WaitingByEK(f.ctx, seen.Owner, seen.EK, Epoch)
	f.must(err)
	equal(f, "state", w.State, store.Undecided)
}

// The digest of a waiting device covers every property on which a person bases a decision, so if an
// attacker changes one after the owner saw the device, the decision fails. It does not cover the
// time and the address of the last request.
func decisionAboutOtherEvidence(f *fixture) {
	m := Machine{Name: "raft"}
	decide := func(seen store.WaitingDevice) error {
		digest := seen.Digest()
		_, err := f.Decide(f.ctx, seen.Owner, seen.DeviceID, store.Decision{Approve: true, Seen: &digest, At: Epoch})
		return err
	}
	for i, change := range []func(w *store.WaitingDevice){
		func(w *store.WaitingDevice) { w.RequestHash[0]++ }, func(w *store.WaitingDevice) { w.Verdict = []byte(`{"x":1}`) },
		func(w *store.WaitingDevice) { w.Codes = []string{"ek-certificate-none"} }, func(w *store.WaitingDevice) { w.TokenID += "0" },
		func(w *store.WaitingDevice) { w.Manufacturer += "0" }, func(w *store.WaitingDevice) { w.Model += "0" }, func(w *store.WaitingDevice) { w.Firmware += "0" },
		func(w *store.WaitingDevice) { w.ProdModel += "0" }, func(w *store.WaitingDevice) { w.ProdSerial += "0" }, func(w *store.WaitingDevice) { w.KeyAlgorithm += "0" },
	} {
		seen := f.wait(m.waiting(f.token, "policy"))
		next := m.waiting(f.token, "policy")
		change(&next)
		f.wait(next)
		if err := decide(seen); err != store.ErrChanged {
			f.Errorf("change %d: %v", i, err)
		}
	}
	seen := f.wait(m.waiting(f.token, "policy"))
	again := m.waiting(f.token, "policy")
	again.Addr, again.LastSeen, again.Expires = "192.0.2.8:1", Epoch.Add(time.Hour), Epoch.Add(time.Hour+week)
	f.wait(again)
	f.must(decide(seen))
	f.refused(decide(seen), store.ErrChanged) // the first decision has changed the waiting device
}

func waitingPages(f *fixture) {
	var want []string
	for i := range 7 {
		w := Machine{Name: fmt.Sprint("raft", i)}.waiting(f.token, "policy")
		w.Since = Epoch.Add(time.Duration(i/2) * time.Minute) // some waiting devices have the same time
		w = f.wait(w)
		want = append([]string{w.DeviceID}, want...)
	}
	denied := f.decide(f.wait(Machine{Name: "barge"}.waiting(f.token, "policy")), false)
	f.decide(f.wait(Machine{Name: "ship"}.waiting(f.token, "policy")), true)
	read := func(filter store.WaitingFilter) (ids []string) {
		f.Helper()
		filter.Now = Epoch
		for {
			page, err := f.WaitingPage(f.ctx, filter)
			f.must(err)
			for _, w := range page.Rows {
				ids = append(ids, w.DeviceID)
				if w.Request != nil {
					f.Errorf("%s has its request", w.DeviceID)
				}
			}
			if filter.After = page.Next; page.Next == "" {
				return ids
			}
			equal(f, "rows", len(page.Rows), filter.Limit)
		}
	}
	for _, limit := range []int{1, 2, 7, 100} {
		equal(f, fmt.Sprint("pages of ", limit), read(store.WaitingFilter{Owner: f.owner.ID, State: store.Undecided, Limit: limit}), want)
	}
	equal(f, "denied", read(store.WaitingFilter{Owner: f.owner.ID, State: store.Denied, Limit: 5}), []string{denied.DeviceID})
	equal(f, "the other's", len(read(store.WaitingFilter{Owner: f.other.ID, State: store.Undecided})), 0)
	equal(f, "approved", len(read(store.WaitingFilter{Owner: f.owner.ID, State: store.Approved})), 0)
	for _, bad := range []string{"x", "1", "1-", "-", "1-2-"} {
		_, err := f.WaitingPage(f.ctx, store.WaitingFilter{Owner: f.owner.ID, State: store.Undecided, After: bad, Now: Epoch})
		if wrong := (*store.ErrBadSearch)(nil); !errors.As(err, &wrong) {
			f.Errorf("%q: %v", bad, err)
		}
	}
}

func onlyTheOwnerSeesItsWaitingDevices(f *fixture) {
	m := Machine{Name: "raft"}
	w := f.wait(m.waiting(f.token, "policy"))
	_, err := f.WaitingByEK(f.ctx, f.other.ID, w.EK, Epoch)
	f.refused(err, store.ErrNotFound)
	_, err = f.WaitingByID(f.ctx, f.other.ID, w.DeviceID, Epoch)
	f.refused(err, store.ErrNotFound)
	_, err = f.Decide(f.ctx, f.other.ID, w.DeviceID, store.Decision{Approve: true, At: Epoch})
	f.refused(err, store.ErrNotFound)
	list, err := f.WaitingDevices(f.ctx, f.other.ID, Epoch, 0)
	f.must(err)
	equal(f, "the other's list", len(list), 0)
}

func waitingExpires(f *fixture) {
	w := f.wait(Machine{Name: "raft"}.waiting(f.token, "policy"))
	kept := f.decide(f.wait(Machine{Name: "barge"}.waiting(f.token, "policy")), true)
	late := Epoch.Add(week)
	_, err := f.WaitingByEK(f.ctx, w.Owner, w.EK, late)
	f.refused(err, store.ErrNotFound)
	_, err = f.Decide(f.ctx, w.Owner, w.DeviceID, store.Decision{Approve: true, At: late})
	f.refused(err, store.ErrNotFound)
	n, err := f.ExpireWaitingDevices(f.ctx, late, 100)
	f.must(err)
	equal(f, "expired", n, 1)
	_, err = f.WaitingByEK(f.ctx, kept.Owner, kept.EK, late)
	f.must(err)
}

func roomIsBounded(f *fixture) {
	for i := range 3 {
		_, err := f.PutWaiting(f.ctx, Machine{Name: fmt.Sprint("raft ", i)}.waiting(f.token, "policy"), 3)
		f.must(err)
	}
	_, err := f.PutWaiting(f.ctx, Machine{Name: "one more"}.waiting(f.token, "policy"), 3)
	f.refused(err, store.ErrFull)
	// The limit is reached. A device that is already waiting may still retry, and a device may wait
	// for another owner, who has a separate limit.
	_, err = f.PutWaiting(f.ctx, Machine{Name: "raft 0"}.waiting(f.token, "policy"), 3)
	f.must(err)
	_, err = f.PutWaiting(f.ctx, Machine{Name: "one more"}.waiting(JoinToken(f.other.ID, "theirs", 0), "policy"), 3)
	f.must(err)
}

func deletedDeviceIsNoLongerApproved(f *fixture) {
	m := Machine{Name: "raft"}
	w := f.decide(f.wait(m.waiting(f.token, "policy")), true)
	d := f.onboard(m, f.token)
	f.must(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch.Add(time.Hour)))
	_, err := f.WaitingByEK(f.ctx, f.owner.ID, w.EK, Epoch)
	f.refused(err, store.ErrNotFound)
}

func policies(f *fixture) {
	_, err := f.Policy(f.ctx, f.owner.ID)
	f.refused(err, store.ErrNotFound)
	before := f.version()
	p := store.Policy{Owner: f.owner.ID, Text: "version: 1\n", Updated: micros(Epoch)}
	f.must(f.PutPolicy(f.ctx, p))
	got, err := f.Policy(f.ctx, f.owner.ID)
	f.must(err)
	equal(f, "policy", got, p)
	if f.version() <= before {
		f.Fatal("the config version did not increase")
	}
	_, err = f.Policy(f.ctx, store.HubWide)
	f.refused(err, store.ErrNotFound)
	before = f.version()
	f.must(f.PutPolicy(f.ctx, store.Policy{Owner: f.owner.ID}))
	_, err = f.Policy(f.ctx, f.owner.ID)
	f.refused(err, store.ErrNotFound)
	if f.version() <= before {
		f.Fatal("the config version did not increase")
	}
}

// If somebody else has changed the policy since the caller read it, SwapPolicy must not overwrite
// that change.
func swappedPolicies(f *fixture) {
	p := store.Policy{Owner: f.owner.ID, Text: "version: 1\n", Updated: micros(Epoch)}
	f.must(f.SwapPolicy(f.ctx, p, ""))
	next := store.Policy{Owner: f.owner.ID, Text: "version: 1 # later\n", Updated: micros(Epoch)}
	before := f.version()
	f.refused(f.SwapPolicy(f.ctx, next, ""), store.ErrChanged)
	f.refused(f.SwapPolicy(f.ctx, next, "version: 1"), store.ErrChanged)
	equal(f, "config version", f.version(), before)
	f.must(f.SwapPolicy(f.ctx, next, p.Text))
	got, err := f.Policy(f.ctx, f.owner.ID)
	f.must(err)
	equal(f, "policy", got, next)
	if f.version() <= before {
		f.Fatal("the config version did not increase")
	}
	f.must(f.SwapPolicy(f.ctx, store.Policy{Owner: f.owner.ID}, next.Text))
	f.refused(f.SwapPolicy(f.ctx, p, next.Text), store.ErrChanged)
	f.must(f.SwapPolicy(f.ctx, p, ""))
}

func (f *fixture) version() int64 {
	f.Helper()
	v, err := f.ConfigVersion(context.Background())
	f.must(err)
	return v
}

func ekLists(f *fixture) {
	key, other := Hash("ek raft"), Hash("ek barge")
	serial := []byte{0x12, 0x34}
	kept := func(owner string, want bool) {
		f.Helper()
		got, err := f.HasEKList(f.ctx, owner)
		f.must(err)
		equal(f, "the owner has an EK list", got, want)
	}
	find := func(owner string, ek store.Hash, cert []byte, want store.ListedEK) {
		f.Helper()
		got, err := f.FindEK(f.ctx, owner, ek, cert)
		f.must(err)
		equal(f, "line", got, want)
	}
	none := func(owner string, ek store.Hash, cert []byte) {
		f.Helper()
		_, err := f.FindEK(f.ctx, owner, ek, cert)
		f.refused(err, store.ErrNotFound)
	}
	kept(f.owner.ID, false)
	none(f.owner.ID, key, serial)
	before := f.version()
	list := []store.ListedEK{{Key: &key, Note: "pallet 7"}, {Cert: serial, Note: "pallet 8", CertificateRequired: true}}
	f.must(f.PutEKList(f.ctx, f.owner.ID, list))
	if f.version() <= before {
		f.Fatal("the config version did not increase")
	}
	kept(f.owner.ID, true)
	find(f.owner.ID, key, nil, list[0])
	find(f.owner.ID, key, serial, list[0])
	find(f.owner.ID, other, serial, list[1])
	none(f.owner.ID, other, []byte{0x12})
	none(f.owner.ID, other, nil)
	kept(f.other.ID, false)
	none(f.other.ID, key, serial)
	// A serial number does not match a line with a hash, even if its bytes are equal to the hash.
	none(f.owner.ID, other, key[:])
	got, err := f.EKList(f.ctx, f.owner.ID)
	f.must(err)
	equal(f, "list", len(got), 2)
	for _, l := range got {
		if l.CertificateRequired != (l.Key == nil) {
			f.Fatalf("%+v", l)
		}
	}
	f.must(f.PutEKList(f.ctx, f.owner.ID, nil))
	kept(f.owner.ID, false)
	none(f.owner.ID, key, serial)
}

// EKListPage finds the lines of an EK list by the beginning of the hash or serial number, in pages.
// ChangeEKList changes one line.
func ekListPages(f *fixture) {
	line := func(hash string, serial ...byte) store.ListedEK {
		if hash == "" {
			return store.ListedEK{Cert: serial}
		}
		var h store.Hash
		digits, err := hex.DecodeString(hash)
		f.must(err)
		copy(h[:], digits)
		return store.ListedEK{Key: &h}
	}
	name := func(l store.ListedEK) string {
		if l.Key != nil {
			return hex.EncodeToString(l.Key[:2])
		}
		return "s" + hex.EncodeToString(l.Cert)
	}
	for _, l := range []store.ListedEK{line("ab12"), line("ab34"), line("ac00"), line("ffff"), line("", 0xab, 0x12), line("", 0xff), line("", 0xff, 0xff)} {
		before := f.version()
		f.must(f.ChangeEKList(f.ctx, f.owner.ID, l, false, 7))
		if f.version() <= before {
			f.Fatal("the config version did not increase")
		}
	}
	f.must(f.ChangeEKList(f.ctx, f.other.ID, line("ab99"), false, 7))
	for _, c := range []struct{ prefix, want string }{
		{"", "ab12 ab34 ac00 ffff sab12 sff sffff"}, {"a", "ab12 ab34 ac00 sab12"}, {"ab", "ab12 ab34 sab12"}, {"ab3", "ab34"},
		{"f", "ffff sff sffff"}, {"ffff", "ffff sffff"}, {"fffff", ""}, {"0", ""}, {"x", ""}, {"AB", "ab12 ab34 sab12"},
	} {
		for _, limit := range []int{1, 2, 3, 100} {
			var got []string
			for after, pages := "", 0; pages == 0 || after != "" && pages < 9; pages++ {
				lines, next, err := f.EKListPage(f.ctx, f.owner.ID, c.prefix, after, limit)
				f.must(err)
				if len(lines) > limit {
					f.Fatalf("%d lines", len(lines))
				}
				for _, l := range lines {
					got = append(got, name(l))
				}
				after = next
			}
			equal(f, "lines that begin with "+c.prefix, strings.Join(got, " "), c.want)
		}
	}
	count := func(limit, want int) {
		f.Helper()
		n, err := f.CountEKList(f.ctx, f.owner.ID, limit)
		f.must(err)
		equal(f, "count", n, want)
	}
	count(5, 5)
	count(100, 7)
	before := f.version()
	f.refused(f.ChangeEKList(f.ctx, f.owner.ID, line("1111"), false, 7), store.ErrFull)
	f.refused(f.ChangeEKList(f.ctx, f.owner.ID, line("1111"), true, 7), store.ErrNotFound)
	equal(f, "config version", f.version(), before)
	count(100, 7)
	noted := line("ab12")
	noted.Note, noted.CertificateRequired = "pallet 9", true
	f.must(f.ChangeEKList(f.ctx, f.owner.ID, noted, false, 7))
	lines, _, err := f.EKListPage(f.ctx, f.owner.ID, "ab12", "", 1)
	f.must(err)
	equal(f, "note", lines[0].Note, "pallet 9")
	f.must(f.ChangeEKList(f.ctx, f.owner.ID, noted, true, 7))
	count(100, 6)
}

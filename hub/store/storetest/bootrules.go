package storetest

import (
	"fmt"
	"time"

	"gangway/hub/store"
)

var bootRuleTests = []test{
	{"ManifestCountsWhileItsKeyIsThere", manifestCountsWithItsKey},
	{"BootRulesAreBounded", bootRulesAreBounded},
	{"BootRulesOfAnotherOwnerAreNotSeen", bootRulesOfAnother},
	{"ChangedRulesMakeBootsStale", changedRulesMakeStale},
	{"CohortsAreCounted", cohortsAreCounted},
}

func manifestKey(owner string, n byte) store.ManifestKey {
	return store.ManifestKey{Owner: owner, ID: store.Hash{n}, Name: fmt.Sprint("key ", n), DER: []byte{n}, Added: Epoch}
}

func (f *fixture) ruleEvent(owner string) store.Event {
	return store.Event{Time: Epoch, Kind: "boot.rules", Owner: owner, Message: "changed"}
}

func manifestCountsWithItsKey(f *fixture) {
	owner := f.owner.ID
	m := store.Manifest{Owner: owner, ID: store.Hash{9}, Key: store.Hash{1}, Text: []byte("text"), Signed: []byte("signed"), Added: Epoch}
	f.refused(f.PutManifest(f.ctx, m, f.ruleEvent(owner)), store.ErrNotFound)
	f.must(f.PutManifestKey(f.ctx, manifestKey(owner, 1), f.ruleEvent(owner)))
	f.refused(f.PutManifestKey(f.ctx, manifestKey(owner, 1), f.ruleEvent(owner)), store.ErrExists)
	f.must(f.PutManifest(f.ctx, m, f.ruleEvent(owner)))
	f.refused(f.PutManifest(f.ctx, m, f.ruleEvent(owner)), store.ErrExists)
	counts := func(want bool) {
		f.Helper()
		list, err := f.Manifests(f.ctx, owner)
		f.must(err)
		m.Counts = want
		equal(f, "manifests", list, []store.Manifest{m})
	}
	counts(true)
	// The owner deletes the manifest's key. The manifest then no longer counts, even though another
	// owner has the same key.
	f.must(f.PutManifestKey(f.ctx, manifestKey(f.other.ID, 1), f.ruleEvent(f.other.ID)))
	f.must(f.DeleteManifestKey(f.ctx, owner, store.Hash{1}, f.ruleEvent(owner)))
	counts(false)
	f.refused(f.DeleteManifestKey(f.ctx, owner, store.Hash{1}, f.ruleEvent(owner)), store.ErrNotFound)
	f.must(f.PutManifestKey(f.ctx, manifestKey(owner, 1), f.ruleEvent(owner)))
	counts(true)
	f.must(f.DeleteManifest(f.ctx, owner, m.ID, f.ruleEvent(owner)))
	f.refused(f.DeleteManifest(f.ctx, owner, m.ID, f.ruleEvent(owner)), store.ErrNotFound)
}

func bootRulesAreBounded(f *fixture) {
	owner := f.owner.ID
	for n := range store.MaxManifestKeys {
		f.must(f.PutManifestKey(f.ctx, manifestKey(owner, byte(n)), f.ruleEvent(owner)))
	}
	f.refused(f.PutManifestKey(f.ctx, manifestKey(owner, 200), f.ruleEvent(owner)), store.ErrFull)
	for n := range store.MaxManifests + 1 {
		err := f.PutManifest(f.ctx, store.Manifest{Owner: owner, ID: store.Hash{byte(n)}, Key: store.Hash{1}, Added: Epoch}, f.ruleEvent(owner))
		if n == store.MaxManifests {
			f.refused(err, store.ErrFull)
			break
		}
		f.must(err)
	}
}

func bootRulesOfAnother(f *fixture) {
	mine, theirs := f.owner.ID, f.other.ID
	d := store.BootDecision{Owner: mine, Part: "firmware", Value: "v", Model: "M", Made: Epoch, MadeBy: "ada", Words: "accepted", Devices: 3}
	id, err := f.PutBootDecision(f.ctx, d, f.ruleEvent(mine))
	f.must(err)
	d.ID = id
	_, err = f.PutBootDecision(f.ctx, d, f.ruleEvent(mine))
	f.refused(err, store.ErrExists)
	version := d
	version.Firmware = "1.2"
	version.ID, err = f.PutBootDecision(f.ctx, version, f.ruleEvent(mine))
	f.must(err)
	all, err := f.BootDecisions(f.ctx, mine)
	f.must(err)
	equal(f, "decisions", all, []store.BootDecision{version, d})
	f.must(f.DeleteBootDecision(f.ctx, mine, version.ID, f.ruleEvent(mine)))
	list, err := f.BootDecisionsFor(f.ctx, mine, []string{"v", "w"})
	f.must(err)
	equal(f, "decisions", list, []store.BootDecision{d})
	for _, of := range [][]string{{"w"}, {}} {
		list, err = f.BootDecisionsFor(f.ctx, mine, of)
		f.must(err)
		equal(f, "decisions", len(list), 0)
	}
	list, err = f.BootDecisionsFor(f.ctx, theirs, []string{"v"})
	f.must(err)
	equal(f, "the other's decisions", len(list), 0)
	f.refused(f.DeleteBootDecision(f.ctx, theirs, id, f.ruleEvent(theirs)), store.ErrNotFound)
	f.must(f.DeleteBootDecision(f.ctx, mine, id, f.ruleEvent(mine)))
	f.must(f.PutManifestKey(f.ctx, manifestKey(mine, 1), f.ruleEvent(mine)))
	f.refused(f.PutManifest(f.ctx, store.Manifest{Owner: theirs, ID: store.Hash{1}, Key: store.Hash{1}, Added: Epoch}, f.ruleEvent(theirs)), store.ErrNotFound)
}

// judged returns a boot whose firmware has the given value.
func judged(device string, n int, model, value string, bad bool, version int64) store.Boot {
	b := booted(device, n)
	b.Verdict = []byte(`{"parts":[]}`)
	b.Judged = &store.BootJudged{Version: version, Model: model, Token: "t", Firmware: "1.2", States: []byte(`{"keys":"known"}`), Parts: []store.BootPart{
		{Part: "firmware-code", Value: value, Bad: bad, Words: "it changed", Cause: "firmware-update"}, {Part: "firmware", Value: value, Bad: bad}}}
	return b
}

func changedRulesMakeStale(f *fixture) {
	owner := f.owner.ID
	d := f.onboard(Machine{Name: "raft"}, f.token)
	stale := func(of string, want int) {
		f.Helper()
		ids, err := f.StaleBoots(f.ctx, of, 10)
		f.must(err)
		equal(f, "stale boots", len(ids), want)
	}
	_, err := f.JudgedBoot(f.ctx, d.ID)
	f.refused(err, store.ErrNotFound)
	first := judged(d.ID, 1, "M", "v", false, 0)
	first.Judged.Ran = []byte("ran")
	_, err = f.PutBoot(f.ctx, first, []byte("first"))
	f.must(err)
	stale(owner, 0)
	f.must(f.PutManifestKey(f.ctx, manifestKey(owner, 1), f.ruleEvent(owner)))
	version, err := f.BootRulesVersion(f.ctx, owner)
	f.must(err)
	stale(owner, 1)
	stale("", 1)
	stale(f.other.ID, 0)
	latest, err := f.LatestBoot(f.ctx, d.ID)
	f.must(err)
	equal(f, "verdict", string(latest.Verdict), `{"parts":[]}`)
	again := judged(d.ID, 1, "M", "v", true, version)
	again.Number, again.State = latest.Number, "changed"
	f.must(f.PutBootReference(f.ctx, store.BootReference{Device: d.ID, Text: []byte("first"), Replaces: []byte("first")}, again))
	stale("", 0)
	j, err := f.JudgedBoot(f.ctx, d.ID)
	f.must(err)
	equal(f, "judged", j, store.BootJudged{Version: version, Model: "M", Token: "t", Firmware: "1.2", Ran: []byte("ran"), States: []byte(`{"keys":"known"}`)})
}

func cohortsAreCounted(f *fixture) {
	owner := f.owner.ID
	var ids []string
	for i := range 5 {
		d := f.onboard(Machine{Name: fmt.Sprint("raft ", i)}, f.token)
		ids = append(ids, d.ID)
		value, bad := "old", false
		if i > 2 {
			value, bad = "new", true
		}
		_, err := f.PutBoot(f.ctx, judged(d.ID, i, "M", value, bad, 0), []byte("r"))
		f.must(err)
	}
	new := store.BootCohort{Part: "firmware-code", Model: "M", Value: "new", Devices: 2, Bad: 2, Of: 5, First: Epoch.Add(3 * time.Hour), Words: "it changed", Cause: "firmware-update", Firmware: "1.2"}
	list, err := f.BadBootCohorts(f.ctx, owner, false, 10)
	f.must(err)
	equal(f, "bad cohorts", list, []store.BootCohort{new})
	list, err = f.BadBootCohorts(f.ctx, f.other.ID, true, 10)
	f.must(err)
	equal(f, "the other's cohorts", len(list), 0)
	for _, model := range []string{"M", ""} {
		list, err = f.BootCohorts(f.ctx, owner, "firmware-code", model, 10)
		f.must(err)
		equal(f, "cohorts", len(list), 2)
		equal(f, "the largest", list[0].Value, "old")
		one, err := f.BootCohortOf(f.ctx, owner, store.BootMembers{Part: "firmware-code", Model: model, Value: "old"})
		f.must(err)
		equal(f, "devices", one.Devices, 3)
	}
	list, err = f.RareBootCohorts(f.ctx, owner, "firmware-code", 1)
	f.must(err)
	equal(f, "the rarest", list, []store.BootCohort{new})
	members := func(q store.BootMembers, want int) {
		f.Helper()
		q.Part, q.Value = "firmware-code", "new"
		list, err := f.BootMembers(f.ctx, owner, q)
		f.must(err)
		equal(f, "members", len(list), want)
		theirs, err := f.BootMembers(f.ctx, f.other.ID, q)
		f.must(err)
		equal(f, "the other's members", len(theirs), 0)
	}
	members(store.BootMembers{}, 2)
	members(store.BootMembers{Model: "M"}, 2)
	members(store.BootMembers{Model: "N"}, 0)
	members(store.BootMembers{Token: "t"}, 2)
	members(store.BootMembers{Token: "u"}, 0)
	members(store.BootMembers{Model: "M", Token: "t", Limit: 1}, 1)
	members(store.BootMembers{Model: "M", Token: "t", Firmware: "1.2"}, 2)
	members(store.BootMembers{Firmware: "1.2"}, 2)
	members(store.BootMembers{Firmware: "1.3"}, 0)
	versions := func(want ...store.BootVersion) {
		f.Helper()
		for _, model := range []string{"M", ""} {
			q := store.BootMembers{Part: "firmware-code", Value: "new", Model: model, Limit: 10}
			list, err := f.BootVersions(f.ctx, owner, q)
			f.must(err)
			equal(f, "versions", list, append([]store.BootVersion(nil), want...))
			for _, v := range want {
				q.Firmware = v.Firmware
				one, err := f.BootCohortOf(f.ctx, owner, q)
				f.must(err)
				equal(f, "devices with a version", []int{one.Devices, one.Bad}, []int{v.Devices, v.Bad})
			}
		}
		list, err := f.BootVersions(f.ctx, f.other.ID, store.BootMembers{Part: "firmware-code", Value: "new"})
		f.must(err)
		equal(f, "the other's versions", len(list), 0)
	}
	versions(store.BootVersion{Firmware: "1.2", Devices: 2, Bad: 2})
	// A device reports another firmware version, but the measured value of its firmware code stays
	// the same.
	changed := judged(ids[4], 8, "M", "new", true, 0)
	changed.Judged.Firmware = "1.3"
	_, err = f.PutBoot(f.ctx, changed, []byte("r"))
	f.must(err)
	versions(store.BootVersion{Firmware: "1.2", Devices: 1, Bad: 1}, store.BootVersion{Firmware: "1.3", Devices: 1, Bad: 1})
	members(store.BootMembers{Firmware: "1.3"}, 1)
	_, err = f.PutBoot(f.ctx, judged(ids[4], 9, "M", "new", true, 0), []byte("r"))
	f.must(err)
	// The owner accepts the firmware of one device, so it is no longer bad. The cohort (the devices
	// with the same measured value) keeps the time of its first measurement.
	_, err = f.PutBoot(f.ctx, judged(ids[3], 9, "M", "new", false, 0), []byte("r"))
	f.must(err)
	list, err = f.BadBootCohorts(f.ctx, owner, false, 10)
	f.must(err)
	new.Bad = 1
	equal(f, "bad cohorts", list, []store.BootCohort{new})
	// A deleted device leaves its cohorts.
	for _, id := range ids[3:] {
		f.must(f.DeleteDevice(f.ctx, owner, id, Epoch))
	}
	list, err = f.BootCohorts(f.ctx, owner, "firmware-code", "M", 10)
	f.must(err)
	equal(f, "cohorts", len(list), 1)
	equal(f, "devices of the model", list[0].Of, 3)
	versions()
}

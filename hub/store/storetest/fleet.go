package storetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gangway/hub/store"
	"gangway/wire/trail"

	"golang.org/x/sync/errgroup"
)

var fleetTests = []test{
	{"FoundByEachCondition", foundByEachCondition},
	{"FoundAfterEachChange", foundAfterEachChange},
	{"MetaIsFoundAsWritten", metaIsFoundAsWritten},
	{"SortedInPages", sortedInPages},
	{"StatesAreCounted", statesAreCounted},
	{"QuietDevices", quietDevices},
	{"Facets", facets},
	{"Arrivals", arrivals},
	{"AnotherOwnersDevicesAreNeverFound", anotherOwnersDevices},
	{"BadSearches", badSearches},
	{"MoreThanMaxCount", moreThanMaxCount},
}

// search returns the nicks that a search finds on all pages, separated by spaces. It checks that
// CountSearch returns the number of these nicks.
func (f *fixture) search(q store.DeviceSearch) string {
	f.Helper()
	if q.Owner == "" {
		q.Owner = f.owner.ID
	}
	var nicks []string
	for {
		page, err := f.SearchDevices(f.ctx, q)
		f.must(err)
		for _, r := range page.Rows {
			nicks = append(nicks, r.Nick)
		}
		if q.After = page.Next; q.After == "" {
			break
		}
	}
	n, err := f.CountSearch(f.ctx, q)
	f.must(err)
	if n.N != len(nicks) && !n.More {
		f.Errorf("%+v: counted %+v, found %d", q, n, len(nicks))
	}
	return strings.Join(nicks, " ")
}

func is(field store.SearchField, value string) store.DeviceSearch {
	return store.DeviceSearch{Terms: []store.SearchTerm{{Field: field, Value: value}}}
}

func meta(key, value string) store.DeviceSearch {
	return store.DeviceSearch{Terms: []store.SearchTerm{{Field: store.FieldMeta, Key: key, Value: value}}}
}

func said(words ...string) store.DeviceSearch { return store.DeviceSearch{Words: words} }

// join onboards a machine. The function `change` alters the enrolment before BeginEnrolment.
func (f *fixture) join(m Machine, change func(e *store.Enrolment)) store.Device {
	f.Helper()
	e := m.Enrolment(f.owner.ID, f.token.ID)
	change(&e)
	e, err := f.BeginEnrolment(f.ctx, e, Epoch)
	f.must(err)
	d, err := f.activate(e)
	f.must(err)
	return d
}

func foundByEachCondition(f *fixture) {
	second := f.newToken("second", 0)
	raft := f.onboard(Machine{Name: "raft"}, f.token)
	f.onboard(Machine{Name: "buoy"}, second)
	f.join(Machine{Name: "crane"}, func(e *store.Enrolment) {
		e.ProdModel, e.Manufacturer, e.Firmware, e.ProdSerial = "NUC 7 Gang", "AMD", "3.1", "A-77_b"
	})
	f.create(plain("barge", f.owner.ID, "Pram Number-Nine"))
	f.must(f.RenameDevice(f.ctx, f.owner.ID, raft.ID, "raft-on-7th"))
	for _, c := range []struct {
		q    store.DeviceSearch
		want string
	}{
		{store.DeviceSearch{}, "A-77_b Pram Number-Nine SN-buoy raft-on-7th"},
		{is(store.FieldModel, "gangplank 4"), "SN-buoy raft-on-7th"},
		{is(store.FieldModel, "Gangplank"), ""},
		{is(store.FieldModel, ""), "Pram Number-Nine"},
		{is(store.FieldMaker, "amd"), "A-77_b"},
		{is(store.FieldFirmware, "7.85"), "SN-buoy raft-on-7th"},
		{is(store.FieldToken, second.ID), "SN-buoy"},
		{is(store.FieldSerial, "sn-raft"), "raft-on-7th"},
		{is(store.FieldSerial, "sn-raf"), ""},
		{is(store.FieldSerial, "raft"), ""},
		{is(store.FieldID, raft.ID), "raft-on-7th"},
		{is(store.FieldID, strings.ToUpper(raft.ID[:6])), "raft-on-7th"},
		{said("raft"), "raft-on-7th"},
		{said("7"), "A-77_b raft-on-7th"},
		{said("on-7T"), "raft-on-7th"},
		{said("n-7"), ""},
		{said("aft"), ""},
		{said("gang"), "A-77_b SN-buoy raft-on-7th"},
		{said("ifx"), "SN-buoy raft-on-7th"},
		{said("sn"), "SN-buoy raft-on-7th"},
		{said("nine"), "Pram Number-Nine"},
		{said("number", "PRAM"), "Pram Number-Nine"},
		{said(raft.ID[:5]), "raft-on-7th"},
		{said(raft.ID[:3]), ""},
		{said("gang", "ifx", "buoy"), "SN-buoy"},
		{said("gang", "amd", "buoy"), ""},
		{store.DeviceSearch{Words: []string{"sn"}, Terms: is(store.FieldToken, second.ID).Terms}, "SN-buoy"},
		{meta("site", "oslo"), "Pram Number-Nine"},
		{store.DeviceSearch{Words: []string{"nine"}, Terms: meta("site", "oslo").Terms}, "Pram Number-Nine"},
		{store.DeviceSearch{Words: []string{"raft"}, Terms: meta("site", "oslo").Terms}, ""},
	} {
		equal(f, fmt.Sprintf("%+v", c.q), f.search(c.q), c.want)
	}
	page, err := f.SearchDevices(f.ctx, store.DeviceSearch{Owner: f.owner.ID, Words: []string{"raft"}})
	f.must(err)
	want, err := f.Device(f.ctx, raft.ID)
	f.must(err)
	want.UserMeta, want.DeviceMeta = nil, nil
	equal(f, "row", page.Rows, []store.DeviceRow{{Device: want, Boot: store.BootUnmeasured, Rev: -1}})
}

func foundAfterEachChange(f *fixture) {
	d := f.onboard(Machine{Name: "raft"}, f.token)
	f.must(f.PatchUserMeta(f.ctx, f.owner.ID, d.ID, map[string]any{"site": "oslo"}))
	f.must(f.RenameDevice(f.ctx, f.owner.ID, d.ID, "ferry"))
	equal(f, "old nick", f.search(said("sn-raft")), "ferry") // "raft" is still a word of the serial number
	equal(f, "nick", f.search(said("fer")), "ferry")
	equal(f, "meta", f.search(meta("site", "oslo")), "ferry")

	// The machine onboards again with another board: the serial number, model, maker and firmware
	// are different.
	f.join(Machine{Name: "raft", Request: "again"}, func(e *store.Enrolment) {
		e.ProdSerial, e.ProdModel, e.Manufacturer, e.Firmware = "SN-new", "Gangplank 5", "AMD", "8"
	})
	for q, want := range map[string]string{"new": "ferry", "raft": "", "amd": "ferry", "ifx": "", "gangplank": "ferry"} {
		equal(f, q, f.search(said(q)), want)
	}
	equal(f, "model", f.search(is(store.FieldModel, "gangplank 5")), "ferry")
	equal(f, "firmware", f.search(is(store.FieldFirmware, "7.85")), "")

	// A device without an owner belongs to no fleet until an owner claims it.
	nobodys := f.create(plain("nobodys", "", "dinghy"))
	equal(f, "before the claim", f.search(said("dinghy")), "")
	_, err := f.ClaimDevice(f.ctx, nobodys.ID, f.owner.ID, Epoch.Add(time.Hour))
	f.must(err)
	equal(f, "after the claim", f.search(said("dinghy")), "dinghy")
	equal(f, "meta", f.search(meta("site", "oslo")), "dinghy ferry")

	f.must(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch))
	f.must(f.DeleteDevice(f.ctx, f.owner.ID, nobodys.ID, Epoch))
	for _, q := range []store.DeviceSearch{{}, said("ferry"), said("dinghy"), meta("site", "oslo"), is(store.FieldModel, "gangplank 5"), is(store.FieldID, d.ID)} {
		equal(f, fmt.Sprintf("after the deletion: %+v", q), f.search(q), "")
	}
	n, err := f.FleetCounts(f.ctx, f.owner.ID)
	f.must(err)
	equal(f, "total", n.Total, 0)
}

func metaIsFoundAsWritten(f *fixture) {
	d := f.onboard(Machine{Name: "raft"}, f.token)
	finds := func(key, value string, want bool) {
		f.Helper()
		equal(f, key+"="+value, f.search(meta(key, value)) != "", want)
	}
	f.must(f.PatchUserMeta(f.ctx, f.owner.ID, d.ID, map[string]any{
		"site": "Oslo", "n": 7, "on": true, "net": map[string]any{"eth0": map[string]any{"mac": "aa:bb"}, "v": 1.50}, "list": []any{"one"}, "none": nil,
		"long": strings.Repeat("x", 300),
	}))
	for key, value := range map[string]string{"site": "oSLO", "n": "7", "on": "true", "net.eth0.mac": "AA:bb", "net.v": "1.5"} {
		finds(key, value, true)
		finds(key, value+"x", false)
		finds("x"+key, value, false)
	}
	finds("list", "one", false)
	finds("Site", "oslo", false) // case matters in names
	// If both the user-meta and the device-meta have the same member, a search finds the device
	// until neither has it any more.
	f.must(f.patchDeviceMeta(d.ID, map[string]any{"site": "oslo", "uptime": 12345, "up": "1 day", "ok": false}))
	finds("up", "1 day", true)
	finds("ok", "false", true)
	finds("uptime", "12345", false) // numbers in the device-meta are not indexed
	f.must(f.PatchUserMeta(f.ctx, f.owner.ID, d.ID, map[string]any{"site": "bergen"}))
	finds("site", "oslo", true)
	finds("site", "bergen", true)
	f.must(f.patchDeviceMeta(d.ID, map[string]any{"site": nil}))
	finds("site", "oslo", false)
	f.must(f.ReplaceUserMeta(f.ctx, f.owner.ID, d.ID, map[string]any{"site": "bodø"}))
	finds("site", "bergen", false)
	finds("n", "7", false)
	finds("site", "bodø", true)
	f.must(f.ReplaceDeviceMeta(f.ctx, d.ID, map[string]any{"up": "2 days"}))
	finds("up", "1 day", false)
	finds("up", "2 days", true)
	// Only the first 64 members of the metadata are indexed. If one of these is deleted, the 65th
	// is indexed too.
	many := map[string]any{}
	for i := range 100 {
		many[fmt.Sprintf("key%03d", i)] = "v"
	}
	f.must(f.ReplaceUserMeta(f.ctx, f.owner.ID, d.ID, many))
	finds("key000", "v", true)
	finds("key063", "v", true)
	finds("key064", "v", false)
	f.must(f.PatchUserMeta(f.ctx, f.owner.ID, d.ID, map[string]any{"key000": nil}))
	finds("key000", "v", false)
	finds("key064", "v", true)
	f.must(f.ReplaceUserMeta(f.ctx, f.owner.ID, d.ID, nil))
	finds("key064", "v", false)
}

func sortedInPages(f *fixture) {
	for i, model := range []string{"b", "A", "c", "a", "B", "C", "a"} {
		name := fmt.Sprint("d", (i*5)%7)
		e := Machine{Name: name}.Enrolment(f.owner.ID, f.token.ID)
		e.ProdModel = model
		_, err := f.BeginEnrolment(f.ctx, e, Epoch)
		f.must(err)
		a := proof(e)
		a.Nick, a.Now = name, Epoch.Add(time.Duration(i/2)*time.Minute)
		_, err = f.Activate(f.ctx, a)
		f.must(err)
	}
	// Nicks in the order of creation: d0 d5 d3 d1 d6 d4 d2, models b A c a B C a.
	_, err := f.MarkQuiet(f.ctx, Epoch.Add(90*time.Second), 100) // marks the first four devices as quiet
	f.must(err)
	for key, want := range map[store.SortKey]string{
		"":                 "d0 d1 d2 d3 d4 d5 d6",
		store.SortNick:     "d0 d1 d2 d3 d4 d5 d6",
		store.SortCreated:  "d0 d5 d1 d3 d4 d6 d2",
		store.SortModel:    "d1 d2 d5 d0 d6 d3 d4",
		store.SortLastSeen: "d0 d5 d1 d3 d2 d4 d6",
	} {
		for _, down := range []bool{false, true} {
			want := strings.Fields(want)
			if down {
				slices.Reverse(want)
			}
			for _, limit := range []int{0, 1, 2, 3, 6, 7, 8} {
				for _, q := range []store.DeviceSearch{{}, said("d"), is(store.FieldMaker, "ifx")} {
					q.Sort, q.Descending, q.Limit = key, down, limit
					equal(f, fmt.Sprintf("%+v", q), f.search(q), strings.Join(want, " "))
				}
			}
		}
	}
	page, err := f.SearchDevices(f.ctx, store.DeviceSearch{Owner: f.owner.ID, Limit: 7})
	f.must(err)
	equal(f, "next of the last page", page.Next, "")
}

func statesAreCounted(f *fixture) {
	d := f.onboard(Machine{Name: "raft"}, f.token)
	f.onboard(Machine{Name: "buoy"}, f.token)
	states := func(want string) {
		f.Helper()
		n, err := f.FleetCounts(f.ctx, f.owner.ID)
		f.must(err)
		var got []string
		for _, state := range store.States {
			if state != store.StateActive && n.ByState[state] > 0 {
				got = append(got, fmt.Sprint(state, "=", n.ByState[state]))
			}
			c, err := f.CountSearch(f.ctx, store.DeviceSearch{Owner: f.owner.ID, Terms: is(store.FieldState, state).Terms})
			f.must(err)
			found := len(strings.Fields(f.search(is(store.FieldState, state))))
			if c.N != n.ByState[state] || found != c.N || c.More {
				f.Errorf("state %s: the counts have %d devices, CountSearch returned %+v, and the search found %d", state, n.ByState[state], c, found)
			}
		}
		equal(f, "states", strings.Join(got, " "), want)
	}
	states("")
	boot := func(state string) {
		f.Helper()
		b := booted(d.ID, 1)
		b.State = state
		_, err := f.PutBoot(f.ctx, b, []byte("first"))
		f.must(err)
	}
	boot(store.BootMatches)
	states("")
	boot(store.BootChanged)
	states("boot-changed=1")
	_, err := f.RefuseBoot(f.ctx, d.ID, store.BootRefusal{Time: Epoch, Code: "c"})
	f.must(err)
	states("boot-changed=1")
	boot(store.BootNothing)
	states("")
	boot(store.BootChanged)

	f.trail(d.ID)
	states("boot-changed=1")
	f.add(f.step(d.ID))
	states("boot-changed=1 updating=1")
	report := func(rev int, status trail.Status, percent int) {
		f.Helper()
		f.must(f.SetRevisionProgress(f.ctx, d.ID, rev, status, trail.NewProgress(status, percent, "m"), Epoch))
	}
	report(1, trail.StatusDownloading, 40)
	states("boot-changed=1 updating=1")
	row := func() store.DeviceRow {
		f.Helper()
		page, err := f.SearchDevices(f.ctx, store.DeviceSearch{Owner: f.owner.ID, Words: []string{"raft"}})
		f.must(err)
		return page.Rows[0]
	}
	r := row()
	equal(f, "row", []any{r.Rev, r.Status, r.Progress, r.Boot}, []any{1, trail.StatusDownloading, 40, store.BootChanged})
	report(1, trail.StatusError, 100)
	states("boot-changed=1 failed=1")
	f.add(f.step(d.ID))
	states("boot-changed=1 updating=1")
	equal(f, "progress", row().Progress, 0)
	f.must(f.ChangeRevisionStatus(f.ctx, d.ID, 2, trail.StatusNew, trail.StatusCancelled, trail.NewProgress(trail.StatusCancelled, 0, "m"), Epoch))
	states("boot-changed=1")
	f.add(f.step(d.ID))
	f.add(f.step(d.ID))
	report(3, trail.StatusWontGo, 0) // the report of an older revision does not count
	states("boot-changed=1 updating=1")
	report(4, trail.StatusDone, 100)
	states("boot-changed=1")

	v, err := f.PutClone(f.ctx, cloned(d.ID, 0, "suspected", "{}"))
	f.must(err)
	states("boot-changed=1 cloned=1")
	v, err = f.PutClone(f.ctx, cloned(d.ID, v, "", "{}"))
	f.must(err)
	states("boot-changed=1")
	_, err = f.PutClone(f.ctx, cloned(d.ID, v, store.CloneRefused, "{}"))
	f.must(err)
	f.add(f.step(d.ID))
	states("boot-changed=1 updating=1 cloned=1")
	f.must(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch))
	states("")
	_, err = f.RemoveDeletedTrails(f.ctx, 10)
	f.must(err)
	states("")
}

func quietDevices(f *fixture) {
	d := f.onboard(Machine{Name: "raft"}, f.token) // seen a minute after Epoch
	other := f.onboard(Machine{Name: "buoy"}, f.token)
	mark := func(before time.Time, limit, want int) {
		f.Helper()
		n, err := f.MarkQuiet(f.ctx, before, limit)
		f.must(err)
		equal(f, "marked", n, want)
	}
	quiet := func(want ...string) {
		f.Helper()
		equal(f, "quiet", f.search(is(store.FieldState, store.StateQuiet)), strings.Join(want, " "))
		n, err := f.FleetCounts(f.ctx, f.owner.ID)
		f.must(err)
		equal(f, "quiet", n.ByState[store.StateQuiet], len(want))
		equal(f, "active", n.ByState[store.StateActive], 2-len(want))
		equal(f, "quietest", n.Quietest.IsZero(), len(want) == 0)
		page, err := f.SearchDevices(f.ctx, store.DeviceSearch{Owner: f.owner.ID})
		f.must(err)
		for _, r := range page.Rows {
			equal(f, r.Nick+" is quiet", r.Quiet, slices.Contains(want, r.Nick))
		}
	}
	mark(Epoch, 10, 0)
	quiet()
	mark(Epoch.Add(time.Minute), 10, 0) // the device was seen at this time, not before it
	mark(Epoch.Add(time.Hour), 1, 1)
	mark(Epoch.Add(time.Hour), 10, 1)
	mark(Epoch.Add(time.Hour), 10, 0)
	quiet("SN-buoy", "SN-raft")
	// When the device is seen, it becomes active again. The engine may write the sighting late.
	f.must(f.MarkDeviceSeen(f.ctx, d.ID, "192.0.2.1", Epoch.Add(2*time.Hour)))
	for deadline := time.Now().Add(10 * time.Second); ; {
		n, err := f.FleetCounts(f.ctx, f.owner.ID) // one read: f.search would read twice, and the engine may write the contact between the two reads
		f.must(err)
		if n.ByState[store.StateQuiet] == 1 {
			break
		}
		if time.Now().After(deadline) {
			f.Fatal("the sighting was not written within 10 seconds")
		}
		time.Sleep(10 * time.Millisecond)
	}
	quiet("SN-buoy")
	// MarkQuiet must also consider a sighting that has not been written to the database yet.
	f.must(f.MarkDeviceSeen(f.ctx, d.ID, "192.0.2.1", Epoch.Add(4*time.Hour)))
	mark(Epoch.Add(3*time.Hour), 10, 0)
	quiet("SN-buoy")
	mark(Epoch.Add(5*time.Hour), 10, 1)
	// If the device onboards again, it is active again.
	e := f.begin(Machine{Name: "raft", Request: "again"}, f.token)
	_, err := f.Activate(f.ctx, store.Activation{IDevIDHash: e.IDevIDHash, Now: Epoch.Add(10 * time.Minute)})
	f.must(err)
	quiet("SN-buoy")
	f.must(f.DeleteDevice(f.ctx, f.owner.ID, other.ID, Epoch))
	n, err := f.FleetCounts(f.ctx, f.owner.ID)
	f.must(err)
	equal(f, "quiet", n.ByState[store.StateQuiet], 0)
}

func facets(f *fixture) {
	for i, model := range []string{"b", "A", "c", "a", "B", "b", "b", "d"} {
		f.join(Machine{Name: fmt.Sprint(i)}, func(e *store.Enrolment) { e.ProdModel = model })
	}
	for limit, want := range map[int]string{1: "[{b 4}] 4", 2: "[{b 4} {A 2}] 2", 3: "[{b 4} {A 2} {c 1}] 1", 9: "[{b 4} {A 2} {c 1} {d 1}] 0"} {
		top, others, err := f.Facets(f.ctx, f.owner.ID, store.FieldModel, limit)
		f.must(err)
		equal(f, fmt.Sprint("at most ", limit), fmt.Sprint(top, others), want)
	}
	for field, value := range map[store.SearchField]string{store.FieldMaker: "IFX", store.FieldFirmware: "7.85", store.FieldToken: f.token.ID} {
		top, others, err := f.Facets(f.ctx, f.owner.ID, field, 5)
		f.must(err)
		equal(f, string(field), fmt.Sprint(top, others), fmt.Sprintf("[{%s 8}] 0", value))
	}
	top, others, err := f.Facets(f.ctx, f.other.ID, store.FieldModel, 5)
	f.must(err)
	equal(f, "another owner", fmt.Sprint(top, others), "[] 0")
	_, _, err = f.Facets(f.ctx, f.owner.ID, store.FieldSerial, 5)
	f.badSearch(err)
}

func (f *fixture) badSearch(err error) {
	f.Helper()
	var bad *store.ErrBadSearch
	if !errors.As(err, &bad) || bad.Reason == "" {
		f.Errorf("got error %v, want *store.ErrBadSearch", err)
	}
}

func arrivals(f *fixture) {
	for i, day := range []int{0, 0, 1, 3} {
		e := Machine{Name: fmt.Sprint(i)}.Enrolment(f.owner.ID, f.token.ID)
		now := Epoch.AddDate(0, 0, day)
		e.Expires = now.Add(time.Hour)
		_, err := f.BeginEnrolment(f.ctx, e, now)
		f.must(err)
		tok := f.newTokenUntil(now.Add(time.Hour), fmt.Sprint(i))
		e2 := Machine{Name: fmt.Sprint(i)}.Enrolment(f.owner.ID, tok.ID)
		e2.Expires = e.Expires
		_, err = f.BeginEnrolment(f.ctx, e2, now)
		f.must(err)
		d, err := f.Activate(f.ctx, store.Activation{IDevIDHash: e2.IDevIDHash, Nick: fmt.Sprint(i), Now: now})
		f.must(err)
		f.must(f.RenameDevice(f.ctx, f.owner.ID, d.ID, fmt.Sprint("n", i))) // no arrival
	}
	nobodys := f.create(plain("nobodys", "", "dinghy"))
	_, err := f.ClaimDevice(f.ctx, nobodys.ID, f.owner.ID, Epoch.AddDate(0, 0, 2))
	f.must(err)
	for _, c := range []struct {
		day, days int
		want      string
	}{{3, 5, "[0 2 1 1 1]"}, {3, 1, "[1]"}, {4, 3, "[1 1 0]"}, {0, 2, "[0 2]"}, {3, 0, "[]"}} {
		n, err := f.Arrivals(f.ctx, f.owner.ID, Epoch.AddDate(0, 0, c.day), c.days)
		f.must(err)
		equal(f, fmt.Sprint(c), fmt.Sprint(n), c.want)
	}
	n, err := f.Arrivals(f.ctx, f.other.ID, Epoch, 2)
	f.must(err)
	equal(f, "another owner", fmt.Sprint(n), "[0 0]")
	n, err = f.Arrivals(f.ctx, f.owner.ID, Epoch, 1<<30)
	f.must(err)
	equal(f, "at most a year", len(n), 366)
}

func (f *fixture) newTokenUntil(expires time.Time, nick string) store.JoinToken {
	f.Helper()
	t := JoinToken(f.owner.ID, "until "+nick, 0)
	t.Expires = expires
	f.must(f.CreateJoinToken(f.ctx, t))
	return t
}

func anotherOwnersDevices(f *fixture) {
	d := f.onboard(Machine{Name: "raft"}, f.token)
	f.must(f.PatchUserMeta(f.ctx, f.owner.ID, d.ID, map[string]any{"site": "oslo"}))
	mine := f.onboard(Machine{Name: "tug"}, f.token)
	page, err := f.SearchDevices(f.ctx, store.DeviceSearch{Owner: f.owner.ID, Limit: 1})
	f.must(err)
	equal(f, "pages", page.Next != "" && mine.ID != "", true)
	for _, q := range []store.DeviceSearch{{}, said("raft"), said(d.ID[:8]), is(store.FieldID, d.ID), is(store.FieldSerial, "SN-raft"),
		is(store.FieldModel, "Gangplank 4"), is(store.FieldToken, f.token.ID), is(store.FieldState, store.StateActive), meta("site", "oslo")} {
		q.Owner = f.other.ID
		equal(f, fmt.Sprintf("%+v", q), f.search(q), "")
	}
	_, err = f.SearchDevices(f.ctx, store.DeviceSearch{Owner: f.other.ID, Limit: 1, After: page.Next})
	f.badSearch(err)
}

func badSearches(f *fixture) {
	f.onboard(Machine{Name: "raft"}, f.token)
	f.onboard(Machine{Name: "buoy"}, f.token)
	first, err := f.SearchDevices(f.ctx, store.DeviceSearch{Owner: f.owner.ID, Limit: 1})
	f.must(err)
	after := func(q store.DeviceSearch) store.DeviceSearch {
		q.After = first.Next
		return q
	}
	for _, q := range []store.DeviceSearch{
		{Sort: "weight"}, said("--"), said(""), said(strings.Repeat("x", 300)), said("a", "b", "c", "d", "e", "f", "g", "h", "i"),
		is("weight", "7"), is("", "7"), is(store.FieldState, "happy"), is(store.FieldID, "abc"), is(store.FieldID, "wxyz"),
		is(store.FieldID, strings.Repeat("a", 25)), is(store.FieldSerial, "-"), meta("", "x"), meta("k", strings.Repeat("x", 300)),
		{After: "?"}, {After: "e30"}, {After: strings.Repeat("A", 10000)},
		after(store.DeviceSearch{Descending: true}), after(store.DeviceSearch{Sort: store.SortCreated}), after(said("sn")), after(is(store.FieldMaker, "ifx")),
	} {
		q.Owner = f.owner.ID
		_, err := f.SearchDevices(f.ctx, q)
		f.badSearch(err)
	}
}

// The conditions of these searches match more devices than the engine sorts in memory.
func moreThanMaxCount(f *fixture) {
	const many = store.MaxCount + 50
	var calls errgroup.Group // concurrent calls, so that several writes share one flush to disk
	calls.SetLimit(100)      // an engine on a slow machine may refuse calls that wait for seconds
	for i := range many {
		calls.Go(func() error {
			// Each device has two words that begin with the same text.
			d := plain(fmt.Sprint(i), f.owner.ID, fmt.Sprintf("raft-%04d+raft-%04d", i, i))
			d.Created = Epoch.Add(time.Duration((i*7)%many) * time.Second)
			d.UserMeta = map[string]any{"site": "oslo", "kind": "ship", "odd": i%2 == 1}
			_, err := f.CreateDevice(f.ctx, d, Hash("secret"))
			return err
		})
	}
	f.must(calls.Wait())
	created := map[string]int{} // the place of each nick in the order of creation
	for i := range many {
		created[fmt.Sprintf("raft-%04d+raft-%04d", i, i)] = (i * 7) % many
	}
	for want, queries := range map[int][]store.DeviceSearch{
		many: {{}, said("raft"), meta("site", "oslo"), is(store.FieldState, store.StateActive), {Words: []string{"raft"}, Terms: meta("site", "oslo").Terms},
			{Words: []string{"raft"}, Terms: slices.Concat(meta("site", "oslo").Terms, meta("kind", "Ship").Terms, is(store.FieldState, store.StateActive).Terms)}},
		// The first 1000 devices match both conditions, and the other 50 do not match the word. For
		// each condition alone, the engine counts more than MaxCount index entries.
		1000:     {{Words: []string{"raft-0"}, Terms: meta("site", "oslo").Terms}},
		many / 2: {meta("odd", "true"), {Words: []string{"raft"}, Terms: meta("odd", "true").Terms}},
		10:       {said("raft-001"), said("001")},
		0:        {{Words: []string{"raft"}, Terms: meta("odd", "perhaps").Terms}},
	} {
		for _, q := range queries {
			for _, key := range []store.SortKey{store.SortNick, store.SortCreated, store.SortLastSeen, store.SortModel} {
				for _, down := range []bool{false, true} {
					q.Sort, q.Descending, q.Limit = key, down, 300
					nicks := strings.Fields(f.search(q))
					equal(f, fmt.Sprintf("%+v", q), len(nicks), want)
					sorted := slices.Clone(nicks)
					slices.SortFunc(sorted, func(a, b string) int {
						by := strings.Compare(a, b)
						if key == store.SortCreated {
							by = created[a] - created[b]
						}
						if down { // no device was seen, and no device has a model
							by = -by
						}
						return by
					})
					equal(f, "order", slices.Equal(nicks, sorted), true)
					equal(f, "each once", len(slices.Compact(sorted)), want)
				}
			}
		}
	}
	for _, c := range []struct {
		q    store.DeviceSearch
		want store.SearchCount
	}{
		{store.DeviceSearch{}, store.SearchCount{N: many}},
		{is(store.FieldModel, ""), store.SearchCount{N: many}},
		{meta("site", "oslo"), store.SearchCount{N: store.MaxCount, More: true}},
		{meta("odd", "true"), store.SearchCount{N: many / 2}},
		{said("raft-00"), store.SearchCount{N: 100}},
	} {
		c.q.Owner = f.owner.ID
		n, err := f.CountSearch(f.ctx, c.q)
		f.must(err)
		equal(f, fmt.Sprintf("%+v", c.q), n, c.want)
	}
	// More devices match the word "raft" than CountSearch counts.
	n, err := f.CountSearch(f.ctx, store.DeviceSearch{Owner: f.owner.ID, Words: []string{"raft"}})
	f.must(err)
	equal(f, "raft", n.More, true)
}

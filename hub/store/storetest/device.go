package storetest

import (
	"encoding/json"
	"fmt"
	"time"

	"gangway/hub/store"
	"gangway/wire/trail"
)

var deviceTests = []test{
	{"UnknownIsNotFound", func(f *fixture) {
		_, err := f.Device(f.ctx, ID("nothing"))
		f.refused(err, store.ErrNotFound)
		_, err = f.BareDevice(f.ctx, ID("nothing"))
		f.refused(err, store.ErrNotFound)
		_, err = f.DeviceByCertificate(f.ctx, Hash("nothing"))
		f.refused(err, store.ErrNotFound)
		_, err = f.TPM(f.ctx, Hash("nothing"))
		f.refused(err, store.ErrNotFound)
		_, err = f.AIK(f.ctx, []byte("nothing"))
		f.refused(err, store.ErrNotFound)
	}},
	{"BareOneHasNoMetadata", func(f *fixture) {
		d := f.onboard(Machine{Name: "one"}, f.token)
		want, err := f.Device(f.ctx, d.ID)
		f.must(err)
		if want.UserMeta == nil || want.DeviceMeta == nil {
			f.Errorf("%+v", want)
		}
		want.UserMeta, want.DeviceMeta = nil, nil
		want.ConfigVersion, err = f.ConfigVersion(f.ctx)
		f.must(err)
		got, err := f.BareDevice(f.ctx, d.ID)
		f.must(err)
		equal(f, "device", got, want)
	}},
	{"IdentifiedWithTheConfigVersion", func(f *fixture) {
		d := f.onboard(Machine{Name: "one"}, f.token)
		for n := range 2 {
			f.must(f.PutPolicy(f.ctx, store.Policy{Owner: f.owner.ID, Text: fmt.Sprint("version: ", n), Updated: Epoch}))
			version, err := f.ConfigVersion(f.ctx)
			f.must(err)
			byID, err := f.BareDevice(f.ctx, d.ID)
			f.must(err)
			byCertificate, err := f.DeviceByCertificate(f.ctx, d.IDevIDHash)
			f.must(err)
			equal(f, "config versions", []int64{byID.ConfigVersion, byCertificate.ConfigVersion}, []int64{version, version})
		}
	}},
	{"IdleUnlessARevisionIsOpen", func(f *fixture) {
		d := f.onboard(Machine{Name: "one"}, f.token)
		idle := func(when string, want bool) {
			got, err := f.BareDevice(f.ctx, d.ID)
			f.must(err)
			equal(f, "idle "+when, got.Idle, want)
		}
		idle("without a trail", false)
		f.trail(d.ID)
		idle("with its first revision", true)
		s := f.add(f.step(d.ID))
		for _, status := range trail.Statuses {
			if status.Final() {
				continue
			}
			f.must(f.SetRevisionProgress(f.ctx, d.ID, s.Rev, status, []byte(`{}`), Epoch))
			idle("with a revision "+string(status), false)
		}
		f.must(f.SetRevisionProgress(f.ctx, d.ID, s.Rev, trail.StatusDone, []byte(`{}`), Epoch))
		idle("after the last report", true)
		other := f.onboard(Machine{Name: "two"}, f.token)
		f.trail(other.ID)
		f.add(f.step(other.ID))
		idle("while another device has an open revision", true)
	}},
	{"ListedByNickInPages", func(f *fixture) {
		for _, name := range []string{"c", "a", "e", "b", "d"} {
			f.onboard(Machine{Name: name}, f.token)
		}
		gone := f.onboard(Machine{Name: "bb"}, f.token)
		f.must(f.DeleteDevice(f.ctx, f.owner.ID, gone.ID, Epoch))
		for _, page := range []struct {
			after string
			limit int
			want  []string
		}{
			{"", 0, []string{"SN-a", "SN-b", "SN-c", "SN-d", "SN-e"}},
			{"", 2, []string{"SN-a", "SN-b"}},
			{"SN-b", 2, []string{"SN-c", "SN-d"}},
			{"SN-bz", 1, []string{"SN-c"}},
			{"SN-e", 2, nil},
		} {
			devices, err := f.Devices(f.ctx, f.owner.ID, page.after, page.limit)
			f.must(err)
			var nicks []string
			for _, d := range devices {
				nicks = append(nicks, d.Nick)
				one, err := f.Device(f.ctx, d.ID)
				f.must(err)
				equal(f, "listed device", d, one)
			}
			equal(f, fmt.Sprintf("after %q, %d", page.after, page.limit), nicks, page.want)
		}
		devices, err := f.Devices(f.ctx, f.other.ID, "", 0)
		f.must(err)
		equal(f, "devices of another owner", len(devices), 0)
		n, err := f.CountDevices(f.ctx, f.owner.ID)
		f.must(err)
		equal(f, "count", n, 5)
	}},
	{"HundredByDefault", func(f *fixture) {
		for i := range 103 {
			f.onboard(Machine{Name: fmt.Sprint(i)}, f.token)
		}
		devices, err := f.Devices(f.ctx, f.owner.ID, "", 0)
		f.must(err)
		equal(f, "devices", len(devices), 100)
		devices, err = f.Devices(f.ctx, f.owner.ID, "", 1000000)
		f.must(err)
		equal(f, "devices", len(devices), 103)
	}},
	{"Rename", func(f *fixture) {
		one := f.onboard(Machine{Name: "one"}, f.token)
		two := f.onboard(Machine{Name: "two"}, f.token)
		f.must(f.RenameDevice(f.ctx, f.owner.ID, one.ID, "otter"))
		f.must(f.RenameDevice(f.ctx, f.owner.ID, one.ID, "otter"))
		f.refused(f.RenameDevice(f.ctx, f.owner.ID, two.ID, "otter"), store.ErrExists)
		f.refused(f.RenameDevice(f.ctx, f.other.ID, two.ID, "mine"), store.ErrNotFound)
		f.refused(f.RenameDevice(f.ctx, f.owner.ID, ID("nothing"), "nothing"), store.ErrNotFound)
		for id, nick := range map[string]string{one.ID: "otter", two.ID: two.Nick} {
			d, err := f.Device(f.ctx, id)
			f.must(err)
			equal(f, "nick", d.Nick, nick)
		}
		f.must(f.DeleteDevice(f.ctx, f.owner.ID, one.ID, Epoch))
		f.refused(f.RenameDevice(f.ctx, f.owner.ID, one.ID, "ghost"), store.ErrNotFound)
		f.must(f.RenameDevice(f.ctx, f.owner.ID, two.ID, "otter"))
	}},
	{"ContactOfAnUnknownDeviceIsIgnored", func(f *fixture) {
		f.must(f.MarkDeviceSeen(f.ctx, ID("nothing"), "192.0.2.1:1", Epoch))
		_, err := f.Device(f.ctx, ID("nothing"))
		f.refused(err, store.ErrNotFound)
	}},
}

var metaTests = []test{
	{"DeviceHalf", func(f *fixture) {
		d := f.onboard(Machine{Name: "one"}, f.token)
		testPatches(f, d.ID, func(patch map[string]any) error {
			return f.patchDeviceMeta(d.ID, patch)
		}, func(d store.Device) (patched, untouched map[string]any) { return d.DeviceMeta, d.UserMeta })
		f.refused(f.patchDeviceMeta(ID("nothing"), map[string]any{"a": 1}), store.ErrNotFound)
	}},
	{"OwnersHalf", func(f *fixture) {
		d := f.onboard(Machine{Name: "one"}, f.token)
		testPatches(f, d.ID, func(patch map[string]any) error {
			return f.PatchUserMeta(f.ctx, f.owner.ID, d.ID, patch)
		}, func(d store.Device) (patched, untouched map[string]any) { return d.UserMeta, d.DeviceMeta })
		f.refused(f.PatchUserMeta(f.ctx, f.other.ID, d.ID, map[string]any{"a": 1}), store.ErrNotFound)
		f.refused(f.PatchUserMeta(f.ctx, f.owner.ID, ID("nothing"), map[string]any{"a": 1}), store.ErrNotFound)
	}},
	{"SwapNeedsThePresentValues", func(f *fixture) {
		d := f.onboard(Machine{Name: "one"}, f.token)
		swap := func(was, patch map[string]any) error {
			return f.SwapUserMeta(f.ctx, f.owner.ID, d.ID, was, patch)
		}
		f.must(swap(map[string]any{"a": nil}, map[string]any{"a": "x", "list": []any{json.Number("1.50"), map[string]any{"k": true}}}))
		for _, was := range []map[string]any{{"a": nil}, {"a": "y"}, {"a": json.Number("1")}, {"a": ""}, {"b": "x"}, {"a": "x", "b": "x"}, {"list": []any{json.Number("1.5")}}} {
			f.refused(swap(was, map[string]any{"a": "z"}), store.ErrChanged)
		}
		f.must(swap(map[string]any{"a": "x", "b": nil, "list": []any{json.Number("1.50"), map[string]any{"k": true}}}, map[string]any{"a": nil, "list": nil, "n": json.Number("2")}))
		got, err := f.Device(f.ctx, d.ID)
		f.must(err)
		equal(f, "user-meta", got.UserMeta, map[string]any{"n": json.Number("2")})
		f.refused(f.SwapUserMeta(f.ctx, f.other.ID, d.ID, nil, map[string]any{"a": "x"}), store.ErrNotFound)
	}},
	{"OfADeletedDeviceIsNotFound", func(f *fixture) {
		d := f.onboard(Machine{Name: "one"}, f.token)
		f.must(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch))
		f.refused(f.patchDeviceMeta(d.ID, map[string]any{"a": 1}), store.ErrNotFound)
		f.refused(f.PatchUserMeta(f.ctx, f.owner.ID, d.ID, map[string]any{"a": 1}), store.ErrNotFound)
	}},
	{"WhatNoAnswerCouldContainIsRefused", metaThatCannotBeShown},
	{"NumbersStayAsWritten", numbersStayAsWritten},
	{"BoundHoldsForWhatIsThereAfterwards", metaBound},
	{"WhatIsNoJSONIsRefused", func(f *fixture) {
		d := f.onboard(Machine{Name: "one"}, f.token)
		if err := f.patchDeviceMeta(d.ID, map[string]any{"a": func() {}}); err == nil {
			f.Fatal("a function was stored")
		}
		if err := f.PatchUserMeta(f.ctx, f.owner.ID, d.ID, map[string]any{"a": make(chan int)}); err == nil {
			f.Fatal("a channel was stored")
		}
	}},
}

func testPatches(f *fixture, id string, patch func(map[string]any) error,
	halves func(store.Device) (patched, untouched map[string]any)) {
	f.Helper()
	for _, step := range []struct{ patch, want map[string]any }{
		{map[string]any{"a": "x", "b": true}, map[string]any{"a": "x", "b": true}},
		{map[string]any{}, map[string]any{"a": "x", "b": true}},
		{map[string]any{"a": map[string]any{"deep": json.Number("1.50")}}, map[string]any{"a": map[string]any{"deep": json.Number("1.50")}, "b": true}},
		// A patch merges only the top-level keys: it replaces the whole value of a key.
		{map[string]any{"a": map[string]any{"other": "<&>"}}, map[string]any{"a": map[string]any{"other": "<&>"}, "b": true}},
		{map[string]any{"b": nil, "never there": nil}, map[string]any{"a": map[string]any{"other": "<&>"}}},
		{map[string]any{"a": nil, "ключ": "значение", "": ""}, map[string]any{"ключ": "значение", "": ""}},
	} {
		f.must(patch(step.patch))
		d, err := f.Device(f.ctx, id)
		f.must(err)
		patched, untouched := halves(d)
		equal(f, fmt.Sprint("after ", step.patch), patched, step.want)
		equal(f, "the other half", untouched, map[string]any{})
	}
}

var deletionTests = []test{
	{"TheDeviceIsGone", func(f *fixture) {
		d := f.onboard(Machine{Name: "one"}, f.token)
		f.must(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch))
		_, err := f.Device(f.ctx, d.ID)
		f.refused(err, store.ErrNotFound)
		_, err = f.BareDevice(f.ctx, d.ID)
		f.refused(err, store.ErrNotFound)
		_, err = f.DeviceByCertificate(f.ctx, d.IDevIDHash)
		f.refused(err, store.ErrNotFound)
		devices, err := f.Devices(f.ctx, f.owner.ID, "", 0)
		f.must(err)
		equal(f, "devices", len(devices), 0)
		n, err := f.CountDevices(f.ctx, f.owner.ID)
		f.must(err)
		equal(f, "count", n, 0)
	}},
	{"OnlyByItsOwnerAndOnce", func(f *fixture) {
		d := f.onboard(Machine{Name: "one"}, f.token)
		f.refused(f.DeleteDevice(f.ctx, f.other.ID, d.ID, Epoch), store.ErrNotFound)
		f.refused(f.DeleteDevice(f.ctx, f.owner.ID, ID("nothing"), Epoch), store.ErrNotFound)
		f.must(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch))
		f.refused(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch), store.ErrNotFound)
		tpm, err := f.TPM(f.ctx, d.EK)
		f.must(err)
		equal(f, "generation", tpm.Generation, 1)
	}},
	{"RevokesWhatIsOpen", func(f *fixture) {
		old := f.begin(Machine{Name: "one"}, f.token)
		d, err := f.activate(old)
		f.must(err)
		active := f.begin(Machine{Name: "one", Request: "again"}, f.token)
		_, err = f.activate(active)
		f.must(err)
		pending := f.begin(Machine{Name: "one", Request: "and again"}, f.token)
		stranger := f.begin(Machine{Name: "two"}, f.token)
		f.must(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch))
		equal(f, "superseded one", f.state(old), store.Superseded)
		equal(f, "active one", f.state(active), store.Revoked)
		equal(f, "pending one", f.state(pending), store.Revoked)
		equal(f, "a stranger's", f.state(stranger), store.Pending)
	}},
	{"ReleasesTheTPM", func(f *fixture) {
		m := Machine{Name: "one"}
		d := f.onboard(m, f.token)
		before, err := f.TPM(f.ctx, d.EK)
		f.must(err)
		f.must(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch))
		after, err := f.TPM(f.ctx, d.EK)
		f.must(err)
		before.Owner, before.DeviceID, before.Generation = "", "", 1
		equal(f, "TPM", after, before)
	}},
	{"AllItsAIKsLeave", func(f *fixture) {
		var names [][]byte
		var d store.Device
		for _, iak := range []string{"", "second", "third"} {
			e := f.begin(Machine{Name: "one", IAK: iak}, f.token)
			names = append(names, e.IAKName)
			var err error
			d, err = f.activate(e)
			f.must(err)
		}
		other := f.begin(Machine{Name: "two"}, f.token)
		_, err := f.activate(other)
		f.must(err)
		f.must(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch))
		for _, name := range names {
			_, err := f.AIK(f.ctx, name)
			f.refused(err, store.ErrNotFound)
		}
		_, err = f.AIK(f.ctx, other.IAKName)
		f.must(err)
	}},
	{"TheTPMMayComeBackToAnybody", func(f *fixture) {
		d := f.onboard(Machine{Name: "one"}, f.token)
		f.must(f.DeleteDevice(f.ctx, f.owner.ID, d.ID, Epoch))
		theirs := JoinToken(f.other.ID, "theirs", 0)
		f.must(f.CreateJoinToken(f.ctx, theirs))
		back := f.onboard(Machine{Name: "one", Generation: 1}, theirs)
		tpm, err := f.TPM(f.ctx, d.EK)
		f.must(err)
		equal(f, "owner", tpm.Owner, f.other.ID)
		equal(f, "device", tpm.DeviceID, back.ID)
		equal(f, "generation", tpm.Generation, 1)
		aik, err := f.AIK(f.ctx, Machine{Name: "one"}.Enrolment(f.other.ID, theirs.ID).IAKName)
		f.must(err)
		equal(f, "device of the AIK", aik.DeviceID, back.ID)
	}},
}

var eventTests = []test{
	{"NewestFirstAndComplete", func(f *fixture) {
		want := store.Event{
			Time: Epoch, Kind: "enrolment.refused", Code: "tpm-bound", Owner: f.owner.ID,
			Device: ID("device"), Token: f.token.ID, Addr: "192.0.2.9:1", Message: "Refused.",
		}
		f.must(f.AppendEvent(f.ctx, store.Event{Time: Epoch.Add(time.Hour), Kind: "older"}))
		f.must(f.AppendEvent(f.ctx, want))
		events, err := f.Events(f.ctx, store.EventFilter{})
		f.must(err)
		equal(f, "events", len(events), 2)
		if events[0].Seq <= events[1].Seq {
			f.Fatalf("sequence %d follows %d", events[0].Seq, events[1].Seq)
		}
		events[0].Seq = 0
		equal(f, "event", events[0], want)
	}},
	{"Filtered", func(f *fixture) {
		for i := range 12 {
			owner := []string{f.owner.ID, f.other.ID, ""}[i%3]
			device := []string{ID("x"), ID("y"), "", ""}[i%4]
			f.must(f.AppendEvent(f.ctx, store.Event{Time: Epoch, Kind: fmt.Sprint(i), Owner: owner, Device: device}))
		}
		all, err := f.Events(f.ctx, store.EventFilter{})
		f.must(err)
		for _, filter := range []store.EventFilter{
			{},
			{Owner: f.owner.ID},
			{Device: ID("x")},
			{Owner: f.other.ID, Device: ID("y")},
			{Owner: ID("nobody")},
			{Before: all[5].Seq},
			{Before: all[5].Seq, Owner: f.owner.ID},
			{Before: all[3].Seq, Device: ID("y"), Limit: 1},
			{Limit: 4},
			{Before: all[len(all)-1].Seq},
		} {
			var want []store.Event
			for _, e := range all {
				fits := (filter.Owner == "" || e.Owner == filter.Owner) &&
					(filter.Device == "" || e.Device == filter.Device) &&
					(filter.Before == 0 || e.Seq < filter.Before)
				if fits && (filter.Limit == 0 || len(want) < filter.Limit) {
					want = append(want, e)
				}
			}
			got, err := f.Events(f.ctx, filter)
			f.must(err)
			if len(got) == 0 && len(want) == 0 {
				continue
			}
			equal(f, fmt.Sprintf("%+v", filter), got, want)
		}
	}},
	{"HundredByDefaultThousandAtMost", func(f *fixture) {
		const many = 1005
		errs := make(chan error, many)
		for range many {
			go func() { errs <- f.AppendEvent(f.ctx, store.Event{Time: Epoch, Kind: "k"}) }()
		}
		for range many {
			f.must(<-errs)
		}
		for limit, want := range map[int]int{0: 100, 101: 101, 5000: 1000} {
			events, err := f.Events(f.ctx, store.EventFilter{Limit: limit})
			f.must(err)
			equal(f, "events", len(events), want)
		}
	}},
}

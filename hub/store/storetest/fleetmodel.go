package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/hub/store"
	"gangway/wire/trail"

	"pgregory.net/rapid"
)

// FleetModel runs random sequences of all operations that change devices. After each operation, it
// reads all devices, and computes from them the counters and the results of searches that the
// engine must return. All sequences run on one store, each with its own owners.
func FleetModel(t *testing.T, s Engine) {
	story := 0
	rapid.Check(t, func(t *rapid.T) {
		story++
		m := &fleetModel{Engine: s, ctx: context.Background(), now: Epoch.AddDate(story, 0, 0), arrived: map[string]int{}}
		m.begin(t, story)
		t.Repeat(map[string]func(*rapid.T){
			"onboard": m.onboard, "create": m.create, "claim": m.claim, "rename": m.rename, "delete": m.delete, "meta": m.meta,
			"boot": m.boot, "revision": m.revision, "report": m.report, "cancel": m.cancel, "clone": m.clone, "contact": m.contact,
			"quiet": m.quiet, "unclaimed": m.unclaimed, "": m.compare,
		})
		m.end(t)
	})
}

type fleetModel struct {
	Engine
	ctx     context.Context
	now     time.Time
	name    string // name of the sequence
	owners  []string
	tokens  []store.JoinToken
	ids     []string // ids of all devices, including the deleted devices
	arrived map[string]int
	n       int
}

func (m *fleetModel) must(t *rapid.T, err error, allowed ...error) bool {
	if err != nil && !slices.ContainsFunc(allowed, func(e error) bool { return errors.Is(err, e) }) {
		t.Fatal(err)
	}
	return err == nil
}

func (m *fleetModel) begin(t *rapid.T, story int) {
	m.name = fmt.Sprint("fleet ", story, " ")
	for i := range 2 {
		a := Account(fmt.Sprint(m.name, "o", i))
		m.must(t, m.CreateAccount(m.ctx, a))
		token := JoinToken(a.ID, "t", 0)
		token.Expires = m.now.AddDate(1, 0, 0)
		m.must(t, m.CreateJoinToken(m.ctx, token))
		m.owners, m.tokens = append(m.owners, a.ID), append(m.tokens, token)
	}
}

func (m *fleetModel) device(t *rapid.T) string {
	if len(m.ids) == 0 {
		t.Skip("no device yet")
	}
	return rapid.SampledFrom(m.ids).Draw(t, "device")
}

func (m *fleetModel) onboard(t *rapid.T) {
	token := rapid.SampledFrom(m.tokens).Draw(t, "token")
	machine := Machine{Name: fmt.Sprint(m.name, rapid.IntRange(0, 3).Draw(t, "machine"))}
	if tpm, err := m.TPM(m.ctx, Hash("ek "+machine.Name)); err == nil {
		machine.Generation = tpm.Generation
	}
	m.n++
	machine.Request = fmt.Sprint(m.n)
	e := machine.Enrolment(token.Owner, token.ID)
	e.Created, e.Expires = m.now, m.now.Add(time.Hour)
	draw := func(what string, from ...string) string { return rapid.SampledFrom(from).Draw(t, what) }
	e.ProdModel, e.Manufacturer = draw("model", "NUC 7", "nuc 7", "Edge Box", ""), draw("maker", "IFX", "AMD", "amd")
	e.Firmware, e.ProdSerial = draw("firmware", "7.85", "1"), draw("serial", "SN-1", "sn-2", "X")
	_, err := m.BeginEnrolment(m.ctx, e, m.now)
	m.must(t, err)
	_, before := m.Device(m.ctx, e.DeviceID)
	d, err := m.Activate(m.ctx, store.Activation{IDevIDHash: e.IDevIDHash, Nick: "raft " + e.ProdSerial, Now: m.now})
	if m.must(t, err, store.ErrOtherOwner, store.ErrCloned, store.ErrRevoked) && before != nil {
		m.ids = append(m.ids, d.ID)
		m.arrived[d.Owner]++
	}
}

func (m *fleetModel) create(t *rapid.T) {
	m.n++
	owner := rapid.SampledFrom(append(m.owners, "")).Draw(t, "owner")
	d, err := m.CreateDevice(m.ctx, store.Device{ID: ID(fmt.Sprint(m.name, m.n)), Nick: m.name + "dinghy", Owner: owner, Created: m.now,
		UserMeta: map[string]any{"site": "oslo"}}, store.Hash{1})
	m.must(t, err)
	m.ids = append(m.ids, d.ID)
	m.arrived[owner]++
}

func (m *fleetModel) claim(t *rapid.T) {
	owner := rapid.SampledFrom(m.owners).Draw(t, "owner")
	if _, err := m.ClaimDevice(m.ctx, m.device(t), owner, m.now); m.must(t, err, store.ErrNotFound) {
		m.arrived[owner]++
	}
}

func (m *fleetModel) rename(t *rapid.T) {
	nick := rapid.SampledFrom([]string{"ferry", "tug 2", "raft-x"}).Draw(t, "nick")
	m.must(t, m.RenameDevice(m.ctx, rapid.SampledFrom(m.owners).Draw(t, "owner"), m.device(t), nick), store.ErrNotFound, store.ErrExists)
}

func (m *fleetModel) delete(t *rapid.T) {
	m.must(t, m.DeleteDevice(m.ctx, rapid.SampledFrom(m.owners).Draw(t, "owner"), m.device(t), m.now), store.ErrNotFound)
}

func (m *fleetModel) meta(t *rapid.T) {
	owner, id := rapid.SampledFrom(m.owners).Draw(t, "owner"), m.device(t)
	value := rapid.SampledFrom([]any{"oslo", "Bergen", nil, map[string]any{"room": "oslo"}}).Draw(t, "value")
	patch := map[string]any{rapid.SampledFrom([]string{"site", "home"}).Draw(t, "key"): value}
	whole := map[string]any{}
	for k, v := range patch {
		if v != nil {
			whole[k] = v
		}
	}
	var err error
	switch rapid.IntRange(0, 3).Draw(t, "how") {
	case 0:
		err = m.PatchUserMeta(m.ctx, owner, id, patch)
	case 1:
		var p store.MetaPatch
		if p, err = store.NewMetaPatch(patch); err == nil {
			err = m.PatchDeviceMeta(m.ctx, id, p)
		}
	case 2:
		err = m.ReplaceUserMeta(m.ctx, owner, id, whole)
	case 3:
		err = m.ReplaceDeviceMeta(m.ctx, id, whole)
	}
	m.must(t, err, store.ErrNotFound)
}

func (m *fleetModel) boot(t *rapid.T) {
	id := m.device(t)
	state := rapid.SampledFrom([]string{store.BootMatches, store.BootChanged, store.BootNothing, store.BootRefused, "accepted"}).Draw(t, "state")
	var err error
	switch state {
	case store.BootRefused:
		_, err = m.RefuseBoot(m.ctx, id, store.BootRefusal{Time: m.now, Code: "c"})
	case "accepted":
		latest, e := m.LatestBoot(m.ctx, id)
		if e != nil {
			return
		}
		latest.State = store.BootMatches
		err = m.PutBootReference(m.ctx, store.BootReference{Device: id, Text: []byte("ref"), Replaces: []byte("ref")}, latest)
	default:
		b := booted(id, 1)
		b.State = state
		_, err = m.PutBoot(m.ctx, b, []byte("ref"))
	}
	m.must(t, err, store.ErrNotFound)
}

func (m *fleetModel) step(d store.Device, status trail.Status) store.Revision {
	return store.Revision{Device: d.ID, Owner: d.Owner, Rev: -1, Status: status, State: []byte(`{}`), Meta: []byte(`{}`), Progress: []byte(`{}`), Posted: m.now, Modified: m.now}
}

func (m *fleetModel) revision(t *rapid.T) {
	d, err := m.Device(m.ctx, m.device(t))
	if err != nil || d.Owner == "" {
		t.Skip("no device of an owner")
	}
	if _, made, err := m.CreateTrail(m.ctx, m.step(d, trail.StatusDone), plenty); err != nil {
		t.Fatal(err)
	} else if !made {
		_, err := m.AddRevision(m.ctx, m.step(d, trail.StatusNew), plenty)
		m.must(t, err)
	}
}

func (m *fleetModel) report(t *rapid.T) {
	id := m.device(t)
	status := rapid.SampledFrom([]trail.Status{trail.StatusDownloading, trail.StatusTesting, trail.StatusDone, trail.StatusError, trail.StatusWontGo}).Draw(t, "status")
	m.must(t, m.SetRevisionProgress(m.ctx, id, rapid.IntRange(0, 3).Draw(t, "rev"), status,
		trail.NewProgress(status, rapid.IntRange(0, 100).Draw(t, "percent"), "m"), m.now), store.ErrNotFound, store.ErrStatus)
}

func (m *fleetModel) cancel(t *rapid.T) {
	m.must(t, m.ChangeRevisionStatus(m.ctx, m.device(t), rapid.IntRange(0, 3).Draw(t, "rev"), trail.StatusNew, trail.StatusCancelled,
		[]byte(`{}`), m.now), store.ErrNotFound, store.ErrStatus)
}

func (m *fleetModel) clone(t *rapid.T) {
	id := m.device(t)
	is, _ := m.Clone(m.ctx, id)
	_, err := m.PutClone(m.ctx, cloned(id, is.Version, rapid.SampledFrom([]string{"", "suspected", store.CloneRefused}).Draw(t, "state"), "{}"))
	m.must(t, err, store.ErrNotFound, store.ErrChanged)
}

func (m *fleetModel) contact(t *rapid.T) {
	m.must(t, m.MarkDeviceSeen(m.ctx, m.device(t), "192.0.2.1", m.now))
	m.now = m.now.Add(10 * time.Minute)
}

func (m *fleetModel) quiet(t *rapid.T) {
	_, err := m.MarkQuiet(m.ctx, m.now.Add(-time.Duration(rapid.IntRange(0, 30).Draw(t, "minutes"))*time.Minute), rapid.IntRange(0, 3).Draw(t, "limit"))
	m.must(t, err)
}

func (m *fleetModel) unclaimed(t *rapid.T) {
	_, err := m.RemoveUnclaimed(m.ctx, m.now, 10)
	m.must(t, err)
}

// compare compares the engine's counters and searches with the list of all devices.
func (m *fleetModel) compare(t *rapid.T) {
	for _, owner := range m.owners {
		all, err := m.Devices(m.ctx, owner, "", 1000)
		m.must(t, err)
		page, total := m.searchAndCount(t, owner)
		if len(page.Rows) != len(all) {
			t.Fatalf("%d devices, %d found", len(all), len(page.Rows))
		}
		counts := map[string]int{}
		for i, d := range all {
			row := page.Rows[i]
			m.sameRow(t, d, row)
			for _, state := range states(row) {
				counts["state "+state]++
			}
			for field, value := range map[store.SearchField]string{store.FieldModel: d.ProdModel, store.FieldMaker: d.TPMMaker,
				store.FieldFirmware: d.TPMFirmware, store.FieldToken: d.TokenID} {
				counts[string(field)+" "+strings.ToLower(value)]++
			}
		}
		m.sameCounts(t, owner, total, len(all), counts)
		m.sameSearches(t, owner, all)
		arrived, err := m.Arrivals(m.ctx, owner, m.now, 366)
		m.must(t, err)
		sum := 0
		for _, n := range arrived {
			sum += n
		}
		if sum != m.arrived[owner] {
			t.Fatalf("%d arrivals, want %d", sum, m.arrived[owner])
		}
	}
}

// searchAndCount returns all devices of an owner, and the owner's counters at the same moment. An
// engine may write late that a device was seen, which makes a quiet device active. So
// searchAndCount reads the counters before and after the devices, and tries again until both
// readings are equal.
func (m *fleetModel) searchAndCount(t *rapid.T, owner string) (store.DevicePage, store.FleetCounts) {
	before, err := m.FleetCounts(m.ctx, owner)
	m.must(t, err)
	for {
		page, err := m.SearchDevices(m.ctx, store.DeviceSearch{Owner: owner, Limit: 1000})
		m.must(t, err)
		after, err := m.FleetCounts(m.ctx, owner)
		m.must(t, err)
		if maps.Equal(before.ByState, after.ByState) {
			return page, after
		}
		before = after
	}
}

func (m *fleetModel) sameRow(t *rapid.T, d store.Device, row store.DeviceRow) {
	want := store.DeviceRow{Device: d, Quiet: row.Quiet, Rev: -1}
	want.UserMeta, want.DeviceMeta = nil, nil
	var err error
	want.Boot, err = m.BootState(m.ctx, d.ID)
	m.must(t, err)
	if rev, err := m.Revision(m.ctx, d.ID, -1); err == nil {
		want.Rev, want.Status, want.Progress = rev.Rev, rev.Status, trail.ReadReport(rev.Progress).Percent
	}
	if got, want := fmt.Sprintf("%+v", row), fmt.Sprintf("%+v", want); got != want {
		t.Fatalf("got %s\nwant %s", got, want)
	}
}

func states(row store.DeviceRow) (list []string) {
	for state, is := range map[string]bool{
		store.StateActive: !row.Quiet, store.StateQuiet: row.Quiet, store.StateCloned: row.Clone != "",
		store.StateBootChanged: row.Boot == store.BootChanged || row.Boot == store.BootRefused,
		store.StateUpdating:    row.Rev >= 0 && !row.Status.Final(),
		store.StateFailed:      row.Status == trail.StatusError || row.Status == trail.StatusWontGo,
	} {
		if is {
			list = append(list, state)
		}
	}
	return list
}

func (m *fleetModel) sameCounts(t *rapid.T, owner string, n store.FleetCounts, total int, counts map[string]int) {
	got := map[string]int{}
	if n.Total != total {
		t.Fatalf("total %d, want %d", n.Total, total)
	}
	for state, n := range n.ByState {
		if n != 0 {
			got["state "+state] = n
		}
	}
	for _, field := range []store.SearchField{store.FieldModel, store.FieldMaker, store.FieldFirmware, store.FieldToken} {
		top, others, err := m.Facets(m.ctx, owner, field, 100)
		m.must(t, err)
		if others != 0 {
			t.Fatalf("%d others", others)
		}
		for _, one := range top {
			got[string(field)+" "+strings.ToLower(one.Value)] = one.N
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(counts) {
		t.Fatalf("counted %v, want %v", got, counts)
	}
}

func (m *fleetModel) sameSearches(t *rapid.T, owner string, all []store.Device) {
	for _, word := range []string{"raft", "sn", "nuc", "amd", "tug", "1"} {
		m.sameSearch(t, owner, all, said(word), func(d store.Device) bool {
			for _, field := range []string{d.Nick, d.ProdSerial, d.ProdModel, d.TPMMaker} {
				for _, part := range strings.FieldsFunc(strings.ToLower(field), func(r rune) bool { return r == ' ' || r == '-' || r == '.' }) {
					if strings.HasPrefix(part, word) {
						return true
					}
				}
			}
			return false
		})
	}
	for _, key := range []string{"site", "home", "site.room"} {
		m.sameSearch(t, owner, all, meta(key, "oslo"), func(d store.Device) bool {
			for _, of := range []map[string]any{d.UserMeta, d.DeviceMeta} {
				at := any(of)
				for _, part := range strings.Split(key, ".") {
					inside, _ := at.(map[string]any)
					at = inside[part]
				}
				if at == "oslo" {
					return true
				}
			}
			return false
		})
	}
}

func (m *fleetModel) sameSearch(t *rapid.T, owner string, all []store.Device, q store.DeviceSearch, fits func(store.Device) bool) {
	var want, got []string
	for _, d := range all {
		if fits(d) {
			want = append(want, d.Nick)
		}
	}
	q.Owner, q.Limit = owner, 1000
	page, err := m.SearchDevices(m.ctx, q)
	m.must(t, err)
	for _, row := range page.Rows {
		got = append(got, row.Nick)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("%+v finds %q, want %q", q, got, want)
	}
}

// The method `end` deletes all devices and then the accounts. After that, all counters must be 0.
func (m *fleetModel) end(t *rapid.T) {
	for i, owner := range m.owners {
		all, err := m.Devices(m.ctx, owner, "", 1000)
		m.must(t, err)
		for _, d := range all {
			m.must(t, m.DeleteDevice(m.ctx, owner, d.ID, m.now))
		}
		none, err := m.FleetCounts(m.ctx, owner)
		m.must(t, err)
		m.sameCounts(t, owner, none, 0, map[string]int{})
		m.must(t, m.DeleteAccount(m.ctx, owner, store.Event{Time: m.now, Kind: "account.deleted"}))
		n, err := m.Arrivals(m.ctx, owner, m.now, 366)
		m.must(t, err)
		if slices.ContainsFunc(n, func(n int) bool { return n != 0 }) {
			t.Fatalf("account %d was deleted, but the counts of its new devices remain", i)
		}
	}
}

package api_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/race"
	"gangway/wire/trail"
)

// counted counts the database calls of a device's pages, and the rows that these calls return.
type counted struct {
	api.Store
	calls, rows atomic.Int64
}

func (c *counted) read(rows int) {
	c.calls.Add(1)
	c.rows.Add(int64(rows))
}

func (c *counted) Device(ctx context.Context, id string) (store.Device, error) {
	c.read(1)
	return c.Store.Device(ctx, id)
}

func (c *counted) BootState(ctx context.Context, id string) (string, error) {
	c.read(1)
	return c.Store.BootState(ctx, id)
}

func (c *counted) Enrolment(ctx context.Context, h store.Hash) (store.Enrolment, error) {
	c.read(1)
	return c.Store.Enrolment(ctx, h)
}

func (c *counted) BootHistory(ctx context.Context, id string) ([]store.Boot, error) {
	list, err := c.Store.BootHistory(ctx, id)
	c.read(len(list))
	return list, err
}

func (c *counted) LatestBoot(ctx context.Context, id string) (store.Boot, error) {
	c.read(1)
	return c.Store.LatestBoot(ctx, id)
}

func (c *counted) BootReference(ctx context.Context, id string) (store.BootReference, error) {
	c.read(1)
	return c.Store.BootReference(ctx, id)
}

func (c *counted) BootRefusal(ctx context.Context, id string) (store.BootRefusal, error) {
	c.read(1)
	return c.Store.BootRefusal(ctx, id)
}

func (c *counted) BootRequested(ctx context.Context, id string) (bool, error) {
	c.read(1)
	return c.Store.BootRequested(ctx, id)
}

func (c *counted) Clone(ctx context.Context, id string) (store.Clone, error) {
	c.read(1)
	return c.Store.Clone(ctx, id)
}

func (c *counted) WaitingByEK(ctx context.Context, owner string, ek store.Hash, now time.Time) (store.WaitingDevice, error) {
	c.read(1)
	return c.Store.WaitingByEK(ctx, owner, ek, now)
}

func (c *counted) Trail(ctx context.Context, id string) (store.Trail, error) {
	c.read(1)
	return c.Store.Trail(ctx, id)
}

func (c *counted) TrailSummary(ctx context.Context, id string) (store.TrailSummary, error) {
	c.read(1)
	return c.Store.TrailSummary(ctx, id)
}

func (c *counted) Revision(ctx context.Context, id string, rev int) (store.Revision, error) {
	c.read(1)
	return c.Store.Revision(ctx, id, rev)
}

func (c *counted) RevisionHeads(ctx context.Context, id string, before, limit int) ([]store.Revision, error) {
	list, err := c.Store.RevisionHeads(ctx, id, before, limit)
	c.read(len(list))
	return list, err
}

func (c *counted) Events(ctx context.Context, f store.EventFilter) ([]store.Event, error) {
	list, err := c.Store.Events(ctx, f)
	c.read(len(list))
	return list, err
}

func (c *counted) Logs(ctx context.Context, f store.LogFilter) ([]store.LogEntry, error) {
	list, err := c.Store.Logs(ctx, f)
	c.read(len(list))
	return list, err
}

// The page of a device with a long history makes no more database calls than the page of a new
// device. The number of rows and bytes is bounded.
func TestDevicePageDoesBoundedWork(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	var reads *counted
	f := fleetOf(t, newSceneWith(t, func(c *api.Config) {
		reads = &counted{Store: c.Store}
		c.Store = reads
	}))
	long, ctx := f.boatID, t.Context()
	for i := range 300 {
		if err := f.Store.AppendEvent(ctx, store.Event{Time: f.Now(), Kind: "device.test", Owner: f.Owner.ID, Device: long, Message: fmt.Sprint("Event ", i, ".")}); err != nil {
			t.Fatal(err)
		}
	}
	state := must(trail.ParseState([]byte(`{` + systemSpec + `,"big.json":"` + strings.Repeat("x", 200<<10) + `"}`)))(t)
	for range 60 {
		must(f.Store.AddRevision(ctx, store.Revision{Device: long, Owner: f.Owner.ID, Rev: -1, Status: trail.StatusNew, State: state.JSON, Meta: []byte("{}"), Progress: []byte(`{}`), Posted: f.Now(), Modified: f.Now()}, 1<<40))(t)
	}
	var lines []store.LogEntry
	for range 3000 {
		lines = append(lines, store.LogEntry{Level: "INFO", Source: "s", Message: strings.Repeat("m", 300)})
	}
	if err := f.Store.AppendLogs(ctx, long, f.Owner.ID, lines, store.LogBounds{Rows: 20_000, Bytes: 8 << 20}, f.Now()); err != nil {
		t.Fatal(err)
	}
	meta := map[string]any{}
	for i := range 2000 {
		meta[fmt.Sprint("key", i)] = strings.Repeat("v", 100)
	}
	if err := f.Store.ReplaceDeviceMeta(ctx, long, meta); err != nil {
		t.Fatal(err)
	}
	_, young := f.onboarded(t, f.tok)
	want[api.TrailView](f.boat, "POST", "/trails/", `{`+systemSpec+`}`, 200)
	b := f.browser(t)
	b.signIn()
	cost := func(id, tab string) (calls, rows int64, size int) {
		reads.calls.Store(0)
		reads.rows.Store(0)
		size = len(b.tab(id, tab))
		return reads.calls.Load(), reads.rows.Load(), size
	}
	for _, tab := range append(tabs, "revisions&rev=60", "revisions&post=60", "logs&text=m", "events&routine=1") {
		calls, rows, size := cost(long, tab)
		if calls > 16 || rows > 300 || size > 350<<10 || calls < 2 {
			t.Errorf("%q: %d calls, %d rows, %d bytes", tab, calls, rows, size)
		}
		if strings.Contains(tab, "&") {
			continue
		}
		if few, _, _ := cost(young, tab); calls > few+4 { // the young device has no trail
			t.Errorf("%q: %d calls for a long history, %d for none", tab, calls, few)
		}
	}
}

package sqlstore_test

import (
	"context"
	"fmt"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"gangway/hub/store"
	"gangway/hub/store/sqlite"
	"gangway/hub/store/sqlstore"
	"gangway/hub/store/storetest"
)

// fleetOf opens a store that has one account with n devices. Each device has device-meta as in an
// agent's report.
func fleetOf(b *testing.B, n int) (s *sqlite.Store, ids []string) {
	b.Helper()
	ctx := context.Background()
	s, err := sqlite.Open(ctx, filepath.Join(b.TempDir(), "hub.db"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	owner := storetest.Account("ada")
	if err := s.CreateAccount(ctx, owner); err != nil {
		b.Fatal(err)
	}
	for i := range n {
		d := store.Device{ID: storetest.ID(fmt.Sprint(i)), Nick: fmt.Sprint("raft-", i), Owner: owner.ID, Created: storetest.Epoch}
		if _, err := s.CreateDevice(ctx, d, store.Hash{1}); err != nil {
			b.Fatal(err)
		}
		if err := s.PatchDeviceMeta(ctx, d.ID, report(b, 0)); err != nil {
			b.Fatal(err)
		}
		ids = append(ids, d.ID)
	}
	return s, ids
}

// report returns device-meta as in an agent's report. Some values depend on `n`, the number of the
// report.
func report(b *testing.B, n int) store.MetaPatch {
	b.Helper()
	m := map[string]any{"sysinfo": map[string]any{"uptime": n, "loads.0": n * 3, "freeram": 1 << 30, "procs": 200, "totalram": 1 << 33},
		"storage": map[string]any{"free": 1<<35 - n, "total": 1 << 36, "reserved": 0, "real_free": 1 << 35}}
	for i := range 20 {
		m[fmt.Sprint("pantavisor.key", i)] = fmt.Sprint("a value of usual length ", i)
	}
	for i := range 3 {
		m[fmt.Sprint("interfaces.eth", i)] = []any{"192.0.2.1/24", "2001:db8::1/64", "fe80::1/64"}
	}
	patch, err := store.NewMetaPatch(m)
	if err != nil {
		b.Fatal(err)
	}
	return patch
}

func spent(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkFlush measures how long it takes to write the sightings of 128 devices.
func BenchmarkFlush(b *testing.B) {
	s, ids := fleetOf(b, 2000)
	used := spent(b)
	b.ResetTimer()
	for n := range b.N {
		for i := range sqlstore.FlushChunk {
			if err := s.MarkDeviceSeen(context.Background(), ids[(n*sqlstore.FlushChunk+i*7)%len(ids)], "192.0.2.1", storetest.Epoch.Add(time.Duration(n+1)*time.Minute)); err != nil {
				b.Fatal(err)
			}
		}
		if err := s.Flush(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(spent(b)-used)/float64(b.N)/1000, "cpu-µs/op")
}

// BenchmarkReport measures one patch of the device-meta, as each report of an agent causes it.
func BenchmarkReport(b *testing.B) {
	s, ids := fleetOf(b, 200)
	used := spent(b)
	b.ResetTimer()
	for n := range b.N {
		if err := s.PatchDeviceMeta(context.Background(), ids[n%len(ids)], report(b, n)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(spent(b)-used)/float64(b.N)/1000, "cpu-µs/op")
}

package sqlite_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gangway/hub/store"
	"gangway/hub/store/sqlite"
	"gangway/hub/store/storetest"
)

// harbour opens a new store at `path`, with one account, and one join token whose uses are not
// limited.
func harbour(tb testing.TB, path string) (*sqlite.Store, store.JoinToken) {
	tb.Helper()
	s, err := sqlite.Open(context.Background(), path)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	owner := storetest.Account("harbourmaster")
	token := storetest.JoinToken(owner.ID, "fleet", 0)
	if err := s.CreateAccount(context.Background(), owner); err != nil {
		tb.Fatal(err)
	}
	if err := s.CreateJoinToken(context.Background(), token); err != nil {
		tb.Fatal(err)
	}
	return s, token
}

// cpu returns the processor time (user and system) that this process has used.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// concurrently runs `work` b.N times in many goroutines. It reports the processor time per
// operation, which, unlike the elapsed time, does not depend on the speed of the disk.
func concurrently(b *testing.B, s *sqlite.Store, work func(n int) error) {
	var n atomic.Int64
	b.SetParallelism(32)
	stats, used := s.Stats(), cpu(b)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := work(int(n.Add(1) - 1)); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.StopTimer()
	b.ReportMetric(float64(cpu(b)-used)/float64(b.N), "cpu-ns/op")
	if after := s.Stats(); after.Commits > stats.Commits {
		b.ReportMetric(float64(after.Ops-stats.Ops)/float64(after.Commits-stats.Commits), "ops/commit")
	}
}

func enrolments(n int, token store.JoinToken) []store.Enrolment {
	all := make([]store.Enrolment, n)
	for i := range all {
		all[i] = storetest.Machine{Name: fmt.Sprint(i)}.Enrolment(token.Owner, token.ID)
	}
	return all
}

func BenchmarkBeginEnrolment(b *testing.B) {
	s, token := harbour(b, filepath.Join(b.TempDir(), "hub.db"))
	all := enrolments(b.N, token)
	concurrently(b, s, func(n int) error {
		_, err := s.BeginEnrolment(context.Background(), all[n], storetest.Epoch)
		return err
	})
}

func BenchmarkActivate(b *testing.B) {
	s, token := harbour(b, filepath.Join(b.TempDir(), "hub.db"))
	all := enrolments(b.N, token)
	concurrently(b, s, func(n int) error {
		_, err := s.BeginEnrolment(context.Background(), all[n], storetest.Epoch)
		return err
	})
	concurrently(b, s, func(n int) error {
		_, err := s.Activate(context.Background(), store.Activation{
			IDevIDHash: all[n].IDevIDHash,
			Nick:       fmt.Sprint("otter-", n),
			Now:        storetest.Epoch,
			Addr:       "192.0.2.1:443",
		})
		return err
	})
}

// BenchmarkOnboard measures whole onboardings: BeginEnrolment and then Activate for each device.
func BenchmarkOnboard(b *testing.B) {
	s, token := harbour(b, filepath.Join(b.TempDir(), "hub.db"))
	all := enrolments(b.N, token)
	concurrently(b, s, func(n int) error {
		if _, err := s.BeginEnrolment(context.Background(), all[n], storetest.Epoch); err != nil {
			return err
		}
		_, err := s.Activate(context.Background(), store.Activation{
			IDevIDHash: all[n].IDevIDHash,
			Nick:       fmt.Sprint("otter-", n),
			Now:        storetest.Epoch,
			Addr:       "192.0.2.1:443",
		})
		return err
	})
}

func BenchmarkDeviceByCertificate(b *testing.B) {
	const fleet = 1000
	s, token := harbour(b, filepath.Join(b.TempDir(), "hub.db"))
	all := enrolments(fleet, token)
	for i, e := range all {
		activate(b, s, e, fmt.Sprint("otter-", i))
	}
	concurrently(b, s, func(n int) error {
		_, err := s.DeviceByCertificate(context.Background(), all[n%fleet].IDevIDHash)
		return err
	})
}

// activate begins and activates an enrolment.
func activate(tb testing.TB, s storetest.Engine, e store.Enrolment, nick string) store.Device {
	tb.Helper()
	if _, err := s.BeginEnrolment(context.Background(), e, storetest.Epoch); err != nil {
		tb.Fatal(err)
	}
	d, err := s.Activate(context.Background(), store.Activation{
		IDevIDHash: e.IDevIDHash,
		Nick:       nick,
		Now:        storetest.Epoch,
		Addr:       "192.0.2.1:443",
	})
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

package postgres_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"gangway/hub/store"
	"gangway/hub/store/postgres"
	"gangway/hub/store/postgres/pgtest"
	"gangway/hub/store/storetest"
)

// BenchmarkOnboard measures whole onboardings, BeginEnrolment and then Activate for each device,
// with one join token and with commits that wait for the disk. It reports how many operations share
// a commit, and how many statements an onboarding needs. Compare it with the benchmark of the same
// name in package sqlite, in the same run.
func BenchmarkOnboard(b *testing.B) {
	own, err := pgtest.Start(true)
	if err != nil {
		b.Skip(err)
	}
	defer own.Stop()
	for _, writers := range []int{1, 2, 4} {
		b.Run(fmt.Sprint("writers=", writers), func(b *testing.B) {
			name := fmt.Sprintf("bench%d_%d", writers, b.N)
			if _, err := own.Query(b.Context(), "postgres", "CREATE DATABASE "+name); err != nil {
				b.Fatal(err)
			}
			s := open(b, postgres.Config{URL: own.URL(name), Writers: writers})
			owner := storetest.Account("harbourmaster")
			token := storetest.JoinToken(owner.ID, "fleet", 0)
			if err := s.CreateAccount(b.Context(), owner); err != nil {
				b.Fatal(err)
			}
			if err := s.CreateJoinToken(b.Context(), token); err != nil {
				b.Fatal(err)
			}
			all := make([]store.Enrolment, b.N)
			for i := range all {
				all[i] = storetest.Machine{Name: fmt.Sprint(i)}.Enrolment(token.Owner, token.ID)
			}
			var next atomic.Int64
			stats, work := s.Stats(), s.Work()
			b.SetParallelism(32)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					n := int(next.Add(1) - 1)
					if _, err := s.BeginEnrolment(context.Background(), all[n], storetest.Epoch); err != nil {
						b.Error(err)
						return
					}
					if _, err := s.Activate(context.Background(), store.Activation{
						IDevIDHash: all[n].IDevIDHash, Nick: fmt.Sprint("otter-", n), Now: storetest.Epoch, Addr: "192.0.2.1:443",
					}); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.StopTimer()
			after := s.Stats()
			b.ReportMetric(float64(after.Ops-stats.Ops)/float64(after.Commits-stats.Commits), "ops/commit")
			b.ReportMetric(float64(s.Work().Statements-work.Statements)/float64(b.N), "statements/op")
		})
	}
}

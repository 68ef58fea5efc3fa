package sqlite_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gangway/hub/store"
	"gangway/hub/store/storetest"
)

// logPost returns the log lines of a device's n-th request, in the form that Pantavisor sends.
func logPost(r *rand.Rand, n, lines int) []store.LogEntry {
	list := make([]store.LogEntry, lines)
	for i := range list {
		e := &list[i]
		*e = store.LogEntry{Sec: 1764417600 + int64(n), Nano: r.Int64N(1e9), Level: "INFO", Source: "/pantavisor.log", Platform: "pantavisor", Rev: fmt.Sprint(n / 500)}
		switch r.IntN(4) {
		case 0:
			e.Message = fmt.Sprintf("(controller) next state: STATE_WAIT, connection id %d, uptime %d s", r.IntN(1000), n*3+i)
		case 1:
			e.Level, e.Message = "DEBUG", fmt.Sprintf("(storage) total disk space: %d B, free disk space: %d B", 4_000_000_000, 1_000_000_000+r.IntN(1e8))
		case 2:
			e.Source, e.Platform = "/lxc/console.log", "alpine-connman"
			e.Message = fmt.Sprintf("connmand[%d]: eth0 {RX} %d packets %d bytes", 300+r.IntN(20), r.IntN(1e6), r.IntN(1e9))
		default:
			e.Level, e.Message = "WARN", fmt.Sprintf("(network) request %016x took %d ms", r.Uint64(), r.IntN(3000))
		}
	}
	return list
}

// BenchmarkAppendLogs stores log lines of ten devices, which send `lines` lines in each request. It
// reports, for each line, the processor time and the space in the database.
func BenchmarkAppendLogs(b *testing.B) {
	for _, lines := range []int{1, 5, 50, 200} {
		b.Run(fmt.Sprint(lines), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "hub.db")
			s, _ := harbour(b, path)
			r := rand.New(rand.NewPCG(1, 2))
			posts := max(20_000/lines, 1)
			b.ResetTimer()
			for range b.N {
				used := cpu(b)
				for n := range posts {
					if err := s.AppendLogs(context.Background(), storetest.ID(fmt.Sprint("d", n%10)), storetest.Account("harbourmaster").ID, logPost(r, n, lines),
						store.LogBounds{Rows: 1 << 30, Bytes: 1 << 40}, storetest.Epoch.Add(time.Duration(n)*time.Second)); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(cpu(b)-used)/float64(posts*lines), "cpu-ns/line")
			}
			b.StopTimer()
			if err := s.Close(); err != nil { // moves the write-ahead log into the file
				b.Fatal(err)
			}
			info, err := os.Stat(path)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(info.Size())/float64(b.N*posts*lines), "B/line")
		})
	}
}

// BenchmarkReadLogs reads from a log of 20,000 lines in two ways: a page of 50 lines, and a search
// of all lines for a text that only the oldest one contains.
func BenchmarkReadLogs(b *testing.B) {
	s, _ := harbour(b, filepath.Join(b.TempDir(), "hub.db"))
	r := rand.New(rand.NewPCG(1, 2))
	owner := storetest.Account("harbourmaster").ID
	for n := range 400 {
		list := logPost(r, n, 50)
		if n == 0 {
			list[0].Message = "needle"
		}
		if err := s.AppendLogs(context.Background(), storetest.ID("d"), owner, list, store.LogBounds{Rows: 1 << 30, Bytes: 1 << 40}, storetest.Epoch.Add(time.Duration(n)*time.Second)); err != nil {
			b.Fatal(err)
		}
	}
	for name, f := range map[string]store.LogFilter{
		"page":   {Owner: owner, Limit: 50, NewestFirst: true},
		"search": {Owner: owner, Devices: []string{storetest.ID("d")}, Text: "NEEDLE", Limit: 50, NewestFirst: true},
	} {
		b.Run(name, func(b *testing.B) {
			for range b.N {
				list, err := s.Logs(context.Background(), f)
				if err != nil || len(list) == 0 {
					b.Fatal(len(list), err)
				}
			}
		})
	}
}

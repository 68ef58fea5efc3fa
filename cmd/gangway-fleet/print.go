package main

import (
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"gangway/internal/fleet/load"

	"github.com/dustin/go-humanize"
	"golang.org/x/term"
)

// screen shows the progress of a run. On a terminal, it rewrites a single line; elsewhere, it
// prints a new line every ten seconds.
type screen struct {
	w        io.Writer
	terminal *os.File // nil: `w` is not a terminal

	mu    sync.Mutex
	shown bool // the terminal's line has text
	next  time.Time
	phase string
}

const showEvery = 10 * time.Second

func newScreen(w io.Writer) *screen {
	s := &screen{w: w}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		s.terminal = f
	}
	return s
}

func (s *screen) show(p load.Progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	line := progressLine(p)
	if s.terminal != nil {
		// A line that wraps cannot be replaced.
		if width, _, err := term.GetSize(int(s.terminal.Fd())); err == nil && width > 1 && len(line) >= width {
			line = line[:width-1]
		}
		fmt.Fprintf(s.w, "\r\x1b[K%s", line)
		s.shown = true
		return
	}
	if now := time.Now(); p.Phase != s.phase || !now.Before(s.next) {
		s.phase, s.next = p.Phase, now.Add(showEvery)
		fmt.Fprintln(s.w, line)
	}
}

// clear removes the progress line from a terminal.
func (s *screen) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shown {
		fmt.Fprint(s.w, "\r\x1b[K")
	}
}

func progressLine(p load.Progress) string {
	switch p.Phase {
	case load.PhaseMeasure, load.PhaseDrain:
		return fmt.Sprintf("%s: %s of %s, %d answered, %d failed, %d missed, %d outstanding, p99 %s",
			p.Phase, p.Elapsed.Round(time.Second), p.Of.Round(time.Second), p.Answered, p.Failed, p.Missed, p.Outstanding, p.P99.Round(100*time.Microsecond))
	case load.PhaseSettle:
		return fmt.Sprintf("%s for %s", p.Phase, p.Of)
	}
	return fmt.Sprintf("%s: %d of %d devices", p.Phase, p.Done, p.Total)
}

// printReport prints the report as tables.
func printReport(w io.Writer, r *load.Report) {
	fmt.Fprintf(w, "%d devices, %d of them active. Requests started for %.1f s (arrivals: %s); the last answer came after %.1f s.\n\n", r.Devices, r.Active, r.Scheduled, r.Arrivals, r.Seconds)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "kind\trate/s\tscheduled\tok\trefused\tfailed\tmissed\tp50 ms\tp90 ms\tp99 ms\tp99.9 ms\tmax ms\t")
	for _, k := range r.Kinds {
		l := k.Latency
		fmt.Fprintf(t, "%s\t%.4g\t%d\t%d\t%d\t%d\t%d\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t\n", k.Kind, k.Rate, k.Scheduled, k.OK, sum(k.Refused), sum(k.Errors), sum(k.Missed), l.P50, l.P90, l.P99, l.P999, l.Max)
	}
	t.Flush()
	for _, k := range r.Kinds {
		for _, part := range []struct {
			what string
			n    map[string]int64
		}{{"refused, as they must be", k.Refused}, {"failed", k.Errors}, {"missed", k.Missed}} {
			if len(part.n) > 0 {
				fmt.Fprintf(w, "%s, %s: %s\n", k.Kind, part.what, counts(part.n))
			}
		}
	}
	fmt.Fprintln(w)
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "request\tanswered\tstatuses\twithout answer\tp50 ms\tp99 ms")
	for _, q := range r.Requests {
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%.1f\t%.1f\n", q.Route, q.Answered, counts(q.Statuses), counts(q.Errors), q.Latency.P50, q.Latency.P99)
	}
	t.Flush()
	fmt.Fprintf(w, "\n%d requests, %d TLS handshakes, %d reconnects\n", r.Total.Requests, r.Total.Handshakes, r.Total.Reconnects)
	if h := r.HubProcess; h != nil {
		fmt.Fprintf(w, "hub (%s): %.2f CPU seconds: %.3f CPU ms a request, %.3f CPU ms an operation, %.2f CPUs on average; memory %s\n", h.Source, h.CPU, 1000*h.PerRequest, 1000*h.PerOperation, h.Load, humanize.IBytes(uint64(max(0, h.After.RSS))))
	}
	g := r.Generator
	fmt.Fprintf(w, "fleet: %.2f CPU seconds, largest memory %s; requests started late by %.1f ms (p50), %.1f ms (p99)\n", g.CPU, humanize.IBytes(uint64(max(0, g.MaxRSS))), g.StartDelay.P50, g.StartDelay.P99)
	if r.Interrupted {
		fmt.Fprintln(w, "The run was interrupted.")
	}
}

func sum(n map[string]int64) (total int64) {
	for _, v := range n {
		total += v
	}
	return total
}

func counts(n map[string]int64) string {
	var list []string
	for _, code := range slices.Sorted(maps.Keys(n)) {
		list = append(list, fmt.Sprintf("%d %s", n[code], code))
	}
	if len(list) == 0 {
		return "-"
	}
	return strings.Join(list, ", ")
}

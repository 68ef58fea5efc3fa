package load

import (
	"math"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// longest is the longest time that a histogram records. A longer time counts as this time.
const longest = 10 * time.Minute

// times records durations with three significant figures.
type times struct {
	mu sync.Mutex
	h  *hdrhistogram.Histogram // microseconds
}

func newTimes() *times {
	return &times{h: hdrhistogram.New(1, longest.Microseconds(), 3)}
}

func (t *times) record(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	// RecordValue fails only for values outside the range.
	_ = t.h.RecordValue(min(max(d.Microseconds(), 1), longest.Microseconds()))
}

// Latency is a summary of durations, in milliseconds.
type Latency struct {
	Count int64   `json:"count"`
	Mean  float64 `json:"mean"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	P999  float64 `json:"p99_9"`
	Max   float64 `json:"max"`
}

func (t *times) summary() Latency {
	t.mu.Lock()
	defer t.mu.Unlock()
	ms := func(us float64) float64 { return math.Round(us) / 1000 }
	at := func(q float64) float64 { return ms(float64(t.h.ValueAtQuantile(q))) }
	if t.h.TotalCount() == 0 {
		return Latency{}
	}
	return Latency{t.h.TotalCount(), ms(t.h.Mean()), at(50), at(90), at(99), at(99.9), ms(float64(t.h.Max()))}
}

// tally counts results by code.
type tally struct {
	mu sync.Mutex
	n  map[string]int64
}

func (t *tally) add(code string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == nil {
		t.n = map[string]int64{}
	}
	t.n[code]++
}

func (t *tally) sum() (sum int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.n {
		sum += n
	}
	return sum
}

func (t *tally) copy() map[string]int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := make(map[string]int64, len(t.n))
	for k, n := range t.n {
		c[k] = n
	}
	return c
}

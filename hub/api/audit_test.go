package api

import (
	"fmt"
	"testing"
	"time"

	"gangway/hub/store"
	"gangway/internal/brief"
)

// If the hub cannot write a count of events to the database, it keeps the count and writes it with
// the next flush. It counts no event twice.
func TestEventCountersLoseNothingThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	var counts eventCounters
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	event := func(n int) store.Event {
		return store.Event{Time: now.Add(time.Duration(n) * time.Second), Kind: "k", Addr: fmt.Sprint(n), Message: fmt.Sprint(n)}
	}
	first := counts.add(event(0), 0)
	if first == nil || counts.add(event(1), 0) != nil || counts.add(event(2), 0) != nil {
		t.Fatal("want only the first event written at once")
	}
	counts.putBack([]store.Event{*first})
	failed := counts.take(now)
	if len(failed) != 1 || failed[0].Count != 3 || !failed[0].Time.Equal(now) || failed[0].Addr != "2" {
		t.Fatalf("%s", brief.Of(failed))
	}
	counts.add(event(3), 0)
	counts.putBack(failed)
	last := counts.take(now)
	if len(last) != 1 || last[0].Count != 4 || !last[0].Last.Equal(now.Add(3*time.Second)) || last[0].Message != "3" {
		t.Fatalf("%s", brief.Of(last))
	}
	if again := counts.take(now); len(again) != 0 {
		t.Errorf("%s", brief.Of(again))
	}
}

// eventCounters keeps at most maxCounters counts in memory. It drops a count after a day.
func TestEventCountersAreBounded(t *testing.T) {
	t.Parallel()
	var counts eventCounters
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	event := func(n int) store.Event { return store.Event{Time: now, Kind: "k", Device: fmt.Sprint(n)} }
	for n := range maxCounters {
		counts.add(event(n), 0)
	}
	for range 2 {
		if counts.add(event(maxCounters), 0) == nil {
			t.Error("an event without a counter is not written at once")
		}
	}
	if counts.take(now.Add(24 * time.Hour)); len(counts.byKey) != 0 {
		t.Errorf("%d counts are held after a day", len(counts.byKey))
	}
}

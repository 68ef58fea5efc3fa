package api

import (
	"testing"
	"time"
)

// Only the time in which the hub was running counts as a device's silence. After a start of the
// hub, or after the hub's machine slept, the silence begins anew.
func TestSilenceWhileTheHubWasDownDoesNotCount(t *testing.T) {
	t.Parallel()
	var up uptime
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i, c := range []struct{ wait, since time.Duration }{
		{0, 0}, {time.Minute, time.Minute}, {time.Minute, 2 * time.Minute}, {4 * time.Minute, 6 * time.Minute},
		{time.Hour, 0}, {time.Minute, time.Minute}, {-time.Second, 0}, {time.Minute, time.Minute},
	} {
		at = at.Add(c.wait)
		if got := at.Sub(up.since(at)); got != c.since {
			t.Errorf("%d: up for %v, want %v", i, got, c.since)
		}
	}
}

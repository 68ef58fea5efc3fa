package agent

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"
)

// Attack: time servers send forged answers, to make a certificate valid again that expired long
// ago. Any number of answers can move a plausible clock by at most a day in total. If the clock is
// clearly wrong, a time server's answer sets it.
func TestTimeServerMovesNoClockThatMayBeRightByMoreThanADay(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t)
	roots := []*x509.Certificate{ca.cert}
	for name, c := range map[string]struct {
		clock time.Time
		said  []time.Time // the time servers' answers, one after the other
		want  time.Time   // the clock after the last answer
		err   string      // the error of the last answer
	}{
		"1970":                     {time.Unix(0, 0), []time.Time{day(1550)}, day(1550), ""},
		"2099":                     {time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC), []time.Time{day(1550)}, day(1550), ""},
		"local time":               {day(1550).Add(2 * time.Hour), []time.Time{day(1550)}, day(1550), ""},
		"behind":                   {day(1550).Add(-time.Hour), []time.Time{day(1550)}, day(1550), ""},
		"right":                    {day(1550), []time.Time{day(1550).Add(50 * time.Millisecond)}, day(1550), ""},
		"back by a month":          {day(1550), []time.Time{day(1520)}, day(1550), "a change of more than a day needs the hub's confirmation"},
		"forward by a month":       {day(1550), []time.Time{day(1580)}, day(1550), "a change of more than a day needs the hub's confirmation"},
		"back by day and day":      {day(1550), []time.Time{day(1549).Add(time.Hour), day(1548).Add(2 * time.Hour)}, day(1549).Add(time.Hour), "a change of more than a day needs the hub's confirmation"},
		"forth, and back":          {day(1550), []time.Time{day(1551).Add(-time.Hour), day(1549).Add(time.Hour)}, day(1549).Add(time.Hour), ""},
		"before the hub was made":  {time.Unix(0, 0), []time.Time{day(900)}, time.Unix(0, 0), "which is not plausible"},
		"beyond the hub's life":    {time.Unix(0, 0), []time.Time{day(30000)}, time.Unix(0, 0), "which is not plausible"},
		"1970, and then by a year": {time.Unix(0, 0), []time.Time{day(1550), day(1900)}, day(1550), "a change of more than a day needs the hub's confirmation"},
	} {
		t.Run(name, func(t *testing.T) {
			clock := c.clock
			k := newTimeKeeper(nil, func(is time.Time) error { clock = is; return nil }, t.Logf)
			k.now = func() time.Time { return clock }
			k.rebase(clock)
			var err error
			for _, is := range c.said {
				err = k.heard("ntp.example", is, roots)
			}
			if !clock.Equal(c.want) {
				t.Errorf("the clock is %s", clock.UTC())
			}
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// The hub has priority over time servers: the time servers may change the machine's clock by at
// most a day from the time that the hub set.
func TestTimeServerFollowsTheHubsWord(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t)
	clock := day(1400)
	k := newTimeKeeper(nil, func(is time.Time) error { clock = is; return nil }, t.Logf)
	k.now = func() time.Time { return clock }
	k.rebase(clock)
	clock = day(1550)
	k.rebase(clock)
	if err := k.heard("ntp.example", day(1550).Add(time.Minute), []*x509.Certificate{ca.cert}); err != nil || !clock.Equal(day(1550).Add(time.Minute)) {
		t.Error(clock, err)
	}
}

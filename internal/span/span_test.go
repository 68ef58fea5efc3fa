package span

import (
	"math"
	"strings"
	"testing"
	"testing/quick"
	"time"
)

func TestSpans(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"30d": 30 * day, "2w": 14 * day, "1w2d3h": 9*day + 3*time.Hour, "1.5d": 36 * time.Hour, "90s": 90 * time.Second, "0": 0,
		"1h30m": 90 * time.Minute, "5min": 5 * time.Minute, "30 days": 30 * day, "1 week": 7 * day, "2Hours": 2 * time.Hour,
		"-1s": -time.Second, "250ms": 250 * time.Millisecond, "720h": 30 * day,
	} {
		if got, err := Parse(text); err != nil || got != want {
			t.Errorf("%q is %v, %v; want %v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"5": "5s, 5m, 5h or 5d", "1y": `unknown unit "y"`, "": "a number and a unit", "soon": "a number and a unit", "1h-5m": "a number and a unit",
		"3mo": `unknown unit "mo"`, "99999999w": "longer than", "٣d": "a number and a unit", strings.Repeat("9", 400) + "d": "a number and a unit",
	} {
		if got, err := Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q is %v, %v; want an error with %q", text, got, err, want)
		}
	}
}

// Parse parses the output of Format and of time.Duration.String.
func TestSpansAreReadAsWritten(t *testing.T) {
	t.Parallel()
	check := func(n int64) bool {
		d := time.Duration(n % (100 * 365 * 24 * int64(time.Hour)))
		near := func(text string) bool {
			got, err := Parse(text)
			return err == nil && math.Abs(float64(got-d)) <= math.Abs(float64(d))*1e-12+1
		}
		return near(d.String()) && near(d.Truncate(time.Second).String()) == (d%time.Second == 0) || near(d.String())
	}
	if err := quick.Check(check, nil); err != nil {
		t.Error(err)
	}
	for text, want := range map[string]time.Duration{"30d": 720 * time.Hour, "1h30m": 90 * time.Minute, "10m": 10 * time.Minute, "1d12h": 36 * time.Hour} {
		if got := Format(want); got != text {
			t.Errorf("%v is written %q, want %q", want, got, text)
		}
	}
}

// Package span parses and formats durations as people type them, such as 30d, 1h30m or 2 weeks, in
// flags and in forms.
package span

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// units maps the units of a duration to their lengths. A day is always 24 hours and a week seven
// days, even if daylight saving time begins or ends in that time.
var units = map[string]time.Duration{
	"ns": time.Nanosecond, "us": time.Microsecond, "µs": time.Microsecond, "ms": time.Millisecond,
	"s": time.Second, "sec": time.Second, "second": time.Second,
	"m": time.Minute, "min": time.Minute, "minute": time.Minute,
	"h": time.Hour, "hour": time.Hour,
	"d": 24 * time.Hour, "day": 24 * time.Hour,
	"w": 7 * 24 * time.Hour, "week": 7 * 24 * time.Hour,
}

var partOfSpan = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?|\.[0-9]+) ?([\p{L}]*) ?`) })

// Parse parses a duration: numbers with units, such as 90s, 1h30m, 30d or 2w. It accepts everything
// that time.ParseDuration accepts. The text of an error is the end of a sentence, to be printed
// after the input `text`.
func Parse(text string) (time.Duration, error) {
	rest, negative := strings.CutPrefix(strings.TrimSpace(text), "-")
	rest = strings.TrimPrefix(rest, "+")
	if rest == "0" {
		return 0, nil
	}
	if rest == "" {
		return 0, errors.New("is not a duration: write a number and a unit, such as 90s, 12h or 30d")
	}
	var sum float64
	for rest != "" {
		m := partOfSpan().FindStringSubmatch(rest)
		if m == nil {
			return 0, errors.New("is not a duration: write a number and a unit, such as 90s, 12h or 30d")
		}
		if m[2] == "" {
			return 0, fmt.Errorf("has no unit: write %ss, %[1]sm, %[1]sh or %[1]sd for seconds, minutes, hours or days", m[1])
		}
		unit, ok := units[m[2]]
		if !ok {
			unit, ok = units[strings.TrimSuffix(strings.ToLower(m[2]), "s")]
		}
		if !ok {
			return 0, fmt.Errorf("has the unknown unit %q: the units are s, m (minutes), h, d (24 hours) and w (7 days)", m[2])
		}
		n, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			return 0, errors.New("is not a duration: write a number and a unit, such as 90s, 12h or 30d")
		}
		sum += n * float64(unit)
		rest = rest[len(m[0]):]
	}
	if sum > math.MaxInt64/2 {
		return 0, errors.New("is longer than 146 years: write a shorter duration")
	}
	d := time.Duration(math.Round(sum))
	if negative {
		d = -d
	}
	return d, nil
}

// Format returns a duration as a text that Parse reads. The largest unit is the day: 30d, 1h30m,
// 5s.
func Format(d time.Duration) string {
	if d <= 0 || d%time.Second != 0 {
		return d.String()
	}
	var b strings.Builder
	for _, u := range []struct {
		name string
		unit time.Duration
	}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}} {
		if n := d / u.unit; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, u.name)
			d -= n * u.unit
		}
	}
	return b.String()
}

package cmdline

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// units are the units of a span. A day is 24 hours, and a week seven days, whatever the clock of a
// time zone does.
var units = map[string]time.Duration{
	"ns": time.Nanosecond, "us": time.Microsecond, "µs": time.Microsecond, "ms": time.Millisecond,
	"s": time.Second, "sec": time.Second, "second": time.Second,
	"m": time.Minute, "min": time.Minute, "minute": time.Minute,
	"h": time.Hour, "hour": time.Hour,
	"d": 24 * time.Hour, "day": 24 * time.Hour,
	"w": 7 * 24 * time.Hour, "week": 7 * 24 * time.Hour,
}

var partOfSpan = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?|\.[0-9]+) ?([\p{L}]*) ?`)

// ParseSpan reads a span of time: numbers with units, such as 90s, 1h30m, 30d or 2w. Everything that
// time.ParseDuration accepts is a span. The error continues a sentence that begins with the text.
func ParseSpan(text string) (time.Duration, error) {
	rest, negative := strings.CutPrefix(strings.TrimSpace(text), "-")
	rest = strings.TrimPrefix(rest, "+")
	if rest == "0" {
		return 0, nil
	}
	if rest == "" {
		return 0, errors.New("is not a span of time: write a number and a unit, such as 90s, 12h or 30d")
	}
	var sum float64
	for rest != "" {
		m := partOfSpan.FindStringSubmatch(rest)
		if m == nil {
			return 0, errors.New("is not a span of time: write a number and a unit, such as 90s, 12h or 30d")
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
			return 0, errors.New("is not a span of time: write a number and a unit, such as 90s, 12h or 30d")
		}
		sum += n * float64(unit)
		rest = rest[len(m[0]):]
	}
	if sum > math.MaxInt64/2 {
		return 0, errors.New("is longer than 146 years: write a shorter span")
	}
	d := time.Duration(math.Round(sum))
	if negative {
		d = -d
	}
	return d, nil
}

// FormatSpan writes a span in the form that ParseSpan reads, with days: 30d, 1h30m, 5s.
func FormatSpan(d time.Duration) string {
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

type span time.Duration

func (s *span) String() string { return FormatSpan(time.Duration(*s)) }
func (s *span) Type() string   { return "duration" }

func (s *span) Set(text string) error {
	d, err := ParseSpan(text)
	if err == nil {
		*s = span(d)
	}
	return err
}

// SpanVar adds a flag whose value is a span of time.
func SpanVar(f *pflag.FlagSet, p *time.Duration, name string, value time.Duration, usage string) {
	*p = value
	f.Var((*span)(p), name, usage)
}

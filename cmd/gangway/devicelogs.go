package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"gangway/hub/api"

	"github.com/spf13/cobra"
)

const (
	// logsAtOnce is the maximum number of log lines in one answer.
	logsAtOnce = 1000
	// followEvery is how often --follow asks the hub for new lines.
	followEvery = time.Second
	// notedAfter is the number of consecutive failed requests after which --follow prints a note.
	notedAfter = 2
)

// logColumns are the columns of 'gangway device logs'.
var logColumns = []column[api.LogView]{
	{name: "time", cell: func(l api.LogView) string { return l.Created.Local().Format("2006-01-02 15:04:05.000") },
		value: func(l api.LogView) string { return l.Created.UTC().Format(time.RFC3339Nano) }, whole: true},
	{name: "level", cell: func(l api.LogView) string { return l.Level }, tone: func(l api.LogView) tone { return levelTone(l.Level) }},
	{name: "source", cell: func(l api.LogView) string { return l.Source }},
	{name: "message", cell: func(l api.LogView) string { return strings.TrimRight(l.Message, "\r\n") }},
	{name: "revision", wide: true, cell: func(l api.LogView) string { return l.Rev }},
	{name: "platform", wide: true, cell: func(l api.LogView) string { return l.Platform }},
	{name: "device-time", wide: true, cell: func(l api.LogView) string { return stamp(time.Unix(l.Sec, l.Nano)) }},
}

func levelTone(level string) tone {
	switch strings.ToUpper(level) {
	case "ERROR", "ERR", "FATAL", "CRITICAL", "CRIT", "EMERG", "ALERT", "PANIC":
		return bad
	case "WARN", "WARNING":
		return attention
	case "DEBUG", "TRACE", "ALL":
		return faint
	}
	return plainTone
}

// logQuery has the flags of 'gangway device logs', which select log lines of a device.
type logQuery struct {
	levels, sources, revs []string
	since, until          string
	tail                  int // 0: all
	follow                bool
}

func (a *app) deviceLogs() *cobra.Command {
	var q logQuery
	c := &cobra.Command{
		Use: "logs ID|NICK", Aliases: []string{"log"}, Short: "Show a device's log, or follow it", Args: args("the device's id or nick"),
		Long: `Logs shows the newest lines of a device's log, in the order of time. The time of a
line is when the hub received it; --output wide also has the device's own time.

A level can be in upper or lower case. --level and --source take several values,
separated by commas. A hub keeps the newest 20,000 lines of a device, for 30 days,
unless its operator or you have set less: see 'gangway account log-retention'.

--follow shows new lines as they arrive, until Ctrl-C. --output jsonl prints one JSON
object per line, for other programs.`,
		Example: `  gangway device logs oslo-gate-1
  gangway device logs oslo-gate-1 --follow
  gangway device logs oslo-gate-1 --level error,warn --since 2h
  gangway device logs 65f0c1 --source kernel --tail 0 --output jsonl > kernel.jsonl`,
		RunE: func(c *cobra.Command, arg []string) error {
			if q.tail < 0 {
				return usagef("--tail must be a number of lines, or 0 for all, not %d", q.tail)
			}
			if q.follow && q.until != "" {
				return usagef("--follow and --until are mutually exclusive: leave one of them out")
			}
			if q.follow && !slices.Contains([]string{formatTable, formatText, formatJSONL}, a.output) {
				return usagef("--follow does not end, so the format %s cannot be used: use --output jsonl", a.output)
			}
			values, err := q.values(time.Now())
			if err != nil {
				return err
			}
			d, err := findDevice(c.Context(), arg[0])
			if err != nil {
				return err
			}
			values.Set("dev", d.ID)
			return a.showLogs(c.Context(), d.Nick, q, values)
		},
	}
	f := c.Flags()
	f.StringSliceVar(&q.levels, "level", nil, "only lines of these levels, such as error,warn")
	f.StringSliceVar(&q.sources, "source", nil, "only lines of these sources, such as kernel")
	f.StringSliceVar(&q.revs, "revision", nil, "only lines that the device wrote in these revisions")
	f.StringVar(&q.since, "since", "", "only lines since this time: a duration before now such as 2h, a day such as 2026-11-28, or a time such as 2026-11-28T12:00:00Z")
	f.StringVar(&q.until, "until", "", "only lines before this time, in the same forms as --since")
	f.IntVarP(&q.tail, "tail", "n", 100, "show at most this many lines, the newest ones; 0: all")
	f.BoolVarP(&q.follow, "follow", "f", false, "show new lines as they arrive, until Ctrl-C")
	c.Annotations = map[string]string{linesKey: "yes"}
	return a.table(c, columnNames(logColumns)...)
}

// values returns the parameters of GET /logs for the selection.
func (q logQuery) values(now time.Time) (url.Values, error) {
	v := url.Values{}
	for _, level := range q.levels {
		// The hub compares levels exactly, but some programs write levels in upper case, others in
		// lower case, so the request contains each of these forms.
		for _, form := range []string{level, strings.ToUpper(level), strings.ToLower(level)} {
			if !slices.Contains(v["lvl"], form) {
				v.Add("lvl", form)
			}
		}
	}
	v["src"], v["plat"], v["rev"] = q.sources, nil, q.revs
	for name, list := range v {
		v.Del(name)
		if len(list) > 0 {
			v.Set(name, strings.Join(list, ","))
		}
	}
	for flag, text := range map[string]string{"since": q.since, "until": q.until} {
		t, err := moment("--"+flag, text, now)
		if err != nil {
			return nil, err
		}
		if !t.IsZero() {
			v.Set(map[string]string{"since": "after", "until": "before"}[flag], fraction(t).Format(time.RFC3339Nano))
		}
	}
	return v, nil
}

// fraction returns a time for the hub's parameters `after` and `before`. If `after` is a whole
// second, the hub skips the lines of that second and of the current second, because Pantacor's
// client pvr needs this. To avoid that, fraction makes a whole second one microsecond earlier. It
// returns any other time unchanged.
func fraction(t time.Time) time.Time {
	if t = t.UTC().Truncate(time.Microsecond); t.Nanosecond() == 0 {
		t = t.Add(-time.Microsecond)
	}
	return t
}

func (a *app) showLogs(ctx context.Context, nick string, q logQuery, values url.Values) error {
	lines, err := lastLogs(ctx, values, q.tail)
	if err != nil {
		return err
	}
	asLines := a.output == formatJSONL || a.forPeople() && a.output != formatWide && len(a.columns) == 0
	switch {
	case !asLines:
		return printList(a, lines, logColumns, "")
	case len(lines) == 0 && !q.follow && a.forPeople():
		a.note("No line of the log of %s matches.", nick)
	}
	if err := a.printLogs(lines); err != nil || !q.follow {
		return err
	}
	return a.followLogs(ctx, values, lines)
}

// lastLogs returns the newest lines, in chronological order. The argument `most` is the maximum
// number of lines; 0 means all lines.
func lastLogs(ctx context.Context, values url.Values, most int) ([]api.LogView, error) {
	v := url.Values{"sort": {"-time-created"}, "cursor": {"true"}}
	for name := range values {
		v.Set(name, values.Get(name))
	}
	size := func(have int) int {
		if most == 0 {
			return logsAtOnce
		}
		return min(logsAtOnce, most-have)
	}
	v.Set("page", strconv.Itoa(size(0)))
	page, err := call[api.LogPage](ctx, http.MethodGet, "/logs?"+v.Encode(), nil)
	all := []api.LogView{}
	for {
		if err != nil {
			return nil, err
		}
		all = append(all, page.Entries...)
		if len(page.Entries) == 0 || page.Next == "" || most > 0 && len(all) >= most {
			break
		}
		page, err = call[api.LogPage](ctx, http.MethodPost, "/logs/cursor", map[string]string{"next-cursor": page.Next})
	}
	if most > 0 && len(all) > most {
		all = all[:most]
	}
	slices.Reverse(all)
	return all, nil
}

// followLogs prints new lines until `ctx` ends. The argument `shown` has the lines that were
// printed before.
func (a *app) followLogs(ctx context.Context, values url.Values, shown []api.LogView) error {
	v := url.Values{"cursor": {"true"}, "page": {strconv.Itoa(logsAtOnce)}}
	for name := range values {
		v.Set(name, values.Get(name))
	}
	last := ""
	if n := len(shown); n > 0 {
		last = shown[n-1].ID
		v.Set("after", fraction(shown[n-1].Created.Add(-time.Microsecond)).Format(time.RFC3339Nano))
	} else if v.Get("after") == "" {
		v.Set("after", fraction(time.Now().Add(-time.Minute)).Format(time.RFC3339Nano))
	}
	next, failed := "", 0
	for {
		var page api.LogPage
		var err error
		if next == "" {
			page, err = call[api.LogPage](ctx, http.MethodGet, "/logs?"+v.Encode(), nil)
		} else {
			page, err = call[api.LogPage](ctx, http.MethodPost, "/logs/cursor", map[string]string{"next-cursor": next})
		}
		var refused *hubError
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &refused):
			return err
		case err != nil:
			if failed++; failed == notedAfter {
				a.note("%v (retrying)", err)
			}
		default:
			if failed >= notedAfter {
				a.note("The hub answers again.")
			}
			failed, next = 0, page.Next
			// The first page may begin with lines that were printed before. Remove them. Ids have
			// a fixed length and increase, so they can be compared as text.
			fresh := slices.DeleteFunc(page.Entries, func(l api.LogView) bool { return l.ID <= last })
			if err := a.printLogs(fresh); err != nil {
				return err
			}
		}
		if len(page.Entries) == logsAtOnce {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(a.every(followEvery)):
		}
	}
}

// printLogs prints lines as JSON objects or as text.
func (a *app) printLogs(lines []api.LogView) error {
	colour := a.colour()
	for _, l := range lines {
		if a.output == formatJSONL {
			text, err := encodeJSON(l, "")
			if err != nil {
				return err
			}
			if _, err := a.stdout.Write(text); err != nil {
				return err
			}
			continue
		}
		level, source := fmt.Sprintf("%-5s", visible(l.Level)), visible(l.Source)
		if colour {
			level, source = paint(levelTone(l.Level), level), paint(faint, source)
		}
		message := strings.ReplaceAll(visibleText(strings.TrimRight(l.Message, "\r\n")), "\n", "\n    ")
		if _, err := fmt.Fprintf(a.stdout, "%s  %s  %s  %s\n", l.Created.Local().Format("2006-01-02 15:04:05.000"), level, source, message); err != nil {
			return err
		}
	}
	return nil
}

package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"time"

	"gangway/hub/api"
	"gangway/hub/backup"
	"gangway/hub/store"
	"gangway/internal/span"

	"github.com/spf13/cobra"
)

// eventPage is the number of events in one page of the audit trail.
const eventPage = 1000

func (a *app) eventsCommand() *cobra.Command {
	var data, since, until, kind string
	var limit int
	var noRoutine, sign bool
	c := &cobra.Command{
		Use: "events", Short: "Show the audit trail, newest first", Args: args(),
		Long: `Events shows the audit trail of your account: what happened, who did it, from which
address and by which means. On the hub's machine, --data shows the audit trail of the
whole hub, with requests that were refused before their owner was known.

Frequent events, such as sign-ins of devices, take one line per day, with their
number and the time of the last one. --no-routine leaves them out.

--output jsonl prints one JSON object per line, for other programs. With --limit 0 it
prints the whole audit trail.

--sign prints all events, and a last line with a signature of the hub. 'gangway restore
--events' needs this file to repeat the deletions and revocations after a backup. Export
this file often, to another machine.`,
		Example: `  gangway events
  gangway events --since 24h --kind account.
  gangway events --no-routine
  gangway events --since 2026-11-01 --until 2026-12-01 --limit 0 --output jsonl > november.jsonl
  gangway events --data /var/lib/gangway --output json
  gangway events --data /var/lib/gangway --since 24h --output jsonl --sign > since.jsonl`,
		RunE: func(c *cobra.Command, _ []string) error {
			f := store.EventFilter{Kind: kind, NoRoutine: noRoutine}
			var err error
			now := time.Now()
			if f.Since, err = moment("--since", since, now); err != nil {
				return err
			}
			if f.Until, err = moment("--until", until, now); err != nil {
				return err
			}
			if limit < 0 {
				return usagef("--limit must be a number of events, or 0 for all, not %d", limit)
			}
			if sign {
				if data == "" || a.output != formatJSONL {
					return usagef("--sign needs --data and --output jsonl: the hub's keys sign the lines")
				}
				if kind != "" || noRoutine || c.Flags().Changed("limit") {
					return usagef("--sign certifies that no event is missing, so it cannot be combined with --kind, --no-routine or --limit")
				}
				return a.signedEvents(c.Context(), data, f, now)
			}
			read, done, err := eventReader(c.Context(), data)
			if err != nil {
				return err
			}
			defer done()
			n, all := 0, []api.EventView{}
			asLines := a.forPeople() && a.output != formatWide && len(a.columns) == 0
			err = eachEvent(f, limit, read, func(e api.EventView) error {
				n++
				switch {
				case a.output == formatJSONL:
					text, err := encodeJSON(e, "")
					if err != nil {
						return err
					}
					_, err = a.stdout.Write(text)
					return err
				case asLines:
					printEvents(a.stdout, []api.EventView{e})
				default:
					all = append(all, e)
				}
				return nil
			})
			if err != nil {
				return err
			}
			if n == 0 && a.forPeople() {
				a.note("No events match.")
			} else if !asLines && a.output != formatJSONL {
				return printList(a, all, eventColumns, "")
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&data, "data", "", dataFlag)
	f.StringVar(&since, "since", "", "show only events since this time: a duration before now such as 24h or 7d, a day such as 2026-11-28, or a time such as 2026-11-28T12:00:00Z")
	f.StringVar(&until, "until", "", "show only events before this time, in the same forms as --since")
	f.StringVar(&kind, "kind", "", `only events of this kind, such as device.deleted; a "." at the end selects all kinds that begin so, such as account.`)
	f.BoolVar(&noRoutine, "no-routine", false, "leave out frequent events, except refusals (default: show them as one line per day)")
	f.BoolVar(&sign, "sign", false, "print all events and a signature of the hub, as the input of 'gangway restore --events'; needs --data and --output jsonl")
	f.IntVar(&limit, "limit", 100, "maximum number of events to show; 0: all")
	c.Annotations = map[string]string{linesKey: "yes"}
	return a.watchable(a.table(c, columnNames(eventColumns)...))
}

// signedEvents prints the events of the whole hub as lines of JSON, and signs them.
func (a *app) signedEvents(ctx context.Context, data string, f store.EventFilter, now time.Time) error {
	i, err := existing(ctx, data)
	if err != nil {
		return err
	}
	defer i.close()
	if f.Until.IsZero() || f.Until.After(now) {
		f.Until = now
	}
	signer := backup.NewTrailSigner(a.stdout, i.ca, f.Since, f.Until)
	read := func(f store.EventFilter) ([]api.EventView, error) {
		events, err := i.store.Events(ctx, f)
		return api.ViewEvents(events), err
	}
	err = eachEvent(f, 0, read, func(e api.EventView) error {
		text, err := encodeJSON(e, "")
		if err != nil {
			return err
		}
		return signer.Add(text)
	})
	if err != nil {
		return err
	}
	return signer.Close()
}

// eventColumns are the columns of 'gangway events'.
var eventColumns = []column[api.EventView]{
	{name: "time", cell: func(e api.EventView) string { return e.Time.Local().Format(time.DateTime) }, value: func(e api.EventView) string { return stamp(e.Time) }, whole: true},
	{name: "kind", cell: func(e api.EventView) string { return e.Kind }},
	{name: "code", cell: func(e api.EventView) string { return e.Code }},
	{name: "message", cell: func(e api.EventView) string { return e.Message }},
	{name: "actor", cell: func(e api.EventView) string { return cmp.Or(e.ActorName, e.Actor) }},
	{name: "means", cell: func(e api.EventView) string { return e.Means }},
	{name: "address", cell: func(e api.EventView) string { return e.Addr }},
	{name: "count", cell: func(e api.EventView) string { return strconv.Itoa(max(e.Count, 1)) }},
}

// moment parses the value of a time flag. The value is a time in RFC 3339, a day (its midnight in
// the local time zone), or a duration before `now`. For an empty text, the time is zero.
func moment(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := span.Parse(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	if t, err := time.ParseInLocation(time.DateOnly, text, time.Local); err == nil {
		return t, nil
	}
	return time.Time{}, usagef("%s %q is not a time: write it like 24h, 7d, 2026-11-28 or 2026-11-28T12:00:00Z", flag, text)
}

// eventReader returns two functions: `read` reads one page of an audit trail, and `done` ends the
// reading. If `data` is set, it names a data folder, and the functions read the hub's audit trail.
// Otherwise they read the audit trail of the signed-in account.
func eventReader(ctx context.Context, data string) (read func(store.EventFilter) ([]api.EventView, error), done func(), err error) {
	if data != "" {
		i, err := existing(ctx, data)
		if err != nil {
			return nil, nil, err
		}
		return func(f store.EventFilter) ([]api.EventView, error) {
			events, err := i.store.Events(ctx, f)
			return api.ViewEvents(events), err
		}, func() { i.close() }, nil
	}
	return func(f store.EventFilter) ([]api.EventView, error) {
		q := url.Values{"limit": {strconv.Itoa(f.Limit)}}
		if f.NoRoutine {
			q.Set("routine", "false")
		}
		if f.Kind != "" {
			q.Set("kind", f.Kind)
		}
		if f.Before > 0 {
			q.Set("before", strconv.FormatInt(f.Before, 10))
		}
		for name, t := range map[string]time.Time{"since": f.Since, "until": f.Until} {
			if !t.IsZero() {
				q.Set(name, t.UTC().Format(time.RFC3339Nano))
			}
		}
		return call[[]api.EventView](ctx, "GET", "/events?"+q.Encode(), nil)
	}, func() {}, nil
}

// eachEvent calls the function `show` for the events that match the filter `f`, the newest first.
// It ends after `limit` events; 0 means all events.
func eachEvent(f store.EventFilter, limit int, read func(store.EventFilter) ([]api.EventView, error), show func(api.EventView) error) error {
	for left := limit; ; {
		f.Limit = eventPage
		if limit > 0 {
			f.Limit = min(left, eventPage)
		}
		page, err := read(f)
		if err != nil {
			return err
		}
		for _, e := range page {
			if err := show(e); err != nil {
				return err
			}
			f.Before = e.Seq
		}
		if left -= len(page); len(page) < f.Limit || limit > 0 && left <= 0 {
			return nil
		}
	}
}

func printEvents(out io.Writer, events []api.EventView) {
	for _, e := range events {
		fmt.Fprintf(out, "  %s  %s%s\n", e.Time.Local().Format(time.DateTime), visible(e.Message), aboutEvent(e))
	}
}

// aboutEvent returns the text that follows an event's message in a line. The text has the event's
// code, the actor with its credential and address, and the number of events that the line counts.
func aboutEvent(e api.EventView) string {
	text := ""
	if e.Code != "" {
		text += " (" + e.Code + ")"
	}
	who := e.ActorName
	if who == "" {
		who = e.Actor
	}
	switch {
	case e.Credential != "":
		who += " by API token " + e.Credential
	case e.Means != "" && who != "":
		who += " by " + e.Means
	}
	if e.Addr != "" && who != "" {
		who += " from " + e.Addr
	} else if e.Addr != "" {
		who = "from " + e.Addr
	}
	if who != "" {
		text += " [" + visible(who) + "]"
	}
	if e.Count > 1 && e.Last != nil {
		text += fmt.Sprintf(" (%d times, last %s)", e.Count, e.Last.Local().Format(time.TimeOnly))
	}
	return text
}

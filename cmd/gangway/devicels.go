package main

import (
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"gangway/hub/api"
	"gangway/hub/store"
	wiretrail "gangway/wire/trail"

	"github.com/spf13/cobra"
)

const (
	devicesAtOnce = 1000 // devices in one answer
	// tableDevices is the number of devices in a table for people, if the flag --limit is not
	// given.
	tableDevices = 1000
)

// deviceColumns are the columns of 'gangway device ls'.
var deviceColumns = []column[api.FleetDevice]{
	{name: "nick", cell: func(d api.FleetDevice) string { return d.Nick }},
	{name: "id", cell: func(d api.FleetDevice) string { return d.ID }},
	{name: "state", cell: stateWords, tone: stateTone, whole: true},
	{name: "boot", cell: func(d api.FleetDevice) string { return d.Boot }, tone: func(d api.FleetDevice) tone {
		if d.Boot == store.BootChanged || d.Boot == store.BootRefused {
			return bad
		}
		return plainTone
	}},
	{name: "revision", cell: func(d api.FleetDevice) string { return revisionWords(d.Revision, d.Status, d.Progress) },
		value: func(d api.FleetDevice) string { return strconv.Itoa(d.Revision) }, tone: func(d api.FleetDevice) tone { return revisionTone(d.Status) }},
	{name: "tpm", cell: func(d api.FleetDevice) string { return strings.TrimSpace(d.TPM.Manufacturer + " " + d.TPM.Model) }},
	{name: "key", cell: func(d api.FleetDevice) string { return d.Key }},
	{name: "last-seen", moving: true, cell: func(d api.FleetDevice) string { return ago(d.LastSeen) }, value: func(d api.FleetDevice) string { return stamp(d.LastSeen) }},
	{name: "model", wide: true, cell: func(d api.FleetDevice) string { return d.Machine.Model }},
	{name: "serial", wide: true, cell: func(d api.FleetDevice) string { return d.Machine.Serial }},
	{name: "firmware", wide: true, cell: func(d api.FleetDevice) string { return d.TPM.Firmware }},
	{name: "token", wide: true, cell: func(d api.FleetDevice) string { return d.TokenID }},
	{name: "address", wide: true, cell: func(d api.FleetDevice) string { return d.RealIP }},
	{name: "onboarded", wide: true, cell: func(d api.FleetDevice) string { return d.Created.Local().Format(time.DateTime) }, value: func(d api.FleetDevice) string { return stamp(d.Created) }},
}

// stamp formats a time for programs. For the zero time, it returns "".
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func stateWords(d api.FleetDevice) string {
	if d.Cloned == "refused" {
		return "refused: cloned"
	}
	words := strings.Join(d.States, ", ")
	if d.Cloned == "suspected" {
		words += "?" // the question mark follows the last state, "cloned"
	}
	return words
}

func stateTone(d api.FleetDevice) tone {
	t := plainTone
	for _, s := range d.States {
		switch s {
		case store.StateBootChanged, store.StateFailed, store.StateCloned:
			return bad
		case store.StateQuiet:
			t = faint
		case store.StateUpdating:
			t = attention
		case store.StateActive:
			if t == plainTone {
				t = good
			}
		}
	}
	return t
}

// revisionWords returns a revision's number and its status.
func revisionWords(rev int, status string, percent int) string {
	if rev < 0 {
		return "none"
	}
	switch wiretrail.Status(status) {
	case wiretrail.StatusDone, wiretrail.StatusUpdated:
		return fmt.Sprintf("%d done", rev)
	case wiretrail.StatusError, wiretrail.StatusWontGo:
		return fmt.Sprintf("%d failed", rev)
	case wiretrail.StatusCancelled:
		return fmt.Sprintf("%d cancelled", rev)
	case wiretrail.StatusNew:
		return fmt.Sprintf("%d posted", rev)
	case "":
		return strconv.Itoa(rev)
	}
	return fmt.Sprintf("%d %s %d%%", rev, strings.ToLower(status), percent)
}

func revisionTone(status string) tone {
	switch wiretrail.Status(status) {
	case wiretrail.StatusError, wiretrail.StatusWontGo:
		return bad
	case wiretrail.StatusDone, wiretrail.StatusUpdated, wiretrail.StatusCancelled, "":
		return plainTone
	}
	return attention
}

// deviceQuery is a search for devices.
type deviceQuery struct {
	text, sort string
	limit      int // 0: all
}

// devices returns the devices that match the query. The result `more` is true if more devices match
// than the query's limit allows.
func (q deviceQuery) devices(ctx context.Context) (all []api.FleetDevice, more bool, err error) {
	values := url.Values{}
	if q.text != "" {
		values.Set("q", q.text)
	}
	if q.sort != "" {
		values.Set("sort", q.sort)
	}
	for {
		n := devicesAtOnce
		if q.limit > 0 {
			n = min(n, q.limit-len(all))
		}
		values.Set("limit", strconv.Itoa(n))
		page, err := fleetPage(ctx, values)
		if err != nil {
			return nil, false, err
		}
		all = append(all, page.Devices...)
		if page.Next == "" || q.limit > 0 && len(all) >= q.limit {
			return all, page.Next != "", nil
		}
		values.Set("after", page.Next)
	}
}

func (a *app) deviceLs() *cobra.Command {
	var q deviceQuery
	c := &cobra.Command{
		Use: "ls [SEARCH]", Aliases: []string{"list"}, Short: "List or search your devices, and the machines that wait for your decision",
		Long: `Ls lists your devices. With a search, it lists only the devices that match all conditions
of the search. A condition is a field, such as state:quiet, model:NUC,
token:spring-batch or meta.site=oslo. It may also be the beginning of a word in the
nick, serial number, model, TPM maker or id. The page has the same search language: see
docs/search.md.

Without a search, the table begins with the machines that wait for your decision.
'gangway device waiting' prints only these.

Without --limit, a table has at most 1000 devices. The other formats list all devices.`,
		Example: `  gangway device ls
  gangway device ls state:quiet model:NUC
  gangway device ls 'model:"NUC 7" meta.site=oslo' --sort -seen --limit 20
  gangway device ls --watch
  gangway device ls --output csv --columns nick,id,serial > devices.csv`,
		RunE: func(c *cobra.Command, arg []string) error {
			q.text = strings.Join(arg, " ")
			if q.limit < 0 {
				return usagef("--limit must be a number of devices, or 0 for all, not %d", q.limit)
			}
			if a.forPeople() && !c.Flags().Changed("limit") {
				q.limit = tableDevices
			}
			return a.listDevices(c.Context(), q)
		},
	}
	f := c.Flags()
	f.StringVar(&q.sort, "sort", "nick", `sort by nick, created, seen or model; "-" in front reverses the order, as in -seen`)
	f.IntVar(&q.limit, "limit", 0, "maximum number of devices; 0: all")
	return a.watchable(a.table(c, columnNames(deviceColumns)...))
}

func (a *app) listDevices(ctx context.Context, q deviceQuery) error {
	devices, more, err := q.devices(ctx)
	if err != nil {
		return err
	}
	if !a.forPeople() {
		return printList(a, devices, deviceColumns, "")
	}
	if q.text == "" {
		waiting, err := allWaiting(ctx)
		if err != nil {
			return err
		}
		if len(waiting) > 0 {
			if _, err := a.stdout.Write(formatTableOf(waiting, usualColumns(a, waitingColumns), a.width(), a.colour())); err != nil {
				return err
			}
			a.note("Decide with 'gangway device show ID', then 'gangway device approve ID' or 'gangway device deny ID'.")
			if len(devices) == 0 {
				return nil
			}
			a.printf("\n")
		}
	}
	empty := "No device yet. Make a join token and onboard one:\n  gangway token create -o device_autojointoken.json"
	if q.text != "" {
		empty = "No device matches the search " + q.text + "."
	}
	if err := printList(a, devices, deviceColumns, empty); err != nil || !more {
		return err
	}
	a.note("There are more than %d devices; --limit 0 lists all, and a search such as state:quiet lists fewer.", len(devices))
	return nil
}

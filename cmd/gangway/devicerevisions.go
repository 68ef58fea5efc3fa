package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"gangway/hub/api"
	"gangway/internal/cmdline"
	wiretrail "gangway/wire/trail"

	"github.com/spf13/cobra"
)

// revisionRow is a revision in the output of 'gangway device revisions'.
type revisionRow struct {
	Rev       int       `json:"rev"`
	Status    string    `json:"status"`
	Progress  int       `json:"progress"` // percent
	StatusMsg string    `json:"status-msg"`
	CommitMsg string    `json:"commit-msg"`
	Committer string    `json:"committer"`
	By        string    `json:"by"` // the committer in words
	Posted    time.Time `json:"posted"`
	Reported  time.Time `json:"reported"` // zero: the device has not reported yet
	StateSha  string    `json:"state-sha"`
	Files     int       `json:"files"`
}

// revisionColumns are the columns of 'gangway device revisions'.
var revisionColumns = []column[revisionRow]{
	{name: "rev", cell: func(r revisionRow) string { return strconv.Itoa(r.Rev) }, whole: true},
	{name: "status", cell: func(r revisionRow) string { return statusWords(r.Status, r.Progress) }, value: func(r revisionRow) string { return r.Status },
		tone: func(r revisionRow) tone { return revisionTone(r.Status) }, whole: true},
	{name: "posted", cell: func(r revisionRow) string { return r.Posted.Local().Format(time.DateTime) }, value: func(r revisionRow) string { return stamp(r.Posted) }, whole: true},
	{name: "by", cell: func(r revisionRow) string { return r.By }},
	{name: "message", cell: func(r revisionRow) string { return strings.TrimSpace(r.CommitMsg) }},
	{name: "report", cell: func(r revisionRow) string { return strings.TrimSpace(r.StatusMsg) }},
	{name: "progress", wide: true, cell: func(r revisionRow) string { return strconv.Itoa(r.Progress) }},
	{name: "reported", wide: true, cell: func(r revisionRow) string {
		if r.Reported.IsZero() {
			return "never"
		}
		return r.Reported.Local().Format(time.DateTime)
	}, value: func(r revisionRow) string { return stamp(r.Reported) }},
	{name: "files", wide: true, cell: func(r revisionRow) string { return strconv.Itoa(r.Files) }},
	{name: "state-sha", wide: true, cell: func(r revisionRow) string { return r.StateSha }},
}

// statusWords returns the status of a revision in words.
func statusWords(status string, percent int) string {
	_, words, _ := strings.Cut(revisionWords(0, status, percent), " ")
	return words
}

func rowOf(v api.RevisionView, d api.DeviceView) revisionRow {
	report := wiretrail.ReadReport(v.Progress)
	var status struct {
		Status string `json:"status"`
	}
	_ = json.Unmarshal(v.Progress, &status) // if the progress cannot be read, the status is empty
	r := revisionRow{Rev: v.Rev, Status: status.Status, Progress: report.Percent, StatusMsg: report.Message, CommitMsg: v.CommitMsg,
		Committer: v.Committer, By: v.Committer, Posted: v.StepTime, StateSha: v.StateSha}
	switch v.Committer {
	case d.PRN:
		r.By = "the device"
	case d.Owner:
		r.By = d.OwnerNick
	}
	if v.ProgressTime.Unix() > 0 {
		r.Reported = v.ProgressTime
	}
	if state, err := wiretrail.ParseState(v.State); err == nil {
		r.Files = state.Len()
	}
	return r
}

// noTrail replaces the hub's error "not found" with an error that says that the device has no
// revisions yet.
func noTrail(d api.DeviceView, err error) error {
	var refused *hubError
	if errors.As(err, &refused) && refused.Code == "not-found" {
		return fmt.Errorf("%s has no revisions yet: a device that can install revisions (an installed system, or 'gangway-agent run --hook') reports its first revision itself; see docs/trails.md", d.Nick)
	}
	return err
}

// newestRevision returns the number of a device's newest revision.
func newestRevision(ctx context.Context, d api.DeviceView) (int, error) {
	t, err := call[api.TrailView](ctx, http.MethodGet, "/trails/"+d.ID, nil)
	return t.Rev, noTrail(d, err)
}

// revision returns a revision of a device with its state.
func revision(ctx context.Context, d api.DeviceView, rev int) (v api.RevisionView, state *wiretrail.State, err error) {
	v, err = call[api.RevisionView](ctx, http.MethodGet, fmt.Sprintf("/trails/%s/steps/%d", d.ID, rev), nil)
	var refused *hubError
	if errors.As(err, &refused) && refused.Code == "not-found" {
		return v, nil, fmt.Errorf("%s has no revision %d; 'gangway device revisions %s' lists its revisions", d.Nick, rev, d.Nick)
	}
	if err != nil {
		return v, nil, err
	}
	if state, err = wiretrail.ParseState(v.State); err != nil {
		return v, nil, fmt.Errorf("revision %d of %s cannot be read: %w", rev, d.Nick, err)
	}
	return v, state, nil
}

// revisions returns a device's newest revisions, the newest first. The argument `most` is the
// maximum number; 0 means all.
func revisions(ctx context.Context, d api.DeviceView, most int) ([]revisionRow, error) {
	newest, err := newestRevision(ctx, d)
	if err != nil {
		return nil, err
	}
	after := -1
	if most > 0 {
		after = max(after, newest-most)
	}
	// The filter "$nin" with an empty list matches every status.
	q := url.Values{"progress.status": {`{"$nin":[]}`}, "limit": {"100"}}
	rows := []revisionRow{}
	for {
		q.Set("after", strconv.Itoa(after))
		page, err := call[[]api.RevisionView](ctx, http.MethodGet, "/trails/"+d.ID+"/steps?"+q.Encode(), nil)
		if err != nil {
			return nil, err
		}
		for _, v := range page {
			rows, after = append(rows, rowOf(v, d)), v.Rev
		}
		if len(page) == 0 || after >= newest {
			slices.Reverse(rows)
			return rows, nil
		}
	}
}

func (a *app) deviceRevisions() *cobra.Command {
	limit := 0
	c := &cobra.Command{
		Use: "revisions ID|NICK", Aliases: []string{"steps"}, Short: "List a device's revisions, the newest first", Args: args("the device's id or nick"),
		Long: `Revisions lists the states that a device was told to run: who posted each, when, and
its status. docs/trails.md explains the statuses. 'gangway device
state' prints the state of a revision.`,
		Example: `  gangway device revisions oslo-gate-1
  gangway device revisions oslo-gate-1 --watch
  gangway device revisions oslo-gate-1 --limit 0 --output csv > revisions.csv`,
		RunE: func(c *cobra.Command, arg []string) error {
			if limit < 0 {
				return usagef("--limit must be a number of revisions, or 0 for all, not %d", limit)
			}
			d, err := findDevice(c.Context(), arg[0])
			if err != nil {
				return err
			}
			rows, err := revisions(c.Context(), d, limit)
			if err != nil {
				return err
			}
			return printList(a, rows, revisionColumns, "No revision yet.")
		},
	}
	c.Flags().IntVar(&limit, "limit", 20, "list at most this many revisions, the newest ones; 0: all")
	return a.watchable(a.table(c, columnNames(revisionColumns)...))
}

// readRev reads the number of a revision.
func readRev(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > 1<<31-1 {
		return 0, usagef("%.40q is not the number of a revision, such as 3", text)
	}
	return n, nil
}

func (a *app) deviceState() *cobra.Command {
	from := ""
	c := &cobra.Command{
		Use: "state ID|NICK [REV]", Short: "Print the state of a device's revision, as JSON",
		Long: `State prints the state of a revision, by default the newest, as the JSON that
'gangway device post' reads. With --from, it prints the differences from another
revision instead.`,
		Example: `  gangway device state oslo-gate-1 > state.json
  gangway device state oslo-gate-1 4 --from 3`,
		Args: oneOrTwo("the device's id or nick"),
		RunE: func(c *cobra.Command, arg []string) error {
			rev, base := -1, -1
			var err error
			if len(arg) == 2 {
				if rev, err = readRev(arg[1]); err != nil {
					return err
				}
			}
			if from != "" {
				if base, err = readRev(from); err != nil {
					return err
				}
			}
			d, err := findDevice(c.Context(), arg[0])
			if err != nil {
				return err
			}
			if rev < 0 {
				if rev, err = newestRevision(c.Context(), d); err != nil {
					return err
				}
			}
			_, state, err := revision(c.Context(), d, rev)
			if err != nil {
				return err
			}
			if from == "" {
				return a.printState(state)
			}
			_, before, err := revision(c.Context(), d, base)
			if err != nil {
				return err
			}
			changes := wiretrail.Diff(before, state)
			if done, err := a.json(changeViews(changes)); done {
				return err
			}
			a.printChanges(changes)
			return nil
		},
	}
	c.Flags().StringVar(&from, "from", "", "number of a revision: print the differences from that revision")
	return c
}

// oneOrTwo checks that a command gets one or two arguments.
func oneOrTwo(name string) cobra.PositionalArgs {
	return func(c *cobra.Command, got []string) error {
		if len(got) == 0 {
			return usagef("%s is missing", name)
		}
		return cmdline.AtMost(2)(c, got)
	}
}

func (a *app) printState(state *wiretrail.State) error {
	if a.output == formatYAML {
		_, err := a.json(json.RawMessage(state.JSON))
		return err
	}
	return writeJSON(a.stdout, json.RawMessage(state.JSON))
}

// changeView is a difference between two states, in JSON.
type changeView struct {
	Name   string `json:"name"`
	Kind   string `json:"change"`
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

func changeViews(changes []wiretrail.Change) []changeView {
	list := []changeView{}
	for _, ch := range changes {
		list = append(list, changeView{ch.Name, string(ch.Kind), ch.Before, ch.After})
	}
	return list
}

// A list of changes between two states shows at most shownValue characters of each value.
const shownValue = 60

func (a *app) printChanges(changes []wiretrail.Change) {
	if len(changes) == 0 {
		a.printf("  nothing changes\n")
	}
	colour := a.colour()
	for _, ch := range changes {
		sign, t, words := "+", good, short(ch.After, ch.Object)
		switch ch.Kind {
		case wiretrail.Removed:
			sign, t, words = "-", bad, ""
		case wiretrail.Changed:
			sign, t, words = "~", attention, short(ch.Before, ch.Object)+" → "+short(ch.After, ch.Object)
		}
		line := strings.TrimRight(fmt.Sprintf("  %s %s  %s", sign, visible(ch.Name), visible(words)), " ")
		if colour {
			line = paint(t, line)
		}
		fmt.Fprintln(a.stdout, line)
	}
}

// The function `short` shortens a value of a state. If the value is an object's SHA-256, the result
// is the first digits of the SHA-256.
func short(value string, object bool) string {
	most := shownValue
	if object {
		most = 12
	}
	if runes := []rune(value); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return value
}

// watchRevision waits until a posted revision has a final status, and prints each status once.
func (a *app) watchRevision(ctx context.Context, d api.DeviceView, rev int) error {
	said := ""
	for {
		page, err := fleetPage(ctx, url.Values{"q": {"id:" + d.ID}, "limit": {"1"}})
		var refused *hubError
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("interrupted: revision %d stays posted; 'gangway device revisions %s' shows its status", rev, d.Nick)
		case errors.As(err, &refused):
			return err
		case err == nil && len(page.Devices) == 0:
			return fmt.Errorf("%s is gone", d.Nick)
		case err == nil:
			now := page.Devices[0]
			if now.Revision > rev {
				return fmt.Errorf("revision %d was posted meanwhile and superseded this revision; 'gangway device revisions' lists both", now.Revision)
			}
			if words := statusWords(now.Status, now.Progress); words != said {
				a.note("%s  %s", time.Now().Format(time.TimeOnly), words)
				said = words
			}
			switch status := wiretrail.Status(now.Status); {
			case status == wiretrail.StatusDone, status == wiretrail.StatusUpdated:
				return nil
			case status.Final():
				v, _, err := revision(ctx, d, rev)
				if err != nil {
					return err
				}
				return fmt.Errorf("revision %d of %s %s: %s", rev, d.Nick, strings.TrimSpace(statusWords(now.Status, 0)), visible(wiretrail.ReadReport(v.Progress).Message))
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(a.every(2 * time.Second)):
		}
	}
}

// isDone reports whether a device ran the revision without a failure.
func (r revisionRow) isDone() bool {
	return r.Status == string(wiretrail.StatusDone) || r.Status == string(wiretrail.StatusUpdated)
}

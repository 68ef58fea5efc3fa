package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"gangway/hub/api"
	"gangway/hub/backup"
	"gangway/hub/store"
	"gangway/wire"

	"github.com/spf13/cobra"
)

// change is an event that the hub recorded after the backup, and that took away a right, such as a
// deletion or a revocation. A restore repeats the change.
type change struct {
	seq                  int64
	time                 time.Time
	kind                 string
	owner, device, token string
	name                 string // name of an API token
}

// aftermath holds the events after the backup. A restore reads them from exports of the audit
// trail.
type aftermath struct {
	changes []change // the oldest first
	// others counts the events that are not in `changes`, by their kind. The restored hub does not
	// have the effects of these events.
	others map[string]int
	// signed describes those exports that carry the hub's signature.
	signed []backup.Trail
}

// readTrails reads the events at or after the time `since` from exports of the audit trail, and
// verifies their signatures.
func (o *restoreFlags) readTrails(since time.Time) (*aftermath, error) {
	t := &aftermath{others: map[string]int{}}
	// Exports may overlap, so an event may occur twice. The event's number does not identify the
	// event, because a restored hub uses the numbers of lost events again.
	type event struct {
		seq  int64
		time time.Time
	}
	seen := map[event]bool{}
	for _, path := range o.events {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		signed, err := backup.ReadTrail(f, strings.ToLower(o.hubName), o.unsignedEvents, func(line []byte) error {
			var e api.EventView
			if err := json.Unmarshal(line, &e); err != nil || e.Kind == "" || e.Time.IsZero() {
				return errors.New("the line is not an event that 'gangway events --output jsonl' printed")
			}
			if id := (event{e.Seq, e.Time.UTC()}); !seen[id] {
				seen[id] = true
				t.add(e, since)
			}
			return nil
		})
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		t.signed = append(t.signed, signed...)
	}
	// The order matters, because an account may be disabled and enabled again. Events with the same
	// time are ordered by their numbers.
	slices.SortStableFunc(t.changes, func(a, b change) int { return cmp.Or(a.time.Compare(b.time), cmp.Compare(a.seq, b.seq)) })
	return t, nil
}

func (t *aftermath) add(e api.EventView, since time.Time) {
	last := e.Time
	if e.Last != nil {
		last = *e.Last
	}
	if last.Before(since) {
		return
	}
	if c, ok := changeOf(e); ok {
		t.changes = append(t.changes, c)
	} else {
		t.others[e.Kind] += max(e.Count, 1)
	}
}

// changeOf converts an event to the change that a restore must repeat. If the restore need not
// repeat the event, `ok` is false.
func changeOf(e api.EventView) (c change, ok bool) {
	c = change{seq: e.Seq, time: e.Time, kind: e.Kind, owner: strings.TrimPrefix(e.Owner, wire.AccountPRN), device: strings.TrimPrefix(e.Device, wire.DevicePRN), token: e.Token}
	switch e.Kind {
	case "device.deleted":
		return c, c.device != ""
	case "token.disabled", "token.deleted":
		return c, c.token != ""
	case "account.disabled", "account.enabled", "account.deleted", "account.operator-taken":
		return c, c.owner != ""
	case "api-token.revoked":
		_, err := fmt.Sscanf(e.Message, "API token %q was revoked.", &c.name)
		return c, err == nil && c.owner != ""
	}
	return c, false
}

// repeatChanges repeats, in the restored database, the changes that were made after the backup.
func (r *restoration) repeatChanges(ctx context.Context, db engine) error {
	for _, c := range r.trail.changes {
		switch err := c.repeat(ctx, db); {
		case errors.Is(err, store.ErrNotFound):
			r.unknown++ // the thing that the event names was also made after the backup
		case err != nil:
			return fmt.Errorf("repeat %s of %s: %w", c.kind, c.time.Format(time.RFC3339), err)
		default:
			r.repeated++
		}
	}
	return nil
}

func (c change) repeat(ctx context.Context, db engine) error {
	by := operator()
	event := store.Event{Time: time.Now(), Kind: c.kind, Owner: c.owner, Device: c.device, Token: c.token,
		Message: fmt.Sprintf("Repeated after a restore of the hub. The change was first made at %s.", c.time.UTC().Format(time.RFC3339))}.By(&by)
	switch c.kind {
	case "device.deleted":
		d, err := db.Device(ctx, c.device)
		if err == nil {
			err = db.DeleteDevice(ctx, d.Owner, d.ID, event.Time)
		}
		if err == nil {
			event.Owner = d.Owner
			err = db.AppendEvent(ctx, event)
		}
		return err
	case "token.disabled", "token.deleted":
		t, err := db.JoinToken(ctx, c.token)
		if err != nil || t.Disabled {
			return err
		}
		event.Kind, event.Owner = "token.disabled", t.Owner
		return errors.Join(db.DisableJoinToken(ctx, t.Owner, t.ID), db.AppendEvent(ctx, event))
	case "account.disabled", "account.deleted":
		// If the event is the deletion of an account, the restore only disables the account,
		// because the backup may contain devices of the account.
		event.Kind = "account.disabled"
		return db.DisableAccount(ctx, c.owner, event)
	case "account.enabled":
		return db.EnableAccount(ctx, c.owner, event)
	case "account.operator-taken":
		return db.SetOperator(ctx, c.owner, false, event)
	}
	return c.revokeAPIToken(ctx, db, event)
}

func (c change) revokeAPIToken(ctx context.Context, db engine, event store.Event) error {
	list, err := db.APITokens(ctx, c.owner)
	if err != nil {
		return err
	}
	for _, t := range list {
		if t.Name == c.name {
			return db.DeleteAPIToken(ctx, c.owner, t.ID, event)
		}
	}
	return store.ErrNotFound
}

// noteLosses prints which changes the restored hub may have lost.
func (r *restoration) noteLosses() {
	begun := r.info.Header.Begun.Format(time.RFC3339)
	if r.withoutEvents {
		r.note("Possibly lost since %s: deletions of devices, disabled accounts and join tokens, revoked API tokens, changed passwords. The devices, accounts and tokens work again, so repeat these changes.", begun)
	} else {
		r.note("Repeated %d deletions and revocations since %s; %d others are not repeated, because their device, account or token is not in the backup. Passwords that were changed since then have their old values again.", r.repeated, begun, r.unknown)
		for _, gap := range r.gaps() {
			r.note("Possibly lost: the deletions and revocations from %s to %s, because no file has the events of that period.", gap[0].Format(time.RFC3339), gap[1].Format(time.RFC3339))
		}
		if until, ok := r.covered(); ok {
			r.note("Possibly lost: the deletions and revocations after %s, when the newest file of events was made.", until.Format(time.RFC3339))
		}
		if len(r.trail.others) > 0 {
			r.note("According to the events since %s, the restored hub lacks at most the following: %s.", begun, strings.Join(r.lost(), ", "))
		}
	}
	r.note("Ended %d sessions: people must sign in again. Paused %d join tokens with a limited number of uses: 'gangway restore tokens' shows the list.", r.done.Sessions, r.done.Tokens)
	r.note("Devices that onboarded after the backup are unknown until they connect: 'gangway restore lost' lists the devices that have connected.")
}

// gaps returns the periods after the beginning of the backup whose events are in no signed file of
// the audit trail.
func (r *restoration) gaps() [][2]time.Time {
	return backup.Uncovered(r.trail.signed, r.info.Header.Begun)
}

// The method `covered` returns the time at which the newest signed file of the audit trail was
// made.
func (r *restoration) covered() (until time.Time, ok bool) {
	for _, t := range r.trail.signed {
		if t.Until.After(until) {
			until = t.Until
		}
	}
	return until, !until.IsZero()
}

// The method `lost` returns the kinds and numbers of the events that were not repeated.
func (r *restoration) lost() (list []string) {
	for _, kind := range slices.Sorted(maps.Keys(r.trail.others)) {
		list = append(list, fmt.Sprintf("%d %s", r.trail.others[kind], kind))
	}
	return list
}

func (a *app) restoreLostCommand() *cobra.Command {
	var data string
	c := &cobra.Command{
		Use: "lost --data DIR", Short: "List devices whose record was lost in a restore", Args: args(),
		Long: `Lost lists the devices that have a certificate of this hub and whose records were lost,
because they onboarded after the backup from which the hub was restored. A device is in
the list after it has connected, and until it has onboarded again. Each owner has an
event 'device.lost' for each device. No other owner can onboard these devices.`,
		Example: "  gangway restore lost --data /var/lib/gangway",
		RunE: func(c *cobra.Command, _ []string) error {
			i, err := existing(c.Context(), data)
			if err != nil {
				return err
			}
			defer i.close()
			list, err := lostDevices(c.Context(), i.store)
			if err != nil {
				return err
			}
			return printList(a, list, []column[lostView]{
				{name: "device", cell: func(d lostView) string { return d.ID }},
				{name: "owner", cell: func(d lostView) string { return d.Owner }},
				{name: "token", cell: func(d lostView) string { return d.TokenID }},
				{name: "issued", cell: func(d lostView) string { return d.Issued.Format(time.DateTime) }},
				{name: "last-seen", cell: func(d lostView) string { return d.LastSeen.Format(time.DateTime) }},
			}, "No lost device has connected.")
		},
	}
	c.Flags().StringVar(&data, "data", "", "the hub's data folder (required)")
	return a.table(c, "device", "owner", "token", "issued", "last-seen")
}

// lostView is a lost device in JSON.
type lostView struct {
	ID       string    `json:"device"`
	Owner    string    `json:"owner"`
	TokenID  string    `json:"token"`
	Issued   time.Time `json:"issued"`
	LastSeen time.Time `json:"last-seen"`
	Addr     string    `json:"addr"`
}

func lostDevices(ctx context.Context, db offlineStore) (list []lostView, err error) {
	const page = 1000
	for after := ""; ; {
		rows, err := db.LostDevices(ctx, after, page)
		if err != nil {
			return nil, err
		}
		for _, d := range rows {
			after = d.ID
			list = append(list, lostView{d.ID, wire.AccountPRN + d.Owner, d.TokenID, d.Issued.UTC(), d.LastSeen.UTC(), d.Addr})
		}
		if len(rows) < page {
			return list, nil
		}
	}
}

func (a *app) restoreTokensCommand() *cobra.Command {
	var data string
	c := &cobra.Command{
		Use: "tokens --data DIR", Short: "List join tokens that a restore paused", Args: args(),
		Long: `Tokens lists the join tokens with a limited number of uses that are paused since a
restore, because the hub may have lost uses. LOST is the number of lost devices that have
shown a certificate for this token: at least this many uses are lost. Devices that have
used the token can use it again. 'gangway restore resume' ends the pause.`,
		Example: "  gangway restore tokens --data /var/lib/gangway",
		RunE: func(c *cobra.Command, _ []string) error {
			i, err := existing(c.Context(), data)
			if err != nil {
				return err
			}
			defer i.close()
			list, err := pausedTokens(c.Context(), i.store)
			if err != nil {
				return err
			}
			return printList(a, list, []column[pausedView]{
				{name: "token", cell: func(t pausedView) string { return t.ID }},
				{name: "nick", cell: func(t pausedView) string { return t.Nick }},
				{name: "owner", cell: func(t pausedView) string { return t.Owner }},
				{name: "uses", cell: func(t pausedView) string { return fmt.Sprintf("%d of %d", t.Uses, t.MaxUses) }},
				{name: "lost", cell: func(t pausedView) string { return strconv.Itoa(t.Lost) }},
			}, "No join token is paused.")
		},
	}
	c.Flags().StringVar(&data, "data", "", "the hub's data folder (required)")
	return a.table(c, "token", "nick", "owner", "uses", "lost")
}

// pausedView is a paused join token in JSON.
type pausedView struct {
	ID      string `json:"token"`
	Nick    string `json:"nick"`
	Owner   string `json:"owner"`
	Uses    int    `json:"uses"`
	MaxUses int    `json:"max-uses"`
	Lost    int    `json:"lost"` // lost devices that have connected
}

func pausedTokens(ctx context.Context, db offlineStore) (list []pausedView, err error) {
	tokens, err := db.PausedTokens(ctx)
	if err != nil {
		return nil, err
	}
	lost, err := lostDevices(ctx, db)
	if err != nil {
		return nil, err
	}
	counts := map[string]int{}
	for _, d := range lost {
		counts[d.TokenID]++
	}
	for _, t := range tokens {
		list = append(list, pausedView{t.ID, t.Nick, wire.AccountPRN + t.Owner, t.Uses, t.MaxUses, counts[t.ID]})
	}
	return list, nil
}

func (a *app) restoreResumeCommand() *cobra.Command {
	var data string
	var spent int
	c := &cobra.Command{
		Use: "resume TOKEN --data DIR --spent N", Short: "Let devices use a paused join token again", Args: args("TOKEN"),
		Long: `Resume ends the pause of a join token. N is the number of devices that have used the
token after the backup: the token then allows N fewer devices. If you do not know the
number, leave the token paused, and let its owner make a new one.`,
		Example: "  gangway restore resume 5f3e... --data /var/lib/gangway --spent 2",
		RunE: func(c *cobra.Command, arg []string) error {
			if !c.Flags().Changed("spent") || spent < 0 {
				return usagef("--spent is needed: the number of devices that have used the token since the backup, such as 0")
			}
			i, err := existing(c.Context(), data)
			if err != nil {
				return err
			}
			defer i.close()
			by := operator()
			e := store.Event{Time: time.Now(), Kind: store.EventTokenResumed, Message: fmt.Sprintf("The join token was paused after a restore, and can be used again. %d uses were lost.", spent)}
			err = i.store.ResumeToken(c.Context(), arg[0], spent, e.By(&by))
			if errors.Is(err, store.ErrNotFound) {
				return fmt.Errorf("no join token with the id %.40q is paused; 'gangway restore tokens' lists the paused join tokens", arg[0])
			}
			if err != nil {
				return err
			}
			a.note("Devices can use the join token %s again.", arg[0])
			return nil
		},
	}
	c.Flags().StringVar(&data, "data", "", "the hub's data folder (required)")
	c.Flags().IntVar(&spent, "spent", 0, "number of devices that have used the token since the backup (required)")
	return c
}

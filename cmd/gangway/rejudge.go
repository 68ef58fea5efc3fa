package main

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"gangway/hub/api"
	"gangway/hub/onboard"

	"github.com/spf13/cobra"
)

var judgementColumns = []column[api.Judgement]{
	{name: "nick", cell: func(j api.Judgement) string { return j.Nick }},
	{name: "id", cell: func(j api.Judgement) string { return j.ID }},
	{name: "outcome", cell: func(j api.Judgement) string { return j.Outcome }, tone: func(j api.Judgement) tone {
		if j.Outcome == "refused" {
			return bad
		}
		return attention
	}},
	{name: "code", cell: func(j api.Judgement) string { return j.Code }},
	{name: "reason", cell: func(j api.Judgement) string { return j.Reason }},
}

// judged is the maximum number of devices that the hub judges again in one request.
const judged = 100

func (a *app) rejudgeCommand() *cobra.Command {
	var data, owner, code string
	var makers makerFlags
	c := &cobra.Command{
		Use: "rejudge", Short: "List the devices that the hub would not accept today", Args: args(),
		Long: `Rejudge judges the kept evidence of your devices again, under the trust store, the
policies and the EK lists that are in force now. It lists the devices that the hub would
refuse, or about which it would ask their owner. Rejudge changes nothing: such devices
stay active, because a change of the rules never ends a device's access.

With --delete CODE, rejudge then deletes the refused devices with this code: it revokes
their certificates and releases their TPMs. Run rejudge without --delete first.

With --data, on the hub's machine, rejudge judges the devices of all owners, or of the
owner with the nick --owner. Give it the same --tpm-roots and --tpm-intermediates as the
hub.`,
		Example: `  gangway device rejudge
  gangway device rejudge --output csv > refused.csv
  gangway device rejudge --delete ek-chain-distrusted
  gangway device rejudge --data /var/lib/gangway --owner ada`,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx := c.Context()
			switch {
			case data != "" && code != "":
				return usagef("--delete needs the owner's own sign-in, so --data and --delete are mutually exclusive")
			case data == "" && owner != "":
				return usagef("--owner is for --data: without it, rejudge judges your own devices")
			case data != "":
				list, err := rejudgeOffline(ctx, data, owner, &makers)
				if err != nil {
					return err
				}
				return printList(a, list, judgementColumns, "The hub would accept every device today.")
			}
			list, err := rejudged(func(after string) (*api.Judgements, error) {
				page, err := call[api.Judgements](ctx, "GET", fmt.Sprintf("/fleet/judgements?limit=%d&after=%s", judged, url.QueryEscape(after)), nil)
				return &page, err
			})
			if err != nil {
				return err
			}
			if err := printList(a, list, judgementColumns, "The hub would accept every device today."); err != nil || code == "" {
				return err
			}
			return a.deleteRefused(ctx, list, code)
		},
	}
	f := c.Flags()
	f.StringVar(&code, "delete", "", "delete the devices that the hub would refuse with this error code")
	f.StringVar(&data, "data", "", dataFlag+": judge the devices of all owners")
	f.StringVar(&owner, "owner", "", "with --data: judge only the devices of the owner with this nick (default: all owners)")
	makers.add(f)
	return a.table(c, columnNames(judgementColumns)...)
}

// rejudged calls `page` repeatedly, and returns the judgements of all devices. Each page begins
// after the last device of the previous page.
func rejudged(page func(after string) (*api.Judgements, error)) (list []api.Judgement, err error) {
	for after := ""; ; {
		p, err := page(after)
		if err != nil {
			return nil, err
		}
		list = append(list, p.Devices...)
		if after = p.Next; after == "" {
			return list, nil
		}
	}
}

// rejudgeOffline judges the devices of all owners, or of one owner, on the hub's machine.
func rejudgeOffline(ctx context.Context, data, owner string, makers *makerFlags) (list []api.Judgement, err error) {
	i, err := existing(ctx, data)
	if err != nil {
		return nil, err
	}
	defer i.close()
	known, err := makers.set(ctx)
	if err != nil {
		return nil, err
	}
	s := &onboard.Service{Store: i.engine, CA: i.ca, Now: time.Now}
	s.SetTrust(known)
	judge := func(id string) error {
		of, err := rejudged(func(after string) (*api.Judgements, error) { return api.Rejudge(ctx, i.engine, s, id, after, judged) })
		list = append(list, of...)
		return err
	}
	if owner != "" {
		a, err := i.engine.AccountByNickOrEmail(ctx, owner)
		if err != nil {
			return nil, fmt.Errorf("account %q: %w", owner, err)
		}
		return list, judge(a.ID)
	}
	for after := ""; ; {
		owners, err := i.engine.Owners(ctx, after, judged)
		if err != nil {
			return nil, err
		}
		for _, o := range owners {
			if after = o.Nick; o.Devices == 0 {
				continue
			}
			if err := judge(o.ID); err != nil {
				return nil, err
			}
		}
		if len(owners) < judged {
			return list, nil
		}
	}
}

// deleteRefused deletes those devices in `list` that the hub would refuse with the error code
// `code`.
func (a *app) deleteRefused(ctx context.Context, list []api.Judgement, code string) error {
	deleted := 0
	for _, j := range list {
		if j.Outcome != "refused" || j.Code != code {
			continue
		}
		if _, err := call[api.DeviceView](ctx, "DELETE", "/devices/"+url.PathEscape(j.ID), nil); err != nil {
			return fmt.Errorf("%d device(s) were deleted; %s: %w", deleted, j.Nick, err)
		}
		deleted++
	}
	a.note("%d device(s) with the code %s are deleted. Their certificates are revoked, and their TPMs are released.", deleted, code)
	return nil
}

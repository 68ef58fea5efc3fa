package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"gangway/hub/api"
	"gangway/hub/policy"
	"gangway/hub/store"

	"github.com/spf13/cobra"
)

const hubsData = dataFlag + ", for the hub's policy or list (default: your own, at the hub)"

func (a *app) policyCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "policy", Short: "Manage policies: the rules about which TPMs are accepted",
		Long: `A policy is a YAML document. It says which TPMs are accepted, refused, or left to a
person's decision. The hub's operator has a policy for all devices. Each owner can
have one that is stricter. A change applies to all requests that follow.

  version: 1
  no_ek_certificate: ask          # or refuse
  unknown_maker: ask              # or refuse
  expired_ek_certificate: accept  # or ask, refuse
  unlisted_ek: refuse             # or ask, accept: EKs that are not on your list
  software_tpms: []               # emulators and virtual TPMs, by model or maker
  ek_kinds: {IFX: [L-2]}          # allowed kinds of EK, by maker ("none": no certificate)
  measured_boot: report           # or require, or {firmware: known, system: expected}
  without_tpm: refuse             # or accept: devices that show no TPM at all
  rules:                          # the first rule that matches decides
    - {maker: IFX, firmware_below: "7.85", then: refuse, reason: "known weaknesses"}
    - {maker: IFX, then: accept}
    - {then: ask}`,
	}
	var data, hubFile string
	show := &cobra.Command{
		Use: "show", Short: "Print your policy and the hub's", Args: args(),
		Long: `Show prints the hub's policy and yours, with warnings about settings of yours that
have no effect. With --data, it prints only the hub's policy.`,
		Example: "  gangway policy show\n  gangway policy show --data /var/lib/gangway",
		RunE:    func(c *cobra.Command, _ []string) error { return a.showPolicy(c.Context(), data) },
	}
	set := &cobra.Command{
		Use: "set FILE", Short: "Replace your policy", Args: args("the policy's file ('-': standard input)"),
		Long:    "Set replaces the whole policy. If the document has a mistake, the old policy stays in\nforce.",
		Example: "  gangway policy set policy.yaml\n  gangway policy set hub-policy.yaml --data /var/lib/gangway",
		RunE: func(c *cobra.Command, arg []string) error {
			text, err := a.read(arg[0], policy.MaxSize)
			if err != nil {
				return err
			}
			d, err := policy.Parse(text)
			if err != nil {
				return err
			}
			var warnings []string
			if data == "" {
				view, err := call[api.PolicyView](c.Context(), "PUT", "/policy", rawBody(text))
				if err != nil {
					return err
				}
				warnings = view.Warnings
			} else {
				if err := putHubPolicy(c.Context(), data, string(text)); err != nil {
					return err
				}
				warnings = policy.Warnings(d, nil, false)
			}
			a.warnPolicy(warnings)
			a.note("The policy applies to the next request of each device.")
			return nil
		},
	}
	remove := &cobra.Command{
		Use: "remove", Aliases: []string{"rm", "delete"}, Short: "Remove your policy", Args: args(),
		Long:    "Remove removes your policy. Then only the hub's policy applies to your devices.",
		Example: "  gangway policy remove\n  gangway policy remove --data /var/lib/gangway",
		RunE: func(c *cobra.Command, _ []string) error {
			if data != "" {
				return putHubPolicy(c.Context(), data, "")
			}
			_, err := call[api.PolicyView](c.Context(), "DELETE", "/policy", nil)
			return err
		},
	}
	check := &cobra.Command{
		Use: "check FILE", Short: "Check a policy file, and list settings that have no effect", Args: args("the policy's file ('-': standard input)"),
		Long: `Check reads a policy file, and changes nothing at a hub. It lists settings that have
no effect: unknown TPM makers and rules that an earlier rule hides. With --hub-policy,
it also lists settings that are looser than those of the hub's policy.`,
		Example: "  gangway policy check policy.yaml\n  gangway policy check --hub-policy hub-policy.yaml policy.yaml",
		RunE: func(_ *cobra.Command, arg []string) error {
			text, err := a.read(arg[0], policy.MaxSize)
			if err != nil {
				return err
			}
			d, err := policy.Parse(text)
			if err != nil {
				return err
			}
			var hubs *policy.Document
			if hubFile != "" {
				text, err := a.read(hubFile, policy.MaxSize)
				if err != nil {
					return err
				}
				if hubs, err = policy.Parse(text); err != nil {
					return fmt.Errorf("%s: %w", hubFile, err)
				}
			}
			warnings := policy.Warnings(d, hubs, hubFile != "")
			if done, err := a.json(map[string]any{"ok": true, "rules": len(d.Rules), "warnings": warnings}); done {
				return err
			}
			a.warnPolicy(warnings)
			a.printf("The policy is valid: %d rule(s).\n", len(d.Rules))
			return nil
		},
	}
	for _, sub := range []*cobra.Command{show, set, remove} {
		sub.Flags().StringVar(&data, "data", "", hubsData)
	}
	check.Flags().StringVar(&hubFile, "hub-policy", "", "file of the hub's policy: also list the settings of FILE that are looser than this policy")
	c.AddCommand(show, set, remove, check, a.ekListCommand())
	return c
}

func (a *app) warnPolicy(warnings []string) {
	for _, w := range warnings {
		a.note("Warning: %s", visible(w))
	}
}

func (a *app) showPolicy(ctx context.Context, data string) error {
	var view api.PolicyView
	var err error
	if data == "" {
		view, err = call[api.PolicyView](ctx, "GET", "/policy", nil)
	} else {
		view, err = hubPolicy(ctx, data)
	}
	if err != nil {
		return err
	}
	if done, err := a.json(view); done {
		return err
	}
	for _, p := range []struct {
		whose, text string
		updated     *time.Time
	}{{"The hub's", view.HubPolicy, view.HubUpdated}, {"Yours", view.Policy, view.Updated}} {
		switch {
		case p.text != "":
			if data != "" || p.whose == "Yours" {
				a.warnPolicy(view.Warnings)
			}
			a.printf("# %s, of %s\n%s\n", p.whose, p.updated.Local().Format(time.DateTime), strings.TrimSpace(p.text))
		case data == "" || p.whose != "Yours":
			a.printf("# %s: none.\n", p.whose)
		}
	}
	return nil
}

func hubPolicy(ctx context.Context, data string) (view api.PolicyView, err error) {
	i, err := existing(ctx, data)
	if err != nil {
		return view, err
	}
	defer i.close()
	p, err := i.store.Policy(ctx, store.HubWide)
	if errors.Is(err, store.ErrNotFound) {
		return view, nil
	}
	if err != nil {
		return view, err
	}
	view = api.PolicyView{HubPolicy: p.Text, HubUpdated: &p.Updated}
	if d, err := policy.Parse([]byte(p.Text)); err == nil {
		view.Warnings = policy.Warnings(d, nil, false)
	}
	return view, nil
}

func putHubPolicy(ctx context.Context, data, text string) error {
	i, err := existing(ctx, data)
	if err != nil {
		return err
	}
	defer i.close()
	now := time.Now()
	if err := i.store.PutPolicy(ctx, store.Policy{Owner: store.HubWide, Text: text, Updated: now}); err != nil {
		return err
	}
	return i.recordChange(ctx, "policy", "The hub's policy", text == "", now)
}

// recordChange appends an event to the audit trail. The event says that the hub's policy or EK list
// was changed or, if `removed` is set, removed.
func (i *instance) recordChange(ctx context.Context, kind, what string, removed bool, now time.Time) error {
	verb := "changed"
	if removed {
		verb = "removed"
	}
	by := operator()
	return i.store.AppendEvent(ctx, store.Event{Time: now, Kind: kind + "." + verb, Message: what + " was " + verb + "."}.By(&by))
}

func (a *app) ekListCommand() *cobra.Command {
	var data string
	var remove bool
	c := &cobra.Command{
		Use: "ek-list [FILE]", Short: "Accept only the TPMs on a list",
		Long: `Ek-list prints your EK list, the list of expected TPMs, or replaces it with a CSV or
JSON file. While you have a list, a TPM that is not on it is refused, unless
unlisted_ek in your policy says otherwise.

A CSV file has the column 'ek_sha256' (SHA-256 of the EK's SubjectPublicKeyInfo) or
'serial' (serial number of the EK certificate), both in hexadecimal, and may have the
columns 'note' and 'certificate'. A JSON file is an array of objects with these names.

A line with ek_sha256 on an owner's list approves that EK, even if the TPM has no EK
certificate or one of an unknown maker. A missing certificate may hide an emulator, a
maker that is not trusted, a revoked TPM, or another owner's device. To refuse the TPM
without a trusted certificate, write 'required' in the column 'certificate'. If the hub
knows a certificate of the EK, it always checks that certificate. A serial number counts
only in a certificate that chains to a trusted root.`,
		Example: "  gangway policy ek-list bought.csv\n  gangway policy ek-list\n  gangway policy ek-list --remove",
		Args: func(_ *cobra.Command, arg []string) error {
			if len(arg) > 1 || len(arg) == 1 && remove {
				return usagef("give one file, or --remove")
			}
			return nil
		},
		RunE: func(c *cobra.Command, arg []string) error {
			lists := ekLists{data}
			switch {
			case remove:
				return lists.put(c.Context(), nil)
			case len(arg) == 0:
				return a.printEKList(c.Context(), lists)
			}
			text, err := a.read(arg[0], policy.MaxListSize)
			if err != nil {
				return err
			}
			list, err := policy.ParseEKList(text)
			if err != nil {
				return err
			}
			if err := lists.put(c.Context(), text); err != nil {
				return err
			}
			a.note("The EK list now has %d TPM(s). The hub accepts no other TPM.", len(list))
			if n := withoutCertificate(list); n > 0 && data == "" {
				a.note("%d line(s) approve a TPM even if it has no EK certificate; to require a certificate, write 'required' in the column 'certificate'.", n)
			}
			return nil
		},
	}
	c.Flags().StringVar(&data, "data", "", hubsData)
	c.Flags().BoolVar(&remove, "remove", false, "remove the EK list: the hub then no longer limits which TPMs may onboard")
	return c
}

// withoutCertificate returns how many lines of an EK list approve an EK even if it has no
// certificate.
func withoutCertificate(list []store.ListedEK) (n int) {
	for _, l := range list {
		if l.Key != nil && !l.CertificateRequired {
			n++
		}
	}
	return n
}

func (a *app) printEKList(ctx context.Context, lists ekLists) error {
	list, err := lists.get(ctx)
	if err != nil {
		return err
	}
	if done, err := a.json(list); done {
		return err
	}
	if len(list) == 0 {
		a.note("There is no EK list: the hub accepts any TPM that the policy accepts.")
		return nil
	}
	a.printf("ek_sha256,serial,note,certificate\n")
	for _, l := range list {
		a.printf("%s,%s,%q,%s\n", l.EK, l.Serial, l.Note, l.Certificate)
	}
	return nil
}

// ekLists reads and writes one EK list. If `data` is set, it names the data folder, and the list is
// the hub's. Otherwise the list belongs to the signed-in owner, and the methods use the hub's API.
type ekLists struct{ data string }

func (l ekLists) get(ctx context.Context) (list []policy.ListEntry, err error) {
	if l.data == "" {
		return call[[]policy.ListEntry](ctx, "GET", "/policy/ek-list", nil)
	}
	i, err := existing(ctx, l.data)
	if err != nil {
		return nil, err
	}
	defer i.close()
	stored, err := i.store.EKList(ctx, store.HubWide)
	for _, s := range stored {
		list = append(list, policy.NewListEntry(s))
	}
	return list, err
}

// put replaces the EK list with the list in `text`. If `text` is nil, put removes the list.
func (l ekLists) put(ctx context.Context, text []byte) error {
	if l.data == "" {
		method := "PUT"
		if text == nil {
			method = "DELETE"
		}
		_, err := call[map[string]int](ctx, method, "/policy/ek-list", rawBody(text))
		return err
	}
	i, err := existing(ctx, l.data)
	if err != nil {
		return err
	}
	defer i.close()
	var list []store.ListedEK
	if text != nil {
		if list, err = policy.ParseEKList(text); err != nil {
			return err
		}
	}
	if err := i.store.PutEKList(ctx, store.HubWide, list); err != nil {
		return err
	}
	return i.recordChange(ctx, "ek-list", "The hub's list of expected TPMs", text == nil, time.Now())
}

// read reads the file with the given name, or standard input for the name "-". More than `max`
// bytes are an error.
func (a *app) read(name string, max int64) ([]byte, error) {
	in, err := a.input(name, "give the path of a file, or - for standard input")
	if err != nil {
		return nil, err
	}
	defer in.Close()
	text, err := io.ReadAll(io.LimitReader(in, max+1))
	if err == nil && int64(len(text)) > max {
		err = fmt.Errorf("%s has more than the %d bytes that are allowed", name, max)
	}
	return text, err
}

// input opens the file with the given name, or standard input for the name "-". If there is no such
// file, or if it is a folder, the error ends with `remedy`.
func (a *app) input(name, remedy string) (io.ReadCloser, error) {
	if name == "-" {
		return io.NopCloser(a.stdin), nil
	}
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no file %s; %s", name, remedy)
	}
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, errors.Join(fmt.Errorf("%s is a folder; %s", name, remedy), f.Close())
	}
	return f, nil
}

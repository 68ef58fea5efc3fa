package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gangway/hub/api"
	"gangway/hub/boot"
	"gangway/wire/manifest"

	"github.com/spf13/cobra"
)

func (a *app) bootsCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "boot", Short: "State which boots you expect, and accept a boot for many devices at once",
		Long: `The hub judges each part of a device's boot: the firmware, the Secure Boot keys, the
boot path, the system, and the rest. A part is expected if one of your signed manifests
states its value. A part is known if its value is that of the device's reference, or if
you accepted the value for a cohort of devices.

'gangway device boot' shows the boot of one device.`,
	}
	key := &cobra.Command{Use: "key", Short: "Manage the public keys that sign your manifests",
		Long: `The hub accepts only manifests that one of these keys signed. The private keys stay
with you: see 'gangway manifest key'.`}
	key.AddCommand(a.bootKeyAdd(), a.bootKeyLs(), a.bootKeyRm())
	m := &cobra.Command{Use: "manifest", Short: "Manage your reference manifests on the hub",
		Long: `A reference manifest says what a machine measures when it starts one of your systems.
'gangway image build' and 'gangway image system' make manifests.`}
	m.AddCommand(a.bootManifestAdd(), a.bootManifestLs(), a.bootManifestRm())
	c.AddCommand(key, m, a.bootCohorts(), a.bootAccept(), a.bootDecisions(), a.bootUndo())
	return c
}

func (a *app) bootKeyAdd() *cobra.Command {
	var name string
	var fromStdin bool
	c := &cobra.Command{
		Use: "add FILE", Short: "Add a public key that signs your manifests", Args: args("the file with the public key"),
		Long: `Add registers a public key in PEM. Anyone with the private key decides which boots the hub
expects. So the command asks for your password.`,
		Example: "  gangway boot key add manifest.key.pub\n  gangway boot key add release.pub --name release-2026",
		RunE: func(c *cobra.Command, arg []string) error {
			text, err := readSmall(arg[0], manifest.MaxSize)
			if err != nil {
				return err
			}
			if _, err := manifest.ParseKey(text); err != nil {
				return fmt.Errorf("%s: %w", arg[0], err)
			}
			if name == "" {
				name = filepath.Base(arg[0])
			}
			password, err := a.password(fromStdin, false)
			if err != nil {
				return err
			}
			k, err := call[api.ManifestKeyView](c.Context(), "POST", "/boots/keys", api.NewManifestKey{Name: name, Key: string(text), Password: password})
			if err != nil {
				return err
			}
			return a.done(map[string]any{"id": k.ID, "name": k.Name}, "The hub accepts manifests that the key %s (SHA-256 %s) signed.", k.Name, k.ID)
		},
	}
	c.Flags().StringVar(&name, "name", "", "name of the key (default: the file's name)")
	c.Flags().BoolVar(&fromStdin, "password-stdin", false, "read the password from standard input")
	return c
}

var bootKeyColumns = []column[api.ManifestKeyView]{
	{name: "name", cell: func(k api.ManifestKeyView) string { return k.Name }},
	{name: "id", cell: func(k api.ManifestKeyView) string { return beginning(k.ID) }, value: func(k api.ManifestKeyView) string { return k.ID }},
	{name: "added", cell: func(k api.ManifestKeyView) string { return k.Added.Local().Format(time.DateTime) }, value: func(k api.ManifestKeyView) string { return stamp(k.Added) }},
}

func (a *app) bootKeyLs() *cobra.Command {
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List the public keys that sign your manifests", Args: args(),
		Long:    "Ls lists the public keys that sign your manifests.",
		Example: "  gangway boot key ls\n  gangway boot key ls --output json",
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := call[api.BootList[api.ManifestKeyView]](c.Context(), "GET", "/boots/keys", nil)
			if err != nil {
				return err
			}
			return printList(a, list.Items, bootKeyColumns, "No key yet. Create one: gangway manifest key create FILE")
		},
	}
	return a.table(c, columnNames(bootKeyColumns)...)
}

func (a *app) bootKeyRm() *cobra.Command {
	return &cobra.Command{
		Use: "rm KEY", Aliases: []string{"remove"}, Short: "Remove a public key", Args: args("the key's name or id"),
		Long: `Rm removes a public key. The hub then ignores the manifests that this key signed, so boots
of their systems may change. Remove a key when its private key was lost or stolen.`,
		Example: "  gangway boot key rm release-2025",
		RunE: func(c *cobra.Command, arg []string) error {
			list, err := call[api.BootList[api.ManifestKeyView]](c.Context(), "GET", "/boots/keys", nil)
			if err != nil {
				return err
			}
			k, err := oneOf(list.Items, arg[0], "key", func(k api.ManifestKeyView) []string { return []string{k.Name, k.ID} })
			if err != nil {
				return err
			}
			if _, err := call[map[string]any](c.Context(), "DELETE", "/boots/keys/"+url.PathEscape(k.ID), nil); err != nil {
				return err
			}
			return a.done(map[string]any{"id": k.ID}, "The key %s is removed. The hub no longer uses the manifests that this key signed.", k.Name)
		},
	}
}

// beginning returns the first 12 characters of a hash. Commands accept these characters instead of
// the whole hash.
func beginning(hash string) string { return hash[:min(len(hash), 12)] }

// oneOf finds the item that a person calls `name`: one of the item's names, or at least the first 8
// characters of such a name. If several items match, oneOf returns an error.
func oneOf[T any](items []T, name, what string, names func(T) []string) (found T, err error) {
	n := 0
	for _, item := range items {
		if slices.ContainsFunc(names(item), func(s string) bool { return s == name || len(name) >= 8 && strings.HasPrefix(s, name) }) {
			found = item
			n++
		}
	}
	switch n {
	case 0:
		return found, fmt.Errorf("there is no %s %q", what, name)
	case 1:
		return found, nil
	}
	return found, fmt.Errorf("%d items match the %s %q: give the whole id", n, what, name)
}

func (a *app) bootManifestAdd() *cobra.Command {
	return &cobra.Command{
		Use: "add FILE", Short: "Upload a signed manifest", Args: args("the manifest's file"),
		Long: `Add uploads a manifest. From then on, the hub expects the manifest's system on each
device, unless the device's revision names another system.`,
		Example: "  gangway boot manifest add system.efi.manifest",
		RunE: func(c *cobra.Command, arg []string) error {
			text, err := readSmall(arg[0], manifest.MaxSize)
			if err != nil {
				return err
			}
			m, err := call[api.ManifestView](c.Context(), "POST", "/boots/manifests", rawBody(text))
			if err != nil {
				return err
			}
			return a.done(map[string]any{"id": m.ID, "name": m.Name, "sequence": m.Sequence}, "The hub expects the system %s (sequence %d).", m.Name, m.Sequence)
		},
	}
}

var bootManifestColumns = []column[api.ManifestView]{
	{name: "name", cell: func(m api.ManifestView) string { return m.Name }},
	{name: "sequence", cell: func(m api.ManifestView) string { return fmt.Sprint(m.Sequence) }},
	{name: "id", cell: func(m api.ManifestView) string { return beginning(m.ID) }, value: func(m api.ManifestView) string { return m.ID }},
	{name: "counts", cell: func(m api.ManifestView) string {
		if m.Counts {
			return "yes"
		}
		return "no: its key was removed"
	}},
	{name: "added", cell: func(m api.ManifestView) string { return m.Added.Local().Format(time.DateTime) }, value: func(m api.ManifestView) string { return stamp(m.Added) }},
}

func (a *app) bootManifestLs() *cobra.Command {
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List your manifests", Args: args(),
		Long:    "Ls lists the manifests on the hub, the newest first.",
		Example: "  gangway boot manifest ls\n  gangway boot manifest ls --output json",
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := call[api.BootList[api.ManifestView]](c.Context(), "GET", "/boots/manifests", nil)
			if err != nil {
				return err
			}
			return printList(a, list.Items, bootManifestColumns, "No manifest yet. Make one: gangway image system --manifest-key FILE")
		},
	}
	return a.table(c, columnNames(bootManifestColumns)...)
}

func (a *app) bootManifestRm() *cobra.Command {
	return &cobra.Command{
		Use: "rm ID", Aliases: []string{"remove"}, Short: "Remove a manifest", Args: args("the manifest's id, or the beginning of the id"),
		Long: `Rm removes a manifest. The hub does not expect the manifest's system any more. Remove a
manifest when its system must not run any more, for example because of a security hole.`,
		Example: "  gangway boot manifest rm 3f2a9c10",
		RunE: func(c *cobra.Command, arg []string) error {
			list, err := call[api.BootList[api.ManifestView]](c.Context(), "GET", "/boots/manifests", nil)
			if err != nil {
				return err
			}
			m, err := oneOf(list.Items, arg[0], "manifest", func(m api.ManifestView) []string { return []string{m.ID} })
			if err != nil {
				return err
			}
			if _, err := call[map[string]any](c.Context(), "DELETE", "/boots/manifests/"+url.PathEscape(m.ID), nil); err != nil {
				return err
			}
			return a.done(map[string]any{"id": m.ID}, "The manifest of %s is removed.", m.Name)
		},
	}
}

var cohortColumns = []column[api.CohortView]{
	{name: "part", cell: func(c api.CohortView) string { return c.Part }},
	{name: "value", cell: func(c api.CohortView) string { return beginning(c.Value) }, value: func(c api.CohortView) string { return c.Value }},
	{name: "model", cell: func(c api.CohortView) string { return c.Model }},
	{name: "devices", cell: func(c api.CohortView) string { return fmt.Sprintf("%d of %d", c.Devices, c.Of) }},
	{name: "changed", cell: func(c api.CohortView) string { return fmt.Sprint(c.Bad) }},
	{name: "outlier", cell: func(c api.CohortView) string {
		if c.Outlier {
			return "outlier"
		}
		return ""
	}},
	{name: "cause", cell: func(c api.CohortView) string { return c.Cause }},
	{name: "since", cell: func(c api.CohortView) string { return c.First.Local().Format(time.DateOnly) }, value: func(c api.CohortView) string { return stamp(c.First) }},
	{name: "some-devices", cell: func(c api.CohortView) string { return strings.Join(c.Nicks, " ") }},
	{name: "words", cell: func(c api.CohortView) string { return c.Words }, wide: true},
}

func (a *app) bootCohorts() *cobra.Command {
	var part, model string
	c := &cobra.Command{
		Use: "cohorts", Short: "List cohorts: devices with the same value of a part of the boot", Args: args(),
		Long: `A cohort is all devices of a model that have the same value of a part of the boot.
Cohorts lists the outliers first, and then the changes that many devices have in
common, such as a firmware update. With --part, it lists all values of a part.

The part firmware-code is the code of the firmware and of plug-in cards (PCR 0 and 2).
It is the same on all machines of a model. The part firmware also has the settings
(PCR 1 and 3), which often differ.`,
		Example: "  gangway boot cohorts\n  gangway boot cohorts --output wide\n  gangway boot cohorts --part firmware-code --model 'NUC 12'",
		RunE: func(c *cobra.Command, _ []string) error {
			if model != "" && part == "" {
				return usagef("--model needs --part")
			}
			q := url.Values{}
			if part != "" {
				q.Set("part", part)
			}
			if model != "" {
				q.Set("model", model)
			}
			list, err := call[api.CohortList](c.Context(), "GET", "/boots/cohorts?"+q.Encode(), nil)
			if err != nil {
				return err
			}
			if list.More {
				a.note("The list is not complete: there are more cohorts. Use --part and --model to see fewer.")
			}
			return printList(a, list.Items, cohortColumns, "Nothing to decide: no part of a boot changed, and no device is an outlier.")
		},
	}
	c.Flags().StringVar(&part, "part", "", "list all values of this part of the boot: "+partNames())
	c.Flags().StringVar(&model, "model", "", "with --part: only devices of this model")
	return a.table(c, columnNames(cohortColumns)...)
}

// partNames lists those parts of a boot, such as the firmware, that a person can decide about.
func partNames() string {
	names := []string{boot.PartFirmware, boot.FirmwareCode}
	for _, p := range boot.Parts[1:] {
		names = append(names, p.Name)
	}
	return strings.Join(names, ", ")
}

func (a *app) bootAccept() *cobra.Command {
	var d api.NewBootDecision
	var yes bool
	c := &cobra.Command{
		Use: "accept PART VALUE", Short: "Accept a value of a part of the boot for a cohort", Args: args("the part", "the value, or its beginning"),
		Long: `Accept makes a value of a part known. The decision covers all devices, or only the devices
of a model, of a join token, or with a version of the firmware. The command first shows
the devices that have the value, and asks for confirmation. The decision also covers
devices that get the value later.

A decision about firmware-code accepts the whole firmware of these devices, whatever
settings (PCR 1 and 3) they have.`,
		Example: "  gangway boot accept firmware-code 9f31c2d4 --model 'NUC 12'\n  gangway boot accept keys 4be0a6c1 --firmware 1.2.4 --yes",
		RunE: func(c *cobra.Command, arg []string) error {
			value, err := cohortValue(c.Context(), arg[0], arg[1])
			if err != nil {
				return err
			}
			d.Part, d.Value = arg[0], value
			preview, err := call[api.CohortDetail](c.Context(), "GET", "/boots/cohorts/"+url.PathEscape(d.Part)+"/"+url.PathEscape(d.Value)+"?"+url.Values{"model": {d.Model}, "token": {d.Token}, "firmware": {d.Firmware}}.Encode(), nil)
			if err != nil {
				return err
			}
			a.showCohortPreview(preview)
			if !yes {
				fmt.Fprint(a.stderr, "Type 'accept' to accept this value for all these devices: ")
				line, err := bufio.NewReader(io.LimitReader(a.stdin, 256)).ReadString('\n')
				if err != nil || strings.TrimSpace(line) != "accept" {
					return errors.New("not confirmed: nothing was accepted; give --yes in a script")
				}
			}
			d.Devices = preview.Devices
			made, err := call[api.BootDecisionView](c.Context(), "POST", "/boots/decisions", d)
			if err != nil {
				return err
			}
			return a.done(map[string]any{"id": made.ID, "devices": made.Devices}, "Accepted (decision %d). 'gangway boot undo %d' undoes it.", made.ID, made.ID)
		},
	}
	f := c.Flags()
	f.StringVar(&d.Model, "model", "", "only devices of this model")
	f.StringVar(&d.Token, "token", "", "only devices that joined with this join token (id)")
	f.StringVar(&d.Firmware, "firmware", "", "only devices with this measured version of the firmware; the preview lists the versions")
	f.BoolVar(&yes, "yes", false, "do not ask for confirmation")
	return c
}

func (a *app) showCohortPreview(p api.CohortDetail) {
	a.note("%d devices have this value, and on %d of them this part of the boot is changed:", p.Devices, p.Bad)
	if p.Firmware == "" && len(p.Versions) > 1 {
		for _, v := range p.Versions {
			if v.Firmware != "" {
				a.note("  firmware %q: %d devices, changed on %d", v.Firmware, v.Devices, v.Bad)
			}
		}
	}
	const most = 20
	for _, m := range p.Members[:min(len(p.Members), most)] {
		state := ""
		if m.Bad {
			state = "  changed"
		}
		a.note("  %s%s", m.Nick, state)
	}
	if n := p.Devices - most; n > 0 {
		a.note("  and %d more", n)
	}
}

// cohortValue returns the whole hash that begins with `value`, because a person may type only the
// beginning of a measured value. It searches the hub's list of cohorts for this part of the boot.
func cohortValue(ctx context.Context, part, value string) (string, error) {
	if len(value) == 64 {
		return value, nil
	}
	list, err := call[api.CohortList](ctx, "GET", "/boots/cohorts?part="+url.QueryEscape(part), nil)
	if err != nil {
		return "", err
	}
	notable, err := call[api.CohortList](ctx, "GET", "/boots/cohorts", nil)
	if err != nil {
		return "", err
	}
	var values []string
	for _, c := range append(list.Items, notable.Items...) {
		if c.Part == part && !slices.Contains(values, c.Value) {
			values = append(values, c.Value)
		}
	}
	return oneOf(values, value, "value", func(v string) []string { return []string{v} })
}

var decisionColumns = []column[api.BootDecisionView]{
	{name: "id", cell: func(d api.BootDecisionView) string { return fmt.Sprint(d.ID) }},
	{name: "part", cell: func(d api.BootDecisionView) string { return d.Part }},
	{name: "value", cell: func(d api.BootDecisionView) string { return beginning(d.Value) }, value: func(d api.BootDecisionView) string { return d.Value }},
	{name: "model", cell: func(d api.BootDecisionView) string { return d.Model }},
	{name: "token", cell: func(d api.BootDecisionView) string { return d.Token }},
	{name: "firmware", cell: func(d api.BootDecisionView) string { return visible(d.Firmware) }, value: func(d api.BootDecisionView) string { return d.Firmware }},
	{name: "devices", cell: func(d api.BootDecisionView) string { return fmt.Sprint(d.Devices) }},
	{name: "by", cell: func(d api.BootDecisionView) string { return d.By }},
	{name: "made", cell: func(d api.BootDecisionView) string { return d.Made.Local().Format(time.DateTime) }, value: func(d api.BootDecisionView) string { return stamp(d.Made) }},
}

func (a *app) bootDecisions() *cobra.Command {
	c := &cobra.Command{
		Use: "decisions", Short: "List your decisions for cohorts", Args: args(),
		Long:    "Decisions lists the values that you accepted for cohorts, the newest first.",
		Example: "  gangway boot decisions\n  gangway boot decisions --output json",
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := call[api.BootList[api.BootDecisionView]](c.Context(), "GET", "/boots/decisions", nil)
			if err != nil {
				return err
			}
			return printList(a, list.Items, decisionColumns, "No decision yet. 'gangway boot cohorts' lists the changes to decide about.")
		},
	}
	return a.table(c, columnNames(decisionColumns)...)
}

func (a *app) bootUndo() *cobra.Command {
	return &cobra.Command{
		Use: "undo ID", Short: "Undo a decision for a cohort", Args: args("the decision's id"),
		Long:    "Undo removes a decision. Then the hub judges the cohort's boots without the decision.",
		Example: "  gangway boot undo 12",
		RunE: func(c *cobra.Command, arg []string) error {
			if _, err := call[map[string]any](c.Context(), "DELETE", "/boots/decisions/"+url.PathEscape(arg[0]), nil); err != nil {
				return err
			}
			return a.done(map[string]any{"id": arg[0]}, "Decision %s is undone.", arg[0])
		},
	}
}

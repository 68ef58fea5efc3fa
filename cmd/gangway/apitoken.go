package main

import (
	"fmt"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"gangway/hub/api"

	"github.com/spf13/cobra"
)

func (a *app) apiTokenCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "api-token", Short: "Manage API tokens, with which programs act for your account",
		Long: `An API token is a credential for a program, such as a CI job. It has a name, scopes
and an expiry time. It cannot create other tokens or change your password.

Join tokens are something else: devices use them. See 'gangway token'.`,
	}
	c.AddCommand(a.apiTokenCreateCommand(), a.apiTokenLsCommand(), a.apiTokenRevokeCommand())
	return c
}

func (a *app) apiTokenCreateCommand() *cobra.Command {
	var n api.NewAPIToken
	var life time.Duration
	var out string
	c := &cobra.Command{
		Use:   "create NAME --scope SCOPE",
		Short: "Create an API token",
		Long: `Create prints a new API token. With -o, it writes the token to a file that only you
can read. The token is shown only once: the hub stores only its hash.

The scopes are devices, objects, trails, profile and user. Each scope allows
everything of its kind. A scope with .readonly, .write or .change at its end allows
less. The scope all allows everything that an API token may do.

A program sends the token as 'Authorization: Bearer gwt_...', signs in with it
instead of your password (as pvr does), or runs 'gangway login --api-token-stdin'.`,
		Example: `  gangway api-token create ci --scope trails --scope objects --scope devices.readonly -o ci.token
  gangway api-token create backup --scope devices.readonly --expires-in 24h`,
		Args: args("the token's name"),
		RunE: func(c *cobra.Command, arg []string) error {
			n.Name = arg[0]
			if len(n.Scopes) == 0 {
				return usagef("--scope is needed: what the token may do, such as devices.readonly")
			}
			n.ExpiresIn = life.String()
			to, err := newTokenFile(a.stdout, out)
			if err != nil {
				return err
			}
			defer to.discard()
			t, err := call[api.APITokenCreated](c.Context(), "POST", "/tokens", n)
			if err != nil {
				return err
			}
			if a.output == "json" {
				err = to.write(t)
			} else {
				err = to.writeLine(t.Secret)
			}
			if err != nil {
				return fmt.Errorf("API token %s was created but cannot be written (revoke it with 'gangway api-token revoke %s'): %w", t.Name, t.Name, err)
			}
			a.note("API token %s (%s) expires %s. It is shown only once.", t.Name, strings.Join(n.Scopes, " "), t.ExpireAt.Local().Format(time.DateTime))
			return nil
		},
	}
	f := c.Flags()
	f.StringSliceVar(&n.Scopes, "scope", nil, "what the token may do, such as devices.readonly (required, repeatable)")
	f.DurationVar(&life, "expires-in", 90*24*time.Hour, "how long the token is valid, at most 366 days (8784h)")
	f.StringVarP(&out, "out", "o", "", "write the token to this new file, readable only by you (default: standard output)")
	return c
}

func (a *app) apiTokenLsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List your API tokens", Args: args(),
		Long:    "Ls lists your API tokens with their scopes, expiry and last use. It shows no secrets.",
		Example: "  gangway api-token ls\n  gangway api-token ls --output json",
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := call[api.APITokens](c.Context(), "GET", "/tokens", nil)
			if err != nil {
				return err
			}
			if done, err := a.json(list.Items); done {
				return err
			}
			if len(list.Items) == 0 {
				a.note("No API token yet. Create one: gangway api-token create NAME --scope devices.readonly")
				return nil
			}
			w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "ID\tNAME\tSCOPES\tEXPIRES\tLAST USED")
			for _, t := range list.Items {
				scopes := make([]string, len(t.Scopes))
				for i, s := range t.Scopes {
					scopes[i] = s[strings.LastIndex(s, "/")+1:]
				}
				expires, used := t.ExpireAt.Local().Format(time.DateTime), "never"
				if t.Expired {
					expires = "expired"
				}
				if t.LastUsed != nil {
					used = t.LastUsed.Local().Format(time.DateTime) + " from " + t.LastAddr
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", t.ID, t.Name, strings.Join(scopes, " "), expires, used)
			}
			return w.Flush()
		},
	}
}

func (a *app) apiTokenRevokeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "revoke NAME", Short: "Revoke an API token, by its name or id", Args: args("the token's name or id"),
		Long:    "Revoke ends an API token immediately, and all access tokens that programs got with it.",
		Example: "  gangway api-token revoke ci",
		RunE: func(c *cobra.Command, arg []string) error {
			list, err := call[api.APITokens](c.Context(), "GET", "/tokens", nil)
			if err != nil {
				return err
			}
			id := ""
			for _, t := range list.Items {
				if t.ID == arg[0] || t.Name == arg[0] {
					id = t.ID
				}
			}
			if id == "" {
				return fmt.Errorf("you have no API token %q; 'gangway api-token ls' lists them", arg[0])
			}
			if _, err := call[map[string]any](c.Context(), "DELETE", "/tokens/"+url.PathEscape(id), nil); err != nil {
				return err
			}
			return a.done(map[string]any{"id": id}, "API token %s is revoked.", arg[0])
		},
	}
}

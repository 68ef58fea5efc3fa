package main

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"gangway/hub/api"
	"gangway/internal/cmdline"

	"github.com/spf13/cobra"
)

func (a *app) apiTokenCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "api-token", Short: "Manage API tokens, which let programs act for your account",
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
less. The scope 'all' allows everything that an API token may do.

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
			if !a.forPeople() {
				err = to.write(t)
			} else {
				err = to.writeLine(t.Secret)
			}
			if err != nil {
				return fmt.Errorf("API token %s was created but cannot be written (revoke it with 'gangway api-token revoke %s'): %w", t.Name, t.Name, err)
			}
			a.note("API token %s (%s) expires %s. The token is shown only once.", t.Name, strings.Join(n.Scopes, " "), t.ExpireAt.Local().Format(time.DateTime))
			return nil
		},
	}
	f := c.Flags()
	f.StringSliceVar(&n.Scopes, "scope", nil, "scope of the token, such as devices.readonly (required, repeatable)")
	cmdline.SpanVar(f, &life, "expires-in", 90*24*time.Hour, "how long the token is valid, such as 12h or 30d; at most 366d")
	f.StringVarP(&out, "out", "o", "", "write the token to this new file, readable only by you (default: standard output)")
	return c
}

func (a *app) apiTokenLsCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List your API tokens", Args: args(),
		Long:    "Ls lists your API tokens with their scopes, expiry and last use. It shows no secrets.",
		Example: "  gangway api-token ls\n  gangway api-token ls --output json",
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := call[api.APITokens](c.Context(), "GET", "/tokens", nil)
			if err != nil {
				return err
			}
			return printList(a, list.Items, apiTokenColumns, "No API token yet. Create one: gangway api-token create NAME --scope devices.readonly")
		},
	}
	return a.table(c, columnNames(apiTokenColumns)...)
}

// apiTokenColumns are the columns of 'gangway api-token ls'.
var apiTokenColumns = []column[api.APITokenView]{
	{name: "id", cell: func(t api.APITokenView) string { return t.ID }},
	{name: "name", cell: func(t api.APITokenView) string { return t.Name }},
	{name: "scopes", cell: func(t api.APITokenView) string {
		scopes := make([]string, len(t.Scopes))
		for i, s := range t.Scopes {
			scopes[i] = s[strings.LastIndex(s, "/")+1:]
		}
		return strings.Join(scopes, " ")
	}},
	{name: "expires", cell: func(t api.APITokenView) string {
		if t.Expired {
			return "expired"
		}
		return t.ExpireAt.Local().Format(time.DateTime)
	}, value: func(t api.APITokenView) string { return stamp(t.ExpireAt) }, tone: func(t api.APITokenView) tone {
		if t.Expired {
			return faint
		}
		return plainTone
	}},
	{name: "last-used", cell: func(t api.APITokenView) string {
		if t.LastUsed == nil {
			return "never"
		}
		return t.LastUsed.Local().Format(time.DateTime) + " from " + t.LastAddr
	}},
}

func (a *app) apiTokenRevokeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "revoke NAME", Short: "Revoke an API token, by its name or id", Args: args("the token's name or id"),
		Long:    "Revoke ends an API token immediately. Access tokens that programs got with it end too.",
		Example: "  gangway api-token revoke ci",
		RunE: func(c *cobra.Command, arg []string) error {
			t, err := findAPIToken(c.Context(), arg[0])
			if err != nil {
				return err
			}
			if _, err := call[map[string]any](c.Context(), "DELETE", "/tokens/"+url.PathEscape(t.ID), nil); err != nil {
				return err
			}
			return a.done(map[string]any{"id": t.ID}, "API token %s is revoked.", t.Name)
		},
	}
}

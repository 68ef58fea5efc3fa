package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/cmdline"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"
)

func (a *app) tokenCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "token", Short: "Manage join tokens, which let devices join your account",
		Long: `A join token lets devices join your account. A device needs the token file,
which 'create' writes: put the file on the device, or into an installer image.

Programs use API tokens instead: see 'gangway api-token'.`,
	}
	var n api.NewJoinToken
	var life time.Duration
	var meta []string
	var out string
	create := &cobra.Command{
		Use:   "create",
		Short: "Create a join token and its token file",
		Long: `Create makes a join token, and prints its token file. With -o, it writes a new file
that only you can read; it never overwrites a file.

The token file is all that a device needs: the hub's addresses, name and CA, the
owner, and the join token's secret. The secret is shown only once, and the hub does
not store it: guard the token file like a key.`,
		Example: `  gangway token create -o device_autojointoken.json
  gangway token create --nick spring-batch --max-uses 50 --expires-in 30d --meta site=oslo -o t.json
  gangway token create | ssh device 'cat > /etc/gangway/device_autojointoken.json'`,
		Args: args(),
		RunE: func(c *cobra.Command, _ []string) error {
			n.ExpiresIn = life.String()
			for _, kv := range meta {
				k, v, ok := strings.Cut(kv, "=")
				if !ok || k == "" {
					return usagef("--meta %q is not KEY=VALUE", kv)
				}
				if n.DefaultUserMeta == nil {
					n.DefaultUserMeta = map[string]any{}
				}
				n.DefaultUserMeta[k] = v
			}
			to, err := newTokenFile(a.stdout, out)
			if err != nil {
				return err
			}
			defer to.discard()
			t, err := call[api.JoinTokenCreated](c.Context(), "POST", "/devices/tokens", n)
			if err != nil {
				return err
			}
			if f, ok := a.stdout.(*os.File); ok && out == "" && term.IsTerminal(int(f.Fd())) {
				a.note("The output is a secret, shown only once. To write it to a file: gangway token create -o device_autojointoken.json")
			}
			if err := to.write(t); err != nil {
				return fmt.Errorf("join token %s was created, but its token file cannot be written (disable it with 'gangway token disable %s'): %w", t.ID, t.ID, err)
			}
			uses := "any number of devices"
			if t.MaxUses > 0 {
				uses = fmt.Sprintf("%d device(s)", t.MaxUses)
			}
			a.note("Join token %s, for %s, until %s.", t.ID, uses, t.Expires)
			return nil
		},
	}
	f := create.Flags()
	f.StringVarP(&out, "out", "o", "", "write the token file to this new file, readable only by you (default: standard output)")
	f.StringVar(&n.Nick, "nick", "", "name of the join token, shown in lists and messages")
	f.IntVar(&n.MaxUses, "max-uses", 0, "number of devices that may join with the join token (0: any number)")
	cmdline.SpanVar(f, &life, "expires-in", 720*time.Hour, "how long the join token is valid, such as 12h, 30d or 8w")
	f.BoolVar(&n.WithoutTPM, "without-tpm", false, "also accept devices that do not prove that they have a TPM (Pantavisor's auto-join), if the policy has without_tpm: accept")
	f.BoolVar(&n.ForPantacor, "for-pantacor", false, "also accept Pantacor's ownership proofs in two-step enrolment; another hub can relay these proofs, because they do not name the hub; to check the proofs, the hub stores an encrypted key")
	f.StringSliceVar(&meta, "meta", nil, "user-meta that the hub gives to each device of this join token, as KEY=VALUE (repeatable)")

	ls := a.tokenLsCommand()
	remove := &cobra.Command{
		Use: "delete ID|NICK", Aliases: []string{"rm"}, Short: "Delete a disabled join token; its devices stay", Args: args("the join token's id or nick"),
		Long:    "Delete removes a disabled join token. Devices that joined with it stay active.",
		Example: "  gangway token disable 65f0c1d2e3f4a5b6c7d8e9f0\n  gangway token delete 65f0c1d2e3f4a5b6c7d8e9f0",
		RunE: func(c *cobra.Command, arg []string) error {
			t, err := findToken(c.Context(), arg[0])
			if err != nil {
				return err
			}
			answer, err := call[map[string]any](c.Context(), "DELETE", "/devices/tokens/"+url.PathEscape(t.ID)+"?purge=true", nil)
			if err != nil {
				return err
			}
			if done, err := a.json(answer); done {
				return err
			}
			a.note("Join token %s is deleted.", tokenName(t))
			return nil
		},
	}
	a.watchable(a.table(ls, columnNames(tokenColumns)...))
	c.AddCommand(create, ls, a.tokenDisableCommand(), remove)
	return c
}

// tokensOf holds the flags --data and --account of the commands about join tokens. With these
// flags, a command acts on the join tokens of the given account, on the hub's machine.
type tokensOf struct{ data, account string }

func (o *tokensOf) add(f *pflag.FlagSet) {
	f.StringVar(&o.data, "data", "", dataFlag+"; with --account")
	f.StringVar(&o.account, "account", "", "nick of the account that owns the join tokens; with --data")
}

// atHub reports whether the command acts on the hub's machine.
func (o *tokensOf) atHub() (bool, error) {
	if (o.data != "") != (o.account != "") {
		return false, usagef("give --data and --account together; without both, the command is about your own join tokens")
	}
	return o.data != "", nil
}

// The method `offline` reads the account and its join tokens from the hub's database, newest first.
func (o *tokensOf) offline(ctx context.Context) (*instance, store.Account, []api.JoinTokenView, error) {
	i, account, err := atHub(ctx, o.data, o.account)
	if err != nil {
		return nil, account, nil, err
	}
	tokens, err := i.store.JoinTokens(ctx, account.ID)
	if err != nil {
		i.close()
		return nil, account, nil, err
	}
	return i, account, api.ViewJoinTokens(tokens), nil
}

func (a *app) tokenLsCommand() *cobra.Command {
	var at tokensOf
	c := &cobra.Command{
		Use: "ls [--data DIR --account NICK]", Aliases: []string{"list"}, Short: "List join tokens", Args: args(),
		Long: `Ls lists your join tokens with their use, expiry and state. It shows no secrets.

With --data and --account it lists the join tokens of any account. Run it on the hub's
machine; the hub may be running.`,
		Example: `  gangway token ls
  gangway token ls --output json
  gangway token ls --data /var/lib/gangway --account ada`,
		RunE: func(c *cobra.Command, _ []string) error {
			offline, err := at.atHub()
			if err != nil {
				return err
			}
			if offline {
				i, account, tokens, err := at.offline(c.Context())
				if err != nil {
					return err
				}
				defer i.close()
				if account.Disabled && len(tokens) > 0 {
					a.note("The account %s is disabled, so each of its join tokens is disabled. After 'gangway account enable', devices can again use the join tokens that 'gangway token disable' has not disabled.", account.Nick)
				}
				return printList(a, tokens, tokenColumns, account.Nick+" has no join token.")
			}
			tokens, err := allTokens(c.Context(), call[[]api.JoinTokenView])
			if err != nil {
				return err
			}
			return printList(a, tokens, tokenColumns, "No join token yet. Create one: gangway token create -o device_autojointoken.json")
		},
	}
	at.add(c.Flags())
	return c
}

func (a *app) tokenDisableCommand() *cobra.Command {
	var at tokensOf
	c := &cobra.Command{
		Use: "disable ID|NICK [--data DIR --account NICK]", Short: "Disable a join token; its devices stay", Args: args("the join token's id or nick"),
		Long: `Disable lets no more devices join with a join token. Devices that joined with it stay
active. A disabled join token cannot be enabled again.

With --data and --account it disables a join token of any account, even if that account
is disabled. Run it on the hub's machine; the hub may be running.`,
		Example: `  gangway token disable 65f0c1d2e3f4a5b6c7d8e9f0
  gangway token disable spring-batch --data /var/lib/gangway --account ada`,
		RunE: func(c *cobra.Command, arg []string) error {
			offline, err := at.atHub()
			if err != nil {
				return err
			}
			if offline {
				return a.disableTokenAtHub(c.Context(), at, arg[0])
			}
			t, err := findToken(c.Context(), arg[0])
			if err != nil {
				return err
			}
			answer, err := call[map[string]any](c.Context(), "DELETE", "/devices/tokens/"+url.PathEscape(t.ID), nil)
			if err != nil {
				return err
			}
			if done, err := a.json(answer); done {
				return err
			}
			a.note("Join token %s is disabled.", tokenName(t))
			return nil
		},
	}
	at.add(c.Flags())
	return c
}

func (a *app) disableTokenAtHub(ctx context.Context, at tokensOf, which string) error {
	i, account, tokens, err := at.offline(ctx)
	if err != nil {
		return err
	}
	defer i.close()
	t, err := pick("join token", fmt.Sprintf("gangway token ls --data %s --account %s", at.data, account.Nick), which, tokens, tokenNames)
	if err != nil {
		return err
	}
	if err := i.store.DisableJoinToken(ctx, account.ID, t.ID); err != nil {
		return err
	}
	by := operator()
	e := store.Event{Time: time.Now(), Kind: "token.disabled", Owner: account.ID, Token: t.ID, Message: "A join token was disabled."}
	if err := i.store.AppendEvent(ctx, e.By(&by)); err != nil {
		return err
	}
	return a.done(map[string]any{"id": t.ID, "account": account.Nick}, "Join token %s of %s is disabled.", tokenName(t), account.Nick)
}

// allTokens returns all join tokens of the account. It calls the function `get` once for each page.
func allTokens(ctx context.Context, get func(ctx context.Context, method, path string, in any) ([]api.JoinTokenView, error)) ([]api.JoinTokenView, error) {
	all := []api.JoinTokenView{}
	for after := ""; ; after = all[len(all)-1].ID {
		page, err := get(ctx, "GET", "/devices/tokens?limit=1000&after="+after, nil)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if len(page) < 1000 {
			return all, nil
		}
	}
}

// tokenColumns are the columns of 'gangway token ls'.
var tokenColumns = []column[api.JoinTokenView]{
	{name: "id", cell: func(t api.JoinTokenView) string { return t.ID }},
	{name: "nick", cell: func(t api.JoinTokenView) string { return t.Nick }},
	{name: "uses", cell: func(t api.JoinTokenView) string {
		if t.MaxUses > 0 {
			return fmt.Sprintf("%d/%d", t.Uses, t.MaxUses)
		}
		return fmt.Sprint(t.Uses)
	}},
	{name: "expires", cell: func(t api.JoinTokenView) string { return t.Expires.Local().Format(time.DateTime) }, value: func(t api.JoinTokenView) string { return stamp(t.Expires) }},
	{name: "state", cell: func(t api.JoinTokenView) string { return tokenState(t, time.Now()) }, tone: func(t api.JoinTokenView) tone {
		if tokenState(t, time.Now()) == "valid" {
			return good
		}
		return faint
	}, whole: true},
}

// tokenName names a join token in messages, by its nick and id.
func tokenName(t api.JoinTokenView) string {
	if t.Nick == "" {
		return t.ID
	}
	return t.Nick + " (" + t.ID + ")"
}

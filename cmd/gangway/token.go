package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"gangway/hub/api"
	"gangway/tcg"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func (a *app) tokenCommand() *cobra.Command {
	c := &cobra.Command{Use: "token", Short: "Manage join tokens, which let devices into your fleet"}
	var n api.NewJoinToken
	var life time.Duration
	var meta []string
	var out string
	create := &cobra.Command{
		Use:   "create",
		Short: "Make a join token and its file",
		Long: `Create makes a join token and writes its file, or prints it. It is all that a
device needs: where the hub is, how to know it, whose the device will be, and a
secret. The secret is shown this once and the hub does not keep it: guard the
file like a key. With -o only you can read it, and no other file is overwritten.`,
		Example: `  gangway token create -o device_autojointoken.json
  gangway token create --nick spring-batch --max-uses 50 --expires-in 720h --meta site=oslo -o t.json
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
				a.note("This is a secret, shown once. Save it with: gangway token create -o device_autojointoken.json")
			}
			if err := to.write(t); err != nil {
				return fmt.Errorf("join token %s was made, and its file cannot be written (disable it with 'gangway token disable %s'): %w", t.ID, t.ID, err)
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
	f.StringVarP(&out, "out", "o", "", "the file to write, which must not exist, for you to read only (default: standard output)")
	f.StringVar(&n.Nick, "nick", "", "a name, for you")
	f.IntVar(&n.MaxUses, "max-uses", 0, "how many devices may join with it (0: any number)")
	f.DurationVar(&life, "expires-in", 720*time.Hour, "how long it is good for")
	f.BoolVar(&n.WithoutTPM, "without-tpm", false, "devices may show it that show no TPM (Pantavisor's auto-join), where the policy's without_tpm accepts them")
	f.BoolVar(&n.ForPantacor, "for-pantacor", false, "also accept Pantacor's proofs in the two steps: they name no hub, so a relay can use them; the hub keeps, encrypted, what they are checked with")
	f.StringSliceVar(&meta, "meta", nil, "user-meta that its devices start with, KEY=VALUE (repeatable)")

	ls := &cobra.Command{
		Use: "ls", Short: "List join tokens", Args: args(),
		Example: "  gangway token ls\n  gangway token ls --output json",
		RunE: func(c *cobra.Command, _ []string) error {
			tokens, err := allTokens(c.Context(), call[[]api.JoinTokenView])
			if err != nil {
				return err
			}
			if done, err := a.json(tokens); done {
				return err
			}
			if len(tokens) == 0 {
				a.note("No join token yet: gangway token create -o device_autojointoken.json")
				return nil
			}
			w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "ID\tNICK\tUSES\tEXPIRES\tSTATE")
			for _, t := range tokens {
				uses := fmt.Sprint(t.Uses)
				if t.MaxUses > 0 {
					uses = fmt.Sprintf("%d/%d", t.Uses, t.MaxUses)
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", t.ID, tcg.Printable(t.Nick), uses, t.Expires.Local().Format(time.DateTime), tokenState(t, time.Now()))
			}
			return w.Flush()
		},
	}
	disable := &cobra.Command{
		Use: "disable ID", Short: "Disable a join token; devices that joined with it stay", Args: args("the token's id"),
		Example: "  gangway token disable 65f0c1d2e3f4a5b6c7d8e9f0",
		RunE: func(c *cobra.Command, arg []string) error {
			answer, err := call[map[string]any](c.Context(), "DELETE", "/devices/tokens/"+url.PathEscape(arg[0]), nil)
			if err != nil {
				return err
			}
			if done, err := a.json(answer); done {
				return err
			}
			a.note("Join token %s is disabled.", arg[0])
			return nil
		},
	}
	remove := &cobra.Command{
		Use: "delete ID", Short: "Delete a join token that is disabled; devices that joined with it stay", Args: args("the token's id"),
		Example: "  gangway token disable 65f0c1d2e3f4a5b6c7d8e9f0\n  gangway token delete 65f0c1d2e3f4a5b6c7d8e9f0",
		RunE: func(c *cobra.Command, arg []string) error {
			answer, err := call[map[string]any](c.Context(), "DELETE", "/devices/tokens/"+url.PathEscape(arg[0])+"?purge=true", nil)
			if err != nil {
				return err
			}
			if done, err := a.json(answer); done {
				return err
			}
			a.note("Join token %s is deleted.", arg[0])
			return nil
		},
	}
	c.AddCommand(create, ls, disable, remove)
	return c
}

// allTokens lists all join tokens, page by page.
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

package main

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/wire"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func (a *app) accountCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "account", Short: "Manage accounts: passwords, sessions, disabling, deleting",
		Long: `With --data, the commands act on any account. Run them on the hub's machine; the
hub may be running. Without --data, they act on your own account, over the hub's API.`,
	}
	var data, nick, email string
	var fromStdin, generate, reuse, asOperator bool
	create := &cobra.Command{
		Use:   "create --data DIR --nick NAME",
		Short: "Create an account",
		Long: `Create adds an account to the hub's database. It needs the data folder, so run it
on the hub's machine; the hub may be running. It asks for the password, unless
--password-stdin or --generate is given.

With --operator the account can also see the operator's pages: all owners with their
numbers, and the hub's health. It cannot see other owners' devices.`,
		Example: `  gangway account create --data /var/lib/gangway --nick ada --email ada@example.org
  gangway account create --data ./hub --nick ada --generate
  gangway account create --data ./hub --nick olga --generate --operator`,
		Args: args(),
		RunE: func(c *cobra.Command, _ []string) error {
			if generate && fromStdin {
				return usagef("--generate and --password-stdin are mutually exclusive")
			}
			i, err := existing(c.Context(), data)
			if err != nil {
				return err
			}
			defer i.close()
			var password string
			if generate {
				password = rand.Text()
			} else if password, err = a.password(fromStdin, true); err != nil {
				return err
			}
			account, err := api.NewAccount(nick, email, password, time.Now())
			if err != nil {
				return err
			}
			account.Operator = asOperator
			if reuse {
				if err := i.store.ReleaseNick(c.Context(), nick); err != nil {
					return err
				}
			}
			if err := i.store.CreateAccount(c.Context(), account); errors.Is(err, store.ErrExists) {
				return fmt.Errorf("an account with this nick or e-mail exists already; choose another. The nick of a deleted account is reserved, unless you give --reuse-nick")
			} else if err != nil {
				return err
			}
			by := operator()
			if err := i.store.AppendEvent(c.Context(), store.Event{Time: account.Created, Kind: "account.created", Owner: account.ID, Message: createdMessage(asOperator)}.By(&by)); err != nil {
				return err
			}
			view := struct {
				ID       string `json:"id"`
				PRN      string `json:"prn"`
				Nick     string `json:"nick"`
				HubName  string `json:"hub-name"`
				Password string `json:"password,omitempty"`
			}{account.ID, wire.AccountPRN + account.ID, nick, i.ca.HubName(), ""}
			if generate {
				view.Password = password
			}
			if done, err := a.json(view); done {
				return err
			}
			a.printf("Account %s (%s) made.\n", nick, account.ID)
			if generate {
				a.printf("Password: %s\n", password)
			}
			a.note("Sign in from anywhere with:\n  gangway login https://HOST:PORT --hub-name %s --nick %s", i.ca.HubName(), nick)
			return nil
		},
	}
	f := create.Flags()
	f.StringVar(&data, "data", "", "the hub's data folder (required)")
	f.StringVar(&nick, "nick", "", "name to sign in with (required)")
	f.StringVar(&email, "email", "", "e-mail address")
	f.BoolVar(&fromStdin, "password-stdin", false, "read the password from standard input")
	f.BoolVar(&generate, "generate", false, "generate a password and print it")
	f.BoolVar(&asOperator, "operator", false, "give the account the role operator")
	f.BoolVar(&reuse, "reuse-nick", false, "allow the nick of a deleted account; people may mistake the new account for the deleted one")
	c.AddCommand(create, a.accountLsCommand(), a.accountPasswdCommand(), a.accountDisableCommand(), a.accountEnableCommand(), a.accountOperatorCommand(), a.accountDeleteCommand(), a.accountSessionsCommand(), a.accountLogRetention())
	return c
}

func createdMessage(asOperator bool) string {
	if asOperator {
		return "The account was created, with the role operator."
	}
	return "The account was created."
}

// password reads a password. If `fromStdin` is set, it reads from standard input; otherwise it
// reads from the terminal without an echo. If `fresh` is set, the password is new, and the user
// types it twice at the terminal.
func (a *app) password(fromStdin, fresh bool) (string, error) {
	if fromStdin {
		line, err := bufio.NewReader(io.LimitReader(a.stdin, 4096)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		return strings.TrimRight(line, "\r\n"), nil
	}
	fd := int(a.stdin.Fd())
	if !term.IsTerminal(fd) {
		return "", usagef("cannot ask for the password: standard input is not a terminal; use --password-stdin")
	}
	ask := func(prompt string) (string, error) {
		fmt.Fprint(a.stderr, prompt)
		b, err := term.ReadPassword(fd)
		fmt.Fprintln(a.stderr)
		return string(b), err
	}
	p, err := ask("Password: ")
	if err != nil || !fresh {
		return p, err
	}
	again, err := ask("Again: ")
	if err == nil && again != p {
		err = errors.New("the two passwords differ")
	}
	return p, err
}

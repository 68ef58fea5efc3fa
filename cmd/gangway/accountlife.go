package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/cmdline"
	"gangway/wire"

	"github.com/spf13/cobra"
)

// operator returns the person who runs a command on the hub's machine. If sudo runs the command as
// root, that person is the user who called sudo. Otherwise it is the current user.
func operator() store.Actor {
	name := strconv.Itoa(os.Getuid())
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	by := store.Actor{ID: "operator:" + name, Name: name, Means: store.ByCommand}
	if sudo := os.Getenv("SUDO_USER"); sudo != "" && os.Getuid() == 0 {
		by.Name = sudo
	}
	return by
}

// atHub opens a hub's data folder, and finds the account whose nick or e-mail address is `nick`.
func atHub(ctx context.Context, data, nick string) (*instance, store.Account, error) {
	i, err := existing(ctx, data)
	if err != nil {
		return nil, store.Account{}, err
	}
	account, err := findAccount(ctx, i, nick)
	if err != nil {
		i.close()
		return nil, store.Account{}, err
	}
	return i, account, nil
}

// The function `self` returns the id and nick of the signed-in account.
func self(ctx context.Context) (who struct{ ID, Nick string }, err error) {
	return call[struct{ ID, Nick string }](ctx, "GET", "/auth/auth_status", nil)
}

const dataFlag = "the hub's data folder, on the hub's machine"

// The method `done` reports success. With --output json, it writes `status` as JSON to standard
// output. With any other format, it prints the formatted text as a note for people.
func (a *app) done(status map[string]any, format string, args ...any) error {
	status["status"] = "OK"
	if done, err := a.json(status); done {
		return err
	}
	a.note(format, args...)
	return nil
}

func (a *app) accountLsCommand() *cobra.Command {
	var data string
	c := &cobra.Command{
		Use: "ls --data DIR", Aliases: []string{"list"}, Short: "List accounts, on the hub's machine", Args: args(),
		Long: `Ls lists all accounts of a hub, with their number of devices. It needs the hub's data
folder, so run it on the hub's machine; the hub may be running.`,
		Example: "  gangway account ls --data /var/lib/gangway\n  gangway account ls --data ./hub --output json",
		RunE: func(c *cobra.Command, _ []string) error {
			i, err := existing(c.Context(), data)
			if err != nil {
				return err
			}
			defer i.close()
			views := []accountView{}
			for after := ""; ; {
				page, err := i.store.Accounts(c.Context(), after, 1000)
				if err != nil {
					return err
				}
				if len(page) == 0 {
					break
				}
				for _, one := range page {
					n, err := i.store.CountDevices(c.Context(), one.ID)
					if err != nil {
						return err
					}
					views = append(views, accountView{one.ID, wire.AccountPRN + one.ID, one.Nick, one.Email, one.Disabled, one.Operator, n, one.Created.UTC()})
					after = one.Nick
				}
			}
			return printList(a, views, accountColumns, "No account yet. Create one: gangway account create --data "+data+" --nick NAME")
		},
	}
	c.Flags().StringVar(&data, "data", "", dataFlag+" (required)")
	return a.table(c, columnNames(accountColumns)...)
}

// accountView is an account as 'gangway account ls' prints it.
type accountView struct {
	ID          string    `json:"id"`
	PRN         string    `json:"prn"`
	Nick        string    `json:"nick"`
	Email       string    `json:"email"`
	Disabled    bool      `json:"disabled"`
	Operator    bool      `json:"operator"`
	Devices     int       `json:"devices"`
	TimeCreated time.Time `json:"time-created"`
}

func (v accountView) state() string {
	if v.Disabled {
		return "disabled"
	}
	if v.Operator {
		return "enabled, operator"
	}
	return "enabled"
}

// accountColumns are the columns of 'gangway account ls'.
var accountColumns = []column[accountView]{
	{name: "id", cell: func(v accountView) string { return v.ID }},
	{name: "nick", cell: func(v accountView) string { return v.Nick }},
	{name: "e-mail", cell: func(v accountView) string { return v.Email }},
	{name: "devices", cell: func(v accountView) string { return strconv.Itoa(v.Devices) }},
	{name: "created", cell: func(v accountView) string { return v.TimeCreated.Local().Format(time.DateTime) }, value: func(v accountView) string { return stamp(v.TimeCreated) }},
	{name: "state", cell: accountView.state, whole: true},
}

func (a *app) accountPasswdCommand() *cobra.Command {
	var data string
	var fromStdin, generate, endTokens bool
	c := &cobra.Command{
		Use:   "passwd [NICK --data DIR]",
		Short: "Change your own password, or reset any account's password on the hub's machine",
		Long: `Passwd changes your own password. It asks for the current password, and ends all
your other sessions. Your API tokens stay valid, unless --end-api-tokens is given.

With --data it resets the password of the account NICK, without the current
password. All sessions and API tokens of the account end.

--password-stdin reads the new password from standard input. When you change your
own password, the first line is the current password and the second the new one.`,
		Example: `  gangway account passwd
  gangway account passwd --end-api-tokens
  gangway account passwd ada --data /var/lib/gangway --generate`,
		Args: cmdline.AtMost(1),
		RunE: func(c *cobra.Command, arg []string) error {
			if generate && fromStdin && data != "" {
				return usagef("--generate and --password-stdin are mutually exclusive")
			}
			if (data != "") != (len(arg) == 1) {
				return usagef("give NICK and --data together; without both, the command changes your own password")
			}
			if data != "" {
				return a.resetPassword(c.Context(), data, arg[0], fromStdin, generate)
			}
			return a.changePassword(c.Context(), fromStdin, generate, endTokens)
		},
	}
	f := c.Flags()
	f.StringVar(&data, "data", "", dataFlag)
	f.BoolVar(&fromStdin, "password-stdin", false, "read the passwords from standard input, one per line")
	f.BoolVar(&generate, "generate", false, "generate the new password and print it")
	f.BoolVar(&endTokens, "end-api-tokens", false, "revoke your API tokens too (with --data, the command always does this)")
	return c
}

func (a *app) resetPassword(ctx context.Context, data, nick string, fromStdin, generate bool) error {
	i, account, err := atHub(ctx, data, nick)
	if err != nil {
		return err
	}
	defer i.close()
	password := rand.Text()
	if !generate {
		if password, err = a.password(fromStdin, true); err != nil {
			return err
		}
	}
	hash, err := api.HashPassword(password)
	if err != nil {
		return err
	}
	by := operator()
	e := store.Event{Time: time.Now(), Kind: "account.password-reset", Owner: account.ID, Message: "The password was reset; all sessions and API tokens were ended."}
	if err := i.store.ChangePassword(ctx, store.PasswordChange{Account: account.ID, NewHash: hash, EndAPITokens: true, Event: e.By(&by)}); err != nil {
		return err
	}
	status := map[string]any{"nick": account.Nick}
	if generate {
		status["password"] = password
		if a.forPeople() {
			a.printf("Password: %s\n", password)
		}
	}
	return a.done(status, "The password of %s was reset, and all sessions and API tokens of the account were ended.", account.Nick)
}

func (a *app) changePassword(ctx context.Context, fromStdin, generate, endTokens bool) error {
	var current, password string
	var err error
	if fromStdin {
		in := bufio.NewReader(io.LimitReader(a.stdin, 4096))
		if current, err = line(in); err == nil && !generate {
			password, err = line(in)
		}
	} else {
		a.note("Enter your current password, then the new one.")
		if current, err = a.password(false, false); err == nil && !generate {
			password, err = a.password(false, true)
		}
	}
	if err != nil {
		return err
	}
	if generate {
		password = rand.Text()
	}
	changed, err := call[api.PasswordChanged](ctx, "POST", "/auth/password", map[string]any{"current": current, "password": password, "end-api-tokens": endTokens})
	if err != nil {
		return err
	}
	status := map[string]any{"api-tokens": changed.APITokens}
	if generate {
		status["password"] = password
		if a.forPeople() {
			a.printf("Password: %s\n", password)
		}
	}
	if changed.APITokens > 0 {
		a.note("%d API token(s) stay valid; 'gangway api-token ls' shows the list.", changed.APITokens)
	}
	return a.done(status, "Your password was changed, and your other sessions were ended.")
}

// line reads one line from the reader `in`. It returns the text without the line break.
func line(in *bufio.Reader) (string, error) {
	text, err := in.ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return strings.TrimRight(text, "\r\n"), nil
}

func (a *app) accountDisableCommand() *cobra.Command {
	var data string
	var fromStdin bool
	c := &cobra.Command{
		Use:   "disable NICK [--data DIR]",
		Short: "Disable an account: nobody can sign in to it, and no new device can join",
		Long: `Disable ends the account's sessions and API tokens, immediately and permanently. It
hides the trails that the account published. The account's join tokens accept no new
device; its existing devices keep working. 'gangway account enable' allows sign-in
again.

Without --data, NICK must be your own account, and the command asks for your
password. Only the hub's operator can enable the account again.`,
		Example: "  gangway account disable ada --data /var/lib/gangway\n  gangway account disable ada",
		Args:    args("the account's nick"),
		RunE: func(c *cobra.Command, arg []string) error {
			if data == "" {
				if err := a.endSelf(c.Context(), arg[0], "disable", fromStdin, nil); err != nil {
					return err
				}
				return a.done(map[string]any{"nick": arg[0]}, "Your account is disabled.")
			}
			i, account, err := atHub(c.Context(), data, arg[0])
			if err != nil {
				return err
			}
			defer i.close()
			by := operator()
			e := store.Event{Time: time.Now(), Kind: "account.disabled", Owner: account.ID, Message: "The account was disabled: its sessions and API tokens ended."}
			if err := i.store.DisableAccount(c.Context(), account.ID, e.By(&by)); err != nil {
				return err
			}
			return a.done(map[string]any{"nick": account.Nick}, "Account %s is disabled.", account.Nick)
		},
	}
	c.Flags().StringVar(&data, "data", "", dataFlag)
	c.Flags().BoolVar(&fromStdin, "password-stdin", false, "read your password from standard input, for your own account")
	return c
}

// endSelf sends the signed-in account's request to disable or delete itself, with its password. The
// argument `nick` must be the account's nick. The argument `what` is the last part of the route.
func (a *app) endSelf(ctx context.Context, nick, what string, fromStdin bool, body map[string]any) error {
	who, err := self(ctx)
	if err != nil {
		return err
	}
	if !strings.EqualFold(nick, who.Nick) {
		return usagef("you are signed in as %s, not %s; for another account, use --data on the hub's machine", who.Nick, nick)
	}
	password, err := a.password(fromStdin, false)
	if err != nil {
		return err
	}
	if body == nil {
		body = map[string]any{}
	}
	body["password"] = password
	_, err = call[map[string]any](ctx, "POST", "/auth/accounts/"+who.ID+"/"+what, body)
	return err
}

func (a *app) accountEnableCommand() *cobra.Command {
	var data string
	c := &cobra.Command{
		Use: "enable NICK --data DIR", Short: "Enable a disabled account, on the hub's machine", Args: args("the account's nick"),
		Long: `Enable allows sign-in to the account again, and new devices with its join tokens.
Sessions and API tokens that ended when the account was disabled stay ended.`,
		Example: "  gangway account enable ada --data /var/lib/gangway",
		RunE: func(c *cobra.Command, arg []string) error {
			i, account, err := atHub(c.Context(), data, arg[0])
			if err != nil {
				return err
			}
			defer i.close()
			by := operator()
			e := store.Event{Time: time.Now(), Kind: "account.enabled", Owner: account.ID, Message: "The account was enabled."}
			if err := i.store.EnableAccount(c.Context(), account.ID, e.By(&by)); err != nil {
				return err
			}
			return a.done(map[string]any{"nick": account.Nick}, "Account %s is enabled.", account.Nick)
		},
	}
	c.Flags().StringVar(&data, "data", "", dataFlag+" (required)")
	return c
}

func (a *app) accountOperatorCommand() *cobra.Command {
	var data string
	var take bool
	c := &cobra.Command{
		Use: "operator NICK --data DIR", Short: "Give the role operator to an account, or remove the role, on the hub's machine", Args: args("the account's nick"),
		Long: `Operator gives an account the role operator. It can then see the operator's pages, with
all owners and their numbers, and the hub's health. It cannot see other owners'
devices: no nicks, metadata, logs or secrets. --take removes the role. The change
takes effect at once, even for open sessions.`,
		Example: "  gangway account operator ada --data /var/lib/gangway\n  gangway account operator ada --data /var/lib/gangway --take",
		RunE: func(c *cobra.Command, arg []string) error {
			i, account, err := atHub(c.Context(), data, arg[0])
			if err != nil {
				return err
			}
			defer i.close()
			e := store.Event{Time: time.Now(), Kind: "account.operator-given", Owner: account.ID, Message: "The account got the role operator."}
			if take {
				e.Kind, e.Message = "account.operator-taken", "The account no longer has the role operator."
			}
			by := operator()
			if err := i.store.SetOperator(c.Context(), account.ID, !take, e.By(&by)); err != nil {
				return err
			}
			said := "Account %s has the role operator."
			if take {
				said = "Account %s does not have the role operator."
			}
			return a.done(map[string]any{"nick": account.Nick, "operator": !take}, said, account.Nick)
		},
	}
	c.Flags().StringVar(&data, "data", "", dataFlag+" (required)")
	c.Flags().BoolVar(&take, "take", false, "remove the role from the account")
	return c
}

func (a *app) accountDeleteCommand() *cobra.Command {
	var data string
	var withDevices, fromStdin bool
	c := &cobra.Command{
		Use:   "delete NICK [--data DIR]",
		Short: "Delete an account",
		Long: `Delete removes an account with its sessions, API tokens, join tokens, policy and
objects. The audit trail stays. The nick stays reserved, so that nobody can pose as
its former owner.

If the account has devices, the command fails. With --with-devices, it deletes the
devices too: their certificates are revoked, and each must onboard again with another
account's join token.

Without --data, NICK must be your own account, and the command asks for your
password.`,
		Example: `  gangway account delete ada --data /var/lib/gangway
  gangway account delete ada --data /var/lib/gangway --with-devices
  gangway account delete ada`,
		Args: args("the account's nick"),
		RunE: func(c *cobra.Command, arg []string) error {
			if data == "" {
				if err := a.endSelf(c.Context(), arg[0], "delete", fromStdin, map[string]any{"with-devices": withDevices}); err != nil {
					return err
				}
				return a.done(map[string]any{"nick": arg[0]}, "Your account is deleted.")
			}
			i, account, err := atHub(c.Context(), data, arg[0])
			if err != nil {
				return err
			}
			defer i.close()
			devices, err := api.DeleteAccount(c.Context(), i.store, account, withDevices, operator(), time.Now())
			var p *api.Problem
			if errors.As(err, &p) {
				return fmt.Errorf("%s Delete the devices first, or use --with-devices (%s)", p.Message, p.Code)
			}
			if err != nil {
				return err
			}
			return a.done(map[string]any{"nick": account.Nick, "devices": devices}, "Account %s is deleted, with %d device(s).", account.Nick, devices)
		},
	}
	c.Flags().StringVar(&data, "data", "", dataFlag)
	c.Flags().BoolVar(&withDevices, "with-devices", false, "delete the account's devices too")
	c.Flags().BoolVar(&fromStdin, "password-stdin", false, "read your password from standard input, for your own account")
	return c
}

func (a *app) accountSessionsCommand() *cobra.Command {
	var data, end string
	var endAll, endOthers bool
	c := &cobra.Command{
		Use:   "sessions [NICK --data DIR]",
		Short: "List sessions, or end them: sign out everywhere",
		Long: `Sessions lists where you are signed in. --end ends one session, --end-others all
sessions except this one, and --end-all all sessions.

With --data it lists or ends the sessions of the account NICK. API tokens are not
sessions: see 'gangway api-token'. 'gangway account disable' ends sessions and API tokens.`,
		Example: `  gangway account sessions
  gangway account sessions --end-others
  gangway account sessions ada --data /var/lib/gangway --end-all`,
		Args: cmdline.AtMost(1),
		RunE: func(c *cobra.Command, arg []string) error {
			if (data != "") != (len(arg) == 1) {
				return usagef("give NICK and --data together; without both, the command shows or ends your own sessions")
			}
			n := 0
			for _, set := range []bool{end != "", endAll, endOthers} {
				if set {
					n++
				}
			}
			if n > 1 {
				return usagef("--end, --end-others and --end-all are mutually exclusive")
			}
			if data != "" {
				return a.sessionsAtHub(c.Context(), data, arg[0], end, endAll || endOthers)
			}
			switch {
			case end != "":
				session, err := findSession(c.Context(), end)
				if err != nil {
					return err
				}
				if _, err := call[map[string]any](c.Context(), "DELETE", "/auth/sessions/"+url.PathEscape(session.ID), nil); err != nil {
					return err
				}
				return a.done(map[string]any{"ended": 1}, "Session %s is ended.", session.ID)
			case endAll, endOthers:
				ended, err := call[api.SessionsEnded](c.Context(), "DELETE", fmt.Sprintf("/auth/sessions?all=%t", endAll), nil)
				if err != nil {
					return err
				}
				return a.done(map[string]any{"ended": ended.Ended}, "%d session(s) ended.", ended.Ended)
			}
			sessions, err := call[[]api.SessionView](c.Context(), "GET", "/auth/sessions", nil)
			if err != nil {
				return err
			}
			return a.printSessions(sessions)
		},
	}
	f := c.Flags()
	f.StringVar(&data, "data", "", dataFlag)
	f.StringVar(&end, "end", "", "end the session with this id")
	f.BoolVar(&endOthers, "end-others", false, "end all sessions except this one")
	f.BoolVar(&endAll, "end-all", false, "end all sessions")
	return a.table(c, columnNames(sessionColumns)...)
}

func (a *app) sessionsAtHub(ctx context.Context, data, nick, end string, endAll bool) error {
	i, account, err := atHub(ctx, data, nick)
	if err != nil {
		return err
	}
	defer i.close()
	by, now := operator(), time.Now()
	switch {
	case end != "":
		if end, err = sessionAtHub(ctx, i, account.ID, end, now); err != nil {
			return err
		}
		e := store.Event{Time: now, Kind: "account.session-ended", Owner: account.ID, Message: "A session was ended."}
		if err := i.store.EndSession(ctx, account.ID, end, e.By(&by)); errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("%s has no session %q", account.Nick, end)
		} else if err != nil {
			return err
		}
		return a.done(map[string]any{"ended": 1}, "Session %s is ended.", end)
	case endAll:
		e := store.Event{Time: now, Kind: "account.sessions-ended", Owner: account.ID, Message: "Signed out everywhere."}
		n, err := i.store.EndSessions(ctx, account.ID, store.Hash{}, e.By(&by))
		if err != nil {
			return err
		}
		return a.done(map[string]any{"ended": n}, "%d session(s) ended.", n)
	}
	sessions, err := i.store.Sessions(ctx, account.ID, now)
	if err != nil {
		return err
	}
	return a.printSessions(api.ViewSessions(sessions, store.Hash{}))
}

// sessionColumns are the columns of 'gangway account sessions'.
var sessionColumns = []column[api.SessionView]{
	{name: "id", cell: func(s api.SessionView) string { return s.ID }},
	{name: "began", cell: func(s api.SessionView) string { return s.Created.Local().Format(time.DateTime) }, value: func(s api.SessionView) string { return stamp(s.Created) }},
	{name: "expires", cell: func(s api.SessionView) string { return s.Expires.Local().Format(time.DateTime) }, value: func(s api.SessionView) string { return stamp(s.Expires) }},
	{name: "from", cell: func(s api.SessionView) string { return s.Addr }},
	{name: "by", cell: func(s api.SessionView) string { return s.Means }},
	{name: "this", cell: func(s api.SessionView) string {
		if s.Current {
			return "this one"
		}
		return ""
	}},
}

func (a *app) printSessions(sessions []api.SessionView) error {
	return printList(a, sessions, sessionColumns, "No sessions.")
}

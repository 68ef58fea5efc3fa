package main

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"gangway/internal/cmdline"

	"github.com/spf13/cobra"
)

// hubNameForm matches a hub name: the SHA-256 of the hub's root key.
var hubNameForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9a-f]{64}$`) })

func (a *app) loginCommand() *cobra.Command {
	var nick, ca, name, data string
	var fromStdin, apiToken bool
	c := &cobra.Command{
		Use:   "login [URL]",
		Short: "Sign in to a hub",
		Long: `Login signs in to a hub and stores the session in your configuration folder.

The first time, say how to verify the hub: by its hub name, which 'gangway serve' and
'gangway account create' print (--hub-name), by its CA certificate (--hub-ca) or, on
the hub's machine, by its data folder (--data).

Without a URL, login signs in again to the hub of the current context. It then verifies
the hub by the CA of the last sign-in.

The sign-in is a context: see 'gangway context'. A sign-in to another hub makes
another context, named by --context or after the hub's host.`,
		Example: `  gangway login https://hub.example:12443 --hub-name 5f0c... --nick ada
  gangway login https://127.0.0.1:12443 --data ./hub --nick ada --password-stdin < password
  gangway login https://hub.example:12443 --hub-name 5f0c... --api-token-stdin < ci.token
  gangway login`,
		Args: cmdline.AtMost(1),
		RunE: func(c *cobra.Command, arg []string) error {
			s := &signIn{Nick: nick}
			address := choiceOf(c.Context()).hub // --hub or its variable
			if len(arg) == 1 {
				address = strings.TrimSuffix(arg[0], "/")
			}
			last, err := loadSignIn(c.Context())
			if err == nil && (address == "" || strings.EqualFold(address, last.Hub) && ca == "" && name == "" && data == "") {
				address = ""
			}
			if address != "" {
				s.Hub = address
			} else {
				if err != nil {
					return usagef("the hub's URL is missing")
				}
				// Verify the hub with the root certificate of the last sign-in. A flag that is read
				// below may replace this certificate.
				s.Hub, s.HubCA = last.Hub, last.HubCA
				if s.Nick == "" {
					s.Nick = last.Nick
				}
			}
			if !strings.HasPrefix(s.Hub, "https://") {
				return usagef("the hub's URL must begin with https://, not %.100q", s.Hub)
			}
			if name = strings.ToLower(name); name != "" && !hubNameForm().MatchString(name) {
				return usagef("--hub-name must be 64 hexadecimal digits, as 'gangway serve' prints them")
			}
			if apiToken && fromStdin {
				return usagef("--api-token-stdin and --password-stdin are mutually exclusive")
			}
			if s.Nick == "" && !apiToken {
				return usagef("--nick is needed: the account to sign in with")
			}
			if data != "" {
				ca = filepath.Join(data, pkiFolder, "root.crt")
			}
			switch {
			case ca != "":
				b, err := os.ReadFile(ca)
				if err != nil {
					return err
				}
				s.HubCA = string(b)
			case name != "":
				var err error
				if s.HubCA, err = fetchCA(c.Context(), s.Hub, name); err != nil {
					return err
				}
			case s.HubCA == "":
				return usagef("say how to verify the hub: --hub-name, --hub-ca or --data")
			}
			use := func() error { return a.useSession(c.Context(), s, fromStdin) }
			if apiToken {
				use = func() error { return a.useAPIToken(c.Context(), s) }
			}
			if err := use(); err != nil {
				return err
			}
			return a.saveSignIn(c.Context(), s)
		},
	}
	f := c.Flags()
	f.StringVar(&nick, "nick", "", "nick or e-mail address of the account (required with a URL, except for an API token)")
	f.StringVar(&name, "hub-name", "", "the hub's name: SHA-256 of its root key, hexadecimal")
	f.StringVar(&ca, "hub-ca", "", "file of the hub's CA certificate")
	f.StringVar(&data, "data", "", dataFlag)
	f.BoolVar(&fromStdin, "password-stdin", false, "read the password from standard input")
	f.BoolVar(&apiToken, "api-token-stdin", false, "read an API token from standard input, and use it instead of a session")
	return c
}

// saveSignIn stores a sign-in as a context, and makes the context the current one.
func (a *app) saveSignIn(ctx context.Context, s *signIn) error {
	var err error
	if s.context, err = contextForLogin(ctx, s); err != nil {
		return err
	}
	if err := s.save(); err != nil {
		return err
	}
	if err := setCurrentContext(s.context); err != nil {
		return err
	}
	a.note("Signed in to %s as %s.", s.Hub, s.Nick)
	if names, err := contextNames(); err == nil && len(names) > 1 {
		a.note("This is the context %s, which commands now use. 'gangway context ls' lists all.", s.context)
	}
	return nil
}

// useSession signs in with a password, and stores the session's token in s.
func (a *app) useSession(ctx context.Context, s *signIn, fromStdin bool) error {
	password, err := a.password(fromStdin, false)
	if err != nil {
		return err
	}
	var answer struct {
		Token string `json:"token"`
	}
	if err := s.do(ctx, "POST", "/auth/login", map[string]string{"username": s.Nick, "password": password}, &answer); err != nil {
		return err
	}
	s.Token = answer.Token
	return nil
}

// useAPIToken checks an API token at the hub, and stores it in s.
func (a *app) useAPIToken(ctx context.Context, s *signIn) error {
	token, err := a.password(true, false)
	if err != nil {
		return err
	}
	s.Token = strings.TrimSpace(token)
	var who struct {
		Nick string `json:"nick"`
	}
	if err := s.do(ctx, "GET", "/auth/auth_status", nil, &who); err != nil {
		return err
	}
	s.Nick = who.Nick
	return nil
}

func (a *app) logoutCommand() *cobra.Command {
	return &cobra.Command{
		Use: "logout", Short: "Sign out", Args: args(),
		Long: `Logout ends your session at the hub, and removes its file from your
configuration folder. It does not revoke an API token: see 'gangway api-token
revoke'.`,
		Example: "  gangway logout",
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := loadSignIn(c.Context())
			if err != nil {
				return err
			}
			return signOut(c.Context(), s.context)
		},
	}
}

func (a *app) whoamiCommand() *cobra.Command {
	return &cobra.Command{
		Use: "whoami", Short: "Show which account is signed in, and at which hub", Args: args(),
		Long:    "Whoami asks the hub which account your session or API token belongs to.",
		Example: "  gangway whoami\n  gangway whoami --output json",
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := loadSignIn(c.Context())
			if err != nil {
				return err
			}
			var who struct {
				Nick string `json:"nick"`
				PRN  string `json:"prn"`
				Hub  string `json:"hub"`
			}
			if err := s.do(c.Context(), "GET", "/auth/auth_status", nil, &who); err != nil {
				return err
			}
			who.Hub = s.Hub
			if done, err := a.json(who); done {
				return err
			}
			a.printf("%s (%s) at %s\n", who.Nick, who.PRN, who.Hub)
			return nil
		},
	}
}

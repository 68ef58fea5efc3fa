package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"gangway/internal/cmdline"

	"github.com/spf13/cobra"
)

// A context is a hub and an account's sign-in there. The context "default" is the file config.json
// in the configuration folder, because older versions had only this sign-in. Each other context is
// a file in the folder contexts.
const (
	defaultContext = "default"
	contextsFolder = "contexts"
	currentFile    = "current-context"
)

var contextForm = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`) })

// choice says which context a command uses: the context with the given name, the context of the
// given hub URL, or the current context.
type choice struct {
	name, hub string
	why       string // the flag or variable that chose the context; "": no flag or variable did
}

type choiceKey struct{}

// choiceOf returns the choice of the running command.
func choiceOf(ctx context.Context) choice {
	chosen, _ := ctx.Value(choiceKey{}).(choice)
	return chosen
}

// chooseContext reads --context and --hub, or their environment variables. It stores the choice in
// the command's Go context. A flag on the command line overrides the variables.
func (a *app) chooseContext(c *cobra.Command) error {
	chosen := choice{name: a.context, hub: a.hub}
	byName, byHub := "--context", "--hub"
	nameFromEnv, hubFromEnv := cmdline.IsFromEnvironment(c, "context"), cmdline.IsFromEnvironment(c, "hub")
	if nameFromEnv {
		byName = "GANGWAY_CONTEXT"
	}
	if hubFromEnv {
		byHub = "GANGWAY_HUB"
	}
	if chosen.name != "" && chosen.hub != "" {
		switch {
		case nameFromEnv && !hubFromEnv:
			chosen.name = ""
		case hubFromEnv && !nameFromEnv:
			chosen.hub = ""
		default:
			return usagef("%s and %s are mutually exclusive: a context names its hub", byName, byHub)
		}
	}
	switch {
	case chosen.name != "":
		if !contextForm().MatchString(chosen.name) {
			return usagef("%s %q is not the name of a context: use letters, digits, '.', '_' and '-'", byName, chosen.name)
		}
		chosen.why = byName
	case chosen.hub != "":
		u, err := hubAddress(chosen.hub)
		if err != nil {
			return usagef("%s %q %w", byHub, chosen.hub, err)
		}
		chosen.hub, chosen.why = u, byHub
	}
	c.SetContext(context.WithValue(c.Context(), choiceKey{}, chosen))
	return nil
}

// hubAddress returns the URL of a hub. The argument `text` is a URL, or a host with or without a
// port. The text of its error lacks the name of the flag or argument, which the caller adds.
func hubAddress(text string) (string, error) {
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(strings.TrimSuffix(text, "/"))
	if err != nil || u.Scheme != "https" || u.Host == "" || u.Path != "" {
		return "", errors.New("is not the URL of a hub, such as https://hub.example:12443")
	}
	return "https://" + strings.ToLower(u.Host), nil
}

func configFolder() (string, error) {
	dir, err := os.UserConfigDir()
	return filepath.Join(dir, "gangway"), err
}

func contextPath(name string) (string, error) {
	dir, err := configFolder()
	if name == defaultContext {
		return filepath.Join(dir, "config.json"), err
	}
	return filepath.Join(dir, contextsFolder, name+".json"), err
}

// currentContext returns the name of the context that commands use without --context and --hub.
func currentContext() (string, error) {
	dir, err := configFolder()
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(filepath.Join(dir, currentFile))
	if errors.Is(err, fs.ErrNotExist) {
		return defaultContext, nil
	}
	if err != nil {
		return "", err
	}
	name := strings.TrimSpace(string(b))
	if !contextForm().MatchString(name) {
		return "", fmt.Errorf("%s is damaged: choose a context with 'gangway context use NAME'", filepath.Join(dir, currentFile))
	}
	return name, nil
}

func setCurrentContext(name string) error {
	dir, err := configFolder()
	if err != nil {
		return err
	}
	path := filepath.Join(dir, currentFile)
	if name == defaultContext {
		if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	return writePrivate(path, []byte(name+"\n"))
}

// writePrivate replaces a file with one that only the user who runs the command can read.
func writePrivate(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	// CreateTemp makes a new file with mode 0600. The mode of the old file does not matter.
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // fails after the rename, which is harmless
	_, err = tmp.Write(b)
	if err := errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// contextNames returns the names of all contexts, sorted.
func contextNames() ([]string, error) {
	dir, err := configFolder()
	if err != nil {
		return nil, err
	}
	var names []string
	if exists(filepath.Join(dir, "config.json")) {
		names = append(names, defaultContext)
	}
	files, err := os.ReadDir(filepath.Join(dir, contextsFolder))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, f := range files {
		if name, is := strings.CutSuffix(f.Name(), ".json"); is && contextForm().MatchString(name) && name != defaultContext {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// chosenName returns the name of the context that a command uses.
func chosenName(ctx context.Context) (string, error) {
	chosen := choiceOf(ctx)
	switch {
	case chosen.name != "":
		return chosen.name, nil
	case chosen.hub == "":
		return currentContext()
	}
	found, err := contextsOf(func(s *signIn) bool { return strings.EqualFold(s.Hub, chosen.hub) })
	switch {
	case err != nil:
		return "", err
	case len(found) == 0:
		return "", fmt.Errorf("you are not signed in to %s (from %s): run 'gangway login %s' first", chosen.hub, chosen.why, chosen.hub)
	case len(found) == 1:
		return found[0], nil
	}
	current, err := currentContext()
	if err == nil && slices.Contains(found, current) {
		return current, nil
	}
	return "", fmt.Errorf("the hub %s (from %s) has several contexts: %s; choose one with --context", chosen.hub, chosen.why, strings.Join(found, ", "))
}

// contextsOf returns the names of some contexts: it calls `fits` with the sign-in of each context,
// and chooses those for which `fits` returns true.
func contextsOf(fits func(*signIn) bool) (found []string, err error) {
	names, err := contextNames()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if s, err := readContext(name); err == nil && fits(s) {
			found = append(found, name)
		}
	}
	return found, nil
}

// readContext reads a context's file.
func readContext(name string) (*signIn, error) {
	path, err := contextPath(name)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s := &signIn{context: name}
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("%s is damaged; sign in again, with 'gangway login URL --context %s'", path, name)
	}
	return s, nil
}

// loadSignIn returns the sign-in of the context that a command uses.
func loadSignIn(ctx context.Context) (*signIn, error) {
	name, err := chosenName(ctx)
	if err != nil {
		return nil, err
	}
	s, err := readContext(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	names, listing := contextNames()
	switch {
	case listing != nil || len(names) == 0:
		return nil, errors.New("you are not signed in: run 'gangway login' first")
	case choiceOf(ctx).name != "":
		return nil, fmt.Errorf("there is no context %q (from %s); the contexts are %s", name, choiceOf(ctx).why, strings.Join(names, ", "))
	}
	return nil, fmt.Errorf("you are not signed in with the context %q: run 'gangway login', or 'gangway context use' with one of %s", name, strings.Join(names, ", "))
}

// save writes a context's file. Only the user can read the file, because it contains a token.
func (s *signIn) save() error {
	path, err := contextPath(s.context)
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return writePrivate(path, b)
}

// contextForLogin returns the name of the context that a sign-in to a hub creates or replaces. The
// first of these names that applies is used:
//  1. the name in --context;
//  2. the name of a context of this hub, even if that context has another URL;
//  3. the name of the current context, if that context's file does not exist;
//  4. a new name, made from the hub's host.
func contextForLogin(ctx context.Context, s *signIn) (string, error) {
	if name := choiceOf(ctx).name; name != "" {
		return name, nil
	}
	current, err := currentContext()
	if err != nil {
		return "", err
	}
	found, err := contextsOf(func(other *signIn) bool { return other.hubName() == s.hubName() })
	if err != nil {
		return "", err
	}
	names, err := contextNames()
	switch {
	case err != nil:
		return "", err
	case slices.Contains(found, current):
		return current, nil
	case len(found) > 0:
		return found[0], nil
	case !slices.Contains(names, current): // signed out, or never signed in
		return current, nil
	}
	u, err := url.Parse(s.Hub)
	if err != nil {
		return "", err
	}
	base := strings.Trim(strings.ReplaceAll(u.Hostname(), ":", "-"), "-.")
	if base = base[:min(len(base), 50)]; !contextForm().MatchString(base) {
		base = "hub"
	}
	name := base
	for n := 2; slices.Contains(names, name); n++ {
		name = fmt.Sprintf("%s-%d", base, n)
	}
	return name, nil
}

// contextView is a context without its secret.
type contextView struct {
	Name    string `json:"name"`
	Current bool   `json:"current"`
	Hub     string `json:"hub"`
	Nick    string `json:"nick"`
	HubName string `json:"hub-name"`
	File    string `json:"file"`
	Problem string `json:"problem,omitempty"`
}

var contextColumns = []column[contextView]{
	{name: "current", cell: func(v contextView) string {
		if v.Current {
			return "*"
		}
		return ""
	}, whole: true},
	{name: "name", cell: func(v contextView) string { return v.Name }},
	{name: "hub", cell: func(v contextView) string {
		if v.Problem != "" {
			return v.Problem
		}
		return v.Hub
	}},
	{name: "nick", cell: func(v contextView) string { return v.Nick }},
	{name: "hub-name", wide: true, cell: func(v contextView) string { return v.HubName }},
	{name: "file", wide: true, cell: func(v contextView) string { return v.File }},
}

func viewContext(name, current string) contextView {
	v := contextView{Name: name, Current: name == current}
	v.File, _ = contextPath(name)
	s, err := readContext(name)
	if err != nil {
		v.Problem = err.Error()
		return v
	}
	v.Hub, v.Nick, v.HubName = s.Hub, s.Nick, s.hubName()
	return v
}

func (a *app) contextCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "context", Short: "Work with several hubs or accounts",
		Long: `A context is a hub and your sign-in there. 'gangway login' makes one, and the commands
use the current context. To use another context for one command, give --context, or its
hub with --hub. The variables GANGWAY_CONTEXT and GANGWAY_HUB do the same for a shell.

Each context is a file in your configuration folder, which only you can read.`,
	}
	ls := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List your contexts", Args: args(),
		Long:    "Ls lists the hubs that you are signed in to. A star marks the context in use.",
		Example: "  gangway context ls\n  gangway context ls --output wide",
		RunE: func(c *cobra.Command, _ []string) error {
			names, err := contextNames()
			if err != nil {
				return err
			}
			current, err := chosenName(c.Context())
			if err != nil {
				a.note("Warning: %v", err)
			}
			var list []contextView
			for _, name := range names {
				list = append(list, viewContext(name, current))
			}
			return printList(a, list, contextColumns, "You are not signed in to a hub. Sign in with:\n  gangway login https://HUB:12443 --hub-name HUB-NAME --nick NICK")
		},
	}
	c.AddCommand(a.table(ls, columnNames(contextColumns)...), a.contextUse(), a.contextShow(), a.contextRename(), a.contextRm())
	return c
}

// knownContext returns an error if no context has this name.
func knownContext(name string) error {
	names, err := contextNames()
	if err != nil || slices.Contains(names, name) {
		return err
	}
	if len(names) == 0 {
		return fmt.Errorf("there is no context %.100q: create a context with 'gangway login'", name)
	}
	return fmt.Errorf("there is no context %.100q; the contexts are %s", name, strings.Join(names, ", "))
}

func (a *app) contextUse() *cobra.Command {
	return &cobra.Command{
		Use: "use NAME", Aliases: []string{"switch"}, Short: "Choose the context that commands use", Args: args("the context's name"),
		Long:    "Use makes a context the current one: commands without --context and --hub use it.",
		Example: "  gangway context use oslo",
		RunE: func(c *cobra.Command, arg []string) error {
			if err := knownContext(arg[0]); err != nil {
				return err
			}
			if err := setCurrentContext(arg[0]); err != nil {
				return err
			}
			v := viewContext(arg[0], arg[0])
			if done, err := a.json(v); done {
				return err
			}
			a.note("Commands now use the context %s: %s as %s.", v.Name, v.Hub, v.Nick)
			for _, variable := range []string{"GANGWAY_CONTEXT", "GANGWAY_HUB"} {
				if os.Getenv(variable) != "" {
					a.note("Warning: %s is set in this shell and overrides this choice.", variable)
				}
			}
			return nil
		},
	}
}

func (a *app) contextShow() *cobra.Command {
	return &cobra.Command{
		Use: "show [NAME]", Short: "Show a context; without a name, the current context", Args: cmdline.AtMost(1),
		Long:    "Show prints a context's hub, account and file, but not its secret. It does not contact the\nhub; 'gangway whoami' does.",
		Example: "  gangway context show\n  gangway context show oslo --output json",
		RunE: func(c *cobra.Command, arg []string) error {
			current, err := chosenName(c.Context())
			if err != nil {
				return err
			}
			name := current
			if len(arg) == 1 {
				name = arg[0]
			}
			if err := knownContext(name); err != nil {
				return err
			}
			v := viewContext(name, current)
			if done, err := a.json(v); done {
				return err
			}
			a.printf("%s\n", v.Name)
			a.line("hub", v.Hub)
			a.line("hub name", v.HubName)
			a.line("nick", v.Nick)
			a.line("file", v.File)
			a.line("problem", v.Problem)
			return nil
		},
	}
}

func (a *app) contextRename() *cobra.Command {
	return &cobra.Command{
		Use: "rename NAME NEW-NAME", Short: "Give a context another name", Args: args("the context's name", "the new name"),
		Long:    "Rename gives a context another name. The sign-in stays the same.",
		Example: "  gangway context rename default oslo",
		RunE: func(c *cobra.Command, arg []string) error {
			if err := knownContext(arg[0]); err != nil {
				return err
			}
			if !contextForm().MatchString(arg[1]) {
				return usagef("%.100q cannot be the name of a context: use letters, digits, '.', '_' and '-'", arg[1])
			}
			s, err := readContext(arg[0])
			if err != nil {
				return err
			}
			current, err := currentContext()
			if err != nil {
				return err
			}
			names, err := contextNames()
			if err != nil {
				return err
			}
			if slices.Contains(names, arg[1]) {
				return fmt.Errorf("there is already a context %q; choose another name, or remove that context with 'gangway context rm'", arg[1])
			}
			old, err := contextPath(arg[0])
			if err != nil {
				return err
			}
			if s.context = arg[1]; s.context == arg[0] {
				return nil
			}
			if err := s.save(); err != nil {
				return err
			}
			if arg[0] == current {
				if err := setCurrentContext(arg[1]); err != nil {
					return err
				}
			}
			a.note("The context %s is now %s.", arg[0], arg[1])
			return os.Remove(old)
		},
	}
}

func (a *app) contextRm() *cobra.Command {
	return &cobra.Command{
		Use: "rm NAME", Short: "Sign out from a context's hub, and remove the context", Args: args("the context's name"),
		Long:    "Rm ends a context's session at the hub, as 'gangway logout' does, and removes the\ncontext's file. If the hub cannot be reached, rm only removes the file.",
		Example: "  gangway context rm oslo",
		RunE: func(c *cobra.Command, arg []string) error {
			if err := knownContext(arg[0]); err != nil {
				return err
			}
			current, err := currentContext()
			if err != nil {
				return err
			}
			if err := signOut(c.Context(), arg[0]); err != nil {
				return err
			}
			a.note("The context %s is removed.", arg[0])
			if arg[0] == current {
				a.note("It was the current context. Choose another context with 'gangway context use'.")
			}
			return nil
		},
	}
}

// signOut ends a context's session and removes the context's file.
func signOut(ctx context.Context, name string) error {
	if s, err := readContext(name); err == nil {
		// Remove the file even if the hub returns an error: the session may have expired already.
		_ = s.do(ctx, "POST", "/auth/logout", nil, nil)
	}
	path, err := contextPath(name)
	if err != nil {
		return err
	}
	return os.Remove(path)
}

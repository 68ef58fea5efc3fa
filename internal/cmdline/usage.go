// Package cmdline makes the error messages for wrong command lines of the commands gangway and
// gangway-agent. Each message names the mistake and a command line to type instead. The package
// also has the flag type for durations, such as 30d.
package cmdline

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// UsageError is the error for a wrong command line: an unknown command or flag, or a wrong
// argument.
type UsageError struct{ error }

// Usagef returns a UsageError.
func Usagef(format string, args ...any) error { return UsageError{fmt.Errorf(format, args...)} }

// IsUsage reports whether err is a UsageError.
func IsUsage(err error) bool {
	var u UsageError
	return errors.As(err, &u)
}

// Prepare makes a root command and all its subcommands use the messages of this package. Call it
// after all subcommands have been added.
func Prepare(root *cobra.Command) {
	root.SetFlagErrorFunc(flagError)
	var prepare func(c *cobra.Command)
	prepare = func(c *cobra.Command) {
		if c.HasSubCommands() && !c.Runnable() {
			c.Args, c.RunE = cobra.ArbitraryArgs, group
		}
		for _, child := range c.Commands() {
			prepare(child)
		}
	}
	prepare(root)
}

// group runs a command that has subcommands. Without an argument, it prints the help. With an
// unknown subcommand, it returns a UsageError, so that a script with a typing error fails.
func group(c *cobra.Command, arg []string) error {
	if len(arg) == 0 {
		return c.Help()
	}
	return unknown(c, arg)
}

// Advice returns the lines that follow the error message of a wrong command line: the command's
// usage line, and how to display its help.
func Advice(c *cobra.Command) string {
	help := fmt.Sprintf("See '%s --help'.", c.CommandPath())
	if c.HasSubCommands() {
		return help
	}
	return "Usage: " + strings.TrimSuffix(c.UseLine(), " [flags]") + "\n" + help
}

// Args returns a check that a command gets exactly one argument for each of the names. The check's
// error lists the names.
func Args(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, got []string) error {
		if len(got) < len(names) {
			return Usagef("%s is missing", names[len(got)])
		}
		return AtMost(len(names))(c, got)
	}
}

// AtMost returns a check that a command gets at most `n` arguments.
func AtMost(n int) cobra.PositionalArgs {
	return func(_ *cobra.Command, got []string) error {
		if len(got) <= n {
			return nil
		}
		extra := got[n]
		if bare := strings.TrimLeft(extra, "‐‑‒–—―−"); bare != extra && bare != "" {
			return Usagef("%q begins with a dash that is not a hyphen: write --%s", extra, strings.TrimLeft(bare, "-"))
		}
		if extra == "true" || extra == "false" {
			return Usagef("unexpected argument %q; to give a value to a flag that is on or off, write an equals sign: --FLAG=%s", extra, extra)
		}
		return Usagef("unexpected argument %q; an argument with spaces needs quotes", extra)
	}
}

// synonyms maps words that people type instead of a command to the names of Gangway's commands, the
// most likely first.
var synonyms = map[string][]string{
	"list": {"ls"}, "dir": {"ls"}, "ps": {"ls", "device"}, "all": {"ls"},
	"get": {"show", "ls"}, "describe": {"show"}, "view": {"show"}, "info": {"show", "whoami"}, "details": {"show"}, "print": {"show"},
	"cat": {"show"}, "status": {"show", "doctor", "ls"}, "inspect": {"show"},
	"remove": {"delete", "remove", "revoke"}, "rm": {"delete", "remove", "revoke"}, "del": {"delete", "remove", "revoke"},
	"destroy": {"delete", "remove", "revoke"}, "delete": {"remove", "revoke", "rm"}, "erase": {"delete", "remove"}, "unregister": {"delete"},
	"revoke": {"disable", "delete", "remove"}, "deactivate": {"disable"}, "block": {"disable", "deny"}, "activate": {"enable"},
	"add": {"create", "add", "import"}, "new": {"create", "add"}, "make": {"create", "build"}, "generate": {"create", "keys"}, "mk": {"create"},
	"register": {"create", "claim"}, "issue": {"create"},
	"edit": {"set", "meta"}, "update": {"set", "post"}, "put": {"set"}, "replace": {"set"}, "apply": {"set", "post"}, "change": {"set", "rename", "passwd"},
	"validate": {"check"}, "verify": {"check"}, "lint": {"check"}, "test": {"check"},
	"accept": {"approve"}, "allow": {"approve"}, "admit": {"approve"}, "reject": {"deny"}, "refuse": {"deny"},
	"pending": {"waiting"}, "queue": {"waiting"}, "requests": {"waiting"},
	"log": {"logs"}, "tail": {"logs"}, "journal": {"logs", "events"}, "audit": {"events"}, "history": {"revisions", "events"},
	"metadata": {"meta"}, "label": {"meta", "set"}, "labels": {"meta"}, "tag": {"meta", "set"},
	"deploy": {"post"}, "install": {"post", "onboard"}, "upgrade": {"post"}, "push": {"post"}, "steps": {"revisions"}, "revert": {"rollback"}, "undo": {"rollback"},
	"nick": {"rename"}, "mv": {"rename"}, "name": {"rename"},
	"run": {"serve", "run"}, "start": {"serve", "run"}, "server": {"serve"}, "hub": {"serve"}, "daemon": {"serve", "run"}, "up": {"serve"},
	"signin": {"login"}, "sign-in": {"login"}, "auth": {"login"}, "signout": {"logout"}, "sign-out": {"logout"},
	"who": {"whoami"}, "me": {"whoami"}, "user": {"account", "whoami"}, "users": {"account"}, "owner": {"account"},
	"password": {"passwd"}, "apikey": {"api-token"}, "api-key": {"api-token"}, "apitoken": {"api-token"}, "key": {"api-token", "keys"},
	"machine": {"device"}, "machines": {"device"}, "node": {"device"}, "nodes": {"device"}, "fleet": {"device", "top"}, "host": {"device"}, "hosts": {"device"},
	"jointoken": {"token"}, "join-token": {"token"}, "rule": {"policy"}, "rules": {"policy"}, "roots": {"trust"}, "certs": {"trust"}, "ca": {"trust"},
	"eklist": {"ek-list"}, "installer": {"image"}, "stick": {"image"}, "usb": {"image"}, "iso": {"image"}, "download": {"fetch"},
	"config": {"context"}, "profile": {"context"}, "switch": {"use"}, "select": {"use"},
	"enroll": {"onboard"}, "enrol": {"onboard"}, "join": {"onboard"}, "check": {"doctor", "check"}, "health": {"doctor"}, "diagnose": {"doctor"},
	"watch": {"top"}, "monitor": {"top"}, "dashboard": {"top", "open"}, "web": {"open"}, "browse": {"open"}, "ui": {"open"},
}

// unknown returns the error for a word that is not a subcommand of the command `c`. `words` has
// this word and the words after it.
func unknown(c *cobra.Command, words []string) error {
	said := fmt.Sprintf("unknown command %q for %q", words[0], c.CommandPath())
	if near := suggestions(c, words); len(near) > 0 {
		return Usagef("%s; did you mean %s?", said, orList(near))
	}
	var names []string
	for _, child := range c.Commands() {
		if child.IsAvailableCommand() {
			names = append(names, child.Name())
		}
	}
	return Usagef("%s; the commands are %s", said, strings.Join(names, ", "))
}

func orList(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = `"` + s + `"`
	}
	return strings.Join(quoted, " or ")
}

// suggestions returns at most eight commands that a person may have meant with the words `words`
// after the command `c`.
func suggestions(c *cobra.Command, words []string) []string {
	if n := nearest(c, words[0]); n != nil {
		return []string{descend(n, words[1:]).CommandPath()}
	}
	word := strings.ToLower(words[0])
	wanted := append([]string{word, strings.TrimSuffix(word, "s")}, synonyms[word]...)
	for _, name := range wanted {
		var found []string
		each(c.Root(), func(other *cobra.Command) {
			if other.Name() == name && other.HasParent() && other.IsAvailableCommand() {
				found = append(found, descend(other, words[1:]).CommandPath())
			}
		})
		if len(found) > 0 && len(found) <= 8 {
			return found
		}
	}
	return nil
}

func each(c *cobra.Command, do func(*cobra.Command)) {
	do(c)
	for _, child := range c.Commands() {
		each(child, do)
	}
}

// descend follows the words that name subcommands, beginning at the command `c`, and returns the
// last command. If the last command has a subcommand `ls`, descend returns `ls`.
func descend(c *cobra.Command, words []string) *cobra.Command {
	for _, w := range words {
		n := nearest(c, w)
		if n == nil {
			break
		}
		c = n
	}
	if ls := child(c, "ls"); ls != nil {
		return ls
	}
	return c
}

func child(c *cobra.Command, name string) *cobra.Command {
	for _, other := range c.Commands() {
		if (other.Name() == name || other.HasAlias(name)) && other.IsAvailableCommand() {
			return other
		}
	}
	return nil
}

// nearest returns the subcommand of the command `c` whose name or synonym is most similar to
// `word`, or nil if no subcommand is similar.
func nearest(c *cobra.Command, word string) *cobra.Command {
	if !c.HasSubCommands() || word == "" || strings.HasPrefix(word, "-") {
		return nil
	}
	word = strings.ToLower(word)
	for _, name := range append([]string{word, strings.TrimSuffix(word, "s")}, synonyms[word]...) {
		if n := child(c, name); n != nil {
			return n
		}
	}
	var best *cobra.Command
	least := 1 + min(2, (len(word)+1)/3)
	for _, other := range c.Commands() {
		if !other.IsAvailableCommand() {
			continue
		}
		d := distance(word, other.Name())
		if len(word) > 2 && strings.HasPrefix(other.Name(), word) {
			d = 1
		}
		if d < least {
			best, least = other, d
		}
	}
	return best
}

// distance returns the number of letters to insert, delete, replace or swap to turn `a` into `b`
// (Damerau–Levenshtein distance, without overlapping swaps).
func distance(a, b string) int {
	row := make([][]int, len(a)+1)
	for i := range row {
		row[i] = make([]int, len(b)+1)
		row[i][0] = i
	}
	for j := range b {
		row[0][j+1] = j + 1
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			replace := row[i-1][j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			row[i][j] = min(row[i-1][j]+1, row[i][j-1]+1, replace)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[i][j] = min(row[i][j], row[i-2][j-2]+1)
			}
		}
	}
	return row[len(a)][len(b)]
}

// flagSynonyms maps words that people type instead of a flag to advice about what to type instead.
var flagSynonyms = map[string]string{
	"json": "--output json", "yaml": "--output yaml", "csv": "--output csv", "wide": "--output wide", "format": "--output",
	"force": "--yes", "assume-yes": "--yes", "y": "--yes", "f": "--follow", "name": "--nick", "data-dir": "--data", "dir": "--data", "datadir": "--data",
	"port": "--listen", "bind": "--listen", "addr": "--listen", "address": "--url", "user": "--nick", "username": "--nick", "u": "--nick",
	"token": "--token-file", "expires": "--expires-in", "ttl": "--expires-in", "expiry": "--expires-in", "uses": "--max-uses", "limit": "--max-uses",
	"label": "--meta", "tag": "--meta", "interval": "--poll", "hub": "--hub-file", "ca": "--hub-ca", "fingerprint": "--hub-name",
	"msg": "--message", "comment": "--message", "commit-msg": "--message", "v": "--version", "profile": "--context", "tail": "--limit", "lines": "--tail", "n": "--limit",
}

// flagError returns the error for flags that cannot be parsed. `err` is pflag's error.
func flagError(c *cobra.Command, err error) error {
	// A command with subcommands has few flags. If its subcommand is unknown, report the
	// subcommand, because the flag may belong to the command that the person meant.
	if c.HasSubCommands() && c.Flags().NArg() > 0 {
		return unknown(c, c.Flags().Args())
	}
	var missing *pflag.NotExistError
	var value *pflag.InvalidValueError
	var needed *pflag.ValueRequiredError
	switch {
	case errors.As(err, &missing):
		return unknownFlag(c, missing)
	case errors.As(err, &needed):
		kind, _ := pflag.UnquoteUsage(needed.GetFlag())
		return Usagef("--%s needs a value (%s): %s", needed.GetFlag().Name, kindWords(kind), needed.GetFlag().Usage)
	case errors.As(err, &value):
		return wrongValue(value)
	}
	return UsageError{err}
}

func kindWords(kind string) string {
	switch kind {
	case "strings", "stringArray":
		return "string"
	case "stringToString":
		return "KEY=VALUE"
	}
	return kind
}

func wrongValue(e *pflag.InvalidValueError) error {
	name, text := e.GetFlag().Name, e.GetValue()
	switch e.GetFlag().Value.Type() {
	case "bool":
		return Usagef("--%s %q must be true or false; the flag without a value means true", name, text)
	case "int", "int64", "uint", "uint64", "int32":
		return Usagef("--%s %q is not a whole number, or is too large", name, text)
	case "stringToString":
		return Usagef("--%s %q must be KEY=VALUE", name, text)
	}
	return Usagef("--%s %q %w", name, text, e.Unwrap())
}

// unknownFlag returns the error for a flag that the command `c` does not have.
func unknownFlag(c *cobra.Command, e *pflag.NotExistError) error {
	name, said := e.GetSpecifiedName(), "unknown flag --"+e.GetSpecifiedName()
	short := e.GetSpecifiedShortnames()
	if short != "" {
		said = fmt.Sprintf("unknown flag -%s", name)
		if len(short) > 1 {
			if c.Flags().Lookup(short) != nil {
				return Usagef("unknown flag -%s; write it with two hyphens: --%s", short, short)
			}
			name, said = short, "unknown flag -"+short
		}
	}
	has := func(flag string) bool {
		word, _, _ := strings.Cut(strings.TrimPrefix(flag, "--"), " ")
		return c.Flags().Lookup(word) != nil
	}
	if instead := flagSynonyms[name]; instead != "" && has(instead) {
		return Usagef("%s; did you mean %s?", said, instead)
	}
	var near string
	least := 1 + min(2, (len(name)+1)/3)
	c.Flags().VisitAll(func(f *pflag.Flag) {
		d := distance(name, f.Name)
		if len(name) > 2 && strings.HasPrefix(f.Name, name) {
			d = 1
		}
		if d < least && !f.Hidden {
			near, least = "--"+f.Name, d
		}
	})
	if near != "" {
		return Usagef("%s; did you mean %s?", said, near)
	}
	var owners []string
	each(c.Root(), func(other *cobra.Command) {
		if f := other.LocalNonPersistentFlags().Lookup(name); f != nil && !f.Hidden && other.IsAvailableCommand() {
			owners = append(owners, "'"+other.CommandPath()+"'")
		}
	})
	slices.Sort(owners)
	switch {
	case len(owners) == 0:
		return Usagef("%s", said)
	case len(owners) > 3:
		owners = append(owners[:3], "others")
	}
	return Usagef("%s for '%s'; it is a flag of %s", said, c.CommandPath(), strings.Join(owners, ", "))
}

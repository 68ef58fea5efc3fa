package main

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"gangway/hub/api"
	"gangway/internal/cmdline"

	"github.com/spf13/cobra"
)

const (
	// completeTime is the longest time that a person waits after pressing the Tab key.
	completeTime = 1500 * time.Millisecond
	// completeAtMost is the maximum number of words that a completion requests from the hub.
	completeAtMost = 100
)

// words returns the completions of `begun`, which is the beginning of a word that a person has
// typed. Each completion is a word; a tab and a description may follow the word. `before` contains
// the earlier arguments of the command. On any error, words returns nothing, because a shell cannot
// show an error while a person types.
type words func(ctx context.Context, begun string, before []string) []string

// completions maps each command to the functions that complete its arguments, one function for each
// argument. The key is the command's path without "gangway". The last function also completes all
// further arguments.
var completions = map[string][]words{
	"api-token revoke": {apiTokenWords},
	"context rename":   {contextWords}, "context rm": {contextWords}, "context show": {contextWords}, "context use": {contextWords},
	"device approve": {waitingWords}, "device deny": {waitingWords},
	"device boot": {deviceWords}, "device cloned": {deviceWords}, "device delete": {deviceWords}, "device logs": {deviceWords}, "device meta": {deviceWords},
	"device network": {deviceWords}, "device post": {deviceWords}, "device publish": {deviceWords}, "device unpublish": {deviceWords},
	"device recovery-key": {deviceWords}, "device rename": {deviceWords}, "device revisions": {deviceWords},
	"device rollback": {deviceWords, revisionNumbers}, "device state": {deviceWords, revisionNumbers},
	"device set": {deviceWords, metaKeyWords}, "device show": {shownWords},
	"open":         {deviceWords},
	"token delete": {tokenWords}, "token disable": {tokenWords},
}

// withFiles are the commands whose last argument is a file.
var withFiles = []string{"device post"}

// complete sets the completions of the commands below the command `root`. When a shell asks for
// completions, cobra does not run PersistentPreRun, so each completion function reads --context and
// --hub itself.
func (a *app) complete(root *cobra.Command) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		path := strings.TrimPrefix(c.CommandPath(), root.Name()+" ")
		if list, ok := completions[path]; ok {
			c.ValidArgsFunction = a.completeArgs(list, slices.Contains(withFiles, path))
		} else if c.ValidArgsFunction == nil && c.Args != nil && c.Args(c, nil) == nil && c.Args(c, []string{"x"}) != nil {
			c.ValidArgsFunction = cobra.NoFileCompletions // the command takes no argument
		}
		for flag, list := range map[string]words{"context": contextWords, "hub": hubWords} {
			if c.PersistentFlags().Lookup(flag) != nil {
				_ = c.RegisterFlagCompletionFunc(flag, a.completeFlag(list)) // fails only if the command has no such flag
			}
		}
		a.completeOutput(c)
		for _, child := range c.Commands() {
			walk(child)
		}
	}
	walk(root)
}

// completeOutput completes the values of the flags --output and --columns of a command.
func (a *app) completeOutput(c *cobra.Command) {
	formats := []string{formatTable, formatJSON, formatYAML}
	names, table := c.Annotations[tableKey]
	if table {
		formats = append(formats, formatWide, formatCSV)
		_ = c.RegisterFlagCompletionFunc("columns", func(_ *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
			chosen := ""
			if i := strings.LastIndex(begun, ","); i >= 0 {
				chosen = begun[:i+1]
			}
			var list []string
			for _, name := range strings.Split(names, ",") {
				list = append(list, chosen+name)
			}
			return list, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
		})
	}
	if c.Annotations[linesKey] != "" {
		formats = append(formats, formatJSONL)
	}
	if c.Flags().Lookup("output") != nil || c.PersistentFlags().Lookup("output") != nil {
		_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
	}
}

func (a *app) completeArgs(list []words, file bool) cobra.CompletionFunc {
	return func(c *cobra.Command, before []string, begun string) ([]string, cobra.ShellCompDirective) {
		n := len(before)
		repeated := strings.HasSuffix(c.Use, "...") && n >= len(list)
		if n >= len(list) && !repeated {
			if file && n == len(list) {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.completed(c, list[min(n, len(list)-1)], begun, before)
	}
}

func (a *app) completeFlag(list words) cobra.CompletionFunc {
	return func(c *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		return a.completed(c, list, begun, nil)
	}
}

// completed returns the words that complete the typed beginning `begun`. It waits at most
// completeTime.
func (a *app) completed(c *cobra.Command, list words, begun string, before []string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(c.Context(), completeTime)
	defer cancel()
	c.SetContext(ctx)
	if cmdline.FromEnvironment(c) != nil || a.chooseContext(c) != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	directive := cobra.ShellCompDirectiveNoFileComp
	found := list(c.Context(), begun, before)
	if len(found) > 0 && !slices.ContainsFunc(found, func(w string) bool { return !strings.HasSuffix(w, "=") }) {
		directive |= cobra.ShellCompDirectiveNoSpace
	}
	return found, directive
}

// The function `offered` returns a word with a description, in the form that cobra's shell scripts
// read. It removes characters that a terminal or a shell script would interpret.
func offered(word string, about ...string) string {
	about = slices.DeleteFunc(about, func(s string) bool { return strings.TrimSpace(s) == "" })
	if len(about) == 0 {
		return word
	}
	text := visible(strings.Join(about, ", "))
	return word + "\t" + shorten(text, 60)
}

// typable reports whether a shell reads a word as plain text. Other words are not completed, so
// that nobody can choose a nick that runs a command in another person's shell.
func typable(word string) bool {
	return word != "" && strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-+@=/") == ""
}

func begins(word, begun string) bool {
	return typable(word) && strings.HasPrefix(strings.ToLower(word), strings.ToLower(begun))
}

func deviceWords(ctx context.Context, begun string, _ []string) (found []string) {
	queries := []string{""}
	if begun != "" {
		queries[0] = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(begun) + `"`
		if digits := strings.ToLower(begun); isHex(digits) {
			queries = append(queries, "id:"+digits)
		}
	}
	for _, q := range queries {
		page, err := fleetPage(ctx, url.Values{"q": {q}, "limit": {strconv.Itoa(completeAtMost)}})
		if err != nil {
			return nil
		}
		for _, d := range page.Devices {
			switch {
			case begins(d.Nick, begun):
				found = append(found, offered(d.Nick, d.Machine.Model, stateWords(d)))
			case begun != "" && begins(d.ID, begun):
				found = append(found, offered(d.ID, d.Nick, d.Machine.Model, stateWords(d)))
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func waitingWords(ctx context.Context, begun string, _ []string) (found []string) {
	list, err := allWaiting(ctx)
	if err != nil {
		return nil
	}
	for _, w := range list[:min(len(list), completeAtMost)] {
		if begins(w.ID, begun) {
			found = append(found, offered(w.ID, w.Machine.Model, w.Machine.Serial))
		}
	}
	return found
}

// shownWords returns the devices and the waiting machines, because 'gangway device show' accepts
// both.
func shownWords(ctx context.Context, begun string, before []string) []string {
	return append(deviceWords(ctx, begun, before), waitingWords(ctx, begun, before)...)
}

func tokenWords(ctx context.Context, begun string, _ []string) (found []string) {
	list, err := allTokens(ctx, call[[]api.JoinTokenView])
	if err != nil {
		return nil
	}
	for _, t := range list {
		word := t.ID
		about := []string{t.Nick, tokenState(t, time.Now())}
		if begins(t.Nick, begun) && !slices.ContainsFunc(list, func(o api.JoinTokenView) bool { return o.ID != t.ID && strings.EqualFold(o.Nick, t.Nick) }) {
			word, about = t.Nick, about[1:]
		}
		if begins(word, begun) && len(found) < completeAtMost {
			found = append(found, offered(word, about...))
		}
	}
	return found
}

func apiTokenWords(ctx context.Context, begun string, _ []string) (found []string) {
	list, err := call[api.APITokens](ctx, http.MethodGet, "/tokens", nil)
	if err != nil {
		return nil
	}
	for _, t := range list.Items {
		if word := t.Name; begins(word, begun) {
			found = append(found, offered(word, t.ID))
		}
	}
	return found
}

func contextWords(_ context.Context, begun string, _ []string) (found []string) {
	names, err := contextNames()
	if err != nil {
		return nil
	}
	for _, name := range names {
		if s, err := readContext(name); err == nil && begins(name, begun) {
			found = append(found, offered(name, s.Hub, s.Nick))
		}
	}
	return found
}

func hubWords(_ context.Context, begun string, _ []string) (found []string) {
	names, err := contextNames()
	if err != nil {
		return nil
	}
	for _, name := range names {
		if s, err := readContext(name); err == nil && strings.HasPrefix(s.Hub, begun) {
			found = append(found, offered(s.Hub, name))
		}
	}
	return found
}

// revisionNumbers returns the numbers of the newest revisions of the device that the earlier
// arguments name.
func revisionNumbers(ctx context.Context, begun string, before []string) (found []string) {
	d, err := findDevice(ctx, before[0])
	if err != nil {
		return nil
	}
	rows, err := revisions(ctx, d, 20)
	if err != nil {
		return nil
	}
	for _, r := range rows {
		if rev := strconv.Itoa(r.Rev); strings.HasPrefix(rev, begun) {
			found = append(found, offered(rev, statusWords(r.Status, r.Progress), r.CommitMsg))
		}
	}
	return found
}

// metaKeyWords returns the keys in the user-meta of the device that the earlier arguments name. It
// does not return the values, because they may be private.
func metaKeyWords(ctx context.Context, begun string, before []string) (found []string) {
	d, err := findDevice(ctx, before[0])
	if err != nil {
		return nil
	}
	for key := range d.UserMeta {
		if key != networkMeta && begins(key, begun) {
			found = append(found, key+"=")
		}
	}
	slices.Sort(found)
	return found
}

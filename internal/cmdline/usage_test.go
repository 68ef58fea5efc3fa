package cmdline

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

func tree() *cobra.Command {
	run := func(*cobra.Command, []string) error { return nil }
	root := &cobra.Command{Use: "boat", SilenceErrors: true, SilenceUsage: true}
	var once bool
	var oars int
	var every time.Duration
	group := func(name string, leaves ...*cobra.Command) {
		c := &cobra.Command{Use: name, Short: name}
		c.AddCommand(leaves...)
		root.AddCommand(c)
	}
	leaf := func(use string) *cobra.Command {
		return &cobra.Command{Use: use, Short: use, RunE: run, Args: Args()}
	}
	row := &cobra.Command{Use: "row RIVER", RunE: run, Args: Args("the river")}
	row.Flags().BoolVar(&once, "once", false, "once")
	row.Flags().IntVar(&oars, "oars", 2, "how many")
	SpanVar(row.Flags(), &every, "every", time.Minute, "how often to rest")
	group("sail", leaf("ls"), leaf("show"), leaf("delete"), leaf("approve"))
	root.AddCommand(row)
	root.PersistentFlags().String("output", "text", "the format")
	Prepare(root)
	return root
}

func TestWrongUsageSaysWhatToType(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"sails":                 `did you mean "boat sail ls"?`,
		"sails list":            `did you mean "boat sail ls"?`,
		"sail list":             `did you mean "boat sail ls"?`,
		"sail remove main":      `did you mean "boat sail delete"?`,
		"sail remove --yes x":   `did you mean "boat sail delete"?`,
		"sail lst":              `did you mean "boat sail ls"?`,
		"approve":               `did you mean "boat sail approve"?`,
		"sail row":              `did you mean "boat row"?`,
		"sail frobnicate":       `the commands are approve, delete, ls, show`,
		"SAIL":                  `did you mean "boat sail ls"?`,
		"row":                   "the river is missing",
		"row a b":               `unexpected argument "b"`,
		"row a —once":           "write --once",
		"row a --once false":    "--FLAG=false",
		"row --onec a":          "did you mean --once?",
		"row -once a":           "write it with two hyphens: --once",
		"row --json a":          "did you mean --output json?",
		"row --nonsense a":      "unknown flag --nonsense",
		"sail ls --oars 3":      "unknown flag --oars for 'boat sail ls'; it is a flag of 'boat row'",
		"row --oars many a":     `--oars "many" is not a whole number`,
		"row --oars":            "--oars needs a value (int): how many",
		"row --once=perhaps a":  `--once "perhaps" must be true or false`,
		"row --every 5 a":       `--every "5" has no unit`,
		"row --every 30d a":     "",
		"row --every=2w Thames": "",
	} {
		root := tree()
		root.SetArgs(strings.Fields(line))
		err := root.Execute()
		if want == "" {
			if err != nil {
				t.Errorf("%q: %v", line, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) || !IsUsage(err) {
			t.Errorf("%q: got %v, want wrong usage with %q", line, err, want)
		}
	}
}

func TestAdviceShowsHowTheCommandIsUsed(t *testing.T) {
	t.Parallel()
	root := tree()
	root.SetArgs([]string{"row"})
	c, err := root.ExecuteC()
	if err == nil || Advice(c) != "Usage: boat row RIVER\nSee 'boat row --help'." {
		t.Errorf("got %q after %v", Advice(c), err)
	}
	if IsUsage(errors.New("the river is dry")) {
		t.Error("a failure is not wrong usage")
	}
}

package main

import (
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Each command has a summary of one line and a description. Each command without subcommands has an
// example that runs the command.
func TestEveryCommandHasHelp(t *testing.T) {
	t.Parallel()
	commands := 0
	var check func(c *cobra.Command)
	check = func(c *cobra.Command) {
		commands++
		if c.Short == "" || strings.HasSuffix(c.Short, ".") || strings.Contains(c.Short, "\n") {
			t.Errorf("%s: the summary %q must be one line without a period", c.CommandPath(), c.Short)
		}
		if c.Long == "" || c.Long == c.Short {
			t.Errorf("%s has no description", c.CommandPath())
		}
		for line := range strings.SplitSeq(c.Long, "\n") {
			if len([]rune(line)) > 90 {
				t.Errorf("%s: a line of the description has more than 90 characters: %q", c.CommandPath(), line)
			}
		}
		if !c.HasSubCommands() && !strings.Contains(c.Example, "  "+c.CommandPath()) {
			t.Errorf("%s: no example shows the command", c.CommandPath())
		}
		for _, child := range c.Commands() {
			if !child.Hidden {
				check(child)
			}
		}
	}
	check(command(&app{stdout: io.Discard, stderr: io.Discard}))
	if commands < 50 {
		t.Errorf("found only %d commands", commands)
	}
}

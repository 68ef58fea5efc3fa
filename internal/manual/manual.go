// Package manual makes the man pages and the shell completions of a command from the command's
// declarations. The Debian packages contain them; Git does not.
package manual

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"gangway/internal/cmdline"
	"gangway/internal/version"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Command returns a hidden command `docs DIR`, which writes the man pages and completions of its
// root command to a folder.
func Command() *cobra.Command {
	return &cobra.Command{
		Use:     "docs DIR",
		Short:   "Write man pages and shell completions to a folder (for packages, /usr/share)",
		Example: "  gangway docs ./share",
		Hidden:  true,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, arg []string) error {
			return Write(arg[0], c.Root(), version.Current)
		},
	}
}

// Write writes the man pages of the command `root` and of all its subcommands, and the completions
// for bash, zsh and fish. The folder `dir` is the equivalent of /usr/share. For the same commands
// and the same build, Write always writes the same bytes.
func Write(dir string, root *cobra.Command, build version.Build) error {
	name := root.Name()
	completions := map[string]func(io.Writer) error{
		"bash-completion/completions/" + name:         func(w io.Writer) error { return root.GenBashCompletionV2(w, true) },
		"zsh/vendor-completions/_" + name:             root.GenZshCompletion,
		"fish/vendor_completions.d/" + name + ".fish": func(w io.Writer) error { return root.GenFishCompletion(w, true) },
	}
	for path, generate := range completions {
		if err := writeFile(filepath.Join(dir, path), generate); err != nil {
			return fmt.Errorf("manual: %w", err)
		}
	}
	return writePages(filepath.Join(dir, "man/man1"), root, build)
}

func writePages(dir string, c *cobra.Command, build version.Build) error {
	write := func(w io.Writer) error {
		_, err := io.WriteString(w, page(c, build))
		return err
	}
	if err := writeFile(filepath.Join(dir, pageName(c)+".1"), write); err != nil {
		return fmt.Errorf("manual: %w", err)
	}
	for _, child := range documented(c) {
		if err := writePages(dir, child, build); err != nil {
			return err
		}
	}
	return nil
}

func writeFile(path string, write func(io.Writer) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

// The function `documented` returns the subcommands of the command `c` that have man pages. The
// commands that cobra adds (help and completion) have no man pages.
func documented(c *cobra.Command) []*cobra.Command {
	var list []*cobra.Command
	for _, child := range c.Commands() {
		if child.IsAvailableCommand() && (c.HasParent() || child.Name() != "completion") {
			list = append(list, child)
		}
	}
	return list
}

func pageName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// page returns the man page of a command, in roff.
func page(c *cobra.Command, build version.Build) string {
	var b strings.Builder
	name := pageName(c)
	date, _, _ := strings.Cut(build.Date, "T")
	fmt.Fprintf(&b, ".TH \"%s\" \"1\" \"%s\" \"%s %s\" \"Gangway\"\n", escape(strings.ToUpper(name)), escape(date), c.Root().Name(), escape(build.Version))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", escape(name), text(c.Short))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n", escape(c.UseLine()))
	long := c.Long
	if long == "" {
		long = c.Short + "."
	}
	fmt.Fprintf(&b, ".SH DESCRIPTION\n%s", paragraphs(long))
	children := documented(c)
	if len(children) > 0 {
		b.WriteString(".SH COMMANDS\n")
	}
	for _, child := range children {
		fmt.Fprintf(&b, ".TP\n.BR %s (1)\n%s\n", escape(pageName(child)), text(child.Short))
	}
	options(&b, "OPTIONS", c.NonInheritedFlags())
	options(&b, "OPTIONS OF ALL COMMANDS", c.InheritedFlags())
	environment(&b, c)
	if c.Example != "" {
		fmt.Fprintf(&b, ".SH EXAMPLES\n%s", verbatim(strings.Split(c.Example, "\n")))
	}
	if c.HasParent() {
		fmt.Fprintf(&b, ".SH SEE ALSO\n.BR %s (1)\n", escape(pageName(c.Parent())))
	}
	return b.String()
}

// environment adds to `b` a section that lists the environment variables of a command's own flags.
func environment(b *strings.Builder, c *cobra.Command) {
	first := true
	list := func(f *pflag.Flag) {
		name := cmdline.Variable(c, f)
		if name == "" {
			return
		}
		if first {
			b.WriteString(".SH ENVIRONMENT\nA flag on the command line overrides its variable.\n")
			first = false
		}
		fmt.Fprintf(b, ".TP\n.B %s\nthe value of --%s\n", escape(name), escape(f.Name))
	}
	c.NonInheritedFlags().VisitAll(list)
	c.InheritedFlags().VisitAll(list)
}

func options(b *strings.Builder, title string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	fmt.Fprintf(b, ".SH %s\n", title)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		names := "--" + f.Name
		if f.Shorthand != "" {
			names = "-" + f.Shorthand + ", " + names
		}
		fmt.Fprintf(b, ".TP\n\\fB%s\\fP", escape(names))
		switch value {
		case "stringArray", "strings":
			value = "string"
		case "stringToString":
			value = "key=value"
		}
		if value != "" {
			fmt.Fprintf(b, " \\fI%s\\fP", escape(value))
		}
		switch f.DefValue {
		case "", "false", "[]", "0", "0s":
		default:
			if !strings.Contains(usage, "(default") {
				usage += fmt.Sprintf(" (default: %s)", f.DefValue)
			}
		}
		fmt.Fprintf(b, "\n%s\n", text(usage))
	})
}

// paragraphs returns a command's description in roff. Indented lines keep their line breaks; man
// reflows all other lines.
func paragraphs(s string) string {
	var b strings.Builder
	var indented []string
	flush := func() {
		b.WriteString(verbatim(indented))
		indented = nil
	}
	for line := range strings.SplitSeq(strings.TrimSpace(s), "\n") {
		switch {
		case strings.HasPrefix(line, " "), strings.HasPrefix(line, "\t"):
			indented = append(indented, line)
		case line == "":
			flush()
			b.WriteString(".PP\n")
		default:
			flush()
			b.WriteString(text(line) + "\n")
		}
	}
	flush()
	return b.String()
}

// verbatim returns lines in roff so that they keep their line breaks. It removes an indentation of
// two spaces.
func verbatim(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString(".RS 4\n.nf\n")
	for _, line := range lines {
		b.WriteString(text(strings.TrimPrefix(line, "  ")) + "\n")
	}
	b.WriteString(".fi\n.RE\n")
	return b.String()
}

// text escapes a line of text for roff, so that a period or a quote at its start is not a roff
// request.
func text(s string) string {
	s = escape(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}

// escape escapes roff's special characters in the text `s`. It writes each hyphen as a minus sign,
// so that people can copy commands from the man page.
func escape(s string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`, `"`, `\(dq`, "\n", " ").Replace(s)
}

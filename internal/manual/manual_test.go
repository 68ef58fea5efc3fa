package manual

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gangway/internal/version"

	"github.com/spf13/cobra"
)

func example() *cobra.Command {
	run := func(*cobra.Command, []string) {}
	root := &cobra.Command{Use: "boat", Short: "Cross water"}
	root.PersistentFlags().String("output", "text", "text or json")
	row := &cobra.Command{
		Use: "row [--oars N]", Short: "Move a boat", Run: run,
		Long:    "Row moves a boat.\n.dots and 'quotes' begin lines.\n\n  FIRST   a list\n  SECOND  C:\\boat\n\nThe end.",
		Example: "  boat row --oars 2",
	}
	row.Flags().IntP("oars", "n", 2, "how many `oars`")
	row.Flags().Bool("fast", false, "hurry")
	row.Flags().Bool("secret", false, "not to be seen")
	if err := row.Flags().MarkHidden("secret"); err != nil {
		panic(err)
	}
	hidden := Command()
	root.AddCommand(row, hidden)
	return root
}

var build = version.Build{Version: "1.2.0", Date: "2026-11-29T08:00:00Z"}

func TestPage(t *testing.T) {
	t.Parallel()
	root := example()
	row, _, err := root.Find([]string{"row"})
	if err != nil {
		t.Fatal(err)
	}
	const want = `.TH "BOAT\-ROW" "1" "2026\-11\-29" "boat 1.2.0" "Gangway"
.SH NAME
boat\-row \- Move a boat
.SH SYNOPSIS
.B boat row [\-\-oars N] [flags]
.SH DESCRIPTION
Row moves a boat.
\&.dots and 'quotes' begin lines.
.PP
.RS 4
.nf
FIRST   a list
SECOND  C:\eboat
.fi
.RE
.PP
The end.
.SH OPTIONS
.TP
\fB\-\-fast\fP
hurry
.TP
\fB\-n, \-\-oars\fP \fIoars\fP
how many oars (default: 2)
.SH OPTIONS OF ALL COMMANDS
.TP
\fB\-\-output\fP \fIstring\fP
text or json (default: text)
.SH EXAMPLES
.RS 4
.nf
boat row \-\-oars 2
.fi
.RE
.SH SEE ALSO
.BR boat (1)
`
	if got := page(row, build); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestFilesOfACommand(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root := example()
	root.SetArgs([]string{"docs", dir})
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	var got []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			got = append(got, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"bash-completion/completions/boat",
		"fish/vendor_completions.d/boat.fish",
		"man/man1/boat-row.1",
		"man/man1/boat.1",
		"zsh/vendor-completions/_boat",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got files %q, want %q", got, want)
	}
}

package cmdline

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// boat returns a root command with environment variables. Its subcommand `row` writes the values of
// its own flags to `said`.
func boat(said *string) *cobra.Command {
	root := &cobra.Command{Use: "boat", SilenceErrors: true, SilenceUsage: true,
		PersistentPreRunE: func(c *cobra.Command, _ []string) error { return FromEnvironment(c) }}
	var oars int
	var yes bool
	var crew, ports []string
	var harbour string
	row := &cobra.Command{Use: "row", Short: "Row", Args: Args(), RunE: func(c *cobra.Command, _ []string) error {
		*said = strings.Join(append(append([]string{harbour, strings.Repeat("o", oars)}, crew...), ports...), "/")
		if yes {
			*said += "!"
		}
		if IsFromEnvironment(c, "home-port") {
			*said += "env"
		}
		return nil
	}}
	f := row.Flags()
	f.IntVar(&oars, "oars", 2, "how many")
	f.BoolVar(&yes, "yes", false, "do not ask")
	f.StringArrayVar(&crew, "crew", nil, "names")
	f.StringSliceVar(&ports, "ports", nil, "names")
	root.PersistentFlags().StringVar(&harbour, "home-port", "oslo", "the harbour")
	root.AddCommand(row)
	Prepare(root)
	Environment(root, "BOAT", "yes")
	return root
}

// A flag on the command line overrides its environment variable, and the variable overrides the
// default.
func TestFlagsFromTheEnvironment(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		line string
		want string
	}{
		{nil, "row", "oslo/oo"},
		{map[string]string{"BOAT_OARS": "3"}, "row", "oslo/ooo"},
		{map[string]string{"BOAT_OARS": "3"}, "row --oars 1", "oslo/o"},
		{map[string]string{"BOAT_OARS": ""}, "row", "oslo/oo"},
		{map[string]string{"BOAT_HOME_PORT": "rome"}, "row", "rome/ooenv"},
		{map[string]string{"BOAT_HOME_PORT": "rome"}, "row --home-port bari", "bari/oo"},
		{map[string]string{"BOAT_CREW": "ann, bo\ncy"}, "row", "oslo/oo/ann, bo/cy"},
		{map[string]string{"BOAT_PORTS": "a,b"}, "row", "oslo/oo/a/b"},
		// An environment variable cannot answer a confirmation question in place of a person.
		{map[string]string{"BOAT_YES": "true"}, "row", "oslo/oo"},
		{map[string]string{"BOAT_HELP": "true"}, "row", "oslo/oo"},
	} {
		t.Run(c.line, func(t *testing.T) {
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			said := ""
			root := boat(&said)
			root.SetArgs(strings.Fields(c.line))
			if err := root.Execute(); err != nil || said != c.want {
				t.Errorf("%v: got %q, %v; want %q", c.env, said, err, c.want)
			}
		})
	}
}

func TestWrongVariableIsNamed(t *testing.T) {
	t.Setenv("BOAT_OARS", "many")
	said := ""
	root := boat(&said)
	root.SetArgs([]string{"row"})
	err := root.Execute()
	if err == nil || !IsUsage(err) || err.Error() != `the environment variable BOAT_OARS: --oars "many" is not a whole number, or is too large` {
		t.Errorf("got %v", err)
	}
}

func TestHelpNamesTheVariable(t *testing.T) {
	t.Parallel()
	said := ""
	root := boat(&said)
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetArgs([]string{"row", "--help"})
	if err := root.Execute(); err != nil || !strings.Contains(out.String(), "such as BOAT_CREW for --crew.") {
		t.Errorf("%v: %s", err, out.String())
	}
}

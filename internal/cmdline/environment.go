package cmdline

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Annotations of flags: notFromEnvironment excludes a flag, and fromEnvironment marks a flag of
// which the value came from a variable.
const (
	notFromEnvironment = "gangway-not-from-environment"
	fromEnvironment    = "gangway-from-environment"
)

// environmentKey is the annotation of a root command whose flags have variables.
const environmentKey = "gangway-environment"

// Environment lets each flag of a root command and the commands below it take its value from an
// environment variable: prefix, an underscore and the flag's name in capitals. The names in except
// are flags that have no variable, such as those that replace a person's confirmation: a variable
// that somebody forgot must not answer for them. Call it when the tree of commands is complete, and
// FromEnvironment before a command runs.
func Environment(root *cobra.Command, prefix string, except ...string) {
	if root.Annotations == nil {
		root.Annotations = map[string]string{}
	}
	root.Annotations[environmentKey] = prefix
	exclude := func(f *pflag.FlagSet) {
		for _, name := range append(except, "help", "version") {
			if flag := f.Lookup(name); flag != nil {
				_ = f.SetAnnotation(name, notFromEnvironment, nil) // fails only for a flag that is not there
			}
		}
	}
	each(root, func(c *cobra.Command) {
		exclude(c.Flags())
		exclude(c.PersistentFlags())
	})
	usage := root.UsageFunc()
	root.SetUsageFunc(func(c *cobra.Command) error {
		err := usage(c)
		if help := environmentHelp(c); help != "" {
			fmt.Fprintf(c.OutOrStderr(), "\n%s\n", help)
		}
		return err
	})
}

// Variable returns the environment variable of a flag of c; "" if the flag has none.
func Variable(c *cobra.Command, f *pflag.Flag) string {
	prefix := c.Root().Annotations[environmentKey]
	if _, excluded := f.Annotations[notFromEnvironment]; excluded || prefix == "" || f.Hidden || f.Name == "help" || f.Name == "version" {
		return ""
	}
	return prefix + "_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
}

func environmentHelp(c *cobra.Command) string {
	var example string
	own := func(f *pflag.Flag) {
		if name := Variable(c, f); name != "" && example == "" && f.Value.Type() != "bool" {
			example = fmt.Sprintf("%s for --%s", name, f.Name)
		}
	}
	c.LocalNonPersistentFlags().VisitAll(own)
	c.Flags().VisitAll(own)
	c.InheritedFlags().VisitAll(own)
	if example == "" {
		return ""
	}
	return "Each flag may come from an environment variable, such as " + example + ".\nA flag on the command line counts first."
}

// FromEnvironment sets the flags of a command that are not on the command line from their
// variables. An empty variable counts as not set. A flag that takes a list of texts takes one from
// each line.
func FromEnvironment(c *cobra.Command) error {
	var failed error
	c.Flags().VisitAll(func(f *pflag.Flag) {
		name := Variable(c, f)
		value := os.Getenv(name)
		if f.Changed || name == "" || value == "" || failed != nil {
			return
		}
		values := []string{value}
		if f.Value.Type() == "stringArray" {
			values = strings.Split(value, "\n")
		}
		for _, v := range values {
			if err := c.Flags().Set(f.Name, v); err != nil {
				var invalid *pflag.InvalidValueError
				if errors.As(err, &invalid) {
					err = wrongValue(invalid)
				}
				failed = Usagef("the environment variable %s: %w", name, err)
				return
			}
		}
		_ = c.Flags().SetAnnotation(f.Name, fromEnvironment, nil) // the flag is there
	})
	return failed
}

// IsFromEnvironment reports whether a flag of c has its value from a variable.
func IsFromEnvironment(c *cobra.Command, flag string) bool {
	f := c.Flags().Lookup(flag)
	if f == nil {
		return false
	}
	_, is := f.Annotations[fromEnvironment]
	return is
}

package cmdline

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Annotations of flags. notFromEnvironment marks a flag that has no environment variable.
// fromEnvironment marks a flag whose value came from its environment variable.
const (
	notFromEnvironment = "gangway-not-from-environment"
	fromEnvironment    = "gangway-from-environment"
)

// environmentKey is the annotation of a root command whose flags have environment variables. The
// annotation's value is the prefix of the variables' names.
const environmentKey = "gangway-environment"

// Environment lets each flag of a root command and its subcommands get its value from an
// environment variable. The variable's name is `prefix`, an underscore and the flag's name in
// capitals. The flags in `except` have no variable. List there all flags that replace a person's
// confirmation: a forgotten variable must not confirm anything. Call Environment after all
// subcommands have been added, and FromEnvironment before a command runs.
func Environment(root *cobra.Command, prefix string, except ...string) {
	if root.Annotations == nil {
		root.Annotations = map[string]string{}
	}
	root.Annotations[environmentKey] = prefix
	exclude := func(f *pflag.FlagSet) {
		for _, name := range append(except, "help", "version") {
			if flag := f.Lookup(name); flag != nil {
				_ = f.SetAnnotation(name, notFromEnvironment, nil) // fails only if the flag does not exist
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

// Variable returns the name of the environment variable of the flag `f` of the command `c`, or ""
// if the flag has no variable.
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
	return "Each flag can also be set with an environment variable, such as " + example + ".\nA flag on the command line overrides its variable."
}

// FromEnvironment sets flags of the command `c` from their environment variables. It ignores empty
// variables, and does not change a flag that is on the command line. If a flag's value is a list,
// each line of the variable is one element.
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
		_ = c.Flags().SetAnnotation(f.Name, fromEnvironment, nil) // cannot fail: the flag exists
	})
	return failed
}

// IsFromEnvironment reports whether the value of a flag of the command `c` came from an environment
// variable.
func IsFromEnvironment(c *cobra.Command, flag string) bool {
	f := c.Flags().Lookup(flag)
	if f == nil {
		return false
	}
	_, is := f.Annotations[fromEnvironment]
	return is
}

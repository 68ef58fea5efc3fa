// Command gangway runs the hub. It is also the tool of the hub's operator and of the
// owners of devices.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"gangway/internal/manual"
	"gangway/internal/version"

	"github.com/spf13/cobra"
)

// Exit codes. The code for success is 0.
const (
	exitFailed = 1 // the command failed
	exitUsage  = 2 // unknown command or flag, or wrong arguments
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ran, err := command(&app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}).ExecuteContextC(ctx)
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage), strings.HasPrefix(err.Error(), "unknown command"): // cobra has no error type for an unknown command
		fmt.Fprintf(os.Stderr, "gangway: %v\nSee '%s --help'.\n", err, ran.CommandPath())
		return exitUsage
	}
	fmt.Fprintf(os.Stderr, "gangway: %v\n", err)
	return exitFailed
}

type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// app holds the streams and the output format that all commands share.
type app struct {
	stdin          *os.File
	stdout, stderr io.Writer
	output         string // --output: "text" or "json"
}

func command(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "gangway",
		Short: "Run a hub for zero-touch onboarding of machines with a TPM 2.0, and manage your devices",
		Long: `Gangway is a hub for zero-touch onboarding of machines with a TPM 2.0. This program
runs the hub, builds installer images and manages the devices of an account.

  On the hub's machine   serve, account, trust
  From anywhere          login, token, device, policy, events, api-token
  Installer images       image
  To try it              demo

The exit code is 0 for success, 1 for a failure and 2 for wrong usage.`,
		Example: `  gangway demo
  gangway serve --data ./hub
  gangway account create --data ./hub --nick ada
  gangway login https://127.0.0.1:12443 --data ./hub --nick ada
  gangway token create -o device_autojointoken.json
  gangway image build x64-uefi-installer --token-file device_autojointoken.json -o installer.img
  gangway device ls`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version.Current.String(),
		PersistentPreRunE: func(c *cobra.Command, _ []string) error {
			switch {
			case a.output == "text", a.output == "json", a.output == "jsonl" && c.Name() == "events":
				return nil
			case a.output == "jsonl":
				return usagef("--output jsonl is for 'gangway events' only; use json")
			}
			return usagef("--output must be text or json, not %q", a.output)
		},
	}
	root.SetVersionTemplate("gangway {{.Version}}\n")
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentFlags().StringVar(&a.output, "output", "text", "output format: text or json; 'events' also has jsonl")
	root.AddCommand(a.serveCommand(), a.accountCommand(), a.loginCommand(), a.logoutCommand(), a.whoamiCommand(),
		a.apiTokenCommand(), a.tokenCommand(), a.deviceCommand(), a.trustCommand(), a.policyCommand(), a.imageCommand(), a.eventsCommand(), a.demoCommand(), a.versionCommand(), manual.Command())
	for _, c := range append(root.Commands(), root) {
		if c.HasSubCommands() {
			c.Args, c.RunE = cobra.ArbitraryArgs, group
		}
	}
	return root
}

// group runs a command that has subcommands. Without an argument, it prints the help. An unknown
// subcommand is a usage error, so that a script with a typing error fails.
func group(c *cobra.Command, arg []string) error {
	if len(arg) == 0 {
		return c.Help()
	}
	if near := c.SuggestionsFor(arg[0]); len(near) > 0 {
		return usagef("unknown command %q for %q; did you mean %q?", arg[0], c.CommandPath(), near[0])
	}
	return usagef("unknown command %q for %q", arg[0], c.CommandPath())
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version, its commit and the commit's date", Args: args(),
		Long:    "Version prints the version of this program, its commit and the commit's date.",
		Example: "  gangway version\n  gangway version --output json",
		RunE: func(*cobra.Command, []string) error {
			build := version.Current
			if done, err := a.json(map[string]string{"version": build.Version, "commit": build.Commit, "date": build.Date, "go": runtime.Version()}); done {
				return err
			}
			a.printf("gangway %s\n", build)
			return nil
		},
	}
}

// args checks that a command gets one argument for each of the names. If an argument is missing,
// the error contains its name.
func args(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, got []string) error {
		if len(got) < len(names) {
			return usagef("%s is missing", names[len(got)])
		}
		if len(got) > len(names) {
			return usagef("unexpected argument %q", got[len(names)])
		}
		return nil
	}
}

// json prints v as JSON if the output format is json. It reports whether the output format is json.
func (a *app) json(v any) (bool, error) {
	if a.output != "json" {
		return false, nil
	}
	e := json.NewEncoder(a.stdout)
	e.SetIndent("", "  ")
	return true, e.Encode(v)
}

func (a *app) printf(format string, args ...any) { fmt.Fprintf(a.stdout, format, args...) }

// note prints a line for people on standard error. Standard output has only a
// command's result, for programs to read.
func (a *app) note(format string, args ...any) { fmt.Fprintf(a.stderr, format+"\n", args...) }

// Command gangway runs the hub. It is also the command-line tool of the hub's operator and of the
// owners of devices.
package main

import (
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"gangway/hub/backup"
	"gangway/internal/cmdline"
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
	return (&app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}).run(ctx, os.Args[1:])
}

// run executes a command line, and returns the exit code.
func (a *app) run(ctx context.Context, arg []string) int {
	root := command(a)
	root.SetArgs(arg)
	ran, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if errors.Is(err, errFindings) {
		return exitFailed
	}
	a.fail(ran, err, arg)
	if cmdline.IsUsage(err) {
		return exitUsage
	}
	return exitFailed
}

// failure is an error in JSON. The fields have the names that the hub's answers use.
type failure struct {
	Code    string `json:"error"` // the hub's error code, "usage" or "failed"
	Message string `json:"msg"`
	Hint    string `json:"hint,omitempty"`
}

// fail prints an error, in the format that --output chose.
func (a *app) fail(c *cobra.Command, err error, arg []string) {
	f := failure{Code: "failed", Message: err.Error()}
	var refused *hubError
	var unusable *backup.Refusal
	switch {
	case cmdline.IsUsage(err):
		f.Code, f.Hint = "usage", cmdline.Advice(c)
	case errors.As(err, &refused):
		f.Code, f.Hint = refused.Code, refused.Hint
		if err == error(refused) {
			f.Message = refused.Message
		}
	case errors.As(err, &unusable):
		f.Code, f.Message, f.Hint = unusable.Code, unusable.Fact, unusable.Remedy
	}
	if a.output == formatJSON || a.output == formatJSONL || wantsJSON(arg) {
		if writeJSON(a.stderr, f) == nil {
			return
		}
	}
	a.note("gangway: %v", err)
	if f.Code == "usage" {
		a.note("%s", f.Hint)
	}
}

// wantsJSON reports whether the arguments request JSON output. It is used for errors in the
// arguments themselves.
func wantsJSON(arg []string) bool {
	for i, word := range arg {
		if word == "--output=json" || word == "--output" && i+1 < len(arg) && arg[i+1] == formatJSON {
			return true
		}
	}
	return os.Getenv("GANGWAY_OUTPUT") == formatJSON
}

func usagef(format string, args ...any) error { return cmdline.Usagef(format, args...) }

// app holds the streams and the output format that all commands share.
type app struct {
	stdin          *os.File
	stdout, stderr io.Writer
	output         string        // --output: one of the formats
	columns        []string      // --columns
	context, hub   string        // --context, --hub
	screen         *os.File      // the terminal on which --watch draws while stdout is a buffer; nil if stdout is not a buffer
	steady         bool          // lists omit the columns that change with each contact of a device
	poll           time.Duration // if not 0, replaces the time between two requests of a command that waits; for tests
}

// The method `every` returns the interval between two requests of a command that waits for
// something: the field `poll` or, if that field is zero, the command's usual interval.
func (a *app) every(usual time.Duration) time.Duration { return cmp.Or(a.poll, usual) }

func command(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "gangway",
		Short: "Run a hub for zero-touch onboarding of machines with a TPM 2.0, and manage your devices",
		Long: `Gangway is a hub for zero-touch onboarding of machines with a TPM 2.0. This program
runs the hub, builds installer images and manages the devices of an account.

  On the hub's machine   serve, account, trust, doctor, fsck, backup, restore, db, ca
  From anywhere          login, context, token, device, top, policy, events, api-token
  Installer images       image, manifest
  To try it              demo

The exit code is 0 for success, 1 for a failure and 2 for wrong usage.`,
		Example: `  gangway demo
  gangway serve --data ./hub
  gangway account create --data ./hub --nick ada
  gangway login https://127.0.0.1:12443 --data ./hub --nick ada
  gangway token create -o device_autojointoken.json
  gangway image build x64-uefi-installer --token-file device_autojointoken.json -o installer.img
  gangway device ls`,
		SilenceUsage:      true,
		SilenceErrors:     true,
		Version:           version.Current.String(),
		PersistentPreRunE: a.prepare,
	}
	root.SetVersionTemplate("gangway {{.Version}}\n")
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.PersistentFlags().StringVar(&a.output, "output", formatTable, "output format: table, json or yaml; commands that print a list also have wide and csv")
	root.AddCommand(
		a.serveCommand(), a.accountCommand(), a.loginCommand(), a.logoutCommand(), a.whoamiCommand(),
		a.apiTokenCommand(),
		a.tokenCommand(),
		a.contextCommand(),
		a.deviceCommand(),
		a.trustCommand(),
		a.policyCommand(),
		a.imageCommand(),
		a.manifestCommand(),
		a.bootsCommand(),
		a.eventsCommand(),
		a.topCommand(),
		a.openCommand(),
		a.doctorCommand(),
		a.fsckCommand(),
		a.readyCommand(),
		a.dbCommand(),
		a.caCommand(),
		a.backupCommand(),
		a.restoreCommand(),
		a.demoCommand(),
		a.versionCommand(),
		manual.Command(),
	)
	addDatabaseFlags(root)
	root.PersistentFlags().StringVar(&a.context, "context", "", "the context to use: a hub and your sign-in there; see 'gangway context' (default: the current one)")
	root.PersistentFlags().StringVar(&a.hub, "hub", "", "URL of the hub to use; you must be signed in to it (default: the hub of the current context)")
	cmdline.Prepare(root)
	// These flags have no environment variable, because a forgotten variable must not confirm an
	// action or create a new database. --columns has none because each list has different columns.
	cmdline.Environment(root, "GANGWAY", "yes", "new-database", "reuse-nick", "columns")
	a.complete(root)
	return root
}

// prepare reads the flags that all commands share.
func (a *app) prepare(c *cobra.Command, _ []string) error {
	if err := cmdline.FromEnvironment(c); err != nil {
		return err
	}
	if err := a.chooseContext(c); err != nil {
		return err
	}
	return a.checkOutput(c)
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

// args checks that a command gets exactly one argument for each element of `names`. The error lists
// the names.
func args(names ...string) cobra.PositionalArgs { return cmdline.Args(names...) }

// Command gangway-fleet puts a test hub under the load of many emulated devices. A real hub must
// not accept these devices: their TPMs are emulated in software, so the evidence that they send
// proves nothing.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"gangway/internal/cmdline"
	"gangway/internal/manual"
	"gangway/internal/version"

	"github.com/spf13/cobra"
)

// Exit codes: 0 success; 1 the run was not possible; 2 wrong usage; 3 the run is complete, but some
// operations failed or could not start at their planned time; 4 the run was interrupted, and the
// report has the results up to that time.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitUnexpected  = 3
	exitInterrupted = 4
)

// If a run ends with errUnexpected or errInterrupted, the program does not print an error message,
// because it has already printed the report.
var (
	errUnexpected  = errors.New("some operations failed, or did not start at their time")
	errInterrupted = errors.New("interrupted")
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := command(stdout, stderr)
	root.SetArgs(args)
	ran, err := root.ExecuteContextC(ctx)
	switch {
	case err == nil:
		return 0
	case cmdline.IsUsage(err):
		fmt.Fprintf(stderr, "gangway-fleet: %v\n%s\n", err, cmdline.Advice(ran))
		return exitUsage
	case errors.Is(err, errUnexpected):
		return exitUnexpected
	case errors.Is(err, errInterrupted):
		return exitInterrupted
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "gangway-fleet: stopped before the measurement; there is no report.")
		return exitInterrupted
	}
	fmt.Fprintf(stderr, "gangway-fleet: %v\n", err)
	return exitFailed
}

func command(stdout, stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:   "gangway-fleet",
		Short: "Put a test hub under the load of many emulated devices",
		Long: `gangway-fleet emulates tens of thousands of devices. They speak the real protocol over
real TLS. Their TPMs are software, and their keys are in this program's memory.

Use it only against a test hub: a hub that accepts these devices has no protection
against anyone with the same program. 'gangway-fleet maker' makes the CA of the
emulated TPMs and says how to make a test hub trust this CA.`,
		Example: `  gangway-fleet maker ./maker
  gangway-fleet run --token device_autojointoken.json --maker ./maker --devices 1000`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version.Current.String(),
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.AddCommand(makerCommand(stdout), runCommand(stdout, stderr), manual.Command())
	cmdline.Prepare(root)
	return root
}

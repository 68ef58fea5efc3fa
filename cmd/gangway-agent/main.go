// Command gangway-agent is the device's side of Gangway: it brings a machine
// with a TPM 2.0 into its owner's fleet and keeps it connected.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"gangway/device/agent"
	"gangway/device/agent/trail"
	"gangway/internal/manual"
	"gangway/internal/version"
	"gangway/wire"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// Exit codes: 0 done; 1 it did not work; 2 wrong usage; 3 the hub refused for
// good, so that trying the same again does not help.
const (
	exitFailed  = 1
	exitUsage   = 2
	exitRefused = 3
)

func main() {
	args := os.Args[1:]
	if verb, conf := hookVerb(os.Args[0]); verb != "" {
		if verb == "login" {
			os.Stderr = nil // Pantavisor takes both outputs for the answer
		}
		args = []string{"pantavisor", verb, "--conf", conf}
	}
	var stderr io.Writer = io.Discard
	if os.Stderr != nil {
		stderr = os.Stderr
	}
	os.Exit(run(args, os.Stdout, stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := command(stdout, stderr)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var refused *agent.Refused
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage), strings.HasPrefix(err.Error(), "unknown command"): // cobra has no type for it
		fmt.Fprintf(stderr, "gangway-agent: %v\nSee 'gangway-agent --help'.\n", err)
		return exitUsage
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "gangway-agent: stopped; what was begun goes on at the next start.")
		return exitFailed
	}
	fmt.Fprintf(stderr, "gangway-agent: %v\n", err)
	if errors.As(err, &refused) {
		return exitRefused
	}
	return exitFailed
}

// askWithin is how long the hub may take to answer status --ask.
const askWithin = 20 * time.Second

type usageError struct{ error }

type options struct {
	token, hub, tpm, state, model, serial, ek, key, output string
	endorsementAuth                                        string // file
	again, ask, withoutEKCertificate                       bool
	every                                                  time.Duration

	trail        trail.Config
	poll         time.Duration
	reserve      int64 // MiB
	userMetaHook string
	reportFiles  map[string]string
	noLog        bool
	setClock     bool
	logStdin     bool
	logFiles     []string
	logSocket    string
	network      networkOptions
}

func command(stdout, stderr io.Writer) *cobra.Command {
	var o options
	root := &cobra.Command{
		Use:   "gangway-agent",
		Short: "Bring this machine into its owner's fleet, and keep it connected",
		Long: `gangway-agent is the device's side of Gangway. With a join token's file and
the machine's TPM 2.0 it gets an identity whose key never leaves the TPM, and
with that it talks to the hub.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version.Current.String(),
	}
	root.SetVersionTemplate("gangway-agent {{.Version}}\n")
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentFlags().StringVar(&o.tpm, "tpm", "/dev/tpmrm0", "the TPM: a device, unix:/path or tcp:host:port")
	root.PersistentFlags().StringVar(&o.state, "state", "/var/lib/gangway-agent", "folder of the agent's state")
	root.PersistentFlags().StringVar(&o.endorsementAuth, "endorsement-auth-file", "", "file with the password of the TPM's endorsement hierarchy, where it has one (mode 0600; \"hex:\" and digits for bytes)")
	o.network.flags(root.PersistentFlags())
	root.PersistentFlags().BoolVar(&o.setClock, "set-clock", false, "set the system's clock by the hub's where it is evidently wrong, or behind; where nothing else sets it")
	root.PersistentFlags().StringVar(&o.output, "output", "text", "text or json")

	onboard := &cobra.Command{
		Use:   "onboard --token-file FILE",
		Short: "Onboard this machine, once",
		Long: `Onboard sends one request and makes one connection; then the machine is in the
token owner's device list. It may be stopped or killed at any moment and be
started again. About a machine that is onboarded already the hub is asked. One
that the hub does not know, or whose TPM has onboarded again since, comes back, at
most once a day. One that its owner deleted comes back with --again only.

While the hub is away it waits. It gives up only when the hub refuses for good
(exit code 3), and says what to do. If --again is refused, all stays as it was.`,
		Example: `  gangway-agent onboard --token-file device_autojointoken.json
  gangway-agent onboard --again --token-file device_autojointoken.json
  gangway-agent onboard --token-file t.json --tpm unix:/run/swtpm/sock --state ./state
  gangway-agent onboard --token-file t.json --endorsement-auth-file /etc/gangway/endorsement-auth
  gangway-agent onboard --token-file t.json --without-ek-certificate
  gangway-agent onboard --token-file t.json --proxy http://proxy.example:3128`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := o.agent(stderr, true)
			if err != nil {
				return err
			}
			defer a.Close()
			s, err := a.Onboard(c.Context())
			if err != nil {
				return err
			}
			return o.print(stdout, s)
		},
	}
	onboard.Flags().StringVar(&o.token, "token-file", "", "join token file, device_autojointoken.json (required, or --hub-file)")
	onboard.Flags().StringVar(&o.hub, "hub-file", "", "file that says which hub, for a machine without a token: it shows a code for its owner to take there")
	onboard.Flags().BoolVar(&o.again, "again", false, "onboard again, also a device that was deleted, or with a state folder of another TPM")
	identityFlags(onboard, &o)

	runCmd := &cobra.Command{
		Use:   "run [--token-file FILE]",
		Short: "Onboard if need be, then stay connected: report, send logs, take revisions",
		Long: `Run keeps the machine connected. It reports what the machine is, sends its log,
keeps what the owner sets (user-meta.json in the state folder), and with --hook
takes the revisions that are posted to it: their objects are downloaded and
checked, and the hook, a program of yours, is called as

  HOOK install  FOLDER   put it in place; exit code 10: a reboot is needed
  HOOK reboot   FOLDER   start the machine anew (only after a code 10)
  HOOK test     FOLDER   is it good?
  HOOK commit   FOLDER   make it permanent
  HOOK rollback FOLDER   undo it: GANGWAY_FORMER is the folder of what ran before

FOLDER/files has the revision's files, FOLDER/state.json its state. Any other
code than 0 from install, test or commit leads to rollback. A call that the
machine's power was cut in is made again: the hook must bear that.
docs/agent.md has the whole contract.

A machine that its owner deleted stays out, and Run waits: 'gangway-agent status'
says why, and 'gangway-agent onboard --again' brings it back.`,
		Example: `  gangway-agent run --token-file /etc/gangway/device_autojointoken.json
  gangway-agent run --hook /usr/local/lib/gangway/install --log-file /var/log/app.log
  gangway-agent run --report-every 5m --poll 5m`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := o.agent(stderr, false)
			if err != nil {
				return err
			}
			defer a.Close()
			return a.Stay(c.Context())
		},
	}
	runCmd.Flags().StringVar(&o.token, "token-file", "", "join token file; needed until the machine is onboarded")
	runCmd.Flags().DurationVar(&o.every, "report-every", time.Minute, "time between reports")
	runFlags(runCmd, &o)
	identityFlags(runCmd, &o)

	status := &cobra.Command{
		Use:   "status",
		Short: "Show how far this machine is, and what it is waiting for",
		Long: `Status shows what the agent last knew, and when it last heard of the hub. With
--ask it asks the hub now, by the machine's identity.`,
		Example: "  gangway-agent status\n  gangway-agent status --ask\n  gangway-agent status --output json",
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := agent.ReadState(o.state)
			if err != nil {
				return err
			}
			if o.ask {
				ctx, cancel := context.WithTimeout(c.Context(), askWithin)
				defer cancel()
				auth, err := readAuth(o.endorsementAuth)
				if err != nil {
					return err
				}
				if s.Answer, err = agent.Ask(ctx, agent.Config{TPM: o.tpm, StateDir: o.state, EndorsementAuth: auth}); err != nil {
					return err
				}
			}
			return o.print(stdout, s)
		},
	}
	status.Flags().BoolVar(&o.ask, "ask", false, "ask the hub now whether it lets this machine in")
	root.AddCommand(onboard, runCmd, status, exportCommand(&o, stdout), proxyCommand(&o, stderr), pantavisorCommand(stdout, stderr, &o), versionCommand(&o, stdout), manual.Command())
	return root
}

func runFlags(c *cobra.Command, o *options) {
	f := c.Flags()
	f.DurationVar(&o.poll, "poll", 30*time.Second, "time between looks for a new revision and new user-meta")
	f.StringVar(&o.trail.Hook, "hook", "", "the installer's program; without one the machine takes no revisions")
	f.StringVar(&o.trail.First, "first-revision", "", "folder with the first revision (state.json, objects/) of a device that has no trail yet; it is removed once the hub has it")
	f.StringVar(&o.trail.Data, "revisions", "", "folder of revisions and their objects, where others may read them or there is more room (default: in the state folder)")
	f.DurationVar(&o.trail.HookTimeout, "hook-timeout", 30*time.Minute, "longest time for one call of the hook")
	f.DurationVar(&o.trail.HubWithin, "hub-within", 10*time.Minute, "roll back what passed its test but does not reach the hub in this time; -1s: do not ask")
	f.DurationVar(&o.trail.RebootWithin, "reboot-within", 15*time.Minute, "longest time for the machine to start anew")
	f.IntVar(&o.trail.Parallel, "parallel", 4, "objects downloaded at once")
	f.Int64Var(&o.reserve, "reserve", 64, "MiB of the state's disk that stay free")
	f.StringVar(&o.userMetaHook, "user-meta-hook", "", "program to call as PROGRAM user-meta FILE when the owner's metadata has changed")
	f.StringToStringVar(&o.reportFiles, "report-file", nil, "KEY=FILE: report the file's text as device-meta KEY, at most 16 KiB; may be given again")
	f.BoolVar(&o.noLog, "no-log", false, "send no log to the hub")
	f.StringArrayVar(&o.logFiles, "log-file", nil, "send the lines appended to this file too; may be given again")
	f.StringVar(&o.logSocket, "log-socket", "", "make a Unix datagram socket here and send what comes, as 'logger -u PATH' does")
	f.BoolVar(&o.logStdin, "log-stdin", false, "send the lines of standard input too")
	f.StringVar(&o.trail.BootID, "boot-id", "", "file that is another after each start of the machine")
	if err := f.MarkHidden("boot-id"); err != nil {
		panic(err) // it was just made
	}
}

func identityFlags(c *cobra.Command, o *options) {
	c.Flags().StringVar(&o.model, "model", "", "the machine's model (default: from its firmware)")
	c.Flags().StringVar(&o.serial, "serial", "", "the machine's serial number (default: from its firmware)")
	c.Flags().StringVar(&o.ek, "ek", "", "endorsement key template, e.g. L-1 or H-3 (default: the best with a certificate)")
	c.Flags().BoolVar(&o.withoutEKCertificate, "without-ek-certificate", false, "send no EK certificate where the TPM's are of other keys, as after a new endorsement seed; the owner is asked")
	c.Flags().StringVar(&o.key, "key", "", "P-256, P-384, P-521 or RSA-2048 (default: P-256, or RSA where the TPM has no other)")
}

func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%q is not expected", args[0])}
	}
	return nil
}

// agent makes the agent of the options. Progress goes to stderr.
func (o *options) agent(stderr io.Writer, needToken bool) (*agent.Agent, error) {
	cfg := agent.Config{
		TPM: o.tpm, StateDir: o.state, Again: o.again, WithoutEKCertificate: o.withoutEKCertificate, Model: o.model, Serial: o.serial, EK: o.ek, Key: o.key,
		ReportEvery: o.every, Version: version.Current.Version, Poll: o.poll, Trail: o.trail, UserMetaHook: o.userMetaHook, ReportFiles: o.reportFiles,
		SendLog: !o.noLog, LogFiles: o.logFiles, LogSocket: o.logSocket,
		Progress: func(s agent.Step) {
			took := ""
			if s.Took > 0 {
				took = fmt.Sprintf(" (%s)", s.Took.Round(time.Millisecond))
			}
			fmt.Fprintf(stderr, "%s%s\n", s.Detail, took)
		},
	}
	auth, err := readAuth(o.endorsementAuth)
	if err != nil {
		return nil, err
	}
	cfg.EndorsementAuth = auth
	cfg.Trail.Reserve = o.reserve << 20
	network, err := o.network.settings()
	if err != nil {
		return nil, err
	}
	cfg.Proxy, cfg.NTP = httpProxy(network), network.NTP
	if o.setClock {
		cfg.SetClock = setClock
	}
	if o.logStdin {
		cfg.LogReader = os.Stdin
	}
	if o.output == "json" {
		cfg.Progress = nil
		cfg.Log = slog.New(slog.NewJSONHandler(stderr, nil))
	} else if o.output != "text" {
		return nil, usageError{fmt.Errorf("--output is text or json, not %q", o.output)}
	}
	if o.token == "" && o.hub == "" && needToken {
		return nil, usageError{errors.New("--token-file is needed: the join token file that 'gangway token create' makes")}
	}
	if o.token != "" {
		b, err := readFile(o.token, wire.MaxTokenFile)
		if err != nil {
			return nil, err
		}
		if cfg.Token, err = wire.ParseTokenFile(b); err != nil {
			return nil, fmt.Errorf("%s: %w", o.token, err)
		}
	}
	if o.hub != "" && o.token == "" {
		b, err := readFile(o.hub, wire.MaxTokenFile)
		if err != nil {
			return nil, err
		}
		if cfg.Hub, err = wire.ParseHubFile(b); err != nil {
			return nil, fmt.Errorf("%s: %w", o.hub, err)
		}
	}
	return agent.New(cfg)
}

// setClock sets the system's clock.
func setClock(t time.Time) error {
	tv := unix.NsecToTimeval(t.UnixNano())
	return unix.Settimeofday(&tv)
}

func readFile(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit+1))
}

func (o *options) print(w io.Writer, s *agent.State) error {
	if o.output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(s)
	}
	line := func(k, v string) {
		if strings.TrimSpace(v) != "" {
			fmt.Fprintf(w, "%-10s %s\n", k, v)
		}
	}
	line("phase", string(s.Phase))
	line("device", strings.TrimSpace(s.Nick+" "+s.DeviceID))
	line("owner", strings.TrimSpace(s.OwnerNick+" "+s.Owner))
	line("hub", s.Hub)
	line("tpm", strings.TrimSpace(s.TPM.Manufacturer+" "+s.TPM.Model+" "+s.TPM.Firmware))
	line("key", s.Key)
	if s.EKSHA256 != "" {
		line("ek", fmt.Sprintf("%s, SHA-256 %s", s.EK, s.EKSHA256))
	}
	if s.OnboardingMS > 0 {
		line("onboarded", fmt.Sprintf("%s, in %d ms and %d request(s)", s.Onboarded.Format(time.RFC3339), s.OnboardingMS, s.RoundTrips))
	}
	if !s.LastSeen.IsZero() {
		line("reported", fmt.Sprintf("%s, %s ago", s.LastSeen.Format(time.RFC3339), time.Since(s.LastSeen).Round(time.Second)))
	}
	if s.Removed != "" {
		line("removed", fmt.Sprintf("%s, known since %s", s.Removed, s.RemovedAt.Format(time.RFC3339)))
	}
	line("asked", s.Answer)
	line("boot", s.Boot)
	line("revision", s.Revision)
	line("step", s.Step)
	if s.Claim != "" {
		line("claim", s.Claim+", compare "+s.ClaimWords)
	}
	line("waiting", s.Waiting)
	return nil
}

func versionCommand(o *options, stdout io.Writer) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Show the version, its commit and the commit's date",
		Example: "  gangway-agent version\n  gangway-agent version --output json",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			build := version.Current
			if o.output == "json" {
				e := json.NewEncoder(stdout)
				e.SetIndent("", "  ")
				return e.Encode(map[string]string{"version": build.Version, "commit": build.Commit, "date": build.Date, "go": runtime.Version()})
			}
			fmt.Fprintf(stdout, "gangway-agent %s\n", build)
			return nil
		},
	}
}

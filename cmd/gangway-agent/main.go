// Command gangway-agent is the agent that runs on a device. It onboards a machine with a TPM 2.0 to
// the owner's hub and keeps the machine connected.
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
	"gangway/device/agent/revision"
	"gangway/internal/cmdline"
	"gangway/internal/manual"
	"gangway/internal/version"
	"gangway/wire"
	"gangway/wire/trail/sig"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// Exit codes: 0 success; 1 failure; 2 wrong usage; 3 the hub refused the device permanently, so a
// retry does not help.
const (
	exitFailed  = 1
	exitUsage   = 2
	exitRefused = 3
)

func main() {
	args := os.Args[1:]
	if verb, conf := hookVerb(os.Args[0]); verb != "" {
		if verb == "login" {
			os.Stderr = nil // Pantavisor reads both stdout and stderr as the answer
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
	ran, err := root.ExecuteContextC(ctx)
	var refused *agent.Refused
	switch {
	case err == nil:
		return 0
	case cmdline.IsUsage(err):
		fmt.Fprintf(stderr, "gangway-agent: %v\n%s\n", err, cmdline.Advice(ran))
		return exitUsage
	case errors.Is(err, errProblems):
		return exitFailed
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "gangway-agent: stopped. When you start it again, it continues from here.")
		return exitFailed
	}
	fmt.Fprintf(stderr, "gangway-agent: %v\n", err)
	if errors.As(err, &refused) {
		return exitRefused
	}
	return exitFailed
}

// askWithin is the time limit of 'status --ask'.
const askWithin = 20 * time.Second

type options struct {
	token, hub, tpm, state, model, serial, ek, key, output string
	endorsementAuth                                        string // file
	again, ask, withoutEKCertificate                       bool
	every                                                  time.Duration

	trail        revision.Config
	poll         time.Duration
	reserve      int64 // MiB
	userMetaHook string
	reportFiles  map[string]string

	installReport string
	noLog         bool
	setClock      bool
	logStdin      bool
	logFiles      []string
	logSocket     string
	network       networkOptions
	revisionKey   string
}

func command(stdout, stderr io.Writer) *cobra.Command {
	var o options
	root := &cobra.Command{
		Use:   "gangway-agent",
		Short: "Onboard this machine to its owner's hub and keep it connected",
		Long: `gangway-agent runs on the device. It uses a join token file and the machine's TPM 2.0
to get certificates for keys that never leave the TPM. With these keys it connects to
the hub.

Start with 'gangway-agent run --token-file device_autojointoken.json'.`,
		Example: `  gangway-agent run --token-file device_autojointoken.json
  gangway-agent status`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version.Current.String(),
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if o.output != "text" && o.output != "json" {
				return cmdline.Usagef("--output must be text or json, not %q", o.output)
			}
			return nil
		},
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.PersistentFlags().StringVar(&o.tpm, "tpm", "/dev/tpmrm0", "the TPM: a device file, unix:/path or tcp:host:port")
	root.PersistentFlags().StringVar(&o.state, "state", "/var/lib/gangway-agent", "folder for the agent's state")
	root.PersistentFlags().StringVar(&o.endorsementAuth, "endorsement-auth-file", "", "file with the password of the TPM's endorsement hierarchy, mode 0600; write a binary password in hexadecimal, as in hex:00ff (default: no password)")
	o.network.flags(root.PersistentFlags())
	root.PersistentFlags().BoolVar(&o.setClock, "set-clock", false, "set the system clock from the hub if the clock is clearly wrong or behind; use this option only if no other program sets the clock")
	root.PersistentFlags().StringVarP(&o.output, "output", "o", "text", "output format: text or json")

	onboard := &cobra.Command{
		Use:   "onboard --token-file FILE",
		Short: "Onboard this machine once, without staying connected",
		Long: `Onboard sends one request and makes one connection. Then the machine is in the
device list of the token's owner. You can stop or kill onboard at any time; the next
start continues.

If the machine is already onboarded, onboard asks the hub whether the device is still
active. If the hub does not know the device, or if the same TPM onboarded later with
another state folder, the machine onboards again, at most once a day. If the owner deleted
the device, the machine onboards again only with --again.

While the hub cannot be reached, onboard waits and retries. If the hub refuses
permanently, onboard prints the reason and the remedy, and exits with code 3. If the hub
refuses --again, the device does not change.`,
		Example: `  gangway-agent onboard --token-file device_autojointoken.json
  gangway-agent onboard --again --token-file device_autojointoken.json
  gangway-agent onboard --token-file t.json --tpm unix:/run/swtpm/sock --state ./state
  gangway-agent onboard --token-file t.json --endorsement-auth-file /etc/gangway/endorsement-auth
  gangway-agent onboard --token-file t.json --without-ek-certificate
  gangway-agent onboard --token-file t.json --proxy http://proxy.example:3128`,
		Args: cmdline.Args(),
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
	onboard.Flags().StringVar(&o.token, "token-file", "", "join token file, device_autojointoken.json (this or --hub-file is required)")
	onboard.Flags().StringVar(&o.hub, "hub-file", "", "hub file, for a machine without a join token: the machine shows a claim code, and a person claims the machine at this hub")
	onboard.Flags().BoolVar(&o.again, "again", false, "onboard again, even if the device was deleted or the state folder belongs to another TPM")
	identityFlags(onboard, &o)

	runCmd := &cobra.Command{
		Use:   "run [--token-file FILE]",
		Short: "Onboard if needed, then stay connected: report, send logs, install revisions",
		Long: `Run onboards the machine if needed and keeps it connected. It reports device-meta,
sends the log, and writes the owner's user-meta to user-meta.json in the state folder.

With --hook it also installs the revisions that are posted to the device. It downloads
and verifies their objects, then calls the hook, which is your program:

  HOOK install  FOLDER   install the revision; exit code 10 asks for a reboot
  HOOK reboot   FOLDER   reboot the machine (only after exit code 10)
  HOOK test     FOLDER   test the revision
  HOOK commit   FOLDER   make the revision permanent
  HOOK rollback FOLDER   restore the previous revision from the folder $GANGWAY_FORMER

FOLDER/files has the revision's files, FOLDER/state.json its state. If install, test or
commit fails, the agent calls rollback. If the machine loses power during a call, the
agent makes the call again, so the hook must be repeatable. docs/agent.md describes all
rules for hooks.

If the owner deleted the device, run waits. 'gangway-agent status' shows the reason;
'gangway-agent onboard --again' onboards the machine again.`,
		Example: `  gangway-agent run --token-file /etc/gangway/device_autojointoken.json
  gangway-agent run --hook /usr/local/lib/gangway/install --log-file /var/log/app.log
  gangway-agent run --report-every 5m --poll 5m`,
		Args: cmdline.Args(),
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := o.agent(stderr, false)
			if err != nil {
				return err
			}
			defer a.Close()
			return a.OnboardAndRun(c.Context())
		},
	}
	runCmd.Flags().StringVar(&o.token, "token-file", "", "join token file; required until the machine is onboarded")
	cmdline.SpanVar(runCmd.Flags(), &o.every, "report-every", time.Minute, "interval between reports")
	runFlags(runCmd, &o)
	identityFlags(runCmd, &o)

	status := &cobra.Command{
		Use:   "status",
		Short: "Show the device's state and what it is waiting for",
		Long: `Status shows the state that the agent last saved and the time of the last report. It
does not ask the hub. With --ask it connects to the hub as this device and shows whether
the hub accepts it.`,
		Example: "  gangway-agent status\n  gangway-agent status --ask\n  gangway-agent status --output json",
		Args:    cmdline.Args(),
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := agent.ReadState(o.state)
			if err != nil {
				return err
			}
			if o.ask {
				network, err := o.network.settings()
				if err != nil {
					return err
				}
				ctx, cancel := context.WithTimeout(c.Context(), askWithin)
				defer cancel()
				auth, err := readAuth(o.endorsementAuth)
				if err != nil {
					return err
				}
				if s.Answer, err = agent.Ask(ctx, agent.Config{TPM: o.tpm, StateDir: o.state, EndorsementAuth: auth, Proxy: httpProxy(network)}); err != nil {
					return err
				}
			}
			return o.print(stdout, s)
		},
	}
	status.Flags().BoolVar(&o.ask, "ask", false, "ask the hub now whether it accepts this device")
	root.AddCommand(onboard, runCmd, status, exportCommand(&o, stdout), proxyCommand(&o, stderr), pantavisorCommand(stdout, stderr, &o), doctorCommand(&o, stdout), consoleCommand(&o), versionCommand(&o, stdout), manual.Command())
	cmdline.Prepare(root)
	return root
}

func runFlags(c *cobra.Command, o *options) {
	f := c.Flags()
	cmdline.SpanVar(f, &o.poll, "poll", 30*time.Second, "interval between checks for a new revision and new user-meta")
	f.StringVar(&o.trail.Hook, "hook", "", "program that installs revisions (default: the device installs no revisions)")
	f.StringVar(&o.revisionKey, "revision-key", "", "public keys (PEM) of the device's owner; the agent installs only revisions that one of these keys has signed, whatever the hub orders (default: no signature is needed)")
	f.StringVar(&o.trail.First, "first-revision", "", "folder with the device's first revision (state.json, objects/), for a device that has no revisions at the hub yet; the agent deletes the folder once the hub has the revision")
	f.StringVar(&o.trail.Data, "revisions", "", "folder for revisions and their objects, if they must be on a larger disk, or if other users must read them (default: in the state folder)")
	cmdline.SpanVar(f, &o.trail.HookTimeout, "hook-timeout", 30*time.Minute, "time limit for one call of the hook")
	cmdline.SpanVar(f, &o.trail.HubWithin, "hub-within", 10*time.Minute, "time limit for reaching the hub after a revision's test; if the device exceeds this limit, the agent rolls the revision back; -1s: no limit")
	cmdline.SpanVar(f, &o.trail.RebootWithin, "reboot-within", 15*time.Minute, "time limit for a reboot")
	f.IntVar(&o.trail.Parallel, "parallel", 4, "number of parallel downloads")
	f.Int64Var(&o.reserve, "reserve", 64, "free space to keep on the disk that holds the revisions, in MiB")
	f.StringVar(&o.userMetaHook, "user-meta-hook", "", "program to call as PROGRAM user-meta FILE when the user-meta changes (default: none)")
	f.StringToStringVar(&o.reportFiles, "report-file", nil, "KEY=FILE: report the file's text (at most 16 KiB) as device-meta KEY; repeatable")
	f.StringVar(&o.installReport, "install-report", "", "file with the installer's report on the partition table; the agent sends the report with each boot measurement (default: none)")
	f.BoolVar(&o.noLog, "no-log", false, "do not send the log to the hub")
	f.StringArrayVar(&o.logFiles, "log-file", nil, "also send the lines appended to this file; repeatable")
	f.StringVar(&o.logSocket, "log-socket", "", "create a Unix datagram socket at this path and send the lines that programs write to this socket, for example with 'logger -u PATH'")
	f.BoolVar(&o.logStdin, "log-stdin", false, "also send the lines of standard input")
	f.StringVar(&o.trail.BootID, "boot-id", "", "file with an id that changes at each boot")
	if err := f.MarkHidden("boot-id"); err != nil {
		panic(err) // the flag was just added
	}
}

func identityFlags(c *cobra.Command, o *options) {
	c.Flags().StringVar(&o.model, "model", "", "the machine's model (default: the model in the firmware's tables)")
	c.Flags().StringVar(&o.serial, "serial", "", "the machine's serial number (default: the number in the firmware's tables)")
	c.Flags().StringVar(&o.ek, "ek", "", "template of the endorsement key, for example L-1 or H-3 (default: the best template with a certificate in the TPM)")
	c.Flags().BoolVar(&o.withoutEKCertificate, "without-ek-certificate", false, "send no EK certificate if the certificates in the TPM are for other keys, as after a change of the endorsement seed; the owner must then approve the device")
	c.Flags().StringVar(&o.key, "key", "", "algorithm of the device's keys: P-256, P-384, P-521 or RSA-2048 (default: P-256, or RSA-2048 if the TPM does not support P-256)")
}

// agent makes an agent from the options. The agent prints its progress to stderr. If `needToken` is
// true and the options name neither a token file nor a hub file, the result is an error.
func (o *options) agent(stderr io.Writer, needToken bool) (*agent.Agent, error) {
	cfg := agent.Config{
		TPM: o.tpm, StateDir: o.state, Again: o.again, WithoutEKCertificate: o.withoutEKCertificate, Model: o.model, Serial: o.serial, EK: o.ek, Key: o.key,
		ReportEvery: o.every, Version: version.Current.Version, Poll: o.poll, Trail: o.trail, UserMetaHook: o.userMetaHook, ReportFiles: o.reportFiles, InstallReport: o.installReport,
		SendLog: !o.noLog, LogFiles: o.logFiles, LogSocket: o.logSocket,
		Progress: func(p agent.Progress) {
			took := ""
			if p.Took > 0 {
				took = fmt.Sprintf(" (%s)", p.Took.Round(time.Millisecond))
			}
			fmt.Fprintf(stderr, "%s%s\n", p.Detail, took)
		},
	}
	auth, err := readAuth(o.endorsementAuth)
	if err != nil {
		return nil, err
	}
	cfg.EndorsementAuth = auth
	cfg.Trail.Reserve = o.reserve << 20
	if o.revisionKey != "" {
		b, err := readFile(o.revisionKey, sig.MaxKeys)
		if err != nil {
			return nil, err
		}
		if cfg.Trail.Keys, err = sig.ParseKeys(b); err != nil {
			return nil, fmt.Errorf("%s: %w", o.revisionKey, err)
		}
	}
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
	}
	if o.token == "" && o.hub == "" && needToken {
		return nil, cmdline.Usagef("--token-file is missing: name a join token file, which 'gangway token create' makes; or name a hub file with --hub-file, for a machine that its owner claims")
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

// setClock sets the system clock.
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
		line("onboarded", fmt.Sprintf("%s; it took %d ms and %d request(s)", s.Onboarded.Format(time.RFC3339), s.OnboardingMS, s.RoundTrips))
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
		Args:    cmdline.Args(),
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

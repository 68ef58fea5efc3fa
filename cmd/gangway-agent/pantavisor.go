package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"gangway/device/agent"

	"gangway/internal/cmdline"

	"github.com/spf13/cobra"
)

// The time limits of the commands of 'gangway-agent pantavisor'. Pantavisor itself kills a register
// hook after 60 seconds, but waits for a login hook without a time limit.
const (
	registerWithin = 50 * time.Second
	loginWithin    = 40 * time.Second
	restartWithin  = time.Hour
	keepEvery      = 6 * time.Hour // how often the agent renews Pantavisor's secret, which expires after a day
)

// hookVerb returns the verb "register" or "login" if Pantavisor called the program as a hook:
// /btools/ext-NAME.register or /btools/ext-NAME.login, without arguments. `conf` is the path of the
// hooks' settings file, in the same folder.
func hookVerb(argv0 string) (verb, conf string) {
	base := filepath.Base(argv0)
	for _, v := range []string{"register", "login"} {
		if name, ok := strings.CutSuffix(base, "."+v); ok && strings.HasPrefix(name, "ext-") {
			return v, filepath.Join(filepath.Dir(argv0), name+".conf")
		}
	}
	return "", ""
}

// handler holds the settings of Pantavisor's hooks.
type handler struct {
	agent.Pantavisor
	conf    string // path of the settings file
	control string // Pantavisor's control socket
	restart string // program that restarts the machine; empty: use the control socket
	o       *options
}

// Paths of Pantavisor's files, in the file system in which Pantavisor runs its hooks.
const (
	rundir         = "/run/pantavisor/pv"
	defaultConf    = "/btools/ext-gangway.conf"
	defaultControl = rundir + "/pv-ctrl"
	defaultConfig  = rundir + "/phconfig/pantahub.config"
)

func pantavisorCommand(stdout, stderr io.Writer, o *options) *cobra.Command {
	h := &handler{o: o}
	root := &cobra.Command{
		Use:   "pantavisor",
		Short: "Act as Pantavisor's credential handler",
		Long: `Pantavisor calls its credential handler as /btools/ext-gangway.register and
/btools/ext-gangway.login, without arguments. Make both names links to gangway-agent, and
set creds.type=ext-gangway in Pantavisor's configuration.

The settings are in /btools/ext-gangway.conf, a KEY=VALUE on each line. The keys are tpm,
state, token-file, endorsement-auth-file, proxy, proxy-ca, network-file, config,
unclaimed, control and restart. docs/agent.md describes them.`,
		Example: `  ln -s /usr/local/bin/gangway-agent /btools/ext-gangway.register
  ln -s /usr/local/bin/gangway-agent /btools/ext-gangway.login`,
	}
	root.PersistentFlags().StringVar(&h.conf, "conf", defaultConf, "settings file")
	add := func(use, short, long string, run func(ctx context.Context) error) {
		root.AddCommand(&cobra.Command{Use: use, Short: short, Long: long, Example: "  gangway-agent pantavisor " + use + " --conf " + defaultConf, Args: cmdline.Args(), RunE: func(c *cobra.Command, _ []string) error {
			if err := h.read(c.Flags().Changed); err != nil {
				return err
			}
			return run(c.Context())
		}})
	}
	add("register", "Onboard, write Pantavisor's credentials, and restart Pantavisor",
		"Register is Pantavisor's register hook. It onboards the machine if needed, writes the\ndevice's credentials into pantahub.config, and makes Pantavisor restart, so that it reads\nthem.", func(ctx context.Context) error { return h.register(ctx, stderr) })
	add("login", "Print an access token for Pantavisor",
		"Login is Pantavisor's login hook. It gets an access token over a connection that uses the\nTPM's key, and prints only the JSON that Pantavisor expects. It also extends the validity\nof the secret in pantahub.config.", func(ctx context.Context) error { return h.login(ctx, stdout) })
	add("keep", "Keep Pantavisor's secret valid, until the command is stopped",
		"Keep extends the validity of the secret in pantahub.config every six hours. Otherwise,\nthe secret expires after a day. The login hook starts this command in the background. Only\none such command runs at a time.", func(ctx context.Context) error { return h.keep(ctx, stderr) })
	add("restart", "Have Pantavisor reboot the machine",
		"Restart asks Pantavisor over its control socket to reboot the machine, so that\nPantavisor reads new credentials. The setting 'restart' names a program to call instead.", h.restartNow)
	return root
}

// read reads the settings file. A flag on the command line overrides the value in the file;
// `changed` reports whether a flag is on the command line.
func (h *handler) read(changed func(flag string) bool) error {
	h.Config, h.control = defaultConfig, defaultControl
	f, err := os.Open(h.conf)
	if err != nil {
		return fmt.Errorf("reading the handler's settings: %w", err)
	}
	defer f.Close()
	fields := map[string]*string{"tpm": &h.o.tpm, "state": &h.o.state, "token-file": &h.o.token, "endorsement-auth-file": &h.o.endorsementAuth, "proxy": &h.o.network.proxy, "proxy-ca": &h.o.network.proxyCA, "network-file": &h.o.network.file, "config": &h.Config,
		"unclaimed": &h.Unclaimed, "control": &h.control, "restart": &h.restart}
	for in := bufio.NewScanner(io.LimitReader(f, 64<<10)); in.Scan(); {
		line := strings.TrimSpace(in.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, found := strings.Cut(line, "=")
		into, known := fields[strings.TrimSpace(key)]
		if !found || !known {
			return fmt.Errorf("%s: unknown setting %q; 'gangway-agent pantavisor --help' lists the keys", h.conf, line)
		}
		if !changed(strings.TrimSpace(key)) {
			*into = strings.TrimSpace(value)
		}
	}
	if h.Unclaimed == "" {
		h.Unclaimed = filepath.Join(filepath.Dir(h.Config), "unclaimed.config")
	}
	return nil
}

// open makes the agent. It waits for the lock of the state folder, because several hooks and the
// command 'gangway-agent pantavisor keep' may run at the same time.
func (h *handler) open(ctx context.Context, stderr io.Writer) (*agent.Agent, error) {
	for {
		a, err := h.o.agent(stderr, false)
		if !errors.Is(err, agent.ErrInUse) {
			return a, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (h *handler) register(ctx context.Context, stderr io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, registerWithin)
	defer cancel()
	a, err := h.open(ctx, stderr)
	if err != nil {
		return err
	}
	defer a.Close()
	if _, err := a.Onboard(ctx); err != nil {
		return err
	}
	restart, err := a.RegisterPantavisor(ctx, h.Pantavisor)
	if err != nil || !restart {
		return err
	}
	return h.detach("restart")
}

func (h *handler) login(ctx context.Context, stdout io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, loginWithin)
	defer cancel()
	a, err := h.open(ctx, io.Discard)
	if err != nil {
		return err
	}
	defer a.Close()
	answer, restart, err := a.LoginPantavisor(ctx, h.Pantavisor)
	if err != nil {
		return err
	}
	if _, err := stdout.Write(answer); err != nil {
		return err
	}
	if restart {
		return h.detach("restart")
	}
	return h.detach("keep")
}

// keep extends the validity of the secret in pantahub.config at intervals, until ctx ends. If
// another process is already doing this, keep returns at once.
func (h *handler) keep(ctx context.Context, stderr io.Writer) error {
	lock, err := os.OpenFile(filepath.Join(h.o.state, "keeper.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return nil // another process already extends the secret's validity
	}
	for {
		pause := keepEvery
		restart, err := h.keepOnce(ctx, stderr)
		var refused *agent.Refused
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &refused) && !refused.Temporary():
			return err
		case err != nil:
			fmt.Fprintf(stderr, "gangway-agent: %v\n", err)
			pause = time.Minute
		case restart:
			if err := h.detach("restart"); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

func (h *handler) keepOnce(ctx context.Context, stderr io.Writer) (restart bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	a, err := h.open(ctx, stderr)
	if err != nil {
		return false, err
	}
	defer a.Close()
	return a.KeepPantavisor(ctx, h.Pantavisor)
}

// restartNow restarts the machine.
func (h *handler) restartNow(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, restartWithin)
	defer cancel()
	// Pantavisor calls its hook repeatedly until it restarts, so several processes may get here.
	// Only the first one asks Pantavisor to restart.
	lock, err := os.OpenFile(filepath.Join(h.o.state, "restart.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return nil
	}
	if h.restart != "" {
		return exec.CommandContext(ctx, h.restart).Run()
	}
	return agent.RestartPantavisor(ctx, h.control)
}

// detach starts another command of this program in a new process session, and does not wait for
// that command. The command can work only after the hook has ended: while Pantavisor waits for a
// hook, Pantavisor does not answer on its control socket. For a login hook, Pantavisor also reads
// the output until the hook ends.
func (h *handler) detach(verb string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "pantavisor", verb, "--conf", h.conf, "--tpm", h.o.tpm, "--state", h.o.state)
	cmd.Args[0] = "gangway-agent" // the executable may be a copy with the hook's name
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	return cmd.Process.Release()
}

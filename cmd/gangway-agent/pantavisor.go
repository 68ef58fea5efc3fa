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

	"github.com/spf13/cobra"
)

// Limits of Pantavisor's patience: it ends a register hook after 60 seconds,
// and waits for a login hook without end.
const (
	registerWithin = 50 * time.Second
	loginWithin    = 40 * time.Second
	restartWithin  = time.Hour
	keepEvery      = 6 * time.Hour // a secret is good for a day
)

// hookVerb says what the program is called as: "/btools/ext-NAME.register" and
// ".login" are Pantavisor's hooks, without arguments. conf is the file of
// their settings, beside them.
func hookVerb(argv0 string) (verb, conf string) {
	base := filepath.Base(argv0)
	for _, v := range []string{"register", "login"} {
		if name, ok := strings.CutSuffix(base, "."+v); ok && strings.HasPrefix(name, "ext-") {
			return v, filepath.Join(filepath.Dir(argv0), name+".conf")
		}
	}
	return "", ""
}

// handler is the settings of Pantavisor's hooks.
type handler struct {
	agent.Pantavisor
	conf    string // file of the settings
	control string // Pantavisor's control socket
	restart string // a program in its place
	o       *options
}

// Where Pantavisor's things are, as it sees them itself.
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
		Short: "Be Pantavisor's credential handler",
		Long: `Pantavisor calls its credential handler by the names /btools/ext-gangway.register
and /btools/ext-gangway.login, without arguments; make both links to
gangway-agent, and set creds.type=ext-gangway. Settings are in
/btools/ext-gangway.conf, lines of KEY=VALUE with the keys tpm, state,
token-file, endorsement-auth-file, proxy, proxy-ca, network-file, config, unclaimed, control, restart. docs/agent.md has the whole.`,
	}
	root.PersistentFlags().StringVar(&h.conf, "conf", defaultConf, "file of settings")
	add := func(use, short string, run func(ctx context.Context) error) {
		root.AddCommand(&cobra.Command{Use: use, Short: short, Args: noArgs, RunE: func(c *cobra.Command, _ []string) error {
			if err := h.read(c.Flags().Changed); err != nil {
				return err
			}
			return run(c.Context())
		}})
	}
	add("register", "Onboard, write the credentials, and have Pantavisor start anew", func(ctx context.Context) error { return h.register(ctx, stderr) })
	add("login", "Print the answer of a sign-in, and nothing else", func(ctx context.Context) error { return h.login(ctx, stdout) })
	add("keep", "Keep Pantavisor's secret good for as long as this runs", func(ctx context.Context) error { return h.keep(ctx, stderr) })
	add("restart", "Have Pantavisor start the machine anew", h.restartNow)
	return root
}

// read reads the settings. What a flag says counts more.
func (h *handler) read(changed func(flag string) bool) error {
	h.Config, h.control = defaultConfig, defaultControl
	f, err := os.Open(h.conf)
	if err != nil {
		return fmt.Errorf("the handler's settings: %w", err)
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
			return fmt.Errorf("%s: %q is no setting of the handler", h.conf, line)
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

// open waits for the state's lock: hooks and the keeper take turns.
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

// keep keeps the secret good. One at a time does.
func (h *handler) keep(ctx context.Context, stderr io.Writer) error {
	lock, err := os.OpenFile(filepath.Join(h.o.state, "keeper.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		return nil // another one does
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

// restartNow starts the machine anew.
func (h *handler) restartNow(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, restartWithin)
	defer cancel()
	// One at a time: Pantavisor calls its hook again until it is gone.
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

// detach runs another command of this program beside Pantavisor, which hears
// nothing while it waits for its hook, and reads a login hook's output to its
// end.
func (h *handler) detach(verb string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "pantavisor", verb, "--conf", h.conf, "--tpm", h.o.tpm, "--state", h.o.state)
	cmd.Args[0] = "gangway-agent" // and not the hook's name, if this is a copy of that name
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	return cmd.Process.Release()
}

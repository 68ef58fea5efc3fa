package main

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"gangway/device/agent"
	devicerevision "gangway/device/agent/revision"
	"gangway/hub/api"
	"gangway/hub/evidence"
	"gangway/hub/objects"
	"gangway/hub/onboard"
	"gangway/hub/pki"
	"gangway/hub/store"
	"gangway/hub/trust"
	"gangway/internal/swtpm"
	"gangway/internal/version"
	"gangway/wire"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// demoResult is the JSON output of 'gangway demo'.
type demoResult struct {
	Hub     string       `json:"hub"`
	Devices []demoDevice `json:"devices"`
}

type demoDevice struct {
	ID           string      `json:"id"`
	Nick         string      `json:"nick"`
	Owner        string      `json:"owner"`
	Status       string      `json:"status"`
	TPM          api.TPMView `json:"tpm"`
	Key          string      `json:"key"`
	OnboardingMS int64       `json:"onboarding_ms"`
	RoundTrips   int         `json:"round_trips"`
}

func (a *app) demoCommand() *cobra.Command {
	var devices, port int
	var once bool
	c := &cobra.Command{
		Use:   "demo",
		Short: "Try Gangway on this machine: a hub, and devices with software TPMs",
		Long: `Demo starts a hub on a loopback address, and creates an owner, a join token and some
software TPMs. The TPMs have EK certificates from the demo's own maker, for keys of RSA
2048 and ECC P-384 in turn. Then an agent onboards with each TPM. All files are in a
temporary folder, which demo removes at its end.

While the demo runs, the context "demo" is signed in as the owner: see 'gangway context'.
The devices install the revisions that you post to them. Their hook changes nothing on
this machine: it prints what it is asked to do, and its test fails if the revision has a
file with the name "broken.json".

Demo needs swtpm: apt-get install swtpm swtpm-tools gnutls-bin`,
		Example: `  gangway demo
  gangway demo --devices 5 --once --output json`,
		Args: args(),
		RunE: func(c *cobra.Command, _ []string) error {
			if devices < 1 || devices > 64 {
				return usagef("--devices must be from 1 to 64, not %d", devices)
			}
			d := &demo{app: a, n: devices, colour: a.forPeople() && a.colour()}
			defer d.close()
			return d.run(c.Context(), port, once)
		},
	}
	f := c.Flags()
	f.IntVar(&devices, "devices", 3, "number of devices, 1 to 64")
	f.BoolVar(&once, "once", false, "end when all devices have onboarded (default: end at Ctrl-C)")
	f.IntVar(&port, "port", 0, "the hub's port on loopback (0: any free port)")
	return c
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// demo is a running demonstration.
type demo struct {
	*app
	n      int
	colour bool
	dir    string
	tpms   []*swtpm.TPM
	hub    *instance
	owner  store.Account
	pass   string
	// contextName is the name of the owner's context, or "" if the demo has no context.
	contextName string

	mu    sync.Mutex // guards the output
	start time.Time
}

func (d *demo) close() {
	for _, t := range d.tpms {
		t.Stop()
	}
	if d.hub != nil {
		d.hub.close()
	}
	if d.dir != "" {
		os.RemoveAll(d.dir)
	}
}

// say prints a step of the demo on standard output. With --output json, it prints the step on
// standard error, because standard output then has only the JSON for programs.
func (d *demo) say(who, what, detail string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := d.stdout
	if !d.forPeople() {
		out = d.stderr
	}
	at := fmt.Sprintf("%6.2f s", time.Since(d.start).Seconds())
	if d.colour {
		fmt.Fprintf(out, "\x1b[2m%s\x1b[0m  \x1b[1m%-7s\x1b[0m \x1b[32m%-22s\x1b[0m %s\n", at, who, what, detail)
		return
	}
	fmt.Fprintf(out, "%s  %-7s %-22s %s\n", at, who, what, detail)
}

func (d *demo) run(ctx context.Context, port int, once bool) error {
	d.start = time.Now()
	if missing := swtpm.Missing(); missing != "" {
		return errors.New(missing)
	}
	var err error
	if d.dir, err = os.MkdirTemp("", "gw"); err != nil { // the name is short because the paths of Unix sockets must be short
		return err
	}
	d.say("", "making software TPMs", fmt.Sprintf("%d, with EK certificates of RSA 2048 and ECC P-384 in turn", d.n))
	if err := d.makeTPMs(ctx); err != nil {
		return err
	}
	url, stop, err := d.startHub(ctx, port)
	if err != nil {
		return err
	}
	defer stop()
	tok, err := d.token(ctx, url)
	if err != nil {
		return err
	}
	agents := make([]*agent.Agent, d.n)
	states := make([]*agent.State, d.n)
	if err := d.onboardAll(ctx, tok, agents, states); err != nil {
		return err
	}
	result, err := d.result(ctx, url, states)
	if err != nil {
		return err
	}
	if !once {
		defer d.openContext(ctx, url)()
	}
	if err := d.report(ctx, result, once); err != nil || once {
		return err
	}
	var wg sync.WaitGroup
	for i, ag := range agents {
		wg.Go(func() {
			defer ag.Close()
			if err := ag.Run(ctx); err != nil {
				d.say(name(i), "stopped", err.Error())
			}
		})
	}
	wg.Wait()
	return nil
}

func name(i int) string { return fmt.Sprintf("demo-%d", i+1) }

func (d *demo) makeTPMs(ctx context.Context) error {
	d.tpms = make([]*swtpm.TPM, d.n)
	maker := filepath.Join(d.dir, "maker")
	return each(d.n, func(i int) error {
		kind, words := swtpm.RSA2048, "EK RSA 2048"
		if i%2 == 1 {
			kind, words = swtpm.P384, "EK ECC P-384"
		}
		t, err := swtpm.New(ctx, filepath.Join(d.dir, fmt.Sprint(i)), swtpm.Options{EK: kind, Maker: maker})
		if err != nil {
			return err
		}
		d.tpms[i] = t
		d.say(name(i), "TPM made", words)
		return nil
	})
}

// The function `each` calls f(0) to f(n-1), at most four calls at the same time, and joins their
// errors.
func each(n int, f func(int) error) error {
	errs := make([]error, n)
	slots := make(chan struct{}, 4)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			errs[i] = f(i)
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// startHub starts the hub, and returns its URL and a function that stops it.
func (d *demo) startHub(ctx context.Context, port int) (string, func(), error) {
	var err error
	if d.hub, err = openInstance(ctx, filepath.Join(d.dir, "hub"), openOptions{Options: pki.Options{Name: "Demo"}}); err != nil {
		return "", nil, err
	}
	// The demo has only emulated TPMs. A hub accepts emulated TPMs only if its policy names them.
	if err := d.hub.store.PutPolicy(ctx, store.Policy{Owner: store.HubWide, Text: "version: 1\nsoftware_tpms: [swtpm]\n", Updated: time.Now()}); err != nil {
		return "", nil, err
	}
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return "", nil, err
	}
	urls, names, err := addresses("", nil, l.Addr())
	if err != nil {
		return "", nil, err
	}
	log := slog.New(slog.NewTextHandler(d.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if err := d.hub.openObjects(ctx, objects.S3Config{}); err != nil {
		return "", nil, err
	}
	// Trust only the maker of the emulated TPMs. The built-in roots do not include this maker.
	makers := trust.NewSet(trust.FromX509("demo", d.tpms[0].Roots(), []*x509.Certificate{d.tpms[0].Issuer()})...)
	server, service, err := d.hub.server(urls, names, makers, log, serverOptions{})
	if err != nil {
		return "", nil, err
	}
	service.Observe = d.observe
	d.say("hub", "started", urls[0])
	serving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- server.Serve(serving, l) }()
	return urls[0], func() {
		cancel()
		if err := <-done; err != nil {
			d.note("hub: %v", err)
		}
	}, nil
}

// observe prints the checks that the hub made on a request, and the certificates that the hub
// issued.
func (d *demo) observe(e store.Enrolment, v *evidence.Verdict) {
	who := e.ProdSerial
	for _, s := range v.Checks {
		switch s.Check {
		case "ownership":
			d.say(who, "ownership proven", s.Detail)
		case "ek-chain":
			d.say(who, "EK checked", s.Detail)
		case "certify":
			d.say(who, "keys certified", s.Detail)
		}
	}
	d.say(who, "AIK certified", fmt.Sprintf("by the attestation CA, SHA-256 %x…", e.IAKHash[:8]))
	d.say(who, "IDevID issued", fmt.Sprintf("for device %s, sealed to its TPM", e.DeviceID))
}

func (d *demo) token(ctx context.Context, url string) (*wire.TokenFile, error) {
	d.pass = rand.Text()
	hash, err := api.HashPassword(d.pass)
	if err != nil {
		return nil, err
	}
	d.owner = store.Account{ID: wire.NewID(), Nick: "captain", PasswordHash: hash, Created: time.Now()}
	if err := d.hub.store.CreateAccount(ctx, d.owner); err != nil {
		return nil, err
	}
	t, file, err := onboard.NewToken(d.hub.ca, url, store.JoinToken{
		Owner: d.owner.ID, Nick: "demo", Created: time.Now(), Expires: time.Now().Add(24 * time.Hour), MaxUses: d.n,
	})
	if err != nil {
		return nil, err
	}
	if err := d.hub.store.CreateJoinToken(ctx, t); err != nil {
		return nil, err
	}
	d.say("hub", "join token made", fmt.Sprintf("%s, of owner captain, for %d devices", t.ID, d.n))
	return file, nil
}

// demoHook is the program that installs revisions on the demo's devices.
const demoHook = `#!/bin/sh
echo "$1 of revision $GANGWAY_REV"
if [ "$1" = test ] && [ -e "$2/files/broken.json" ]; then
	echo "the new software does not start"
	exit 1
fi
`

func (d *demo) onboardAll(ctx context.Context, tok *wire.TokenFile, agents []*agent.Agent, states []*agent.State) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	hook := filepath.Join(d.dir, "hook")
	if err := os.WriteFile(hook, []byte(demoHook), 0o700); err != nil {
		return err
	}
	return each(d.n, func(i int) error {
		var err error
		agents[i], err = agent.New(agent.Config{
			Token: tok, TPM: d.tpms[i].Address(), StateDir: filepath.Join(d.dir, "state", fmt.Sprint(i)),
			Model: "demo machine", Serial: name(i), ReportEvery: 10 * time.Second, Version: version.Current.Version,
			Trail: devicerevision.Config{Hook: hook}, Poll: 2 * time.Second, SendLog: true,
			Progress: func(s agent.Progress) {
				switch s.Name {
				case "keys":
					d.say(name(i), "keys made in the TPM", s.Detail)
				case "request":
					d.say(name(i), "request sent", s.Detail)
				case "open":
					d.say(name(i), "reply opened", s.Detail)
				case "activate":
					d.say(name(i), "first TLS connection", s.Detail)
				case "waiting":
					d.say(name(i), "waiting", s.Detail)
				case "anew":
					d.say(name(i), "starting again", s.Detail)
				case "trail":
					d.say(name(i), "revision", s.Detail)
				}
			},
		})
		if err != nil {
			return err
		}
		if states[i], err = agents[i].Onboard(ctx); err != nil {
			return fmt.Errorf("%s: %w", name(i), err)
		}
		return nil
	})
}

// result returns the devices from the hub's records, with the durations that the agents measured.
func (d *demo) result(ctx context.Context, url string, states []*agent.State) (*demoResult, error) {
	r := &demoResult{Hub: url}
	for _, s := range states {
		v, err := d.hub.store.Device(ctx, s.DeviceID)
		if err != nil {
			return nil, fmt.Errorf("the hub has no device %s: %w", s.DeviceID, err)
		}
		r.Devices = append(r.Devices, demoDevice{
			ID: v.ID, Nick: v.Nick, Owner: d.owner.Nick, Status: "active",
			TPM: api.TPMView{Manufacturer: v.TPMMaker, Model: v.TPMModel, Firmware: v.TPMFirmware},
			Key: v.KeyAlgorithm, OnboardingMS: s.OnboardingMS, RoundTrips: s.RoundTrips,
		})
	}
	n, err := d.hub.store.CountDevices(ctx, d.owner.ID)
	if err != nil {
		return nil, fmt.Errorf("count the active devices: %w", err)
	}
	if n != d.n {
		return nil, fmt.Errorf("the hub has %d active devices instead of %d", n, d.n)
	}
	return r, nil
}

// demoContext is the name of the context of the demo's owner. If another demo is running, a number
// is appended to it.
const demoContext = "demo"

// openContext creates a context for the demo's owner, so that the printed commands work without
// changes. The current context stays the same. openContext returns a function that removes the new
// context.
func (d *demo) openContext(ctx context.Context, url string) (remove func()) {
	s := &signIn{Hub: url, HubCA: string(d.hub.ca.RootPEM()), Nick: d.owner.Nick, Demo: os.Getpid()}
	err := d.signIn(ctx, s)
	if err != nil {
		d.note("The demo cannot write a context, so the commands need a sign-in: %v", err)
		return func() {}
	}
	d.contextName = s.context
	return func() {
		// The hub and its sessions end with the demo, so only the file must be removed.
		if path, err := contextPath(s.context); err == nil {
			os.Remove(path)
		}
	}
}

func (d *demo) signIn(ctx context.Context, s *signIn) error {
	names, err := contextNames()
	if err != nil {
		return err
	}
	s.context = demoContext
	for n := 2; slices.Contains(names, s.context) && !isLeftover(s.context); n++ {
		s.context = fmt.Sprintf("%s-%d", demoContext, n)
	}
	var answer struct {
		Token string `json:"token"`
	}
	if err := s.do(ctx, "POST", "/auth/login", map[string]string{"username": s.Nick, "password": d.pass}, &answer); err != nil {
		return err
	}
	s.Token = answer.Token
	return s.save()
}

// isLeftover reports whether a context belongs to a demo whose process has ended.
func isLeftover(name string) bool {
	s, err := readContext(name)
	return err == nil && s.Demo > 0 && syscall.Kill(s.Demo, 0) == syscall.ESRCH
}

// program returns the word that starts this program in a shell: the program's name if the program
// is in PATH, otherwise its path.
func program() string {
	self, err := os.Executable()
	if err != nil {
		return "gangway"
	}
	if found, err := exec.LookPath("gangway"); err == nil {
		if found, err = filepath.EvalSymlinks(found); err == nil && found == self {
			return "gangway"
		}
	}
	if strings.Trim(self, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+") != "" {
		return "'" + strings.ReplaceAll(self, "'", `'\''`) + "'"
	}
	return self
}

func (d *demo) report(_ context.Context, r *demoResult, once bool) error {
	if done, err := d.json(r); done {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	fmt.Fprintln(d.stdout)
	w := tabwriter.NewWriter(d.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NICK\tID\tOWNER\tSTATUS\tTPM\tKEY\tONBOARDED IN\tREQUESTS")
	for _, v := range r.Devices {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d ms\t%d\n", v.Nick, v.ID, v.Owner, v.Status, strings.TrimSpace(v.TPM.Manufacturer+" "+v.TPM.Model), v.Key, v.OnboardingMS, v.RoundTrips)
	}
	if err := w.Flush(); err != nil || once {
		return err
	}
	fmt.Fprintf(d.stdout, `
The page:   %s/
            The browser warns once, because no browser trusts the demo's own CA. Accept the page's
            certificate. A real hub can use a certificate that browsers trust.
Sign in as: captain
Password:   %s

`, r.Hub, d.pass)
	d.printCommands(r)
	fmt.Fprint(d.stdout, "\nCtrl-C ends the demo and removes everything.\n")
	return nil
}

// printCommands prints commands for the person to run in another terminal. They work unchanged.
func (d *demo) printCommands(r *demoResult) {
	gangway, nick := program(), r.Devices[0].Nick
	if d.contextName == "" {
		fmt.Fprintf(d.stdout, "The same with commands, in another terminal:\n  %s login %s --hub-name %s --nick captain\n", gangway, r.Hub, d.hub.ca.HubName())
		return
	}
	gangway += " --context " + d.contextName
	fmt.Fprintln(d.stdout, "The same with commands, in another terminal:")
	for _, command := range []string{"device ls", "device show " + nick, "device set " + nick + " site=oslo", "device ls meta.site=oslo", "open " + nick, "token create -o device_autojointoken.json"} {
		fmt.Fprintf(d.stdout, "  %s %s\n", gangway, command)
	}
}

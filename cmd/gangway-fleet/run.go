package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"gangway/internal/cmdline"
	"gangway/internal/fleet"
	"gangway/internal/fleet/load"
	"gangway/wire"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

// runFlags are those flags of 'gangway-fleet run' whose values need parsing.
type runFlags struct {
	token, maker, mix, rate, arrivals, json, objectSize string
	wait                                                bool
}

func runCommand(stdout, stderr io.Writer) *cobra.Command {
	var o runFlags
	cfg := load.Config{}
	c := &cobra.Command{
		Use:   "run --token FILE --maker DIR",
		Short: "Onboard emulated devices at a test hub, and measure the hub under their load",
		Long: `Run emulates devices that have the join token FILE, with TPMs of the maker in DIR. It
runs only against a test hub: it refuses a hub that is not on a loopback address, unless
--yes-this-is-a-test-hub confirms it.

First, run prepares the devices: it loads them from --state or onboards them, and opens
their persistent connections. Then it measures. Each request starts at its scheduled time,
even if earlier requests have no answer yet, and its latency is measured from the
scheduled start. A request that cannot start at its time is counted as missed.

A mix is a list of kinds of requests. Each kind has its own rate (report=100/s), or an
equal part of --rate:

` + kindHelp() + `
Each device connects from its own address in 127.0.0.0/8. For each device,
this program and the hub each need at least one open file.

Exit codes: 0 all as expected; 1 the run was not possible; 2 wrong usage; 3 some
operations failed or were missed; 4 interrupted (the report has what was measured).`,
		Example: `  gangway-fleet run --token t.json --maker ./maker --devices 1000 --mix onboard --rate 50/s
  gangway-fleet run --token t.json --maker ./maker --devices 1000 --mix report,logs=5/s,update=1/s --rate 50/s --for 2m --json report.json
  gangway-fleet run --token t.json --maker ./maker --devices 100000 --mix report --rate 1667/s --state fleet.state --hub-pid $(pidof gangway)
  gangway-fleet run --token t.json --state fleet.state --devices 500 --mix poll --rate 100/s --hub-metrics http://127.0.0.1:12444/metrics
  gangway-fleet run --token t.json --maker ./maker --devices 100 --mix onboard=1/s,slow=10/s,forged=500/s --for 1m`,
		Args: cmdline.Args(),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := o.into(&cfg); err != nil {
				return err
			}
			screen := newScreen(stderr)
			cfg.Progress = screen.show
			if o.wait {
				cfg.Ready = func(ctx context.Context) error {
					fmt.Fprintln(stderr, readyLine)
					return waitForLine(ctx, c.InOrStdin())
				}
			}
			report, err := load.Run(c.Context(), cfg)
			screen.clear()
			if report == nil {
				return explain(err)
			}
			if e := o.write(stdout, report); e != nil {
				return e
			}
			switch {
			case err != nil:
				return err
			case report.Interrupted:
				return errInterrupted
			case !report.AsExpected():
				return errUnexpected
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&o.token, "token", "", "join token file of the test hub, device_autojointoken.json (required)")
	f.StringVar(&o.maker, "maker", "", "folder that 'gangway-fleet maker' made (required, unless --state has all devices)")
	f.IntVar(&cfg.Devices, "devices", 100, "number of emulated devices")
	f.IntVar(&cfg.Onboarded, "onboarded", -1, "number of devices to onboard before the measurement (default: half of the devices; if --mix does not contain onboard: all devices; if --mix contains only onboard: 0)")
	f.StringVar(&o.mix, "mix", "report", "kinds of requests, as KIND or KIND=RATE, separated by commas")
	f.StringVar(&o.rate, "rate", "", "total rate of the kinds that have no rate in --mix, such as 50/s or 600/m (default: each device once a minute)")
	cmdline.SpanVar(f, &cfg.For, "for", time.Minute, "time during which requests start")
	f.StringVar(&o.arrivals, "arrivals", "poisson", "intervals at which requests start: poisson (random) or even")
	f.StringVar(&o.json, "json", "", "write the report as JSON to this file; \"-\" is standard output (default: a table on standard output)")
	f.StringVar(&cfg.State, "state", "", "file to load onboarded devices from and to save them in; it contains their private keys")
	f.BoolVar(&cfg.TestHub, "yes-this-is-a-test-hub", false, "run against a hub that is not on a loopback address")
	f.IntVar(&cfg.HubPID, "hub-pid", 0, "process id of the hub on this machine, to measure its CPU time and memory")
	f.StringVar(&cfg.HubMetrics, "hub-metrics", "", "URL of the hub's metrics (gangway serve --metrics-listen), to measure its CPU time and memory")
	f.IntVar(&cfg.Outstanding, "outstanding", 2000, "how many requests of each kind may wait for an answer at the same time")
	f.IntVar(&cfg.Workers, "workers", 64, "how many devices to prepare at the same time")
	f.BoolVar(&cfg.NewConnections, "new-connections", false, "open a new connection for each request, so that no device keeps its connection")
	f.IntVar(&cfg.Addresses, "addresses", 0, "number of source addresses in 127.0.0.0/8 (default: one for each device)")
	cmdline.SpanVar(f, &cfg.Timeout, "timeout", time.Minute, "time limit for each request")
	cmdline.SpanVar(f, &cfg.Settle, "settle", 0, "how long all devices are idle before the measurement")
	f.BoolVar(&o.wait, "wait", false, "before the measurement, print \"ready\" on standard error and wait for a line on standard input, to start several fleets together")
	f.IntVar(&cfg.LogLines, "log-lines", 20, "number of lines in each request of the kind logs (at most 1000)")
	f.StringVar(&o.objectSize, "object-size", "64KiB", "size of the object that each update downloads (at most 2MiB)")
	return c
}

// With the flag --wait, the program prints readyLine when it is ready to start.
const readyLine = "ready"

// waitForLine waits for a line, or for the end of the input.
func waitForLine(ctx context.Context, in io.Reader) error {
	read := make(chan error, 1)
	go func() {
		_, err := bufio.NewReader(in).ReadString('\n')
		read <- err
	}()
	select {
	case err := <-read:
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// kindHelp returns the part of the help text that lists the kinds of requests.
func kindHelp() string {
	var b strings.Builder
	for _, k := range load.Kinds() {
		line := fmt.Sprintf("  %-10s", k.Name)
		for _, word := range strings.Fields(k.About) {
			if len(line)+1+len(word) > 84 {
				b.WriteString(strings.TrimRight(line, " ") + "\n")
				line = strings.Repeat(" ", 12)
			}
			line += " " + word
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}

// The method `into` stores the flags' values in `cfg`.
func (o *runFlags) into(cfg *load.Config) error {
	if o.token == "" {
		return cmdline.Usagef("--token is missing: the join token file of a test hub ('gangway token create')")
	}
	switch o.arrivals {
	case "poisson", "even":
		cfg.Poisson = o.arrivals == "poisson"
	default:
		return cmdline.Usagef("--arrivals must be poisson or even, not %q", o.arrivals)
	}
	for flag, n := range map[string]int{"--devices": cfg.Devices, "--outstanding": cfg.Outstanding, "--workers": cfg.Workers, "--log-lines": cfg.LogLines} {
		if n < 1 {
			return cmdline.Usagef("%s must be at least 1", flag)
		}
	}
	if cfg.Devices > maxDevices || cfg.LogLines > 1000 {
		return cmdline.Usagef("--devices can be at most %d, and --log-lines at most 1000", maxDevices)
	}
	if cfg.For <= 0 || cfg.Timeout <= 0 || cfg.Settle < 0 {
		return cmdline.Usagef("--for and --timeout must be more than 0, and --settle must not be negative")
	}
	size, err := humanize.ParseBytes(o.objectSize)
	if err != nil || size < 1 || size > 2<<20 {
		return cmdline.Usagef("--object-size %q is not a size from 1B to 2MiB", o.objectSize)
	}
	cfg.ObjectSize = int(size)
	if cfg.Mix, err = parseMix(o.mix, o.rate, cfg.Devices); err != nil {
		return err
	}
	text, err := os.ReadFile(o.token)
	if err != nil {
		return err
	}
	if cfg.Token, err = wire.ParseTokenFile(text); err != nil {
		return err
	}
	if o.maker != "" {
		if cfg.Maker, err = fleet.LoadMaker(o.maker); err != nil {
			return fmt.Errorf("%w; 'gangway-fleet maker %s' makes a maker", err, o.maker)
		}
	}
	return nil
}

// maxDevices is the largest number of devices: each device has its own source address in
// 127.0.0.0/8.
const maxDevices = 16_000_000

// parseMix parses the values of --mix and --rate.
func parseMix(mix, rate string, devices int) ([]load.Share, error) {
	var names []string
	for _, k := range load.Kinds() {
		names = append(names, k.Name)
	}
	var list []load.Share
	shared := 0
	for part := range strings.SplitSeq(mix, ",") {
		name, own, has := strings.Cut(strings.TrimSpace(part), "=")
		if !slices.Contains(names, name) {
			return nil, cmdline.Usagef("--mix contains the unknown kind %q; the kinds are %s", name, strings.Join(names, ", "))
		}
		if slices.ContainsFunc(list, func(s load.Share) bool { return s.Kind == name }) {
			return nil, cmdline.Usagef("--mix has %q twice", name)
		}
		share := load.Share{Kind: name}
		if has {
			var err error
			if share.Rate, err = parseRate("--mix "+name, own); err != nil {
				return nil, err
			}
		} else {
			shared++
		}
		list = append(list, share)
	}
	all := max(1, float64(devices)/60)
	if rate != "" {
		if shared == 0 {
			return nil, cmdline.Usagef("--rate has no effect, because each kind in --mix has its own rate")
		}
		var err error
		if all, err = parseRate("--rate", rate); err != nil {
			return nil, err
		}
	}
	for i := range list {
		if list[i].Rate == 0 {
			list[i].Rate = all / float64(shared)
		}
	}
	return list, nil
}

// parseRate parses a rate such as 50/s, 600/m or 50, and returns the rate per second.
func parseRate(flag, text string) (float64, error) {
	number, unit, _ := strings.Cut(text, "/")
	per, ok := map[string]float64{"": 1, "s": 1, "m": 60, "h": 3600}[unit]
	n, err := strconv.ParseFloat(number, 64)
	if !ok || err != nil || !(n > 0) || n/per > 1e6 {
		return 0, cmdline.Usagef("%s: %q is not a rate such as 50/s, 600/m or 36000/h, of at most 1000000 a second", flag, text)
	}
	return n / per, nil
}

// explain adds a remedy to errors of a run.
func explain(err error) error {
	if errors.Is(err, load.ErrNotLoopback) {
		return fmt.Errorf("%w: run gangway-fleet only against a test hub, because it fills the hub with devices. If this is a test hub, add --yes-this-is-a-test-hub", err)
	}
	return err
}

// write writes the report.
func (o *runFlags) write(stdout io.Writer, report *load.Report) error {
	if o.json == "" {
		printReport(stdout, report)
		return nil
	}
	text, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if o.json == "-" {
		_, err = stdout.Write(text)
		return err
	}
	printReport(stdout, report)
	return replaceFile(o.json, text)
}

// replaceFile writes a file completely or not at all.
func replaceFile(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".gangway-fleet-")
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	_, err = f.Write(text)
	err = cmp.Or(err, f.Chmod(0o644))
	err = cmp.Or(err, f.Close())
	err = cmp.Or(err, os.Rename(f.Name(), path))
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

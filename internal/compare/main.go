// Command compare measures how much CPU time Gangway, SPIRE and step-ca need to give a device its
// first certificate. The programs run one after another as whole processes on the same machine, and
// the measurement repeats in rounds. compare prints the medians of the rounds.
//
//	make compare
//
// The programs check different evidence about a device. They also differ in whether they send an
// answer before its data is on the disk. The printed table lists these differences. SPIRE and
// step-ca are built from their public source code, at exact versions. Each has its own go.mod, in
// the folders spire and stepca, so that this program builds each with the dependencies of its
// release. It talks to them only through their public protocols.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"gangway/internal/fleet"
)

// peer is a running server that gives devices their identities, which are certificates.
type peer interface {
	// identity gives the device i of this round its certificate. If `call` is true, the device also
	// sends its first request with this certificate.
	identity(ctx context.Context, i int, call bool) error
	process() *process
}

// about describes a peer.
type about struct {
	Name       string `json:"name"`
	Version    string `json:"version"`
	Scope      string `json:"scope"`
	Durability string `json:"durability"`
	start      func(dir, bin string, m *material) (peer, error)
	// callIncluded is true if the certificates of this peer become valid only by their first use.
	// In this case, each measurement includes the first request with the certificate.
	callIncluded bool
}

var peers = []about{
	{Name: "gangway", Version: "this version", start: startGangway, callIncluded: true,
		Scope:      "enrolment (EK certificate, TPM2_Certify, credential activation, join token; the evidence is kept) and activation, which is the first call; 2 connections, 2 certificates; EK on P-256",
		Durability: "SQLite, each commit is flushed to disk before the reply"},
	{Name: "spire", Version: "1.13.3", start: startSPIRE,
		Scope:      "node attestation tpm_devid (EK certificate, TPM2_Certify, credential activation, DevID certificate; EK and AK are RSA keys, because tpm_devid supports only RSA); 1 connection, 1 certificate that lives for an hour; first call: SyncAuthorizedEntries on a new connection",
		Durability: "SQLite, commits are not flushed to disk (synchronous=NORMAL)"},
	{Name: "step-ca", Version: "0.30.2", start: startStepCA,
		Scope:      "ACME device-attest-01 in the format tpm (AK certificate, TPM2_Certify; no EK, no proof that the AK is in the EK's TPM); 7 requests on 1 connection, 1 certificate; first call: GET /health on a new connection",
		Durability: "Badger, each write is flushed to disk (SyncWrites)"},
}

// Result is the content of build/compare.json. Times are milliseconds of the server's CPU for each
// identity, medians of the rounds.
type Result struct {
	Machine struct {
		CPUs int    `json:"cpus"`
		Go   string `json:"go"`
		Load string `json:"load_average"`
	} `json:"machine"`
	Rounds int       `json:"rounds"`
	Each   int       `json:"identities_in_a_round"`
	Peers  []Figures `json:"peers"`
}

// Figures are the costs of one peer.
type Figures struct {
	about
	Identity  float64 `json:"identity_ms,omitempty"` // without the first call
	WithCall  float64 `json:"identity_and_first_call_ms"`
	Ratio     float64 `json:"ratio_identity,omitempty"` // ratio to Gangway's time for enrolment and activation
	CallRatio float64 `json:"ratio_identity_and_first_call,omitempty"`
	Resident  int64   `json:"resident_bytes"` // at the end
	rounds    [2][]float64
	All       []float64 `json:"identity_rounds_ms,omitempty"`
	AllCalls  []float64 `json:"identity_and_first_call_rounds_ms"`
}

func main() {
	out := flag.String("o", "", "write the result as JSON to this file")
	bin := flag.String("bin", "", "folder for the programs; compare builds the programs that are missing, and always builds gangway")
	rounds := flag.Int("rounds", 5, "number of rounds")
	n := flag.Int("n", 200, "number of identities that each program issues in a round")
	only := flag.String("peers", "gangway,spire,step-ca", "programs to measure")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *bin, *out, strings.Split(*only, ","), *rounds, *n); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bin, out string, only []string, rounds, n int) error {
	dir, err := os.MkdirTemp("", "gangway-compare-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if bin == "" {
		bin = filepath.Join(dir, "bin")
	}
	if bin, err = filepath.Abs(bin); err != nil {
		return err
	}
	if err := build(ctx, bin, only); err != nil {
		return err
	}
	m, err := newMaterial()
	if err != nil {
		return err
	}
	r := Result{Rounds: rounds, Each: n}
	r.Machine.CPUs, r.Machine.Go = runtime.NumCPU(), runtime.Version()
	var running []peer
	defer func() {
		for _, p := range running {
			p.process().stop()
		}
	}()
	for _, a := range peers {
		if !slices.Contains(only, a.Name) {
			continue
		}
		folder := filepath.Join(dir, a.Name)
		if err := os.Mkdir(folder, 0o700); err != nil {
			return err
		}
		p, err := a.start(folder, bin, m)
		if err != nil {
			return fmt.Errorf("%s: %w", a.Name, err)
		}
		running, r.Peers = append(running, p), append(r.Peers, Figures{about: a})
	}
	if len(running) == 0 {
		return errors.New("no program to measure")
	}
	// Do not measure the first identities, because they fill caches and prepare statements.
	next := make([]int, len(running))
	for i, p := range running {
		if _, err := measure(ctx, p, &next[i], 20, true); err != nil {
			return fmt.Errorf("%s: %w\n%s", r.Peers[i].Name, err, p.process().lastLines())
		}
	}
	for round := range rounds {
		for i, p := range running {
			f := &r.Peers[i]
			for k, call := range []bool{false, true} {
				if f.callIncluded && !call {
					continue
				}
				ms, err := measure(ctx, p, &next[i], n, call)
				if err != nil {
					return fmt.Errorf("%s: %w\n%s", f.Name, err, p.process().lastLines())
				}
				f.rounds[k] = append(f.rounds[k], ms)
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d\n", round+1, rounds)
	}
	for i, p := range running {
		f := &r.Peers[i]
		f.All, f.AllCalls = f.rounds[0], f.rounds[1]
		f.Identity, f.WithCall = median(f.All), median(f.AllCalls)
		if f.Resident, err = p.process().resident(); err != nil {
			return err
		}
		if base := r.Peers[0]; base.Name == "gangway" {
			f.Ratio, f.CallRatio = f.Identity/base.WithCall, f.WithCall/base.WithCall
		}
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		r.Machine.Load = strings.Join(strings.Fields(string(text))[:3], " ")
	}
	r.print()
	if out == "" {
		return nil
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(out, append(text, '\n'), 0o644)
}

// build builds the programs. SPIRE's SQLite needs cgo.
func build(ctx context.Context, bin string, only []string) error {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "gangway").Output()
	if err != nil {
		return fmt.Errorf("find the folder of Gangway: %w", err)
	}
	top := strings.TrimSpace(string(root))
	for _, p := range []struct{ peer, name, folder, pkg, cgo string }{
		{"gangway", "gangway", ".", "gangway/cmd/gangway", "0"},
		{"spire", "spire-server", "internal/compare/spire", "github.com/spiffe/spire/cmd/spire-server", "1"},
		{"step-ca", "step-ca", "internal/compare/stepca", "github.com/smallstep/certificates/cmd/step-ca", "0"},
	} {
		path := filepath.Join(bin, p.name)
		if _, err := os.Stat(path); !slices.Contains(only, p.peer) || err == nil && p.peer != "gangway" {
			continue
		}
		fmt.Fprintf(os.Stderr, "building %s ...\n", p.name)
		c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", path, p.pkg)
		c.Dir, c.Env, c.Stderr = filepath.Join(top, p.folder), append(os.Environ(), "CGO_ENABLED="+p.cgo), os.Stderr
		if err := c.Run(); err != nil {
			return fmt.Errorf("build %s: %w", p.name, err)
		}
	}
	return nil
}

// workers is the number of devices that are served at the same time.
const workers = 8

// measure gives n devices their identities, and returns the server's CPU time for each device, in
// milliseconds.
func measure(ctx context.Context, p peer, next *int, n int, call bool) (float64, error) {
	first := *next
	*next += n
	before, err := p.process().cpu()
	if err != nil {
		return 0, err
	}
	queue, failed := make(chan int), make(chan error, workers)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range queue {
				if err := p.identity(ctx, i, call); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	var stopped error
feed:
	for i := range n {
		select {
		case queue <- first + i:
		case stopped = <-failed:
			break feed
		}
	}
	close(queue)
	wg.Wait()
	close(failed)
	for e := range failed {
		stopped = errors.Join(stopped, e)
	}
	if stopped != nil {
		return 0, stopped
	}
	after, err := p.process().cpu()
	return float64((after - before).Microseconds()) / 1000 / float64(n), err
}

func median(list []float64) float64 {
	if len(list) == 0 {
		return 0
	}
	list = slices.Clone(list)
	slices.Sort(list)
	return list[len(list)/2]
}

// orDash formats a figure with its unit. A figure that was not measured is 0, and becomes a dash.
func orDash(figure float64, unit string) string {
	if figure == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f%s", figure, unit)
}

func (r *Result) print() {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "program\tversion\tidentity\tratio\twith first call\tratio\tresident memory\n")
	for _, f := range r.Peers {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d MiB\n", f.Name, f.Version,
			orDash(f.Identity, " ms"), orDash(f.Ratio, ""), orDash(f.WithCall, " ms"), orDash(f.CallRatio, ""), f.Resident>>20)
	}
	w.Flush()
	fmt.Printf("CPU time of the server process for each device; medians of %d rounds with %d devices each; %d CPUs, load average %s.\n", r.Rounds, r.Each, r.Machine.CPUs, r.Machine.Load)
	for _, f := range r.Peers {
		fmt.Printf("%s: %s. %s.\n", f.Name, f.Scope, f.Durability)
	}
}

// material is what the emulated devices share: a TPM maker, and TPMs with RSA keys. Making an RSA
// key takes a long time, so several devices of SPIRE and step-ca have the same TPM. This does not
// change the work of the two programs, because SPIRE distinguishes devices by their DevID keys, and
// step-ca by their ACME accounts.
type material struct {
	maker *fleet.Maker
	tpms  []*tpm
}

const tpms = 16

func newMaterial() (*material, error) {
	maker, err := fleet.NewMaker("compare", fleet.MakerOptions{})
	if err != nil {
		return nil, err
	}
	m := &material{maker: maker, tpms: make([]*tpm, tpms)}
	for i := range m.tpms {
		if m.tpms[i], err = newTPM(maker); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// deadline is the longest time that the start of a program may take.
const deadline = 30 * time.Second

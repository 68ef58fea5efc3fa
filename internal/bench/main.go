// Command bench measures how much CPU time the hub needs for an enrolment. It compares this time
// with the CPU time of the cryptography that every hub needs. It measures both times in the same
// run on the same machine.
//
//	go run ./internal/bench [-o FILE] [-n N]
//
// With -fleet, it instead measures the queries that the web pages and the API make about large
// fleets. With -boots, it measures only how fast the hub answers requests about the boots of a
// fleet. With -bytes, it measures only how much a database grows for each device.
//
// The devices are emulated (package fleet). This program makes the CA of their maker, and the hub
// trusts this CA. Times are CPU times of the process (user and system, getrusage), because other
// programs on the machine change the wall time. Rates use wall time, with durable commits.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"gangway/hub/onboard"
	"gangway/internal/fleet"
	"gangway/internal/memory"
	"gangway/wire"
)

// Result is the content of build/bench.json. Times are microseconds of CPU time per enrolment,
// unless the field's name states another unit.
type Result struct {
	Machine struct {
		CPUs int    `json:"cpus"`
		Go   string `json:"go"`
	} `json:"machine"`
	// Ratio is the hub's CPU time divided by the CPU time of the unavoidable cryptography. Half of
	// the requests have RSA 2048 endorsement keys (L-1) and half ECC P-384 keys (H-3), because
	// software TPMs and most machines have such keys.
	Ratio     float64    `json:"ratio"`
	Enrolment []Kind     `json:"enrolment"`
	Durable   []Durable  `json:"durable"`
	Server    *Server    `json:"server"`
	Agent     []AgentRun `json:"agent"`
	Boots     *Boots     `json:"boots"`
	Bytes     []Bytes    `json:"bytes,omitempty"`
}

// Kind is the cost of enrolments with one kind of endorsement key.
type Kind struct {
	EK string `json:"ek"`
	// Crypto contains the time of each operation of the unavoidable cryptography: verification of
	// the EK certificate, the public-key operation of MakeCredential, the verifications of the
	// certification and of the request, two signatures, and the verification of the ownership
	// proof.
	Crypto    map[string]float64 `json:"crypto"`
	CryptoSum float64            `json:"crypto_sum"`
	Enrol     float64            `json:"enrol"` // the whole enrolment: verify, issue, seal, store
	Ratio     float64            `json:"ratio"` // Enrol / CryptoSum
	// WithoutProof is Enrol divided by CryptoSum without the ownership proof, which an enrolment
	// without join tokens would not need.
	WithoutProof float64 `json:"ratio_without_ownership_proof"`
	Bytes        float64 `json:"enrol_bytes"`  // allocated bytes per enrolment
	Allocs       float64 `json:"enrol_allocs"` // allocations per enrolment
	Activate     float64 `json:"activate"`     // the whole activation: check the proof, activate; without TLS
	PerSecond    float64 `json:"enrolments_per_second"`
	Judged       *Judged `json:"judged"`
	ActPerSec    float64 `json:"activations_per_second"`
	Enrolments   int     `json:"enrolments"`
	Activations  int     `json:"activations"`
}

var (
	profile, allocs *string
	fleetDir        = new(string) // also in tests, which call no flag.Parse
	polled          *bool
)

// asked matches the names of the queries that -fleet measures.
var asked *regexp.Regexp

func main() {
	out := flag.String("o", "", "write the result as JSON to this file")
	profile = flag.String("cpuprofile", "", "write a CPU profile of the enrolments to this file; the EK's kind is appended to the file's name, or \"server\" for the whole hub process, or \"questions\" for the queries of -fleet")
	allocs = flag.String("memprofile", "", "write a profile of the enrolments' allocations to this file; the EK's kind is appended to the file's name")
	kinds := flag.String("ek", "", "measure only enrolments with these kinds of endorsement keys, e.g. L-1,H-2, and neither the server nor the agents")
	n := flag.Int("n", 2000, "number of enrolments for each kind of endorsement key; with -fleet: number of calls of each query")
	fleetDir = flag.String("fleet-dir", "", "keep the databases of -fleet in this folder, and use the databases that an earlier run left there")
	fleets := flag.String("fleet", "", "instead of enrolments, measure the queries about fleets with these numbers of devices, e.g. 1000,1000000")
	questions := flag.String("question", "", "with -fleet: measure only the queries whose names match this regular expression")
	database := flag.String("database", "", "with -fleet: make the fleets in the empty PostgreSQL database with this URL, as a superuser, instead of in SQLite; \"start\" means in a PostgreSQL server that bench starts")
	enrolments := flag.Int("enrol", 0, "with -fleet: also compare this number of onboardings into each fleet with onboardings into an empty database: over TLS, without TLS, and only the store's work")
	serve := flag.String("serve", "", "run a hub in this folder, or with -database and -fleet the hub of a fleet (only for bench itself, which measures this process)")
	shakes := flag.String("handshakes", "", "run a server that does only the TLS handshakes of the hub in this folder (only for bench itself)")
	only := flag.Bool("server", false, "measure only the whole hub process")
	polled = flag.Bool("polls", false, "with -server and -cpuprofile: profile Pantavisor's polls instead of enrolments")
	booted := flag.Bool("boots", false, "measure only how fast the hub answers requests about the boots of -boot-devices emulated devices")
	booting := flag.Int("boot-devices", 1000, "number of emulated devices whose boots are measured")
	durably := flag.Bool("durable", false, "measure only the rates of durable enrolments")
	sized := flag.Bool("bytes", false, "measure only how many bytes -n devices add to the database, by table and index")
	flag.Parse()
	memory.Use()
	var err error
	if asked, err = regexp.Compile(*questions); err != nil {
		fmt.Fprintln(os.Stderr, "bench: -question:", err)
		os.Exit(2)
	}
	switch {
	case *serve != "":
		err = serveChild(*serve, *database, *fleets)
	case *shakes != "":
		err = handshakeChild(*shakes)
	case *fleets != "":
		err = benchFleets(*out, *fleets, *database, *n, *enrolments)
	default:
		switch {
		case *only:
			*kinds = serverOnly
		case *durably:
			*kinds = durableOnly
		case *booted:
			*kinds = bootsOnly
		case *sized:
			*kinds = bytesOnly
		}
		err = run(*out, *n, *booting, *kinds)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// Values of the argument `only` of the function `run`. Each value limits the run to one
// measurement. `only` can also be a kind of endorsement key.
const (
	serverOnly  = "server"  // only the measurements of the hub's whole process
	durableOnly = "durable" // the rates of durable enrolments
	bootsOnly   = "boots"   // only the answers about the boots of devices
	bytesOnly   = "bytes"   // only the bytes of a device in the database
)

func run(out string, n, booting int, only string) error {
	var r Result
	r.Machine.CPUs, r.Machine.Go = runtime.NumCPU(), runtime.Version()
	maker, err := fleet.NewMaker("bench", fleet.MakerOptions{})
	if err != nil {
		return err
	}
	kinds := []string{"L-1", "H-2", "H-3"}
	switch only {
	case serverOnly:
		if r.Server, err = measureServer(maker, n); err != nil {
			return err
		}
		return r.print()
	case durableOnly:
		if r.Durable, err = measureDurable(maker, n); err != nil {
			return err
		}
		return r.print()
	case bootsOnly:
		if r.Boots, err = measureBoots(maker, booting); err != nil {
			return err
		}
		return r.print()
	case bytesOnly:
		if r.Bytes, err = measureBytes(maker, n); err != nil {
			return err
		}
		return r.print()
	}
	if only != "" {
		kinds = strings.Split(only, ",")
	}
	for _, ek := range kinds {
		k, err := measure(maker, ek, n)
		if err != nil {
			return err
		}
		r.Enrolment = append(r.Enrolment, *k)
	}
	var enrol, crypto float64
	for _, k := range r.Enrolment {
		if k.EK == "L-1" || k.EK == "H-3" {
			enrol, crypto = enrol+k.Enrol, crypto+k.CryptoSum
		}
	}
	if crypto > 0 {
		r.Ratio = enrol / crypto
	}
	if only != "" {
		return r.print()
	}
	if r.Durable, err = measureDurable(maker, durableRounds*n); err != nil {
		return err
	}
	if r.Server, err = measureServer(maker, n); err != nil {
		return err
	}
	if r.Agent, err = measureAgents(); err != nil {
		return err
	}
	if r.Boots, err = measureBoots(maker, booting); err != nil {
		return err
	}
	slow := r.print()
	if out == "" {
		return slow
	}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return errors.Join(slow, os.WriteFile(out, append(b, '\n'), 0o644))
}

// cpu returns the CPU time that this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// The function `spent` runs the function `f` and returns the CPU time and the wall time that it
// took.
func spent(f func() error) (used, wall time.Duration, err error) {
	runtime.GC()
	c, w := cpu(), time.Now()
	err = f()
	return cpu() - c, time.Since(w), err
}

// activations is the maximum number of enrolled devices that the benchmark also activates.
const activations = 500

// workers is the number of concurrent enrolments. It is large because the hub commits concurrent
// requests together.
const workers = 64

// parallel runs `f(0)` to `f(n-1)` on the workers and returns the first error.
func parallel(n int, f func(i int) error) error { return parallelOn(workers, n, f) }

func parallelOn(workers, n int, f func(i int) error) error {
	next := make(chan int)
	errs := make(chan error, workers)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range next {
				if err := f(i); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	var err error
feed:
	for i := range n {
		select {
		case next <- i:
		case err = <-errs:
			break feed
		}
	}
	close(next)
	wg.Wait()
	select {
	case e := <-errs:
		err = errors.Join(err, e)
	default:
	}
	return err
}

// load contains the devices and their requests. Both are made before the measurement.
type load struct {
	devices  []*fleet.Device
	requests [][]byte
	distinct int // the first devices, up to this number, are different machines
}

// makeLoad makes `n` devices with endorsement keys of the kind `ek`. Making RSA keys takes a long
// time, so several devices share one RSA endorsement key: they are one machine with different IAK
// and IDevID keys. Their requests cost the hub the same as requests of different machines.
func makeLoad(maker *fleet.Maker, ek string, n int, tok *wire.TokenFile) (*load, error) {
	l := &load{devices: make([]*fleet.Device, n), requests: make([][]byte, n)}
	distinct := n
	if ek == "L-1" {
		distinct = min(n, 40)
	}
	l.distinct = distinct
	err := parallel(distinct, func(i int) (err error) {
		l.devices[i], err = fleet.New(maker, ek)
		return err
	})
	if err != nil {
		return nil, err
	}
	err = parallel(n, func(i int) error {
		if l.devices[i] == nil {
			d, err := l.devices[i%distinct].WithNewIdentity()
			if err != nil {
				return err
			}
			l.devices[i] = d
		}
		r, err := l.devices[i].Request(tok, fleet.RequestChange{})
		l.requests[i] = r
		return err
	})
	return l, err
}

func measure(maker *fleet.Maker, ek string, n int) (*Kind, error) {
	h, err := openHub(maker, "")
	if err != nil {
		return nil, err
	}
	defer h.close()
	fmt.Fprintf(os.Stderr, "making %d emulated devices with EK %s ...\n", n, ek)
	l, err := makeLoad(maker, ek, n, h.token)
	if err != nil {
		return nil, err
	}
	k := &Kind{EK: ek, Enrolments: n - 1}
	// Keep only the devices that will be activated; their requests are sent again later. All
	// devices together have thousands of keys, which a hub does not have, so the measurement must
	// not include the garbage collector's work for these keys.
	l.devices = slices.Clone(l.devices[:min(len(l.devices), activations, l.distinct)])
	// Let the hub verify the maker's CAs now, so that the measurement does not include this work.
	ctx := context.Background()
	if _, err := h.service.Enrol(ctx, l.requests[0], "127.0.0.1"); err != nil {
		return nil, err
	}
	// Measure the cryptography before and after the enrolments, and take the mean, because the
	// speed of a busy machine changes.
	ops, err := operations(maker, h.token)
	if err != nil {
		return nil, err
	}
	before, err := sum(ops, l.requests)
	if err != nil {
		return nil, err
	}
	endProfile, err := startProfile(ek)
	if err != nil {
		return nil, err
	}
	defer endProfile()
	var m0, m1 runtime.MemStats
	runtime.ReadMemStats(&m0)
	used, wall, err := spent(func() error {
		return parallel(n-1, func(i int) (err error) {
			_, err = h.service.Enrol(ctx, l.requests[i+1], "127.0.0.1")
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	runtime.ReadMemStats(&m1)
	endProfile()
	if *allocs != "" {
		if err := writeAllocs(*allocs + "." + ek); err != nil {
			return nil, err
		}
	}
	after, err := sum(ops, l.requests)
	if err != nil {
		return nil, err
	}
	if err := k.breakdown(ops, l.requests); err != nil {
		return nil, err
	}
	if k.Judged, err = judge(maker, h, l.requests[:min(n, 500)]); err != nil {
		return nil, err
	}
	k.CryptoSum = (before + after) / 2
	k.Enrol = micros(used, n-1)
	k.Bytes, k.Allocs = float64(m1.TotalAlloc-m0.TotalAlloc)/float64(n-1), float64(m1.Mallocs-m0.Mallocs)/float64(n-1)
	k.PerSecond = float64(n-1) / wall.Seconds()
	k.Ratio = k.Enrol / k.CryptoSum
	k.WithoutProof = k.Enrol / (k.CryptoSum - k.Crypto[ownershipProof])

	acts := make([]activation, len(l.devices))
	if err := parallel(len(acts), func(i int) error {
		reply, err := h.service.Enrol(ctx, l.requests[i], "127.0.0.1")
		if err != nil {
			return err
		}
		acts[i], err = opened(l.devices[i], l.requests[i], reply)
		return err
	}); err != nil {
		return nil, err
	}
	used, wall, err = spent(func() error {
		return parallel(len(acts), func(i int) error { return acts[i].send(ctx, h.service) })
	})
	if err != nil {
		return nil, err
	}
	k.Activate, k.ActPerSec, k.Activations = micros(used, len(acts)), float64(len(acts))/wall.Seconds(), len(acts)
	return k, nil
}

// activation is what a device sends to activate its enrolment.
type activation struct {
	hash            [32]byte // of the IDevID certificate
	exporter, proof []byte
}

// opened opens the hub's reply to the request of the device `d`, and returns the activation.
func opened(d *fleet.Device, request, reply []byte) (a activation, err error) {
	c, err := d.Open(request, reply)
	if err != nil {
		return a, err
	}
	a.hash, a.exporter = c.IDevIDHash(), make([]byte, wire.ExporterSize)
	a.proof = wire.ActivationProof(c.Keys, a.exporter, a.hash)
	return a, nil
}

func (a activation) send(ctx context.Context, s *onboard.Service) error {
	_, err := s.Activate(ctx, a.hash, a.exporter, a.proof, "127.0.0.1")
	return err
}

// writeAllocs writes the allocation profile to a file. The profile also includes the making of the
// devices; use pprof's -focus to select Enrol.
func writeAllocs(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return pprof.Lookup("allocs").WriteTo(f, 0)
}

func micros(d time.Duration, n int) float64 {
	return float64(d.Nanoseconds()/int64(n)) / 1000
}

package e2e_test

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"gangway/hub/pki"
	"gangway/hub/store"
	"gangway/hub/store/sqlite"
	"gangway/hub/store/storetest"
	"gangway/internal/fleet/load"
	"gangway/wire"

	"github.com/dustin/go-humanize"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// connected has the size and the bounds of a run of TestConnectedDevices.
type connected struct {
	devices int
	rate    float64 // reports a second, of all devices
	settle  time.Duration
	measure time.Duration
	each    int           // most devices of one hub
	memory  int64         // limit of the memory of all hubs, in bytes; 0: none
	p99     time.Duration // bounds; 0: none
	idle    float64       // resident KiB for each idle connection
	garbage float64       // KiB that the hub allocates for each report
}

// spareFiles is how many open files a hub or a fleet may need in addition to the devices'
// connections.
const spareFiles = 1200

// connectedSize returns the size of the test: a small one or, if GANGWAY_CONNECTED is set, that
// number of devices, each with one report a minute.
func connectedSize(t *testing.T) connected {
	t.Helper()
	text := os.Getenv("GANGWAY_CONNECTED")
	if text == "" {
		return connected{devices: 40, rate: 40, measure: time.Second, each: 20}
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("GANGWAY_CONNECTED is %q, not a number of devices", text)
	}
	size := connected{devices: n, rate: float64(n) / 60, settle: 130 * time.Second, measure: time.Minute, memory: 4 << 30, p99: 100 * time.Millisecond, idle: 16, garbage: 24}
	if text := os.Getenv("GANGWAY_CONNECTED_SETTLE"); text != "" {
		if size.settle, err = time.ParseDuration(text); err != nil {
			t.Fatalf("GANGWAY_CONNECTED_SETTLE: %v", err)
		}
	}
	if text := os.Getenv("GANGWAY_CONNECTED_RATE"); text != "" {
		if size.rate, err = strconv.ParseFloat(text, 64); err != nil || !(size.rate > 0) {
			t.Fatalf("GANGWAY_CONNECTED_RATE is %q, not a number of reports a second", text)
		}
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	need := uint64(n) + spareFiles
	if limit.Max >= need || unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: need, Max: need}) == nil {
		size.each = n // the hub and the fleet raise their own limits
	} else {
		size.each = int(limit.Max) - spareFiles
	}
	return size
}

// Emulated devices on this machine keep their connections and report once a minute. The test prints
// the latency of the reports, and the memory of an idle connection. The small test has two hubs.
// With GANGWAY_CONNECTED, the test has as few hubs as the limit of open files of a process allows.
func TestConnectedDevices(t *testing.T) {
	needFullRun(t)
	size := connectedSize(t)
	t.Parallel()
	hubs := (size.devices + size.each - 1) / size.each
	dir := t.TempDir()
	bin, fleetBin := filepath.Join(dir, "gangway"), filepath.Join(dir, "gangway-fleet")
	buildGangway(t, bin)
	if out, err := exec.Command("go", "build", "-o", fleetBin, "gangway/cmd/gangway-fleet").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	var env []string
	profiles := cmp.Or(os.Getenv("GANGWAY_CONNECTED_PROFILES"), dir)
	if size.memory > 0 {
		env = append(env, fmt.Sprintf("GOMEMLIMIT=%d", size.memory/int64(hubs)))
	}
	fleets := make([]*fleetProcess, hubs)
	begin := time.Now()
	for i := range fleets {
		n := size.devices*(i+1)/hubs - size.devices*i/hubs
		h := startLoadedHub(t, bin, env, "--profiles")
		h.stop()
		state := filepath.Join(dir, fmt.Sprintf("%d.state", i))
		makeDevices(t, h, state, n)
		h.start()
		fleets[i] = &fleetProcess{hub: h, unloaded: h.live(dir), devices: n, state: state, report: filepath.Join(dir, fmt.Sprintf("%d.json", i))}
	}
	t.Logf("%d devices made in %.0f s; %d hub(s)", size.devices, time.Since(begin).Seconds(), hubs)
	begin = time.Now()
	for i, f := range fleets {
		f.start(t, fleetBin, size.rate*float64(f.devices)/float64(size.devices), i, size)
	}
	for _, f := range fleets {
		f.waitReady(t)
	}
	t.Logf("connected in %.0f s, with %.0f s of rest", time.Since(begin).Seconds(), size.settle.Seconds())
	live := 0.0
	for _, f := range fleets {
		live += f.hub.live(profiles) - f.unloaded
	}
	var starved, allocated, collections float64 // seconds; bytes; garbage collections
	for _, f := range fleets {
		bytes, n := f.hub.allocated()
		allocated, collections = allocated-bytes, collections-n
		f.begin(t)
		starved -= f.hub.starved()
	}
	if profiles != dir {
		fetchProfile(t, strings.TrimSuffix(fleets[0].hub.metrics, "metrics")+"debug/pprof/profile?seconds=30", filepath.Join(profiles, "cpu.pprof"))
	}
	var idle, before, reports, cpu, own, ownMemory float64
	var p50, p99, late float64
	for i, f := range fleets {
		r := f.end(t)
		starved += f.hub.starved()
		bytes, n := f.hub.allocated()
		allocated, collections = allocated+bytes, collections+n
		t.Logf("hub %d: %d of %d reports, errors %v, missed %v; p50 %.1f ms, p99 %.1f ms, longest %.0f ms; CPU %.3f ms for each report, %.2f CPUs",
			i+1, r.Total.OK, r.Total.Scheduled, r.Kinds[0].Errors, r.Kinds[0].Missed, r.Total.Latency.P50, r.Total.Latency.P99, r.Total.Latency.Max, 1000*r.HubProcess.CPU/float64(r.Total.OK), r.HubProcess.CPU/size.measure.Seconds())
		if r.Preparation.Connected != f.devices || !r.AsExpected() || r.Total.Reconnects != 0 {
			t.Errorf("hub %d: %d of %d devices were connected; %d of %d reports; %d connections were opened again",
				i+1, r.Preparation.Connected, f.devices, r.Total.OK, r.Total.Scheduled, r.Total.Reconnects)
		}
		before, idle = before+float64(r.Preparation.HubBefore.RSS), idle+float64(r.Preparation.HubIdle.RSS)
		reports, cpu, own = reports+float64(r.Total.OK), cpu+r.HubProcess.CPU, own+r.Generator.CPU
		ownMemory += float64(r.Generator.MaxRSS)
		p50, p99, late = max(p50, r.Total.Latency.P50), max(p99, r.Total.Latency.P99), max(late, r.Generator.StartDelay.P99)
	}
	perConnection := live / 1024 / float64(size.devices)
	t.Logf("%.0f reports a second: p50 %.1f ms, p99 %.1f ms (of the slowest hub); starts late by %.1f ms at p99", reports/size.measure.Seconds(), p50, p99, late)
	t.Logf("CPU of the hub for each report: %.3f ms; CPUs used: hub %.2f, fleet %.2f", 1000*cpu/reports, cpu/size.measure.Seconds(), own/size.measure.Seconds())
	garbage := allocated / 1024 / reports
	t.Logf("the hub allocated %.1f KiB for each report; garbage collections during the reports: %.0f in all hubs", garbage, collections)
	t.Logf("in each second, the hub's threads waited %.2f s for a processor that was busy; on a machine with no other load this is little", starved/size.measure.Seconds())
	t.Logf("an idle connection needs %.1f KiB of the hub's memory; with garbage, the hub had %s of resident memory before and %s with the connections; fleet at most %s", perConnection, humanize.IBytes(uint64(before)), humanize.IBytes(uint64(idle)), humanize.IBytes(uint64(ownMemory)))
	if size.p99 > 0 && p99 > float64(size.p99.Milliseconds()) {
		t.Errorf("p99 is %.1f ms; the bound is %v", p99, size.p99)
	}
	if size.idle > 0 && perConnection > size.idle {
		t.Errorf("an idle connection needs %.1f KiB; the bound is %.0f", perConnection, size.idle)
	}
	if size.garbage > 0 && garbage > size.garbage {
		t.Errorf("the hub allocates %.1f KiB for each report; the bound is %.0f", garbage, size.garbage)
	}
	if size.memory > 0 && idle > float64(size.memory) {
		t.Errorf("the hub needs %s", humanize.IBytes(uint64(idle)))
	}
}

// starved returns how many seconds the hub's threads were ready to run, but waited for a processor:
// the second number in schedstat (see proc_pid_schedstat in the kernel's scheduler documentation).
func (h *loadedHub) starved() float64 {
	h.t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", h.cmd.Process.Pid))
	if err != nil {
		h.t.Fatal(err)
	}
	sum := 0.0
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // the thread has ended, or the kernel does not count
		}
		if fields := strings.Fields(string(text)); len(fields) > 1 {
			waited, _ := strconv.ParseFloat(fields[1], 64)
			sum += waited / 1e9
		}
	}
	return sum
}

// The method `live` returns the memory that the hub uses for objects and stacks, without garbage.
// The hub needs the flag --profiles.
func (h *loadedHub) live(dir string) float64 {
	h.t.Helper()
	fetchProfile(h.t, strings.TrimSuffix(h.metrics, "metrics")+"debug/pprof/heap?gc=1", filepath.Join(dir, "heap.pprof"))
	v := h.metric("go_memstats_heap_alloc_bytes", "go_memstats_stack_inuse_bytes")
	return v[0] + v[1]
}

// allocated returns how many bytes the hub has allocated since it started, and how often it has
// collected garbage.
func (h *loadedHub) allocated() (bytes, collections float64) {
	h.t.Helper()
	v := h.metric("go_memstats_alloc_bytes_total", "go_gc_duration_seconds_count")
	return v[0], v[1]
}

func fetchProfile(t *testing.T, url, path string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	f, err := os.Create(path)
	if err == nil {
		_, err = io.Copy(f, resp.Body)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// stop stops the hub, so that the test may write its database.
func (h *loadedHub) stop() {
	h.t.Helper()
	if err := h.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		h.t.Fatal(err)
	}
	if err := h.cmd.Wait(); err != nil {
		h.t.Fatalf("the hub ended with %v", err)
	}
}

// makeDevices writes n active devices into the database of a hub that is stopped, and a state file
// with these devices for gangway-fleet. The hub's own code writes the rows, in the two transactions
// of an onboarding. The hub's device CA issues the devices' certificates. Only the evidence is made
// up: it has the size of real evidence, and the hub never reads it for a report.
func makeDevices(t *testing.T, h *loadedHub, path string, n int) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ca, err := pki.Open(filepath.Join(h.data, "pki"), pki.Options{})
	check(err)
	db, err := sqlite.Open(t.Context(), filepath.Join(h.data, "gangway.db"))
	check(err)
	owner := strings.TrimPrefix(h.token.Owner, wire.AccountPRN)
	made := make([]load.Made, n)
	now := time.Now()
	group, ctx := errgroup.WithContext(t.Context())
	group.SetLimit(64)
	for i := range n {
		group.Go(func() error {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				return err
			}
			e := storetest.Machine{Name: strconv.Itoa(i)}.Enrolment(owner, h.token.ID)
			e.Created, e.Expires = now, now.Add(time.Hour)
			if e.IDevIDCert, err = ca.IssueIDevID(pki.IDevIDRequest{
				PublicKey: key.Public(), DeviceID: e.DeviceID, AKName: e.IAKName, HWSerial: []byte(e.ProdSerial), NotBefore: now, Resident: true,
				OwnerPRN: wire.AccountPRN + e.Owner, TokenID: e.TokenID, DevicePRN: wire.DevicePRN + e.DeviceID,
			}); err != nil {
				return err
			}
			e.IDevIDHash = sha256.Sum256(e.IDevIDCert)
			if _, err = db.BeginEnrolment(ctx, e, now); err != nil {
				return err
			}
			d, err := db.Activate(ctx, store.Activation{IDevIDHash: e.IDevIDHash, Nick: fmt.Sprint("device ", i), Now: now, Addr: "127.0.0.1"})
			made[i] = load.Made{ID: d.ID, Key: key, Cert: e.IDevIDCert}
			return err
		})
	}
	check(group.Wait())
	check(db.Close())
	check(load.SaveMade(path, h.token, ca.DeviceCA().Raw, made))
}

// fleetProcess is a process of gangway-fleet with the devices of one hub.
type fleetProcess struct {
	hub           *loadedHub
	unloaded      float64 // memory that the hub used before the devices connected
	devices       int
	state, report string
	cmd           *exec.Cmd
	in            io.WriteCloser
	out           *bufio.Scanner
	said          bytes.Buffer
}

func (f *fleetProcess) start(t *testing.T, bin string, rate float64, number int, size connected) {
	t.Helper()
	token := f.state + ".token"
	text, err := json.Marshal(f.hub.token)
	if err == nil {
		err = os.WriteFile(token, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.cmd = exec.Command(bin, "run", "--token", token, "--state", f.state, "--devices", strconv.Itoa(f.devices), "--mix", fmt.Sprintf("report=%f/s", rate),
		"--for", size.measure.String(), "--settle", size.settle.String(), "--wait", "--outstanding", "500", "--hub-pid", strconv.Itoa(f.hub.cmd.Process.Pid), "--json", f.report)
	f.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if f.in, err = f.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stderr, err := f.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	f.out = bufio.NewScanner(stderr)
	if err := f.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.cmd.Process.Kill(); f.cmd.Wait() })
}

func (f *fleetProcess) waitReady(t *testing.T) {
	t.Helper()
	for f.out.Scan() {
		if f.out.Text() == "ready" {
			return
		}
		fmt.Fprintln(&f.said, f.out.Text())
	}
	t.Fatalf("gangway-fleet ended: %s", f.said.Bytes())
}

func (f *fleetProcess) begin(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(f.in, "\n"); err != nil {
		t.Fatal(err)
	}
}

// end waits for the end of the process, and returns its report.
func (f *fleetProcess) end(t *testing.T) *load.Report {
	t.Helper()
	for f.out.Scan() {
		fmt.Fprintln(&f.said, f.out.Text())
	}
	if err := f.cmd.Wait(); err != nil && f.cmd.ProcessState.ExitCode() != 3 {
		t.Fatalf("gangway-fleet: %v: %s", err, f.said.Bytes())
	}
	text, err := os.ReadFile(f.report)
	if err != nil {
		t.Fatal(err)
	}
	r := new(load.Report)
	if err := json.Unmarshal(text, r); err != nil {
		t.Fatal(err)
	}
	return r
}

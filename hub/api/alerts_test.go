package api_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gangway/hub/alarm"
	"gangway/hub/api"
	"gangway/hub/otlp"
	"gangway/hub/store"
	"gangway/hub/webcert"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
	"gangway/internal/race"

	"go.yaml.in/yaml/v3"
)

const alertsFile = "../../contrib/prometheus/alerts.yml"

// rule is an alert rule of Prometheus.
type rule struct {
	Alert       string
	Expr        string
	Labels      map[string]string
	Annotations map[string]string
}

func alertRules(t *testing.T) (rules []rule) {
	t.Helper()
	text, err := os.ReadFile(alertsFile)
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Groups []struct{ Rules []rule } }
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		rules = append(rules, g.Rules...)
	}
	return rules
}

var metricName = regexp.MustCompile(`\b(gangway_[a-z_]+|up)\b`)

// Each alert has a section in docs/runbook.md, each section has an alert, and each alarm of the hub
// has an alert.
func TestRunbookAndAlertsAgree(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/runbook.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	for _, s := range strings.Split("\n"+string(page), "\n## ")[1:] {
		name, text, _ := strings.Cut(s, "\n")
		sections[name] = text
	}
	alarms := map[string]bool{}
	for _, r := range alertRules(t) {
		text, ok := sections[r.Alert]
		if !ok {
			t.Errorf("docs/runbook.md has no section %s", r.Alert)
		}
		for _, part := range []string{"**Meaning.**", "**How to see it.**", "**What to do.**"} {
			if !strings.Contains(text, part) {
				t.Errorf("%s in docs/runbook.md has no %s", r.Alert, part)
			}
		}
		if name := r.Labels["alarm"]; name != "" {
			alarms[name] = true
			if rule, ok := alarm.Find(name); !ok || rule.Alert != r.Alert || rule.Title == "" || !strings.Contains(text, "`"+name+"`") {
				t.Errorf("%s: the hub or the section in docs/runbook.md does not know the alarm %s", r.Alert, name)
			}
		}
		if r.Annotations["runbook"] != "docs/runbook.md#"+strings.ToLower(r.Alert) || r.Annotations["summary"] == "" {
			t.Errorf("%s: annotations %v", r.Alert, r.Annotations)
		}
		delete(sections, r.Alert)
	}
	for name := range sections {
		t.Errorf("docs/runbook.md has a section %s, and no alert has this name", name)
	}
	for _, r := range alarm.Rules {
		if !alarms[r.Name] {
			t.Errorf("no alert for the alarm %s", r.Name)
		}
	}
}

// promtool returns the path of promtool.
func promtool(t *testing.T) string {
	t.Helper()
	if path, err := exec.LookPath("promtool"); err == nil {
		return path
	}
	path, err := filepath.Abs("../../build/promtool/promtool")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Skip("promtool is not installed: run scripts/promtool.sh")
	}
	return path
}

// scrape is one answer of /metrics. If `up` is false, the hub did not answer.
type scrape struct {
	text string
	at   time.Time // by the hub's clock
	up   bool
}

// The phases of an alert's test, in minutes: first the hub is calm, then the fault lasts, and then
// the fault is over.
const (
	calmFor, faultFor, clearFor = 60, 30, 90
	lookCalm, lookFault         = calmFor - 1, calmFor + 12
	lookClear                   = calmFor + faultFor + clearFor - 1
)

// values returns the values of a Prometheus series during a phase, in the notation of promtool. If
// a value is a time, such as the time of the last backup, the value grows by a minute in each
// minute of the phase. So the age of the backup stays the same as at the scrape.
func (s scrape) values(series string, from, minutes int) string {
	name, _, _ := strings.Cut(series, "{")
	value, ok := "", false
	if name == "up" {
		value, ok = map[bool]string{true: "1", false: "0"}[s.up], true
	}
	for line := range strings.SplitSeq(s.text, "\n") {
		if v, found := strings.CutPrefix(line, series+" "); found {
			value, ok = v, true
		}
	}
	if !ok {
		return fmt.Sprintf("_x%d", minutes)
	}
	n, err := strconv.ParseFloat(value, 64)
	if err != nil {
		panic(err)
	}
	step := 0
	if strings.HasSuffix(name, "_timestamp_seconds") && n != 0 {
		n, step = n-float64(s.at.Unix())+float64(from*60), 60
	}
	return fmt.Sprintf("%s+%dx%d", strconv.FormatFloat(n, 'f', -1, 64), step, minutes-1)
}

// promTest is a test of one alert, in the form that promtool reads.
type promTest struct {
	Interval string       `yaml:"interval"`
	Name     string       `yaml:"name"`
	Input    []promSeries `yaml:"input_series"`
	Expect   []promExpect `yaml:"promql_expr_test"`
}

type promSeries struct {
	Series string `yaml:"series"`
	Values string `yaml:"values"`
}

type promExpect struct {
	Expr string       `yaml:"expr"`
	At   string       `yaml:"eval_time"`
	Want []promSample `yaml:"exp_samples"`
}

type promSample struct {
	Labels string  `yaml:"labels"`
	Value  float64 `yaml:"value"`
}

// newPromTest returns a test for promtool. It checks that an alert fires during the fault, and does
// not fire before or after the fault.
func newPromTest(t *testing.T, r rule, calm, fault, cleared scrape) promTest {
	t.Helper()
	p := promTest{Interval: "1m", Name: r.Alert}
	for _, metric := range metricName.FindAllString(r.Expr, -1) {
		series := map[string]bool{}
		if metric == "up" {
			series["up"] = true
		}
		for _, s := range []scrape{calm, fault, cleared} {
			for _, found := range regexp.MustCompile(`(?m)^`+metric+`(\{[^}]*\})? `).FindAllString(s.text, -1) {
				series[strings.TrimSpace(found)] = true
			}
		}
		if len(series) == 0 {
			t.Errorf("%s: the hub's /metrics have no %s", r.Alert, metric)
		}
		for one := range series {
			labelled := strings.Replace(one+"{", "{", `{job="gangway",instance="hub",`, 1)
			labelled = strings.TrimSuffix(strings.TrimSuffix(labelled, "{"), ",")
			if !strings.HasSuffix(labelled, "}") {
				labelled += "}"
			}
			p.Input = append(p.Input, promSeries{labelled, calm.values(one, 0, calmFor) + " " + fault.values(one, calmFor, faultFor) + " " + cleared.values(one, calmFor+faultFor, clearFor)})
		}
	}
	expr := fmt.Sprintf(`clamp_max(count(ALERTS{alertname="%s", alertstate="firing"}), 1) or vector(0)`, r.Alert)
	for at, want := range map[int]float64{lookCalm: 0, lookFault: 1, lookClear: 0} {
		p.Expect = append(p.Expect, promExpect{expr, fmt.Sprintf("%dm", at), []promSample{{"{}", want}}})
	}
	return p
}

// fault is a fault that makes an alert fire. The function `cause` begins it, and the function `end`
// ends it.
type fault struct {
	alert      string
	cause, end func()
}

// watched is a hub that has every metric, because it has replicas, a certificate for its web pages,
// a log engine and its own disk.
type watched struct {
	*fleetScene
	t       *testing.T
	dir     string // the data folder
	metrics *httptest.Server
	pages   *webcert.Files
	ahead   atomic.Int64 // how far the clock of `pages` is ahead
	certs   string       // the folder of the web pages' certificate
	devices []api.Registered
}

func newWatched(t *testing.T) *watched {
	t.Helper()
	w := &watched{t: t, dir: t.TempDir(), certs: t.TempDir()}
	if err := syscall.Mount("tmpfs", w.dir, "tmpfs", 0, "size=64m,mode=700"); err != nil {
		t.Skipf("a small disk cannot be mounted here (%v): needs root", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(w.dir, 0); err != nil {
			t.Error(err)
		}
	})
	w.writeCertificate(365 * 24 * time.Hour)
	w.pages = must(webcert.NewFiles(filepath.Join(w.certs, "crt"), filepath.Join(w.certs, "key"), "pages.example", slog.New(slog.DiscardHandler),
		func() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) }))(t)
	engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadRequest) }))
	t.Cleanup(engine.Close)
	forwards := must(otlp.New(otlp.Config{Endpoint: engine.URL + "/v1/logs", Log: slog.New(slog.DiscardHandler)}))(t)
	var running sync.WaitGroup
	running.Go(func() { forwards.Run(t.Context()) })
	t.Cleanup(running.Wait) // after the context of the test has ended
	maker := must(goodMaker())(t)
	h := hubtest.Open(t, w.dir, func(c *api.Config) {
		c.Replicas, c.Capacity, c.LogForwarder = true, 8, forwards
		c.PageURL, c.PageCertificate = "https://pages.example", w.pages
	}, maker.Roots(), maker.Intermediates())
	w.fleetScene = newFleetOn(t, h, maker)
	w.Server.FreshReadings()
	w.Policy(t, store.HubWide, hubtest.LabPolicy+"without_tpm: accept\n")
	for range 12 {
		w.devices = append(w.devices, want[api.Registered](w.ada, "POST", "/devices", "{}", 200))
	}
	w.serveMetrics()
	w.Server.Work(t.Context())
	return w
}

func (w *watched) serveMetrics() {
	w.metrics = httptest.NewServer(w.Server.PrivateHandler())
	w.t.Cleanup(w.metrics.Close)
}

func (w *watched) scrape() scrape {
	w.t.Helper()
	s := scrape{at: w.Now()}
	resp, err := http.Get(w.metrics.URL + "/metrics")
	if err != nil {
		return s
	}
	defer resp.Body.Close()
	s.text, s.up = string(must(io.ReadAll(resp.Body))(w.t)), true
	return s
}

func (w *watched) sql(statement string) {
	w.t.Helper()
	if _, err := openDatabase(w.t, w.dir).Exec(statement); err != nil {
		w.t.Fatal(err)
	}
}

// The method `until` waits until a condition is true.
func (w *watched) until(what string, is func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: not after ten seconds", what)
		}
	}
}

// fill writes a file that leaves `reserves` times as much free space on the disk as the hub keeps
// in reserve.
func (w *watched) fill(reserves float64) {
	w.t.Helper()
	path := filepath.Join(w.dir, "filler")
	if err := os.RemoveAll(path); err != nil {
		w.t.Fatal(err)
	}
	var s syscall.Statfs_t
	if err := syscall.Statfs(w.dir, &s); err != nil {
		w.t.Fatal(err)
	}
	reserve := float64(int64(s.Blocks) * s.Bsize / 20)
	if err := os.WriteFile(path, make([]byte, int(float64(int64(s.Bavail)*s.Bsize)-reserves*reserve)), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *watched) empty() {
	if err := os.Remove(filepath.Join(w.dir, "filler")); err != nil {
		w.t.Fatal(err)
	}
}

// newCertificate returns a self-signed certificate, and its key in PKCS #8.
func newCertificate(t *testing.T, name string, left time.Duration) (cert *x509.Certificate, key []byte) {
	t.Helper()
	k := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(left),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k))(t)
	return must(x509.ParseCertificate(der))(t), must(x509.MarshalPKCS8PrivateKey(k))(t)
}

func (w *watched) writeCertificate(left time.Duration) {
	w.t.Helper()
	cert, key := newCertificate(w.t, "pages.example", left)
	for name, block := range map[string]*pem.Block{"crt": {Type: "CERTIFICATE", Bytes: cert.Raw}, "key": {Type: "PRIVATE KEY", Bytes: key}} {
		if err := os.WriteFile(filepath.Join(w.certs, name), pem.EncodeToMemory(block), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
}

// replaceCertificate replaces the files with the certificate of the web pages. The hub reads the
// new files at the next connection.
func (w *watched) replaceCertificate(left time.Duration) {
	w.t.Helper()
	w.writeCertificate(left)
	w.ahead.Add(int64(2 * time.Second))
	if _, err := w.pages.GetCertificate(nil); err != nil {
		w.t.Fatal(err)
	}
}

// faults returns all faults, in an order in which no fault changes anything that a later fault
// needs.
func (w *watched) faults() []fault {
	t := w.t
	root, _ := newCertificate(t, "Old TPM maker", 60*24*time.Hour)
	unlock := func() {}
	return []fault{
		{"GangwayDown", func() { w.metrics.Close() }, w.serveMetrics},
		{"GangwayErrors", func() {
			w.sql(`ALTER TABLE trusted_certificates RENAME TO gone`)
			w.sql(`UPDATE config_version SET version = version + 1`)
			w.post(t, must(w.victim.Request(w.tok, fleet.RequestChange{}))(t))
		}, func() { w.sql(`ALTER TABLE gone RENAME TO trusted_certificates`) }},
		{"GangwayPanic", func() {
			w.Server.Panic(httptest.NewRecorder(), httptest.NewRequest("GET", "https://hub/", nil))
		}, func() {}},
		{"GangwayDiskLow", func() { w.fill(2) }, w.empty},
		{"GangwayDiskFull", func() { w.fill(0.8) }, w.empty},
		{"GangwayCertificateExpires", func() { w.replaceCertificate(10 * 24 * time.Hour) }, func() { w.replaceCertificate(90 * 24 * time.Hour) }},
		{"GangwayMakerRootExpires", func() { setTrust(t, w.Store, store.TrustedRoot, root) }, func() {
			if err := w.Store.ChangeTrust(t.Context(), store.TrustChange{Remove: []store.Hash{sum(root)}}); err != nil {
				t.Fatal(err)
			}
		}},
		{"GangwayBackupOld", func() { w.Advance(8 * 24 * time.Hour) }, func() {
			w.Advance(-8 * 24 * time.Hour)
			if err := w.Store.SetLastBackup(t.Context(), w.Now()); err != nil {
				t.Fatal(err)
			}
		}},
		{"GangwayBackupDamaged", func() {
			if err := w.Store.SetBackupFault(t.Context(), "The backup is incomplete."); err != nil {
				t.Fatal(err)
			}
		}, func() {
			if err := w.Store.SetBackupFault(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
		}},
		{"GangwayClockDrift", func() { w.Advance(time.Minute) }, func() { w.Advance(-time.Minute) }},
		{"GangwayDevicesQuiet", func() {
			w.Advance(20 * time.Minute)
			w.Server.Work(t.Context())
		}, w.contact},
		{"GangwayManyRefusals", func() {
			w.Policy(t, store.HubWide, "version: 1\n")
			for range alarm.Refusals {
				refused(t, w.post(t, must(w.victim.Request(w.tok, fleet.RequestChange{}))(t)), 403, "tpm-software")
			}
		}, func() { w.Policy(t, store.HubWide, hubtest.LabPolicy) }},
		{"GangwayTrustWithdrawn", func() {
			setTrust(t, w.Store, store.Distrusted, w.maker.Root)
			w.Server.Work(t.Context())
		}, func() {
			setTrust(t, w.Store, store.TrustedRoot, w.maker.Root)
			w.Server.Work(t.Context())
		}},
		{"GangwayReplicaBehind", func() {
			w.sql(`ALTER TABLE replica_messages RENAME TO gone`)
			w.until("the replica hears nothing", func() bool { return w.heardBefore(1500 * time.Millisecond) })
			w.Advance(5 * time.Minute)
		}, func() {
			w.Advance(-5 * time.Minute)
			w.sql(`ALTER TABLE gone RENAME TO replica_messages`)
			w.until("the replica hears others again", func() bool { return !w.heardBefore(1500 * time.Millisecond) })
		}},
		{"GangwayWorkStopped", func() { // another replica hangs, but still renews its lease
			w.sql(`UPDATE leases SET holder = 'hangs', fence = fence + 1, expires = expires + 3600000000 WHERE name = 'periodic-work'`)
			w.Advance(30 * time.Minute)
			w.Server.Work(t.Context())
		}, func() {
			w.sql(`UPDATE leases SET expires = 0 WHERE name = 'periodic-work'`)
			if err := w.Server.TryLease(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.Server.Work(t.Context())
		}},
		{"GangwayLogLinesLost", func() {
			want[map[string]string](w.boat, "POST", "/logs/", `{"msg":"m"}`, 200)
			w.until("the log engine refuses the line", func() bool { return sample(t, w.scrape().text, "gangway_log_lines_lost_total") > 0 })
		}, func() {}},
		{"GangwayDatabaseDown", func() { unlock = w.lock() }, func() { unlock() }},
	}
}

// heardBefore reports whether more than `age` has passed since this replica last read the changes
// of the other replicas.
func (w *watched) heardBefore(age time.Duration) bool {
	s := w.scrape()
	return float64(s.at.UnixMilli())/1000-sample(w.t, s.text, "gangway_replica_heard_timestamp_seconds") > age.Seconds()
}

// contact makes each device contact the hub.
func (w *watched) contact() {
	w.t.Helper()
	for _, d := range w.devices {
		p := w.person(w.t, "")
		p.token = want[struct{ Token string }](p, "POST", "/auth/login", map[string]string{"username": d.PRN, "password": d.Secret}, 200).Token
		want[map[string]any](p, "PATCH", "/devices/"+d.ID+"/device-meta", `{"up":true}`, 200)
	}
	w.until("the devices are active", func() bool { return sample(w.t, w.scrape().text, "gangway_devices_quiet") < alarm.QuietDevices })
}

// lock locks the database as another program would, and sends the hub more writes than it may run
// at the same time for longer than a stall. The returned function ends the lock.
func (w *watched) lock() (unlock func()) {
	w.t.Helper()
	db := openDatabase(w.t, w.dir)
	db.SetMaxOpenConns(1)
	if _, err := db.Exec("BEGIN IMMEDIATE"); err != nil {
		w.t.Fatal(err)
	}
	var sending sync.WaitGroup
	for range 12 {
		sending.Go(func() { w.ada.do("POST", "/devices/tokens", nil) }) // waits for the lock
	}
	time.Sleep(1700 * time.Millisecond) // longer than a stall: see the variable stalls
	if status, body := w.ada.do("POST", "/devices/tokens", nil); status != http.StatusServiceUnavailable || !strings.Contains(string(body), `"overloaded"`) {
		w.t.Errorf("a request too many: %d, %s", status, body)
	}
	return func() {
		if _, err := db.Exec("COMMIT"); err != nil {
			w.t.Fatal(err)
		}
		sending.Wait()
	}
}

// Each alert fires while its cause lasts, and ends afterwards. The causes are real faults of a real
// hub; promtool evaluates the alert rules with the values that the hub's /metrics had before,
// during and after the fault.
func TestEachAlertFiresAndClears(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	if testing.Short() {
		t.Skip("locks a database for seconds, and waits for a replica")
	}
	tool := promtool(t)
	if out, err := exec.Command(tool, "check", "rules", alertsFile).CombinedOutput(); err != nil {
		t.Fatalf("promtool check rules: %v\n%s", err, out)
	}
	w := newWatched(t)
	rules := map[string]rule{}
	for _, r := range alertRules(t) {
		rules[r.Alert] = r
	}
	var tests []promTest
	calm := w.scrape()
	for _, f := range w.faults() {
		f.cause()
		during := w.scrape()
		f.end()
		after := w.scrape()
		alerts := []string{f.alert}
		if f.alert == "GangwayDatabaseDown" { // the same fault overloads the hub
			alerts = append(alerts, "GangwayOverloaded")
		}
		for _, name := range alerts {
			r, ok := rules[name]
			if !ok {
				t.Fatalf("no rule %s", name)
			}
			delete(rules, name)
			tests = append(tests, newPromTest(t, r, calm, during, after))
		}
		calm = after
	}
	for name := range rules {
		t.Errorf("no fault makes %s fire", name)
	}
	file := filepath.Join(t.TempDir(), "test.yml")
	text := must(yaml.Marshal(map[string]any{"rule_files": []string{must(filepath.Abs(alertsFile))(t)}, "evaluation_interval": "1m", "tests": tests}))(t)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(tool, "test", "rules", file).CombinedOutput(); err != nil {
		t.Fatalf("promtool test rules: %v\n%s", err, out)
	}
}

// dashboardFile is the file with the Grafana dashboard.
const dashboardFile = "../../contrib/grafana/gangway.json"

// Each expression of the dashboard is valid, and reads metrics that a hub has. Each panel has a
// title and a description, and does not cover another panel.
func TestDashboardReadsMetricsThatExist(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts a hub and promtool")
	}
	tool := promtool(t)
	type place struct{ X, Y, W, H int }
	var board struct {
		Panels []struct {
			ID                       int
			Type, Title, Description string
			GridPos                  place
			Targets                  []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(must(os.ReadFile(dashboardFile))(t), &board); err != nil {
		t.Fatal(err)
	}
	f := fleetOf(t, newSceneWith(t, func(c *api.Config) { c.Replicas = true }))
	wantCode(f.ada, "GET", "/devices/none", nil, 404)
	f.post(t, []byte("nothing"))
	metrics := f.metrics(t)
	type record struct {
		Record string `yaml:"record"`
		Expr   string `yaml:"expr"`
	}
	var records []record
	taken, ids := map[[2]int]string{}, map[int]bool{}
	for _, p := range board.Panels {
		if ids[p.ID] || p.Title == "" || p.Type != "row" && (p.Description == "" || len(p.Targets) == 0) {
			t.Errorf("panel %d %q: a second panel with this number, or no title, description or query", p.ID, p.Title)
		}
		ids[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other := taken[at]; other != "" || at[0] >= 24 {
					t.Fatalf("%q covers %q, or ends outside the grid", p.Title, other)
				}
				taken[at] = p.Title
			}
		}
		for _, target := range p.Targets {
			records = append(records, record{fmt.Sprintf("panel:%d_%d", p.ID, len(records)), target.Expr})
			for _, name := range regexp.MustCompile(`\b(gangway|process|go)_[a-z_]+`).FindAllString(target.Expr, -1) {
				if !regexp.MustCompile(`(?m)^` + name + `[ {]`).MatchString(metrics) {
					t.Errorf("%q reads %s, which the hub's /metrics do not have", p.Title, name)
				}
			}
		}
	}
	file := filepath.Join(t.TempDir(), "panels.yml")
	text := must(yaml.Marshal(map[string]any{"groups": []map[string]any{{"name": "panels", "rules": records}}}))(t)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(tool, "check", "rules", file).CombinedOutput(); err != nil || len(records) < 20 {
		t.Errorf("promtool check rules: %v, %d queries\n%s", err, len(records), out)
	}
}

package agent

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gangway/device/identity"
	"gangway/internal/swtpm"
	"gangway/internal/swtpm/swtpmtest"
	"gangway/tcg/eventlog"
	"gangway/wire"

	"github.com/google/go-tpm/tpm2"
)

// pickyHub is a hub that answers boot measurements as the test wants, and keeps the measurements
// that the device sent.
type pickyHub struct {
	answer  func(r *wire.BootReport) (status int, body string)
	reports []*wire.BootReport
}

func (p *pickyHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		json.NewEncoder(w).Encode(wire.BootChallenge{Nonce: make([]byte, wire.BootNonceSize)})
		return
	}
	report := new(wire.BootReport)
	body, err := io.ReadAll(r.Body)
	if err != nil || json.Unmarshal(body, report) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	p.reports = append(p.reports, report)
	status, text := p.answer(report)
	w.WriteHeader(status)
	io.WriteString(w, text)
}

// realTPM starts a software TPM and connects to it.
func realTPM(t *testing.T) (*swtpm.TPM, *identity.TPM) {
	t.Helper()
	chip := swtpmtest.Start(t, swtpm.Options{EK: swtpm.P384})
	tpm, err := identity.Open(chip.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tpm.Close() })
	return chip, tpm
}

// The function `measuring` makes an agent that sends boot measurements to the hub `p`. Each call of
// `measure` sends one measurement. `said` gets the agent's sentences.
func measuring(t *testing.T, chip *swtpm.TPM, tpm *identity.TPM, p *pickyHub, log string) (measure func() bool, said *[]string) {
	t.Helper()
	return measuringWith(t, chip, tpm, p, Config{EventLog: log})
}

// measuringWith is like the function `measuring`, but takes the agent's configuration `cfg`.
func measuringWith(t *testing.T, chip *swtpm.TPM, tpm *identity.TPM, p *pickyHub, cfg Config) (measure func() bool, said *[]string) {
	t.Helper()
	server := httptest.NewTLSServer(p)
	t.Cleanup(server.Close)
	h, err := newHub(newAddresses([]string{server.URL}, ""), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.close)
	said = new([]string)
	cfg.StateDir, cfg.TPM, cfg.Progress = t.TempDir(), chip.Address(), func(s Progress) { *said = append(*said, s.Detail) }
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return func() bool {
		t.Helper()
		shown, err := a.measure(t.Context(), h, machineTPM{tpm})
		if err != nil {
			t.Fatal(err)
		}
		return shown
	}, said
}

func matches(*wire.BootReport) (int, string) { return 200, `{"state":"matches"}` }

// The firmware's event log is optional. If the agent cannot read the log, it sends only the PCRs to
// the hub, and reports the reason once.
func TestEventLogThatCannotBeReadIsLeftOut(t *testing.T) {
	t.Parallel()
	chip, tpm := realTPM(t)
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for name, content := range map[string][]byte{"good": []byte("a log"), "large": make([]byte, eventlog.MaxLog+1), "largest": make([]byte, eventlog.MaxLog)} {
		if err := os.WriteFile(path(name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(path("folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(path("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path("loop"), path("loop")); err != nil {
		t.Fatal(err)
	}
	for name, says := range map[string]string{
		"good": "", "largest": "", "none": "event log does not exist", "large": "has more than 1048576 bytes",
		"folder": "is not a regular file", "pipe": "is not a regular file", "loop": "too many levels",
	} {
		t.Run(name, func(t *testing.T) {
			hub := &pickyHub{answer: matches}
			measure, said := measuring(t, chip, tpm, hub, path(name))
			for range 3 {
				if !measure() {
					t.Error("the hub was not shown what was booted")
				}
			}
			if len(hub.reports) != 3 || (len(hub.reports[0].EventLog) > 0) != (says == "") || len(hub.reports[0].PCRs) != 16 {
				t.Errorf("%d reports", len(hub.reports))
			}
			count := 0
			for _, line := range *said {
				if says != "" && strings.Contains(line, says) {
					count++
				}
			}
			if says != "" && count != 1 || says == "" && len(*said) != 1 {
				t.Errorf("it said %q", *said)
			}
		})
	}
}

// The installer's report goes to the hub with each measurement. A report that is missing or damaged
// is left out.
func TestInstallersReportIsSentIfItIsWhole(t *testing.T) {
	t.Parallel()
	chip, tpm := realTPM(t)
	dir := t.TempDir()
	text, err := json.Marshal(wire.InstallReport{Table: []byte("table")})
	if err != nil {
		t.Fatal(err)
	}
	whole := string(text) + strings.Repeat(" ", 100)
	for name, c := range map[string]struct {
		text string // "-": there is no file
		sent bool
		says bool
	}{
		"whole": {whole, true, false}, "none": {"-", false, false}, "never written": {strings.Repeat(" ", wire.MaxInstallReport), false, false},
		"half": {whole[:20], false, true}, "large": {whole + strings.Repeat(" ", wire.MaxInstallReport), false, true}, "twice": {`{"table":"","table":""}`, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			if c.text != "-" {
				if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			hub := &pickyHub{answer: matches}
			measure, said := measuringWith(t, chip, tpm, hub, Config{EventLog: filepath.Join(dir, "no log"), InstallReport: path})
			for range 2 {
				measure()
			}
			if len(hub.reports) != 2 {
				t.Fatalf("%d reports", len(hub.reports))
			}
			for _, r := range hub.reports {
				if (r.Installed != nil) != c.sent || c.sent && string(r.Installed.Table) != "table" {
					t.Errorf("sent %+v", r.Installed)
				}
			}
			count := strings.Count(strings.Join(*said, " "), "The installer's report at "+path+" is not sent")
			if c.says && count != 1 || !c.says && count != 0 {
				t.Errorf("it said %q", *said)
			}
		})
	}
}

// If the hub refuses a measurement, the agent reports the refusal once and continues, because the
// hub decides about each later request anyway. If the event log is too large for the hub or for a
// proxy, the agent sends the measurement without the log.
func TestMeasurementThatTheHubDoesNotTakeIsNotFatal(t *testing.T) {
	t.Parallel()
	chip, tpm := realTPM(t)
	log := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(log, bytes.Repeat([]byte("log"), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	tooLarge := func(r *wire.BootReport) (int, string) {
		if len(r.EventLog) > 0 {
			return 413, "<html>too large</html>"
		}
		return matches(r)
	}
	always := func(status int, body string) func(*wire.BootReport) (int, string) {
		return func(*wire.BootReport) (int, string) { return status, body }
	}
	asked := 0
	lost := func(r *wire.BootReport) (int, string) {
		if asked++; asked == 1 {
			return 403, `{"code":403,"error":"boot-nonce","msg":"No.","hint":"Again."}`
		}
		return matches(r)
	}
	for _, c := range []struct {
		name    string
		answer  func(*wire.BootReport) (int, string)
		shown   bool
		reports int // how many measurements reach the hub during three calls of `measure`
		says    string
	}{
		{"too large for a proxy", tooLarge, true, 4, "is too large for the hub"},
		{"too large whatever it is", always(413, `{"code":413,"error":"body-too-large","msg":"No.","hint":"Less."}`), false, 4, "body-too-large"},
		{"of another connection once", lost, true, 4, "matches"},
		{"of another connection always", always(403, `{"code":403,"error":"boot-nonce","msg":"No.","hint":"Again."}`), false, 6, "boot-nonce"},
		{"refused", always(403, `{"code":403,"error":"boot-pcr-values","msg":"No.","hint":"Look."}`), false, 3, "boot-pcr-values"},
		{"no such route", always(404, "not found"), false, 3, "refuses this machine's boot measurement"},
		{"a fault of the hub", always(500, "oops"), false, 3, "refuses this machine's boot measurement"},
		{"something else", always(200, "<html>hello</html>"), false, 3, "The boot measurement failed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			hub := &pickyHub{answer: c.answer}
			measure, said := measuring(t, chip, tpm, hub, log)
			for range 3 {
				if measure() != c.shown {
					t.Errorf("shown is %v", !c.shown)
				}
			}
			count := 0
			for _, line := range *said {
				if strings.Contains(line, c.says) {
					count++
				}
			}
			want := 1
			if c.name == "too large whatever it is" {
				want = 2 // one sentence about the event log, one about the measurement
			}
			if count != want || len(hub.reports) != c.reports {
				t.Errorf("%d reports, it said %q", len(hub.reports), *said)
			}
		})
	}
}

// If the agent cannot read a file of Config.ReportFiles, it leaves the file out of the report and
// continues.
func TestReportedFileThatCannotBeReadIsLeftOut(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for name, content := range map[string][]byte{"good": []byte("text"), "large": make([]byte, maxReportFile+1), "bytes": {0xFF, 0xFE}} {
		if err := os.WriteFile(path(name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(path("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	var said []string
	a, err := New(Config{StateDir: t.TempDir(), TPM: "unix:none", Progress: func(s Progress) { said = append(said, s.Detail) },
		ReportFiles: map[string]string{"good": path("good"), "large": path("large"), "bytes": path("bytes"), "pipe": path("pipe"), "none": path("none")}})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for range 2 {
		m := a.meta(&session{h: &hub{at: newAddresses([]string{"https://hub.example"}, "")}}, nil)
		for name := range a.cfg.ReportFiles {
			if text, ok := m[name]; ok != (name == "good") || ok && text != "text" {
				t.Errorf("%s is reported as %v", name, text)
			}
		}
	}
	if len(said) != 3 { // each sentence once, and no sentence about the missing file
		t.Errorf("it said %q", said)
	}
}

// lockedAddress returns the address of a TPM that refuses to quote because of a lockout. During a
// lockout, some TPMs refuse even if the key is authorised by a policy and not by a password.
func lockedAddress(t *testing.T, chip *swtpm.TPM) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	at := filepath.Join(dir, "s")
	l, err := net.Listen("unix", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	// frame reads one TPM command or response: 2 bytes of tag, 4 bytes of size, and the rest.
	frame := func(c net.Conn) ([]byte, error) {
		b := make([]byte, 10)
		if _, err := io.ReadFull(c, b); err != nil {
			return nil, err
		}
		b = append(b, make([]byte, binary.BigEndian.Uint32(b[2:])-10)...)
		_, err := io.ReadFull(c, b[10:])
		return b, err
	}
	serve := func(c net.Conn) error {
		defer c.Close()
		to, err := net.Dial("unix", strings.TrimPrefix(chip.Address(), "unix:"))
		if err != nil {
			return err
		}
		defer to.Close()
		for {
			b, err := frame(c)
			if err != nil {
				return err
			}
			const quote = 0x158 // TPM_CC_Quote
			if binary.BigEndian.Uint32(b[6:]) == quote {
				b = []byte{0x80, 1, 0, 0, 0, 10, 0, 0, 0x09, 0x21} // TPM_RC_LOCKOUT
			} else if _, err = to.Write(b); err == nil {
				b, err = frame(to)
			}
			if err != nil {
				return err
			}
			if _, err := c.Write(b); err != nil {
				return err
			}
		}
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return "unix:" + at
}

// If the TPM refuses to quote during a lockout, the agent does not wait for the end of the lockout:
// a measurement is optional, and the device's other requests must not wait.
func TestMeasurementDoesNotWaitForALockout(t *testing.T) {
	t.Parallel()
	chip, direct := realTPM(t)
	direct.Close() // swtpm serves only one connection at a time
	if err := chip.SetPassword(tpm2.TPMRHLockout, "theirs"); err != nil {
		t.Fatal(err)
	}
	tpm, err := identity.Open(lockedAddress(t, chip))
	if err != nil {
		t.Fatal(err)
	}
	defer tpm.Close()
	hub := &pickyHub{answer: matches}
	measure, said := measuring(t, chip, tpm, hub, "/nonexistent")
	done := make(chan bool)
	go func() {
		first := measure()
		done <- measure() || first
	}()
	select {
	case shown := <-done:
		if shown || len(hub.reports) != 0 {
			t.Error("the hub was shown something")
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it waits for the end of the lockout")
	}
	count := 0
	for _, line := range *said {
		if strings.Contains(line, "The boot measurement failed") && strings.Contains(line, "lockout") {
			count++
		}
	}
	if count != 1 {
		t.Errorf("it said %q", *said)
	}
}

package qemu_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gangway/device/install"
	"gangway/device/install/slots"
	"gangway/image/stick"
	"gangway/internal/hubtest"
	"gangway/internal/qemu"
)

// Revisions with systems are posted through the hub to an installed machine:
// one with another kernel comes up in the other slot and stays; one whose
// kernel panics falls back by itself, and its owner reads why. What is no
// system is not tried.
func TestSystemUpdates(t *testing.T) {
	t.Parallel()
	long(t)
	s := newSite(t, stick.Config{})
	s.install(t)
	parts := s.parts(t)
	m, ctx := boot(t, s.with(false))
	waitFor(t, ctx, m, `gangway-init .*: system: slot a$`)
	waitFor(t, ctx, m, `gangway-init .*: this boot is good: gangway-a.efi`)
	o := s.signIn(t)
	o.begun(ctx)

	// Its owner wants to see what is booted: the new system is let in when it
	// was accepted, while it is tried.
	s.hub.Policy(t, s.hub.Owner.ID, "version: 1\nmeasured_boot: require\n")
	began := time.Now()
	other := parts
	other.Kernel = otherKernel(parts.Kernel)
	rev := o.post(ctx, s.system(t, other))
	waitFor(t, ctx, m, `gangway-init .*: system: slot b, which is tried; slot a is kept$`)
	changes := s.changed(t, ctx)
	if !slices.ContainsFunc(changes, func(w string) bool { return strings.HasPrefix(w, "The kernel's hash differs") }) {
		t.Errorf("the hub says of the boot: %q", changes)
	}
	o.call(ctx, "POST", "/devices/"+o.device+"/boot/reference", map[string]string{"from": "latest"}, nil)
	if p := o.becomes(ctx, m, rev, "DONE"); p.Progress != 100 {
		t.Errorf("%+v", p)
	}
	t.Logf("updated in %.1f s", time.Since(began).Seconds())

	// The first process ends at once, so the kernel panics.
	began = time.Now()
	seen := m.Lines()[len(m.Lines())-1].At
	bad := parts
	bad.Init = parts.Agent
	rev = o.post(ctx, s.system(t, bad))
	after(t, ctx, m, seen, `Kernel panic - not syncing: Attempted to kill init!`)
	after(t, ctx, m, seen, `gangway-init .*: system: slot b$`)
	p := o.becomes(ctx, m, rev, "ERROR")
	if !strings.Contains(p.Message, "fell back to slot b") {
		t.Errorf("the owner reads %q", p.Message)
	}
	t.Logf("fell back in %.1f s", time.Since(began).Seconds())

	m.Stop()
	s.listed(t)

	// What was made permanent is what starts. The installer, which would erase
	// the disk, is no system.
	m, ctx = boot(t, s.with(false))
	waitFor(t, ctx, m, `gangway-init .*: system: slot b$`)
	waitFor(t, ctx, m, `gangway-init .*: the hub has accepted a report`)
	rev = o.post(ctx, s.installer(t))
	if p = o.becomes(ctx, m, rev, "ERROR"); !strings.Contains(p.Message, "gangway.mode=auto") {
		t.Errorf("the owner reads %q", p.Message)
	}
	m.Stop()
	s.listed(t)
}

// A new system that comes up and does not reach the hub, or that hangs, falls
// back by itself: its first process restarts the machine, or the watchdog
// resets it.
func TestUpdatesThatDoNotServeFallBack(t *testing.T) {
	t.Parallel()
	long(t)
	s := newSite(t, stick.Config{})
	s.install(t)
	const tried = `gangway-init .*: system: slot b, which is tried; slot a is kept$`
	for _, c := range []struct {
		name, flags string
		change      func(p *stick.Parts)
		says        []string
	}{
		{"no agent", "-X main.trialTime=40s", func(p *stick.Parts) { p.Agent = p.Init }, // which is of no use there, and ends
			[]string{tried, `gangway-init .*: This new system was not made permanent within 40s`}},
		{"no driver for its disk", "-X main.trialTime=10s", func(p *stick.Parts) { p.Modules = without{p.Modules, "nvme"} },
			[]string{`gangway-init .*: The disk that this was started from cannot be found`}},
		{"nobody keeps the watchdog off", "-X main.watchdogEvery=1h", func(p *stick.Parts) { p.Agent = p.Init },
			[]string{`gangway-init .*: watchdog: iTCO_wdt, 60 s$`, tried}},
	} {
		m, ctx := boot(t, s.with(false))
		waitFor(t, ctx, m, `gangway-init .*: watchdog: iTCO_wdt, 60 s$`)
		waitFor(t, ctx, m, `gangway-init .*: the hub has accepted a report`)
		o := s.signIn(t)
		o.begun(ctx)
		seen := m.Lines()[len(m.Lines())-1].At
		bad := s.parts(t)
		bad.Init = otherInit(t, c.flags)
		c.change(&bad)
		rev := o.post(ctx, s.system(t, bad))
		at := seen
		for _, says := range c.says {
			at = after(t, ctx, m, at, says).At
		}
		back := after(t, ctx, m, at, `gangway-init .*: system: slot a$`)
		p := o.becomes(ctx, m, rev, "ERROR")
		if !strings.Contains(p.Message, "fell back to slot a") {
			t.Errorf("%s: the owner reads %q", c.name, p.Message)
		}
		t.Logf("%s: back %.1f s after it was posted", c.name, (back.At - seen).Seconds())
		m.Stop()
		s.listed(t)
	}
}

// without is a kernel's folder of modules, less one of them.
type without struct {
	fs.FS
	module string
}

func (w without) ReadFile(name string) ([]byte, error) {
	b, err := fs.ReadFile(w.FS, name)
	if name == "modules.builtin" { // what is built in is left out
		b = append(b, "kernel/"+w.module+".ko\n"...)
	}
	return b, err
}

// otherInit builds gangway-init with other settings.
func otherInit(t *testing.T, flags string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "gangway-init")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w "+flags, "-o", out, "gangway/cmd/gangway-init")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	return read(t, out)
}

// changed waits until the hub has seen another boot, and returns in which ways.
func (s *site) changed(t *testing.T, ctx context.Context) []string {
	t.Helper()
	for {
		if state, changes := s.booted(t); state == "changed" {
			return changes
		}
		select {
		case <-ctx.Done():
			t.Fatal("the hub does not see another boot")
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// moments of an update that serves, and of one that does not come up. From each
// on, the power may be cut.
var updateMoments = map[bool][]string{
	true: {
		`^Revision \d+ is offered`, `^Revision \d+ is being installed`, `^Revision \d+ needs the machine to start anew`,
		`: system: slot ., which is tried`, `^Revision \d+ is being tested`, `^Revision \d+ runs`,
	},
	false: {`^Revision \d+ is being installed`, `Rebooting in 5 seconds`, `^Revision \d+ is being tested`, `^Revision \d+ is rolled back`},
}

// Whenever the power is cut in an update, the machine comes up by itself with
// the former system or the new one, and the step says which; one that does not
// come up never stays. GANGWAY_POWER_CUTS and GANGWAY_POWER_SEED are as for
// TestPowerCuts.
func TestPowerCutsInUpdates(t *testing.T) {
	t.Parallel()
	long(t)
	s := newSite(t, stick.Config{})
	s.install(t)
	good, bad := s.parts(t), s.parts(t)
	bad.Init = bad.Agent
	cuts, seed := 3, uint64(time.Now().UnixNano())
	if n, err := strconv.Atoi(os.Getenv("GANGWAY_POWER_CUTS")); err == nil {
		cuts = n
	}
	if n, err := strconv.ParseUint(os.Getenv("GANGWAY_POWER_SEED"), 10, 64); err == nil {
		seed = n
	}
	t.Logf("GANGWAY_POWER_SEED=%d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	m, ctx := boot(t, s.with(false))
	waitFor(t, ctx, m, `gangway-init .*: this boot is good: gangway-a.efi`)
	o := s.signIn(t)
	o.begun(ctx)
	kept := "a"
	for cut := 1; cut <= cuts; cut++ {
		p, serves := good, r.IntN(3) > 0
		if !serves {
			p = bad
		}
		p.Kernel = bytes.Clone(p.Kernel)
		p.Kernel[0x200+int(binary.LittleEndian.Uint16(p.Kernel[0x20E:]))] = byte('a' + cut) // as otherKernel
		seen := m.Lines()[len(m.Lines())-1].At
		rev := o.post(ctx, s.system(t, p))
		moment := updateMoments[serves][r.IntN(len(updateMoments[serves]))]
		after(t, ctx, m, seen, `(`+moment+`)|^Revision \d+: (DONE|ERROR)`)
		time.Sleep(time.Duration(r.Int64N(int64(2 * time.Second))))
		m.Stop()
		lines := m.Lines()

		m, ctx = boot(t, s.with(false))
		waitFor(t, ctx, m, `gangway-init .*: the hub has accepted a report`)
		status, slot := o.ends(ctx, m, rev).Status, lastSlot(t, m)
		if (status == "DONE") == (slot == kept) || status == "DONE" && !serves {
			t.Errorf("cut %d behind %q: the step is %s, slot %s runs after slot %s", cut, moment, status, slot, kept)
		}
		kept = slot
		s.sound(t)
		t.Logf("cut %d behind %q; the last line was %q; a system that serves: %v; then %s, slot %s", cut, moment, lines[len(lines)-1].Text, serves, status, kept)
	}
	m.Stop()
	s.listed(t)
}

// sound has the EFI system partition looked at: a cut may leave clusters that
// are nobody's, but no file may have another's.
func (s *site) sound(t *testing.T) {
	t.Helper()
	const program = "/usr/sbin/fsck.fat"
	if _, err := os.Stat(program); err != nil {
		t.Log("the partition is not looked at: apt-get install dosfstools")
		return
	}
	i, err := install.Look(filepath.Dir(s.disk), filepath.Base(s.disk))
	if err != nil {
		t.Fatal(err)
	}
	disk, err := os.Open(s.disk)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	part, err := os.Create(filepath.Join(t.TempDir(), "esp"))
	if err == nil {
		_, err = io.Copy(part, io.NewSectionReader(disk, i.ESPStart, i.ESPSize))
		err = errors.Join(err, part.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(program, "-n", part.Name()).CombinedOutput() // not clean, to be sure: it is in use
	if !bytes.Contains(out, []byte(" files, ")) || bytes.Contains(out, []byte("share clusters")) || bytes.Contains(out, []byte("File size is")) {
		t.Errorf("the EFI system partition is damaged: %v: %s", err, out)
	}
	os.Remove(part.Name())
}

// lastSlot is what the machine has said last of what runs.
func lastSlot(t *testing.T, m *qemu.Machine) string {
	t.Helper()
	re := regexp.MustCompile(`gangway-init .*: system: slot (.)`)
	for _, l := range slices.Backward(m.Lines()) {
		if match := re.FindStringSubmatch(l.Text); match != nil {
			return match[1]
		}
	}
	t.Fatal("the machine does not say what runs")
	return ""
}

func (s *site) parts(t *testing.T) stick.Parts {
	t.Helper()
	p, err := installerParts()
	if err != nil {
		t.Fatal(err)
	}
	return *p
}

// system is a system's file of other parts.
func (s *site) system(t *testing.T, p stick.Parts) []byte {
	t.Helper()
	b, err := stick.System(&p, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// contents unpacks the stick.
func (s *site) contents(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("mcopy", "-s", "-i", s.stick+"@@1M", "::/", dir+"/").CombinedOutput(); err != nil {
		t.Fatalf("mcopy: %v: %s", err, out)
	}
	return dir
}

// installer is the stick's first entry.
func (s *site) installer(t *testing.T) []byte {
	t.Helper()
	return read(t, filepath.Join(s.contents(t), "EFI/Linux/gangway-auto.efi"))
}

// install puts on the disk what the stick would.
func (s *site) install(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("mcopy"); err != nil {
		t.Skip("not installed: mtools")
	}
	dir := s.contents(t)
	manifest := read(t, filepath.Join(dir, install.ManifestPath))
	m, err := install.ParseManifest(manifest)
	if err != nil {
		t.Fatal(err)
	}
	disk, err := install.OpenDevice(s.disk)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	job := install.Job{Manifest: m, Stick: os.DirFS(dir), Target: disk, DiskGUID: install.DiskGUID(fmt.Sprintf("%x", sha256.Sum256(manifest)))}
	if err := job.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// owner is the site's owner at the hub.
type owner struct {
	t      *testing.T
	hub    *hubtest.Hub
	client *http.Client
	token  string
	device string
}

func (s *site) signIn(t *testing.T) *owner {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(s.token.HubCA))
	o := &owner{t: t, hub: s.hub, client: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}}
	t.Cleanup(o.client.CloseIdleConnections)
	var session struct{ Token string }
	o.call(t.Context(), "POST", "/auth/login", map[string]string{"username": s.hub.Owner.Nick, "password": hubtest.Password}, &session)
	o.token = session.Token
	o.device = s.hub.Devices(t, s.hub.Owner)[0].ID
	return o
}

// call sends JSON, or the bytes that it is given, and wants an answer 200.
func (o *owner) call(ctx context.Context, method, path string, body, into any) {
	o.t.Helper()
	b, ok := body.([]byte)
	if !ok && body != nil {
		var err error
		if b, err = json.Marshal(body); err != nil {
			o.t.Fatal(err)
		}
	}
	if !strings.HasPrefix(path, "https://") {
		path = o.hub.URL + path
	}
	req, err := http.NewRequestWithContext(ctx, method, path, bytes.NewReader(b))
	if err != nil {
		o.t.Fatal(err)
	}
	if o.token != "" && strings.HasPrefix(path, o.hub.URL) && !strings.Contains(path, "/local-s3/") {
		req.Header.Set("Authorization", "Bearer "+o.token)
	}
	resp, err := o.client.Do(req)
	if err != nil {
		o.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		o.t.Fatalf("%s %s: %d %s %v", method, path, resp.StatusCode, answer, err)
	}
	if into != nil {
		if err := json.Unmarshal(answer, into); err != nil {
			o.t.Fatalf("%s %s: %v: %s", method, path, err, answer)
		}
	}
}

// begun waits until the device has a trail.
func (o *owner) begun(ctx context.Context) {
	o.t.Helper()
	for {
		if _, err := o.hub.Store.Trail(ctx, o.device); err == nil {
			return
		}
		select {
		case <-ctx.Done():
			o.t.Fatal("the trail does not begin")
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// post posts a revision with a system.
func (o *owner) post(ctx context.Context, system []byte) (rev int) {
	o.t.Helper()
	sum := fmt.Sprintf("%x", sha256.Sum256(system))
	var object struct {
		PutURL string `json:"signed-puturl"`
	}
	o.call(ctx, "POST", "/objects/", map[string]any{"objectname": slots.SystemPath, "size": fmt.Sprint(len(system)), "sha256sum": sum}, &object)
	o.call(ctx, "PUT", object.PutURL, system, nil)
	state := map[string]any{"#spec": "pantavisor-service-system@1", slots.SystemPath: sum}
	var step struct{ Rev int }
	o.call(ctx, "POST", "/trails/"+o.device+"/steps", map[string]any{"rev": -1, "commit-msg": "another system", "state": state}, &step)
	return step.Rev
}

// progress is what the hub knows of a step.
type progress struct {
	Status   string `json:"status"`
	Message  string `json:"status-msg"`
	Progress int    `json:"progress"`
}

// becomes waits for a step's end, which must be with a status.
func (o *owner) becomes(ctx context.Context, m *qemu.Machine, rev int, status string) progress {
	o.t.Helper()
	p := o.ends(ctx, m, rev)
	if p.Status != status {
		o.t.Fatalf("step %d is %s (%s), %s was expected; the console's last lines:\n%s", rev, p.Status, p.Message, status, m.Tail())
	}
	return p
}

// ends waits for a step's last status.
func (o *owner) ends(ctx context.Context, m *qemu.Machine, rev int) progress {
	o.t.Helper()
	for {
		var step struct{ Progress progress }
		o.call(ctx, "GET", fmt.Sprintf("/trails/%s/steps/%d", o.device, rev), nil, &step)
		if slices.Contains([]string{"DONE", "ERROR", "WONTGO", "UPDATED", "CANCEL"}, step.Progress.Status) {
			return step.Progress
		}
		select {
		case <-ctx.Done():
			o.t.Fatalf("step %d is %+v; the console's last lines:\n%s", rev, step.Progress, m.Tail())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

package qemu_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	mathrand "math/rand/v2"
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

	"gangway/device/console/access"
	"gangway/device/install"
	"gangway/device/install/diskkey"
	"gangway/device/install/slots"
	"gangway/image/stick"
	"gangway/internal/hubtest"
	"gangway/internal/qemu"
)

// The owner of an installed machine can update its system with revisions. The disk has two slots
// for systems. A system with another kernel boots from the other slot and becomes permanent. If a
// system's kernel panics, the machine boots the previous system without help, and the owner can
// read the cause. If a file is not a system, the machine refuses the file and does not boot it.
func TestSystemUpdates(t *testing.T) {
	t.Parallel()
	long(t)
	s := newSite(t, stick.Config{})
	s.install(t)
	parts := s.parts(t)
	m, ctx := boots(t, s.with(false), 4)
	waitFor(t, ctx, m, `gangway-init .*: system: slot a$`)
	waitFor(t, ctx, m, `gangway-init .*: this boot is good: gangway-a.efi`)
	o := s.signIn(t)
	o.begun(ctx)

	// The owner's policy requires measured boots, so the owner must accept the first boot of the
	// new system during its trial. Until then, the hub refuses the new system's requests.
	s.hub.Policy(t, s.hub.Owner.ID, "version: 1\nmeasured_boot: require\n")
	began := time.Now()
	other := parts
	other.Kernel = otherKernel(parts.Kernel)
	rev := o.post(ctx, s.system(t, other))
	waitFor(t, ctx, m, `gangway-init .*: system: slot b, on trial; slot a is the default$`)
	changes := s.changed(t, ctx)
	if !slices.ContainsFunc(changes, func(w string) bool { return strings.HasPrefix(w, "The kernel's hash differs") }) {
		t.Errorf("the changes of the boot do not name the kernel: %q", changes)
	}
	o.call(ctx, "POST", "/devices/"+o.device+"/boot/reference", map[string]string{"from": "latest"}, nil)
	if p := o.becomes(ctx, m, rev, "DONE"); p.Progress != 100 {
		t.Errorf("the revision is done, but its progress is %+v; want 100", p)
	}
	t.Logf("updated in %.1f s", time.Since(began).Seconds())

	// The new system's first process exits at once, so the kernel panics.
	began = time.Now()
	seen := m.Lines()[len(m.Lines())-1].At
	bad := parts
	bad.Init = parts.Agent
	rev = o.post(ctx, s.system(t, bad))
	after(t, ctx, m, seen, `Kernel panic - not syncing: Attempted to kill init!`)
	after(t, ctx, m, seen, `gangway-init .*: system: slot b$`)
	p := o.becomes(ctx, m, rev, "ERROR")
	if !strings.Contains(p.Message, "fell back to slot b") {
		t.Errorf("the owner reads %q; want the fallback to slot b", p.Message)
	}
	t.Logf("fell back in %.1f s", time.Since(began).Seconds())

	m.Stop()
	s.listed(t)

	// The committed system boots. The installer, which would erase the disk, is not accepted as a
	// system.
	m, ctx = boot(t, s.with(false))
	waitFor(t, ctx, m, `gangway-init .*: system: slot b$`)
	waitFor(t, ctx, m, `gangway-init .*: the hub has accepted a report`)
	rev = o.post(ctx, s.installer(t))
	if p = o.becomes(ctx, m, rev, "ERROR"); !strings.Contains(p.Message, "gangway.mode=auto") {
		t.Errorf("the owner reads %q; want the installer's mode", p.Message)
	}
	m.Stop()
	s.listed(t)
}

// If a new system does not reach the hub, its first process restarts the machine. If a new system
// hangs, the watchdog resets the machine. In both cases, the machine then boots the previous system
// without a person's help.
func TestUpdatesThatDoNotServeFallBack(t *testing.T) {
	t.Parallel()
	long(t)
	s := newSite(t, stick.Config{})
	s.install(t)
	const tried = `gangway-init .*: system: slot b, on trial; slot a is the default$`
	for _, c := range []struct {
		name, flags string
		change      func(p *stick.Parts)
		says        []string
	}{
		{"no agent", "-X main.trialTime=40s", func(p *stick.Parts) { p.Agent = p.Init }, // this program is not an agent: it exits at once
			[]string{tried, `gangway-init .*: The new system was not made permanent within 40s`}},
		{"no driver for its disk", "-X main.trialTime=10s", func(p *stick.Parts) { p.Modules = without{p.Modules, "nvme"} },
			[]string{`gangway-init .*: The disk that the machine was started from was not found`}},
		{"nobody keeps the watchdog off", "-X main.watchdogEvery=1h", func(p *stick.Parts) { p.Agent = p.Init },
			[]string{`gangway-init .*: watchdog: iTCO_wdt, 60 s$`, tried}},
	} {
		m, ctx := boots(t, s.with(false), 3)
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
			t.Errorf("%s: the owner reads %q; want the fallback to slot a", c.name, p.Message)
		}
		t.Logf("%s: fell back %.1f s after the post", c.name, (back.At - seen).Seconds())
		m.Stop()
		s.listed(t)
	}
}

// The type `without` is a folder with a kernel's modules, in which one module is missing.
type without struct {
	fs.FS
	module string
}

func (w without) ReadFile(name string) ([]byte, error) {
	b, err := fs.ReadFile(w.FS, name)
	if name == "modules.builtin" { // list the module as built in: then the image builder accepts that its file is missing
		b = append(b, "kernel/"+w.module+".ko\n"...)
	}
	return b, err
}

// otherInit builds gangway-init with these linker flags.
func otherInit(t *testing.T, flags string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "gangway-init")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w "+flags, "-o", out, "gangway/cmd/gangway-init")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %.500s", err, b)
	}
	return read(t, out)
}

// The method `changed` waits until the hub reports the machine's boot as changed, and returns the
// list of changes.
func (s *site) changed(t *testing.T, ctx context.Context) []string {
	t.Helper()
	for {
		if state, changes := s.booted(t); state == "changed" {
			return changes
		}
		select {
		case <-ctx.Done():
			t.Fatal("the hub does not report a changed boot")
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// updateMoments contains the moments of an update at which a test may cut the power. The key true
// is for a system that works, the key false for a system that does not boot.
var updateMoments = map[bool][]string{
	true: {
		`^The hub offers revision \d+`, `^Installing revision \d+`, `^Rebooting the machine for revision \d+`,
		`: system: slot ., on trial`, `^Testing revision \d+`, `^Revision \d+ runs`,
	},
	false: {`^Installing revision \d+`, `Rebooting in 5 seconds`, `^Testing revision \d+`, `^Rolling back revision \d+`},
}

// A power cut at any moment of an update leaves a machine that boots without help. The machine then
// runs the previous or the new system, and the revision's status says which. A system that does not
// boot never becomes permanent. GANGWAY_POWER_CUTS and GANGWAY_POWER_SEED have the same meaning as
// in TestPowerCuts.
func TestPowerCutsInUpdates(t *testing.T) {
	t.Parallel()
	long(t)
	s := newSite(t, stick.Config{})
	s.install(t)
	m, ctx := boots(t, s.with(false), bootsOfUpdate)
	waitFor(t, ctx, m, `gangway-init .*: this boot is good: gangway-a.efi`)
	s.cutUpdates(t, ctx, m, s.parts(t), updateMoments, `the hub has accepted a report`)
}

// If the power fails at any moment of an update, or while the agent binds the key of the disk to
// other systems, the TPM still opens the disk afterwards without help.
func TestPowerCutsWithABoundDisk(t *testing.T) {
	t.Parallel()
	long(t)
	owner, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	s := newSiteOf(t, func(p *stick.Parts) { p.Owner = owner }, func(*site) stick.Config { return stick.Config{} })
	m, ctx := boot(t, s.with(true))
	chooseAutoTPM(t, ctx, m)
	// The first power cut interrupts the first binding of the disk's key, which replaces the
	// installer's passphrase.
	const bound, opens = `gangway-init .*: the disk's key is bound to the owner's systems`, `the disk's key came from the TPM`
	waitFor(t, ctx, m, `gangway-init .*: `+opens)
	pause := time.Duration(mathrand.Int64N(int64(time.Second)))
	time.Sleep(pause)
	m.Stop()
	before, err := diskkey.IsBound(bytes.NewReader(s.data(t)))
	t.Logf("cut in the first binding, after %s; the header is bound: %v, %v", pause, before, err)
	m, ctx = boots(t, s.with(false), bootsOfUpdate)
	waitFor(t, ctx, m, `gangway-init .*: `+opens)
	waitFor(t, ctx, m, `gangway-init .*: this boot is good: gangway-a.efi`)
	if now, err := diskkey.IsBound(bytes.NewReader(s.data(t))); !now || err != nil {
		t.Errorf("after the cut, the disk is not bound: %v", err)
	}
	good := s.parts(t)
	good.Owner = owner
	moments := maps.Clone(updateMoments)
	moments[true] = append(slices.Clone(moments[true]), bound)
	s.cutUpdates(t, ctx, m, good, moments, opens)
}

// bootsOfUpdate is the largest number of boots between two power cuts in cutUpdates: one boot after
// the first cut; then, for the interrupted update, its trial and the return to the previous system;
// and then the same two boots for the next update.
const bootsOfUpdate = 5

// cutUpdates posts updates, and cuts the power once in each update, at a random moment of
// `moments`. The updates are built from the parts `good`, except that about one in three does not
// boot. At the next start after a cut, the machine must print a line that matches `opens`, and the
// revision must get a final status.
func (s *site) cutUpdates(t *testing.T, ctx context.Context, m *qemu.Machine, good stick.Parts, moments map[bool][]string, opens string) {
	t.Helper()
	bad := good
	bad.Init = bad.Agent
	cuts, seed := 3, uint64(time.Now().UnixNano())
	if n, err := strconv.Atoi(os.Getenv("GANGWAY_POWER_CUTS")); err == nil {
		cuts = n
	}
	if n, err := strconv.ParseUint(os.Getenv("GANGWAY_POWER_SEED"), 10, 64); err == nil {
		seed = n
	}
	t.Logf("GANGWAY_POWER_SEED=%d", seed)
	r := mathrand.New(mathrand.NewPCG(seed, 0))
	o := s.signIn(t)
	o.begun(ctx)
	kept := "a"
	for cut := 1; cut <= cuts; cut++ {
		p, serves := good, r.IntN(3) > 0
		if !serves {
			p = bad
		}
		p.Kernel = bytes.Clone(p.Kernel)
		p.Kernel[0x200+int(binary.LittleEndian.Uint16(p.Kernel[0x20E:]))] = byte('a' + cut) // change the version text in the kernel's header, as otherKernel does
		seen := m.Lines()[len(m.Lines())-1].At
		rev := o.post(ctx, s.system(t, p))
		moment := moments[serves][r.IntN(len(moments[serves]))]
		after(t, ctx, m, seen, `(`+moment+`)|^Revision \d+: (DONE|ERROR)`)
		time.Sleep(time.Duration(r.Int64N(int64(2 * time.Second))))
		m.Stop()
		lines := m.Lines()

		m, ctx = boots(t, s.with(false), bootsOfUpdate)
		waitFor(t, ctx, m, `gangway-init .*: `+opens)
		waitFor(t, ctx, m, `gangway-init .*: the hub has accepted a report`)
		status, slot := o.ends(ctx, m, rev).Status, lastSlot(t, m)
		if (status == "DONE") == (slot == kept) || status == "DONE" && !serves {
			t.Errorf("cut %d after %q: the revision is %s, slot %s runs, before it was slot %s", cut, moment, status, slot, kept)
		}
		kept = slot
		s.sound(t)
		t.Logf("cut %d after %q; the last line was %q; the new system works: %v; then %s, slot %s", cut, moment, lines[len(lines)-1].Text, serves, status, kept)
	}
	m.Stop()
	s.listed(t)
}

// The method `sound` checks the EFI system partition of the disk. A power cut may leave clusters
// that belong to no file, but no cluster may belong to two files.
func (s *site) sound(t *testing.T) {
	t.Helper()
	const program = "/usr/sbin/fsck.fat"
	if _, err := os.Stat(program); err != nil {
		t.Log("the partition is not checked: fsck.fat is not installed (apt-get install dosfstools)")
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
	out, err := exec.Command(program, "-n", part.Name()).CombinedOutput() // fsck never reports "clean", because the partition was in use at the power cut
	if !bytes.Contains(out, []byte(" files, ")) || bytes.Contains(out, []byte("share clusters")) || bytes.Contains(out, []byte("File size is")) {
		t.Errorf("the EFI system partition is damaged: %v: %.500s", err, out)
	}
	os.Remove(part.Name())
}

// lastSlot returns the system slot of the disk from which the machine runs. It reads the slot from
// the last console line that names the running system.
func lastSlot(t *testing.T, m *qemu.Machine) string {
	t.Helper()
	re := regexp.MustCompile(`gangway-init .*: system: slot (.)`)
	for _, l := range slices.Backward(m.Lines()) {
		if match := re.FindStringSubmatch(l.Text); match != nil {
			return match[1]
		}
	}
	t.Fatal("the machine has not printed its slot")
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

// system builds the file of an installed system from these parts.
func (s *site) system(t *testing.T, p stick.Parts) []byte {
	t.Helper()
	b, err := stick.System(&p, nil, access.Full)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// contents unpacks the stick's EFI system partition to a folder.
func (s *site) contents(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("mcopy", "-s", "-i", s.stick+"@@1M", "::/", dir+"/").CombinedOutput(); err != nil {
		t.Fatalf("mcopy: %v: %.300s", err, out)
	}
	return dir
}

// installer returns the unified kernel image of the first menu entry on the stick.
func (s *site) installer(t *testing.T) []byte {
	t.Helper()
	return read(t, filepath.Join(s.contents(t), "EFI/Linux/gangway-auto.efi"))
}

// install writes the stick's system to the disk as the installer would, but without booting the
// stick.
func (s *site) install(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("mcopy"); err != nil {
		t.Skip("mcopy is not installed: apt-get install mtools")
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

// owner is a client of the hub's API that is signed in as the site's owner.
type owner struct {
	t        *testing.T
	hub      *hubtest.Hub
	client   *http.Client
	token    string
	device   string
	uploaded []string // SHA-256 of each uploaded file
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
	if devices := s.hub.Devices(t, s.hub.Owner); len(devices) > 0 {
		o.device = devices[0].ID
	}
	return o
}

// call sends a request and requires status 200. `body` is sent as JSON, or unchanged if it is a
// byte slice. The response is decoded into the value `into`.
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
		o.t.Fatalf("%s %s: %d %.200s %v", method, path, resp.StatusCode, answer, err)
	}
	if into != nil {
		if err := json.Unmarshal(answer, into); err != nil {
			o.t.Fatalf("%s %s: %v: %.200s", method, path, err, answer)
		}
	}
}

// The method `begun` waits until the device has a trail on the hub.
func (o *owner) begun(ctx context.Context) {
	o.t.Helper()
	for {
		if _, err := o.hub.Store.Trail(ctx, o.device); err == nil {
			return
		}
		select {
		case <-ctx.Done():
			o.t.Fatal("the device has not begun its trail")
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// post posts a revision that contains this system's file, and returns the revision's number.
func (o *owner) post(ctx context.Context, system []byte) (rev int) {
	o.t.Helper()
	return o.postState(ctx, map[string]any{"#spec": "pantavisor-service-system@1", slots.SystemPath: o.upload(ctx, system)})
}

// upload uploads the file of a system, if it has not uploaded this file before. It returns the
// file's SHA-256.
func (o *owner) upload(ctx context.Context, system []byte) string {
	o.t.Helper()
	sum := fmt.Sprintf("%x", sha256.Sum256(system))
	if slices.Contains(o.uploaded, sum) {
		return sum
	}
	o.uploaded = append(o.uploaded, sum)
	var object struct {
		PutURL string `json:"signed-puturl"`
	}
	o.call(ctx, "POST", "/objects/", map[string]any{"objectname": slots.SystemPath, "size": fmt.Sprint(len(system)), "sha256sum": sum}, &object)
	o.call(ctx, "PUT", object.PutURL, system, nil)
	return sum
}

// postState posts a revision with this state, and returns the revision's number.
func (o *owner) postState(ctx context.Context, state map[string]any) int {
	o.t.Helper()
	var step struct{ Rev int }
	o.call(ctx, "POST", "/trails/"+o.device+"/steps", map[string]any{"rev": -1, "commit-msg": "another system", "state": state}, &step)
	return step.Rev
}

// progress is the progress of a revision as the hub returns it.
type progress struct {
	Status   string `json:"status"`
	Message  string `json:"status-msg"`
	Progress int    `json:"progress"`
}

// The method `becomes` waits until a revision has a final status, and checks that the final status
// is `status`.
func (o *owner) becomes(ctx context.Context, m *qemu.Machine, rev int, status string) progress {
	o.t.Helper()
	p := o.ends(ctx, m, rev)
	if p.Status != status {
		o.t.Fatalf("revision %d is %s (%s), want %s; the console's last lines:\n%s", rev, p.Status, p.Message, status, m.Tail())
	}
	return p
}

// The method `ends` waits until a revision has a final status, and returns its progress.
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
			o.t.Fatalf("revision %d has no final status: %+v; the console's last lines:\n%s", rev, step.Progress, m.Tail())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

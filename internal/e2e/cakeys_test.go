package e2e_test

import (
	"bytes"
	"crypto/x509"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/device/agent"
	"gangway/hub/pki"
	"gangway/internal/brief"
	"gangway/internal/hubtest"
	"gangway/internal/softhsm"
	"gangway/internal/swtpm"
)

// An operator can keep the root offline with the commands of the chapter "Keys of the CAs": first
// at a new hub, then at a hub that made its own root. The CAs of the second hub then get keys in a
// TPM and in an HSM. A device onboards, and connects to the hub again after each renewal. The hub
// never has the key of the offline root.
func TestOperationsKeysOfTheCAs(t *testing.T) {
	if testing.Short() {
		t.Skip("starts two TPMs, and a hub six times")
	}
	t.Parallel()
	tpm := newTPM(t, swtpm.P384)
	hubTPM := newTPM(t, swtpm.None)
	o := newOperator(t)
	words := []string{"0x81010060", "0x81010060?device=" + hubTPM.Address(), "0x81010061", "0x81010061?device=" + hubTPM.Address(),
		"0x81010070", "0x81010070?device=" + hubTPM.Address(), "/media/vault", o.at("vault"), "--listen :12443", "--listen " + strings.TrimPrefix(o.old, "https://"),
		"https://hub.example:12443", o.old, "/var/lib/gangway", o.at("hub"), "$HUB_NAME", "$(cat hub-name)"}
	var signer *signerProgram
	if os.Getenv("GANGWAY_HSM") != "" {
		signer = newSignerProgram(t)
		words = append(words, "/etc/gangway-signer/pin", signer.token.PINFile, "/run/gangway-signer/socket", signer.socket)
	}
	o.words = strings.NewReplacer(words...)
	for _, dir := range []string{"vault", "hub"} {
		if err := os.Mkdir(o.at(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	o.env = append(o.env, "TPM2TOOLS_TCTI="+hubTPM.TCTI())
	serve, state := "", o.at("state")
	installed := 0
	stopSigner := func() {}
	lines := chapter(t, "Keys of the CAs")
	if signer == nil { // compiling gangway-signer takes 20 s of CPU time, so only make hsm does it
		lines = lines[:slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, "gangway-signer") })]
	}
	for _, line := range lines {
		switch {
		case strings.HasPrefix(line, "gangway ca init"):
			o.types(line, "> hub-name")
		case strings.HasPrefix(line, "gangway ca issue"):
			o.types("echo yes | " + line)
		case strings.HasPrefix(line, "gangway serve"):
			serve = line
			o.types(line)
			o.account(tpm)
			o.types("gangway token create -o first.json")
			o.types("gangway-agent onboard --token-file first.json", ofMachine(tpm, state))
			o.waitForReportAt(tpm, state, o.old)
			if o.has("hub/pki/root.key") {
				t.Error("the hub has the root's key")
			}
		case strings.HasPrefix(line, "gangway ca request --data /var/lib/gangway --ca tls-ca -o request-3.pem"):
			// From here on, the hub is another hub, which made its own root.
			o.end()
			for _, name := range []string{"hub", "state"} {
				if err := os.Rename(o.at(name), o.at("former-"+name)); err != nil {
					t.Fatal(err)
				}
			}
			o.types(serve)
			o.account(tpm)
			o.types("gangway token create -o second.json")
			o.types("gangway-agent onboard --token-file second.json", ofMachine(tpm, state))
			o.types(line)
		case strings.HasPrefix(line, "gangway ca install"):
			o.types(line)
			if installed++; installed > 1 {
				o.types(serve)
				o.waitForReportAt(tpm, state, o.old)
			}
		case strings.HasPrefix(line, "gangway-signer create-key"):
			signer.run(strings.Fields(o.words.Replace(line))[1:]...)
		case strings.HasPrefix(line, "gangway-signer serve"):
			// In the test, the signer runs as the Unix user root, and not as the user
			// gangway-signer of docs/operations.md. The second signer of this document runs on
			// the machine that has the key of the offline root.
			stopSigner()
			var keys []string
			for _, m := range regexp.MustCompile(`--key (\S+)`).FindAllStringSubmatch(line, -1) {
				keys = append(keys, m[1])
			}
			stopSigner = signer.serve(keys...)
		default:
			o.types(line)
		}
	}
	if o.has("hub/pki/root.key") || !o.has("vault/old-root/root.key") {
		t.Error("the root's key is not only in the vault")
	}
	if matches, err := filepath.Glob(o.at("hub/pki/*.uri")); err != nil || len(matches) < 2 {
		t.Errorf("the keys are still in files: %v", matches)
	}
}

// The method `has` reports whether a file exists in the operator's folder.
func (o *operator) has(name string) bool {
	_, err := os.Lstat(o.at(name))
	return err == nil
}

// hubWithKeys starts a hub whose root is offline. `rootURI` is the URI of the root's key, and
// `uris` has the URIs of the CAs' keys, by name.
func hubWithKeys(t *testing.T, tpm *swtpm.TPM, rootURI string, uris map[string]string) *hubtest.Hub {
	t.Helper()
	dir, vault := t.TempDir(), filepath.Join(t.TempDir(), "root")
	root, err := pki.MakeRoot(t.Context(), vault, rootURI, pki.Options{Name: "Test"})
	if err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, "pki")
	request, _, err := pki.NewRequest(t.Context(), at, pki.RequestOptions{Keys: uris})
	if err != nil {
		t.Fatal(err)
	}
	plan, err := root.Plan(request, time.Now(), pki.DefaultTLSLife)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := root.Issue(plan)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Install(at, answer, root.HubName(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if keys, err := filepath.Glob(filepath.Join(at, "*.key")); err != nil || len(keys) != 1 { // the seal key
		t.Fatalf("the keys in files are %v", keys)
	}
	if keys, err := filepath.Glob(filepath.Join(vault, "*.key")); err != nil || len(keys) != 0 {
		t.Fatalf("the root's keys in files are %v", keys)
	}
	return hubtest.NewIn(t, dir, nil, tpm.Roots(), []*x509.Certificate{tpm.Issuer()})
}

// checkWholeOnboarding onboards a machine, lets its agent report, and lets OpenSSL verify the hub's
// certificates. It returns the agent's state folder.
func checkWholeOnboarding(t *testing.T, h *hubtest.Hub, tpm *swtpm.TPM) (state string) {
	t.Helper()
	state = t.TempDir()
	s := checkOnboarding(t, h, tpm, state)
	d, err := h.Store.Device(t.Context(), s.DeviceID)
	if err != nil {
		t.Fatal(err)
	}
	e, err := h.Store.Enrolment(t.Context(), d.Enrolment)
	if err != nil {
		t.Fatal(err)
	}
	opensslVerifies(t, h, e.IAKCert, h.CA.ACA())
	opensslVerifies(t, h, e.IDevIDCert, h.CA.DeviceCA())
	opensslConnects(t, h)
	checkReports(t, tpm, state)
	return state
}

// checkReports runs the agent until the hub has accepted a report.
func checkReports(t *testing.T, tpm *swtpm.TPM, state string) {
	t.Helper()
	before := readState(t, state).LastSeen
	time.Sleep(time.Until(before.Add(time.Second))) // LastSeen has whole seconds
	stop := onboardAndRun(t, agent.Config{TPM: tpm.Address(), StateDir: state})
	defer stop()
	for range 800 {
		if readState(t, state).LastSeen.After(before) {
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatalf("the hub accepts no report: %s", brief.Of(readState(t, state)))
}

// The whole onboarding works if the keys of all CAs are in the TPM of the hub's machine, and the
// key of the offline root is in the TPM of another machine.
func TestOnboardingWithCAKeysInATPM(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.P384)
	hubTPM, rootTPM := newTPM(t, swtpm.None), newTPM(t, swtpm.None)
	at := func(handle string) string { return "tpm:" + handle + "?device=" + hubTPM.Address() }
	h := hubWithKeys(t, tpm, "tpm:0x81010070?device="+rootTPM.Address(), map[string]string{"aca": at("0x81010060"), "device-ca": at("0x81010061"), "tls-ca": at("0x81010062")})
	checkWholeOnboarding(t, h, tpm)
}

// The whole onboarding works if the keys of the root and of all CAs are in an HSM, with the real
// gangway-signer. A signer without --key root signs nothing with the root's key. If
// the signer is down, the hub issues nothing, but its devices stay connected. When the signer is up
// again, a waiting machine onboards, and the hub needs no restart.
func TestOnboardingWithCAKeysInAnHSM(t *testing.T) {
	if os.Getenv("GANGWAY_HSM") == "" {
		t.Skip("compiling gangway-signer takes 20 s of CPU time: run make hsm")
	}
	tpm := newTPM(t, swtpm.P384)
	s := newSignerProgram(t)
	uris := map[string]string{}
	for name, curve := range map[string]string{"root": "P-384", "aca": "P-256", "device-ca": "P-384", "tls-ca": "P-256"} {
		s.run(append([]string{"create-key", name, "--curve", curve}, s.token.Flags()...)...)
		uris[name] = "signer:" + s.socket + "?key=" + name
	}
	rootURI := uris["root"]
	delete(uris, "root")
	stop := s.serve("root", "aca", "device-ca", "tls-ca")
	h := hubWithKeys(t, tpm, rootURI, uris)
	stop()
	stop = s.serve(caKeys...)
	if _, err := pki.MakeRoot(t.Context(), filepath.Join(t.TempDir(), "root"), rootURI, pki.Options{}); err == nil || !strings.Contains(err.Error(), "no such key") {
		t.Errorf("a signer without --key root: %v", err)
	}
	state := checkWholeOnboarding(t, h, tpm)
	stop()
	if err := h.CA.Prove(); err == nil || !strings.Contains(err.Error(), "gangway-signer") {
		t.Errorf("without the signer: %v", err)
	}
	checkReports(t, tpm, state)
	token, fresh, done := h.Token(t, h.Owner, nil), t.TempDir(), make(chan error, 1)
	go func() {
		_, err := onboard(t, tpm, token, fresh)
		done <- err
	}()
	select {
	case err := <-done:
		t.Errorf("without the signer, the onboarding ends: %v", err)
		return
	case <-time.After(2 * time.Second):
	}
	s.serve(caKeys...)
	if err := <-done; err != nil {
		t.Errorf("after the signer's restart: %v", err)
	}
}

// signerProgram is the program gangway-signer with a token of SoftHSM.
type signerProgram struct {
	t                 *testing.T
	token             *softhsm.Token
	dir, path, socket string
}

func newSignerProgram(t *testing.T) *signerProgram {
	t.Helper()
	token := softhsm.New(t)
	dir, err := os.MkdirTemp("", "signer") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &signerProgram{t, token, dir, filepath.Join(dir, "gangway-signer"), filepath.Join(dir, "socket")}
	build := exec.Command("go", "build", "-o", s.path, ".")
	build.Dir, build.Env = "../../cmd/gangway-signer", append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	return s
}

func (s *signerProgram) command(arg ...string) *exec.Cmd {
	c := exec.Command(s.path, arg...)
	c.Env = append(os.Environ(), "SOFTHSM2_CONF="+s.token.Config)
	return c
}

func (s *signerProgram) run(arg ...string) {
	s.t.Helper()
	if out, err := s.command(arg...).CombinedOutput(); err != nil {
		s.t.Fatalf("gangway-signer %v: %v: %s", arg, err, out)
	}
}

// caKeys are the names of the keys of the three CAs.
var caKeys = []string{"aca", "device-ca", "tls-ca"}

// serve starts the signer for these keys, and returns a function that stops it.
func (s *signerProgram) serve(keys ...string) (stop func()) {
	s.t.Helper()
	c := s.command(append([]string{"serve", "--socket", s.socket, "--key", strings.Join(keys, ",")}, s.token.Flags()...)...)
	var said bytes.Buffer
	c.Stderr = &said
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		c.Process.Signal(os.Interrupt)
		if err := c.Wait(); err != nil {
			s.t.Errorf("gangway-signer: %v: %s", err, said.String())
		}
	}
	s.t.Cleanup(stop)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if conn, err := net.Dial("unix", s.socket); err == nil {
			conn.Close()
			return stop
		}
		if time.Now().After(deadline) {
			s.t.Fatal("gangway-signer does not listen")
		}
	}
}

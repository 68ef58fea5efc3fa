package e2e_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/hubtest"
	"gangway/internal/swtpm"
	"gangway/tcg"
	"gangway/wire"
)

// python is Debian's interpreter, for which the Python packages that the tests need are installed.
// The first interpreter in PATH may be another one.
const python = "/usr/bin/python3"

// needPython skips the test if examples/device.py cannot run here.
func needPython(t testing.TB) {
	t.Helper()
	if out, err := exec.Command(python, "-c", "import cryptography, tpm2_pytss").CombinedOutput(); err != nil {
		t.Skipf("Python's packages are not installed; scripts/install.sh installs them: %s", out)
	}
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed; scripts/install.sh installs it")
	}
	// Read the files of the example. Otherwise go test would use a cached result after a change of
	// these files.
	for _, file := range []string{"device.py", "tpm.py", "tls13.py"} {
		if _, err := os.ReadFile("../../examples/" + file); err != nil {
			t.Fatal(err)
		}
	}
}

// onboardByPython runs examples/device.py on a TPM. It returns the hub's record of the device,
// which the program prints on standard output, and the program's messages on standard error.
func onboardByPython(t testing.TB, ctx context.Context, tpm *swtpm.TPM, tok *wire.TokenFile, state string, args ...string) (record []byte, said string, err error) {
	t.Helper()
	b, err := json.Marshal(tok)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "token.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	args = append([]string{"../../examples/device.py", "--model", "test machine", "--serial", "0001"}, args...)
	c := exec.CommandContext(ctx, python, append(args, file, tpm.TCTI(), state)...)
	c.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "TSS2_LOG=all+NONE")
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.WaitDelay = 10 * time.Second
	var stdout, stderr bytes.Buffer
	c.Stdout, c.Stderr = &stdout, &stderr
	err = c.Run()
	return stdout.Bytes(), stderr.String(), err
}

// The Python device examples/device.py onboards with each kind of key. Its keys equal those that
// the agent makes. It was written from docs/protocol.md only, so the test shows that
// docs/protocol.md is complete.
func TestPythonOnboards(t *testing.T) {
	needPython(t)
	for name, c := range map[string]struct {
		ek        swtpm.EK
		args      []string
		want, key string
	}{
		"EK P-384":                    {swtpm.P384, nil, "H-3", "ECDSA P-256"},
		"EK RSA 2048, keys on P-521":  {swtpm.RSA2048, []string{"--key", "H-4"}, "L-1", "ECDSA P-521"},
		"EK P-384, keys of RSA 2048":  {swtpm.P384, []string{"--key", "H-1"}, "H-3", "RSA 2048"},
		"EK of choice, keys on P-384": {swtpm.P384, []string{"--ek", "L-1", "--key", "H-3"}, "L-1", "ECDSA P-384"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tpm := newTPM(t, c.ek)
			if err := tpm.WriteNV(0x01C00100, tpm.Issuer().Raw); err != nil { // store the maker's chain in the TPM's NV
				t.Fatal(err)
			}
			h := hubtest.New(t, tpm.Roots(), nil)
			tok := h.Token(t, h.Owner, nil)
			before := persistentHandles(t, tpm)
			state := filepath.Join(t.TempDir(), "state")
			var activated time.Time
			for run := range 2 { // in the second run, the device already has its identity
				record, said, err := onboardByPython(t, t.Context(), tpm, tok, state, c.args...)
				if err != nil {
					t.Fatalf("device.py: %v: %s", err, said)
				}
				if first := strings.Contains(said, "Endorsement key "+c.want+", with its certificate."); first != (run == 0) {
					t.Errorf("run %d: the messages are %q", run, said)
				}
				devices := h.Devices(t, h.Owner)
				if len(devices) != 1 || h.Uses(t, tok) != 1 {
					t.Fatalf("%d devices, %d uses of the join token; want 1 and 1", len(devices), h.Uses(t, tok))
				}
				var shown struct{ ID, Key string }
				if err := json.Unmarshal(record, &shown); err != nil || shown.ID != devices[0].ID || shown.Key != c.key {
					t.Errorf("the record has %+v, %v; the hub has the device %q", shown, err, devices[0].ID)
				}
				if run == 1 && !devices[0].Activated.Equal(activated) {
					t.Error("the second run activated the device again")
				}
				activated = devices[0].Activated
			}
			wantNoSecretIn(t, state, tok.Token)
			if after := persistentHandles(t, tpm); after != before {
				t.Errorf("left in the TPM: %s, before: %s", after, before)
			}
			b, err := os.ReadFile(filepath.Join(state, "aik.pem"))
			if err != nil {
				t.Fatal(err)
			}
			ak, _ := pem.Decode(b)
			if cert, err := x509.ParseCertificate(ak.Bytes); err != nil || cert.CheckSignatureFrom(h.CA.ACA()) != nil {
				t.Errorf("aik.pem: %v", err)
			}
			if c.key == "ECDSA P-256" {
				wantAgentKeys(t, tpm, h, h.Devices(t, h.Owner)[0].Enrolment)
			}
		})
	}
}

// The Python device can be stopped while it waits for its owner's approval. After a restart it
// sends the same request again, and onboards after the owner approved it.
func TestPythonWaitsForItsOwner(t *testing.T) {
	needPython(t)
	t.Parallel()
	tpm := newTPM(t, swtpm.RSA2048)
	h := hubtest.New(t, nil, nil)
	ada := signIn(t, h)
	tok := h.Token(t, h.Owner, nil)
	state := t.TempDir()

	type waiting struct {
		ID        string
		Questions []string
	}
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan []waiting, 1)
	go func() {
		defer cancel()
		var list []waiting
		for t.Context().Err() == nil && len(list) == 0 {
			ada.call("GET", "/devices/waiting", nil, &list)
			time.Sleep(50 * time.Millisecond)
		}
		stopped <- list
	}()
	if _, said, err := onboardByPython(t, ctx, tpm, tok, state); err == nil {
		t.Fatalf("the device did not wait for its owner: %s", said)
	}
	list := <-stopped
	if len(list) != 1 {
		t.Fatalf("%d devices wait, want 1", len(list))
	}
	request, err := os.ReadFile(filepath.Join(state, "request"))
	if err != nil {
		t.Fatal(err)
	}
	ada.call("POST", "/devices/"+list[0].ID+"/approve", map[string][]string{"questions": list[0].Questions}, new(any))
	record, said, err := onboardByPython(t, t.Context(), tpm, tok, state)
	d := h.Devices(t, h.Owner)
	if len(d) != 1 {
		t.Fatalf("%d devices, want 1", len(d))
	}
	if err != nil || !bytes.Contains(record, []byte(d[0].ID)) {
		t.Fatalf("device.py: %v: %s", err, said)
	}
	if e, err := h.Store.Enrolment(t.Context(), d[0].Enrolment); err != nil || !bytes.Equal(e.Request, request) {
		t.Errorf("the device made another request: %v", err)
	}
}

// The Python device prints the hub's error messages. If a new request can help, the device sends a
// new request without any action by a person.
func TestPythonSaysWhatIsWrong(t *testing.T) {
	needPython(t)
	t.Parallel()
	tpm := newTPM(t, swtpm.RSA2048)
	h := newHub(t, tpm)
	for name, c := range map[string]struct {
		tok  *wire.TokenFile
		want string
	}{
		"a disabled token": {h.Token(t, h.Owner, func(t *store.JoinToken) { t.Disabled = true }), "(token-unusable)"},
		"another hub's CA": {func() *wire.TokenFile {
			other := *h.Token(t, h.Owner, nil)
			other.HubCA = hubtest.New(t, nil, nil).Token(t, h.Owner, nil).HubCA
			return &other
		}(), "is not by the hub's CA"},
		"a token without a secret": {&wire.TokenFile{ID: strings.Repeat("0", 24)}, "device.py: "},
	} {
		_, said, err := onboardByPython(t, t.Context(), tpm, c.tok, t.TempDir())
		if err == nil || !strings.Contains(said, c.want) || strings.Contains(said, "Traceback") {
			t.Errorf("%s: error %v, messages %q", name, err, said)
		}
	}
	if n := len(h.Devices(t, h.Owner)); n != 0 {
		t.Errorf("%d devices, want 0", n)
	}

	// The owner deletes the device after the request, and the device sends the same request
	// again.
	tok, state := h.Token(t, h.Owner, nil), t.TempDir()
	if _, said, err := onboardByPython(t, t.Context(), tpm, tok, state); err != nil {
		t.Fatalf("device.py: %v: %s", err, said)
	}
	d := h.Devices(t, h.Owner)[0]
	e, err := h.Store.Enrolment(t.Context(), d.Enrolment)
	if err := errors.Join(err, os.WriteFile(filepath.Join(state, "request"), e.Request, 0o600), os.Remove(filepath.Join(state, "identity.pem")),
		h.Store.DeleteDevice(t.Context(), h.Owner.ID, d.ID, h.Now())); err != nil {
		t.Fatal(err)
	}
	_, said, err := onboardByPython(t, t.Context(), tpm, tok, state)
	if err != nil || !strings.Contains(said, "(device-revoked)") || !strings.Contains(said, "A new request is made.") {
		t.Errorf("device.py: %v: %s", err, said)
	}
	if again := h.Devices(t, h.Owner); len(again) != 1 || again[0].ID == d.ID {
		t.Errorf("devices %s, want one with a new id", brief.Of(again))
	}
}

// The Python device builds the key templates from the attributes of the keys. The templates equal
// the templates of package tcg. The test covers all algorithms, including those for which no
// software TPM here has an EK certificate.
func TestPythonTemplates(t *testing.T) {
	needPython(t)
	t.Parallel()
	out, err := exec.Command(python, "-B", "-c", `
import sys
sys.path.insert(0, "../../examples")
import tpm
for t in tpm.EKS + [f(n) for f in (tpm.iak_template, tpm.idevid_template) for n in sorted(tpm.DEVIDS)]:
    print(t.name, t.public.hex(), "%08x" % (t.certificate or 0), *[b.hex() for b in t.branches or []])
`).CombinedOutput()
	if err != nil {
		t.Fatalf("printing the templates: %v: %s", err, out)
	}
	var want strings.Builder
	for _, template := range slices.Concat(tcg.EKTemplates, tcg.IAKTemplates, tcg.IDevIDTemplates) {
		fmt.Fprintf(&want, "%s %x %08x", template.Name, template.Public.Raw, template.CertificateIndex)
		for _, b := range template.PolicyBranches {
			fmt.Fprintf(&want, " %x", b)
		}
		want.WriteString("\n")
	}
	if string(out) != want.String() {
		reportFirstDifference(t, string(out), want.String())
	}
}

// reportFirstDifference fails the test and prints the first line that differs.
func reportFirstDifference(t *testing.T, got, want string) {
	t.Helper()
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			t.Fatalf("line %d: Python has %s, package tcg has %s", i+1, brief.Of(g[i]), brief.Of(w[i]))
		}
	}
	t.Fatalf("Python has %d lines, package tcg has %d", len(g), len(w))
}

package e2e_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"gangway/device/identity"
	"gangway/hub/store"
	"gangway/internal/hubtest"
	"gangway/internal/swtpm"
	"gangway/wire"
)

// needShell skips the test if programs that examples/onboard.sh uses are not installed.
func needShell(t testing.TB) {
	t.Helper()
	var missing []string
	for _, p := range []string{"bash", "tpm2_createprimary", "openssl", "curl", "jq", "xxd"} {
		if _, err := exec.LookPath(p); err != nil {
			missing = append(missing, p)
		}
	}
	if len(missing) > 0 {
		t.Skipf("not installed: %s; scripts/install.sh installs them", strings.Join(missing, ", "))
	}
	if modules, _ := filepath.Glob("/usr/lib*/*/ossl-modules/tpm2.so"); len(modules) == 0 {
		t.Skip("OpenSSL has no TPM provider; scripts/install.sh installs tpm2-openssl")
	}
	if m := swtpm.MissingBroker(); m != "" {
		t.Skip(m)
	}
}

// onboardByShell runs examples/onboard.sh on a TPM behind a resource manager. It returns the
// script's messages and its output folder. When it returns, the resource manager has ended, and
// other programs can use the TPM.
func onboardByShell(t testing.TB, tpm *swtpm.TPM, tok *wire.TokenFile, args ...string) (said, out string, err error) {
	t.Helper()
	return onboardByShellIn(t, t.Context(), t.TempDir(), tpm, tok, args...)
}

// onboardByShellIn does the same as onboardByShell, with the folder `temp` for temporary files. It
// fails the test if the script leaves files in this folder. When the context `ctx` ends, the script
// gets SIGTERM.
func onboardByShellIn(t testing.TB, ctx context.Context, temp string, tpm *swtpm.TPM, tok *wire.TokenFile, args ...string) (said, out string, err error) {
	t.Helper()
	b, err := json.Marshal(tok)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file, out := filepath.Join(dir, "token.json"), filepath.Join(dir, "device")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	broker, err := tpm.Broker(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Stop()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	args = append([]string{"--tcti", broker.TCTI(), "--model", "test machine", "--serial", "0001"}, args...)
	c := exec.CommandContext(ctx, "../../examples/onboard.sh", append(args, file, out)...)
	c.Env = append(append(os.Environ(), broker.Env()...), "XDG_RUNTIME_DIR="+temp)
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.WaitDelay = 10 * time.Second
	var stderr bytes.Buffer
	c.Stdout, c.Stderr = &stderr, &stderr
	err = c.Run()
	if left, _ := os.ReadDir(temp); len(left) > 0 {
		t.Errorf("the script left temporary files: %v", left)
	}
	return stderr.String(), out, err
}

// persistentHandles returns the persistent handles of a TPM, and checks that the TPM has no
// sessions and no transient objects left.
func persistentHandles(t testing.TB, tpm *swtpm.TPM) string {
	t.Helper()
	for _, kind := range []string{"handles-loaded-session", "handles-saved-session", "handles-transient"} {
		if left := handles(t, tpm, kind); left != "" {
			t.Errorf("the TPM still has %s: %s", kind, left)
		}
	}
	return handles(t, tpm, "handles-persistent")
}

func handles(t testing.TB, tpm *swtpm.TPM, kind string) string {
	t.Helper()
	c := exec.Command("tpm2_getcap", kind)
	c.Env = append(os.Environ(), "TPM2TOOLS_TCTI="+tpm.TCTI())
	out, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// A device that uses only programs of other projects (examples/onboard.sh) can onboard with the
// one-step and with the two-step enrolment. Its keys equal those that the agent makes.
func TestShellOnboards(t *testing.T) {
	needShell(t)
	for name, c := range map[string]struct {
		ek   swtpm.EK
		args []string
		want string
	}{
		"RSA 2048":                    {swtpm.RSA2048, nil, "L-1"},
		"ECC P-384":                   {swtpm.P384, nil, "H-3"},
		"chosen by name":              {swtpm.P384, []string{"--ek", "L-1"}, "L-1"},
		"RSA 2048, in two steps":      {swtpm.RSA2048, []string{"--two-steps"}, "L-1"},
		"ECC P-384, in two steps":     {swtpm.P384, []string{"--two-steps"}, "H-3"},
		"at another handle, and kept": {swtpm.RSA2048, []string{"--handle", "0x81020007", "--keep"}, "L-1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tpm := newTPM(t, c.ek)
			if err := tpm.WriteNV(0x01C00100, tpm.Issuer().Raw); err != nil { // store the maker's chain in the TPM's NV
				t.Fatal(err)
			}
			h := hubtest.New(t, tpm.Roots(), nil)
			steps := slices.Contains(c.args, "--two-steps")
			// A join token for Pantacor's ownership proofs also accepts Gangway's ownership proofs.
			tok := h.Token(t, h.Owner, func(t *store.JoinToken) { t.ForPantacor = steps && c.ek == swtpm.P384 })
			before := persistentHandles(t, tpm)
			start := time.Now()
			said, out, err := onboardByShell(t, tpm, tok, c.args...)
			t.Logf("%s\n%s", time.Since(start), said)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(said, "Endorsement key "+c.want+" found, with its certificate and 1 intermediate") {
				t.Errorf("the messages do not name the endorsement key %s: %q", c.want, said)
			}
			devices := h.Devices(t, h.Owner)
			if len(devices) != 1 || h.Uses(t, tok) != 1 {
				t.Fatalf("%d devices, %d uses of the join token; want 1 and 1", len(devices), h.Uses(t, tok))
			}
			read := func(name string) []byte {
				t.Helper()
				b, err := os.ReadFile(filepath.Join(out, name))
				if err != nil {
					t.Fatal(err)
				}
				return b
			}
			var record struct{ ID string }
			if err := json.Unmarshal(read("device.json"), &record); err != nil || record.ID != devices[0].ID {
				t.Errorf("device.json has the id %q, %v; the hub has %q", record.ID, err, devices[0].ID)
			}
			ak, rest := pem.Decode(read("aik.pem"))
			aca, _ := pem.Decode(rest)
			if ak == nil || aca == nil || !bytes.Equal(aca.Bytes, h.CA.ACA().Raw) {
				t.Fatal("aik.pem does not have the AIK certificate and the hub's ACA")
			}
			cert, err := x509.ParseCertificate(ak.Bytes)
			if err != nil || cert.CheckSignatureFrom(h.CA.ACA()) != nil || cert.Subject.SerialNumber != record.ID {
				t.Errorf("AIK certificate: %v, %v", err, cert.Subject)
			}
			wantNoSecretIn(t, out, tok.Token)
			after := strings.Replace(persistentHandles(t, tpm), "- 0x81020007\n", "", 1)
			if kept := after != persistentHandles(t, tpm); kept != slices.Contains(c.args, "--keep") {
				t.Errorf("left in the TPM: %s", persistentHandles(t, tpm))
			}
			if after != before {
				t.Errorf("left in the TPM: %s, before: %s", after, before)
			}
			wantAgentKeys(t, tpm, h, devices[0].Enrolment)
		})
	}
}

// A TPM of an unknown maker waits for its owner's approval and then onboards, in one-step and
// two-step enrolment.
func TestShellWaitsForItsOwner(t *testing.T) {
	needShell(t)
	for name, steps := range map[string]bool{"one round trip": false, "two steps": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tpm := newTPM(t, swtpm.RSA2048)
			h := hubtest.New(t, nil, nil)
			ada := signIn(t, h)
			tok := h.Token(t, h.Owner, func(t *store.JoinToken) { t.ForPantacor = steps })
			var args []string
			if steps {
				args = []string{"--two-steps"}
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			approved := make(chan bool, 1)
			go func() {
				defer close(approved)
				var list []struct {
					ID        string
					Questions []string
				}
				for ctx.Err() == nil {
					if ada.call("GET", "/devices/waiting", nil, &list); len(list) == 1 {
						break
					}
					time.Sleep(50 * time.Millisecond)
				}
				if len(list) == 1 {
					ada.call("POST", "/devices/"+list[0].ID+"/approve", map[string][]string{"questions": list[0].Questions}, new(any))
					approved <- true
				}
			}()
			said, out, err := onboardByShell(t, tpm, tok, args...)
			cancel()
			if !<-approved || err != nil || !strings.Contains(said, "Approve with: gangway device approve") {
				t.Fatalf("onboard.sh: %v: %s", err, said)
			}
			if _, err := os.Stat(filepath.Join(out, "aik.pem")); err != nil {
				t.Error(err)
			}
			if n := len(h.Devices(t, h.Owner)); n != 1 {
				t.Errorf("%d devices, want 1", n)
			}
		})
	}
}

// Other users of the machine cannot read the join token's secret while the script runs. The secret,
// and the keys that are derived from the secret, are in no temporary file, no program's arguments
// and no environment. The test is not parallel, because it must read the files often enough.
func TestShellKeepsSecretsInPipes(t *testing.T) {
	needShell(t)
	for name, args := range map[string][]string{"one round trip": nil, "two steps": {"--two-steps"}} {
		t.Run(name, func(t *testing.T) {
			tpm := newTPM(t, swtpm.RSA2048)
			h := newHub(t, tpm)
			tok := h.Token(t, h.Owner, func(t *store.JoinToken) { t.ForPantacor = args != nil })
			secret, err := tok.Secret()
			if err != nil {
				t.Fatal(err)
			}
			key, err := wire.OwnershipKey(secret, tok.ID)
			if err != nil {
				t.Fatal(err)
			}
			hmacKey := sha256.Sum256(secret)
			var secrets [][]byte
			for _, s := range [][]byte{secret, key.Seed(), hmacKey[:]} {
				secrets = append(secrets, s, []byte(hex.EncodeToString(s)), []byte(base64.StdEncoding.EncodeToString(s)))
			}
			temp := t.TempDir()
			stop, done := make(chan struct{}), make(chan int)
			go func() { // search all files again and again while the script runs
				looked := 0
				defer func() { done <- looked }()
				for {
					for _, pattern := range []string{temp + "/onboard.*/*", "/proc/[0-9]*/cmdline", "/proc/[0-9]*/environ"} {
						files, _ := filepath.Glob(pattern)
						for _, f := range files {
							if info, err := os.Stat(f); err != nil || !info.Mode().IsRegular() {
								continue // reading a pipe would block
							}
							b, err := os.ReadFile(f)
							if err != nil {
								continue
							}
							if strings.HasPrefix(f, temp) {
								looked++
							}
							for i, s := range secrets {
								if bytes.Contains(b, s) {
									t.Errorf("%s holds secret %d", f, i)
								}
							}
						}
					}
					select {
					case <-stop:
						return
					case <-time.After(time.Millisecond):
					}
				}
			}()
			said, _, err := onboardByShellIn(t, t.Context(), temp, tpm, tok, args...)
			close(stop)
			looked := <-done
			if err != nil {
				t.Fatalf("onboard.sh: %v: %s", err, said)
			}
			if looked < 20 {
				t.Errorf("the search read %d temporary files, want at least 20", looked)
			}
		})
	}
}

// If the script fails, it prints the cause, and leaves no files and no keys in the TPM.
func TestShellSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	needShell(t)
	tpm := newTPM(t, swtpm.RSA2048)
	h := newHub(t, tpm)
	before := persistentHandles(t, tpm)
	good := h.Token(t, h.Owner, nil)
	for name, c := range map[string]struct {
		tok  *wire.TokenFile
		args []string
		want string
	}{
		"another hub's CA": {func() *wire.TokenFile {
			other := *good
			other.HubCA = hubtest.New(t, nil, nil).Token(t, h.Owner, nil).HubCA
			return &other
		}(), nil, "is not the hub that the join token names"},
		"a disabled token": {h.Token(t, h.Owner, func(t *store.JoinToken) { t.Disabled = true }), nil, "(token-unusable)"},
		"a file that claims another hub's name": {func() *wire.TokenFile {
			other := *good
			other.HubName = strings.Repeat("0", 64)
			return &other
		}(), []string{"--two-steps"}, "could relay this request to the hub with that name"},
		"a handle of another key": {good, []string{"--handle", "0x81010001"}, "0x81020000 to 0x8102FFFF"},
	} {
		t.Run(name, func(t *testing.T) {
			said, out, err := onboardByShell(t, tpm, c.tok, c.args...)
			if err == nil || !strings.Contains(said, c.want) {
				t.Errorf("error %v; the messages are %q, want %q", err, said, c.want)
			}
			if _, err := os.Stat(out); err == nil {
				t.Error("the script left its output folder")
			}
			if after := persistentHandles(t, tpm); after != before {
				t.Errorf("left in the TPM: %s, before: %s", after, before)
			}
			if n := len(h.Devices(t, h.Owner)); n != 0 {
				t.Errorf("%d devices, want 0", n)
			}
		})
	}
	// Send SIGTERM to the script while it waits for the owner's approval.
	waiting := hubtest.New(t, nil, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		ada := signIn(t, waiting)
		var list []any
		for ctx.Err() == nil && len(list) == 0 {
			ada.call("GET", "/devices/waiting", nil, &list)
			time.Sleep(50 * time.Millisecond)
		}
		cancel()
	}()
	if said, _, err := onboardByShellIn(t, ctx, t.TempDir(), tpm, waiting.Token(t, waiting.Owner, nil)); err == nil {
		t.Errorf("the script succeeded although it was stopped: %s", said)
	}
	if after := persistentHandles(t, tpm); after != before {
		t.Errorf("left in the TPM: %s, before: %s", after, before)
	}
}

// shellcheck reports nothing about examples/onboard.sh.
func TestShellIsClean(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("shellcheck"); err != nil {
		t.Skip("shellcheck is not installed: scripts/install.sh installs it")
	}
	if out, err := exec.Command("shellcheck", "../../examples/onboard.sh").CombinedOutput(); err != nil {
		t.Errorf("shellcheck: %v\n%s", err, out)
	}
}

// wantAgentKeys checks that the keys of an enrolment equal the keys that package identity makes
// with this TPM.
func wantAgentKeys(t *testing.T, tpm *swtpm.TPM, h *hubtest.Hub, enrolment store.Hash) {
	t.Helper()
	e, err := h.Store.Enrolment(t.Context(), enrolment)
	if err != nil {
		t.Fatal(err)
	}
	withIdentity(t, tpm, identity.Options{}, func(id *identity.Identity) {
		if !bytes.Equal(e.IAKName, id.IAKName) || !bytes.Equal(e.IDevIDName, id.IDevIDName) {
			t.Error("the IAK or the IDevID key differs from the agent's")
		}
	})
}

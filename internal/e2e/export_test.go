package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/device/agent"
	"gangway/device/identity"
	"gangway/internal/brief"
	"gangway/internal/swtpm"
)

// providerCurl returns the path of a curl that can use keys of OpenSSL's providers: the curl that
// scripts/curl.sh downloaded or, if there is none, the system's curl.
func providerCurl(t testing.TB) string {
	t.Helper()
	for _, program := range []string{"../../build/curl/curl", "curl"} {
		var major, minor int
		out, err := exec.Command(program, "--version").Output()
		if err != nil {
			continue
		}
		if _, err := fmt.Sscanf(string(out), "curl %d.%d.", &major, &minor); err == nil && (major > 8 || major == 8 && minor >= 12) {
			return program
		}
	}
	t.Skip("no curl of version 8.12 or later, which can use keys from OpenSSL's providers: scripts/install.sh unpacks one")
	return ""
}

// export runs the real command `gangway-agent export` and returns its output.
func (o *onboardedDevice) export(t testing.TB, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	args = append([]string{"export", "--tpm", o.tpm.Address(), "--state", o.state}, args...)
	out, err := exec.CommandContext(ctx, agentBinary, args...).CombinedOutput()
	return string(out), err
}

// isRecord reports whether a response is the hub's record of this device.
func (o *onboardedDevice) isRecord(answer []byte) bool {
	var d struct{ ID string }
	return json.Unmarshal(answer, &d) == nil && d.ID == o.id
}

// Programs that know nothing about Gangway can read the hub's record of the device over mutual TLS,
// with the key that stays in the TPM.
func TestExportedKeyOpensTheHubForCurlAndOpenSSL(t *testing.T) {
	needShell(t)
	for _, key := range []string{"P-256", "P-384", "RSA-2048"} {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			o := newOnboarded(t, swtpm.RSA2048, key)
			dir := filepath.Join(t.TempDir(), "identity")
			if out, err := o.export(t, "--out", dir); err != nil || !strings.Contains(out, "handle:0x81020000") {
				t.Fatalf("export: %v: %s", err, out)
			}
			broker, err := o.tpm.Broker(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer broker.Stop()
			file := func(name string) string { return filepath.Join(dir, name) }
			uri, err := os.ReadFile(file(agent.ExportKey))
			if err != nil {
				t.Fatal(err)
			}
			run := func(stdin string, program string, args ...string) ([]byte, string) {
				t.Helper()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				c := exec.CommandContext(ctx, program, args...)
				c.Env = append(os.Environ(), broker.Env()...)
				c.Env = append(c.Env, "OPENSSL_CONF="+file(agent.ExportOpenSSL))
				c.Stdin = strings.NewReader(stdin)
				var stderr bytes.Buffer
				c.Stderr = &stderr
				out, err := c.Output()
				if err != nil {
					t.Errorf("%s: %v: %s", program, err, stderr.String())
				}
				return out, stderr.String()
			}
			t.Run("s_client", func(t *testing.T) {
				out, said := run("GET /device HTTP/1.0\r\n\r\n", "stdbuf", "-oL", "openssl", "s_client", "-connect", strings.TrimPrefix(o.hub.URL, "https://"), "-ign_eof",
					"-CAfile", file(agent.ExportCA), "-verify_return_error", "-tls1_3",
					"-cert", file(agent.ExportChain), "-cert_chain", file(agent.ExportChain), "-key", strings.TrimSpace(string(uri)))
				_, body, found := bytes.Cut(out, []byte("\r\n\r\n"))
				if line, _, _ := bytes.Cut(body, []byte("\n")); !found || !o.isRecord(bytes.TrimSuffix(line, []byte("closed"))) {
					t.Errorf("the reply is not the device's record: %s\n%s", brief.Of(out), said)
				}
			})
			t.Run("curl", func(t *testing.T) {
				curl := providerCurl(t)
				out, said := run("", curl, "-q", "-sS", "--engine", "tpm2:?tpm2.signature=yes", "--key-type", "PROV", "--key", strings.TrimSpace(string(uri)),
					"--cert", file(agent.ExportChain), "--cacert", file(agent.ExportCA), o.hub.URL+"/device")
				if !o.isRecord(out) {
					t.Errorf("the reply is not the device's record: %s %s", brief.Of(out), said)
				}
			})
		})
	}
}

// The export contains only public files and a reference to the key in the TPM. It contains no
// private key. The command does not change the agent's state.
func TestExportGivesNoSecretAway(t *testing.T) {
	t.Parallel()
	o := newOnboarded(t, swtpm.RSA2048, "")
	parent := t.TempDir()
	dir := filepath.Join(parent, "identity")
	before, err := os.ReadFile(filepath.Join(o.state, "state.json"))
	if err != nil {
		t.Fatal(err)
	}
	a, err := agent.New(agent.Config{TPM: o.tpm.Address(), StateDir: o.state}) // another agent uses the same state folder at the same time
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for range 2 {
		if out, err := o.export(t, "--out", dir); err != nil {
			t.Fatalf("export: %v: %s", err, out)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{agent.ExportChain: true, agent.ExportCA: true, agent.ExportKey: true, agent.ExportOpenSSL: true}
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil || !want[f.Name()] || bytes.Contains(b, []byte("PRIVATE")) {
			t.Errorf("%s: %v, %s", f.Name(), err, brief.Of(b))
		}
		delete(want, f.Name())
	}
	if len(want) > 0 {
		t.Errorf("the export lacks the files %v", want)
	}
	if after, err := os.ReadFile(filepath.Join(o.state, "state.json")); err != nil || !bytes.Equal(after, before) {
		t.Errorf("the agent's state changed: %v", err)
	}
	if out, err := o.export(t, "--remove", "--out", dir); err != nil || !strings.Contains(out, "Removed the key from 1 ") {
		t.Errorf("export: %v: %s", err, out)
	}
	if files, _ := os.ReadDir(dir); len(files) > 0 {
		t.Errorf("export --remove left %d files", len(files))
	}
}

// The export fails if the state folder belongs to another TPM, if the folder has no device, or if
// the handle is outside the range for identities.
func TestExportRefusesACopiedState(t *testing.T) {
	t.Parallel()
	o := newOnboarded(t, swtpm.RSA2048, "")
	other := newTPM(t, swtpm.RSA2048)
	_, err := agent.Export(t.Context(), agent.ExportConfig{TPM: other.Address(), StateDir: o.state, Dir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "another TPM") {
		t.Errorf("exporting with another TPM: %v", err)
	}
	if _, err := agent.Export(t.Context(), agent.ExportConfig{TPM: other.Address(), StateDir: t.TempDir(), Dir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "not onboarded") {
		t.Errorf("exporting an empty state folder: %v", err)
	}
	if _, err := agent.Export(t.Context(), agent.ExportConfig{TPM: o.tpm.Address(), StateDir: o.state, Dir: t.TempDir(), Handle: 0x81010001}); err == nil || errors.Is(err, identity.ErrHandleTaken) {
		t.Errorf("exporting to a handle outside the identities' range: %v", err)
	}
}

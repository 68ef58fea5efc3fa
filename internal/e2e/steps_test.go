package e2e_test

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gangway/internal/swtpm"
	"gangway/store"
	"gangway/tcg"
	"gangway/tcg/join"
)

// A device without any code of ours onboards by Pantacor's two steps, with a
// real TPM: what docs/protocol.md says is enough.
func TestShellOnboardsInTwoSteps(t *testing.T) {
	for _, program := range []string{"tpm2_activatecredential", "openssl", "curl", "od", "base64"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%v: scripts/install.sh installs it", err)
		}
	}
	out, err := exec.Command("openssl", "version", "-m").Output()
	modules := strings.Trim(strings.TrimPrefix(strings.TrimSpace(string(out)), "MODULESDIR: "), `"`)
	if _, missing := os.Stat(filepath.Join(modules, "tpm2.so")); err != nil || missing != nil {
		t.Skip("openssl has no provider for TPMs: scripts/install.sh installs it")
	}
	for name, ek := range map[string]struct {
		kind            swtpm.EK
		handle, nv, low string
	}{
		"RSA 2048":  {swtpm.RSA2048, "0x81010001", "0x01c00002", "yes"},
		"ECC P-384": {swtpm.P384, "0x81010016", "0x01c00016", ""},
	} {
		t.Run(name, func(t *testing.T) {
			tpm := newTPM(t, ek.kind)
			h := newHub(t, tpm)
			tok := h.Token(t, h.Owner, func(t *store.JoinToken) { t.ForPantacor = true })
			dir := t.TempDir()
			write := func(name string, content []byte) {
				t.Helper()
				if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write("ca.pem", []byte(tok.HubCA))
			for i, branch := range tcg.IAKPolicyBranches(tcg.AlgSHA256) {
				write(fmt.Sprintf("iak.%d", i), branch)
			}
			for i, branch := range tcg.IDevIDPolicyBranches(tcg.AlgSHA256) {
				write(fmt.Sprintf("idevid.%d", i), branch)
			}
			// The library of tpm2-tools looks for the control socket beside the other.
			socket := strings.TrimPrefix(tpm.Address(), "unix:")
			if err := os.Symlink(filepath.Join(filepath.Dir(socket), "tpm.ctrl"), socket+".ctrl"); err != nil {
				t.Fatal(err)
			}
			script, err := filepath.Abs("testdata/two_steps.sh")
			if err != nil {
				t.Fatal(err)
			}
			c := exec.CommandContext(t.Context(), "sh", script)
			c.Dir = dir
			c.Env = append(os.Environ(), "HUB="+h.URL, "OWNER="+tok.Owner, "TOKEN_ID="+tok.ID, "TOKEN="+tok.Token, "EK="+ek.handle, "EK_NV="+ek.nv, "EK_LOW="+ek.low,
				"TPM2TOOLS_TCTI=swtpm:path="+socket, "TPM2OPENSSL_TCTI=swtpm:path="+socket, "TSS2_LOG=all+none")
			if out, err := c.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			read := func(name string) []byte {
				t.Helper()
				b, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				return b
			}
			devices := h.Devices(t, h.Owner)
			if len(devices) != 1 || h.Uses(t, tok) != 1 {
				t.Fatalf("%+v", devices)
			}
			id := devices[0].ID
			idevid, _ := pem.Decode(read("idevid.pem"))
			mine, err := x509.ParseCertificate(idevid.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM([]byte(tok.HubCA))
			client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{{
				Certificate: [][]byte{mine.Raw}, PrivateKey: &toolSigner{public: mine.PublicKey, env: c.Env, dir: dir},
			}}}}}
			defer client.CloseIdleConnections()
			resp, err := client.Get(h.URL + "/device")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if answer, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 || !bytes.Contains(answer, []byte(join.DevicePRN+id)) {
				t.Errorf("%d %s", resp.StatusCode, answer)
			}
			ak, rest := pem.Decode(read("ak.pem"))
			aca, _ := pem.Decode(rest)
			if ak == nil || aca == nil || !bytes.Equal(aca.Bytes, h.CA.ACA().Raw) {
				t.Fatal("the first step's certificates are not what was expected")
			}
			cert, err := x509.ParseCertificate(ak.Bytes)
			if err != nil || cert.CheckSignatureFrom(h.CA.ACA()) != nil || cert.Subject.SerialNumber != id {
				t.Errorf("AK certificate: %v, %v", err, cert.Subject)
			}
			e, err := h.Store.Enrolment(t.Context(), devices[0].Enrolment)
			if err != nil || e.State != store.Active || !bytes.Equal(e.IDevIDName, read("idevid.name")) || !bytes.Contains(e.Verdict, []byte(`"credential"`)) {
				t.Errorf("enrolment: %v, %s", err, e.Verdict)
			}
		})
	}
}

// toolSigner is the IDevID key, by tpm2_sign.
type toolSigner struct {
	public crypto.PublicKey
	env    []string
	dir    string
}

func (s *toolSigner) Public() crypto.PublicKey { return s.public }

func (s *toolSigner) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	in, out := filepath.Join(s.dir, "digest"), filepath.Join(s.dir, "signature")
	if err := os.WriteFile(in, digest, 0o600); err != nil {
		return nil, err
	}
	c := exec.Command("tpm2_sign", "-Q", "-c", "0x81020001", "-g", "sha256", "-d", "-f", "plain", "-o", out, in)
	c.Env = s.env
	if text, err := c.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, text)
	}
	return os.ReadFile(out)
}

package e2e_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gangway/internal/brief"
	"gangway/internal/hubtest"
	"gangway/internal/swtpm"
)

// If an operator removes a TPM maker's CA, the hub refuses only new devices. In this test, the hub
// first refuses a real TPM of an unknown maker. The operator imports the maker's CA on the command
// line while the hub runs, and the device onboards. After the operator has removed the CA, the hub
// refuses the next TPM of that maker, but the first device stays active.
func TestDevicesAboardStayWhenTheirMakerIsRemoved(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.RSA2048)
	h := hubtest.New(t, nil, nil)
	h.Policy(t, h.Owner.ID, "version: 1\nunknown_maker: refuse\n")
	bin := filepath.Join(t.TempDir(), "gangway")
	buildGangway(t, bin)
	gangway := func(args ...string) (string, error) {
		out, err := exec.Command(bin, append([]string{"trust"}, append(args, "--data", h.Data())...)...).CombinedOutput()
		return string(out), err
	}
	refused := func(tpm *swtpm.TPM) {
		t.Helper()
		if _, err := onboard(t, tpm, h.Token(t, h.Owner, nil), t.TempDir()); err == nil || !strings.Contains(err.Error(), "does not chain to a TPM maker that this hub trusts") {
			t.Fatalf("onboarding a TPM of an unknown maker: %v", err)
		}
	}
	refused(tpm)

	makers := filepath.Join(t.TempDir(), "makers.pem")
	var bundle []byte
	for _, c := range append([]*x509.Certificate{tpm.Issuer()}, tpm.Roots()...) {
		bundle = append(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	if err := os.WriteFile(makers, bundle, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := gangway("import", makers); err != nil {
		t.Fatalf("trust import: %v: %s", err, out)
	}
	if _, err := onboard(t, tpm, h.Token(t, h.Owner, nil), t.TempDir()); err != nil {
		t.Fatal(err)
	}
	devices := h.Devices(t, h.Owner)
	if len(devices) != 1 {
		t.Fatalf("%d devices, want 1", len(devices))
	}
	e, err := h.Store.Enrolment(t.Context(), devices[0].Enrolment)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(e.Verdict), "The root's source: import of "+makers) {
		t.Errorf("the verdict does not name the root's source: %s", brief.Of(e.Verdict))
	}

	ek := filepath.Join(t.TempDir(), "ek.crt")
	if err := os.WriteFile(ek, e.EKCertificate, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := gangway("check", ek); err != nil || !strings.HasSuffix(out, "\nTrusted.\n") {
		t.Errorf("trust check: %v: %s", err, out)
	}
	if out, err := exec.Command(bin, "trust", "check", ek).CombinedOutput(); err == nil {
		t.Errorf("trust check without the hub's data folder succeeded: %s", out)
	}

	if out, err := gangway("remove", fmt.Sprintf("%x", sha256.Sum256(tpm.Roots()[0].Raw))); err != nil {
		t.Fatalf("trust remove: %v: %s", err, out)
	}
	refused(newTPM(t, swtpm.P384))
	if out, err := gangway("check", ek); err == nil {
		t.Errorf("trust check after the root was removed succeeded: %s", out)
	}
	if _, err := h.Store.DeviceByCertificate(t.Context(), devices[0].IDevIDHash); err != nil {
		t.Errorf("the active device: %v", err)
	}
}

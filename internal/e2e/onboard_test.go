package e2e_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/device/agent"
	"gangway/device/identity"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/hubtest"
	"gangway/internal/swtpm"
	"gangway/tcg"
	"gangway/wire"

	"github.com/google/go-tpm/tpm2"
	epb "github.com/openconfig/attestz/proto/tpm_enrollz"
	"github.com/openconfig/attestz/service/biz"
)

func TestRealTPMsOnboard(t *testing.T) {
	for name, ek := range map[string]swtpm.EK{"RSA 2048": swtpm.RSA2048, "ECC P-384": swtpm.P384} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tpm := startTPM(t, ek)
			checkOnboarding(t, newHub(t, tpm), tpm, t.TempDir())
		})
	}
}

// checkOnboarding onboards a machine that has this TPM and the state folder `state`. It checks that
// the hub then has exactly one device, and that the join token was used once.
func checkOnboarding(t *testing.T, h *hubtest.Hub, tpm *swtpm.TPM, state string) *agent.State {
	t.Helper()
	tok := h.Token(t, h.Owner, nil)
	s, err := onboard(t, tpm, tok, state)
	if err != nil {
		t.Fatal(err)
	}
	devices := h.Devices(t, h.Owner)
	if len(devices) != 1 || devices[0].ID != s.DeviceID || s.RoundTrips != 1 || s.Phase != agent.PhaseActive {
		t.Fatalf("state %s, devices %s", brief.Of(s), brief.Of(devices))
	}
	if h.Uses(t, tok) != 1 {
		t.Errorf("%d uses of the join token, want 1", h.Uses(t, tok))
	}
	return s
}

// Programs of other projects accept the agent's requests and the hub's certificates, for each kind
// of endorsement key and of identity key.
func TestSecondOpinions(t *testing.T) {
	for _, c := range []struct {
		ek  swtpm.EK
		key identity.Algorithm
	}{
		{swtpm.RSA2048, identity.P256}, {swtpm.P384, identity.P256}, {swtpm.RSA2048, identity.P384},
		{swtpm.P384, identity.P521}, {swtpm.P384, identity.RSA2048},
	} {
		t.Run(fmt.Sprintf("EK %d, %s", c.ek, c.key), func(t *testing.T) {
			t.Parallel()
			tpm := newTPM(t, c.ek)
			h := newHub(t, tpm)
			s, err := onboardWith(t, agent.Config{Token: h.Token(t, h.Owner, nil), TPM: tpm.Address(), StateDir: t.TempDir(), Key: string(c.key)})
			if err != nil {
				t.Fatal(err)
			}
			d, err := h.Store.Device(t.Context(), s.DeviceID)
			if err != nil {
				t.Fatal(err)
			}
			e, err := h.Store.Enrolment(t.Context(), d.Enrolment)
			if err != nil {
				t.Fatal(err)
			}
			attestzAgrees(t, e.Request, c.key)
			opensslVerifies(t, h, e.IAKCert, h.CA.ACA())
			opensslVerifies(t, h, e.IDevIDCert, h.CA.DeviceCA())
			opensslConnects(t, h)
		})
	}
}

// attestzAgrees checks that openconfig's attestz can parse and verify the request.
func attestzAgrees(t *testing.T, request []byte, key identity.Algorithm) {
	t.Helper()
	ours, err := tcg.ParseCSR(request)
	if err != nil {
		t.Fatal(err)
	}
	u := new(biz.DefaultTPM20Utils)
	theirs, err := u.ParseTCGCSRIDevIDContent(ours.Contents)
	if err != nil {
		t.Fatalf("attestz: %v", err)
	}
	block, _ := pem.Decode([]byte(theirs.EKCert))
	if theirs.ProdModel != string(ours.ProdModel) || theirs.ProdSerial != string(ours.ProdSerial) || !bytes.Equal(block.Bytes, ours.EKCert) ||
		!bytes.Equal(tpm2.Marshal(theirs.IAKPub), ours.AttestPub) || !bytes.Equal(tpm2.Marshal(theirs.IDevIDPub), ours.SigningPub) ||
		!bytes.Equal(tpm2.Marshal(theirs.SignCertifyInfo), ours.SgnCertifyInfo) {
		t.Error("attestz parses other values of the request's fields")
	}
	// attestz checks the whole template only for P-384. For P-256 it expects the EK's policy A
	// instead of the policy of the DevID specification. It does not support P-521 and RSA-PSS.
	if key == identity.P384 {
		if _, err := u.VerifyIAKAttributes(tpm2.Marshal(tpm2.New2B(theirs.IAKPub))); err != nil {
			t.Errorf("attestz, IAK: %v", err)
		}
		if err := u.VerifyIdevidAttributes(&theirs.IDevIDPub, epb.KeyTemplate_KEY_TEMPLATE_ECC_NIST_P384); err != nil {
			t.Errorf("attestz, IDevID: %v", err)
		}
	}
	if err := u.VerifyCertifyInfo(&theirs.SignCertifyInfo, &theirs.IDevIDPub); err != nil {
		t.Errorf("attestz, certify: %v", err)
	}
	if err := u.VerifyTPMTSignature(ours.SgnCertifyInfo, &theirs.SignCertifyInfoSignature, &theirs.IAKPub); err != nil {
		t.Errorf("attestz, certify signature: %v", err)
	}
	sig, err := tpm2.Unmarshal[tpm2.TPMTSignature](ours.Signature)
	if err != nil {
		t.Fatal(err)
	}
	// attestz requires a key with a fixed signing scheme. An RSA IDevID key (H-1) has no fixed
	// scheme.
	if err := u.VerifyTPMTSignature(ours.Contents, sig, &theirs.IDevIDPub); err != nil && key != identity.RSA2048 {
		t.Errorf("attestz, request signature: %v", err)
	}
}

// opensslVerifies verifies a certificate with openssl, once without a certificate policy and once
// with the policy for verified TPM residency (DevID).
func opensslVerifies(t *testing.T, h *hubtest.Hub, leaf []byte, ca *x509.Certificate) {
	t.Helper()
	dir := t.TempDir()
	file := func(name string, der []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	root, untrusted, cert := file("root", h.CA.Root().Raw), file("ca", ca.Raw), file("leaf", leaf)
	for _, more := range [][]string{nil, {"-explicit_policy", "-policy", "2.23.133.11.1.1"}} { // verified TPM residency
		args := append([]string{"verify", "-x509_strict", "-CAfile", root, "-untrusted", untrusted}, more...)
		if out, err := exec.Command("openssl", append(args, cert)...).CombinedOutput(); err != nil {
			t.Errorf("openssl verify %q: %v: %s", more, err, out)
		}
	}
}

// opensslConnects connects to the hub with openssl, and checks the list of CAs that the hub accepts
// for client certificates.
func opensslConnects(t *testing.T, h *hubtest.Hub) {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root.pem")
	if err := os.WriteFile(root, h.CA.RootPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	c := exec.Command("openssl", "s_client", "-connect", strings.TrimPrefix(h.URL, "https://"), "-CAfile", root, "-verify_return_error", "-verify_ip", "127.0.0.1")
	c.Stdin = strings.NewReader("GET /healthz HTTP/1.0\r\n\r\n")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("openssl s_client: %v: %s", err, out)
	}
	for _, want := range []string{"TLSv1.3", "Acceptable client certificate CA names", "CN = Test Device CA", "Verify return code: 0 (ok)"} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("the output of openssl s_client lacks %q:\n%s", want, out)
		}
	}
	if bytes.Contains(out, []byte("Test Attestation CA")) {
		t.Error("the hub names the ACA as a CA of TLS client certificates")
	}
}

// A TPM that onboards again, with an empty state folder, is the same device as before.
func TestSameTPMIsTheSameDevice(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.P384)
	h := newHub(t, tpm)
	tok := h.Token(t, h.Owner, func(s *store.JoinToken) { s.MaxUses = 1 })
	first, err := onboard(t, tpm, tok, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := tpm.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Onboard the same TPM again with an empty disk and state folder, after the last allowed use of
	// the join token.
	second, err := onboard(t, tpm, tok, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if first.DeviceID != second.DeviceID || len(h.Devices(t, h.Owner)) != 1 || h.Uses(t, tok) != 1 {
		t.Errorf("onboarded as %s and %s, %d devices, %d uses; want one device and one use", first.DeviceID, second.DeviceID, len(h.Devices(t, h.Owner)), h.Uses(t, tok))
	}
}

// If a thief copies the state folder of an onboarded device to a machine with another TPM, the
// agent refuses to work with this folder.
func TestCopiedStateOnAnotherTPMGetsNowhere(t *testing.T) {
	t.Parallel()
	tpm, other := newTPM(t, swtpm.P384), newTPM(t, swtpm.P384)
	h := newHub(t, tpm)
	state := t.TempDir()
	if _, err := onboard(t, tpm, h.Token(t, h.Owner, nil), state); err != nil {
		t.Fatal(err)
	}
	_, err := onboard(t, other, nil, state)
	if err == nil || !strings.Contains(err.Error(), "belongs to another TPM") {
		t.Fatalf("onboarding with another TPM: %v", err)
	}
	a, err := agent.New(agent.Config{TPM: other.Address(), StateDir: state})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := a.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "belongs to another TPM") {
		t.Fatalf("running with another TPM: %v", err)
	}
}

// A thief cannot use a copied state folder. The folder is copied in the middle of an onboarding,
// when it contains the sealed reply. With another TPM, neither the agent nor a program that uses
// the TPM directly can open the reply.
func TestReplyOpenedByAnotherTPMFails(t *testing.T) {
	t.Parallel()
	tpm, other := newTPM(t, swtpm.RSA2048), newTPM(t, swtpm.RSA2048)
	h := newHub(t, tpm)
	state := t.TempDir()
	tok := h.Token(t, h.Owner, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	a, err := agent.New(agent.Config{Token: tok, TPM: tpm.Address(), StateDir: state, Progress: func(s agent.Progress) {
		if s.Name == "reply" { // the agent has written the reply to the disk, so stop here
			cancel()
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.Onboard(ctx)
	a.Close()
	if err == nil {
		t.Fatal("the cancelled onboarding succeeded")
	}
	if s, err := agent.ReadState(state); err != nil || s.Phase != agent.PhaseAnswered {
		t.Fatalf("state %s, %v", brief.Of(s), err)
	}
	if _, err := onboard(t, other, tok, state); err == nil || !strings.Contains(err.Error(), "belongs to another TPM") {
		t.Fatalf("the agent on another TPM: %v", err)
	}
	raw, err := os.ReadFile(filepath.Join(state, "reply.json"))
	if err != nil {
		t.Fatal(err)
	}
	reply, err := wire.ParseReply(raw)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := activateCredential(t, other, reply); err == nil {
		t.Fatal("another TPM opened the reply")
	}
	if _, err := activateCredential(t, tpm, reply); err != nil {
		t.Fatalf("opening the reply with the device's TPM: %v", err)
	}
	if n := len(h.Devices(t, h.Owner)); n != 0 {
		t.Errorf("%d devices, want 0", n)
	}
}

func activateCredential(t *testing.T, tpm *swtpm.TPM, reply *wire.Reply) (secret []byte, err error) {
	t.Helper()
	withIdentity(t, tpm, identity.Options{}, func(id *identity.Identity) {
		secret, err = id.ActivateCredential(reply.CredentialBlob, reply.Secret)
	})
	return secret, err
}

// The real agent survives a kill at any instant: it is killed at random instants and started again
// until it has onboarded. At the end there is one device, one use of the join token, and no secret
// on the disk.
func TestAgentSurvivesAKillAtAnyInstant(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.P384)
	h := newHub(t, tpm)
	tok := h.Token(t, h.Owner, nil)
	b, err := json.Marshal(tok)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file, state := filepath.Join(dir, "token.json"), filepath.Join(dir, "state")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	kills := 0
	for try := range 60 {
		var out bytes.Buffer
		c := exec.Command(agentBinary, "onboard", "--token-file", file, "--tpm", tpm.Address(), "--state", state)
		c.Stderr = &out
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if try < 25 {
			time.Sleep(rand.N(250 * time.Millisecond))
			c.Process.Kill()
		}
		err := c.Wait()
		if err == nil {
			break
		}
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != -1 {
			t.Fatalf("try %d, after %d kills: %v: %s", try, kills, err, out.Bytes())
		}
		kills++
	}
	s, err := agent.ReadState(state)
	if err != nil {
		t.Fatal(err)
	}
	if s.Phase != agent.PhaseActive || len(h.Devices(t, h.Owner)) != 1 || h.Uses(t, tok) != 1 {
		t.Errorf("after %d kills: phase %s, %d devices, %d uses", kills, s.Phase, len(h.Devices(t, h.Owner)), h.Uses(t, tok))
	}
	t.Logf("%d kills", kills)
	wantNoSecretIn(t, state, tok.Token)
}

// wantNoSecretIn checks that no file in a folder contains the secret or a private key, and that
// other users can read none of the files.
func wantNoSecretIn(t *testing.T, dir, secret string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if bytes.Contains(b, []byte(secret)) || bytes.Contains(b, []byte("PRIVATE KEY")) {
			t.Errorf("%s holds a secret", path)
		}
		if info, err := d.Info(); err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s can be read by others: %s", path, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The agent waits for a hub that it cannot reach: it reports why it waits, and continues when the
// hub answers.
func TestAgentWaitsForTheHub(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.P384)
	h := newHub(t, tpm)
	tok := h.Token(t, h.Owner, nil)
	here := tok.Hub
	tok.Hub = "https://127.0.0.1:1" // nothing listens there
	state := t.TempDir()
	a, err := agent.New(agent.Config{Token: tok, TPM: tpm.Address(), StateDir: state})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	_, err = a.Onboard(ctx)
	a.Close()
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want a timeout", err)
	}
	s, err := agent.ReadState(state)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(s.Waiting, "Waiting for the hub at https://127.0.0.1:1 (") || strings.Contains(s.Waiting, "\n") {
		t.Errorf("the state says that it waits for %q", s.Waiting)
	}
	tok.Hub = here
	if s, err = onboard(t, tpm, tok, state); err != nil || s.Waiting != "" {
		t.Fatalf("state %s, %v", brief.Of(s), err)
	}
}

// If an impostor at the hub's address has a certificate of another CA, the agent sends nothing to
// the impostor, and waits for the hub.
func TestAgentTrustsNoOtherHub(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.P384)
	good, evil := newHub(t, tpm), newHub(t, tpm)
	tok := good.Token(t, good.Owner, nil)
	tok.Hub = evil.URL
	state := t.TempDir()
	a, err := agent.New(agent.Config{Token: tok, TPM: tpm.Address(), StateDir: state})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := a.Onboard(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want a timeout", err)
	}
	if s, _ := agent.ReadState(state); !strings.Contains(s.Waiting, "not the hub that the join token names") {
		t.Errorf("the state says that it waits for %q", s.Waiting)
	}
}

func TestAgentReports(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.P384)
	h := newHub(t, tpm)
	state := t.TempDir()
	s, err := onboard(t, tpm, h.Token(t, h.Owner, nil), state)
	if err != nil {
		t.Fatal(err)
	}
	a, err := agent.New(agent.Config{TPM: tpm.Address(), StateDir: state, ReportEvery: 50 * time.Millisecond, Version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- a.Run(ctx) }()
	deadline := time.Now().Add(20 * time.Second)
	for {
		d, err := h.Store.Device(t.Context(), s.DeviceID)
		if err != nil {
			t.Fatal(err)
		}
		if d.DeviceMeta["gangway.version"] == "v1" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the hub received no report")
		}
		time.Sleep(10 * time.Millisecond)
	}
	// After the owner deleted the device, the hub refuses the device and the agent stops.
	if err := h.Store.DeleteDevice(t.Context(), h.Owner.ID, s.DeviceID, h.Now()); err != nil {
		t.Fatal(err)
	}
	var refused *agent.Refused
	if err := <-ran; !errors.As(err, &refused) || refused.Code != "certificate-not-active" {
		t.Errorf("after the deletion: %v, want the code certificate-not-active", err)
	}
	cancel()
}

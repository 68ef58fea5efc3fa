package e2e_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/device/agent"
	"gangway/hub/api"
	"gangway/internal/brief"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
	"gangway/internal/swtpm"
	"gangway/tcg"
)

// owner is a client of the hub's API that is signed in as a device's owner.
type owner struct {
	t      testing.TB
	url    string
	client *http.Client
	token  string
}

// signIn signs in with the hub's first account.
func signIn(t testing.TB, h *hubtest.Hub) *owner {
	t.Helper()
	return signInAs(t, h, h.Owner.Nick)
}

// signInAs signs in with another account. All accounts of the test have the same password.
func signInAs(t testing.TB, h *hubtest.Hub, nick string) *owner {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(h.CA.RootPEM())
	o := &owner{t: t, url: h.URL, client: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}}
	t.Cleanup(o.client.CloseIdleConnections)
	var s struct{ Token string }
	o.call("POST", "/auth/login", map[string]string{"username": nick, "password": hubtest.Password}, &s)
	o.token = s.Token
	return o
}

// call sends a request with the JSON of `in` as its body. It requires status 200, and decodes the
// response into `out`.
func (o *owner) call(method, path string, in, out any) {
	o.t.Helper()
	b, err := json.Marshal(in)
	if err != nil {
		o.t.Fatal(err)
	}
	req, err := http.NewRequest(method, o.url+path, bytes.NewReader(b))
	if err != nil {
		o.t.Fatal(err)
	}
	if o.token != "" {
		req.Header.Set("Authorization", "Bearer "+o.token)
	}
	resp, err := o.client.Do(req)
	if err != nil {
		o.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err = io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		o.t.Fatalf("%s %s: %s %s %v", method, path, resp.Status, brief.Of(b), err)
	}
	if err := json.Unmarshal(b, out); err != nil {
		o.t.Fatal(err)
	}
}

// evidence returns all checks and notes of a device's verdict, in the form in which its owner reads
// them.
func (o *owner) evidence(id string) string {
	o.t.Helper()
	var e api.EvidenceView
	o.call("GET", "/devices/"+id+"/evidence", nil, &e)
	var words []string
	for _, s := range e.Verdict.Checks {
		words = append(words, s.Check+": "+s.Detail)
	}
	return strings.Join(append(words, e.Verdict.Notes...), "\n")
}

// events returns the messages of all events that the owner can read.
func (o *owner) events() string {
	o.t.Helper()
	var events []api.EventView
	o.call("GET", "/events", nil, &events)
	var words []string
	for _, e := range events {
		words = append(words, e.Message)
	}
	return strings.Join(words, "\n")
}

// wantSentences checks that a text contains each of the sentences.
func wantSentences(t testing.TB, text string, sentences ...string) {
	t.Helper()
	for _, s := range sentences {
		if !strings.Contains(text, s) {
			t.Errorf("%q is missing from:\n%s", s, text)
		}
	}
}

// newMakerCAs makes a chain of a TPM maker's CAs. It returns their certificates with the root
// first, and the private key of the last CA.
func newMakerCAs(t testing.TB, levels int) (certs []*x509.Certificate, last crypto.Signer) {
	t.Helper()
	for i := range levels {
		key, err := fleet.NewKey(tcg.IDevIDTemplates[1], nil)
		if err != nil {
			t.Fatal(err)
		}
		template, err := fleet.EKTemplate(key.Private.Public())
		if err != nil {
			t.Fatal(err)
		}
		template.IsCA, template.UnknownExtKeyUsage, template.ExtraExtensions = true, nil, nil
		template.KeyUsage = x509.KeyUsageCertSign
		template.Subject.CommonName = "FAKE TPM CA " + string(rune('0'+i))
		parent, signer := template, key.Private
		if i > 0 {
			parent, signer = certs[i-1], last
		}
		cert, err := fleet.Issue(template, parent, key.Private.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		certs, last = append(certs, cert), key.Private
	}
	return certs, last
}

func certifyEK(t testing.TB, key crypto.PublicKey, issuer *x509.Certificate, signer crypto.Signer, until time.Time) []byte {
	t.Helper()
	template, err := fleet.EKTemplate(key)
	if err != nil {
		t.Fatal(err)
	}
	template.NotAfter = until
	cert, err := fleet.Issue(template, issuer, key, signer)
	if err != nil {
		t.Fatal(err)
	}
	return cert.Raw
}

// The owner can read, in sentences, the result of each check of a software TPM's evidence.
func TestOwnerReadsHowARealTPMWasJudged(t *testing.T) {
	for _, c := range []struct {
		name      string
		ek        swtpm.EK
		sentences []string
	}{
		{"RSA 2048, low range", swtpm.RSA2048, []string{"The EK is the certificate's key, of template L-1 (RSA 2048).", "and the policy allows \"swtpm\" by name."}},
		{"ECC P-384, high range", swtpm.P384, []string{"The EK is the certificate's key, of template H-3 (P-384).", "up to the trusted root"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tpm := newTPM(t, c.ek)
			h := newHub(t, tpm)
			s, err := onboard(t, tpm, h.Token(t, h.Owner, nil), t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			wantSentences(t, signIn(t, h).evidence(s.DeviceID), append(c.sentences, "EK certificate of ", "swtpm", "The IAK certifies that the IDevID key is in the same TPM.")...)
		})
	}
}

// A TPM whose NV contains the intermediate CAs of its EK certificate onboards at a hub that trusts
// only the root.
func TestTPMWithAThreeLevelChainInItsNVOnboards(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.None)
	cas, signer := newMakerCAs(t, 3)
	if err := tpm.WriteNV(0x01C00016, certifyEK(t, ekKey(t, tpm, "H-3"), cas[2], signer, time.Now().AddDate(10, 0, 0))); err != nil {
		t.Fatal(err)
	}
	if err := tpm.WriteNV(tcg.ChainFirst, append(bytes.Clone(cas[2].Raw), cas[1].Raw...)); err != nil {
		t.Fatal(err)
	}
	h := hubtest.New(t, cas[:1], nil)
	s, err := onboard(t, tpm, h.Token(t, h.Owner, nil), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	wantSentences(t, signIn(t, h).evidence(s.DeviceID), `Signed by "CN=FAKE TPM CA 2", up to the trusted root "CN=FAKE TPM CA 0"`)
}

// A TPM without an EK certificate waits for its owner. After the owner approves it, it onboards
// without any action by a person at the machine.
func TestTPMWithoutCertificateWaitsAndGoesOnByItself(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.None)
	cas, _ := newMakerCAs(t, 1)
	h := hubtest.New(t, cas, nil)
	ada := signIn(t, h)
	state := t.TempDir()
	waiting := make(chan string, 1)
	done := make(chan error, 1)
	a, err := agent.New(agent.Config{Token: h.Token(t, h.Owner, nil), TPM: tpm.Address(), StateDir: state, Model: "test machine", Serial: "0001",
		Progress: func(s agent.Progress) {
			t.Log(s.Detail)
			if s.Name == "waiting" {
				select {
				case waiting <- s.Detail:
				default:
				}
			}
		}})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() {
		_, err := a.Onboard(ctx)
		done <- err
	}()
	var words string
	select {
	case words = <-waiting:
	case err := <-done:
		t.Fatalf("onboarding ended without waiting for the owner: %v", err)
	}
	var list []api.WaitingView
	ada.call("GET", "/devices/waiting", nil, &list)
	if len(list) != 1 {
		t.Fatalf("%d devices wait, want 1", len(list))
	}
	// The machine displays the hash of its EK, and the owner compares it with the hash on the hub's
	// page. Both must be equal.
	on, err := agent.ReadState(state)
	if err != nil {
		t.Fatal(err)
	}
	if on.EKSHA256 != list[0].EK || !strings.Contains(words, list[0].EK) || !strings.Contains(words, "gangway device approve "+list[0].ID) {
		t.Errorf("the machine shows %q and %q, the hub %q", on.EKSHA256, words, list[0].EK)
	}
	wantSentences(t, list[0].Verdict.Checks[1].Detail, "The request has no EK certificate, so the TPM's maker is not known.")
	wantSentences(t, ada.events(), "A machine (test machine, serial 0001) waits for your decision.")
	var decided api.WaitingView
	ada.call("POST", "/devices/"+list[0].ID+"/approve", map[string][]string{"questions": list[0].Questions}, &decided)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	devices := h.Devices(t, h.Owner)
	if len(devices) != 1 || devices[0].ID == list[0].ID {
		t.Fatalf("devices %s", brief.Of(devices))
	}
	wantSentences(t, ada.evidence(devices[0].ID), "approval: ada approved this EK on ")
}

// If a TPM's NV contains the EK certificate of another TPM, the hub refuses the TPM, and the owner
// can read the reason in the audit trail.
func TestTPMWithTheCertificateOfAnotherIsRefusedAndItsOwnerTold(t *testing.T) {
	t.Parallel()
	tpm, other := newTPM(t, swtpm.None), newTPM(t, swtpm.P384)
	cas, signer := newMakerCAs(t, 1)
	if err := tpm.WriteNV(0x01C00016, certifyEK(t, ekKey(t, other, "H-3"), cas[0], signer, time.Now().AddDate(10, 0, 0))); err != nil {
		t.Fatal(err)
	}
	h := hubtest.New(t, cas, nil)
	_, err := onboard(t, tpm, h.Token(t, h.Owner, nil), t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "ek-key-mismatch") {
		t.Fatalf("got the error %v, want ek-key-mismatch", err)
	}
	wantSentences(t, signIn(t, h).events(), "The request's EK is not the key of the EK certificate: the certificate belongs to another TPM, or this TPM's endorsement seed has been changed since the certificate was issued.")
	if n := len(h.Devices(t, h.Owner)); n != 0 {
		t.Errorf("%d devices, want 0", n)
	}
}

// The hub refuses a TPM with an expired EK certificate only if the policy says so. By default, the
// hub accepts the TPM, and the device's verdict has a note.
func TestTPMWithAnExpiredCertificate(t *testing.T) {
	t.Parallel()
	tpm := newTPM(t, swtpm.None)
	cas, signer := newMakerCAs(t, 1)
	expired := time.Now().AddDate(0, 0, -3)
	if err := tpm.WriteNV(0x01C00016, certifyEK(t, ekKey(t, tpm, "H-3"), cas[0], signer, expired)); err != nil {
		t.Fatal(err)
	}
	h := hubtest.New(t, cas, nil)
	ada := signIn(t, h)
	dir := t.TempDir()
	h.Policy(t, h.Owner.ID, "version: 1\nexpired_ek_certificate: refuse\n")
	if _, err := onboard(t, tpm, h.Token(t, h.Owner, nil), filepath.Join(dir, "strict")); err == nil || !strings.Contains(err.Error(), "ek-certificate-expired") {
		t.Fatalf("got the error %v, want ek-certificate-expired", err)
	}
	day := expired.UTC().Format(time.DateOnly)
	wantSentences(t, ada.events(), "The EK certificate expired on "+day+", and the policy does not accept expired EK certificates.")
	h.Policy(t, h.Owner.ID, "")
	s, err := onboard(t, tpm, h.Token(t, h.Owner, nil), filepath.Join(dir, "default"))
	if err != nil {
		t.Fatal(err)
	}
	wantSentences(t, ada.evidence(s.DeviceID), "the EK certificate expired on "+day)
}

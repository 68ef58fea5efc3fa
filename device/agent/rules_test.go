package agent

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/tcg"
	"gangway/wire"
)

// These tests check the agent's decisions with a fake TPM and a fake hub. The tests in internal/e2e
// check the same decisions with a real agent, a real hub and a software TPM.

// The first call of Onboard onboards the device. Each later call only asks the hub whether it still
// accepts the device.
func TestDeviceOnboardsOnceAndIsCheckedAfterwards(t *testing.T) {
	t.Parallel()
	hub, m := newFakeHub(t), newMachine(t)
	token := hub.token()
	s := m.onboarded(Config{Token: token})
	if s.Phase != PhaseActive || s.DeviceID != fakeDevice || s.OwnerNick != "ada" || s.TokenID != token.ID || s.Hub != hub.server.URL || s.TPM.Manufacturer != "FAKE" {
		t.Errorf("%+v", s)
	}
	// An onboarded device needs no token file. If a token file is configured, the agent asks the
	// hub whether the device is active, and does not use the file's join token.
	m.onboarded(Config{})
	m.onboarded(Config{Token: hub.token()})
	if hub.count("POST /onboard") != 1 || hub.count("GET /device") != 2 || hub.count("POST /onboard/activate") != 1 || m.heard("is not used") != 1 {
		t.Errorf("asked %q, said %q", hub.asked, m.said)
	}
	if _, err := newMachine(t).onboard(Config{}); err == nil || !strings.Contains(err.Error(), "needs a join token file") {
		t.Errorf("without a token: %v", err)
	}
}

// The certificates in a hub's reply must be from the agent's own hub, and for the keys of the
// agent's own TPM. The agent refuses a reply with other certificates.
func TestReplyWithOtherCertificatesIsRefused(t *testing.T) {
	t.Parallel()
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(h *fakeHub, ca *testCA, certs [][]byte) [][]byte
		want   string
	}{
		"an IDevID certificate of another CA": {func(h *fakeHub, ca *testCA, certs [][]byte) [][]byte {
			key := parsed(t, certs[0]).PublicKey
			return [][]byte{h.issue(&x509.Certificate{Subject: pkix.Name{CommonName: "idevid"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, key, ca.cert, ca.key), ca.cert.Raw, certs[2], certs[3]}
		}, "was not issued by the hub's CA"},
		"an AIK certificate of another CA": {func(h *fakeHub, ca *testCA, certs [][]byte) [][]byte {
			key := parsed(t, certs[2]).PublicKey
			return [][]byte{certs[0], certs[1], h.issue(&x509.Certificate{Subject: pkix.Name{CommonName: "aik"}}, key, ca.cert, ca.key), ca.cert.Raw}
		}, "was not issued by the hub's CA"},
		"a certificate for servers": {func(h *fakeHub, _ *testCA, certs [][]byte) [][]byte {
			key := parsed(t, certs[0]).PublicKey
			return [][]byte{h.issue(&x509.Certificate{Subject: pkix.Name{CommonName: "idevid"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, key, h.ca.cert, h.ca.key), certs[1], certs[2], certs[3]}
		}, "was not issued by the hub's CA"},
		"another identity key": {func(h *fakeHub, _ *testCA, certs [][]byte) [][]byte {
			return [][]byte{h.issue(&x509.Certificate{Subject: pkix.Name{CommonName: "idevid"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, other.Public(), h.ca.cert, h.ca.key), certs[1], certs[2], certs[3]}
		}, "a key that this TPM does not have"},
		"another attestation key": {func(h *fakeHub, _ *testCA, certs [][]byte) [][]byte {
			return [][]byte{certs[0], certs[1], h.issue(&x509.Certificate{Subject: pkix.Name{CommonName: "aik"}}, other.Public(), h.ca.cert, h.ca.key), certs[3]}
		}, "a key that this TPM does not have"},
		"too few": {func(_ *fakeHub, _ *testCA, certs [][]byte) [][]byte { return certs[:2] }, "has 2 certificates instead of 4"},
		"none":    {func(*fakeHub, *testCA, [][]byte) [][]byte { return nil }, "has 0 certificates instead of 4"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hub, m, ca := newFakeHub(t), newMachine(t), newTestCA(t)
			hub.change = func(certs [][]byte) [][]byte { return c.change(hub, ca, certs) }
			if _, err := m.onboard(Config{Token: hub.token()}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v; want %q", err, c.want)
			}
			if s := m.stored(); s.Phase == PhaseActive || hub.count("POST /onboard/activate") != 0 {
				t.Errorf("phase %s, asked %q", s.Phase, hub.asked)
			}
		})
	}
}

func parsed(t *testing.T, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A hub is identified by its root key. So on an onboarded machine, a token file of another hub
// changes nothing, even if the file contains the first hub's name.
func TestFileOfAnotherHubIsNotUsed(t *testing.T) {
	t.Parallel()
	hub, other, m := newFakeHub(t), newFakeHub(t), newMachine(t)
	m.onboarded(Config{Token: hub.token()})
	asked := len(hub.asked)
	relay := hub.token()
	relay.Hub, relay.HubCA = other.server.URL, other.caPEM() // the file has this hub's name, but another hub's address and CA
	for name, cfg := range map[string]Config{
		"another hub's token": {Token: other.token()}, "another hub's file": {Hub: other.file()}, "another key under the same name": {Token: relay},
	} {
		want := "another hub"
		if cfg.Token == relay {
			want = "is not used"
		}
		if _, err := m.onboard(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s := m.stored(); len(other.asked) != 0 || len(hub.asked) != asked || s.HubName != hub.name || s.HubCA != hub.caPEM() || s.Hub != hub.server.URL || len(s.Addresses.URLs) != 1 {
		t.Errorf("the other hub was asked %q; addresses %+v", other.asked, s.Addresses)
	}
	// If the server at the token's address has a certificate of another CA, the agent sends no
	// request to that server.
	m = newMachine(t)
	token := hub.token()
	token.Hub = other.server.URL
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := m.agent(Config{Token: token}).Onboard(ctx); err == nil || len(other.asked) != 0 || m.heard("not the hub") == 0 {
		t.Errorf("%v; asked %q; said %q", err, other.asked, m.said)
	}
}

// If a token file has a new address of the same hub, the agent uses that address first. If the
// agent later reads an older token file, the address in it does not replace the newer one. A list
// of addresses from the hub replaces the stored addresses.
func TestAddressesOfAHub(t *testing.T) {
	t.Parallel()
	old, m := newFakeHub(t), newMachine(t)
	moved := fakeHubOf(t, old.ca)
	token := old.token()
	m.onboarded(Config{Token: token})
	to := *token
	to.Hub = moved.server.URL
	m.onboarded(Config{Token: &to})
	if moved.count("GET /device") != 1 || m.stored().Hub != moved.server.URL || m.heard("a new address of the same hub") != 1 {
		t.Errorf("the file's new address: asked %q, state %s", moved.asked, m.stored().Hub)
	}
	m.onboarded(Config{Token: &to}) // the file has not changed, so the addresses do not change
	if moved.count("GET /device") != 2 || m.heard("a new address of the same hub") != 1 {
		t.Errorf("said %q", m.said)
	}
	// If the hub does not answer at the current address, the agent uses the next one.
	moved.server.Close()
	m.onboarded(Config{Token: &to})
	if old.count("GET /device") != 1 || m.stored().Hub != old.server.URL || m.heard("no longer at") != 1 {
		t.Errorf("state %s, said %q", m.stored().Hub, m.said)
	}
	// The list of addresses in the hub's answer replaces the stored addresses, with two exceptions:
	// the address in use stays first, and the address from the token file becomes the last.
	old.header.Set(wire.AddressesHeader, "https://new.example, http://plain.example, https://new.example/, https://path.example/x")
	m.onboarded(Config{})
	if got := strings.Join(m.stored().Addresses.URLs, " "); got != old.server.URL+" https://new.example "+moved.server.URL {
		t.Errorf("addresses: %s", got)
	}
}

// If the agent cannot connect to an address of the hub, it tries the hub's next address at once,
// without a pause.
func TestNextAddressIsTriedAtOnce(t *testing.T) {
	t.Parallel()
	old := newFakeHub(t)
	down := fakeHubOf(t, old.ca)
	down.server.Close()
	at := newAddresses([]string{down.server.URL, old.server.URL}, "")
	h, err := newHub(at, old.caPEM(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	if _, err := h.send(t.Context(), "GET", "/device", "", nil); err != nil || at.current() != old.server.URL {
		t.Errorf("%v; at %s", err, at.current())
	}
}

// If the machine's clock is behind, the answer of a verified hub sets it. From then on, time
// servers can move the clock only within a limit from the hub's time.
func TestClockIsSetFromTheHub(t *testing.T) {
	t.Parallel()
	hub, m := newFakeHub(t), newMachine(t)
	later := time.Now().Add(time.Hour).Truncate(time.Second)
	hub.header.Set("Date", later.UTC().Format(http.TimeFormat))
	var set []time.Time
	a := m.agent(Config{Token: hub.token(), NTP: []string{"127.0.0.1:1"}, SetClock: func(t time.Time) error { set = append(set, t); return nil }})
	if _, err := a.Onboard(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(set) == 0 || !set[0].Equal(later) || !a.time.base.Equal(later) || m.heard("clock: The machine's clock was set") != len(set) {
		t.Errorf("set to %v; base %v; said %q", set, a.time.base, m.said)
	}
	if m.heard("clock: Asking the time servers for the time failed") != 1 {
		t.Errorf("the time server was not asked; said %q", m.said)
	}
}

// Ask returns what the hub answers as a sentence, and does not change the stored state.
func TestAskSaysWhatTheHubAnswers(t *testing.T) {
	t.Parallel()
	hub, m := newFakeHub(t), newMachine(t)
	cfg := Config{StateDir: m.state, TPM: "fake", open: func(string) (tpm, error) { return m.tpm, nil }}
	if _, err := Ask(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "not onboarded yet") {
		t.Errorf("a new machine: %v", err)
	}
	m.onboarded(Config{Token: hub.token()})
	before := m.stored()
	for code, want := range map[string]string{"": "accepts the device", "boot-changed": "knows the device but refuses it", "device-revoked": "deleted this device"} {
		if code != "" {
			hub.refuse("GET /device", 1, 403, code)
		}
		if answer, err := Ask(t.Context(), cfg); err != nil || !strings.Contains(answer, want) {
			t.Errorf("%q: %q, %v", code, answer, err)
		}
	}
	hub.server.Close()
	if answer, err := Ask(t.Context(), cfg); err != nil || !strings.Contains(answer, "Asking the hub failed") {
		t.Errorf("a hub that is away: %q, %v", answer, err)
	}
	if after := m.stored(); after.Phase != before.Phase || after.Removed != "" || after.Waiting != "" {
		t.Errorf("%+v", after)
	}
}

// If the device is not active, Export, Proxy and RegisterPantavisor fail with an error that says
// why.
func TestOnlyAnActiveDeviceIsUsed(t *testing.T) {
	t.Parallel()
	for phase, want := range map[Phase]string{PhaseNew: "not onboarded yet", PhaseAnswered: "not onboarded yet", PhaseRemoved: "--again"} {
		m := newMachine(t)
		m.edit(func(s *State) { s.Phase, s.Removed = phase, "revoked" })
		if _, err := Export(t.Context(), ExportConfig{TPM: "/nonexistent", StateDir: m.state, Dir: t.TempDir()}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: export: %v", phase, err)
		}
		if err := Proxy(t.Context(), ProxyConfig{TPM: "/nonexistent", StateDir: m.state, TCP: "127.0.0.1:0"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: proxy: %v", phase, err)
		}
		if _, err := m.agent(Config{}).RegisterPantavisor(t.Context(), Pantavisor{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: Pantavisor: %v", phase, err)
		}
	}
}

// If the hub's access token is too long for Pantavisor's buffer, the agent does not pass it to
// Pantavisor.
func TestPantavisorGetsATokenThatFits(t *testing.T) {
	t.Parallel()
	hub, m := newFakeHub(t), newMachine(t)
	m.onboarded(Config{Token: hub.token()})
	a := m.agent(Config{})
	p := Pantavisor{Config: filepath.Join(t.TempDir(), "pantahub.config")}
	for token, good := range map[string]bool{
		"a.b.c": true, strings.Repeat("x", maxToken): true, strings.Repeat("x", maxToken+1): false, "": false, `a\r\nb`: false, "a b": false,
	} {
		hub.answer("POST /auth/x509/login", 1, 200, `{"token":"`+token+`"}`)
		answer, _, err := a.LoginPantavisor(t.Context(), p)
		if (err == nil) != good || good && string(answer) != `{"token":"`+token+`"}` {
			t.Errorf("%.20q: %.40s, %v", token, answer, err)
		}
	}
}

// The agent drops duplicates from the addresses that the hub names, and stores at most MaxAddresses
// of them.
func TestAddressesAreBounded(t *testing.T) {
	t.Parallel()
	at := newAddresses([]string{"https://a.example/", "https://a.example", ""}, "https://file.example")
	if got := strings.Join(at.all(), " "); got != "https://a.example" {
		t.Errorf("distinct: %s", got)
	}
	var many []string
	for i := range 50 {
		many = append(many, fmt.Sprintf("https://%d.example", i))
	}
	if n := len(newAddresses(many, "").all()); n != wire.MaxAddresses+2 {
		t.Errorf("%d addresses", n)
	}
	var heard [][]string
	at.heard = func(urls []string) { heard = append(heard, urls) }
	header := map[string][]string{}
	for i := range 50 {
		header[wire.AddressesHeader] = append(header[wire.AddressesHeader], fmt.Sprintf("https://%d.example", i))
	}
	at.worked("https://a.example", header)
	at.worked("https://a.example", header)
	if len(at.all()) != wire.MaxAddresses+2 || at.current() != "https://a.example" || len(heard) != 1 {
		t.Errorf("%d addresses, %q first, heard %d times", len(at.all()), at.current(), len(heard))
	}
	at.failed("https://other.example") // the failed address is not the address in use, so nothing changes
	if at.current() != "https://a.example" {
		t.Error("the failure of another address made the agent leave the address in use")
	}
	at.failed("https://a.example")
	if at.current() != "https://0.example" {
		t.Errorf("after a failure: %s", at.current())
	}
	at.offer([]string{"https://offered.example"})
	if got := at.all(); got[0] != "https://0.example" || got[1] != "https://offered.example" {
		t.Errorf("after an offer: %q", got)
	}
}

// If the hub refuses a request, the code of the refusal decides what the agent does: retry, make a
// new request, or give up.
func TestRefusalsOfTheHub(t *testing.T) {
	t.Parallel()
	const ask, activate = "POST /onboard", "POST /onboard/activate"
	for name, c := range map[string]struct {
		request  string
		n        int // number of the hub's refusals; 0: the hub always refuses
		status   int
		code     string
		requests int    // number of different onboarding requests that the hub has accepted
		err      string // text in the error of Onboard; empty: Onboard succeeds
	}{
		"a busy hub":                       {ask, 2, 503, "overloaded", 1, ""},
		"a rate limit":                     {ask, 2, 429, "rate-limit", 1, ""},
		"a request that expired":           {activate, 1, 403, "enrolment-expired", 2, ""},
		"a request that was superseded":    {activate, 1, 403, "enrolment-superseded", 2, ""},
		"a hub that lost the request":      {activate, 1, 403, "certificate-unknown", 2, ""},
		"a proof that does not hold":       {activate, 1, 403, "activation-proof", 2, ""},
		"requests that always expire":      {activate, 0, 403, "enrolment-expired", 1 + maxNewRequests, "enrolment-expired"},
		"a denial":                         {ask, 0, 403, "device-denied", 1, "device-denied"},
		"a token that is used up":          {ask, 0, 403, "token-used-up", 1, "token-used-up"},
		"a deletion since the request":     {activate, 0, 403, "device-revoked", 1, "deleted this device"},
		"a certificate that is superseded": {activate, 1, 403, "certificate-not-active", 1, "deleted this device"},
		"a boot that must match":           {activate, 2, 403, "boot-changed", 1, ""},
		"a clone":                          {activate, 2, 403, "tpm-cloned", 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hub, m := newFakeHub(t), newMachine(t)
			hub.refuse(c.request, c.n, c.status, c.code)
			_, err := m.onboard(Config{Token: hub.token()})
			if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("got %v; want %q", err, c.err)
			}
			if len(hub.requests) > c.requests || hub.count(ask) < c.requests {
				t.Errorf("%d different requests in %q; want %d", len(hub.requests), hub.asked, c.requests)
			}
			if c.err == "" != (m.stored().Phase == PhaseActive) {
				t.Errorf("phase %s", m.stored().Phase)
			}
			if c.err != "" && !strings.Contains(m.stored().Waiting, c.err) {
				t.Errorf("status says %q", m.stored().Waiting)
			}
		})
	}
}

// While the owner has not decided about the device, the agent repeats the same request to the hub,
// but reports only once that it is waiting.
func TestWaitingDeviceSendsTheSameRequest(t *testing.T) {
	t.Parallel()
	hub, m := newFakeHub(t), newMachine(t)
	hub.answer("POST /onboard", 2, 202, `{"status":"waiting","error":"ek-unknown","msg":"No certificate.","device-id":"d1","ek-sha256":"abcd","retry-after":1}`)
	m.onboarded(Config{Token: hub.token()})
	if hub.count("POST /onboard") != 3 || len(hub.requests) != 1 || m.heard("waiting: waiting for the owner to decide") != 1 {
		t.Errorf("asked %q; said %q", hub.asked, m.said)
	}
}

func removedFor(certificate string) string { return fmt.Sprintf(`,"certificate":%q`, certificate) }

// The owner has deleted the device. Although the token file is still on the machine, the device
// does not onboard again until a person runs the agent with --again.
func TestDeletionOutlivesTheTokenFile(t *testing.T) {
	t.Parallel()
	hub, m := newFakeHub(t), newMachine(t)
	token := hub.token()
	m.onboarded(Config{Token: token})
	hub.refuse("GET /device", 0, 403, "certificate-not-active", removedFor("revoked"))
	for range 2 {
		_, err := m.onboard(Config{Token: token})
		var removed *Removed
		if !errors.As(err, &removed) || removed.Why != "revoked" || !strings.Contains(err.Error(), "--again") {
			t.Fatalf("got %v", err)
		}
	}
	if s := m.stored(); hub.count("POST /onboard") != 1 || s.Phase != PhaseRemoved || s.Removed != "revoked" || s.RemovedAt.IsZero() || !s.Returned.IsZero() || !strings.Contains(s.Waiting, "--again") {
		t.Errorf("asked %q, state %+v", hub.asked, s)
	}
	// The agent of a deleted device does not run.
	if err := m.agent(Config{}).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "--again") {
		t.Errorf("run: %v", err)
	}
}

// If a person runs the agent with --again on the machine of a deleted device, the device onboards
// again.
func TestPersonBringsADeletedDeviceBack(t *testing.T) {
	t.Parallel()
	hub, m := newFakeHub(t), newMachine(t)
	m.onboarded(Config{Token: hub.token()})
	hub.refuse("GET /device", 0, 403, "certificate-not-active", removedFor("revoked"))
	if _, err := m.onboard(Config{}); err == nil {
		t.Fatal("a deleted device is accepted")
	}
	token := hub.token()
	if s := m.onboarded(Config{Token: token, Again: true}); s.Removed != "" || s.Former != nil || s.TokenID != token.ID || hub.count("POST /onboard") != 2 {
		t.Errorf("%+v", s)
	}
}

// If the hub says that the device's certificate is superseded or unknown, the owner has not deleted
// the device. The agent then onboards the machine again with the join token, at most once a day.
func TestSupersededDeviceReturnsOnceADay(t *testing.T) {
	t.Parallel()
	hub, m := newFakeHub(t), newMachine(t)
	token := hub.token()
	m.onboarded(Config{Token: token})
	superseded := func() {
		hub.refuse("GET /device", 1, 403, "certificate-not-active", removedFor("superseded"))
	}
	superseded()
	if _, err := m.onboard(Config{}); err == nil {
		t.Fatal("without a token: it returned")
	}
	m.edit(func(s *State) { s.Phase = PhaseActive })
	superseded()
	s := m.onboarded(Config{Token: token})
	if hub.count("POST /onboard") != 2 || time.Since(s.Returned) > time.Minute {
		t.Errorf("%d requests, returned %v", hub.count("POST /onboard"), s.Returned)
	}
	superseded()
	if _, err := m.onboard(Config{Token: token}); err == nil || !strings.Contains(err.Error(), "once a day") || hub.count("POST /onboard") != 2 {
		t.Errorf("the second time in a day: %v", err)
	}
	m.edit(func(s *State) { s.Returned = time.Now().Add(-25 * time.Hour) })
	superseded()
	m.onboarded(Config{Token: token})
	if hub.count("POST /onboard") != 3 {
		t.Errorf("the next day: %d requests", hub.count("POST /onboard"))
	}
}

// If the hub refuses an onboarding with --again, or the agent is stopped during this onboarding,
// the device stays active.
func TestRefusedReturnLosesNothing(t *testing.T) {
	t.Parallel()
	hub, m := newFakeHub(t), newMachine(t)
	before := m.onboarded(Config{Token: hub.token()})
	hub.refuse("POST /onboard", 0, 403, "token-used-up")
	if _, err := m.onboard(Config{Token: hub.token(), Again: true}); err == nil {
		t.Fatal("no error")
	}
	s := m.stored()
	if s.Phase != PhaseActive || s.DeviceID != before.DeviceID || s.TokenID != before.TokenID || s.Former != nil {
		t.Errorf("%+v", s)
	}
	if _, err := os.Stat(filepath.Join(m.state, requestFile)); err == nil {
		t.Error("the refused request is still there")
	}
	m.onboarded(Config{})

	// The test stops the onboarding, and starts the agent again without a token.
	hub.answer("POST /onboard", 0, 503, "")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	a := m.agent(Config{Token: hub.token(), Again: true})
	if _, err := a.Onboard(ctx); err == nil || m.stored().Former == nil {
		t.Fatalf("%v, former %v", err, m.stored().Former)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if s := m.onboarded(Config{}); s.DeviceID != before.DeviceID || s.Former != nil {
		t.Errorf("%+v", s)
	}
}

// The agent refuses a state folder that was made with another TPM, whatever phase of onboarding is
// stored in it.
func TestStateOfAnotherTPMGetsNowhere(t *testing.T) {
	t.Parallel()
	hub, m := newFakeHub(t), newMachine(t)
	hub.refuse("POST /onboard", 1, 403, "device-denied")
	token := hub.token()
	if _, err := m.onboard(Config{Token: token}); err == nil {
		t.Fatal("no error")
	}
	good, other := m.tpm, newFakeTPM(t)
	m.tpm = other // the stored request was made with the first TPM
	asked := len(hub.asked)
	if _, err := m.onboard(Config{Token: token}); err == nil || !strings.Contains(err.Error(), "belongs to another TPM") || len(hub.asked) != asked {
		t.Errorf("requested: %v", err)
	}
	m.tpm = good
	m.onboarded(Config{Token: token})
	m.tpm = other // the stored certificate is for a key of the first TPM
	asked = len(hub.asked)
	if _, err := m.onboard(Config{}); err == nil || !strings.Contains(err.Error(), "belongs to another TPM") || len(hub.asked) != asked {
		t.Errorf("active: %v", err)
	}
	if err := m.agent(Config{}).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "belongs to another TPM") {
		t.Errorf("run: %v", err)
	}
}

// If the stored request has an EK certificate that the TPM no longer has, the agent makes a new
// request.
func TestRequestWithAnotherEKCertificateIsMadeAgain(t *testing.T) {
	t.Parallel()
	hub, m := newFakeHub(t), newMachine(t)
	hub.refuse("POST /onboard", 1, 403, "ek-mismatch")
	m.tpm.ekCert = hub.ca.cert
	token := hub.token()
	if _, err := m.onboard(Config{Token: token}); err == nil {
		t.Fatal("no error")
	}
	m.tpm.ekCert = nil // the next request has no EK certificate
	m.onboarded(Config{Token: token})
	if len(hub.requests) != 1 || hub.count("POST /onboard") != 2 { // hub.requests has only accepted requests, so the first request is missing in it
		t.Errorf("%d requests", len(hub.requests))
	}
	if csr, err := tcg.ParseCSR(hub.bodies["POST /onboard"][1]); err != nil || string(csr.EKCert) != string(m.tpm.ek.Public.Raw) {
		t.Errorf("the old certificate was sent again (%v)", err)
	}
}

// An onboarding request names its join token. So if a request that was made with another join token
// is stored, the agent drops it.
func TestRequestOfAnotherTokenIsDropped(t *testing.T) {
	t.Parallel()
	hub, m := newFakeHub(t), newMachine(t)
	hub.refuse("POST /onboard", 1, 403, "token-expired")
	if _, err := m.onboard(Config{Token: hub.token()}); err == nil {
		t.Fatal("no error")
	}
	second := hub.token()
	m.onboarded(Config{Token: second})
	if len(hub.tokens) != 1 || hub.tokens[0] != second.ID {
		t.Errorf("requests of the tokens %q; want %s", hub.tokens, second.ID)
	}
}

// If the agent can lift the TPM's lockout without a password, it does so. Otherwise it waits until
// the lockout ends.
func TestLockout(t *testing.T) {
	t.Parallel()
	t.Run("lifted", func(t *testing.T) {
		t.Parallel()
		hub, m := newFakeHub(t), newMachine(t)
		m.tpm.locked, m.tpm.liftable = 100, true
		m.onboarded(Config{Token: hub.token()})
		if m.tpm.lifts != 1 || m.heard("the lockout was lifted") != 1 {
			t.Errorf("%d lifts, said %q", m.tpm.lifts, m.said)
		}
	})
	t.Run("waited for", func(t *testing.T) {
		t.Parallel()
		hub, m := newFakeHub(t), newMachine(t)
		m.tpm.locked, m.tpm.state.Password, m.tpm.state.Interval, m.tpm.state.Max = 2, true, time.Second, 10
		m.onboarded(Config{Token: hub.token()})
		if m.tpm.lifts != 1 || m.heard("waiting: The TPM is in lockout") != 1 || m.stored().Waiting != "" {
			t.Errorf("%d lifts, said %q, status %q", m.tpm.lifts, m.said, m.stored().Waiting)
		}
	})
	t.Run("no quote", func(t *testing.T) { // a quote is optional, so the agent does not wait for the end of the lockout
		t.Parallel()
		hub, m := newFakeHub(t), newMachine(t)
		m.onboarded(Config{Token: hub.token()})
		s := m.session(Config{})
		m.tpm.locked, m.tpm.uses = 1000, 0
		begin := time.Now()
		if _, err := s.Do(t.Context(), "GET", "/device", nil, 1<<10); err != nil || time.Since(begin) > 10*time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		if m.heard("The boot measurement failed") != 1 || hub.count("POST /device/boot") != 0 || m.tpm.uses != 1 {
			t.Errorf("%d tries; said %q", m.tpm.uses, m.said)
		}
	})
}

// The method `session` makes a session with the hub, in the same way as Run.
func (m *testMachine) session(cfg Config) *session {
	m.t.Helper()
	s, err := m.agent(cfg).dial(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { s.close() })
	return s
}

// On each connection to the hub, the agent's first request is a boot measurement. The TPM's
// signature covers the hub's nonce and the hash of the event log. The hub may ask for another
// measurement at any time.
func TestBootIsMeasuredOnEachConnection(t *testing.T) {
	t.Parallel()
	hub, m := newFakeHub(t), newMachine(t)
	m.onboarded(Config{Token: hub.token()})
	before := len(hub.asked)
	s := m.session(Config{})
	do := func() error {
		_, err := s.Do(t.Context(), "GET", "/device", nil, 1<<10)
		return err
	}
	expect := func(what string, requests ...string) {
		t.Helper()
		if got := hub.asked[before:]; strings.Join(got, ", ") != strings.Join(requests, ", ") {
			t.Errorf("%s: asked %q; want %q", what, got, requests)
		}
		before = len(hub.asked)
	}
	const challenge, report, get = "GET /device/boot", "POST /device/boot", "GET /device"
	if err := do(); err != nil {
		t.Fatal(err)
	}
	expect("the first request", challenge, report, get)
	if string(m.tpm.quotes[0]) != string(wire.BootQualifying(make([]byte, wire.BootNonceSize), nil)) {
		t.Error("the quote is not bound to the hub's nonce and the event log")
	}
	do()
	expect("the same connection", get)
	s.h.close()
	do() // this request makes the connection
	expect("a connection that was lost", get)
	do()
	expect("another connection", challenge, report, get)
	hub.refuse(get, 1, 403, "boot-unmeasured")
	if err := do(); err != nil {
		t.Error(err)
	}
	expect("a hub that has not seen the boot", get, challenge, report, get)
	hub.refuse(get, 2, 403, "boot-unmeasured")
	if err := do(); err == nil {
		t.Error("no error")
	}
	expect("a hub that never sees it", get, challenge, report, get)
	do()
	expect("the next request after a refusal", challenge, report, get)
	hub.answer("PATCH /device/meta", 1, 200, `{"measure":true}`)
	if err := s.a.report(t.Context(), s, nil); err != nil {
		t.Error(err)
	}
	expect("a hub that asks for it", "PATCH /device/meta", challenge, report)
}

// If a boot measurement fails, the session with the hub continues, and the agent measures again
// later.
func TestFailedMeasurementIsTriedAgainLater(t *testing.T) {
	t.Parallel()
	hub, m := newFakeHub(t), newMachine(t)
	m.onboarded(Config{Token: hub.token()})
	s := m.session(Config{})
	do := func() {
		t.Helper()
		if _, err := s.Do(t.Context(), "GET", "/device", nil, 1<<10); err != nil {
			t.Error(err)
		}
	}
	m.tpm.quoteErr = errors.New("no PCR bank")
	do()
	do()
	if n := hub.count("GET /device/boot"); n != 1 || s.pause != firstRemeasure || s.a.state.Boot != "unmeasured" {
		t.Errorf("%d tries, the next in %v; boot %q", n, s.pause, s.a.state.Boot)
	}
	s.remeasureAt = time.Now()
	do()
	if n := hub.count("GET /device/boot"); n != 2 || s.pause != 2*firstRemeasure {
		t.Errorf("%d tries, the next in %v", n, s.pause)
	}
	m.tpm.quoteErr = nil
	s.remeasureAt = time.Now()
	do()
	if hub.count("POST /device/boot") != 1 || !s.remeasureAt.IsZero() || s.a.state.Boot != "matches" {
		t.Errorf("asked %q; boot %q", hub.asked, s.a.state.Boot)
	}
	hub.refuse("POST /device/boot", 1, 403, "boot-pcr-values")
	s.measured = 0
	do()
	if s.a.state.Boot != "refused" {
		t.Errorf("boot %q", s.a.state.Boot)
	}
}

// If the hub refuses the device-meta in a report, the agent sends an empty report instead, so that
// the hub still sees that the device is connected.
func TestRefusedReportIsSentWithoutItsContent(t *testing.T) {
	t.Parallel()
	hub, m := newFakeHub(t), newMachine(t)
	m.onboarded(Config{Token: hub.token()})
	s := m.session(Config{})
	const report = "PATCH /device/meta"
	hub.refuse(report, 1, 404, "not-found")
	if err := s.a.report(t.Context(), s, nil); err != nil || hub.count(report) != 2 {
		t.Errorf("404: %v, %d reports", err, hub.count(report))
	}
	hub.refuse(report, 1, 413, "quota")
	if err := s.a.report(t.Context(), s, nil); err != nil || string(hub.bodies[report][3]) != "{}" || m.heard("quota") != 1 {
		t.Errorf("413: %v, %d reports", err, hub.count(report))
	}
	hub.refuse(report, 1, 403, "device-revoked")
	if err := s.a.report(t.Context(), s, nil); removal(err) != removedRevoked {
		t.Errorf("403: %v", err)
	}
	if m.stored().LastSeen.IsZero() {
		t.Error("no report is noted")
	}
}

// The agent refuses user-meta that two JSON parsers could read differently, for example an object
// that contains the same name twice.
func TestUserMetaIsKeptOnlyIfItMeansOneThing(t *testing.T) {
	t.Parallel()
	hub, m := newFakeHub(t), newMachine(t)
	m.onboarded(Config{Token: hub.token()})
	s := m.session(Config{})
	const get = "GET /devices/" + fakeDevice + "/user-meta"
	for _, bad := range []string{`{"a":1,"a":2}`, `[]`, `null`, `{"a":`, strings.Repeat(" ", maxUserMeta) + "{}"} {
		hub.answer(get, 1, 200, bad)
		if changed, err := s.a.fetchUserMeta(t.Context(), s); err == nil || changed {
			t.Errorf("%.30s is accepted", bad)
		}
	}
	hub.answer(get, 0, 200, `{ "a" : 1 }`)
	for i := range 2 {
		if changed, err := s.a.fetchUserMeta(t.Context(), s); err != nil || changed != (i == 0) {
			t.Errorf("try %d: %v, %v", i, changed, err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(m.state, userMetaFile)); err != nil || string(b) != "{\"a\":1}\n" {
		t.Errorf("%q, %v", b, err)
	}
}

// A machine without a join token makes one itself and shows the token's claim code. The agent never
// writes the token's secret to the disk. Once the machine is onboarded, it never shows a claim code
// again.
func TestMachineWithoutATokenIsClaimed(t *testing.T) {
	t.Parallel()
	hub, m := newFakeHub(t), newMachine(t)
	s := m.onboarded(Config{Hub: hub.file()})
	if s.Phase != PhaseActive || s.Owner != hub.owner || s.Claim != "" || m.heard("claim: This machine has no owner yet") != 1 || m.heard(`claimed: "ada" has claimed`) != 1 {
		t.Errorf("%+v; said %q", s, m.said)
	}
	hub.refuse("GET /device", 0, 403, "certificate-not-active", removedFor("superseded"))
	if _, err := m.onboard(Config{Hub: hub.file()}); err == nil || m.heard("no owner yet") != 1 {
		t.Errorf("%v; said %q", err, m.said)
	}
	for _, answer := range []string{`{"owner":"x"}`, `{"owner":1}`, `{}`, `{"owner":"` + hub.owner + `","owner":"` + hub.owner + `"}`} {
		hub, m := newFakeHub(t), newMachine(t)
		hub.claim = answer
		if _, err := m.onboard(Config{Hub: hub.file()}); err == nil || hub.claims == 0 || hub.count("POST /onboard") != 0 {
			t.Errorf("%s: %v after %d requests about the claim", answer, err, hub.claims)
		}
	}
}

// If a claimed machine is switched off before the device is active, the agent later continues with
// the stored request. The machine shows no new claim code, so the owner does not have to claim it
// again.
func TestStoppedClaimGoesOn(t *testing.T) {
	t.Parallel()
	hub, m := newFakeHub(t), newMachine(t)
	hub.refuse("POST /onboard", 1, 403, "device-denied")
	if _, err := m.onboard(Config{Hub: hub.file()}); err == nil {
		t.Fatal("no error")
	}
	m.onboarded(Config{Hub: hub.file()})
	if m.heard("no owner yet") != 1 || hub.claims != 1 {
		t.Errorf("%d claims, said %q", hub.claims, m.said)
	}
}

// The proxy asks the hub, once for each connection, whether it admits the device. If it does not,
// the proxy sends a boot measurement.
func TestProxyIsAdmittedOnEachConnection(t *testing.T) {
	t.Parallel()
	fake, m := newFakeHub(t), newMachine(t)
	m.onboarded(Config{Token: fake.token()})
	a := m.agent(Config{})
	h, done, err := a.identified(t.Context(), m.tpm)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	given := false
	r := newRelay(a, m.tpm, func() *hub {
		if given {
			other, err := newHub(newAddresses([]string{fake.server.URL}, ""), fake.caPEM(), nil)
			if err != nil {
				t.Fatal(err)
			}
			return other
		}
		given = true
		return h
	})
	defer r.close()
	const ask, challenge, report, get = "GET /devices/" + fakeDevice, "GET /device/boot", "POST /device/boot", "GET /device"
	before := len(fake.asked)
	trip := func(what string, status int, requests ...string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "GET", fake.server.URL+"/device", nil)
		if err != nil {
			t.Fatal(err)
		}
		s := <-r.slots // put h, which has the device's certificate, into the slot
		for s.hub != h {
			r.slots <- s
			s = <-r.slots
		}
		resp, err := r.on(s, req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Error(err)
		}
		resp.Body.Close()
		if got := strings.Join(fake.asked[before:], ", "); got != strings.Join(requests, ", ") || resp.StatusCode != status {
			t.Errorf("%s: status %d, asked %s; want %q", what, resp.StatusCode, got, requests)
		}
		before = len(fake.asked)
	}
	fake.refuse(ask, 1, 403, "boot-unmeasured")
	trip("the first request", 200, ask, challenge, report, get)
	trip("the same connection", 200, get)
	fake.refuse(get, 1, 403, "boot-unmeasured")
	fake.refuse(ask, 1, 403, "boot-unmeasured")
	trip("a policy that changed", 200, get, ask, challenge, report, get)
	fake.refuse(get, 2, 403, "boot-changed")
	trip("a boot that was just measured", 403, get)
	fake.refuse(get, 1, 403, "device-denied")
	trip("another refusal", 403, get)
	trip("the same connection again", 200, get)
	h.close()
	trip("a connection that was lost", 200, get)
	trip("another connection", 200, ask, get)
}

// Only one agent at a time can use a state folder.
func TestStateFolderHasOneAgent(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.agent(Config{})
	if _, err := New(Config{StateDir: m.state, TPM: "fake"}); !errors.Is(err, ErrInUse) {
		t.Errorf("%v", err)
	}
}

// The agent of a removed device waits without the lock of its state folder. When a person has
// onboarded the device again with another agent, the first agent continues.
func TestRemovedDeviceLetsGoOfItsStateFolder(t *testing.T) {
	t.Parallel()
	hub, m := newFakeHub(t), newMachine(t)
	m.onboarded(Config{Token: hub.token()})
	hub.refuse("GET /device", 0, 403, "certificate-not-active", removedFor("revoked"))
	hub.refuse("PATCH /device/meta", 1, 403, "certificate-not-active", removedFor("revoked"))
	a := m.agent(Config{ReportEvery: 10 * time.Millisecond})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- a.OnboardAndRun(ctx) }()
	for m.heard("removed: The owner deleted") == 0 && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
	person := &testMachine{t: t, tpm: m.tpm, state: m.state}
	var err error
	for ctx.Err() == nil {
		var dir *folder
		if dir, err = openFolder(m.state); err == nil { // true while the removed device waits, because it has released the lock
			dir.close()
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	person.onboarded(Config{Token: hub.token(), Again: true})
	for m.heard("connected: ") == 0 && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil && !errors.Is(err, context.Canceled) || m.heard("connected: ") == 0 {
		t.Errorf("%v; said %q", err, m.said)
	}
}

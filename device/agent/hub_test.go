package agent

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// The agent limits the size of the hub's answers and does not follow the hub's redirects. So a
// hostile hub can neither exhaust the device's memory nor redirect the device to another host.
func TestEndlessAnswersAndRedirectsOfTheHubAreRefused(t *testing.T) {
	t.Parallel()
	elsewhere := false
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/endless":
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		case "/redirect":
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		case "/elsewhere":
			elsewhere = true
		}
	}))
	defer server.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	h, err := newHub(newAddresses([]string{server.URL}, ""), string(ca), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	if _, err := h.sendWithin(t.Context(), "GET", "/endless", "", nil, 1<<20); err == nil || !strings.Contains(err.Error(), "more than 1048576 bytes") {
		t.Errorf("%v", err)
	}
	blobs := h.newBlobClient(h.url())
	defer blobs.CloseIdleConnections()
	if resp, err := blobs.Get(server.URL + "/redirect"); err == nil || elsewhere {
		t.Errorf("%v", resp)
	}
	if _, err := h.send(t.Context(), "GET", "/redirect", "", nil); err == nil || elsewhere {
		t.Error("a redirect was followed")
	}
}

// muteKey is a key in a TPM that refuses to sign.
type muteKey struct{ crypto.Signer }

func (muteKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("The TPM is in lockout.")
}

// If the TPM refuses to sign during the TLS handshake with the hub, the agent reports a failure of
// the TPM and not a failure of the network.
func TestTPMThatDoesNotSignIsNotTheNetworksFault(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS13}
	server.StartTLS()
	defer server.Close()
	h, err := newHub(newAddresses([]string{server.URL}, ""), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})), nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	h = h.as(server.Certificate(), muteKey{key})
	defer h.close()
	_, err = h.send(t.Context(), "GET", "/", "", nil)
	if err == nil || describe(err) != "signing with the TPM for the connection failed: The TPM is in lockout." {
		t.Errorf("%v", err)
	}
}

// An overloaded hub refuses requests and tells the agent when to try again. Before the agent sends
// the same request again, it waits for that time plus a random additional time. If a test calls
// `send` earlier for the same request, the call fails and the hub gets no request.
func TestAgentObeysRetryAfter(t *testing.T) {
	t.Parallel()
	hub, m := newFakeHub(t), newMachine(t)
	hub.refuse("POST /onboard", 1, 503, "overloaded")
	hub.header = http.Header{"Retry-After": {"1"}}
	begin := time.Now()
	m.onboarded(Config{Token: hub.token()})
	if took := time.Since(begin); took < time.Second || hub.count("POST /onboard") != 2 {
		t.Errorf("after %s, asked %q", took, hub.asked)
	}

	hub.refuse("PATCH /device/meta", 1, 429, "too-many-requests")
	h, err := newHub(newAddresses([]string{hub.server.URL}, ""), hub.caPEM(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	send := func(method, path string) error {
		_, err := h.send(t.Context(), method, path, "", nil)
		return err
	}
	for range 20 {
		var r *Refused
		if err := send("PATCH", "/device/meta"); !errors.As(err, &r) || r.Status != 429 || !r.Temporary() {
			t.Fatalf("%v", err)
		}
	}
	if n := hub.count("PATCH /device/meta"); n != 1 {
		t.Errorf("%d requests", n)
	}
	if err := send("GET", "/device"); err != nil {
		t.Errorf("another request: %v", err)
	}
	time.Sleep(1100 * time.Millisecond)
	if send("PATCH", "/device/meta"); hub.count("PATCH /device/meta") != 2 {
		t.Error("the agent never asks again")
	}
}

// Attack: a hub, or a proxy in front of the hub, sends a very long Retry-After. The device waits
// only for a limited time.
func TestRetryAfterIsBounded(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"": 0, "0": 0, "-5": 0, "soon": 0, "1.5": 0, "Fri, 31 Dec 2999 23:59:59 GMT": 0, "7": 7 * time.Second, " 7 ": 7 * time.Second,
		"86400000": maxRetryAfter, "9223372036854775807": maxRetryAfter, "99999999999999999999999": 0,
	} {
		for status, obeyed := range map[int]bool{429: true, 503: true, 403: false, 500: false} {
			r := refused(&http.Response{StatusCode: status, Header: http.Header{"Retry-After": {text}}}, nil)
			if obeyed && r.retryAfter != want || !obeyed && r.retryAfter != 0 {
				t.Errorf("%d with %q: %s", status, text, r.retryAfter)
			}
		}
	}
}

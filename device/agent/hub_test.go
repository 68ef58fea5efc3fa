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

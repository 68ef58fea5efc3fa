package agent

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// An answer without an end is given up, and a redirect is not followed: a hub
// neither fills the memory nor sends the device elsewhere.
func TestEndlessAnswersAndRedirectsOfTheHubAreRefused(t *testing.T) {
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
	h, err := newHub(server.URL, string(ca), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	if _, err := h.sendWithin(t.Context(), "GET", "/endless", "", nil, 1<<20); err == nil || !strings.Contains(err.Error(), "more than 1048576 bytes") {
		t.Errorf("%v", err)
	}
	blobs := newBlobClient(h)
	defer blobs.CloseIdleConnections()
	if resp, err := blobs.Get(server.URL + "/redirect"); err == nil || elsewhere {
		t.Errorf("%v", resp)
	}
	if _, err := h.send(t.Context(), "GET", "/redirect", "", nil); err == nil || elsewhere {
		t.Error("a redirect was followed")
	}
}

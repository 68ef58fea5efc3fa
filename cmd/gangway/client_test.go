package main

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"gangway/hub/api"
)

// signedInTo starts a TLS server with the handler `h` in place of a hub, and stores a sign-in to
// that server in the test's configuration folder.
func signedInTo(t *testing.T, h http.HandlerFunc) {
	t.Helper()
	s := httptest.NewTLSServer(h)
	t.Cleanup(s.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	config := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", config)
	b, err := json.Marshal(signIn{Hub: s.URL, HubCA: string(ca), Token: "t"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(config, "gangway"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(config, "gangway", "config.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A list of many devices is read page by page, in order.
func TestDevicesAreListedPageByPage(t *testing.T) {
	const devices = 2500
	signedInTo(t, func(w http.ResponseWriter, r *http.Request) {
		limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
		first, _ := strconv.Atoi(r.URL.Query().Get("after"))
		page := fleetResult{}
		for i := first; i < min(first+limit, devices); i++ {
			page.Devices = append(page.Devices, api.FleetDevice{Nick: fmt.Sprintf("d%04d", i)})
		}
		if first+limit < devices {
			page.Next = strconv.Itoa(first + limit)
		}
		json.NewEncoder(w).Encode(page)
	})
	for limit, want := range map[int]int{0: devices, 1500: 1500, 7: 7, 2500: 2500, 9000: devices} {
		list, more, err := deviceQuery{limit: limit}.devices(t.Context())
		if err != nil || len(list) != want || more != (want < devices) || list[want-1].Nick != fmt.Sprintf("d%04d", want-1) {
			t.Errorf("limit %d: got %d devices, more: %t, %v; want %d", limit, len(list), more, err, want)
		}
	}
}

func TestNumbersInMetadataStayAsWritten(t *testing.T) {
	const numbers = `[9007199254740993,0.10,1E5,-0]`
	signedInTo(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `[{"nick":"a","user-meta":{"n":%s},"device-meta":{"n":%[1]s}}]`, numbers)
	})
	list, err := call[[]api.DeviceView](t.Context(), "GET", "/devices", nil)
	if err != nil {
		t.Fatal(err)
	}
	var out, compact bytes.Buffer
	if _, err := (&app{stdout: &out, output: "json"}).json(list); err != nil {
		t.Fatal(err)
	}
	if err := json.Compact(&compact, out.Bytes()); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(compact.String(), `{"n":`+numbers+`}`); n != 2 {
		t.Errorf("got %.200s; want the numbers %s twice", compact.String(), numbers)
	}
}

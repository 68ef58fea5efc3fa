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

	"gangway/hub/store"
)

// signedInTo starts a TLS server with the handler h in place of a hub, and stores a sign-in to it
// in the configuration folder of the test.
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

// allDevices can list a fleet in which every device has the most metadata that is allowed.
func TestDevicesWithTheMostMetadataAreListed(t *testing.T) {
	const devices = 250
	meta := `{"a":"` + strings.Repeat("x", store.MaxMeta-8) + `"}`
	signedInTo(t, func(w http.ResponseWriter, r *http.Request) {
		limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
		first := 0
		if after := r.URL.Query().Get("after"); after != "" {
			fmt.Sscanf(after, "d%03d", &first)
			first++
		}
		fmt.Fprint(w, "[")
		for i := first; i < min(first+limit, devices); i++ {
			if i > first {
				fmt.Fprint(w, ",")
			}
			fmt.Fprintf(w, `{"nick":"d%03d","user-meta":%s,"device-meta":%s}`, i, meta, meta)
		}
		fmt.Fprint(w, "]")
	})
	list, err := allDevices(t.Context())
	if err != nil || len(list) != devices || list[devices-1].Nick != "d249" {
		t.Errorf("got %d devices, %v; want %d", len(list), err, devices)
	}
}

func TestNumbersInMetadataStayAsWritten(t *testing.T) {
	const numbers = `[9007199254740993,0.10,1E5,-0]`
	signedInTo(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `[{"nick":"a","user-meta":{"n":%s},"device-meta":{"n":%[1]s}}]`, numbers)
	})
	list, err := allDevices(t.Context())
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

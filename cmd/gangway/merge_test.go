package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// A source of --merge may name another hub. The test proves that the command sends no request to
// that hub.
func TestMergeAsksNoOtherHub(t *testing.T) {
	var asked atomic.Int32
	other := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer other.Close()
	config := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", config)
	if err := os.MkdirAll(filepath.Join(config, "gangway"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(config, "gangway", "config.json"), []byte(`{"hub":"https://hub.example","token":"secret"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{other.URL + "/trails/0123456789abcdef01234567", other.URL + "/ada/gate", "https://hub.example@" + strings.TrimPrefix(other.URL, "https://") + "/ada/gate", "https://hub.example.evil/ada/gate"} {
		if _, err := (trails{}).Trail(t.Context(), name); err == nil || !strings.Contains(err.Error(), "another hub") {
			t.Errorf("%s: got %v, want an error about another hub", name, err)
		}
	}
	if n := asked.Load(); n > 0 {
		t.Errorf("the other hub got %d requests", n)
	}
}

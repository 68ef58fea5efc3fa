package api_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gangway/hub/pki"
	"gangway/hub/store/sqlite/sqlitetest"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
)

// If the hub cannot use the key of a CA, it answers an onboarding with 503, creates no device and
// spends no use of the join token. When the key can be used again, the same machine onboards.
func TestUnavailableCAKeyDelaysTheOnboarding(t *testing.T) {
	t.Parallel()
	dir, away := sqlitetest.MemoryDir(t), filepath.Join(t.TempDir(), "device-ca.key")
	keys := filepath.Join(dir, "pki")
	if _, err := pki.Open(keys, pki.Options{Name: "Test"}); err != nil {
		t.Fatal(err)
	}
	text := must(os.ReadFile(filepath.Join(keys, "device-ca.key")))(t)
	for _, err := range []error{
		os.Remove(filepath.Join(keys, "device-ca.key")), os.WriteFile(filepath.Join(keys, "device-ca.uri"), []byte("file:"+away+"\n"), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	maker := must(goodMaker())(t)
	s := sceneOn(t, hubtest.NewIn(t, dir, nil, maker.Roots(), maker.Intermediates()), maker)
	if err := s.CA.Prove(); err == nil {
		t.Error("the hub proves a key that is not there")
	}
	request := must(s.victim.Request(s.tok, fleet.RequestChange{}))(t)
	_, err := s.victim.Enrol(t.Context(), s.client, request)
	if err == nil || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), "ca-unavailable") {
		t.Errorf("without the key: %v", err)
	}
	s.boundNothing(t)
	if err := os.WriteFile(away, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.victim.Onboard(t.Context(), s.client, s.tok); err != nil {
		t.Errorf("with the key: %v", err)
	}
}

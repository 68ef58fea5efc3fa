package e2e_test

import (
	"crypto/x509"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/device/agent"
	"gangway/hub/store"
	"gangway/internal/hubtest"
	"gangway/internal/swtpm"
)

// The current hub works with data folders of earlier commits. Each data folder in testdata/hubs has
// a device with its software TPM. The device connects with its old certificate, and onboards with a
// new join token as the same device. A new device onboards too.
func TestOldHubsStartWithTheirDevices(t *testing.T) {
	needFullRun(t)
	archives, err := filepath.Glob("testdata/hubs/*.tar.gz")
	if err != nil || len(archives) < 6 {
		t.Fatalf("testdata has %d old hubs, want at least 6: %v", len(archives), err)
	}
	for _, archive := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(archive), ".tar.gz"), func(t *testing.T) {
			t.Parallel()
			dir := unpack(t, archive)
			at := func(name string) string { return filepath.Join(dir, name) }
			tpm, err := swtpm.New(t.Context(), at("tpm"), swtpm.Options{Maker: at("maker")})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(tpm.Stop)
			another := newTPM(t, swtpm.P384)
			h := hubtest.Open(t, at("hub"), nil, append(tpm.Roots(), another.Roots()...), []*x509.Certificate{tpm.Issuer(), another.Issuer()})
			if h.Owner, err = h.Store.AccountByNickOrEmail(t.Context(), "captain"); err != nil {
				t.Fatal(err)
			}
			before := h.Devices(t, h.Owner)
			if len(before) != 2 {
				t.Fatalf("%d devices, want 2", len(before))
			}
			state := setHubAddress(t, at("device"), h.URL)

			start := time.Now().Add(-time.Second)
			stop := runAgent(t, agent.Config{TPM: tpm.Address(), StateDir: at("device")})
			seen := func() bool {
				d, err := h.Store.Device(t.Context(), state.DeviceID)
				return err == nil && d.LastSeen.After(start)
			}
			for range 200 {
				if seen() {
					break
				}
				time.Sleep(50 * time.Millisecond)
			}
			stop()
			if !seen() {
				t.Fatal("the device did not report to the upgraded hub")
			}

			h.Policy(t, store.HubWide, hubtest.LabPolicy) // the earliest hubs had no policy
			again, err := onboard(t, tpm, h.Token(t, h.Owner, nil), t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			if again.DeviceID != state.DeviceID {
				t.Errorf("the TPM onboarded again as device %s, want %s", again.DeviceID, state.DeviceID)
			}
			if _, err := onboard(t, another, h.Token(t, h.Owner, nil), t.TempDir()); err != nil {
				t.Fatal(err)
			}
			if n := len(h.Devices(t, h.Owner)); n != 3 {
				t.Errorf("%d devices, want 3", n)
			}
		})
	}
}

// unpack unpacks an archive into a folder with a short path, because paths of Unix sockets must be
// short.
func unpack(t *testing.T, archive string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "old")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if out, err := exec.Command("tar", "-xzf", archive, "--no-same-owner", "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	return dir
}

// setHubAddress writes the hub's new address into the agent's state folder `dir`.
func setHubAddress(t *testing.T, dir, url string) *agent.State {
	t.Helper()
	s, err := agent.ReadState(dir)
	if err != nil {
		t.Fatal(err)
	}
	s.Hub = url
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "state.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

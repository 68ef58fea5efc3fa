package stick

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gangway/device/install"
	"gangway/device/install/netfile"
	"gangway/internal/race"
)

func settings(t testing.TB, text string) *netfile.Settings {
	t.Helper()
	s, err := netfile.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Inspect displays the network settings of the image without the proxy's password.
func TestInspectMasksTheProxysPassword(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	s := settings(t, "version = 1\naddress = 192.0.2.10/24\nproxy = http://ada:hunter2@proxy.example:3128\n")
	path := build(t, parts(t), Config{Token: token(t), Network: s})
	c, err := Inspect(path, "")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(c.Network, "; "); got != "address = 192.0.2.10/24; proxy = http://ada:********@proxy.example:3128" {
		t.Errorf("network: %s", got)
	}
	b, err := json.Marshal(c)
	if err != nil || bytes.Contains(b, []byte("hunter2")) {
		t.Errorf("%v; Inspect shows the password: %.300s", err, b)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]struct{ old, new, want string }{
		"another address": {"192.0.2.10/24", "192.0.2.11/24", ""},
		"a mistake":       {"192.0.2.10/24", "192.0.2.10:24", `line 2: address "192.0.2.10:24"`},
	} {
		edited := filepath.Join(t.TempDir(), "edited.img")
		if err := os.WriteFile(edited, bytes.Replace(whole, []byte(edit.old), []byte(edit.new), 1), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Inspect(edited, "")
		if err != nil {
			t.Errorf("%s: an edited stick counts as damaged: %v", name, err)
			continue
		}
		if edit.want == "" && (c.NetworkMistake != "" || c.Network[0] != "address = "+edit.new) || !strings.Contains(c.NetworkMistake, edit.want) {
			t.Errorf("%s: inspect shows %q and the mistake %q", name, c.Network, c.NetworkMistake)
		}
	}
}

// The installer writes the network settings at the offset that networkPlace returns. After this
// write, the installed system's EFI system partition has exactly these settings in its file for
// them.
func TestSettingsPlaceIsAFileOfTheInstalledSystem(t *testing.T) {
	t.Parallel()
	tok := token(t)
	p := parts(t)
	cfg := Config{Token: tok}
	parsed, err := cfg.token()
	if err != nil {
		t.Fatal(err)
	}
	esp, err := p.systemESP(nil, parsed, cfg)
	if err != nil {
		t.Fatal(err)
	}
	at, err := networkPlace(esp)
	if err != nil {
		t.Fatal(err)
	}
	text, err := install.Padded("version = 1\nmtu = 1280\n")
	if err != nil {
		t.Fatal(err)
	}
	copy(esp[at:], text)
	extents, packed := install.Pack(esp)
	fat, err := openFAT(install.Part{Name: install.ESP, Size: int64(len(esp)), Extents: extents}, packed)
	if err != nil {
		t.Fatal(err)
	}
	got, err := read(fat, install.NetworkPath, netfile.MaxFile)
	if err != nil || !bytes.Equal(got, text) {
		t.Errorf("the file holds %.40q, %v", got, err)
	}
}

// An image without network settings has a file network.txt that explains how to write them.
func TestStickSaysHowToSetTheNetwork(t *testing.T) {
	t.Parallel()
	if s := settings(t, string(networkFile(nil).Data)); !s.Empty() {
		t.Errorf("the template sets %q", s.Masked())
	}
	on := strings.ReplaceAll(netfile.Template, "# ", "")
	_, on, _ = strings.Cut(on, "version")
	on, _, _ = strings.Cut(on, "\n#\n")
	settings(t, "version"+on)
}

package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const someDevice = "0123456789abcdef01234567"

// The hub's answer can set only Pantavisor's five credentials. A value with a line break cannot add
// another line to the file.
func TestHubWritesNoOtherLineIntoPantavisorsConfiguration(t *testing.T) {
	t.Parallel()
	good := fmt.Sprintf(`{"prn":"prn:::devices:/%s","secret":"AAAABBBBCCCCDDDDEEEEFFFF","expires":"2030-01-01T00:00:00Z"}`, someDevice)
	if _, err := config(nil).credentials([]byte(good), "https://hub.example", someDevice); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		strings.Replace(good, "FFFF", `FFFF\nPV_SECUREBOOT_MODE=disabled`, 1),
		strings.Replace(good, "FFFF", `FFFF\rx`, 1),
		strings.Replace(good, "FFFF", ` `, 1),
		strings.Replace(good, "AAAABBBBCCCCDDDDEEEEFFFF", "", 1),
		strings.Replace(good, "AAAABBBB", strings.Repeat("A", 300), 1),
		strings.Replace(good, someDevice, "ffffffffffffffffffffffff", 1), // another device
		strings.Replace(good, someDevice, someDevice+`\nx=y`, 1),
		"null", "[]", "",
	} {
		if c, err := config(nil).credentials([]byte(bad), "https://hub.example", someDevice); err == nil {
			t.Errorf("%s makes %q", bad, c.bytes())
		}
	}
}

// Pantavisor's other settings stay in the file, in the same order. The agent replaces a line with
// an older name of a key, so that no key is in the file twice.
func TestPantavisorsOtherSettingsStay(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "unclaimed.config")
	before := "# made by hand\nPH_CREDS_TYPE=ext-gangway\ncreds.host=old.example\nPH_CREDS_PORT=1\nPV_LOG_PUSH=1\ncreds.secret=old\nodd line\nPH_UPDATER_INTERVAL=5\n"
	if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := readConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	if c, err = c.credentials(fmt.Appendf(nil, `{"prn":"prn:::devices:/%s","secret":"AAAABBBBCCCCDDDDEEEEFFFF"}`, someDevice), "https://hub.example:12443", someDevice); err != nil {
		t.Fatal(err)
	}
	want := "# made by hand\nPH_CREDS_TYPE=ext-gangway\nPV_LOG_PUSH=1\nodd line\nPH_UPDATER_INTERVAL=5\nPH_CREDS_HOST=hub.example\nPH_CREDS_PORT=12443\n" +
		"PH_CREDS_ID=" + someDevice + "\nPH_CREDS_PRN=prn:::devices:/" + someDevice + "\nPH_CREDS_SECRET=AAAABBBBCCCCDDDDEEEEFFFF\n"
	if got := string(c.bytes()); got != want {
		t.Errorf("%s", got)
	}
	if c.get(keyHost) != "hub.example" || (config{"creds.id=a", "PH_CREDS_ID=b"}).get(keyID) != "b" {
		t.Error("another value is read than was written")
	}
}

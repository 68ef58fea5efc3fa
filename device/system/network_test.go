package system

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gangway/device/install/netchange"
	"gangway/device/install/netfile"
)

// The machine tries the owner's network settings once, and only if it may restart. If the settings
// have a mistake, the machine reports the mistake to the owner.
func TestOwnersNetworkSettings(t *testing.T) {
	t.Parallel()
	s := &netchange.Store{Dir: filepath.Join(t.TempDir(), "network")}
	file := filepath.Join(t.TempDir(), "user-meta.json")
	wait := ""
	set := func(meta string) (bool, error) {
		t.Helper()
		if err := os.WriteFile(file, []byte(meta), 0o600); err != nil {
			t.Fatal(err)
		}
		return offerOwners(s, file, func() string { return wait })
	}
	for _, nothing := range []string{`{}`, `{"site":"oslo"}`, `{"gangway.network":null}`} {
		if news, err := set(nothing); news || err != nil {
			t.Errorf("%s: %v, %v", nothing, news, err)
		}
	}
	const good = `{"gangway.network":"version = 1\nvlan = 7\n"}`
	wait = "revision 3 is being installed"
	if news, err := set(good); news || err == nil || !strings.Contains(err.Error(), wait) {
		t.Errorf("%v, %v", news, err)
	}
	wait = ""
	if news, err := set(good); !news || err != nil {
		t.Errorf("%v, %v", news, err)
	}
	wait = "a new system is on trial" // settings that are known already do not wait
	if news, err := set(good); news || err != nil {
		t.Errorf("%v, %v", news, err)
	}
	wait = ""
	for _, bad := range []string{`{"gangway.network":{"vlan":7}}`, `{"gangway.network":"vlan 7"}`} {
		var m *netfile.Mistake
		if news, err := set(bad); news || !errors.As(err, &m) {
			t.Errorf("%s: %v, %v", bad, news, err)
		}
	}
	if last, err := s.Last(); err != nil || last == nil || last.Result != netchange.Refused {
		t.Error(last, err)
	}
	settings, tried, err := s.Begin("one")
	if err != nil || !tried || settings.VLAN != 7 {
		t.Error(settings, tried, err)
	}
}

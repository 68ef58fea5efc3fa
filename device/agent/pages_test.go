package agent

import (
	"net/http"
	"testing"

	"gangway/wire"
)

// A claim link has the URL of the pages that the hub named in its last answer. If the hub names no
// such URL, the link has the hub's address. The agent ignores a URL that is not https, because the
// link is for people.
func TestClaimLinkLeadsToTheHubsPages(t *testing.T) {
	at := newAddresses([]string{"https://hub.example:12443"}, "https://hub.example:12443")
	for _, one := range []struct{ named, want string }{
		{"", "https://hub.example:12443"},
		{"https://fleet.example", "https://fleet.example"},
		{"https://fleet.example/", "https://fleet.example"},
		{"javascript:alert(1)", "https://hub.example:12443"},
		{"http://fleet.example", "https://hub.example:12443"},
		{"https://fleet.example/evil?x=", "https://hub.example:12443"},
		{"", "https://hub.example:12443"},
	} {
		h := http.Header{}
		if one.named != "" {
			h.Set(wire.PagesHeader, one.named)
		}
		at.worked("https://hub.example:12443", h)
		if got := at.forPeople(); got != one.want {
			t.Errorf("after %q: %s, not %s", one.named, got, one.want)
		}
	}
	if all := at.all(); len(all) != 1 {
		t.Errorf("the pages became an address of the hub: %v", all)
	}
}

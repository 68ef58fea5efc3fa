package agent

import (
	"net/http"
	"testing"

	"gangway/wire"
)

// The hub's answers can contain a header with the URL of the hub's web pages. A claim link begins
// with the URL from the hub's last answer or, if that answer has no such header, with the hub's
// address. The agent ignores a URL that is not https, because people open the link in a browser.
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
		t.Errorf("the address of the web pages became an address of the hub: %v", all)
	}
}

package browser_test

import (
	"testing"

	"gangway/internal/browser"
)

// The page of events announces a new event but does not insert it. The link in the announcement
// displays the event.
func TestAuditAnnouncesInBrowser(t *testing.T) {
	h := newHub(t, 1)
	tab := browser.Open(t, h.URL, h.cookie, browser.Options{})
	tab.Go("/ui/audit?kind=device.")
	if n := browser.Eval[int](tab, `document.querySelectorAll("tbody tr").length`); n == 0 {
		t.Fatalf("no events: %.500s", tab.Text())
	}
	h.rename(t, h.first, "renamed-by-another")
	tab.Until(`!document.getElementById("news").hidden && document.getElementById("news").innerText.includes("1 newer event")`)
	if browser.Eval[bool](tab, `document.querySelector("tbody").innerText.includes("renamed-by-another")`) {
		t.Error("the new event was inserted")
	}
	tab.Check("a newer event")
	tab.Shot("audit-news")
	tab.Click("#news a")
	tab.Until(`document.querySelector("tbody").innerText.includes("renamed-by-another")`)
	tab.ClickNth(".about .only", 0)
	tab.Until(`location.search.includes("device=")`)
}

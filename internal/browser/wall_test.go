package browser_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"gangway/internal/browser"
)

// way is a TCP forwarder between the browser and a hub. A test can close the forwarder (cut) and
// open it again.
type way struct {
	t            *testing.T
	address, hub string

	mu       sync.Mutex
	listener net.Listener
	conns    []net.Conn
}

func newWay(t *testing.T, hub string) *way {
	t.Helper()
	w := &way{t: t, address: "127.0.0.1:0", hub: hub}
	w.open()
	t.Cleanup(w.cut)
	return w
}

// open starts to forward connections. After a call of `cut`, open uses the same port as before.
func (w *way) open() {
	w.t.Helper()
	l, err := net.Listen("tcp", w.address)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.listener, w.address = l, l.Addr().String()
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go w.pass(client)
		}
	}()
}

func (w *way) pass(client net.Conn) {
	hub, err := net.Dial("tcp", w.hub)
	if err != nil {
		client.Close()
		return
	}
	w.mu.Lock()
	w.conns = append(w.conns, client, hub)
	w.mu.Unlock()
	go func() {
		_, _ = io.Copy(hub, client)
		hub.Close()
	}()
	_, _ = io.Copy(client, hub)
	client.Close()
}

// cut closes all connections and refuses new ones.
func (w *way) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.listener.Close()
	for _, c := range w.conns {
		c.Close()
	}
	w.conns = nil
}

// The page for a screen on a wall needs no person. It displays new devices without a reload, and
// always has the same number of rows. If it loses the connection, it says so and connects again by
// itself. If its session has ended, it says so.
func TestWallInBrowser(t *testing.T) {
	h := newHub(t, 10) // so many devices fill the screen
	way := newWay(t, strings.TrimPrefix(h.URL, "https://"))
	tab := browser.Open(t, "https://"+way.address, h.cookie, browser.Options{Size: browser.Wall, Dark: true})
	tab.Go("/ui/wall?scheme=system")
	const elements = `document.querySelectorAll("*").length`
	before := browser.Eval[int](tab, elements)
	for i := range 5 {
		model := fmt.Sprint("Gate controller ", i)
		h.onboard(t, "H-3", model, fmt.Sprint("LATE-", i))
		tab.Until(`document.querySelector("#arrivals li").textContent.includes("` + model + `")`)
	}
	if after := browser.Eval[int](tab, elements); after > before {
		t.Errorf("%d elements, then %d", before, after)
	}
	if text := tab.Text(); !strings.Contains(text, "15\ndevices") && !strings.Contains(text, "devices\n15") {
		t.Errorf("the number of devices: %.300s", text)
	}
	if browser.Eval[string](tab, `document.getElementById("live").textContent`) == "" {
		t.Error("the arrival is not announced to screen readers")
	}
	tab.Check("the wall after arrivals")
	tab.Shot("wall-arrivals")

	// Break the connection, onboard a device in the meantime, and restore the connection.
	tab.Ignore("ERR_") // Chromium prints an error for each attempt to connect
	way.cut()
	tab.Until(`document.getElementById("wall-state").textContent.includes("No connection")`)
	tab.Shot("wall-no-connection")
	h.onboard(t, "H-3", "Missed", "MISSED-1")
	way.open()
	tab.Until(`document.getElementById("wall-state").textContent === "" && document.querySelector("#arrivals li").textContent.includes("Missed")`)

	// End the session of the page for the wall. At its next request, the page says that its session
	// has ended, and does not open another page.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.URL+"/auth/logout", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimPrefix(h.cookie, "__Host-gangway="))
	resp, err := h.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	tab.Ignore("status of 401")
	h.onboard(t, "H-3", "Unseen", "UNSEEN-1")
	tab.Until(`document.getElementById("wall-state").textContent.includes("The session has ended")`)
	if path := tab.Path(); path != "/ui/wall?scheme=system" {
		t.Errorf("the wall left for %s", path)
	}
	// After a sign-in with this link, the browser opens the page for the wall again, with the same
	// colour scheme.
	if to := browser.Eval[string](tab, `document.querySelector("#wall-state a").getAttribute("href")`); to != "/sign-in?next=%2Fui%2Fwall%3Fscheme%3Dsystem" {
		t.Errorf("the link leads to %s", to)
	}
	tab.Check("the wall after its session")
	tab.Shot("wall-signed-out")
}

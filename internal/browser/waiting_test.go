package browser_test

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"gangway/hub/store"
	"gangway/internal/browser"
	"gangway/internal/fleet"
)

// roomHub is a hub with waiting devices.
type roomHub struct {
	*hubWithDevices
	machine string // the id of the waiting device whose TPM has an unknown maker
	alike   string // name of the group of waiting devices without an EK certificate
}

// newRoom makes a hub with four waiting devices and one denied device. Three waiting devices have
// no EK certificate, and the fourth has a TPM of an unknown maker.
func newRoom(t *testing.T) *roomHub {
	t.Helper()
	h := &roomHub{hubWithDevices: newHub(t, 0)}
	denied := h.arrives(t, "Gate computer", "GC-0009", nil)
	for _, serial := range []string{"GC-0001", "GC-0002", "GC-0003"} {
		h.arrives(t, "Gate computer", serial, nil)
	}
	other, err := fleet.NewMaker("unknown", fleet.MakerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	h.machine = h.arrives(t, "OptiPlex 7010", "OP-7", other)
	if _, err := h.Service.Decide(t.Context(), h.Owner, denied, false, nil, "127.0.0.1"); err != nil {
		t.Fatal(err)
	}
	tab := browser.Open(t, h.URL, h.cookie, browser.Options{})
	tab.Go("/ui/onboard/waiting")
	found := regexp.MustCompile(`alike=([0-9a-f]{16})`).FindStringSubmatch(browser.Eval[string](tab, `document.body.innerHTML`))
	if found == nil {
		t.Fatalf("no group: %.500s", tab.Text())
	}
	h.alike = found[1]
	return h
}

// The method `arrives` sends the request of a machine that must wait for its owner, and returns the
// waiting device's id. If `maker` is nil, the machine has no EK certificate.
func (h *hubWithDevices) arrives(t *testing.T, model, serial string, maker *fleet.Maker) string {
	t.Helper()
	tok := h.Token(t, h.Owner, nil)
	client, err := fleet.NewHub(tok)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var d *fleet.Device
	if maker != nil {
		d, err = fleet.New(maker, "H-2")
	} else if d, err = fleet.New(h.maker, "H-2"); err == nil {
		d, err = d.WithoutCertificate()
	}
	if err != nil {
		t.Fatal(err)
	}
	d.Model, d.Serial = model, serial
	body, err := d.Request(tok, fleet.RequestChange{})
	if err != nil {
		t.Fatal(err)
	}
	if a, err := client.Post(t.Context(), "/onboard", bytes.NewReader(body)); err != nil || a.Status != 202 {
		t.Fatalf("%v: %v", a, err)
	}
	return h.waitingID(t, serial)
}

func (h *hubWithDevices) waitingID(t *testing.T, serial string) string {
	t.Helper()
	list, err := h.Store.WaitingDevices(t.Context(), h.Owner.ID, h.Now(), 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range list {
		if w.ProdSerial == serial {
			return w.DeviceID
		}
	}
	t.Fatalf("no machine with the serial %s waits", serial)
	return ""
}

// A person approves only the devices that the preview listed. Here, a third similar machine sends
// its request after the preview of two machines. Only the two machines are approved. The third
// machine still waits, and the open page announces it.
func TestGroupIsApprovedWhileAnotherArrivesInBrowser(t *testing.T) {
	for _, noScript := range []bool{false, true} {
		h := newHub(t, 0)
		one, two := h.arrives(t, "Gate computer", "GC-1", nil), h.arrives(t, "Gate computer", "GC-2", nil)
		room := browser.Open(t, h.URL, h.cookie, browser.Options{})
		room.Go("/ui/onboard/waiting")
		if !noScript { // the details of a machine open on the same page
			room.ClickNth(".everything summary", 0)
			room.Until(`document.querySelector(".everything .checks")`)
			room.Check("an open machine")
		}
		tab := browser.Open(t, h.URL, h.cookie, browser.Options{Size: browser.Phone, NoScript: noScript})
		tab.Go("/ui/overview")
		tab.Click(`.needs a`)
		tab.Click(`.alike a`)
		if text := tab.Text(); !strings.Contains(text, "GC-1") || !strings.Contains(text, "GC-2") || !strings.Contains(text, "Approving means:") {
			t.Fatalf("the preview: %.800s", text)
		}
		three := h.arrives(t, "Gate computer", "GC-3", nil)
		if !noScript {
			room.Until(`!document.getElementById("news").hidden && document.getElementById("live").textContent.includes("1 more machine waits")`)
			room.Check("another waiting device")
		}
		tab.Click(`button[value=approve]`)
		if text := tab.Text(); !strings.Contains(text, "2 machines are approved") || !strings.Contains(text, "GC-3") || strings.Contains(text, "GC-1") {
			t.Errorf("after the decision: %.800s", text)
		}
		if !noScript { // axe-core needs JavaScript
			tab.Check("after the decision")
		}
		for id, want := range map[string]store.WaitingState{one: store.Approved, two: store.Approved, three: store.Undecided} {
			if w, err := h.Store.WaitingByID(t.Context(), h.Owner.ID, id, h.Now()); err != nil || w.State != want {
				t.Errorf("%s is %s, not %s: %v", w.ProdSerial, w.State, want, err)
			}
		}
		if !noScript {
			room.Until(`document.querySelectorAll(".machine.gone").length === 2`)
		}
	}
}

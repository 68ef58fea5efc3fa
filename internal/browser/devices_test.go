package browser_test

import (
	"strings"
	"testing"

	"gangway/internal/browser"

	"github.com/chromedp/chromedp/kb"
)

// A person can use the list of devices with only the keyboard: search, move, select, open a device,
// go to another page, and display the help.
func TestDevicesByKeyboardInBrowser(t *testing.T) {
	h := newHub(t, 4)
	tab := browser.Open(t, h.URL, h.cookie, browser.Options{})
	tab.Go("/ui/overview")
	tab.Type("gd")
	tab.Until(`location.pathname === "/ui/devices"`)
	tab.Until(`document.querySelector("[data-bulk]").hidden`)
	tab.Type("jj")
	tab.Until(`document.querySelectorAll("tbody tr")[1].classList.contains("current")`)
	tab.Type("x")
	tab.Type("k")
	tab.Type("x")
	tab.Until(`document.querySelector("[data-chosen]").textContent === "2 selected"`)
	tab.Check("two rows selected")
	tab.Shot("devices-selected")
	tab.Type("?")
	tab.Until(`document.getElementById("help").open`)
	tab.Check("help")
	tab.Shot("help")
	tab.Type(kb.Escape)
	tab.Until(`!document.getElementById("help").open`)
	tab.Type("/")
	tab.Until(`document.activeElement.name === "q"`)
	browser.Eval[bool](tab, `document.activeElement.value = "", true`) // chromedp types the slash although the page cancelled the key, so clear the field
	tab.Type("model:NUC12WSHi5")
	tab.Until(`document.querySelectorAll("tbody tr").length === 2 && location.search.includes("NUC12WSHi5")`)
	tab.Type(kb.Escape)
	tab.Type("j")
	tab.Type("\r")
	tab.Until(`/^\/ui\/devices\/[0-9a-f]{24}$/.test(location.pathname)`)
}

// The list of devices works without JavaScript: search, label two devices, undo the label, and
// delete a device.
func TestDevicesWithoutScriptInBrowser(t *testing.T) {
	h := newHub(t, 3)
	tab := browser.Open(t, h.URL, h.cookie, browser.Options{Size: browser.Phone, NoScript: true})
	tab.Go("/ui/devices")
	tab.Click(`.toolbar > .button`)
	for i := range 2 {
		tab.ClickNth("tbody .pick input", i)
	}
	tab.Click(`button[value=label]`)
	tab.Fill(`input[name=key]`, "site")
	tab.Fill(`input[name=value]`, "oslo")
	tab.Click(`form.bulk-form button`)
	if n := labelled(t, h, "oslo"); n != 2 {
		t.Errorf("%d devices have the label", n)
	}
	tab.Click(`.notice button`)
	if n := labelled(t, h, "oslo"); n != 0 {
		t.Errorf("%d devices have the label after the undo", n)
	}
	tab.ClickNth("tbody .pick input", 0)
	tab.Click(`button[value=delete]`)
	tab.Fill(`input[name=confirm]`, "delete 1")
	tab.Click(`form.bulk-form button`)
	if n := len(h.Devices(t, h.Owner)); n != 2 {
		t.Errorf("%d devices are left", n)
	}
}

func labelled(t *testing.T, h *hubWithDevices, site string) (n int) {
	t.Helper()
	for _, d := range h.Devices(t, h.Owner) {
		if d.UserMeta["site"] == site {
			n++
		}
	}
	return n
}

// The list of devices updates itself. The row of a changed device is replaced and stays selected.
// The page announces a new device, but does not insert it. When the session ends, the page opens
// the sign-in form.
func TestDevicesLiveInBrowser(t *testing.T) {
	h := newHub(t, 2)
	tab := browser.Open(t, h.URL, h.cookie, browser.Options{})
	tab.Go("/ui/devices")
	tab.Type("jx")
	tab.Until(`document.querySelectorAll("tbody input:checked").length === 1`)
	h.onboard(t, "H-3", "Latecomer", "LATE-1")
	tab.Until(`!document.getElementById("news").hidden && document.getElementById("live").textContent.includes("1 new device")`)
	if n := browser.Eval[int](tab, `document.querySelectorAll("tbody tr").length`); n != 2 {
		t.Errorf("the new device was inserted: %d rows", n)
	}
	tab.Check("an arrival")
	tab.Shot("devices-arrival")
	h.rename(t, h.first, "renamed-by-another")
	tab.Until(`document.body.innerText.includes("renamed-by-another")`)
	if n := browser.Eval[int](tab, `document.querySelectorAll("tbody input:checked").length`); n != 1 {
		t.Errorf("%d rows are selected after a change", n)
	}
	tab.Click(`#news a`)
	if n := browser.Eval[int](tab, `document.querySelectorAll("tbody tr").length`); n != 3 {
		t.Errorf("%d rows after the news", n)
	}
}

// A hostile device cannot attack the page with its names: the page displays them as text, not as
// markup. The names do not change the direction of the text around them.
func TestHostileDeviceIsHarmlessInBrowser(t *testing.T) {
	h := newHub(t, 0)
	d := h.onboard(t, "L-1", `<img src=x onerror=alert(1)><script>alert(2)</script>`, "\u202e\u2066drowssap")
	if err := h.Store.RenameDevice(t.Context(), h.Owner.ID, d.ID, "<b>\u202ekcin"); err != nil {
		t.Fatal(err)
	}
	if err := h.Store.PatchUserMeta(t.Context(), h.Owner.ID, d.ID, map[string]any{"<b>": "\u202e"}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/ui/devices?c=state&c=model&c=token", "/ui/overview", "/ui/bulk?act=delete&id=" + d.ID} {
		tab := browser.Open(t, h.URL, h.cookie, browser.Options{})
		tab.Go(path)
		if n := browser.Eval[int](tab, `document.querySelectorAll("main img, main script").length`); n != 0 {
			t.Errorf("%s: the device's text became %d elements", path, n)
		}
		if strings.ContainsAny(tab.Text(), "\u202e\u2066") {
			t.Errorf("%s: the page has characters that reorder text", path)
		}
		tab.Check(path)
	}
}

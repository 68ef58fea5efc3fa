package browser_test

import (
	"testing"

	"gangway/internal/browser"
	"gangway/internal/race"
)

// The lists of revisions pass the checks of TestPages, in every size and colour scheme.
func TestRevisionPages(t *testing.T) {
	race.Skip(t)
	if testing.Short() {
		t.Skip("opens each list in Chromium twice; TestProgressIsLiveInBrowser covers the same checks")
	}
	p := newDevicePages(t)
	for _, one := range []struct{ name, query, want string }{
		{"underway", "", "2 of 5 objects"},
		{"failed", "?show=failed", "No device failed to install its newest revision."},
		{"recent", "?show=recent", "Installed and tested"},
		{"nothing", "?q=nothing", "No device matches"},
	} {
		t.Run(one.name, func(t *testing.T) {
			for _, o := range screens() {
				see(t, p.hubWithDevices, p.cookie, page{name: "revisions-" + one.name, path: "/ui/revisions" + one.query, want: one.want}, o)
			}
		})
	}
}

// A device's progress report updates the list of revisions, the list of devices and the device's
// page. The pages do not reload, and keep the text that a person is typing.
func TestProgressIsLiveInBrowser(t *testing.T) {
	p := newDevicePages(t)
	open := func(path string) *browser.Tab {
		t.Helper()
		tab := browser.Open(t, p.URL, p.cookie, browser.Options{})
		tab.Go(path)
		browser.Eval[any](tab, `window.same = 1`) // a reload would delete this variable
		return tab
	}
	list, devices, device, revision := open("/ui/revisions"), open("/ui/devices"), open(devicePath(p.hardware, "revisions")), open(devicePath(p.hardware, "revisions&rev=2"))
	device.Fill(`#f-message`, "half a sentence")
	progress := func(status string, percent int, message string) {
		p.send("PUT", "/trails/"+p.hardware+"/steps/2/progress", map[string]any{"status": status, "progress": percent, "status-msg": message})
	}
	progress("INPROGRESS", 70, "Writing")
	list.Until(`document.querySelector("tbody").textContent.includes("70 %") && document.querySelector("tbody").textContent.includes("Writing")`)
	devices.Until(`document.querySelector("tbody").textContent.includes("inprogress")`)
	device.Until(`document.querySelector("#revision-rows").textContent.includes("70 %")`)
	revision.Until(`document.querySelector("#revision-head").textContent.includes("70 %")`)
	progress("ERROR", 70, "No space")
	list.Until(`document.querySelector("tbody").textContent.includes("failed") && document.querySelector("tbody").textContent.includes("No space")`)
	devices.Until(`document.querySelector("tbody").textContent.includes("update failed")`)
	device.Until(`document.querySelector("#device-head").textContent.includes("update failed")`)
	for name, tab := range map[string]*browser.Tab{"list": list, "devices": devices, "device": device, "revision": revision} {
		if !browser.Eval[bool](tab, `window.same === 1`) {
			t.Errorf("%s was loaded again", name)
		}
		tab.Check(name)
	}
	if typed := browser.Eval[string](device, `document.querySelector("#f-message").value`); typed != "half a sentence" {
		t.Errorf("the typed text is %q", typed)
	}
}

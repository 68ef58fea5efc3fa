package api_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/hubtest"
)

// The page lists the devices that the hub would not accept today, and has a link to the preview of
// their deletion. The page changes nothing.
func TestJudgePageListsDevicesToday(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.Policy(t, store.HubWide, hubtest.LabPolicy+"without_tpm: accept\n")
	must(f.victim.Onboard(t.Context(), f.client, f.tok))(t)
	want[api.Registered](f.ada, "POST", "/devices", "{}", 200)
	b := f.signedIn(t, "ada")
	if status, body, _ := b.send("GET", "/ui/trust/judge", ""); status != 200 || !strings.Contains(body, "Of 3 devices, the hub would accept 2, let 0 wait for you, and refuse 0. 1 has no TPM") || strings.Contains(body, `name="id"`) {
		t.Errorf("before the change: %d %s", status, judgedLine(body))
	}
	setTrust(t, f.Store, store.Distrusted, f.maker.Root)
	_, body, _ := b.send("GET", "/ui/trust/judge", "")
	if !strings.Contains(body, "accept 0, let 0 wait for you, and refuse 2") || strings.Count(body, "would be refused") != 2 || !strings.Contains(body, "ek-chain-distrusted") {
		t.Errorf("with a distrusted maker: %s", judgedLine(body))
	}
	ids := regexp.MustCompile(`name="id" value="([0-9a-f]{24})"`).FindAllStringSubmatch(body, -1)
	if len(ids) != 2 {
		t.Fatalf("%d devices can be selected", len(ids))
	}
	status, preview, _ := b.send("GET", "/ui/bulk?act=delete&id="+ids[0][1]+"&id="+ids[1][1], "")
	if status != 200 || !strings.Contains(preview, "delete 2") {
		t.Errorf("the preview: %d", status)
	}
	if d := want[api.DeviceView](f.ada, "GET", "/devices/"+ids[0][1], nil, 200); d.Status != "active" {
		t.Errorf("the page changed the device: %s", d.Status)
	}
	// Another owner sees none of these devices.
	f.Account(t, "thief")
	if _, theirs, _ := f.signedIn(t, "thief").send("GET", "/ui/trust/judge", ""); strings.Contains(theirs, ids[0][1]) || !strings.Contains(theirs, "No device to judge") {
		t.Error("another owner sees the devices")
	}
}

func judgedLine(body string) string {
	return regexp.MustCompile(`<span id="judged">[^<]*`).FindString(body)
}

// Each page continues after the last device of the previous page, so the pages judge each device
// once.
func TestJudgePageHasPages(t *testing.T) {
	if testing.Short() {
		t.Skip("it makes more devices than a page judges")
	}
	t.Parallel()
	f := newFleet(t)
	f.Server.Unlimited()
	f.Policy(t, store.HubWide, hubtest.LabPolicy+"without_tpm: accept\n")
	for range 505 {
		d := store.Device{ID: hexSum(fmt.Sprint(time.Now().UnixNano()))[:24], Nick: hexSum(fmt.Sprint(time.Now().UnixNano()))[:20], Owner: f.Owner.ID, Created: f.Now()}
		must(f.Store.CreateDevice(t.Context(), d, store.Hash{}))(t)
	}
	b, judged, pages := f.signedIn(t, "ada"), 0, 0
	for path := "/ui/trust/judge"; path != ""; pages++ {
		_, body, _ := b.send("GET", path, "")
		var n int
		if _, err := fmt.Sscanf(strings.TrimPrefix(judgedLine(body), `<span id="judged">Of `), "%d", &n); err != nil {
			t.Fatalf("%s: %s", path, judgedLine(body))
		}
		judged += n
		path = ""
		if m := regexp.MustCompile(`href="(/ui/trust/judge\?after=[^"]+)"`).FindStringSubmatch(body); m != nil {
			path = strings.ReplaceAll(m[1], "&amp;", "&")
		}
	}
	if all := len(f.Devices(t, f.Owner)); judged != all || pages < 2 {
		t.Errorf("%d pages judged %d of %d devices", pages, judged, all)
	}
}

package api_test

import (
	"strings"
	"testing"

	"gangway/hub/api"
	"gangway/internal/brief"
)

// Other accounts can read the parts of a public device that pvr clones: its trail, revisions,
// states and their objects.
func TestPublishedDeviceIsReadByOthersAndChangedByNone(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	step := want[api.RevisionView](f.ada, "POST", "/trails/"+f.boatID+"/steps", `{"rev":-1,"commit-msg":"m","meta":{"note":"ada's own"},"state":{`+systemSpec+`,"k":"`+f.contentSum+`"}}`, 200)
	secret := upload(f.ada, "/objects/", "secret", "named by no step")
	base := "/trails/" + f.boatID
	reads := []string{base, base + "/steps", base + "/steps?progress.status=NEW", base + "/.pvrremote", base + "/steps/1", base + "/steps/1/.pvrremote", base + "/steps/1/state",
		base + "/steps/1/objects", base + "/steps/1/objects/" + f.contentSum, "/devices/" + f.boatID}
	for _, path := range reads {
		wantCode(f.mallory, "GET", path, nil, 404)
	}
	want[api.DeviceView](f.ada, "PUT", "/devices/"+f.boatID+"/public", nil, 200)
	for _, path := range reads {
		if status, body := f.mallory.do("GET", path, nil); status != 200 || strings.Contains(string(body), "ada's own") {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	if got := want[api.RevisionView](f.mallory, "GET", base+"/steps/1", nil, 200); string(got.State) != string(step.State) || got.Rev != 1 {
		t.Errorf("%s", brief.Of(got))
	}
	o := want[api.ObjectView](f.mallory, "GET", base+"/steps/1/objects/"+f.contentSum, nil, 200)
	if o.PutURL != "" {
		t.Error("an address for uploads")
	}
	if status, got, _ := send(f.mallory, "GET", o.GetURL, ""); status != 200 || string(got) != f.content {
		t.Errorf("%d %q", status, got)
	}
	// Other accounts cannot read any other data of the owner.
	wantCode(f.mallory, "GET", base+"/steps/1/objects/"+secret, nil, 404)
	wantCode(f.mallory, "GET", "/objects/"+f.contentSum, nil, 404)
	wantCode(f.mallory, "GET", base+"/summary", nil, 404)
	wantCode(f.mallory, "GET", base+"/steps/1/meta", nil, 404)
	if page := want[api.LogPage](f.mallory, "GET", "/logs?dev="+f.boatID, nil, 200); page.Count != 0 {
		t.Errorf("%s", brief.Of(page))
	}
	// Other accounts cannot change anything. Another owner's device cannot read the public device.
	wantCode(f.mallory, "POST", base+"/steps", `{"state":{`+systemSpec+`}}`, 404)
	wantCode(f.mallory, "PUT", base+"/steps/1/state", `{`+systemSpec+`}`, 404)
	wantCode(f.mallory, "PUT", base+"/steps/1/meta", `{}`, 404)
	wantCode(f.mallory, "PUT", base+"/steps/1/cancel", nil, 404)
	wantCode(f.mallory, "POST", base+"/steps/1/objects", map[string]any{"objectname": "x", "size": 1, "sha256sum": secret}, 404)
	for _, path := range reads[:9] {
		wantCode(f.pirate, "GET", path, nil, 404)
	}
	if status, _ := f.person(t, "").do("GET", base, nil); status != 401 {
		t.Errorf("without a sign-in: %d", status)
	}
	// When the owner makes the device private again, other accounts lose their access to it. The
	// object URLs that the hub gave them earlier stop working too.
	want[api.DeviceView](f.ada, "DELETE", "/devices/"+f.boatID+"/public", nil, 200)
	for _, path := range reads {
		wantCode(f.mallory, "GET", path, nil, 404)
	}
	if status, body, _ := send(f.mallory, "GET", o.GetURL, ""); status != 410 || !strings.Contains(string(body), "address-revoked") {
		t.Errorf("the address, once it is no longer public: %d %s", status, body)
	}
}

// When a device is deleted, the object URLs that the hub gave the device stop working. Those that
// the hub gave the device's owner keep working.
func TestAddressOfADeletedDeviceIsGone(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	post(f.ada, f.boatID, `{`+systemSpec+`,"k":"`+f.contentSum+`"}`)
	its := want[api.ObjectView](f.boat, "GET", "/trails/"+f.boatID+"/steps/1/objects/"+f.contentSum, nil, 200)
	owners := want[api.ObjectView](f.ada, "GET", "/objects/"+f.contentSum, nil, 200)
	if status, _, _ := send(f.boat, "GET", its.GetURL, ""); status != 200 {
		t.Fatalf("%d", status)
	}
	f.ada.do("DELETE", "/devices/"+f.boatID, nil)
	for method, address := range map[string]string{"GET": its.GetURL, "PUT": its.PutURL} {
		if status, body, _ := send(f.boat, method, address, f.content); status != 410 || !strings.Contains(string(body), "address-revoked") {
			t.Errorf("%s: %d %s", method, status, body)
		}
	}
	if status, _, _ := send(f.ada, "GET", owners.GetURL, ""); status != 200 {
		t.Errorf("the owner's own address: %d", status)
	}
}

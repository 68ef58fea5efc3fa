package api_test

import (
	"strings"
	"testing"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/hubtest"
)

// The hub stores no data for a device without an owner. Otherwise, all such devices would share the
// data, and it would not count towards any owner's quota.
func TestDeviceOfNobodyKeepsNothing(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Policy(t, store.HubWide, hubtest.LabPolicy+"without_tpm: accept\n")
	anonymous := s.person(t, "")
	d := want[api.Registered](anonymous, "POST", "/devices", nil, 200)
	token := want[struct{ Token string }](anonymous, "POST", "/auth/login", map[string]string{"username": d.PRN, "password": d.Secret}, 200).Token
	device := s.person(t, "")
	device.token = token
	at := "/trails/" + d.ID
	sum := sumOf([]byte("x"))
	for _, r := range [][3]string{
		{"POST", "/objects", `{"sha256sum":"` + sum + `","size":"1"}`},
		{"GET", "/objects/" + sum, ""},
		{"POST", "/trails", `{` + systemSpec + `}`},
		{"POST", at + "/steps", `{"state":{` + systemSpec + `}}`},
		{"GET", at, ""},
		{"GET", at + "/summary", ""},
		{"POST", "/logs", `[{"msg":"m"}]`},
		{"PATCH", "/device/meta", `{"a":"b"}`},
		{"PUT", "/devices/" + d.ID + "/device-meta", `{"a":"b"}`},
		{"PATCH", "/devices/" + d.ID + "/device-meta", `{"a":"b"}`},
	} {
		status, body, h := device.request(r[0], r[1], r[2], nil)
		isProblem(t, r[0]+" "+r[1], status, body, h, 403)
		if !strings.Contains(string(body), `"unclaimed"`) {
			t.Errorf("%s %s: %s", r[0], r[1], body)
		}
	}
	if strings.Contains(s.metrics(t), "gangway_panics_total 1") {
		t.Error("there was a panic")
	}
}

package api_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"gangway/hub/api"
	"gangway/internal/fleet"
	"gangway/wire"
)

// expectedAccess has the callers that may use each route. It is written by hand and not derived
// from the route table. So a wrong entry in the route table fails TestRoutesAdmitWhomTheyDeclare.
var expectedAccess = map[string]string{
	"GET /healthz":                                    "anyone",
	"GET /readyz":                                     "anyone",
	"GET /openapi.json":                               "anyone",
	"GET /hub-ca.pem":                                 "anyone",
	"POST /onboard":                                   "anyone",
	"POST /onboard/activate":                          "pendingDevice",
	"GET /aca/certs/{file}":                           "anyone",
	"GET /claims/{code}":                              "anyone",
	"POST /enroll/request":                            "anyone",
	"POST /register":                                  "anyone",
	"POST /devices/register":                          "anyone",
	"POST /auth/signature/verify":                     "anyone",
	"GET /device":                                     "unmeasuredDevice",
	"GET /device/boot":                                "unmeasuredDevice",
	"POST /device/boot":                               "unmeasuredDevice",
	"PATCH /device/meta":                              "activeDevice",
	"POST /device/secret":                             "tlsDevice",
	"PUT /device/secret":                              "tlsDevice",
	"POST /auth/x509/login":                           "tlsDevice",
	"POST /auth/login":                                "anyone",
	"GET /auth/login":                                 "anySignIn",
	"GET /auth/jwks.json":                             "anyone",
	"POST /auth/logout":                               "anySession",
	"GET /auth/auth_status":                           "anySignIn",
	"POST /auth/password":                             "fullSession",
	"POST /auth/recover":                              "anyone",
	"GET /auth/sessions":                              "fullSession",
	"DELETE /auth/sessions":                           "fullSession",
	"DELETE /auth/sessions/{id}":                      "fullSession",
	"POST /auth/accounts/{id}/disable":                "fullSession",
	"POST /auth/accounts/{id}/delete":                 "fullSession",
	"POST /auth/accounts":                             "anyone",
	"GET /auth/accounts":                              "scopedAccount",
	"GET /auth/":                                      "scopedAccount",
	"GET /profiles":                                   "scopedAccount",
	"POST /tokens":                                    "fullSession",
	"GET /tokens":                                     "fullSession",
	"GET /tokens/{id}":                                "fullSession",
	"DELETE /tokens/{id}":                             "fullSession",
	"POST /devices/tokens":                            "scopedAccount",
	"GET /devices/tokens":                             "scopedAccount",
	"DELETE /devices/tokens/{id}":                     "scopedAccount",
	"GET /devices/waiting":                            "scopedAccount",
	"POST /devices/{id}/approve":                      "scopedAccount",
	"POST /devices/{id}/deny":                         "scopedAccount",
	"GET /policy":                                     "scopedAccount",
	"PUT /policy":                                     "scopedAccount",
	"DELETE /policy":                                  "scopedAccount",
	"GET /policy/ek-list":                             "scopedAccount",
	"PUT /policy/ek-list":                             "scopedAccount",
	"DELETE /policy/ek-list":                          "scopedAccount",
	"POST /devices":                                   "registrant",
	"GET /devices":                                    "accountOrDevice",
	"GET /devices/np/{owner}/{id}":                    "accountOrDevice",
	"GET /devices/{id}":                               "accountOrDevice",
	"PUT /devices/{id}":                               "scopedAccount",
	"PATCH /devices/{id}":                             "scopedAccount",
	"DELETE /devices/{id}":                            "scopedAccount",
	"PUT /devices/{id}/public":                        "scopedAccount",
	"DELETE /devices/{id}/public":                     "scopedAccount",
	"GET /devices/{id}/user-meta":                     "accountOrDevice",
	"PUT /devices/{id}/user-meta":                     "scopedAccount",
	"PATCH /devices/{id}/user-meta":                   "scopedAccount",
	"GET /devices/{id}/device-meta":                   "accountOrDevice",
	"PUT /devices/{id}/device-meta":                   "activeDevice",
	"PATCH /devices/{id}/device-meta":                 "activeDevice",
	"GET /devices/{id}/evidence":                      "scopedAccount",
	"GET /devices/{id}/cloned":                        "scopedAccount",
	"PUT /devices/{id}/cloned":                        "scopedAccount",
	"GET /devices/{id}/boot":                          "scopedAccount",
	"POST /devices/{id}/boot/reference":               "scopedAccount",
	"POST /devices/{id}/boot/request":                 "scopedAccount",
	"GET /boots/keys":                                 "scopedAccount",
	"POST /boots/keys":                                "fullSession",
	"DELETE /boots/keys/{id}":                         "fullSession",
	"GET /boots/manifests":                            "scopedAccount",
	"POST /boots/manifests":                           "scopedAccount",
	"DELETE /boots/manifests/{id}":                    "scopedAccount",
	"GET /boots/cohorts":                              "scopedAccount",
	"GET /boots/cohorts/{part}/{value}":               "scopedAccount",
	"GET /boots/decisions":                            "scopedAccount",
	"POST /boots/decisions":                           "scopedAccount",
	"DELETE /boots/decisions/{id}":                    "scopedAccount",
	"GET /events":                                     "scopedAccount",
	"GET /fleet/devices":                              "scopedAccount",
	"GET /fleet/count":                                "scopedAccount",
	"GET /fleet/summary":                              "scopedAccount",
	"GET /fleet/judgements":                           "scopedAccount",
	"POST /trails":                                    "activeDevice",
	"GET /trails":                                     "accountOrDevice",
	"GET /trails/summary":                             "scopedAccount",
	"GET /trails/{id}":                                "accountOrDevice",
	"GET /trails/{id}/summary":                        "accountOrDevice",
	"GET /trails/{id}/.pvrremote":                     "accountOrDevice",
	"POST /trails/{id}/steps":                         "accountOrDevice",
	"GET /trails/{id}/steps":                          "accountOrDevice",
	"GET /trails/{id}/steps/{rev}":                    "accountOrDevice",
	"GET /trails/{id}/steps/{rev}/.pvrremote":         "accountOrDevice",
	"GET /trails/{id}/steps/{rev}/state":              "accountOrDevice",
	"PUT /trails/{id}/steps/{rev}/state":              "accountOrDevice",
	"GET /trails/{id}/steps/{rev}/meta":               "accountOrDevice",
	"PUT /trails/{id}/steps/{rev}/meta":               "scopedAccount",
	"PUT /trails/{id}/steps/{rev}/progress":           "activeDevice",
	"PUT /trails/{id}/steps/{rev}/cancel":             "scopedAccount",
	"PUT /trails/{id}/steps/{rev}/wontgo":             "scopedAccount",
	"POST /trails/{id}/steps/{rev}/objects":           "accountOrDevice",
	"GET /trails/{id}/steps/{rev}/objects":            "accountOrDevice",
	"GET /trails/{id}/steps/{rev}/objects/{sha}":      "accountOrDevice",
	"GET /trails/{id}/steps/{rev}/objects/{sha}/blob": "accountOrDevice",
	"POST /objects":                                   "accountOrDevice",
	"GET /objects":                                    "scopedAccount",
	"GET /objects/{sha}":                              "accountOrDevice",
	"GET /local-s3/{token}":                           "urlHolder",
	"PUT /local-s3/{token}":                           "urlHolder",
	"PATCH /local-s3/{token}":                         "urlHolder",
	"POST /logs":                                      "activeDevice",
	"GET /logs":                                       "scopedAccount",
	"GET /logs/retention":                             "scopedAccount",
	"PUT /logs/retention":                             "scopedAccount",
	"POST /logs/cursor":                               "scopedAccount",
	"GET /":                                           "visitor",
	"GET /assets/{file}":                              "anyone",
	"GET /sign-in":                                    "visitor",
	"POST /sign-in":                                   "anyone",
	"POST /sign-out":                                  "visitor",
	"GET /ui/overview/numbers":                        "fullSession",
	"GET /ui/live":                                    "fullSession",
	"GET /ui/devices":                                 "fullSession",
	"GET /ui/devices/row":                             "fullSession",
	"GET /ui/devices.csv":                             "fullSession",
	"GET /ui/devices.json":                            "fullSession",
	"POST /ui/views":                                  "fullSession",
	"POST /ui/views/delete":                           "fullSession",
	"GET /ui/bulk":                                    "fullSession",
	"POST /ui/bulk":                                   "fullSession",
	"POST /ui/bulk/undo":                              "fullSession",
	"GET /ui/overview":                                "fullSession",
	"GET /ui/onboard/waiting":                         "fullSession",
	"GET /ui/onboard/waiting/{id}":                    "fullSession",
	"GET /ui/onboard/waiting/group":                   "fullSession",
	"GET /ui/onboard/claim":                           "fullSession",
	"POST /ui/onboard/claim":                          "fullSession",
	"GET /ui/onboard/claim/{id}":                      "fullSession",
	"GET /ui/onboard/claim/{id}/steps":                "fullSession",
	"GET /ui/revisions":                               "fullSession",
	"GET /ui/revisions/row":                           "fullSession",
	"GET /ui/wall":                                    "fullSession",
	"GET /ui/wall/part":                               "fullSession",
	"POST /ui/waiting/decide":                         "fullSession",
	"POST /ui/cloned/decide":                          "fullSession",
	"GET /ui/devices/{id}":                            "fullSession",
	"GET /ui/devices/{id}/certificates/{file}":        "fullSession",
	"GET /ui/devices/{id}/log.txt":                    "fullSession",
	"POST /ui/devices/{id}/boot/reference":            "fullSession",
	"POST /ui/devices/{id}/boot/request":              "fullSession",
	"GET /ui/boots":                                   "fullSession",
	"GET /ui/trust/judge":                             "fullSession",
	"GET /ui/devices/lost":                            "fullSession",
	"GET /ui/boots/{part}/{value}":                    "fullSession",
	"POST /ui/boots/accept":                           "fullSession",
	"POST /ui/boots/undo":                             "fullSession",
	"POST /ui/boots/preview-key":                      "fullSession",
	"POST /ui/boots/key":                              "fullSession",
	"GET /ui/boots/key/{id}":                          "fullSession",
	"POST /ui/boots/key/{id}":                         "fullSession",
	"POST /ui/boots/preview-manifest":                 "fullSession",
	"POST /ui/boots/manifest":                         "fullSession",
	"GET /ui/boots/manifest/{id}":                     "fullSession",
	"POST /ui/boots/manifest/{id}":                    "fullSession",
	"POST /ui/devices/{id}/metadata":                  "fullSession",
	"POST /ui/devices/{id}/revisions":                 "fullSession",
	"POST /ui/devices/{id}/revisions/{rev}/cancel":    "fullSession",
	"POST /ui/devices/{id}/rename":                    "fullSession",
	"POST /ui/devices/{id}/public":                    "fullSession",
	"POST /ui/devices/{id}/delete":                    "fullSession",
	"GET /ui/onboard":                                 "fullSession",
	"GET /ui/onboard/new":                             "fullSession",
	"POST /ui/onboard/new":                            "fullSession",
	"GET /ui/onboard/image":                           "fullSession",
	"POST /ui/onboard/image":                          "fullSession",
	"GET /ui/onboard/image/state":                     "fullSession",
	"GET /ui/onboard/tokens/{id}":                     "fullSession",
	"POST /ui/onboard/tokens/{id}/file":               "fullSession",
	"POST /ui/onboard/tokens/{id}/disable":            "fullSession",
	"POST /ui/onboard/tokens/{id}/delete":             "fullSession",
	"GET /ui/audit":                                   "fullSession",
	"GET /ui/audit/news":                              "fullSession",
	"GET /ui/audit.csv":                               "fullSession",
	"GET /ui/audit.json":                              "fullSession",
	"GET /ui/settings":                                "fullSession",
	"POST /ui/settings/password":                      "fullSession",
	"POST /ui/settings/logs":                          "fullSession",
	"POST /ui/settings/disable":                       "fullSession",
	"POST /ui/settings/delete":                        "fullSession",
	"GET /ui/settings/sessions":                       "fullSession",
	"POST /ui/settings/sessions":                      "fullSession",
	"GET /ui/settings/api-tokens":                     "fullSession",
	"POST /ui/settings/api-tokens":                    "fullSession",
	"POST /ui/settings/api-tokens/revoke":             "fullSession",
	"POST /ui/trust":                                  "fullSession",
	"GET /ui/trust/eks":                               "fullSession",
	"GET /ui/trust/eks.csv":                           "fullSession",
	"POST /ui/trust/eks/add":                          "fullSession",
	"POST /ui/trust/eks/remove":                       "fullSession",
	"POST /ui/trust/eks/upload":                       "fullSession",
	"POST /ui/trust/eks/clear":                        "fullSession",
	"GET /ui/trust":                                   "fullSession",
	"GET /ui/trust/policy":                            "fullSession",
	"POST /ui/trust/policy":                           "fullSession",
	"POST /ui/trust/policy/check":                     "fullSession",
	"GET /ui/operator":                                "operator",
	"GET /ui/operator/makers":                         "operator",
	"GET /ui/operator/versions":                       "operator",
	"GET /ui/operator/health":                         "operator",
	"GET /ui/operator/alarms":                         "operator",
	"GET /ui/operator/makers/add":                     "operator",
	"POST /ui/operator/makers/add":                    "operator",
	"GET /ui/operator/makers/{sha256}":                "operator",
	"POST /ui/operator/makers/{sha256}":               "operator",
	"GET /claim/{code}":                               "visitor",
	"POST /claim/{code}":                              "fullVisitor",
}

// For each access that a route can declare, admits says which kinds of caller, such as "a pending
// device", the hub admits. The field `kinds` maps a kind of caller to the problem code of the
// refusal, or to "" if the access admits this kind. A kind that is not in `kinds` gets the code in
// `others`. If `others` is empty, the kind is admitted.
var admits = map[string]struct {
	kinds  map[string]string
	others string
}{
	"anyone":      {},
	"visitor":     {},
	"fullVisitor": {kinds: map[string]string{"session with narrower scopes": "insufficient-scope"}},
	"registrant":  {kinds: map[string]string{"session with narrower scopes": "insufficient-scope", "device's token": "not-signed-in"}},
	"urlHolder":   {others: "no-such-address"},

	"scopedAccount": {kinds: map[string]string{"session": "", "session with narrower scopes": "insufficient-scope", "API token": ""}, others: "not-signed-in"},
	"anySignIn":     {kinds: map[string]string{"session": "", "session with narrower scopes": "", "API token": ""}, others: "not-signed-in"},
	"anySession":    {kinds: map[string]string{"session": "", "session with narrower scopes": "", "API token": "api-token"}, others: "not-signed-in"},
	"fullSession":   {kinds: map[string]string{"session": "", "session with narrower scopes": "insufficient-scope", "API token": "api-token"}, others: "not-signed-in"},
	"operator":      {kinds: map[string]string{"session": "not-operator", "operator's session": "", "operator's API token": "api-token", "session with narrower scopes": "insufficient-scope", "API token": "api-token"}, others: "not-signed-in"},

	"accountOrDevice": {kinds: map[string]string{"session": "", "session with narrower scopes": "insufficient-scope", "API token": "", "device": "", "device's token": "",
		"unmeasured device": "boot-unmeasured", "pending device": "certificate-not-active"}, others: "not-signed-in"},
	"activeDevice": {kinds: map[string]string{"nobody": "no-certificate", "device": "", "device's token": "",
		"unmeasured device": "boot-unmeasured", "pending device": "certificate-not-active"}, others: "not-signed-in"},
	"tlsDevice":        {kinds: map[string]string{"device": "", "unmeasured device": "boot-unmeasured", "pending device": "certificate-not-active"}, others: "no-certificate"},
	"unmeasuredDevice": {kinds: map[string]string{"device": "", "unmeasured device": "", "pending device": "certificate-not-active"}, others: "no-certificate"},
	"pendingDevice":    {kinds: map[string]string{"device": "", "unmeasured device": "", "pending device": ""}, others: "no-certificate"},
}

// accessCodes are the problem codes with which the hub refuses a caller, whatever the rest of the
// request is.
var accessCodes = []string{"not-signed-in", "insufficient-scope", "api-token", "not-operator", "no-certificate", "certificate-not-active", "boot-unmeasured", "no-such-address"}

// Each route declares the access that expectedAccess has for this route. The hub admits or refuses
// every kind of caller as the access says.
func TestRoutesAdmitWhomTheyDeclare(t *testing.T) {
	f := newFleet(t)
	f.Server.Unlimited()
	pirate := must(f.Store.Device(t.Context(), f.pirateID))(t)
	f.Policy(t, pirate.Owner, "version: 1\nmeasured_boot: require\n")
	d := f.device(t)
	pending := f.asDevice(t, d, must(d.Enrol(t.Context(), f.client, must(d.Request(f.tok, fleet.RequestChange{}))(t)))(t))
	nobody := f.person(t, "")
	apiToken := want[api.APITokenCreated](f.ada, "POST", "/tokens", `{"name":"all","scopes":["all"]}`, 200).Secret
	deviceToken := want[struct{ Token string }](f.boat, "POST", "/auth/x509/login", nil, 200).Token
	kinds := []struct {
		name   string
		client *person
		bearer string
	}{
		{"nobody", nobody, ""},
		{"session", nobody, f.ada.token},
		{"session with narrower scopes", nobody, signInFor(f.ada, "metrics")},
		{"API token", nobody, apiToken},
		{"operator's session", nobody, f.operator(t).token},
		{"operator's API token", nobody, want[api.APITokenCreated](f.operator(t), "POST", "/tokens", `{"name":"all","scopes":["all"]}`, 200).Secret},
		{"device", f.boat, ""},
		{"device's token", nobody, deviceToken},
		{"unmeasured device", f.pirate, ""},
		{"pending device", pending, ""},
	}
	// These routes are called last, because each of them ends sessions or stores a refused
	// measurement of a device.
	ending := []string{"POST /device/boot", "POST /auth/logout", "POST /sign-out", "DELETE /auth/sessions"}
	freshly := map[string]func() string{
		"session":                      func() string { return f.person(t, "ada").token },
		"operator's session":           func() string { return f.operator(t).token },
		"session with narrower scopes": func() string { return signInFor(f.ada, "metrics") },
	}
	values := strings.NewReplacer("{id}", wire.NewID(), "{rev}", "0", "{sha}", strings.Repeat("0", 64), "{token}", "AAAA", "{file}", "00.crt", "{owner}", "nobody", "{code}", "AAAA", "{sha256}", strings.Repeat("0", 64))

	declared := map[string]bool{}
	list := api.Routes()
	slices.SortStableFunc(list, func(a, b api.Route) int {
		return slices.Index(ending, a.Method+" "+a.Path) - slices.Index(ending, b.Method+" "+b.Path)
	})
	for _, r := range list {
		route := r.Method + " " + r.Path
		declared[route] = true
		access, ok := expectedAccess[route]
		if !ok {
			t.Errorf("%s: no access is expected; add it to expectedAccess", route)
			continue
		}
		if r.Access != access {
			t.Errorf("%s: the route table declares %s, not %s", route, r.Access, access)
		}
		for _, k := range kinds {
			expected, named := admits[access].kinds[k.name]
			if ordinary, ok := strings.CutPrefix(k.name, "operator's "); ok && access != "operator" {
				expected, named = admits[access].kinds[ordinary] // on other routes the role has no effect
			}
			if !named {
				expected = admits[access].others
			}
			bearer := k.bearer
			if fresh := freshly[k.name]; fresh != nil && slices.Contains(ending, route) {
				bearer = fresh()
			}
			h := map[string]string{}
			if bearer != "" {
				h["Authorization"] = "Bearer " + bearer
			}
			status, body, _ := k.client.request(r.Method, values.Replace(r.Path), nil, h)
			var p api.Problem
			_ = json.Unmarshal(body, &p) // a page has no code
			got := ""
			if slices.Contains(accessCodes, p.Code) {
				got = p.Code
			}
			if got != expected {
				t.Errorf("%s (%s) as %s: %d %q, not %q", route, access, k.name, status, got, expected)
			}
		}
	}
	for _, route := range slices.Sorted(maps.Keys(expectedAccess)) {
		if !declared[route] {
			t.Errorf("%s is expected and is not in the route table", route)
		}
	}
}

// The mux has a pattern for DELETE /devices/{id}/public that matches more paths than the route. If
// a path matches the pattern but is not a route, the answer is 404, even if the caller is not
// signed in.
func TestWidenedPatternServesOnlyItsRoute(t *testing.T) {
	f := newFleet(t)
	nobody := f.person(t, "")
	for path, expected := range map[string]int{
		"/public": 401, "/pub%6cic": 401, "/other": 404, "/a%2fpublic": 404, "/%7Bid%7D%2Fpublic": 404, "/evidence": 405,
	} {
		if status, body := nobody.do("DELETE", "/devices/"+f.boatID+path, nil); status != expected {
			t.Errorf("DELETE .../%s: %d, not %d: %.200s", path, status, expected, body)
		}
	}
	if status, _, h := nobody.request("PATCH", "/devices/"+f.boatID+"/public", nil, nil); status != 405 || h.Get("Allow") != "PUT, DELETE" {
		t.Errorf("%d, Allow: %s", status, h.Get("Allow"))
	}
	want[api.DeviceView](f.ada, "PUT", "/devices/"+f.boatID+"/public", nil, 200)
	if d := want[api.DeviceView](f.ada, "DELETE", "/devices/"+f.boatID+"/pub%6cic", nil, 200); d.Public {
		t.Error("the device is still public")
	}
}

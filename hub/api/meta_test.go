package api_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/fleet"
	"gangway/internal/strictjson"

	_ "modernc.org/sqlite" // to write what an older hub left in a database
)

// arrays returns JSON arrays nested this many levels deep.
func arrays(levels int) string { return strings.Repeat("[", levels) + strings.Repeat("]", levels) }

// keeper is a request that makes the hub keep a JSON value, such as metadata. A test replaces %s in
// the body with the value.
type keeper struct {
	p            *person
	method, path string
	body         string
	codes        []string // the error codes with which the hub may refuse a bad value
}

func (f *fleetScene) keepers(t *testing.T) []keeper {
	t.Helper()
	step := want[api.RevisionView](f.ada, "POST", "/trails/"+f.boatID+"/steps", `{"rev":-1,"state":{`+systemSpec+`}}`, 200)
	device, at := "/devices/"+f.boatID, fmt.Sprintf("/trails/%s/steps/%d", f.boatID, step.Rev)
	meta, body := []string{"meta-malformed", "body-malformed"}, "body-malformed"
	return []keeper{
		{f.boat, "PATCH", "/device/meta", `{"a":%s}`, meta},
		{f.boat, "PATCH", device + "/device-meta", `{"a":%s}`, meta},
		{f.boat, "PUT", device + "/device-meta", `{"a":%s}`, meta},
		{f.ada, "PATCH", device + "/user-meta", `{"a":%s}`, meta},
		{f.ada, "PUT", device + "/user-meta", `{"a":%s}`, meta},
		{f.ada, "PUT", device, `{"user-meta":{"a":%s}}`, meta},
		{f.ada, "POST", "/devices", `{"user-meta":{"a":%s}}`, meta},
		{f.ada, "POST", "/devices/tokens", `{"default-user-meta":{"a":%s}}`, meta},
		{f.ada, "PUT", at + "/state", `{` + systemSpec + `,"a.json":%s}`, []string{"state-malformed"}},
		{f.ada, "PUT", at + "/meta", `{"a":%s}`, []string{"meta-malformed"}},
		{f.boat, "PUT", at + "/progress", `{"status":"QUEUED","a":%s}`, []string{"progress-malformed"}}, // after this request the revision's state cannot change
		{f.ada, "POST", "/trails/" + f.boatID + "/steps", `{"state":{` + systemSpec + `,"a.json":%s}}`, []string{"state-malformed", body}},
		{f.ada, "POST", "/trails/" + f.boatID + "/steps", `{"state":{` + systemSpec + `},"meta":{"a":%s}}`, []string{"meta-malformed", body}},
	}
}

// answersWithKept returns the requests whose answers contain the JSON values that the hub keeps.
func (f *fleetScene) answersWithKept() []keeper {
	steps := "/trails/" + f.boatID + "/steps"
	filter := `?progress.status={"$in":["NEW","QUEUED"]}`
	return []keeper{
		{p: f.ada, path: "/devices"}, {p: f.ada, path: "/devices/" + f.boatID}, {p: f.ada, path: "/devices/tokens"},
		{p: f.ada, path: "/devices/" + f.boatID + "/user-meta"}, {p: f.ada, path: "/devices/" + f.boatID + "/device-meta"},
		{p: f.boat, path: "/device"}, {p: f.boat, path: "/devices/" + f.boatID}, {p: f.boat, path: "/devices/" + f.boatID + "/user-meta"},
		{p: f.ada, path: steps + filter}, {p: f.boat, path: steps + filter},
	}
}

// If the hub accepts a JSON value, every answer that contains this value is readable, both for a
// client that is as strict as the hub and for Pantacor's client, which stores numbers as float64.
func TestWhatIsAcceptedIsReadableInEveryAnswer(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.Policy(t, store.HubWide, withoutTPM)
	for _, k := range f.keepers(t) {
		for _, value := range []string{arrays(strictjson.MaxStorableDepth), arrays(9998), arrays(9999), strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40), "1e400", `[-1e999]`} {
			what := fmt.Sprintf("%s %s of %.20s", k.method, k.path, value)
			status, body, h := k.p.request(k.method, k.path, fmt.Sprintf(k.body, value), nil)
			isProblem(t, what, status, body, h, 400)
			var p api.Problem
			if err := json.Unmarshal(body, &p); err != nil || !slices.Contains(k.codes, p.Code) || p.Hint == "" {
				t.Errorf("%s: %s", what, body)
			}
		}
		if status, body, _ := k.p.request(k.method, k.path, fmt.Sprintf(k.body, arrays(strictjson.MaxStorableDepth-1)), nil); status != 200 {
			t.Errorf("%s %s of valid JSON: %d %s", k.method, k.path, status, body)
		}
	}
	for _, a := range f.answersWithKept() {
		status, body, _ := a.p.request("GET", a.path, nil, nil)
		var strict, free any
		if err := strictjson.Decode(body, &strict); status != 200 || err != nil {
			t.Errorf("GET %s: %d, %v: %.200s", a.path, status, err, body)
		}
		if err := json.Unmarshal(body, &free); err != nil {
			t.Errorf("GET %s: %v", a.path, err)
		}
	}
}

// JSON numbers that a float64 cannot hold appear in the hub's answers exactly as they were written
// in the requests.
func TestNumbersComeBackAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	f.Policy(t, store.HubWide, withoutTPM)
	const numbers = `[9007199254740993,0.10,-0,1E5,1e-400,18446744073709551616]`
	for _, k := range f.keepers(t) {
		if status, body, _ := k.p.request(k.method, k.path, fmt.Sprintf(k.body, numbers), nil); status != 200 {
			t.Errorf("%s %s: %d %s", k.method, k.path, status, body)
		}
	}
	for _, a := range f.answersWithKept() {
		if _, body, _ := a.p.request("GET", a.path, nil, nil); !strings.Contains(string(body), `:`+numbers) {
			t.Errorf("GET %s: %s", a.path, body)
		}
	}
}

// If the database has metadata from an old version of the hub that is nested too deeply or
// malformed, the hub's answers leave out only the values that cannot be read. The owner can delete
// these values.
func TestUnreadableStoredMetadataFailsNoList(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	second, secondID := f.onboarded(t, f.Token(t, f.Owner, nil))
	token := want[api.JoinTokenCreated](f.ada, "POST", "/devices/tokens", `{"nick":"old","default-user-meta":{"site":"oslo"}}`, 200)
	db := openDatabase(t, f.Data())
	defer db.Close()
	deep := `{"deep":` + arrays(9999) + `,"good":0.10}`
	for _, stored := range []struct{ text, user, device, token, unreadable string }{
		{deep, `{"good":0.10}`, `{"good":0.10}`, `{"good":0.10}`, "/deep"},
		{`{"deep":[` + arrays(9999) + `]}`, `{}`, `{}`, `{}`, ""},
		{`{"deep":1e400}`, `{}`, `{}`, `{}`, "/deep"},
		{`{"deep":`, `{}`, `{}`, `{}`, ""},
		{`[]`, `{}`, `{}`, `{}`, ""},
	} {
		what := fmt.Sprintf("%.20s", stored.text)
		for _, q := range []string{`UPDATE devices SET user_meta = ?, device_meta = ?1 WHERE id = '` + f.boatID + `'`, `UPDATE join_tokens SET default_user_meta = ? WHERE id = '` + token.ID + `'`} {
			if _, err := db.Exec(q, stored.text); err != nil {
				t.Fatal(err)
			}
		}
		found := 0
		for _, d := range want[[]api.DeviceView](f.ada, "GET", "/devices", nil, 200) {
			switch d.ID {
			case secondID:
				if d.Unreadable != nil {
					t.Errorf("%s: the other device has %s", what, brief.Of(d.Unreadable))
				}
				found++
			case f.boatID:
				if !slices.Equal(d.Unreadable, []string{"/user-meta" + stored.unreadable, "/device-meta" + stored.unreadable}) {
					t.Errorf("%s: unreadable is %s", what, brief.Of(d.Unreadable))
				}
				found++
			}
		}
		if found != 2 {
			t.Fatalf("%s: %d of the two devices are listed", what, found)
		}
		for _, v := range want[[]api.JoinTokenView](f.ada, "GET", "/devices/tokens", nil, 200) {
			if v.ID == token.ID && !slices.Equal(v.Unreadable, []string{"/default-user-meta" + stored.unreadable}) {
				t.Errorf("%s: the token's unreadable is %s", what, brief.Of(v.Unreadable))
			}
		}
		if _, body := f.ada.do("GET", "/devices/"+f.boatID+"/user-meta", nil); strings.TrimSpace(string(body)) != stored.user {
			t.Errorf("%s: user-meta is %s", what, body)
		}
		want[map[string]any](f.boat, "PATCH", "/device/meta", `{"deep":null}`, 200)
		want[map[string]any](f.ada, "PATCH", "/devices/"+f.boatID+"/user-meta", `{"deep":null}`, 200)
		if d := want[api.DeviceView](f.ada, "GET", "/devices/"+f.boatID, nil, 200); d.Unreadable != nil {
			t.Errorf("%s: still unreadable: %s", what, brief.Of(d.Unreadable))
		}
	}
	// If a device onboards with this token, it gets the part of the token's metadata that the hub
	// can read.
	if _, err := db.Exec(`UPDATE join_tokens SET default_user_meta = ?`, deep); err != nil {
		t.Fatal(err)
	}
	_, id := f.onboarded(t, &token.TokenFile)
	if d := want[api.DeviceView](f.ada, "GET", "/devices/"+id, nil, 200); d.Unreadable != nil || len(d.UserMeta) != 1 {
		t.Errorf("%s", brief.Of(d))
	}
	want[api.DeviceView](second, "GET", "/device", nil, 200)
}

// Many patches at the same time cannot make the metadata larger than the limit, because the hub
// checks the size when it writes each patch, and not when the request arrives.
func TestConcurrentPatchesKeepTheMetadataBound(t *testing.T) {
	t.Parallel()
	f := newFleetOnDisk(t)
	for _, by := range []struct {
		p    *person
		path string
	}{{f.ada, "user-meta"}, {f.boat, "device-meta"}} {
		path := "/devices/" + f.boatID + "/" + by.path
		var mu sync.Mutex
		codes := map[int]int{}
		var wg sync.WaitGroup
		for i := range 24 {
			wg.Go(func() {
				status, _ := by.p.do("PATCH", path, fmt.Sprintf(`{"key %d":"%s"}`, i, strings.Repeat("x", 200_000)))
				mu.Lock()
				defer mu.Unlock()
				codes[status]++
			})
		}
		wg.Wait()
		if codes[200] != 1 || codes[413] != 23 {
			t.Errorf("%s: %s", by.path, brief.Of(codes))
		}
		if _, body := by.p.do("GET", path, nil); len(body) > store.MaxMeta {
			t.Errorf("%s has %d bytes", by.path, len(body))
		}
	}
}

// If the hub refuses a request because of the metadata, the request changes nothing.
func TestRefusedMetadataLeavesTheDeviceAsItWas(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	path := "/devices/" + f.boatID
	before := want[api.DeviceView](f.ada, "GET", path, nil, 200)
	p := want[api.Problem](f.ada, "PUT", path, `{"nick":"another","public":true,"user-meta":{"a":`+arrays(strictjson.MaxStorableDepth)+`}}`, 400)
	if after := want[api.DeviceView](f.ada, "GET", path, nil, 200); after.Nick != before.Nick || after.Public || p.Code != "meta-malformed" {
		t.Errorf("%s, %s", brief.Of(p), brief.Of(after))
	}
}

// If the database has an unreadable verdict about one waiting machine, the list still has this
// machine and all other waiting machines.
func TestUnreadableVerdictHidesNoOtherMachine(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	first := waits(t, s.post(t, s.request(t, s.uncertified(t))), "ek-certificate-none")
	db := openDatabase(t, s.Data())
	defer db.Close()
	if _, err := db.Exec(`UPDATE waiting SET verdict = ?`, []byte(`{"steps":1}`)); err != nil {
		t.Fatal(err)
	}
	evil := must(impostorMaker())(t)
	waits(t, s.post(t, s.request(t, must(fleet.New(evil, "H-2"))(t))), "ek-chain-untrusted")
	list := want[[]api.WaitingView](ada, "GET", "/devices/waiting", nil, 200)
	if len(list) != 2 {
		t.Fatalf("%s", brief.Of(list))
	}
	for _, w := range list {
		if v := w.Verdict; w.ID == first.DeviceID && (len(v.Questions) != 1 || v.Accepted() || len(v.Checks) != 1 || v.Checks[0].OK) {
			t.Errorf("unreadable metadata is shown as %s", brief.Of(v))
		}
	}
	decide(ada, first.DeviceID, "deny", 200)
}

// If two programs change the same key of a device's metadata at the same time, and each requires
// that the key still has the value that it read, one program changes the key and the other program
// gets an error.
func TestMetadataIsComparedAndSet(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	path := "/devices/" + f.boatID + "/user-meta"
	patch := func(was, body string, status int) string {
		t.Helper()
		return string(must(json.Marshal(want[map[string]any](f.ada, "PATCH", path+"?was="+url.QueryEscape(was), body, status)))(t))
	}
	patch(`{"owner":null}`, `{"owner":"ada"}`, 200)
	if got := patch(`{"owner":null}`, `{"owner":"grace"}`, 409); !strings.Contains(got, `"meta-changed"`) {
		t.Error(got)
	}
	patch(`{"owner":"grace"}`, `{"owner":"grace"}`, 409)
	patch(`{"owner":"ada","free":null}`, `{"owner":"grace","n":1.50}`, 200)
	patch(`{"n":1.50}`, `{"n":2}`, 200)
	patch(`{}`, `{"m":3}`, 200)
	for _, bad := range []string{``, `null`, `[]`, `"owner"`, `{"owner":`, `{"a":1,"a":2}`} {
		patch(bad, `{"owner":"mallory"}`, 400)
	}
	if got := string(must(json.Marshal(must(f.Store.Device(t.Context(), f.boatID))(t).UserMeta))(t)); got != `{"m":3,"n":2,"owner":"grace"}` {
		t.Error(got)
	}
	want[map[string]any](f.mallory, "PATCH", path+"?was="+url.QueryEscape(`{"owner":"grace"}`), `{"owner":"mallory"}`, 404)
}

package api_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/objects"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
	"gangway/internal/race"
	"gangway/wire"
)

const systemSpec = `"#spec":"pantavisor-service-system@1"`

// onboarded onboards a new device with the join token `tok`. It returns a client that authenticates
// as the device, and the device's id.
func (s *scene) onboarded(t *testing.T, tok *wire.TokenFile) (p *person, id string) {
	t.Helper()
	d := s.device(t)
	certs := must(d.Onboard(t.Context(), s.client, tok))(t)
	return s.asDevice(t, d, certs), s.deviceOf(t, d)
}

func (s *scene) asDevice(t *testing.T, d *fleet.Device, certs *fleet.Certificates) *person {
	p := &person{t: t, s: s, client: &http.Client{
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.client.Roots, Certificates: []tls.Certificate{certs.TLS(d)}}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	t.Cleanup(p.client.CloseIdleConnections)
	return p
}

func sumOf(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }

// fleetScene has two owners, Ada and Mallory, with one device each. Each device has sent its first
// state.
type fleetScene struct {
	*scene
	ada, mallory        *person
	boat, pirate        *person // their devices
	boatID, pirateID    string
	content, contentSum string // uploaded by ada
}

func newFleet(t *testing.T) *fleetScene {
	t.Helper()
	return fleetOf(t, newScene(t))
}

// newFleetOnDisk is like newFleet, but its hub waits until data is on the disk, as a hub in
// production does. It is for tests of durability, races and timing.
func newFleetOnDisk(t *testing.T) *fleetScene {
	t.Helper()
	return fleetOf(t, newSceneOnDisk(t))
}

// newFleetOn is like newFleet, but uses the hub `h`, which must have no account.
func newFleetOn(t *testing.T, h *hubtest.Hub, maker *fleet.Maker) *fleetScene {
	t.Helper()
	h.Owner = h.Account(t, "ada")
	h.Policy(t, store.HubWide, hubtest.LabPolicy)
	return fleetOf(t, sceneOn(t, h, maker))
}

func fleetOf(t *testing.T, s *scene) *fleetScene {
	t.Helper()
	f := &fleetScene{scene: s, ada: s.person(t, "ada")}
	m := s.Account(t, "mallory")
	f.mallory = s.person(t, "mallory")
	f.boat, f.boatID = s.onboarded(t, s.tok)
	f.pirate, f.pirateID = s.onboarded(t, s.Token(t, m, nil))
	for _, d := range []*person{f.boat, f.pirate} {
		want[api.TrailView](d, "POST", "/trails/", `{`+systemSpec+`}`, 200)
	}
	f.content = "the owner's own kernel"
	f.contentSum = upload(f.ada, "/objects/", "kernel", f.content)
	return f
}

// announce posts an object's record, as a client does before an upload, and returns the answer.
func announce(p *person, path, name, content string, status int) api.ObjectView {
	p.t.Helper()
	return want[api.ObjectView](p, "POST", path, map[string]any{"objectname": name, "size": fmt.Sprint(len(content)), "sha256sum": sumOf([]byte(content)), "id": "", "owner": "", "signed-puturl": "", "mime-type": "text/html"}, status)
}

// send sends a request to one of the hub's object URLs, without any credentials.
func send(p *person, method, address, body string, header ...string) (int, fleet.Body, http.Header) {
	p.t.Helper()
	req := must(http.NewRequestWithContext(context.Background(), method, address, strings.NewReader(body)))(p.t)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: p.s.client.Roots}}}
	defer c.CloseIdleConnections()
	resp := must(c.Do(req))(p.t)
	defer resp.Body.Close()
	return resp.StatusCode, must(io.ReadAll(resp.Body))(p.t), resp.Header
}

func upload(p *person, path, name, content string) string {
	p.t.Helper()
	o := announce(p, path, name, content, 200)
	if status, body, _ := send(p, "PUT", o.PutURL, content); status != 200 {
		p.t.Fatalf("PUT: %d %s", status, body)
	}
	return o.Sum
}

func post(p *person, device, state string) api.RevisionView {
	p.t.Helper()
	return want[api.RevisionView](p, "POST", "/trails/"+device+"/steps", `{"rev":-1,"commit-msg":"m","state":`+state+`}`, 200)
}

func wantCode(p *person, method, path string, in any, status int) string {
	p.t.Helper()
	return want[api.Problem](p, method, path, in, status).Code
}

// An owner posts a state with pvr, and the device installs it: these are the requests of a usual
// day.
func TestStateReachesItsDevice(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	remote := want[api.RemoteView](f.ada, "GET", "/trails/"+f.boatID+"/.pvrremote", nil, 200)
	base := f.URL + "/trails/" + f.boatID + "/steps"
	if remote.JSONGetURL != base+"/0/state" || remote.Objects != base+"/0/objects" || remote.PostURL != base || remote.Spec != "pvr-pantahub-1" {
		t.Errorf("%s", brief.Of(remote))
	}
	sum := upload(f.ada, "/trails/"+f.boatID+"/steps/0/objects", "rootfs", "a new root")
	state := `{` + systemSpec + `,"app.json":{"name":"a<&>b","n":1.50},"root":"` + sum + `"}`
	step := post(f.ada, f.boatID, state)
	if step.Rev != 1 || step.ID != f.boatID+"-1" || step.TrailID != f.boatID || step.CommitMsg != "m" || len(step.StateSha) != 64 || !slices.Equal(step.UsedObjects, []string{sum}) || step.Committer != wire.AccountPRN+f.Owner.ID {
		t.Errorf("%s", brief.Of(step))
	}
	list := want[[]api.RevisionView](f.boat, "GET", "/trails/"+f.boatID+"/steps?progress.status=%7B%22$in%22:%5B%22NEW%22,%22DOWNLOADING%22,%22INPROGRESS%22,%22TESTING%22,%22QUEUED%22%5D%7D", nil, 200)
	if len(list) != 1 || string(list[0].State) != state {
		t.Fatalf("the device is offered %s", brief.Of(list))
	}
	o := want[api.ObjectView](f.boat, "GET", "/objects/"+sum, nil, 200)
	status, got, h := send(f.boat, "GET", o.GetURL, "")
	if status != 200 || string(got) != "a new root" || h.Get("Content-Length") != "10" || !strings.HasPrefix(h.Get("Content-Disposition"), "attachment") {
		t.Errorf("%d %q %s", status, got, brief.Of(h))
	}
	progress := `{"status":"DONE","status-msg":"<ok>","progress":100,"retries":2,"logs":"l","downloads":{"total":{"object_name":"total"}}}`
	want[map[string]any](f.boat, "PUT", "/trails/"+f.boatID+"/steps/1/progress", progress, 200)
	if s := want[api.RevisionView](f.ada, "GET", "/trails/"+f.boatID+"/steps/1", nil, 200); string(s.Progress) != progress {
		t.Errorf("progress: %s", brief.Of(s.Progress))
	}
	line := want[[]api.SummaryView](f.ada, "GET", "/trails/summary", nil, 200)
	if len(line) != 1 || line[0].DeviceID != f.boatID || line[0].Status != "DONE" || line[0].StatusMsg != "<ok>" || line[0].ProgressRev != 1 || line[0].Revision != 1 || line[0].Progress != 100 || line[0].RealIP != "127.0.0.1" || line[0].StateSha != step.StateSha {
		t.Errorf("%s", brief.Of(line))
	}
	one := want[api.SummaryView](f.ada, "GET", "/trails/"+f.boatID+"/summary", nil, 200)
	one.Timestamp, line[0].Timestamp = time.Time{}, time.Time{}
	if one != line[0] {
		t.Errorf("%s\n%s", brief.Of(one), brief.Of(line[0]))
	}
	if events := want[[]api.EventView](f.ada, "GET", "/events?device="+f.boatID, nil, 200); !slices.ContainsFunc(events, func(e api.EventView) bool { return e.Kind == "step.created" }) {
		t.Error("no event about the revision")
	}
}

// Devices search an answer for a key, and use its first occurrence anywhere in the answer. So the
// fields that devices read come before text that people wrote.
func TestFieldsThatDevicesLookForComeFirst(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	sum := upload(f.ada, "/objects/", "signed-geturl", "size")
	post(f.ada, f.boatID, `{`+systemSpec+`,"rev.json":{"rev":7,"commit-msg":"x","progress":"y"},"state":"`+sum+`"}`)
	want[map[string]any](f.ada, "PUT", "/trails/"+f.boatID+"/steps/1/meta", `{"rev":99,"state":1,"progress":2,"id":3}`, 200)
	for _, c := range []struct {
		path  string
		order []string
	}{
		{"/trails/" + f.boatID + "/steps", []string{"id", "owner", "device", "trail-id", "rev", "progress", "state", "commit-msg", "meta"}},
		{"/trails/" + f.boatID + "/steps/1", []string{"id", "owner", "device", "trail-id", "rev", "progress", "state", "commit-msg", "meta"}},
		{"/objects/" + sum, []string{"id", "sha256sum", "size", "signed-geturl", "mime-type", "objectname"}},
		{"/trails/" + f.boatID + "/steps/1/objects", []string{"id", "sha256sum", "size", "signed-geturl", "mime-type", "objectname"}},
		{"/trails/" + f.boatID, []string{"id", "owner", "device", "factory-state"}},
	} {
		_, body := f.boat.do("GET", c.path, nil)
		var places []int
		for _, key := range c.order {
			at := bytes.Index(body, []byte(`"`+key+`"`)) // the first string of this text, key or value
			if at < 0 || !bytes.HasPrefix(body[at+len(key)+2:], []byte(":")) {
				t.Fatalf("%s: the first %q is not a key in %s", c.path, key, body)
			}
			places = append(places, at)
		}
		if !slices.IsSorted(places) {
			t.Errorf("%s: %s are at %s in %s", c.path, brief.Of(c.order), brief.Of(places), body)
		}
	}
	// Answers escape only the characters that JSON requires to be escaped.
	if _, body := f.boat.do("GET", "/objects/"+sum, nil); bytes.Contains(body, []byte(`\u`)) {
		t.Errorf("%s", body)
	}
}

// A device creates its trail with its first state. If the device sends the request again, even with
// another state, nothing changes, and the answer still has the first state.
func TestFirstStateIsToldOnce(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	for range 3 {
		got := want[api.TrailView](f.boat, "POST", "/trails", `{`+systemSpec+`,"a.json":{}}`, 200)
		if string(got.Factory) != `{`+systemSpec+`}` || got.Rev != 0 {
			t.Errorf("%s", brief.Of(got))
		}
	}
	if list := want[[]api.TrailView](f.boat, "GET", "/trails/", nil, 200); len(list) != 1 || list[0].ID != f.boatID {
		t.Errorf("%s", brief.Of(list))
	}
	step := want[api.RevisionView](f.boat, "GET", "/trails/"+f.boatID+"/steps/0", nil, 200)
	if !bytes.Contains(step.Progress, []byte(`"DONE"`)) || step.CommitMsg != "Factory State (rev 0)" {
		t.Errorf("%s", brief.Of(step))
	}
	// A device without a trail gets an empty list.
	young, id := f.onboarded(t, f.tok)
	if _, body := young.do("GET", "/trails/", nil); strings.TrimSpace(string(body)) != "[]" {
		t.Errorf("%s", body)
	}
	if got := wantCode(f.ada, "GET", "/trails/"+id+"/steps", nil, 404); got != "not-found" {
		t.Error(got)
	}
	line := want[api.SummaryView](f.ada, "GET", "/trails/"+id+"/summary", nil, 200)
	if line.Revision != -1 || line.DeviceID != id {
		t.Errorf("%s", brief.Of(line))
	}
}

// A device that polls with an access token gets the open revisions. While it has none, the hub
// answers without a second read, but still finds final revisions if the filter names them.
func TestPollWithATokenFindsOpenRevisions(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	poller := *f.person(t, "")
	poller.token = want[struct{ Token string }](f.boat, "POST", "/auth/x509/login", nil, 200).Token
	poll := func(when, query string, revs ...int) {
		t.Helper()
		var got []int
		for _, s := range want[[]api.RevisionView](&poller, "GET", "/trails/"+f.boatID+"/steps"+query, nil, 200) {
			got = append(got, s.Rev)
		}
		if !slices.Equal(got, revs) {
			t.Errorf("%s: steps%s: revisions %v, want %v", when, query, got, revs)
		}
	}
	const done = "?progress.status=DONE"
	poll("idle", "")
	poll("idle", done, 0)
	rev := post(f.ada, f.boatID, `{`+systemSpec+`}`).Rev
	poll("a new revision", "", rev)
	poll("a new revision", done, 0)
	want[json.RawMessage](&poller, "PUT", fmt.Sprintf("/trails/%s/steps/%d/progress", f.boatID, rev), `{"status":"TESTING"}`, 200)
	poll("in progress", "")
	poll("in progress", "?progress.status=TESTING", rev)
	want[json.RawMessage](&poller, "PUT", fmt.Sprintf("/trails/%s/steps/%d/progress", f.boatID, rev), `{"status":"DONE"}`, 200)
	poll("done", "")
	poll("done", done, 0, rev)
	young, id := f.onboarded(t, f.tok)
	poller.token = want[struct{ Token string }](young, "POST", "/auth/x509/login", nil, 200).Token
	wantCode(&poller, "GET", "/trails/"+id+"/steps", nil, 404)
}

// Weakness 15 of Pantacor's original hub: it had no state machine, lost progress reports, failed
// when revisions were posted concurrently, and answered {} when a look-up failed.
func TestProgressFollowsTheStateMachine(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	put := func(p *person, rev int, status string, want int) {
		t.Helper()
		if got, body := p.do("PUT", fmt.Sprintf("/trails/%s/steps/%d/progress", f.boatID, rev), `{"status":"`+status+`","retries":7}`); got != want {
			t.Errorf("%s: %d %s", status, got, body)
		}
	}
	for _, final := range []string{"DONE", "UPDATED", "ERROR", "WONTGO"} {
		rev := post(f.ada, f.boatID, `{`+systemSpec+`}`).Rev
		for _, s := range []string{"QUEUED", "DOWNLOADING", "QUEUED", "INPROGRESS", "TESTING", final, final} {
			put(f.boat, rev, s, 200)
		}
		for _, s := range []string{"QUEUED", "INPROGRESS", "TESTING"} {
			put(f.boat, rev, s, 409)
		}
		put(f.boat, rev, "NEW", 400)
		put(f.boat, rev, "CANCEL", 400)
		if s := want[api.RevisionView](f.ada, "GET", fmt.Sprintf("/trails/%s/steps/%d", f.boatID, rev), nil, 200); string(s.Progress) != `{"status":"`+final+`","retries":7}` {
			t.Errorf("%s", brief.Of(s.Progress))
		}
	}
	if list := want[[]api.RevisionView](f.boat, "GET", "/trails/"+f.boatID+"/steps", nil, 200); len(list) != 0 {
		t.Errorf("a final revision is offered: %s", brief.Of(list))
	}
	// The owner can set two statuses: CANCEL and WONTGO.
	rev := fmt.Sprint(post(f.ada, f.boatID, `{`+systemSpec+`}`).Rev)
	at := "/trails/" + f.boatID + "/steps/" + rev
	if got := wantCode(f.ada, "PUT", at+"/wontgo", nil, 400); got != "step-status" {
		t.Error(got)
	}
	want[api.RevisionView](f.ada, "PUT", at+"/cancel", nil, 200)
	wantCode(f.ada, "PUT", at+"/cancel", nil, 400)
	wantCode(f.boat, "PUT", at+"/progress", `{"status":"QUEUED"}`, 409)
	rev = fmt.Sprint(post(f.ada, f.boatID, `{`+systemSpec+`}`).Rev)
	at = "/trails/" + f.boatID + "/steps/" + rev
	want[map[string]any](f.boat, "PUT", at+"/progress", `{"status":"INPROGRESS"}`, 200)
	wantCode(f.ada, "PUT", at+"/cancel", nil, 400)
	if s := want[api.RevisionView](f.ada, "PUT", at+"/wontgo", nil, 200); !bytes.Contains(s.Progress, []byte(`"WONTGO"`)) {
		t.Errorf("%s", brief.Of(s.Progress))
	}
}

func TestConcurrentPostsOfStepsNeverFail(t *testing.T) {
	t.Parallel()
	f := newFleetOnDisk(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	revs := map[int]int{}
	for i := range 30 {
		wg.Go(func() {
			p := []*person{f.ada, f.boat}[i%2]
			body := `{"state":{` + systemSpec + `}}`
			if i%3 == 0 {
				body = `{"rev":1,"state":{` + systemSpec + `}}`
			}
			status, answer := p.do("POST", "/trails/"+f.boatID+"/steps/", body)
			mu.Lock()
			defer mu.Unlock()
			var step api.RevisionView
			switch {
			case status == 200 && json.Unmarshal(answer, &step) == nil:
				revs[step.Rev]++
			case status == 409 && i%3 == 0:
			default:
				t.Errorf("%d %s", status, answer)
			}
		})
	}
	wg.Wait()
	for rev := 1; rev <= len(revs); rev++ {
		if revs[rev] != 1 {
			t.Errorf("revision %d was given %d times", rev, revs[rev])
		}
	}
	if len(revs) < 20 {
		t.Errorf("only %d revisions", len(revs))
	}
}

// If a revision does not exist, the answer is 404 and not an empty state.
func TestStateThatIsNotThereIsNotEmpty(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	for _, path := range []string{"/trails/" + f.boatID + "/steps/7/state", "/trails/" + f.boatID + "/steps/-1/state", "/trails/" + f.boatID + "/steps/+0/state", "/trails/" + f.boatID + "/steps/00/state",
		"/trails/" + f.boatID + "/steps/x/state", "/trails/" + f.boatID + "/steps/99999999999999999999/state", "/trails/" + f.pirateID + "/steps/0/state", "/trails/nothing/steps/0/state", "/trails/" + f.boatID + "/steps/7/.pvrremote"} {
		wantCode(f.ada, "GET", path, nil, 404)
	}
}

// Weakness 16 of Pantacor's original hub: what a device uploaded belonged to the device and not to
// its owner.
func TestWhatADeviceUploadsIsItsOwners(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	sum := upload(f.boat, "/objects", "modules", "modules of the factory")
	o := want[api.ObjectView](f.ada, "GET", "/objects/"+sum, nil, 200)
	owner := wire.AccountPRN + f.Owner.ID
	if o.Owner != owner || o.StorageID != sumOf([]byte(owner+"/"+sum)) {
		t.Errorf("%s", brief.Of(o))
	}
	announce(f.ada, "/objects/", "again", "modules of the factory", 409)
	post(f.ada, f.boatID, `{`+systemSpec+`,"modules":"`+sum+`"}`)
	if list := want[[]api.ObjectView](f.ada, "GET", "/objects/", nil, 200); len(list) != 2 {
		t.Errorf("%s", brief.Of(list))
	}
	wantCode(f.boat, "GET", "/objects/", nil, 401) // a device gets only the objects of its revisions
}

// Knowing the hash of another owner's object gives no access to the object.
func TestKnowingAHashGivesNoAccessToAnothersObject(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	for _, p := range []*person{f.mallory, f.pirate} {
		wantCode(p, "GET", "/objects/"+f.contentSum, nil, 404)
		// Mallory announces Ada's object. She gets the same answer as for an object that nobody
		// has, with a download URL that returns nothing.
		o := announce(p, "/objects/", "guess", f.content, 200)
		if status, body, _ := send(p, "GET", o.GetURL, ""); status != 404 {
			t.Errorf("%d %s", status, body)
		}
		wantCode(p, "GET", "/objects/"+f.contentSum, nil, 404)
		// If Mallory posts a state that names the object, this gives her no access to the object.
		for _, try := range []struct{ method, path, body string }{
			{"POST", "/trails/" + f.pirateID + "/steps", `{"state":{` + systemSpec + `,"k":"` + f.contentSum + `"}}`},
			{"PUT", "/trails/" + f.pirateID + "/steps/0/state", `{` + systemSpec + `,"k":"` + f.contentSum + `"}`},
		} {
			if status, body := p.do(try.method, try.path, try.body); status != 400 && status != 409 {
				t.Errorf("%s %s: %d %s", try.method, try.path, status, body)
			}
		}
		wantCode(p, "GET", "/trails/"+f.pirateID+"/steps/0/objects/"+f.contentSum, nil, 404)
		// Uploading other bytes of the same length does not give access to the object either.
		if status, _, _ := send(p, "PUT", o.PutURL, strings.Repeat("x", len(f.content))); status != 400 {
			t.Errorf("other content was accepted: status %d", status)
		}
		wantCode(p, "GET", "/objects/"+f.contentSum, nil, 404)
	}
	young, _ := f.onboarded(t, f.tok)
	_ = young
	late, _ := f.onboarded(t, f.Token(t, must(f.Store.AccountByNickOrEmail(t.Context(), "mallory"))(t), nil))
	if got := wantCode(late, "POST", "/trails/", `{`+systemSpec+`,"k":"`+f.contentSum+`"}`, 400); got != "objects-missing" {
		t.Error(got)
	}
	// If Mallory has the bytes of the object, she can store them too. If she or Ada then deletes
	// her own record, the other's record stays.
	upload(f.mallory, "/objects/", "mine too", f.content)
	o := want[api.ObjectView](f.mallory, "GET", "/objects/"+f.contentSum, nil, 200)
	if o.Name == "kernel" || strings.Contains(o.Owner, f.Owner.ID) {
		t.Errorf("%s", brief.Of(o))
	}
}

// Weakness 17 of Pantacor's original hub: its object URLs were valid for a day, and it ignored
// surplus bytes of an upload.
func TestAddressIsForOneMethodObjectOwnerAndAWhile(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	o := want[api.ObjectView](f.ada, "GET", "/objects/"+f.contentSum, nil, 200)
	if !strings.HasPrefix(o.GetURL, f.URL+"/local-s3/") || !strings.HasPrefix(o.GetURL, "https://") || strings.Contains(o.GetURL, "?") {
		t.Fatal(o.GetURL)
	}
	if status, _, _ := send(f.ada, "PUT", o.GetURL, f.content); status != 404 {
		t.Errorf("an address for GET accepts PUT: status %d", status)
	}
	if status, _, _ := send(f.ada, "GET", o.PutURL, ""); status != 404 {
		t.Errorf("an address for PUT accepts GET: status %d", status)
	}
	for i := len(f.URL) + len("/local-s3/"); i < len(o.GetURL); i++ {
		other := []byte(o.GetURL)
		other[i] = "AB"[btoi(other[i] == 'A')]
		if status, body, _ := send(f.ada, "GET", string(other), ""); status != 404 {
			t.Errorf("altered at %d: %d %s", i, status, body)
		}
	}
	for _, bad := range []string{"", "x", o.GetURL[len(f.URL)+10:] + "A", strings.Repeat("A", 2000)} {
		if status, _, _ := send(f.ada, "GET", f.URL+"/local-s3/"+bad, ""); status != 404 {
			t.Errorf("%.20s: %d", bad, status)
		}
	}
	f.Advance(59 * time.Minute)
	if status, _, _ := send(f.ada, "GET", o.GetURL, ""); status != 200 {
		t.Errorf("within the hour: %d", status)
	}
	f.Advance(2 * time.Minute)
	for method, address := range map[string]string{"GET": o.GetURL, "PUT": o.PutURL} {
		if status, _, _ := send(f.ada, method, address, f.content); status != 410 {
			t.Errorf("%s after the hour: %d", method, status)
		}
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// The hub refuses an upload that does not have the announced length and SHA-256, and does not serve
// any part of it.
func TestUploadIsWholeOrNothing(t *testing.T) {
	t.Parallel()
	f := newFleetOnDisk(t)
	content := strings.Repeat("0123456789", 1000)
	o := announce(f.ada, "/objects/", "x", content, 200)
	for name, body := range map[string]string{"short": content[1:], "long": content + "x", "empty": "", "other": "x" + content[1:]} {
		if status, answer, _ := send(f.ada, "PUT", o.PutURL, body); status != 400 {
			t.Errorf("%s: %d %s", name, status, answer)
		}
		if status, _, _ := send(f.ada, "GET", o.GetURL, ""); status != 404 {
			t.Errorf("%s is served", name)
		}
		wantCode(f.ada, "GET", "/objects/"+o.Sum, nil, 404)
	}
	// A chunked upload has no Content-Length, but the hub checks its size and its hash too.
	inChunks := func(address, body string) int {
		req := must(http.NewRequest("PUT", address, struct{ io.Reader }{strings.NewReader(body)}))(t)
		resp := must(f.ada.client.Do(req))(t)
		resp.Body.Close()
		return resp.StatusCode
	}
	for name, body := range map[string]string{"short": content[1:], "long": content + "x", "empty": ""} {
		if status := inChunks(o.PutURL, body); status != 400 {
			t.Errorf("%s, in chunks: %d", name, status)
		}
		wantCode(f.ada, "GET", "/objects/"+o.Sum, nil, 404)
	}
	// Released versions of pvr upload an empty file in this way.
	empty := announce(f.ada, "/objects/", "empty.bin", "", 200)
	if status := inChunks(empty.PutURL, "x"); status != 400 {
		t.Errorf("content for an empty file: status %d", status)
	}
	if status := inChunks(empty.PutURL, ""); status != 200 {
		t.Errorf("an empty file, in chunks: %d", status)
	}
	if status, got, _ := send(f.ada, "GET", empty.GetURL, ""); status != 200 || len(got) != 0 {
		t.Errorf("the empty file: %d %q", status, got)
	}
	for range 2 { // a repeated upload succeeds too
		if status, answer, _ := send(f.ada, "PUT", o.PutURL, content, "Content-Type", "application/json"); status != 200 {
			t.Errorf("%d %s", status, answer)
		}
	}
	if status, got, _ := send(f.ada, "GET", o.GetURL, "", "Range", "bytes=10-19"); status != 206 || string(got) != "0123456789" {
		t.Errorf("a part: %d %q", status, got)
	}
	if status, _, _ := send(f.ada, "GET", o.GetURL, "", "Range", "bytes=99999-"); status != 416 {
		t.Errorf("no such part: %d", status)
	}
	if status, _, _ := send(f.ada, "PUT", o.PutURL, content[1:]); status != 400 {
		t.Errorf("%d", status)
	}
	if _, got, _ := send(f.ada, "GET", o.GetURL, ""); string(got) != content {
		t.Error("a bad upload harmed the good one")
	}
}

// If an upload stalls and another upload needs its space, the hub ends the stalled upload early, so
// that stalled uploads cannot keep the disk full.
func TestHangingUploadsGiveWay(t *testing.T) {
	t.Parallel()
	f := newFleetOnDisk(t)
	content := strings.Repeat("0123456789", 1000)
	o := announce(f.ada, "/objects/", "x", content, 200)
	var wg sync.WaitGroup
	ended := make(chan int, 4)
	for range 4 {
		r, w := io.Pipe()
		req := must(http.NewRequest("PUT", o.PutURL, r))(t)
		req.ContentLength = int64(len(content))
		begun := make(chan struct{})
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: f.client.Roots}}}
		wg.Go(func() {
			defer c.CloseIdleConnections()
			resp, err := c.Do(req)
			if err == nil {
				resp.Body.Close()
				ended <- resp.StatusCode
			} else {
				ended <- 0
			}
			r.Close()
		})
		go func() {
			io.WriteString(w, content[:5000])
			close(begun)
		}()
		<-begun
		t.Cleanup(func() { w.Close() })
	}
	for range 2 {
		select {
		case status := <-ended:
			if status == 200 {
				t.Error("a hanging upload succeeded")
			}
		case <-time.After(20 * time.Second):
			t.Fatal("the oldest uploads did not give way")
		}
	}
	if status, answer, _ := send(f.ada, "PUT", o.PutURL, content); status != 200 {
		t.Errorf("%d %s", status, answer)
	}
}

// If many clients upload the same object at the same time, slowly, each upload succeeds.
func TestManyUploadsOfOneObjectAllSucceed(t *testing.T) {
	t.Parallel()
	f := newFleetOnDisk(t)
	content := strings.Repeat("0123456789abcdef", 4096)
	o := announce(f.ada, "/objects/", "x", content, 200)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			r, w := io.Pipe()
			go func() {
				for part := range slices.Chunk([]byte(content), len(content)/8) {
					w.Write(part)
					time.Sleep(50 * time.Millisecond)
				}
				w.Close()
			}()
			req := must(http.NewRequest("PUT", o.PutURL, r))(t)
			req.ContentLength = int64(len(content))
			c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: f.client.Roots}}}
			defer c.CloseIdleConnections()
			resp, err := c.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
			if resp.StatusCode != 200 {
				t.Errorf("status %d", resp.StatusCode)
			}
		})
	}
	wg.Wait()
}

// If an owner stores an HTML page as an object, the answer's headers make browsers save the object
// instead of showing it as a page.
func TestStoredObjectIsNeverAPage(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	page := "<html><script>alert(1)</script></html>"
	o := announce(f.ada, "/objects/", "\"page\r\nX-Evil: 1\".html", page, 200)
	if status, _, _ := send(f.ada, "PUT", o.PutURL, page); status != 200 {
		t.Fatal(status)
	}
	_, _, h := send(f.ada, "GET", o.GetURL, "")
	if h.Get("Content-Type") != "application/octet-stream" || h.Get("X-Content-Type-Options") != "nosniff" || !strings.HasPrefix(h.Get("Content-Disposition"), "attachment") ||
		h.Get("X-Evil") != "" || !strings.Contains(h.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("%s", brief.Of(h))
	}
}

// Weakness 11 of Pantacor's original hub: it passed filters to the database unchecked.
func TestFiltersAreOfAFixedSet(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	for _, q := range []string{`{"$where":"sleep(9999)"}`, `{"$regex":"^a"}`, `{"$in":[{"$gt":""}]}`, `DONE'--`, `{"$in":"NEW"}`} {
		if got := wantCode(f.ada, "GET", "/trails/"+f.boatID+"/steps?progress.status="+escape(q), nil, 400); got != "filter" {
			t.Error(got)
		}
	}
	for _, q := range []string{`{"$where":"1"}`, `{"owner":"x"}`, `{"status":{"$ne":""}}`, `[]`, `{"status":1}`} {
		wantCode(f.ada, "GET", "/trails/summary?filter="+escape(q), nil, 400)
	}
	for _, q := range []string{"owner", "--status", "status;drop", "secret"} {
		wantCode(f.ada, "GET", "/trails/summary?sort="+escape(q), nil, 400)
	}
	if got := want[[]api.SummaryView](f.ada, "GET", "/trails/summary/?sort=-device-nick&filter="+escape(`{"status":"DONE"}`), nil, 200); len(got) != 1 {
		t.Errorf("%s", brief.Of(got))
	}
	if got := want[[]api.SummaryView](f.ada, "GET", "/trails/summary?filter="+escape(`{"status":"ERROR"}`), nil, 200); len(got) != 0 {
		t.Errorf("%s", brief.Of(got))
	}
}

func escape(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		fmt.Fprintf(&b, "%%%02X", c)
	}
	return b.String()
}

// Weakness 17 of Pantacor's original hub: it ignored the sign that gives the direction of a sort
// order.
func TestSummariesSortBothWays(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	_, second := f.onboarded(t, f.tok)
	for nick, id := range map[string]string{"aft": f.boatID, "bow": second} {
		want[api.DeviceView](f.ada, "PATCH", "/devices/"+id, map[string]string{"nick": nick}, 200)
	}
	for sort, first := range map[string]string{"device-nick": "aft", "-device-nick": "bow", "revision": "bow", "-revision": "aft"} {
		if got := want[[]api.SummaryView](f.ada, "GET", "/trails/summary?sort="+sort, nil, 200); len(got) != 2 || got[0].Nick != first {
			t.Errorf("%s: %s", sort, brief.Of(got))
		}
	}
}

// The hub refuses a state that names an object whose bytes were not uploaded.
func TestStateNamesOnlyUploadedObjects(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	missing := strings.Repeat("0a", 32)
	answer := want[api.Problem](f.ada, "POST", "/trails/"+f.boatID+"/steps", `{"state":{`+systemSpec+`,"a":"`+missing+`","b":"`+f.contentSum+`"}}`, 400)
	if answer.Code != "objects-missing" || !strings.Contains(answer.Message, missing) || strings.Contains(answer.Message, f.contentSum) {
		t.Errorf("%s", brief.Of(answer))
	}
	announce(f.ada, "/objects/", "a", "announced, not uploaded", 200)
	wantCode(f.ada, "POST", "/trails/"+f.boatID+"/steps", `{"state":{`+systemSpec+`,"a":"`+sumOf([]byte("announced, not uploaded"))+`"}}`, 400)
	step := post(f.ada, f.boatID, `{`+systemSpec+`,"k":"`+f.contentSum+`"}`)
	at := fmt.Sprintf("/trails/%s/steps/%d", f.boatID, step.Rev)
	if list := want[[]api.ObjectView](f.ada, "GET", at+"/objects/", nil, 200); len(list) != 1 || list[0].Sum != f.contentSum {
		t.Errorf("%s", brief.Of(list))
	}
	want[api.ObjectView](f.boat, "GET", at+"/objects/"+f.contentSum, nil, 200)
	other := upload(f.ada, "/objects/", "other", "not in the step")
	wantCode(f.ada, "GET", at+"/objects/"+other, nil, 404)
	status, _, h := f.ada.request("GET", at+"/objects/"+f.contentSum+"/blob", nil, nil)
	if _, got, _ := send(f.ada, "GET", h.Get("Location"), ""); status != 302 || string(got) != f.content {
		t.Errorf("%d %q", status, got)
	}
	// The owner can replace a revision's state only while its status is NEW.
	want[map[string]any](f.ada, "PUT", at+"/state", `{`+systemSpec+`,"o":"`+other+`"}`, 200)
	wantCode(f.ada, "PUT", at+"/state", `{`+systemSpec+`,"o":"`+missing+`"}`, 400)
	if s := want[api.RevisionView](f.ada, "GET", at, nil, 200); s.StateSha == step.StateSha || !slices.Equal(s.UsedObjects, []string{other}) {
		t.Errorf("%s", brief.Of(s))
	}
	want[map[string]any](f.boat, "PUT", at+"/progress", `{"status":"QUEUED"}`, 200)
	if got := wantCode(f.ada, "PUT", at+"/state", `{`+systemSpec+`}`, 409); got != "step-status" {
		t.Error(got)
	}
}

// The hub refuses a state that two parsers could read differently, so that the device reads the
// state that the hub has checked.
func TestStateWithTheSameNameTwiceIsRefused(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	for _, state := range []string{
		`{` + systemSpec + `,"k":"` + f.contentSum + `","k":"` + strings.Repeat("0b", 32) + `"}`,
		`{` + systemSpec + `,"k":"` + f.contentSum + `","\u006b":"` + strings.Repeat("0b", 32) + `"}`,
	} {
		if got := wantCode(f.ada, "POST", "/trails/"+f.boatID+"/steps", `{"state":`+state+`}`, 400); got != "state-malformed" {
			t.Error(got)
		}
	}
	wantCode(f.boat, "PUT", "/trails/"+f.boatID+"/steps/0/progress", `{"status":"DONE","status":"ERROR"}`, 400)
}

// Attack: a device announces objects without uploading them, with sizes so large that their sum
// would overflow or would fill the quota. The owner's usage hardly changes.
func TestAnnouncedSizesNeitherMakeRoomNorTakeIt(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	usage := func() int64 { return must(f.Store.Usage(t.Context(), f.Owner.ID))(t) }
	before := usage()
	const quota = 64 << 30
	for i, size := range []int64{1<<63 - 1, 1<<63 - 512, 1<<63 - 513, 1 << 62, 1<<50 + 1, quota + 1} {
		o := map[string]any{"objectname": "x", "sha256sum": fmt.Sprintf("%064x", i), "size": size}
		if got := wantCode(f.boat, "POST", "/objects/", o, 413); got != "quota" {
			t.Errorf("%d: %s", size, got)
		}
	}
	if n := usage(); n != before {
		t.Errorf("refused sizes changed the usage by %d", n-before)
	}
	for i := range 4 {
		o := map[string]any{"objectname": "x", "sha256sum": fmt.Sprintf("%064x", 100+i), "size": quota - 1<<20}
		want[api.ObjectView](f.boat, "POST", "/objects/", o, 200)
	}
	if n := usage() - before; n < 0 || n > 4*1024 {
		t.Errorf("four announced sizes count %d bytes", n)
	}
	upload(f.ada, "/objects/", "x", "there is room for this")
}

// Running uploads count towards the quota before they are stored, so an owner's concurrent uploads
// cannot use more disk space than the quota.
func TestUploadsAtOnceStayWithinTheQuota(t *testing.T) {
	t.Parallel()
	maker := must(goodMaker())(t)
	small := hubtest.Open(t, t.TempDir(), func(c *api.Config) { c.ObjectQuota = 5 << 20 }, maker.Roots(), maker.Intermediates())
	f := newFleetOn(t, small, maker)
	const big = 3 << 20 // two of them are more than the quota
	var o [2]api.ObjectView
	for i := range o {
		o[i] = want[api.ObjectView](f.ada, "POST", "/objects/", map[string]any{"objectname": "x", "sha256sum": fmt.Sprintf("%064x", i), "size": big}, 200)
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: f.client.Roots}}}
	defer c.CloseIdleConnections()
	first := func() (w *io.PipeWriter, ended chan struct{}) {
		r, w := io.Pipe()
		req := must(http.NewRequest("PUT", o[0].PutURL, r))(t)
		req.ContentLength = big
		ended = make(chan struct{})
		go func() {
			defer close(ended)
			if resp, err := c.Do(req); err == nil {
				resp.Body.Close()
			}
		}()
		io.WriteString(w, "begun") // the hub now reads the body
		return w, ended
	}
	w, ended := first()
	defer func() { w.Close() }()
	second := func() int {
		req := must(http.NewRequest("PUT", o[1].PutURL, strings.NewReader("x")))(t)
		req.ContentLength = -1 // unknown length: the hub uses the announced size
		resp := must(f.ada.client.Do(req))(t)
		resp.Body.Close()
		return resp.StatusCode
	}
	status := 0
	for range 1000 { // until the hub counts the first upload
		if status = second(); status == 413 {
			break
		}
		select {
		case <-ended: // the hub counted the second upload earlier, and refused the first
			w.Close()
			w, ended = first()
		case <-time.After(20 * time.Millisecond):
		}
	}
	if status != 413 {
		t.Errorf("a second upload past the quota: %d", status)
	}
	w.CloseWithError(errors.New("given up"))
	<-ended
	for range 1000 {
		if status = second(); status == 400 { // 400: the body is too short, but the quota has room
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if status != 400 {
		t.Errorf("after the first one ended: %d", status)
	}
}

func TestQuotaBoundsAnOwner(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	o := map[string]any{"objectname": "x", "sha256sum": strings.Repeat("0c", 32), "size": "99999999999999"}
	if got := wantCode(f.ada, "POST", "/objects/", o, 413); got != "quota" {
		t.Error(got)
	}
	for _, size := range []any{-1, "-1", "1e3", 1.5, "x", "", nil, "9223372036854775808", []int{1}} {
		o["size"] = size
		if status, body := f.ada.do("POST", "/objects/", o); status != 400 {
			t.Errorf("%v: %d %s", size, status, body)
		}
	}
	for _, sum := range []string{"", "x", strings.Repeat("0C", 32), strings.Repeat("0c", 33), "../../../../etc/passwd"} {
		o["size"], o["sha256sum"] = 1, sum
		if got := wantCode(f.ada, "POST", "/objects/", o, 400); got != "object-sum" {
			t.Error(got)
		}
	}
	o["sha256sum"], o["id"] = strings.Repeat("0c", 32), "other"
	wantCode(f.ada, "POST", "/objects/", o, 400)
	o["id"], o["objectname"] = "", strings.Repeat("x", 2000)
	wantCode(f.ada, "POST", "/objects/", o, 400)
	o["objectname"], o["size"] = "x", 7 // a number is accepted too
	want[api.ObjectView](f.ada, "POST", "/objects", o, 200)
}

// After a grace period, the collector removes the objects that no revision or record needs. It
// keeps all others.
func TestCollectorTakesOnlyWhatNobodyNeeds(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	used := upload(f.ada, "/objects/", "used", "used by a step")
	post(f.ada, f.boatID, `{`+systemSpec+`,"k":"`+used+`"}`)
	both := upload(f.ada, "/objects/", "both", "of two owners")
	upload(f.mallory, "/objects/", "both", "of two owners")
	post(f.mallory, f.pirateID, `{`+systemSpec+`,"k":"`+both+`"}`)
	there := func(sum string) bool {
		var h store.Hash
		hex.Decode(h[:], []byte(sum))
		found := 0
		for key := range f.contents(t) {
			if key.Sum == h {
				found++
			}
		}
		if found > 1 {
			t.Errorf("%s is stored %d times", sum, found)
		}
		return found == 1
	}
	collect := func() {
		t.Helper()
		if err := f.Server.Collect(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	f.Advance(6 * 24 * time.Hour)
	collect()
	for _, sum := range []string{used, both, f.contentSum} {
		if !there(sum) {
			t.Fatal("removed too early")
		}
	}
	f.Advance(2 * 24 * time.Hour)
	collect()
	if !there(used) || !there(both) || there(f.contentSum) {
		t.Fatalf("used %v, of two owners %v, unused %v", there(used), there(both), there(f.contentSum))
	}
	f.ada, f.mallory = f.person(t, "ada"), f.person(t, "mallory") // their sessions have expired
	wantCode(f.ada, "GET", "/objects/"+both, nil, 404)
	want[api.ObjectView](f.mallory, "GET", "/objects/"+both, nil, 200)
	wantCode(f.ada, "GET", "/objects/"+f.contentSum, nil, 404)
	upload(f.ada, "/objects/", "kernel", f.content) // again
	if !there(f.contentSum) {
		t.Fatal("uploaded, but not stored")
	}
	// The states of a deleted device no longer need their objects.
	want[api.DeviceView](f.ada, "DELETE", "/devices/"+f.boatID, nil, 200)
	f.Advance(8 * 24 * time.Hour)
	collect()
	if there(used) || !there(both) {
		t.Error("the deleted device's object is there, or another owner's is gone")
	}
	if n := must(f.Store.Usage(t.Context(), f.Owner.ID))(t); n != 0 {
		t.Errorf("%d bytes count for an owner who has nothing", n)
	}
}

// While the collector runs, an uploaded object can be read for as long as its record says that it
// is stored.
func TestCollectorRacesWithUploads(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("uploads and collects until both have won often enough")
	}
	f := newFleetOnDisk(t)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				// In this test, neither unstored records nor the files of objects have a grace
				// period.
				f.Store.ExpireObjects(t.Context(), f.Now().Add(time.Hour), f.Now().Add(-time.Hour), 100)
				f.Store.ExpireObjects(t.Context(), f.Now().Add(-time.Hour), f.Now().Add(-time.Millisecond), 1)
				for key := range f.contents(t) {
					if ok, err := f.Store.RemoveContent(t.Context(), key.Sum, key.Place); err == nil && ok {
						f.Objects.Delete(t.Context(), key)
					}
				}
				time.Sleep(rand.N(5 * time.Millisecond))
			}
		}
	})
	uploads := 150
	if race.Enabled {
		uploads = 50 // the race detector makes each upload ten times as slow
	}
	// On a busy machine, the collector may often come first, so the loop goes on until at least ten
	// uploads were stored.
	for i, good := 0, 0; i < uploads || good < 10; i++ {
		if i == 5000 {
			t.Error("almost no upload was stored: the collector of this test is too fast")
			break
		}
		content := fmt.Sprint("raced ", i%5)
		status, body := f.ada.do("POST", "/objects/", map[string]any{"size": len(content), "sha256sum": sumOf([]byte(content))})
		var o api.ObjectView
		if err := json.Unmarshal(body, &o); err != nil || (status != 200 && status != 409) {
			t.Fatalf("%d %s", status, body)
		}
		if status, body, _ := send(f.ada, "PUT", o.PutURL, content); status >= 500 {
			t.Fatalf("%d %s", status, body)
		}
		// While the record says that the object is stored, its file must exist.
		if sum := must(hex.DecodeString(o.Sum))(t); true {
			record, err := f.Store.Object(t.Context(), f.Owner.ID, store.Hash(sum))
			if err == nil && record.Stored {
				_, statErr := f.Objects.Stat(t.Context(), objects.Key{Sum: record.Sum, Place: record.Place})
				again, err := f.Store.Object(t.Context(), f.Owner.ID, store.Hash(sum))
				if err == nil && again == record && statErr != nil {
					t.Fatal("the record is there, but the content is gone")
				}
				good++
			}
		}
	}
	close(stop)
	wg.Wait()
}

func (f *fleetScene) contents(t *testing.T) map[objects.Key]bool {
	found := map[objects.Key]bool{}
	if err := f.Objects.Walk(t.Context(), func(key objects.Key, _ objects.Info) error { found[key] = true; return nil }); err != nil {
		t.Error(err)
	}
	return found
}

// Another owner, another owner's device, and a caller without credentials call every route for
// trails, objects and logs. None of them gets any of Ada's data.
func TestNobodySeesAnothersTrail(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	sum := upload(f.ada, "/objects/", "secret-name", "secret-content")
	post(f.ada, f.boatID, `{`+systemSpec+`,"secret-file":"`+sum+`"}`)
	want[map[string]string](f.boat, "POST", "/logs/", `[{"msg":"secret-line"}]`, 200)
	second, secondID := f.onboarded(t, f.tok) // a second device of the same owner
	at := "/trails/" + f.boatID
	routes := []struct {
		method, path, body string
		device             bool // a device may call it
		person             bool
	}{
		{"GET", at, "", true, true},
		{"GET", at + "/", "", true, true},
		{"GET", at + "/summary", "", true, true},
		{"GET", at + "/.pvrremote", "", true, true},
		{"POST", at + "/steps", `{"state":{` + systemSpec + `}}`, true, true},
		{"GET", at + "/steps", "", true, true},
		{"GET", at + "/steps/1", "", true, true},
		{"GET", at + "/steps/1/.pvrremote", "", true, true},
		{"GET", at + "/steps/1/state", "", true, true},
		{"PUT", at + "/steps/1/state", `{` + systemSpec + `}`, true, true},
		{"GET", at + "/steps/1/meta", "", true, true},
		{"PUT", at + "/steps/1/meta", `{}`, false, true},
		{"PUT", at + "/steps/1/progress", `{"status":"DONE"}`, true, false},
		{"PUT", at + "/steps/1/cancel", "", false, true},
		{"PUT", at + "/steps/1/wontgo", "", false, true},
		{"POST", at + "/steps/1/objects", `{"sha256sum":"` + sum + `","size":"14"}`, true, true},
		{"GET", at + "/steps/1/objects", "", true, true},
		{"GET", at + "/steps/1/objects/" + sum, "", true, true},
		{"GET", at + "/steps/1/objects/" + sum + "/blob", "", true, true},
	}
	anonymous := f.person(t, "")
	for _, r := range routes {
		expect := func(who string, p *person, status int) {
			t.Helper()
			got, body := p.do(r.method, r.path, r.body)
			if got != status || bytes.Contains(body, []byte("secret")) {
				t.Errorf("%s %s as %s: %d %s", r.method, r.path, who, got, body)
			}
		}
		expect("nobody", anonymous, 401)
		strange := map[bool]int{true: 404, false: 401}
		expect("another owner", f.mallory, strange[r.person])
		expect("another's device", f.pirate, strange[r.device])
		expect("another device of the owner", second, strange[r.device])
	}
	// Only the device may report a revision's progress. Its owner may not.
	wantCode(f.ada, "PUT", at+"/steps/1/progress", `{"status":"DONE"}`, 401)
	for _, p := range []*person{f.mallory, f.pirate} {
		for _, path := range []string{"/trails", "/trails/summary", "/objects", "/logs", "/logs?dev=" + f.boatID, "/logs?dev=" + wire.DevicePRN + f.boatID} {
			if _, body := p.do("GET", path, nil); bytes.Contains(body, []byte("secret")) || bytes.Contains(body, []byte(f.boatID)) {
				t.Errorf("%s: %s", path, body)
			}
		}
	}
	if s := want[api.RevisionView](f.ada, "GET", at+"/steps/1", nil, 200); !strings.Contains(string(s.Progress), "NEW") || len(s.UsedObjects) != 1 {
		t.Errorf("the trail changed: %s", brief.Of(s))
	}
	_ = secondID
}

// If a request has an access token, the hub uses it and ignores the client certificate of the
// connection. So if a device forwards a person's request, the person does not act as the device.
func TestBadSessionOnADevicesConnectionIsRefused(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	status, body, _ := f.boat.request("GET", "/trails/", nil, map[string]string{"Authorization": "Bearer nonsense"})
	if status != 401 {
		t.Errorf("%d %s", status, body)
	}
	status, body, _ = f.boat.request("GET", "/trails/"+f.pirateID, nil, map[string]string{"Authorization": "Bearer " + f.mallory.token})
	if status != 200 {
		t.Errorf("%d %s", status, body)
	}
	status, _, _ = f.boat.request("GET", "/trails/"+f.boatID, nil, map[string]string{"Authorization": "Bearer " + f.mallory.token})
	if status != 404 {
		t.Errorf("%d", status)
	}
}

// No body or query, however random, makes one of these routes answer 5xx.
func TestBadInputToTrailsIsNeverTheHubsFault(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	post(f.ada, f.boatID, `{`+systemSpec+`}`)
	at := "/trails/" + f.boatID
	bodies := []string{"", "null", "[]", "{}", "1", `"x"`, "{", `{"state":null}`, `{"state":[]}`, `{"state":{` + systemSpec + `},"rev":"1"}`, `{"state":{` + systemSpec + `},"rev":-2}`, `{"state":{` + systemSpec + `},"rev":1e99}`,
		`{"state":{` + systemSpec + `},"meta":[]}`, `{"state":{` + systemSpec + `},"commit-msg":7}`, `{"status":null}`, `{"next-cursor":7}`, `{"next-cursor":"eyJnIjoxLCJjIjoiOTk5OTktMDEtMDFUMDA6MDA6MDBaIn0"}`, "\xff\xfe", strings.Repeat("[", 20_000), `{"a":"` + strings.Repeat("x", 3<<20) + `"}`}
	for _, r := range []struct {
		p            *person
		method, path string
	}{
		{f.boat, "POST", "/trails/"}, {f.ada, "POST", at + "/steps"}, {f.ada, "PUT", at + "/steps/1/state"}, {f.ada, "PUT", at + "/steps/1/meta"}, {f.boat, "PUT", at + "/steps/1/progress"},
		{f.ada, "PUT", at + "/steps/1/wontgo"}, {f.ada, "POST", "/objects"}, {f.ada, "POST", at + "/steps/1/objects"}, {f.boat, "POST", "/logs/"}, {f.ada, "POST", "/logs/cursor"},
	} {
		for _, body := range bodies {
			if status, answer := r.p.do(r.method, r.path, body); status >= 500 {
				t.Errorf("%s %s %.40q: %d %s", r.method, r.path, body, status, answer)
			}
		}
	}
	for _, path := range []string{"/logs?page=0", "/logs?page=x", "/logs?start=-1", "/logs?after=yesterday", "/logs?before=99999-01-01T00:00:00Z", "/logs?sort=msg", "/logs?dev=" + strings.Repeat("a,", 50), "/logs?lvl=" + strings.Repeat(",", 100),
		"/objects?after=x", "/objects?limit=0", "/trails?limit=1001", at + "/steps?after=x", at + "/steps?after=-9", at + "/steps?limit=x", "/trails/%00", "/trails/%ff/steps/1", "/objects/%00", "/logs?dev=%00&src=%ff", at + "/steps?progress.status=%00"} {
		if status, answer := f.ada.do("GET", path, nil); status >= 500 {
			t.Errorf("%s: %d %s", path, status, answer)
		}
	}
	if strings.Contains(f.metrics(t), "gangway_panics_total 1") {
		t.Error("there was a panic")
	}
}

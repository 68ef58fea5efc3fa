package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"gangway/hub/api"
	"gangway/internal/brief"
	"gangway/internal/race"
	"gangway/wire"
)

// canary is a word in all of Ada's data that no other owner may ever read.
const canary = "canary-of-ada"

// estate is a scene in which Ada has one of everything that an owner can have, such as a device, a
// join token and a manifest.
type estate struct {
	*contract
	ids      map[string]string // Ada's ids; the key is the kind of thing that an id names
	publicID string
}

func newEstate(t *testing.T) *estate {
	t.Helper()
	c := newContract(t)
	e := &estate{contract: c}
	at := "/devices/" + c.boatID
	put := func(p *person, method, path string, in any) {
		t.Helper()
		if status, body := p.do(method, path, in); status != 200 {
			t.Fatalf("%s %s: %d %s", method, path, status, body)
		}
	}
	meta := map[string]any{canary: canary + "-meta"}
	put(c.ada, "PATCH", at, map[string]string{"nick": "boat-of-ada"})
	put(c.ada, "PUT", at+"/user-meta", meta)
	put(c.boat, "PUT", at+"/device-meta", meta)
	public := c.plain()["id"]
	put(c.ada, "PUT", "/devices/"+public+"/public", nil)
	put(c.ada, "PUT", "/devices/"+public+"/user-meta", meta)
	token := want[api.JoinTokenCreated](c.ada, "POST", "/devices/tokens", map[string]any{"nick": canary, "default-user-meta": meta}, 200)
	sum := upload(c.ada, "/objects", canary+"-object", canary+"-content")
	step := want[api.RevisionView](c.ada, "POST", "/trails/"+c.boatID+"/steps",
		`{"commit-msg":"`+canary+`","meta":{"m":"`+canary+`"},"state":{`+systemSpec+`,"`+canary+`.json":"`+canary+`","f":"`+sum+`"}}`, 200)
	put(c.boat, "PUT", fmt.Sprintf("/trails/%s/steps/%d/progress", c.boatID, step.Rev), `{"status":"DOWNLOADING","status-msg":"`+canary+`"}`)
	put(c.boat, "POST", "/logs", `[{"msg":"`+canary+`","src":"`+canary+`"}]`)
	put(c.ada, "PUT", "/policy", "version: 1\n# "+canary+"\n")
	waiting := c.waiting()["id"] // before the EK list, which refuses machines that are not on it
	put(c.ada, "PUT", "/policy/ek-list", "ek_sha256,note\n"+strings.Repeat("ab", 32)+","+canary+"\n")

	e.publicID = public
	e.secrets["rev"], e.secrets["sha"] = fmt.Sprint(step.Rev), sum
	e.ids = map[string]string{"device": c.boatID, "nick": "boat-of-ada", "token": token.ID, "waiting": waiting, "object": sum}
	return e
}

// volatile matches the parts of answers that change even if the data does not: some JSON fields,
// the times on pages and in exports, the chart of the days' arrivals, which moves at midnight, and the
// wall's mark for a new machine.
var volatile = regexp.MustCompile(`"(last-seen|timestamp|now|expire-time|signed-puturl|signed-geturl|exp|iat|real-ip|next-cursor)":("[^"]*"|[0-9]+)|<time [^>]*>[^<]*</time>|,[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}Z\n|[0-9]{1,2} [A-Z][a-z]+ [0-9]{4}, [0-9:]{8} UTC|at [0-9:]{8} UTC|<rect[^>]*><title>[0-9]+ [A-Z][a-z]+: [0-9]+ devices?</title></rect>|<figcaption><span>[0-9]+ [A-Z][a-z]+</span>|\{"day":"[0-9-]+","n":[0-9]+\}| class="new"`)

// snapshot returns all answers about Ada's data that Ada and her devices get.
func (e *estate) snapshot() map[string]string {
	seen := map[string]string{}
	e.each(func(method, path string, r row) {
		if method != "GET" || r.who == "all" || path == "/auth/login" || path == "/device/boot" || strings.HasSuffix(path, "/blob") {
			return
		}
		for name, p := range map[string]*person{"ada": e.ada, "boat": e.boat} {
			for what, id := range map[string]string{"": e.boatID, "public": e.publicID, "second": e.secondID} {
				_, body := p.do(method, e.at(path, map[string]string{"id": id}), nil)
				seen[name+" "+path+" "+what] = volatile.ReplaceAllString(string(body), "")
			}
		}
	})
	return seen
}

// Mallory, Mallory's device (with its certificate and with its token), a stranger, and an account
// with the role operator call every route with all of Ada's ids. No answer contains Ada's data, and
// Ada's data does not change.
func TestTwoOwnersNeverMeet(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	if testing.Short() {
		t.Skip("three seconds of computing; TestContractAnothersIsNotThere tries every route with another owner's ids")
	}
	e := newEstate(t)
	before := e.snapshot()
	all := strings.Builder{}
	for _, text := range before {
		all.WriteString(text)
	}
	if strings.Count(all.String(), canary) < 30 {
		t.Fatalf("ada sees only %d canaries of hers", strings.Count(all.String(), canary))
	}
	byToken := e.person(t, "")
	byToken.token = want[struct{ Token string }](e.pirate, "POST", "/auth/x509/login", nil, 200).Token
	walkers := map[string]*person{"mallory": e.mallory, "mallory's device": e.pirate, "the device's token": byToken, "a stranger": e.anonymous, "the operator": e.operator(t)}
	ids := []string{e.boatID, e.ids["token"], e.ids["waiting"], e.ids["nick"]}
	reading := true

	var calls atomic.Int64
	call := func(name string, p *person, method, address, body string, r row) (int, []byte) {
		t.Helper()
		calls.Add(1)
		status, answer, h := p.request(method, address, body, header(r))
		if status >= 500 {
			t.Errorf("%s %s as %s: %d %s", method, brief.Of(address), name, status, answer)
		}
		shown := string(answer) + fmt.Sprint(h)
		if strings.Contains(shown, canary) {
			t.Errorf("%s %s as %s: %.300s", method, address, name, shown)
		}
		for _, id := range ids {
			// While callers only read, an answer may contain one of Ada's ids only if the request
			// contained it. Later, Mallory may read the ids that she has written into her own data.
			if reading && strings.Contains(shown, id) && !strings.Contains(address, id) {
				t.Errorf("%s %s as %s shows %s: %.300s", method, address, name, id, shown)
			}
		}
		return status, answer
	}
	walk := func(method, path string, r row) {
		if reading != (method == "GET") {
			return
		}
		if path == "/auth/logout" || path == "/sign-out" || path == "/local-s3/{token}" || path == "/aca/certs/{file}" || strings.HasSuffix(path, "/{code}") {
			return // these routes end the caller's own session, or a secret in the address protects them; AIK certificates are public
		}
		// The test tries each path with each of Ada's ids. A path with the SHA-256 of Ada's object
		// is also tried with the id of Mallory's own trail.
		var paths []map[string]string
		switch {
		case strings.Contains(path, "{id}"):
			for what, id := range e.ids {
				if what != "object" {
					paths = append(paths, map[string]string{"id": id})
				}
			}
			paths = append(paths, map[string]string{"id": e.publicID})
			if strings.Contains(path, "{sha}") {
				paths = append(paths, map[string]string{"id": e.pirateID, "rev": "0"})
			}
		default:
			paths = append(paths, nil)
		}
		fields := map[string]string{"id": e.boatID, "prn": wire.DevicePRN + e.boatID, "device": e.boatID, "owner": wire.AccountPRN + e.Owner.ID, "owner-nick": "ada", "nick": "^boat",
			"dev": e.boatID + "," + wire.DevicePRN + e.boatID + "," + e.ids["nick"], "after": e.ids["device"], "token-id": e.ids["token"], "from": "device:" + e.boatID, "sha256sum": strings.Repeat("cd", 32), "size": "1",
			"filter": `{"deviceid":"` + e.boatID + `"}`, "progress.status": `{"$ne":"x"}`, "cursor": "true"}
		var queries []string
		whole := url.Values{}
		for k, v := range fields {
			queries = append(queries, url.Values{k: {v}}.Encode())
			if k != "filter" && k != "after" {
				whole.Set(k, v)
			}
		}
		queries = append(queries, "", whole.Encode())
		slices.Sort(queries)
		inBody := string(must(json.Marshal(fields))(t))
		visit := func(name string, p *person) {
			for _, values := range paths {
				address := e.at(path, values)
				missing := e.at(path, map[string]string{"id": "ffffffffffffffffffffffff", "sha": strings.Repeat("f", 64), "rev": "0", "owner": "nobody"})
				if values["id"] == e.pirateID {
					missing = e.at(path, map[string]string{"id": e.pirateID, "rev": "0", "sha": strings.Repeat("f", 64)})
				}
				body := r.body
				if r.who == "all" {
					body = inBody
				}
				status, answer := call(name, p, method, address, body, r)
				shown := values["id"] == e.publicID && method == "GET" && (path == "/devices/{id}" || path == "/devices/np/{owner}/{id}")
				if name == "the operator" && strings.HasPrefix(path, "/ui/operator/makers/{") {
					shown = true // the makers' certificates belong to the hub
				}
				if strings.Contains(path, "{") && !shown {
					wanted, there := call(name, p, method, missing, body, r)
					if status < 300 || status != wanted || !bytes.Equal(answer, there) {
						t.Errorf("%s %s as %s: %d %s\nof what is not there: %d %s", method, brief.Of(address), name, status, brief.Of(answer), wanted, brief.Of(there))
					}
				}
				for _, q := range queries {
					if method == "GET" && q != "" {
						call(name, p, method, address+"?"+q, "", r)
					}
				}
				if method != "GET" && r.limit > 0 && !r.text {
					status, answer := call(name, p, method, address, inBody, r)
					if strings.Contains(path, "{id}") && status < 300 && values["id"] != e.pirateID {
						t.Errorf("%s %s as %s with ada's fields: %d %s", method, brief.Of(address), name, status, brief.Of(answer))
					}
				}
			}
		}
		// Requests that only read do not affect each other, so the callers read at the same time.
		var readers sync.WaitGroup
		for name, p := range walkers {
			if reading {
				readers.Go(func() { visit(name, p) })
			} else {
				visit(name, p)
			}
		}
		readers.Wait()
	}
	e.each(walk)
	reading = false
	e.each(walk)
	// These requests are about Mallory's own data, but contain ids of Ada's data.
	own := "/devices/" + e.pirateID
	for _, r := range []struct {
		method, path string
		body         any
	}{
		{"POST", own + "/boot/reference", map[string]string{"from": "device:" + e.boatID}},
		{"POST", own + "/boot/reference", map[string]string{"from": "device:" + e.ids["nick"]}},
		{"PUT", own, map[string]string{"id": e.boatID}},
		{"PUT", own, map[string]string{"owner": wire.AccountPRN + e.Owner.ID}},
		{"PUT", "/devices/" + e.boatID + "?challenge=aaaa-bbbb-cccc", nil},
		{"POST", "/trails/" + e.pirateID + "/steps", `{"state":{` + systemSpec + `,"f":"` + e.ids["object"] + `"}}`},
	} {
		if status, body := e.mallory.do(r.method, r.path, r.body); status < 400 || status >= 500 || bytes.Contains(body, []byte(canary)) {
			t.Errorf("%s %s: %d %s", r.method, r.path, status, body)
		}
	}
	for what, text := range e.snapshot() {
		if text != before[what] {
			same := 0
			for same < min(len(text), len(before[what])) && text[same] == before[what][same] {
				same++
			}
			from := max(0, same-100)
			t.Errorf("%s changed:\n%.300s\n%.300s", what, before[what][from:], text[from:])
		}
	}
	if calls.Load() < 2000 {
		t.Errorf("only %d calls", calls.Load())
	}
	t.Logf("%d calls", calls.Load())
}

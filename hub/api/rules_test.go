package api_test

import (
	"bytes"
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/hubtest"
	"gangway/internal/race"
)

// The tests in this file cover those requirements of Pantacor's clients that no other test covers;
// see docs/pantahub-compat.md.

// Devices search the answer to a sign-in for text that begins with "token", and use the last value
// that they find. So the answer has no field other than "token".
func TestLoginAnswersATokenAlone(t *testing.T) {
	t.Parallel()
	c := newContract(t)
	secret := want[api.SecretView](c.boat, "POST", "/device/secret", nil, 200)
	only := regexp.MustCompile(`^\{"token":"[A-Za-z0-9_.-]+"\}\n$`)
	for name, body := range map[string][]byte{
		"person":      second(c.anonymous.do("POST", "/auth/login", map[string]string{"username": "ada", "password": hubtest.Password})),
		"device":      second(c.anonymous.do("POST", "/auth/login", map[string]string{"username": secret.PRN, "password": secret.Secret})),
		"certificate": second(c.boat.do("POST", "/auth/x509/login", nil)),
		"renewed":     second(c.ada.do("GET", "/auth/login", nil)),
	} {
		if !only.Match(body) {
			t.Errorf("%s: %s", name, brief.Of(body))
		}
	}
}

func second(_ int, body []byte) []byte { return body }

// Devices have a buffer of 1016 bytes for an access token, and one of 66 bytes for a join token.
// The hub's tokens fit into them.
func TestTokensFitDevices(t *testing.T) {
	t.Parallel()
	c := newContract(t)
	want[map[string]any](c.ada, "PATCH", "/devices/"+c.boatID, map[string]string{"nick": strings.Repeat("n", 64)}, 200)
	token := want[struct{ Token string }](c.boat, "POST", "/auth/x509/login", nil, 200).Token
	if len(token) > 1016 {
		t.Errorf("a device's token has %d bytes", len(token))
	}
	join := want[api.JoinTokenCreated](c.ada, "POST", "/devices/tokens", map[string]any{"without-tpm": true, "nick": strings.Repeat("n", 64)}, 200)
	if n := len(join.Token); n == 0 || n > 66 {
		t.Errorf("a join token has %d characters", n)
	}
}

// Devices search a body for the first "KEY" in quotes, which may be inside a value that an owner
// wrote. So the hub writes its own fields before user-meta, always in the same order.
func TestDeviceRecordsComeInOrder(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Policy(t, store.HubWide, hubtest.LabPolicy+"without_tpm: accept\n")
	ada := s.person(t, "ada")
	hostile := map[string]any{"id": "x", "prn": "x", "secret": "x", "owner": "x", "a": "secret", "b": "owner", "challenge": "x"}
	made := second(ada.do("POST", "/devices", map[string]any{"user-meta": hostile}))
	var d api.Registered
	if err := json.Unmarshal(made, &d); err != nil {
		t.Fatal(err)
	}
	device := s.person(t, "")
	device.token = want[struct{ Token string }](device, "POST", "/auth/login", map[string]string{"username": d.PRN, "password": d.Secret}, 200).Token
	for name, c := range map[string]struct {
		body []byte
		keys []string
	}{
		"registration": {made, []string{"id", "prn", "secret", "owner"}},
		"record":       {second(device.do("GET", "/devices/"+d.ID, nil)), []string{"id", "prn", "owner"}},
	} {
		var before []int
		for _, key := range append(c.keys, "user-meta") {
			at := bytes.Index(c.body, []byte(`"`+key+`"`))
			if at < 0 || !bytes.HasPrefix(c.body[at+len(key)+2:], []byte(":")) {
				t.Fatalf("%s: the first %q is not a key in %s", name, key, brief.Of(c.body))
			}
			before = append(before, at)
		}
		if !slices.IsSorted(before) {
			t.Errorf("%s: %s", name, brief.Of(c.body))
		}
	}
}

// Devices drop the query of a URL, and accept only https. So the URLs of objects are https URLs
// without a query.
func TestAddressIsInThePath(t *testing.T) {
	t.Parallel()
	c := newContract(t)
	o := want[api.ObjectView](c.boat, "GET", "/objects/"+c.contentSum, nil, 200)
	for _, address := range []string{o.GetURL, o.PutURL} {
		u := must(url.Parse(address))(t)
		if u.Scheme != "https" || !strings.HasPrefix(u.Path, "/local-s3/") || u.RawQuery != "" || strings.Count(u.Path, "/") != 2 || strings.Contains(address, `\`) {
			t.Errorf("%s", address)
		}
	}
}

// Devices do not follow redirects, so each collection answers both with and without a trailing
// slash.
func TestCollectionsTakeATrailingSlash(t *testing.T) {
	t.Parallel()
	c := newContract(t)
	for _, route := range []string{"/devices", "/devices/tokens", "/objects", "/logs", "/trails", "/trails/" + c.boatID + "/steps", "/trails/" + c.boatID + "/steps/1/objects"} {
		for _, method := range []string{"GET", "POST"} {
			p := c.ada
			if method == "POST" && (route == "/logs" || route == "/trails") {
				p = c.boat
			}
			for _, body := range []string{"{", `{}`} {
				with, _ := p.do(method, route+"/", body)
				without, _ := p.do(method, route, body)
				if with != without || with/100 == 3 || with == 404 || with == 405 {
					t.Errorf("%s %s: %d, with a slash %d", method, route, without, with)
				}
			}
		}
	}
}

// A page of another site cannot read any answer of the hub. The test sends both a simple request
// and a request with a CORS preflight.
func TestNoOtherSiteReadsAnAnswer(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	c := newContract(t)
	c.each(func(method, path string, r row) {
		if path == "/auth/logout" {
			return
		}
		for _, m := range []string{method, "OPTIONS"} {
			status, _, h := c.ada.request(m, c.at(path, nil), r.body, map[string]string{"Origin": "https://elsewhere.example", "Access-Control-Request-Method": method})
			for name := range h {
				if strings.HasPrefix(name, "Access-Control-") {
					t.Errorf("%s %s: %s", m, path, name)
				}
			}
			if m == "OPTIONS" && status < 400 || m != "GET" && m != "OPTIONS" && status != 403 {
				t.Errorf("%s %s: %d", m, path, status)
			}
		}
	})
}

// Dots in metadata keys have no special meaning, even in a patch.
func TestMetaKeysKeepTheirDots(t *testing.T) {
	t.Parallel()
	c := newContract(t)
	at := "/devices/" + c.boatID
	const text = `{"a.b":{"c.d":"e"},"pantavisor.version":"1"}`
	for _, r := range []struct {
		p            *person
		method, meta string
	}{{c.ada, "PUT", "/user-meta"}, {c.ada, "PATCH", "/user-meta"}, {c.boat, "PUT", "/device-meta"}, {c.boat, "PATCH", "/device-meta"}} {
		want[map[string]any](r.p, r.method, at+r.meta, text, 200)
		if _, got := c.boat.do("GET", at+r.meta, nil); strings.TrimSpace(string(got)) != text {
			t.Errorf("%s %s: %s", r.method, r.meta, got)
		}
	}
}

// A renewed token has the same scopes, whatever the request asks for.
func TestRenewedTokenHasNoMoreScopes(t *testing.T) {
	t.Parallel()
	c := newContract(t)
	p := c.person(t, "")
	p.token = signInFor(c.ada, "devices.readonly")
	p.token = want[struct{ Token string }](p, "GET", "/auth/login?scope=all", `{"scope":"all"}`, 200).Token
	want[[]api.DeviceView](p, "GET", "/devices", nil, 200)
	for _, r := range [][2]string{{"POST", "/devices"}, {"POST", "/devices/tokens"}, {"GET", "/trails"}, {"GET", "/policy"}} {
		if status, body := p.do(r[0], r[1], nil); status != 403 {
			t.Errorf("%s %s: %d %s", r[0], r[1], status, body)
		}
	}
}

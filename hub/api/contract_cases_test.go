package api_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"gangway/internal/brief"
	"gangway/internal/race"
)

// If a caller may use a route, the caller can send any content type, because Pantacor's clients
// send unusual content types.
func TestContractAllowed(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	c := newContract(t)
	c.each(func(method, path string, r row) {
		for _, contentType := range []string{"", "text/plain; charset=utf-8"} {
			if r.form && contentType != "" || path == "/auth/logout" && contentType != "" {
				continue
			}
			values := r.values(c)
			body := cmp.Or(values["body"], r.body)
			h := header(r)
			if contentType != "" {
				h = map[string]string{"Content-Type": contentType}
			}
			p := c.caller(r)
			if path == "/auth/logout" {
				p = c.person(t, "ada")
			}
			wanted := r.status
			if wanted == 0 {
				wanted = 200
			}
			status, answer, _ := p.request(method, c.at(path, values), body, h)
			if status != wanted {
				t.Errorf("%s %s (%s): %d, not %d: %.300s", method, path, contentType, status, wanted, answer)
			}
		}
	})
}

// A caller who is not signed in gets a 401 that says where to sign in.
func TestContractNotSignedIn(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	c := newContract(t)
	c.each(func(method, path string, r row) {
		if r.who == "all" || r.public {
			return
		}
		bearers := map[string]string{"none": "", "garbage": "Bearer garbage", "empty": "Bearer ", "expired": "Bearer " + c.expired, "another key": "Bearer " + c.forged, "basic": "Basic YWRhOmFkYQ=="}
		switch r.who {
		case "owner", "self", "operator":
			bearers["a device's"] = "Bearer " + c.byDevice
		case "device", "chip":
			bearers["a person's"] = "Bearer " + c.ada.token
		}
		for name, value := range bearers {
			h := header(r)
			if h == nil {
				h = map[string]string{}
			}
			if value != "" {
				h["Authorization"] = value
			}
			status, body, got := c.anonymous.request(method, c.at(path, nil), r.body, h)
			isProblem(t, method+" "+path+" with "+name, status, body, got, 401)
		}
		if r.who == "owner" || r.who == "operator" || r.who == "caller" {
			status, body, got := c.anonymous.request(method, c.at(path, nil), r.body, map[string]string{"Authorization": "Bearer " + c.narrowed})
			isProblem(t, method+" "+path+" with another scope", status, body, got, 403)
		}
	})
}

// If a caller sends the id of a device, a token or an object that belongs to another owner, the
// answer has the same bytes as the answer for an id that does not exist.
func TestContractAnothersIsNotThere(t *testing.T) {
	t.Parallel()
	c := newContract(t)
	nothing := []map[string]string{
		{"id": strings.Repeat("0", 24), "rev": "0", "sha": strings.Repeat("0", 64), "owner": "nobody", "file": strings.Repeat("0", 24) + ".crt", "token": "AAAA", "code": "AAAA"},
		{"id": "nothing", "rev": "99", "sha": "x", "owner": "ada", "file": "x", "token": "%41", "code": "%41"},
	}
	c.each(func(method, path string, r row) {
		if !strings.Contains(path, "{") || r.who == "operator" { // no owner owns the data that the operator's routes name
			return
		}
		wanted := r.other
		if wanted == 0 {
			wanted = 404
		}
		p := c.caller(r)
		var missing []byte
		for _, values := range nothing {
			status, body, h := p.request(method, c.at(path, values), r.body, header(r))
			isProblem(t, method+" "+path+" of what is missing", status, body, h, wanted)
			if missing == nil {
				missing = body
			}
		}
		if r.who == "all" {
			return
		}
		values := r.values(c)
		for name, other := range map[string]*person{"another owner": c.mallory, "another's device": c.pirate, "the owner's other device": c.second} {
			mayAsk := name == "another owner" && r.who != "device" && r.who != "chip" || name != "another owner" && r.who != "owner" && r.who != "self"
			if strings.HasPrefix(path, "/objects/") && name == "the owner's other device" {
				continue // a device may read any object of its owner
			}
			status, body, h := other.request(method, c.at(path, values), r.body, header(r))
			if !mayAsk {
				isProblem(t, method+" "+path+" as "+name, status, body, h, 401)
				continue
			}
			isProblem(t, method+" "+path+" as "+name, status, body, h, wanted)
			if !bytes.Equal(body, missing) {
				t.Errorf("%s %s as %s: another owner's id and an unknown id have different answers:\n%s\n%s", method, path, name, body, brief.Of(missing))
			}
		}
	})
}

// malformed lists bodies that every route with a JSON object as its body must refuse.
var malformed = []string{"", " ", "null", "[]", "1", `"x"`, "true", "{", `{"a":`, `{"a":1}}`, `{"a":1}{}`, "\xff\xfe", "\x00", `{"a":"` + "\x00" + `"}`, `{'a':1}`, `{"a":1,}`, "[[" + strings.Repeat("[", 12000),
	`{"a":` + strings.Repeat("[", 12000) + strings.Repeat("]", 12000) + `}`, `{"a":` + strings.Repeat(`{"a":`, 12000)}

// Every route with a JSON body refuses each malformed body.
func TestContractMalformed(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	c := newContract(t)
	c.each(func(method, path string, r row) {
		if r.body == "" && r.before == nil || r.text && !strings.HasPrefix(path, "/onboard") || r.form {
			return
		}
		values := r.values(c)
		if _, own := values["body"]; r.body == "" && !own {
			return
		}
		for _, body := range malformed {
			if strings.HasPrefix(path, "/logs") && body == "[]" || strings.HasPrefix(path, "/devices") && (path == "/devices" || path == "/devices/" || strings.HasPrefix(path, "/devices/tokens")) && body == "" || path == "/logs/cursor" && body == "null" {
				continue // these routes accept this body
			}
			status, answer, h := c.caller(r).request(method, c.at(path, values), body, nil)
			isProblem(t, method+" "+path+" of "+cut(body), status, answer, h, 400)
		}
	})
}

func cut(s string) string { return s[:min(len(s), 40)] }

// Every route refuses a body of twice its limit, with and without a Content-Length.
func TestContractTooLarge(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	c := newContract(t)
	c.each(func(method, path string, r row) {
		if r.limit == 0 {
			return
		}
		values := r.values(c)
		large := `{"a":"` + strings.Repeat("x", 2*r.limit) + `"}`
		if r.form {
			large = "id=" + large
		}
		for _, chunked := range []bool{false, true} {
			req := must(http.NewRequestWithContext(t.Context(), method, c.URL+c.at(path, values), strings.NewReader(large)))(t)
			if chunked {
				req.Body, req.ContentLength = http.NoBody, -1
				req.Body = &slowBody{strings.NewReader(large)}
			}
			p := c.caller(r)
			for k, v := range header(r) {
				req.Header.Set(k, v)
			}
			if p.token != "" {
				req.Header.Set("Authorization", "Bearer "+p.token)
			}
			resp, err := p.client.Do(req)
			if err != nil {
				// The hub may answer and close the connection before it has read the whole body.
				if !strings.Contains(err.Error(), "broken pipe") && !strings.Contains(err.Error(), "reset") && !strings.Contains(err.Error(), "closed") {
					t.Errorf("%s %s: %v", method, path, err)
				}
				continue
			}
			var b bytes.Buffer
			b.ReadFrom(resp.Body)
			resp.Body.Close()
			statuses := []int{413}
			if strings.HasPrefix(path, "/local-s3") {
				statuses = []int{400}
			}
			isProblem(t, method+" "+path+" with too much", resp.StatusCode, b.Bytes(), resp.Header, statuses...)
		}
	})
}

type slowBody struct{ r *strings.Reader }

func (b *slowBody) Read(p []byte) (int, error) { return b.r.Read(p) }
func (b *slowBody) Close() error               { return nil }

// If a path exists but does not allow the request's method, the answer is 405. The Allow header has
// the methods that the path allows.
func TestContractWrongMethod(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	c := newContract(t)
	has := map[string][]string{}
	for _, route := range c.routes {
		method, path, _ := strings.Cut(route, " ")
		at := c.at(path, nil)
		has[at] = append(has[at], method)
		if method == "GET" {
			has[at] = append(has[at], "HEAD")
		}
	}
	for path, methods := range has {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"} {
			if slices.Contains(methods, method) || method == "DELETE" && path == "/devices/register" || method == "DELETE" && strings.HasPrefix(path, "/devices/tokens/") {
				continue
			}
			// The route /devices/{id} matches these paths too, and allows more methods.
			if strings.Count(path, "/") == 2 && strings.HasPrefix(path, "/devices/") || strings.HasPrefix(path, "/trails/summary") || strings.HasPrefix(path, "/devices/np/") {
				continue
			}
			status, body, h := c.ada.request(method, path, nil, nil)
			isProblem(t, method+" "+path, status, body, h, 405)
			allow := strings.Split(h.Get("Allow"), ", ")
			for _, m := range methods {
				if !slices.Contains(allow, m) {
					t.Errorf("%s %s: Allow is %q and lacks %s", method, path, h.Get("Allow"), m)
				}
			}
		}
	}
	status, body, h := c.ada.request("GET", "/nothing/of/this", nil, nil)
	isProblem(t, "no address", status, body, h, 404)
}

// The test sends a value of each wrong type in each field. The hub refuses or ignores the value,
// and never answers 5xx. With -short only every third case runs, so that each type is still sent in
// some fields.
func TestContractWrongTypes(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	c := newContract(t)
	wrong := []string{"null", "true", "[]", "[null]", "{}", `""`, `"\u0000"`, "\"\xff\"", "-1", "1.5", "1e999", "123456789012345678901234567890", `"` + strings.Repeat("x", 5000) + `"`, strings.Repeat("[", 2000) + strings.Repeat("]", 2000)}
	cases := 0
	c.each(func(method, path string, r row) {
		if r.limit == 0 || r.text || r.form {
			return
		}
		values := r.values(c)
		body := cmp.Or(values["body"], r.body)
		var fields map[string]json.RawMessage
		if json.Unmarshal([]byte(body), &fields) != nil {
			return // an array: TestLogsOfOthersMachinesAreRead
		}
		for _, name := range slices.Sorted(maps.Keys(fields)) {
			for _, v := range wrong {
				for _, altered := range []string{
					strings.Replace(body, string(fields[name]), v, 1),
					`{"` + name + `":` + v + `,` + body[1:], // the field twice
				} {
					if cases++; testing.Short() && cases%3 != 0 {
						continue
					}
					status, answer, h := c.caller(r).request(method, c.at(path, values), altered, nil)
					if status < 400 || status == 409 && h.Get("Pantahub-Object-Type") != "" {
						continue
					}
					isProblem(t, method+" "+path+" of "+cut(altered), status, answer, h)
				}
			}
		}
	})
	if !strings.Contains(c.metrics(t), "gangway_panics_total 0") {
		t.Error("there was a panic")
	}
}

package api_test

import (
	"fmt"
	"strings"
	"testing"

	"gangway/hub/api"
)

// trailAnswers calls the routes of trails, objects and logs for `TestAnswersAreAsTheDocumentSays`.
func trailAnswers(t *testing.T, ada, stranger, boat *person, id string, check func(method, route string, status int, contentType string, body []byte)) {
	rev, sum, token := "0", sumOf([]byte("content")), "nothing"
	call := func(p *person, method, route string, in any, want int) {
		t.Helper()
		path, query, _ := strings.Cut(route, "?")
		address := strings.NewReplacer("{id}", id, "{rev}", rev, "{sha}", sum, "{token}", token).Replace(path)
		if query != "" {
			address += "?" + query
		}
		status, body, h := p.request(method, address, in, nil)
		if status != want {
			t.Errorf("%s %s: %d, want %d: %.300s", method, route, status, want, body)
		}
		check(method, path, status, h.Get("Content-Type"), body)
	}
	const step = "/trails/{id}/steps/{rev}"
	state := `{` + systemSpec + `}`
	large := `{` + systemSpec + `,"a.json":"` + strings.Repeat("x", 2<<20) + `"}`

	call(boat, "GET", "/trails", nil, 200)
	call(boat, "POST", "/trails", "[]", 400)
	call(boat, "POST", "/trails", large, 413)
	call(boat, "POST", "/trails", state, 200)
	call(ada, "POST", "/trails", state, 401)
	call(boat, "GET", "/trails", nil, 200)
	call(ada, "GET", "/trails", nil, 200)
	call(ada, "GET", "/trails?limit=0", nil, 400)
	call(ada, "GET", "/trails/summary", nil, 200)
	call(ada, "GET", "/trails/summary?sort=x", nil, 400)

	object := map[string]any{"sha256sum": sum, "size": "7", "objectname": "n"}
	for _, route := range []string{"/objects", step + "/objects"} {
		call(ada, "POST", route, object, 200)
		call(ada, "POST", route, map[string]any{"sha256sum": "x"}, 400)
		call(ada, "POST", route, map[string]any{"sha256sum": sum, "size": "7", "objectname": strings.Repeat("x", 70<<10)}, 413)
		call(stranger, "POST", route, object, 401)
	}
	call(ada, "GET", "/objects/{sha}", nil, 404)
	o := want[api.ObjectView](ada, "POST", "/objects", object, 200)
	_, token, _ = strings.Cut(o.PutURL, "/local-s3/")
	call(stranger, "PATCH", "/local-s3/{token}", "content", 400)
	call(stranger, "PUT", "/local-s3/{token}", "contend", 400)
	call(stranger, "PUT", "/local-s3/{token}", "content", 200)
	call(stranger, "GET", "/local-s3/{token}", nil, 404)
	_, token, _ = strings.Cut(o.GetURL, "/local-s3/")
	call(stranger, "GET", "/local-s3/{token}", nil, 200)
	call(stranger, "PUT", "/local-s3/{token}", "content", 404)
	for _, r := range []struct {
		ranged string
		status int
	}{{"bytes=1-2", 206}, {"bytes=99-", 416}} {
		status, body, h := stranger.request("GET", "/local-s3/"+token, nil, map[string]string{"Range": r.ranged})
		if status != r.status {
			t.Errorf("%s: %d", r.ranged, status)
		}
		check("GET", "/local-s3/{token}", status, h.Get("Content-Type"), body)
	}
	call(ada, "POST", "/objects", object, 409)
	call(ada, "POST", step+"/objects", object, 409)
	call(ada, "GET", "/objects", nil, 200)
	call(ada, "GET", "/objects?after=x", nil, 400)
	call(boat, "GET", "/objects/{sha}", nil, 200)

	good := `{"state":{` + systemSpec + `,"k":"` + sum + `"},"meta":{"a":1}}`
	call(ada, "POST", "/trails/{id}/steps", good, 200)
	call(boat, "POST", "/trails/{id}/steps", good, 200)
	call(ada, "POST", "/trails/{id}/steps", `{"state":`+large+`}`, 413)
	call(ada, "POST", "/trails/{id}/steps", `{"state":`+state+`,"rev":9}`, 409)
	call(ada, "POST", "/trails/{id}/steps", `{"state":{}}`, 400)
	call(ada, "GET", "/trails/{id}/steps", nil, 200)
	call(boat, "GET", "/trails/{id}/steps", nil, 200)
	call(ada, "GET", "/trails/{id}/steps?after=x", nil, 400)
	rev = "1"
	call(ada, "PUT", step+"/state", good, 400)
	call(ada, "PUT", step+"/state", large, 413)
	call(ada, "PUT", step+"/state", `{`+systemSpec+`,"k":"`+sum+`"}`, 200)
	call(ada, "PUT", step+"/meta", "{}", 200)
	call(ada, "PUT", step+"/meta", "[]", 400)
	call(ada, "PUT", step+"/meta", large, 413)
	call(ada, "PUT", step+"/wontgo", nil, 400)
	call(boat, "PUT", step+"/progress", `{"status":"INPROGRESS","x":[1]}`, 200)
	call(boat, "PUT", step+"/progress", `{}`, 400)
	call(boat, "PUT", step+"/progress", large, 413)
	call(ada, "PUT", step+"/cancel", nil, 400)
	call(ada, "PUT", step+"/wontgo", nil, 200)
	call(boat, "PUT", step+"/progress", `{"status":"DONE"}`, 409)
	call(ada, "PUT", step+"/state", state, 409)
	call(ada, "GET", step+"/objects/{sha}/blob", nil, 302)
	gets := []string{"/trails/{id}", "/trails/{id}/summary", "/trails/{id}/.pvrremote", "/trails/{id}/steps", step, step + "/.pvrremote", step + "/state", step + "/meta", step + "/objects", step + "/objects/{sha}"}
	for _, route := range gets {
		call(ada, "GET", route, nil, 200)
		call(boat, "GET", route, nil, 200)
	}
	rev = "2"
	call(ada, "PUT", step+"/cancel", nil, 200)

	call(boat, "POST", "/logs", `[{"msg":"m","tsec":1,"rev":"1"}]`, 200)
	call(boat, "POST", "/logs", `[1]`, 400)
	call(boat, "POST", "/logs", large, 413)
	call(ada, "GET", "/logs?cursor=true", nil, 200)
	call(ada, "GET", "/logs?page=x", nil, 400)
	call(ada, "POST", "/logs/cursor", map[string]string{"next-cursor": "x"}, 200)
	call(ada, "POST", "/logs/cursor", "[]", 400)
	call(ada, "POST", "/logs/cursor", fmt.Sprintf(`{"next-cursor":%q}`, strings.Repeat("x", 70<<10)), 413)

	// These calls use ids that do not exist, or a caller without credentials.
	there := id
	for _, who := range []struct {
		p    *person
		want int
	}{{ada, 404}, {boat, 404}, {stranger, 401}} {
		id = "nothing"
		for _, route := range append(gets, step+"/objects/{sha}/blob") {
			call(who.p, "GET", route, nil, who.want)
		}
		call(who.p, "POST", "/trails/{id}/steps", good, who.want)
		call(who.p, "PUT", step+"/state", state, who.want)
		call(who.p, "POST", step+"/objects", object, who.want)
		if who.p != boat {
			for _, route := range []string{"/cancel", "/wontgo", "/meta"} {
				call(who.p, "PUT", step+route, "{}", who.want)
			}
		}
		if who.p != ada {
			call(who.p, "PUT", step+"/progress", `{"status":"DONE"}`, who.want)
		}
		id = there
	}
	for _, r := range []string{"POST /trails", "GET /trails", "GET /trails/summary", "GET /objects", "GET /objects/{sha}", "POST /logs", "GET /logs", "POST /logs/cursor"} {
		method, route, _ := strings.Cut(r, " ")
		call(stranger, method, route, "{}", 401)
	}
}

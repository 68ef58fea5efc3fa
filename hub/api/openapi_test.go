package api_test

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/hub/ui"
	"gangway/internal/brief"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
	"gangway/internal/race"
	"gangway/wire"
)

// openapi.json lists every route of the hub, and no other routes.
func TestOpenAPIDescribesEveryRoute(t *testing.T) {
	var routes []string
	for _, r := range api.Routes() {
		if !isPage(r.Path) {
			routes = append(routes, r.Method+" "+r.Path)
		}
	}
	_, body := newScene(t).person(t, "").do("GET", "/openapi.json", nil)
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			Summary   string
			Responses map[string]any
		}
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		t.Fatal(err)
	}
	var documented []string
	for path, ops := range doc.Paths {
		for method, op := range ops {
			documented = append(documented, strings.ToUpper(method)+" "+path)
			if op.Summary == "" || len(op.Responses) == 0 {
				t.Errorf("openapi.json: %s %s has no summary or no responses", method, path)
			}
		}
	}
	for _, r := range routes {
		if !slices.Contains(documented, r) {
			t.Errorf("%s is not in the document", r)
		}
	}
	for _, d := range documented {
		if !slices.Contains(routes, d) {
			t.Errorf("openapi.json has %s, which is not a route", d)
		}
	}
	for _, m := range regexp.MustCompile(`#/components/schemas/(\w+)`).FindAllSubmatch(body, -1) {
		if doc.Components.Schemas[string(m[1])] == nil {
			t.Errorf("schema %s is not there", brief.Of(m[1]))
		}
	}
}

// For each route, openapi.json and the code name the same callers.
func TestOpenAPISaysWhoMayCall(t *testing.T) {
	doc := readOpenAPI(t, newScene(t))
	schemes := map[string]string{
		"anyone": "", "visitor": "", "fullVisitor": "", "registrant": "", "urlHolder": "",
		"scopedAccount": "session", "anySignIn": "session", "anySession": "session", "fullSession": "session", "operator": "session", "accountOrDevice": "idevid|session",
		"activeDevice": "idevid", "tlsDevice": "idevid", "unmeasuredDevice": "idevid", "pendingDevice": "idevid",
	}
	seen := map[string]int{}
	for _, route := range api.Routes() {
		method, path := route.Method, route.Path
		if isPage(path) {
			continue
		}
		op, ok := doc.Paths[path][strings.ToLower(method)]
		if !ok {
			t.Errorf("openapi.json lacks %s %s", method, path)
			continue
		}
		want, ok := schemes[route.Access]
		if !ok {
			t.Fatalf("%s %s: unknown access %q", method, path, route.Access)
		}
		seen[want]++
		var alternatives []string
		for _, alternative := range op.Security {
			alternatives = append(alternatives, strings.Join(slices.Sorted(maps.Keys(alternative)), "+"))
		}
		slices.Sort(alternatives)
		got := strings.Join(alternatives, "|")
		if got != want {
			t.Errorf("%s %s: security is %q in openapi.json and %q in the code", method, path, got, want)
		}
		if _, says := op.Responses["401"]; want != "" && !says {
			t.Errorf("%s %s: openapi.json has no 401", method, path)
		}
		if _, says := op.Responses["403"]; !says && slices.Contains([]string{"scopedAccount", "accountOrDevice", "fullSession"}, route.Access) {
			t.Errorf("%s %s: the document does not say that a token's scopes may not be enough", method, path)
		}
		limited := route.Rate != ""
		if _, says := op.Responses["429"]; limited != says {
			t.Errorf("%s %s: openapi.json and the code differ about 429", method, path)
		}
	}
	if seen["session"] < 10 || seen["idevid"] < 6 || seen["idevid|session"] < 15 || seen[""] < 8 {
		t.Errorf("the routes are not counted as expected: %v", seen)
	}
}

// The hub's answers have the status, the content type and exactly the fields in openapi.json. The
// test checks successful answers and errors.
func TestAnswersAreAsTheDocumentSays(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	s := newScene(t)
	doc := readOpenAPI(t, s)
	answered := map[string]bool{}
	check := func(method, route string, status int, contentType string, body []byte) {
		t.Helper()
		if isPage(route) {
			return
		}
		answered[method+" "+route] = true
		what := fmt.Sprintf("%s %s: %d", method, route, status)
		r, ok := doc.Paths[route][strings.ToLower(method)].Responses[fmt.Sprint(status)]
		if !ok {
			t.Errorf("openapi.json lacks %s: %s", what, brief.Of(body))
			return
		}
		contentType, _, _ = strings.Cut(contentType, ";")
		if len(r.Content) == 0 {
			return // a redirect
		}
		media, ok := r.Content[contentType]
		if !ok {
			t.Errorf("%s: content type %q is not in openapi.json", what, contentType)
			return
		}
		if contentType != "application/json" {
			return
		}
		var v any
		if err := json.Unmarshal(body, &v); err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		for _, problem := range doc.mismatches(media.Schema, v, "") {
			t.Errorf("%s: %s in %s", what, problem, brief.Of(body))
		}
	}
	call := func(p *person, method, route, id string, in any, want int) []byte {
		t.Helper()
		path, query, _ := strings.Cut(route, "?")
		address := strings.NewReplacer("{id}", id, "{file}", id, "{code}", id, "{part}", "keys", "{value}", id).Replace(path)
		if query != "" {
			address += "?" + query
		}
		header := map[string]string{}
		if path == "/sign-in" || strings.HasPrefix(path, "/ui/") || path == "/claim/{code}" {
			header["Content-Type"] = "application/x-www-form-urlencoded"
		}
		status, body, h := p.request(method, address, in, header)
		if status != want {
			t.Errorf("%s %s: %d, want %d: %s", method, route, status, want, body)
		}
		check(method, path, status, h.Get("Content-Type"), body)
		return body
	}
	ada, stranger := s.person(t, "ada"), s.person(t, "")
	large := `{"nick":"` + strings.Repeat("a", 70<<10) + `"}`

	for _, path := range []string{"/healthz", "/readyz", "/openapi.json", "/hub-ca.pem", "/sign-in"} {
		call(stranger, "GET", path, "", nil, 200)
	}
	// Requests that the hub refuses, because they are malformed or have no credentials.
	call(stranger, "POST", "/onboard", "", "nonsense", 400)
	call(stranger, "POST", "/onboard", "", strings.Repeat("a", 300<<10), 413)
	call(stranger, "POST", "/onboard/activate", "", "{}", 401)
	call(stranger, "GET", "/device", "", nil, 401)
	call(stranger, "PATCH", "/device/meta", "", "{}", 401)
	call(stranger, "GET", "/aca/certs/{file}", "000b.crt", nil, 404)

	// A device onboards and reports.
	request := must(s.victim.Request(s.tok, fleet.RequestChange{}))(t)
	reply := call(stranger, "POST", "/onboard", "", string(request), 200)
	certs := must(s.victim.Open(request, reply))(t)
	device := func(method, path, body string, want int) {
		t.Helper()
		cert := certs.TLS(s.victim)
		c := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.client.Roots, Certificates: []tls.Certificate{cert}}}}
		defer c.CloseIdleConnections()
		resp := must(c.Do(must(http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body)))(t)))(t)
		defer resp.Body.Close()
		b := must(io.ReadAll(resp.Body))(t)
		if resp.StatusCode != want {
			t.Errorf("%s %s: %d, want %d: %s", method, path, resp.StatusCode, want, brief.Of(b))
		}
		check(method, path, resp.StatusCode, resp.Header.Get("Content-Type"), b)
	}
	device("GET", "/device", "", 403)
	device("POST", "/onboard/activate", "nonsense", 400)
	device("POST", "/onboard/activate", `{"proof":"AAAA"}`, 403)
	device("POST", "/onboard/activate", `{"proof":"`+strings.Repeat("A", 70<<10)+`"}`, 413)
	activated := must(s.victim.Activate(t.Context(), s.client, certs))(t)
	check("POST", "/onboard/activate", activated.Status, "application/json", activated.Body)
	device("GET", "/device", "", 200)
	device("PATCH", "/device/meta", `{"kernel":"6.12","nested":{"id":1}}`, 200)
	device("PATCH", "/device/meta", "[]", 400)
	device("PATCH", "/device/meta", large, 413)
	device("PUT", "/device/secret", `{"secret":"a guess"}`, 409)
	device("POST", "/device/secret", "", 200)
	device("PUT", "/device/secret", `{"secret":"a guess"}`, 409)
	device("PUT", "/device/secret", `[`, 400)
	device("PUT", "/device/secret", large, 413)
	call(stranger, "PUT", "/device/secret", "", `{"secret":""}`, 401)
	device("POST", "/auth/x509/login", "", 200)
	call(stranger, "POST", "/device/secret", "", nil, 401)
	call(stranger, "POST", "/auth/x509/login", "", nil, 401)
	id := s.deviceOf(t, s.victim)
	call(stranger, "GET", "/aca/certs/{file}", hex.EncodeToString(s.victim.IAK.Name())+".crt", nil, 200)

	// A device onboards with the two-step enrolment.
	pan := s.Token(t, s.Owner, func(t *store.JoinToken) { t.ForPantacor = true })
	stepper := s.device(t)
	first := must(json.Marshal(stepper.EnrollRequest()))(t)
	enrolled := must(stepper.OpenEnrolled(call(stranger, "POST", "/enroll/request", "", string(first), 200)))(t)
	undecided := s.uncertified(t)
	toDecide := must(undecided.OpenEnrolled(call(stranger, "POST", "/enroll/request", "", string(must(json.Marshal(undecided.EnrollRequest()))(t)), 200)))(t)
	bad := stepper.EnrollRequest()
	bad.EKCert = s.victim.TPMKeys().EKCert
	call(stranger, "POST", "/enroll/request", "", bad, 403)
	call(stranger, "POST", "/enroll/request", "", "nonsense", 400)
	call(stranger, "POST", "/enroll/request", "", large, 413)
	s.Account(t, "bob")
	bobs := s.Token(t, must(s.Store.AccountByNickOrEmail(t.Context(), "bob"))(t), func(t *store.JoinToken) { t.ForPantacor = true })
	second := string(must(stepper.Registration(pan, enrolled.Keys, fleet.RegistrationChange{}))(t))
	for _, route := range []string{"/register", "/devices/register"} {
		call(stranger, "POST", route, "", second, 200)
		call(stranger, "POST", route, "", string(must(undecided.Registration(bobs, toDecide.Keys, fleet.RegistrationChange{}))(t)), 202)
		call(stranger, "POST", route, "", "nonsense", 400)
		call(stranger, "POST", route, "", string(must(stepper.Registration(s.tok, enrolled.Keys, fleet.RegistrationChange{}))(t)), 403)
		call(stranger, "POST", route, "", string(must(stepper.Registration(bobs, enrolled.Keys, fleet.RegistrationChange{}))(t)), 409)
		call(stranger, "POST", route, "", large, 413)
	}
	stepperID := s.deviceOf(t, stepper)
	call(stranger, "GET", "/aca/certs/{file}", stepperID+".crt", nil, 404)
	call(ada, "GET", "/aca/certs/{file}", stepperID+".crt", nil, 200)
	call(ada, "GET", "/devices/{id}/evidence", stepperID, nil, 200)
	call(ada, "DELETE", "/devices/{id}", stepperID, nil, 200)
	call(stranger, "POST", "/register", "", second, 410)
	question := map[string]any{"token-id": pan.ID, "owner": pan.Owner, "idevid-name": "n", "signature": wire.OwnershipMAC(sha256.Sum256(must(pan.Secret())(t)), "n")}
	call(stranger, "POST", "/auth/signature/verify", "", question, 200)
	call(stranger, "POST", "/auth/signature/verify", "", "{}", 400)
	call(stranger, "POST", "/auth/signature/verify", "", large, 413)

	// Requests of Pantacor's programs about devices.
	huge := `{"a":"` + strings.Repeat("a", 300<<10) + `"}`
	for _, which := range []string{"user-meta", "device-meta"} {
		route := "/devices/{id}/" + which
		call(ada, "GET", route, id, nil, 200)
		call(ada, "GET", route, "nothing", nil, 404)
		call(stranger, "GET", route, id, nil, 401)
	}
	call(ada, "PUT", "/devices/{id}/user-meta", id, map[string]any{"a": "b", "gone": nil}, 200)
	call(ada, "PUT", "/devices/{id}/user-meta", id, "[]", 400)
	call(ada, "PUT", "/devices/{id}/user-meta", id, huge, 413)
	call(ada, "PUT", "/devices/{id}/user-meta", "nothing", "{}", 404)
	call(stranger, "PUT", "/devices/{id}/user-meta", id, "{}", 401)
	deviceAt := func(method, path, body string, want int) {
		t.Helper()
		cert := certs.TLS(s.victim)
		c := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.client.Roots, Certificates: []tls.Certificate{cert}}}}
		defer c.CloseIdleConnections()
		resp := must(c.Do(must(http.NewRequestWithContext(t.Context(), method, s.URL+strings.ReplaceAll(path, "{id}", id), strings.NewReader(body)))(t)))(t)
		defer resp.Body.Close()
		b := must(io.ReadAll(resp.Body))(t)
		if resp.StatusCode != want {
			t.Errorf("%s %s: %d, want %d: %s", method, path, resp.StatusCode, want, brief.Of(b))
		}
		check(method, path, resp.StatusCode, resp.Header.Get("Content-Type"), b)
	}
	for _, method := range []string{"PUT", "PATCH"} {
		deviceAt(method, "/devices/{id}/device-meta", `{"a.b":"c"}`, 200)
		deviceAt(method, "/devices/{id}/device-meta", "[]", 400)
		deviceAt(method, "/devices/{id}/device-meta", huge, 413)
		call(stranger, method, "/devices/{id}/device-meta", id, "{}", 401)
		call(ada, method, "/devices/{id}/device-meta", id, "{}", 401)
	}
	for _, path := range []string{"/devices", "/devices/{id}", "/devices/{id}/user-meta", "/devices/{id}/device-meta"} {
		deviceAt("GET", path, "", 200)
	}
	nick := s.Devices(t, s.Owner)[0].Nick
	call(ada, "GET", "/devices/{id}", nick, nil, 200)
	named := func(p *person, want int) {
		t.Helper()
		status, body, h := p.request("GET", "/devices/np/ada/"+nick, nil, nil)
		if status != want {
			t.Errorf("np: %d %s", status, body)
		}
		check("GET", "/devices/np/{owner}/{id}", status, h.Get("Content-Type"), body)
	}
	named(ada, 200)
	named(stranger, 401)
	call(ada, "PUT", "/devices/{id}/public", id, nil, 200)
	call(ada, "DELETE", "/devices/{id}/public", id, nil, 200)
	call(ada, "DELETE", "/devices/{id}/public", "nothing", nil, 404)
	call(stranger, "DELETE", "/devices/{id}/public", id, nil, 401)
	call(stranger, "PUT", "/devices/{id}/public", id, nil, 401)
	call(ada, "PUT", "/devices/{id}", id, map[string]any{"nick": nick + "x", "public": false, "user-meta": map[string]any{}}, 200)
	call(ada, "PUT", "/devices/{id}", id, map[string]any{"owner": "prn:::accounts:/0"}, 400)
	call(ada, "PUT", "/devices/{id}", id, large, 413)
	call(ada, "PUT", "/devices/{id}", "nothing", "{}", 404)
	call(stranger, "PUT", "/devices/{id}", id, "{}", 401)
	call(ada, "PUT", "/devices/{id}?challenge=aaaa-bbbb-cccc", id, nil, 412)
	call(stranger, "POST", "/devices", "", nil, 400) // no TPM
	s.Policy(t, store.HubWide, hubtest.LabPolicy+"without_tpm: accept\n")
	var plain struct{ ID, Challenge string }
	if err := json.Unmarshal(call(stranger, "POST", "/devices", "", nil, 200), &plain); err != nil {
		t.Fatal(err)
	}
	call(ada, "PUT", "/devices/{id}?challenge="+plain.Challenge, plain.ID, nil, 200)
	call(ada, "DELETE", "/devices/{id}", plain.ID, nil, 200)
	call(ada, "POST", "/devices", "", "[]", 400)
	call(ada, "POST", "/devices", "", large, 413)

	// Boot measurements.
	deviceAt("GET", "/device/boot", "", 200)
	deviceAt("POST", "/device/boot", "nonsense", 400)
	deviceAt("POST", "/device/boot", `{"nonce":"AAAA"}`, 403)
	deviceAt("POST", "/device/boot", `{"event-log":"`+strings.Repeat("A", 3<<20)+`"}`, 413)
	call(stranger, "GET", "/device/boot", "", nil, 401)
	call(stranger, "POST", "/device/boot", "", "{}", 401)
	call(ada, "GET", "/devices/{id}/boot", id, nil, 200)
	call(ada, "POST", "/devices/{id}/boot/reference", id, map[string]string{"from": "latest"}, 409)
	conn := must(s.client.Dial(t.Context(), certs.TLS(s.victim)))(t)
	defer conn.Close()
	measured := sendBoot(t, conn, report(t, s.victim, challenge(t, conn).Nonce, usual, 1))
	check("POST", "/device/boot", measured.Status, "application/json", measured.Body)
	measured = sendBoot(t, conn, report(t, s.victim, challenge(t, conn).Nonce, another, 2))
	check("POST", "/device/boot", measured.Status, "application/json", measured.Body)
	call(ada, "GET", "/devices/{id}/boot", id, nil, 200)
	call(ada, "POST", "/devices/{id}/boot/request", id, nil, 200)
	call(ada, "POST", "/devices/{id}/boot/reference", id, map[string]string{"from": "latest"}, 200)
	call(ada, "POST", "/devices/{id}/boot/reference", id, map[string]string{"from": "nowhere"}, 400)
	call(ada, "POST", "/devices/{id}/boot/reference", id, large, 413)
	for _, p := range []*person{stranger, ada} {
		want, which := 401, id
		if p == ada {
			want, which = 404, "nothing"
		}
		call(p, "GET", "/devices/{id}/boot", which, nil, want)
		call(p, "POST", "/devices/{id}/boot/reference", which, "{}", want)
		call(p, "POST", "/devices/{id}/boot/request", which, nil, want)
	}

	// Requests about Ada's boot rules: manifest keys, manifests, and decisions about cohorts. The
	// rate limit is switched off, because the requests about keys share it with sign-ins.
	s.Server.Unlimited()
	k := newSigner(t)
	key := map[string]string{"name": "release", "key": k.pem, "password": hubtest.Password}
	call(ada, "POST", "/boots/keys", "", map[string]string{"name": "release", "key": k.pem, "password": "wrong"}, 403)
	call(ada, "POST", "/boots/keys", "", map[string]string{"name": "release", "key": "PEM", "password": hubtest.Password}, 400)
	call(ada, "POST", "/boots/keys", "", large, 413)
	call(ada, "POST", "/boots/keys", "", key, 200)
	call(ada, "POST", "/boots/keys", "", key, 409)
	call(ada, "GET", "/boots/keys", "", nil, 200)
	signed := k.sign(t, manifestOf("linux 1", 1))
	var stored struct{ ID string }
	if err := json.Unmarshal(call(ada, "POST", "/boots/manifests", "", signed, 200), &stored); err != nil {
		t.Fatal(err)
	}
	call(ada, "POST", "/boots/manifests", "", signed, 409)
	call(ada, "POST", "/boots/manifests", "", "nonsense", 400)
	call(ada, "POST", "/boots/manifests", "", newSigner(t).sign(t, manifestOf("linux 1", 1)), 403)
	call(ada, "POST", "/boots/manifests", "", large, 413)
	call(ada, "GET", "/boots/manifests", "", nil, 200)
	call(ada, "DELETE", "/boots/manifests/{id}", stored.ID, nil, 200)
	call(ada, "DELETE", "/boots/manifests/{id}", stored.ID, nil, 404)
	call(ada, "DELETE", "/boots/keys/{id}", k.id, nil, 200)
	call(ada, "DELETE", "/boots/keys/{id}", k.id, nil, 404)
	call(ada, "GET", "/boots/cohorts", "", nil, 200)
	call(ada, "GET", "/boots/cohorts?part=pcr", "", nil, 400)
	var cohorts struct{ Items []struct{ Value string } }
	if err := json.Unmarshal(call(ada, "GET", "/boots/cohorts?part=keys", "", nil, 200), &cohorts); err != nil || len(cohorts.Items) == 0 {
		t.Fatal("no cohort", err)
	}
	accept := map[string]any{"part": "keys", "value": cohorts.Items[0].Value}
	call(ada, "GET", "/boots/cohorts/{part}/{value}", cohorts.Items[0].Value, nil, 200)
	call(ada, "GET", "/boots/cohorts/{part}/{value}", hexSum("nothing"), nil, 404)
	var decided struct{ ID int64 }
	if err := json.Unmarshal(call(ada, "POST", "/boots/decisions", "", accept, 200), &decided); err != nil {
		t.Fatal(err)
	}
	call(ada, "POST", "/boots/decisions", "", accept, 409)
	call(ada, "POST", "/boots/decisions", "", map[string]any{"part": "pcr"}, 400)
	call(ada, "POST", "/boots/decisions", "", map[string]any{"part": "keys", "value": hexSum("nothing")}, 404)
	call(ada, "POST", "/boots/decisions", "", large, 413)
	call(ada, "GET", "/boots/decisions", "", nil, 200)
	call(ada, "DELETE", "/boots/decisions/{id}", fmt.Sprint(decided.ID), nil, 200)
	call(ada, "DELETE", "/boots/decisions/{id}", fmt.Sprint(decided.ID), nil, 404)
	for _, path := range []string{"GET /boots/keys", "POST /boots/keys", "GET /boots/manifests", "POST /boots/manifests", "GET /boots/cohorts", "GET /boots/decisions", "POST /boots/decisions",
		"DELETE /boots/keys/{id}", "DELETE /boots/manifests/{id}", "DELETE /boots/decisions/{id}", "GET /boots/cohorts/{part}/{value}"} {
		method, path, _ := strings.Cut(path, " ")
		call(stranger, method, path, "x", nil, 401)
	}

	call(ada, "GET", "/devices/{id}/cloned", id, nil, 200)
	call(ada, "PUT", "/devices/{id}/cloned", id, map[string]any{"decision": "one", "findings": []string{"clock-ahead"}}, 409)
	for _, decision := range []string{"two", "", "one"} {
		call(ada, "PUT", "/devices/{id}/cloned", id, map[string]string{"decision": decision}, 200)
	}
	call(ada, "PUT", "/devices/{id}/cloned", id, "{}", 400)
	call(ada, "PUT", "/devices/{id}/cloned", id, large, 413)
	call(ada, "POST", "/ui/cloned/decide", "", "id="+id+"&decision=two", 303)
	call(ada, "GET", "/devices/{id}/cloned", id, nil, 200)
	call(ada, "GET", "/devices/{id}", id, nil, 200)
	call(ada, "POST", "/ui/cloned/decide", "", "id="+id+"&decision=back", 303)
	call(ada, "POST", "/ui/cloned/decide", "", "id="+id+"&decision=one&finding=clock-ahead", 409)
	call(ada, "POST", "/ui/cloned/decide", "", "id="+id+"&decision=", 400)
	call(ada, "POST", "/ui/cloned/decide", "", "decision=one", 404)
	call(ada, "POST", "/ui/cloned/decide", "", "id="+strings.Repeat("a", 70<<10), 413)
	call(stranger, "POST", "/ui/cloned/decide", "", "id="+id+"&decision=one", 401)
	for _, p := range []*person{stranger, ada} {
		want, which := 401, id
		if p == ada {
			want, which = 404, "nothing"
		}
		call(p, "GET", "/devices/{id}/cloned", which, nil, want)
		call(p, "PUT", "/devices/{id}/cloned", which, map[string]string{"decision": "one"}, want)
	}

	trailAnswers(t, ada, stranger, s.asDevice(t, s.victim, certs), id, check)

	// Another device waits for the decision of its owner, and the owner decides.
	uncertified := must(s.victim.WithoutCertificate())(t)
	call(stranger, "POST", "/onboard", "", string(must(uncertified.Request(s.tok, fleet.RequestChange{}))(t)), 202)
	var waits []struct {
		ID        string
		Questions []string
	}
	if err := json.Unmarshal(call(ada, "GET", "/devices/waiting", "", nil, 200), &waits); err != nil || len(waits) != 1 {
		t.Fatalf("%s: %v", brief.Of(waits), err)
	}
	for _, decision := range []string{"deny", "approve"} {
		route := "/devices/{id}/" + decision
		call(stranger, "POST", route, waits[0].ID, "{}", 401)
		call(ada, "POST", route, id, "{}", 404)
		call(ada, "POST", route, waits[0].ID, "[]", 400)
		call(ada, "POST", route, waits[0].ID, large, 413)
		call(ada, "POST", route, waits[0].ID, map[string]any{"questions": []string{"another"}}, 409)
		row := must(s.Store.WaitingByID(t.Context(), s.Owner.ID, waits[0].ID, s.Now()))(t)
		form := fmt.Sprintf("decision=%s&machine=%s.%x", decision, row.DeviceID, row.Digest())
		call(stranger, "POST", "/ui/waiting/decide", "", form, 401)
		call(ada, "POST", "/ui/waiting/decide", "", "decision="+decision+"&machine="+row.DeviceID+"."+strings.Repeat("0", 64), 409)
		call(ada, "POST", "/ui/waiting/decide", "", form, 303)
		call(ada, "POST", route, waits[0].ID, map[string]any{"questions": waits[0].Questions}, 200)
		call(ada, "GET", "/devices/waiting", "", nil, 200)
	}
	call(ada, "POST", "/ui/waiting/decide", "", "decision=deny&machine="+id, 400)
	call(ada, "POST", "/ui/waiting/decide", "", "decision=perhaps", 400)
	call(ada, "POST", "/ui/waiting/decide", "", "id="+strings.Repeat("a", 70<<10), 413)
	call(stranger, "GET", "/devices/waiting", "", nil, 401)

	for _, p := range []struct{ path, good, bad, large string }{
		{"/policy", "version: 1\nrules: [{then: accept}]\n", "version: 2\n", "# " + strings.Repeat("a", 70<<10)},
		{"/policy/ek-list", "ek_sha256,note\n" + strings.Repeat("ab", 32) + ",mine\n", "ek_sha256\nnothing\n", strings.Repeat(" ", 25<<20)},
	} {
		for _, method := range []string{"GET", "PUT", "DELETE"} {
			call(stranger, method, p.path, "", p.good, 401)
		}
		call(ada, "GET", p.path, "", nil, 200)
		call(ada, "PUT", p.path, "", p.bad, 400)
		call(ada, "PUT", p.path, "", p.large, 413)
		call(ada, "PUT", p.path, "", p.good, 200)
		call(ada, "GET", p.path, "", nil, 200)
		call(ada, "DELETE", p.path, "", nil, 200)
	}

	// Requests of the owner.
	call(ada, "GET", "/logs/retention", "", nil, 200)
	call(stranger, "GET", "/logs/retention", "", nil, 401)
	call(ada, "PUT", "/logs/retention", "", map[string]any{"max-age": 86400, "max-bytes": 1 << 20}, 200)
	call(ada, "PUT", "/logs/retention", "", map[string]any{"max-age": 1}, 400)
	call(ada, "PUT", "/logs/retention", "", large, 413)
	call(stranger, "PUT", "/logs/retention", "", map[string]any{}, 401)
	login := map[string]string{"username": "ada", "password": hubtest.Password}
	call(stranger, "POST", "/auth/login", "", login, 200)
	call(stranger, "POST", "/auth/login", "", map[string]string{"username": "ada"}, 401)
	call(stranger, "POST", "/auth/login", "", "nonsense", 400)
	call(stranger, "POST", "/auth/login", "", large, 413)
	call(ada, "GET", "/auth/auth_status", "", nil, 200)
	call(ada, "GET", "/auth/login", "", nil, 200)
	call(stranger, "GET", "/auth/login", "", nil, 401)
	call(stranger, "GET", "/auth/jwks.json", "", nil, 200)
	call(stranger, "POST", "/auth/login", "", map[string]string{"username": "ada", "password": "x", "scope": "everything"}, 400)
	call(ada, "GET", "/auth/accounts", "", nil, 200)
	call(ada, "GET", "/auth/", "", nil, 200)
	call(stranger, "GET", "/auth/accounts", "", nil, 401)
	call(stranger, "GET", "/auth/", "", nil, 401)
	call(stranger, "POST", "/auth/accounts", "", map[string]string{"nick": "eve", "email": "eve@example.org", "password": "correct horse"}, 200)
	call(stranger, "POST", "/auth/accounts", "", map[string]string{"nick": "eve", "password": "correct horse"}, 412)
	call(stranger, "POST", "/auth/accounts", "", "nonsense", 400)
	call(stranger, "POST", "/auth/accounts", "", large, 413)
	var token struct{ ID string }
	if err := json.Unmarshal(call(ada, "POST", "/devices/tokens", "", map[string]any{"nick": "a", "default-user-meta": map[string]any{"site": "oslo"}}, 200), &token); err != nil {
		t.Fatal(err)
	}
	call(ada, "POST", "/devices/tokens", "", nil, 200)
	call(ada, "POST", "/devices/tokens", "", map[string]any{"max-uses": -1}, 400)
	call(ada, "POST", "/devices/tokens", "", large, 413)
	call(ada, "GET", "/devices/tokens", "", nil, 200)
	call(ada, "GET", "/devices/tokens?limit=1&after="+token.ID, "", nil, 200)
	call(ada, "GET", "/devices/tokens?limit=0", "", nil, 400)
	call(ada, "GET", "/devices/tokens?after=nothing", "", nil, 404)
	call(ada, "DELETE", "/devices/tokens/{id}?purge=true", token.ID, nil, 409)
	call(ada, "DELETE", "/devices/tokens/{id}?purge=x", token.ID, nil, 400)
	call(ada, "DELETE", "/devices/tokens/{id}", token.ID, nil, 200)
	call(ada, "DELETE", "/devices/tokens/{id}?purge=true", token.ID, nil, 200)
	call(ada, "DELETE", "/devices/tokens/{id}", "nothing", nil, 404)
	call(ada, "GET", "/devices", "", nil, 200)
	call(ada, "GET", "/devices?limit=0", "", nil, 400)
	call(ada, "GET", "/events", "", nil, 200)
	call(ada, "GET", "/events?before=x", "", nil, 400)
	call(ada, "GET", "/events?since=2026-01-01T00:00:00Z&until=2999-01-01T00:00:00Z&kind=account.&limit=5", "", nil, 200)
	call(ada, "GET", "/events?since=yesterday", "", nil, 400)
	call(ada, "GET", "/fleet/devices", "", nil, 200)
	call(ada, "GET", "/fleet/devices?limit=1&fields=nick&sort=-seen", "", nil, 200)
	call(ada, "GET", "/fleet/devices?q=x+modell:NUC", "", nil, 400)
	call(ada, "GET", "/fleet/count?q=state:active", "", nil, 200)
	call(ada, "GET", "/fleet/count?q=state:", "", nil, 400)
	call(ada, "GET", "/fleet/summary", "", nil, 200)
	call(ada, "GET", "/fleet/summary?days=0", "", nil, 400)
	call(ada, "GET", "/fleet/judgements", "", nil, 200)
	call(ada, "GET", "/fleet/judgements?limit=0", "", nil, 400)
	for _, route := range []string{"/fleet/devices", "/fleet/count", "/fleet/summary", "/fleet/judgements"} {
		call(stranger, "GET", route, "", nil, 401)
	}
	s.Server.Unlimited()
	accountAnswers(t, s, func(p *person, method, route, id string, in any, want int) []byte {
		t.Helper()
		return call(p, method, route, id, in, want)
	})
	for _, p := range []*person{stranger, ada} {
		want, which := 401, id
		if p == ada {
			want, which = 404, "nothing"
		}
		call(p, "GET", "/devices/{id}", which, nil, want)
		call(p, "PATCH", "/devices/{id}", which, map[string]string{"nick": "x"}, want)
		call(p, "PATCH", "/devices/{id}/user-meta", which, map[string]any{"a": 1}, want)
		call(p, "GET", "/devices/{id}/evidence", which, nil, want)
		call(p, "DELETE", "/devices/{id}", which, nil, want)
	}
	call(ada, "GET", "/devices/{id}", id, nil, 200)
	call(ada, "PATCH", "/devices/{id}", id, map[string]string{"nick": "flagship"}, 200)
	call(ada, "PATCH", "/devices/{id}", id, map[string]string{"nick": "not a nick"}, 400)
	call(ada, "PATCH", "/devices/{id}", id, large, 413)
	call(ada, "PATCH", "/devices/{id}/user-meta", id, map[string]any{"a": 1, "b": nil}, 200)
	call(ada, "PATCH", "/devices/{id}/user-meta", id, "[]", 400)
	call(ada, "PATCH", "/devices/{id}/user-meta", id, huge, 413)
	call(ada, "GET", "/devices/{id}/evidence", id, nil, 200)
	call(ada, "GET", "/", "", nil, 303)
	s.Advance(time.Minute) // until the rate limit admits more sign-ins
	s.Server.Unlimited()
	code := claimCode(t)
	for _, bad := range []string{"x", code + "A", code[:58] + "!"} {
		call(stranger, "GET", "/claim/{code}", bad, nil, 400)
		call(stranger, "POST", "/claim/{code}", bad, nil, 400)
		call(stranger, "GET", "/claims/{code}", bad, nil, 400)
	}
	call(stranger, "GET", "/claim/{code}", code, nil, 200)
	call(stranger, "GET", "/claims/{code}", code, nil, 404)
	call(stranger, "POST", "/claim/{code}", code, "nick=ada&password=wrong", 401)
	call(stranger, "POST", "/claim/{code}", code, "nick="+strings.Repeat("a", 70<<10), 413)
	call(ada, "POST", "/claim/{code}", code, "", 303)
	call(ada, "POST", "/claim/{code}", code, "", 303)
	call(s.person(t, "bob"), "POST", "/claim/{code}", code, "", 409)
	call(stranger, "GET", "/claims/{code}", code, nil, 200)
	call(stranger, "POST", "/sign-in", "", "nick=ada&password=wrong", 401)
	call(stranger, "POST", "/sign-in", "", "nick=%zz", 400)
	call(stranger, "POST", "/sign-in", "", "nick="+strings.Repeat("a", 70<<10), 413)
	call(stranger, "POST", "/sign-in", "", "nick=ada&password="+strings.ReplaceAll(hubtest.Password, " ", "+"), 303)
	call(stranger, "POST", "/sign-out", "", nil, 303)
	call(stranger, "GET", "/assets/{file}", strings.TrimPrefix(ui.AssetPath("app.js"), "/assets/"), nil, 200)
	call(stranger, "GET", "/assets/{file}", "app.js", nil, 404)
	call(stranger, "GET", "/", "", nil, 303)
	call(ada, "DELETE", "/devices/{id}", id, nil, 200)
	device("GET", "/device", "", 403)
	call(ada, "POST", "/auth/logout", "", nil, 200)
	call(ada, "POST", "/auth/logout", "", nil, 401)

	for path, ops := range doc.Paths {
		for method := range ops {
			if m := strings.ToUpper(method) + " " + path; !answered[m] {
				t.Errorf("no test calls %s", m)
			}
		}
	}
}

// isPage reports whether a path belongs to the hub's pages and forms. openapi.json does not
// describe these paths, because only the hub's own pages use them.
func isPage(path string) bool { return strings.HasPrefix(path, "/ui/") }

// openAPI is the part of openapi.json that these tests read.
type openAPI struct {
	Paths map[string]map[string]struct {
		Security  []map[string]any
		Responses map[string]struct {
			Content map[string]struct{ Schema map[string]any }
		}
	}
	Components struct{ Schemas map[string]map[string]any }
}

func readOpenAPI(t *testing.T, s *scene) *openAPI {
	t.Helper()
	_, body := s.person(t, "").do("GET", "/openapi.json", nil)
	doc := new(openAPI)
	if err := json.Unmarshal(body, doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

// mismatches returns the places where the value `v` differs from `schema`. It supports the keywords
// that openapi.json uses. It is stricter than JSON Schema in one point: a property that is not in
// the schema is a mismatch.
func (d *openAPI) mismatches(schema map[string]any, v any, at string) (found []string) {
	add := func(format string, a ...any) { found = append(found, at+": "+fmt.Sprintf(format, a...)) }
	if ref, ok := schema["$ref"].(string); ok {
		return d.mismatches(d.Components.Schemas[strings.TrimPrefix(ref, "#/components/schemas/")], v, at)
	}
	if c, ok := schema["const"]; ok && c != v {
		add("%v is not %v", v, c)
	}
	if e, ok := schema["enum"].([]any); ok && !slices.Contains(e, v) {
		add("%v is none of %v", v, e)
	}
	switch kind := schema["type"]; v := v.(type) {
	case map[string]any:
		if kind != "object" {
			add("an object, not %v", kind)
		}
		properties, _ := schema["properties"].(map[string]any)
		required, _ := schema["required"].([]any)
		for _, name := range required {
			if _, ok := v[name.(string)]; !ok {
				add("no %v", name)
			}
		}
		for name, x := range v {
			if p, ok := properties[name].(map[string]any); ok {
				found = append(found, d.mismatches(p, x, at+"."+name)...)
			} else if schema["additionalProperties"] != true {
				add("%q is not described", name)
			}
		}
	case []any:
		if kind != "array" {
			add("an array, not %v", kind)
		}
		items, _ := schema["items"].(map[string]any)
		for i, x := range v {
			found = append(found, d.mismatches(items, x, fmt.Sprintf("%s[%d]", at, i))...)
		}
	case string:
		if kind != "string" && schema["enum"] == nil && schema["const"] == nil {
			add("a string, not %v", kind)
		}
		if p, ok := schema["pattern"].(string); ok && !regexp.MustCompile(p).MatchString(v) {
			add("%q does not match %s", v, p)
		}
		if schema["format"] == "date-time" {
			if _, err := time.Parse(time.RFC3339Nano, v); err != nil {
				add("%v", err)
			}
		}
	case float64:
		if kind != "number" && (kind != "integer" || v != math.Trunc(v)) {
			add("%v, not %v", v, kind)
		}
	case bool:
		if kind != "boolean" {
			add("a boolean, not %v", kind)
		}
	default:
		add("%v, not %v", v, kind)
	}
	return found
}

package api_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/bearer"
	"gangway/hub/store"
	"gangway/hub/ui"
	"gangway/internal/brief"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
	"gangway/wire"

	"github.com/go-jose/go-jose/v4/jwt"
)

// row is the contract of one route.
type row struct {
	// `who` says which callers may use the route. "all": everyone. "owner": a person. "operator": a
	// person with the role operator. "self": a person with any scopes. "caller": a person or a
	// device. "device": a device. "chip": a device with its client certificate.
	who string
	// body is a body that the route accepts. If it is empty, the route reads no body.
	body string
	// status is the HTTP status of the answer to a valid call. Default: 200.
	status int
	// limit is approximately the largest accepted body, in bytes. A body of twice this size is
	// refused as too large.
	limit int
	// other is the status for an unknown id, or for an id that belongs to another owner. Default:
	// 404 if the path has an id.
	other int
	// before makes the data that a valid call needs. It may return values for the path's variables,
	// which replace Ada's usual values. It may also return a body under the name "body", which
	// replaces the field `body`.
	before func(c *contract) map[string]string
	// If `form` is true, the body is an HTML form. If `text` is true, the body is any other text
	// that is not JSON. If both are false, the body is JSON.
	form, text bool

	// If public is set, the answer is not secret, so callers that `who` does not name get it too.
	public bool
}

// values calls r.before, which makes the data that a valid call needs, and returns its result.
func (r row) values(c *contract) map[string]string {
	if r.before == nil {
		return map[string]string{}
	}
	return r.before(c)
}

// contract is a running hub that has the data for a valid call of every route.
type contract struct {
	*fleetScene
	second             *person // ada's other device
	secondID           string
	anonymous          *person
	olga               *person           // has the role operator
	secrets            map[string]string // ada's values for the paths
	routes             []string          // "METHOD /path"
	expired, forged    string            // access tokens
	byDevice, narrowed string
	once               sync.Once // for the creation of signer
	signer             signer
}

// routesOf lists the routes of the route table, as "METHOD /path".
func routesOf() (routes []string) {
	for _, r := range api.Routes() {
		routes = append(routes, r.Method+" "+r.Path)
		if r.Slash {
			routes = append(routes, r.Method+" "+r.Path+"/")
		}
	}
	return routes
}

func newContract(t *testing.T) *contract {
	t.Helper()
	f := newFleet(t)
	f.Server.Unlimited()
	f.Policy(t, store.HubWide, hubtest.LabPolicy+"without_tpm: accept\n")
	c := &contract{fleetScene: f, anonymous: f.person(t, ""), routes: routesOf()}
	c.second, c.secondID = f.onboarded(t, f.tok)
	c.olga = f.operator(t)
	claims := bearer.Claims{Type: bearer.User, Nick: "ada", PRN: wire.AccountPRN + f.Owner.ID, ID: f.Owner.ID, Scopes: bearer.AllScopes, Session: "s",
		Original: jwt.NewNumericDate(f.Now()), Expires: jwt.NewNumericDate(f.Now().Add(time.Hour))}
	c.forged = must(bearer.New(make([]byte, 32), f.URL).Sign(claims, f.Now()))(t)
	claims.Expires = jwt.NewNumericDate(f.Now().Add(-time.Second))
	c.expired = must(bearer.New(f.CA.SealKey(), f.URL).Sign(claims, f.Now()))(t)
	c.narrowed = signInFor(f.ada, "metrics")
	c.byDevice = want[struct{ Token string }](f.boat, "POST", "/auth/x509/login", nil, 200).Token
	step := post(f.ada, f.boatID, `{`+systemSpec+`,"kernel":"`+f.contentSum+`"}`)
	o := want[api.ObjectView](f.ada, "GET", "/objects/"+f.contentSum, nil, 200)
	_, address, _ := strings.Cut(o.GetURL, "/local-s3/")
	claimed := claimCode(t)
	if status, body, _ := f.ada.request("POST", "/claim/"+claimed, nil, map[string]string{"Accept": "application/json"}); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	boat := must(f.Store.Device(t.Context(), f.boatID))(t)
	aik := hex.EncodeToString(must(f.Store.Enrolment(t.Context(), boat.Enrolment))(t).IAKName)
	c.secrets = map[string]string{"id": f.boatID, "rev": fmt.Sprint(step.Rev), "sha": f.contentSum, "token": address, "file": aik + ".crt", "owner": "ada", "code": claimed,
		"sha256": fmt.Sprintf("%x", sha256.Sum256(f.maker.Root.Raw))}
	return c
}

// The method `plain` makes a device of Ada's that the test may delete.
func (c *contract) plain() map[string]string {
	d := want[api.Registered](c.ada, "POST", "/devices", "{}", 200)
	return map[string]string{"id": d.ID}
}

func (c *contract) step() map[string]string {
	return map[string]string{"rev": fmt.Sprint(post(c.ada, c.boatID, `{`+systemSpec+`}`).Rev)}
}

// The method `waiting` makes a machine that waits for Ada's decision.
func (c *contract) waiting() map[string]string {
	d := c.uncertified(c.ada.t)
	const question = "ek-certificate-none"
	w := waits(c.ada.t, c.post(c.ada.t, c.request(c.ada.t, d)), question)
	return map[string]string{"id": w.DeviceID, "body": "decision=deny&machine=" + c.seen(w.DeviceID)}
}

// The method `seen` returns the value of the form's field "machine" for a waiting device. The value
// has the waiting device's id and the digest of the shown evidence.
func (c *contract) seen(id string) string {
	w := must(c.Store.WaitingByID(c.ada.t.Context(), c.Owner.ID, id, c.Now()))(c.ada.t)
	return fmt.Sprintf("%s.%x", id, w.Digest())
}

const (
	kib  = 1 << 10
	mib  = 1 << 20
	good = `{}`
)

func contractRows() map[string]row {
	state := `{` + systemSpec + `}`
	object := `{"sha256sum":"` + strings.Repeat("ab", 32) + `","size":"7","objectname":"n"}`
	plain := func(c *contract) map[string]string { return c.plain() }
	step := func(c *contract) map[string]string { return c.step() }
	return map[string]row{
		"GET /healthz":      {who: "all"},
		"GET /readyz":       {who: "all"},
		"GET /openapi.json": {who: "all"},
		"GET /hub-ca.pem":   {who: "all"},
		"GET /assets/{file}": {who: "all", before: func(*contract) map[string]string {
			return map[string]string{"file": strings.TrimPrefix(ui.AssetPath("app.css"), "/assets/")}
		}},
		"GET /":            {who: "all", status: 303},
		"GET /sign-in":     {who: "all", status: 200},
		"GET /ui/overview": {who: "owner"},

		"GET /ui/revisions":     {who: "owner"},
		"GET /ui/revisions/row": {who: "owner", status: 404},
		"GET /ui/onboard/claim": {who: "owner"},
		"POST /ui/onboard/claim": {who: "owner", form: true, status: 303, limit: 64 * kib, before: func(c *contract) map[string]string {
			d := want[api.Registered](c.anonymous, "POST", "/devices", "{}", 200)
			return map[string]string{"body": form("device", d.ID, "challenge", d.Challenge)}
		}},
		"GET /ui/onboard/claim/{id}":       {who: "owner", before: joinToken},
		"GET /ui/onboard/claim/{id}/steps": {who: "owner", before: joinToken},
		"GET /ui/operator":                 {who: "operator"},
		"GET /ui/operator/makers":          {who: "operator"},
		"GET /ui/operator/health":          {who: "operator"},
		"GET /ui/operator/alarms":          {who: "operator"},
		"GET /ui/operator/versions":        {who: "operator"},
		"GET /ui/operator/makers/add":      {who: "operator"},
		"POST /ui/operator/makers/add":     {who: "operator", form: true, body: "pem=x", status: 400, limit: 576 * kib}, // a valid call: see TestOperatorAddsAMakerOnThePage
		"GET /ui/operator/makers/{sha256}": {who: "operator"},
		"POST /ui/operator/makers/{sha256}": {who: "operator", form: true, status: 303, limit: 64 * kib, before: func(c *contract) map[string]string {
			_, page, _ := c.olga.request("GET", "/ui/operator/makers/"+c.secrets["sha256"]+"?act=distrust", nil, nil)
			return map[string]string{"body": form("act", "distrust", "version", trustVersionOn(c.ada.t, string(page)), "password", hubtest.Password)}
		}},
		"GET /ui/onboard":             {who: "owner"},
		"GET /ui/onboard/new":         {who: "owner"},
		"POST /ui/onboard/new":        {who: "owner", form: true, body: "nick=batch&expires-in=2w", limit: 64 * kib},
		"GET /ui/onboard/image":       {who: "owner"},
		"POST /ui/onboard/image":      {who: "owner", form: true, body: "nick=batch", status: 409, limit: 64 * kib}, // no builder: see TestImage*
		"GET /ui/onboard/image/state": {who: "owner"},
		"GET /ui/onboard/tokens/{id}": {who: "owner", before: joinToken},
		"POST /ui/onboard/tokens/{id}/file": {who: "owner", form: true, limit: 64 * kib, before: func(c *contract) map[string]string {
			tok := c.Token(c.ada.t, c.Owner, nil)
			return map[string]string{"id": tok.ID, "body": "secret=" + url.QueryEscape(tok.Token)}
		}},
		"POST /ui/onboard/tokens/{id}/disable": {who: "owner", form: true, body: "confirm=test", status: 303, limit: 64 * kib, before: joinToken},
		"POST /ui/onboard/tokens/{id}/delete": {who: "owner", form: true, body: "x=y", status: 303, limit: 64 * kib, before: func(c *contract) map[string]string {
			v := joinToken(c)
			if err := c.Store.DisableJoinToken(c.ada.t.Context(), c.Owner.ID, v["id"]); err != nil {
				c.ada.t.Fatal(err)
			}
			return v
		}},
		"GET /ui/wall":            {who: "owner"},
		"GET /ui/wall/part":       {who: "owner"},
		"GET /ui/onboard/waiting": {who: "owner"},
		"GET /ui/onboard/waiting/{id}": {who: "owner", before: func(c *contract) map[string]string {
			return map[string]string{"id": c.waiting()["id"]}
		}},
		"GET /ui/onboard/waiting/group": {who: "owner", status: 303},

		"POST /onboard": {who: "all", limit: 256 * kib, text: true, before: func(c *contract) map[string]string {
			return map[string]string{"body": string(must(c.victim.Request(c.tok, fleet.RequestChange{}))(c.ada.t))}
		}},
		"POST /onboard/activate": {who: "chip", body: `{"proof":"AAAA"}`, status: 403, limit: 64 * kib}, // TestOnboards sends a valid body
		"GET /aca/certs/{file}":  {who: "all", public: true},

		"POST /enroll/request": {who: "all", limit: 64 * kib, before: func(c *contract) map[string]string {
			return map[string]string{"body": string(must(json.Marshal(c.device(c.ada.t).EnrollRequest()))(c.ada.t))}
		}},
		"POST /register":         {who: "all", limit: 64 * kib, before: registration},
		"POST /devices/register": {who: "all", limit: 64 * kib, before: registration},
		"POST /auth/signature/verify": {who: "all", limit: 64 * kib, body: `{"token-id":"x","owner":"y","idevid-name":"n","signature":"AAAA"}`,
			status: 400}, // TestSignatureVerifyTellsGoodFromBadAndNoMore sends valid bodies

		"GET /device":         {who: "chip"},
		"GET /device/boot":    {who: "chip"},
		"POST /device/boot":   {who: "chip", body: `{"nonce":"AAAA"}`, status: 403, limit: 2 * mib}, // TestBootIsLearntComparedAndAccepted sends a valid body
		"PATCH /device/meta":  {who: "device", body: `{"a":"b"}`, limit: 64 * kib},
		"POST /device/secret": {who: "chip"},
		"PUT /device/secret": {who: "chip", limit: 64 * kib, before: func(c *contract) map[string]string {
			v := want[api.SecretView](c.boat, "POST", "/device/secret", nil, 200)
			return map[string]string{"body": string(must(json.Marshal(map[string]string{"secret": v.Secret}))(c.ada.t))}
		}},
		"POST /auth/x509/login": {who: "chip"},

		"POST /auth/login":       {who: "all", body: `{"username":"ada","password":"` + hubtest.Password + `"}`, limit: 64 * kib},
		"GET /auth/login":        {who: "self"},
		"GET /auth/jwks.json":    {who: "all"},
		"GET /auth/auth_status":  {who: "self"},
		"POST /auth/logout":      {who: "self"},
		"POST /auth/accounts":    {who: "all", limit: 64 * kib, before: account},
		"POST /auth/accounts/":   {who: "all", limit: 64 * kib, before: account},
		"GET /auth/accounts":     {who: "owner"},
		"GET /auth/accounts/":    {who: "owner"},
		"GET /auth/":             {who: "owner"},
		"POST /devices/tokens":   {who: "owner", body: `{"nick":"t"}`, limit: 64 * kib},
		"POST /devices/tokens/":  {who: "owner", body: `{"nick":"t"}`, limit: 64 * kib},
		"GET /devices/tokens":    {who: "owner"},
		"GET /devices/tokens/":   {who: "owner"},
		"GET /devices/waiting":   {who: "owner"},
		"GET /devices/waiting/":  {who: "owner"},
		"GET /policy":            {who: "owner"},
		"PUT /policy":            {who: "owner", body: "version: 1\n", limit: 64 * kib, text: true},
		"DELETE /policy":         {who: "owner"},
		"GET /policy/ek-list":    {who: "owner"},
		"PUT /policy/ek-list":    {who: "owner", body: "ek_sha256,note\n" + strings.Repeat("ab", 32) + ",mine\n", limit: 24 * mib, text: true},
		"DELETE /policy/ek-list": {who: "owner"},

		"POST /auth/password":              {who: "owner", body: `{"current":"wrong","password":"another password"}`, status: 403, limit: 64 * kib}, // TestPasswordChangeEndsOtherSessions sends a valid body
		"POST /auth/recover":               {who: "all", status: 412},
		"GET /auth/sessions":               {who: "owner"},
		"DELETE /auth/sessions":            {who: "owner"},
		"DELETE /auth/sessions/{id}":       {who: "owner", before: session},
		"POST /auth/accounts/{id}/disable": {who: "owner", body: `{"password":"wrong"}`, status: 403, limit: 64 * kib, before: own}, // TestDeletedAccountLeavesNothingToOthers sends a valid body
		"POST /auth/accounts/{id}/delete":  {who: "owner", body: `{"password":"wrong"}`, status: 403, limit: 64 * kib, before: own},
		"POST /tokens":                     {who: "owner", limit: 64 * kib, before: apiToken},
		"POST /tokens/":                    {who: "owner", limit: 64 * kib, before: apiToken},
		"GET /tokens":                      {who: "owner"},
		"GET /tokens/":                     {who: "owner"},
		"GET /tokens/{id}":                 {who: "owner", before: madeAPIToken},
		"DELETE /tokens/{id}":              {who: "owner", before: madeAPIToken},
		"GET /profiles":                    {who: "owner"},
		"GET /profiles/":                   {who: "owner"},
		"DELETE /devices/tokens/{id}":      {who: "owner", before: joinToken},
		"POST /devices/{id}/approve": {who: "owner", body: good, limit: 64 * kib, before: func(c *contract) map[string]string {
			return map[string]string{"id": c.waiting()["id"]}
		}},
		"POST /devices/{id}/deny": {who: "owner", body: good, limit: 64 * kib, before: func(c *contract) map[string]string {
			return map[string]string{"id": c.waiting()["id"]}
		}},

		"POST /devices":                   {who: "owner", body: good, limit: 64 * kib, public: true}, // without credentials it makes an unowned device: TestDeviceOfNobodyIsClaimed
		"POST /devices/":                  {who: "owner", body: good, limit: 64 * kib, public: true},
		"GET /devices":                    {who: "caller"},
		"GET /devices/":                   {who: "caller"},
		"GET /devices/np/{owner}/{id}":    {who: "caller"}, // a device gets public devices
		"GET /devices/{id}":               {who: "caller"},
		"PUT /devices/{id}":               {who: "owner", body: `{"public":false}`, limit: 64 * kib},
		"PUT /devices/{id}/public":        {who: "owner", before: plain},
		"DELETE /devices/{id}/public":     {who: "owner"},
		"GET /devices/{id}/user-meta":     {who: "caller"},
		"PUT /devices/{id}/user-meta":     {who: "owner", body: `{"a":"b"}`, limit: 256 * kib},
		"PATCH /devices/{id}/user-meta":   {who: "owner", body: `{"a":"b"}`, limit: 256 * kib},
		"GET /devices/{id}/device-meta":   {who: "caller"},
		"PUT /devices/{id}/device-meta":   {who: "device", body: `{"a":"b"}`, limit: 256 * kib},
		"PATCH /devices/{id}/device-meta": {who: "device", body: `{"a":"b"}`, limit: 256 * kib},
		"PATCH /devices/{id}": {who: "owner", body: `{"nick":"anew"}`, limit: 64 * kib, before: func(c *contract) map[string]string {
			v := c.plain()
			v["body"] = `{"nick":"n` + v["id"] + `"}`
			return v
		}},
		"DELETE /devices/{id}":              {who: "owner", before: plain},
		"GET /devices/{id}/evidence":        {who: "owner"},
		"GET /devices/{id}/cloned":          {who: "owner"},
		"PUT /devices/{id}/cloned":          {who: "owner", body: `{"decision":"one"}`, limit: 64 * kib},
		"GET /devices/{id}/boot":            {who: "owner"},
		"GET /boots/keys":                   {who: "owner"},
		"POST /boots/keys":                  {who: "owner", body: `{"name":"k","key":"PEM","password":"wrong"}`, status: 403, limit: 64 * kib}, // TestManifestsDecideWhatIsExpected sends a valid body
		"DELETE /boots/keys/{id}":           {who: "owner", before: manifestKeyOf},
		"GET /boots/manifests":              {who: "owner"},
		"POST /boots/manifests":             {who: "owner", text: true, limit: 64 * kib, before: newManifest},
		"DELETE /boots/manifests/{id}":      {who: "owner", before: storedManifest},
		"GET /boots/cohorts":                {who: "owner"},
		"GET /boots/cohorts/{part}/{value}": {who: "owner", before: cohortOfBoat},
		"GET /boots/decisions":              {who: "owner"},
		"POST /boots/decisions":             {who: "owner", limit: 64 * kib, before: newDecision},
		"DELETE /boots/decisions/{id}":      {who: "owner", before: madeDecision},
		"POST /devices/{id}/boot/reference": {who: "owner", body: `{"from":"values","bank":"SHA-256","pcrs":{` + allPCRs() + `}}`, limit: 64 * kib},
		"POST /devices/{id}/boot/request":   {who: "owner"},
		"GET /events":                       {who: "owner"},
		"GET /fleet/devices":                {who: "owner"},
		"GET /fleet/count":                  {who: "owner"},
		"GET /fleet/summary":                {who: "owner"},
		"GET /fleet/judgements":             {who: "owner"},

		"POST /trails":                                    {who: "device", body: state, limit: 2 * mib},
		"POST /trails/":                                   {who: "device", body: state, limit: 2 * mib},
		"GET /trails":                                     {who: "caller"},
		"GET /trails/":                                    {who: "caller"},
		"GET /trails/summary":                             {who: "owner"},
		"GET /trails/summary/":                            {who: "owner"},
		"GET /trails/{id}":                                {who: "caller"},
		"GET /trails/{id}/":                               {who: "caller"},
		"GET /trails/{id}/summary":                        {who: "caller"},
		"GET /trails/{id}/.pvrremote":                     {who: "caller"},
		"POST /trails/{id}/steps":                         {who: "caller", body: `{"state":` + state + `}`, limit: 2 * mib},
		"POST /trails/{id}/steps/":                        {who: "caller", body: `{"state":` + state + `}`, limit: 2 * mib},
		"GET /trails/{id}/steps":                          {who: "caller"},
		"GET /trails/{id}/steps/":                         {who: "caller"},
		"GET /trails/{id}/steps/{rev}":                    {who: "caller"},
		"GET /trails/{id}/steps/{rev}/":                   {who: "caller"},
		"GET /trails/{id}/steps/{rev}/.pvrremote":         {who: "caller"},
		"GET /trails/{id}/steps/{rev}/state":              {who: "caller"},
		"PUT /trails/{id}/steps/{rev}/state":              {who: "caller", body: state, limit: 2 * mib, before: step},
		"GET /trails/{id}/steps/{rev}/meta":               {who: "caller"},
		"PUT /trails/{id}/steps/{rev}/meta":               {who: "owner", body: `{"a":1}`, limit: 64 * kib},
		"PUT /trails/{id}/steps/{rev}/progress":           {who: "device", body: `{"status":"DOWNLOADING"}`, limit: 64 * kib, before: step},
		"PUT /trails/{id}/steps/{rev}/cancel":             {who: "owner", before: step},
		"PUT /trails/{id}/steps/{rev}/wontgo":             {who: "owner", before: begun},
		"POST /trails/{id}/steps/{rev}/objects":           {who: "caller", body: object, limit: 64 * kib},
		"POST /trails/{id}/steps/{rev}/objects/":          {who: "caller", body: object, limit: 64 * kib},
		"GET /trails/{id}/steps/{rev}/objects":            {who: "caller"},
		"GET /trails/{id}/steps/{rev}/objects/":           {who: "caller"},
		"GET /trails/{id}/steps/{rev}/objects/{sha}":      {who: "caller"},
		"GET /trails/{id}/steps/{rev}/objects/{sha}/blob": {who: "caller", status: 302},

		"POST /objects":         {who: "caller", body: object, limit: 64 * kib},
		"POST /objects/":        {who: "caller", body: object, limit: 64 * kib},
		"GET /objects":          {who: "owner"},
		"GET /objects/":         {who: "owner"},
		"GET /objects/{sha}":    {who: "caller"},
		"GET /local-s3/{token}": {who: "all"}, // the token in the path is the permission
		"PUT /local-s3/{token}": {who: "all", text: true, limit: 24, before: func(c *contract) map[string]string {
			content := wire.NewID()
			o := announce(c.ada, "/objects", "n", content, 200)
			_, token, _ := strings.Cut(o.PutURL, "/local-s3/")
			return map[string]string{"token": token, "body": content}
		}},
		"PATCH /local-s3/{token}": {who: "all", text: true, status: 400, before: func(c *contract) map[string]string { // it lacks Upload-Offset
			_, token, _ := strings.Cut(announce(c.ada, "/objects", "n", wire.NewID(), 200).PutURL, "/local-s3/")
			return map[string]string{"token": token, "body": "content"}
		}},

		"POST /logs":          {who: "device", body: `[{"msg":"m"}]`, limit: mib},
		"POST /logs/":         {who: "device", body: `[{"msg":"m"}]`, limit: mib},
		"GET /logs":           {who: "owner"},
		"GET /logs/":          {who: "owner"},
		"POST /logs/cursor":   {who: "owner", body: `{"next-cursor":"x"}`, limit: 64 * kib},
		"GET /logs/retention": {who: "owner"},
		"PUT /logs/retention": {who: "owner", body: `{"max-age":86400,"max-bytes":1048576}`, limit: 64 * kib},
		"POST /logs/cursor/":  {who: "owner", body: `{"next-cursor":"x"}`, limit: 64 * kib},

		"GET /claim/{code}":        {who: "all", public: true, other: 400},
		"POST /claim/{code}":       {who: "all", public: true, other: 400, form: true, body: "nick=ada&password=" + strings.ReplaceAll(hubtest.Password, " ", "+"), status: 303, limit: 64 * kib},
		"GET /claims/{code}":       {who: "all", public: true, other: 400},
		"POST /sign-in":            {who: "all", form: true, body: "nick=ada&password=" + strings.ReplaceAll(hubtest.Password, " ", "+"), status: 303, limit: 64 * kib},
		"POST /sign-out":           {who: "all", status: 303},
		"GET /ui/overview/numbers": {who: "owner"},
		"GET /ui/live":             {who: "owner", status: 400}, // the answer never ends: see TestLive*
		"GET /ui/devices":          {who: "owner"},
		"GET /ui/devices/row":      {who: "owner", status: 404},
		"GET /ui/devices.csv":      {who: "owner"},
		"GET /ui/devices.json":     {who: "owner"},
		"POST /ui/views":           {who: "owner", form: true, body: "name=all&query=q%3Dboat", status: 303, limit: 64 * kib},
		"POST /ui/views/delete": {who: "owner", form: true, body: "name=all", status: 303, limit: 64 * kib, before: func(c *contract) map[string]string {
			c.ada.request("POST", "/ui/views", "name=all", map[string]string{"Content-Type": "application/x-www-form-urlencoded"})
			return nil
		}},
		"GET /ui/bulk":         {who: "owner", status: 400},
		"POST /ui/bulk":        {who: "owner", form: true, body: "act=boot", status: 303, limit: 64 * kib},
		"POST /ui/bulk/undo":   {who: "owner", form: true, body: "undo=x", status: 303, limit: 64 * kib},
		"GET /ui/devices/{id}": {who: "owner"},
		"GET /ui/devices/{id}/certificates/{file}": {who: "owner", before: func(*contract) map[string]string {
			return map[string]string{"file": "chain.pem"}
		}},
		"GET /ui/devices/{id}/log.txt": {who: "owner"},
		"POST /ui/devices/{id}/boot/reference": {who: "owner", form: true, body: "act=unlock", status: 303, limit: 64 * kib, before: func(c *contract) map[string]string {
			want[api.BootView](c.ada, "POST", "/devices/"+c.boatID+"/boot/reference", `{"from":"values","bank":"SHA-256","pcrs":{`+allPCRs()+`}}`, 200)
			return nil
		}},
		"POST /ui/devices/{id}/boot/request":           {who: "owner", form: true, body: "x=y", status: 303, limit: 64 * kib},
		"POST /ui/devices/{id}/metadata":               {who: "owner", form: true, body: "act=set&key=a&value=b", status: 303, limit: 832 * kib},
		"POST /ui/devices/{id}/revisions":              {who: "owner", form: true, body: "from=0&message=m", limit: 3 * mib},
		"POST /ui/devices/{id}/revisions/{rev}/cancel": {who: "owner", form: true, body: "act=cancel", status: 303, limit: 64 * kib, before: step},
		"POST /ui/devices/{id}/rename": {who: "owner", form: true, body: "nick=anew", status: 303, limit: 64 * kib, before: func(c *contract) map[string]string {
			v := c.plain()
			v["body"] = "nick=n" + v["id"]
			return v
		}},
		"POST /ui/devices/{id}/public": {who: "owner", form: true, body: "public=no", status: 303, limit: 64 * kib},
		"POST /ui/devices/{id}/delete": {who: "owner", form: true, body: "confirm=x", status: 303, limit: 64 * kib, before: func(c *contract) map[string]string {
			v := c.plain()
			v["body"] = "confirm=" + must(c.Store.Device(c.ada.t.Context(), v["id"]))(c.ada.t).Nick
			return v
		}},
		"POST /ui/waiting/decide": {who: "owner", form: true, status: 303, limit: 64 * kib, before: func(c *contract) map[string]string {
			return map[string]string{"body": c.waiting()["body"]}
		}},
		"POST /ui/cloned/decide": {who: "owner", form: true, status: 303, limit: 64 * kib, before: func(c *contract) map[string]string {
			return map[string]string{"body": "id=" + c.boatID + "&decision=one"}
		}},
		"GET /ui/trust":                {who: "owner"},
		"POST /ui/trust":               {who: "owner", form: true, body: "pem=x", status: 400, limit: 576 * kib},
		"GET /ui/trust/eks":            {who: "owner"},
		"GET /ui/boots":                {who: "owner"},
		"GET /ui/trust/judge":          {who: "owner"},
		"GET /ui/devices/lost":         {who: "owner"},
		"GET /ui/boots/{part}/{value}": {who: "owner", before: cohortOfBoat},
		"POST /ui/boots/accept": {who: "owner", form: true, status: 303, limit: 64 * kib, before: func(c *contract) map[string]string {
			return map[string]string{"body": "part=keys&devices=1&value=" + cohortOfBoat(c)["value"]}
		}},
		"POST /ui/boots/undo":             {who: "owner", form: true, body: "id=1", status: 303, limit: 64 * kib},
		"POST /ui/boots/preview-key":      {who: "owner", form: true, body: "key=x&name=k", status: 400, limit: 136 * kib},
		"POST /ui/boots/key":              {who: "owner", form: true, body: "key=x&name=k&password=wrong", status: 400, limit: 136 * kib}, // TestKeysAndManifestsAreChangedOnThePage sends valid forms
		"GET /ui/boots/key/{id}":          {who: "owner", before: manifestKeyOf},
		"POST /ui/boots/key/{id}":         {who: "owner", form: true, body: "x=y", status: 303, limit: 64 * kib, before: manifestKeyOf},
		"POST /ui/boots/preview-manifest": {who: "owner", form: true, limit: 136 * kib, before: manifestForm},
		"POST /ui/boots/manifest":         {who: "owner", form: true, status: 303, limit: 136 * kib, before: manifestForm},
		"GET /ui/boots/manifest/{id}":     {who: "owner", before: storedManifest},
		"POST /ui/boots/manifest/{id}":    {who: "owner", form: true, body: "x=y", status: 303, limit: 64 * kib, before: storedManifest},
		"GET /ui/trust/eks.csv":           {who: "owner"},
		"POST /ui/trust/eks/add":          {who: "owner", form: true, body: "value=ab12", status: 303, limit: 64 * kib},
		"POST /ui/trust/eks/remove": {who: "owner", form: true, body: "value=ab12", status: 303, limit: 64 * kib, before: func(c *contract) map[string]string {
			c.ada.request("POST", "/ui/trust/eks/add", "value=ab12", map[string]string{"Content-Type": "application/x-www-form-urlencoded"})
			return nil
		}},
		"POST /ui/trust/eks/upload":   {who: "owner", form: true, body: "x=y", status: 400, limit: 24*mib + 64*kib},
		"POST /ui/trust/eks/clear":    {who: "owner", form: true, body: "confirm=ada", status: 303, limit: 64 * kib},
		"GET /ui/trust/policy":        {who: "owner"},
		"POST /ui/trust/policy":       {who: "owner", form: true, body: "act=preview&text=version%3A+1", limit: 208 * kib},
		"POST /ui/trust/policy/check": {who: "owner", form: true, body: "text=version%3A+1", limit: 208 * kib},
		"GET /ui/audit":               {who: "owner"},
		"GET /ui/audit/news":          {who: "owner", status: 400},
		"GET /ui/audit.csv":           {who: "owner"},
		"GET /ui/audit.json":          {who: "owner"},
		"GET /ui/settings":            {who: "owner"},
		"POST /ui/settings/password":  {who: "owner", form: true, body: "current=wrong&password=another&again=another", status: 403, limit: 64 * kib},
		"POST /ui/settings/logs":      {who: "owner", form: true, body: "age=7d&size=1+MiB", status: 303, limit: 64 * kib},
		"POST /ui/settings/disable":   {who: "owner", form: true, body: "disable-password=wrong", status: 403, limit: 64 * kib},
		"POST /ui/settings/delete":    {who: "owner", form: true, body: "confirm=x", status: 400, limit: 64 * kib},
		"GET /ui/settings/sessions":   {who: "owner"},
		"POST /ui/settings/sessions": {who: "owner", form: true, status: 303, limit: 64 * kib, before: func(c *contract) map[string]string {
			return map[string]string{"body": "end=" + session(c)["id"]}
		}},
		"GET /ui/settings/api-tokens": {who: "owner"},
		"POST /ui/settings/api-tokens": {who: "owner", form: true, status: 200, limit: 64 * kib, before: func(*contract) map[string]string {
			return map[string]string{"body": "all=yes&life=168h&name=n" + wire.NewID()[:12]}
		}},
		"POST /ui/settings/api-tokens/revoke": {who: "owner", form: true, status: 303, limit: 64 * kib, before: func(c *contract) map[string]string {
			return map[string]string{"body": "id=" + madeAPIToken(c)["id"]}
		}},
	}
}

// joinToken creates a join token of Ada's account.
func joinToken(c *contract) map[string]string {
	return map[string]string{"id": c.Token(c.ada.t, c.Owner, nil).ID}
}

func allPCRs() string {
	var list []string
	for i := range 16 {
		list = append(list, fmt.Sprintf(`"%d":"%064x"`, i, i))
	}
	return strings.Join(list, ",")
}

func begun(c *contract) map[string]string {
	v := c.step()
	want[map[string]any](c.boat, "PUT", "/trails/"+c.boatID+"/steps/"+v["rev"]+"/progress", `{"status":"INPROGRESS"}`, 200)
	return v
}

// session makes a session of Ada's that the test may end.
func session(c *contract) map[string]string {
	c.person(c.ada.t, "ada")
	for _, one := range want[[]api.SessionView](c.ada, "GET", "/auth/sessions", nil, 200) {
		if !one.Current {
			return map[string]string{"id": one.ID}
		}
	}
	c.ada.t.Fatal("no other session")
	return nil
}

func own(c *contract) map[string]string { return map[string]string{"id": c.Owner.ID} }

func apiToken(*contract) map[string]string {
	return map[string]string{"body": `{"name":"n` + wire.NewID()[:12] + `","scopes":["devices.readonly"]}`}
}

func madeAPIToken(c *contract) map[string]string {
	return map[string]string{"id": want[api.APITokenCreated](c.ada, "POST", "/tokens", apiToken(c)["body"], 200).ID}
}

func account(c *contract) map[string]string {
	return map[string]string{"body": `{"nick":"n` + wire.NewID()[:12] + `","password":"` + hubtest.Password + `"}`}
}

func registration(c *contract) map[string]string {
	t := c.ada.t
	d := c.device(t)
	tok := c.Token(t, c.Owner, func(t *store.JoinToken) { t.ForPantacor = true })
	first := must(json.Marshal(d.EnrollRequest()))(t)
	status, body := c.anonymous.do("POST", "/enroll/request", string(first))
	if status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	e := must(d.OpenEnrolled(body))(t)
	return map[string]string{"body": string(must(d.Registration(tok, e.Keys, fleet.RegistrationChange{}))(t))}
}

// The method `at` replaces the variables of a path with the values in `values`, or with Ada's
// values for variables that are not in `values`.
func (c *contract) at(path string, values map[string]string) string {
	all := maps.Clone(c.secrets)
	maps.Copy(all, values)
	for k, v := range all {
		path = strings.ReplaceAll(path, "{"+k+"}", v)
	}
	return path
}

// caller returns a person or device that may call a route.
func (c *contract) caller(r row) *person {
	switch r.who {
	case "all":
		return c.anonymous
	case "device", "chip":
		return c.boat
	case "operator":
		return c.olga
	}
	return c.ada
}

func header(r row) map[string]string {
	if r.form {
		return map[string]string{"Content-Type": "application/x-www-form-urlencoded"}
	}
	return nil
}

var codeForm = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

// isProblem checks that an answer is a 4xx error with a code, a sentence and a hint. If `statuses`
// is not empty, the answer must have one of these statuses.
func isProblem(t *testing.T, what string, status int, body []byte, h http.Header, statuses ...int) {
	t.Helper()
	if len(statuses) > 0 && !slices.Contains(statuses, status) || status < 400 || status >= 500 {
		t.Errorf("%s: %d, not %s: %s", brief.Of(what), status, brief.Of(statuses), brief.Of(body))
		return
	}
	if status == 401 && h.Get("WWW-Authenticate") == "" {
		t.Errorf("%s: a 401 without WWW-Authenticate", what)
	}
	if strings.HasPrefix(h.Get("Content-Type"), "text/html") {
		return
	}
	var p api.Problem
	if err := json.Unmarshal(body, &p); err != nil || p.Status != status || !codeForm.MatchString(p.Code) || !strings.HasSuffix(p.Message, ".") || p.Hint == "" {
		t.Errorf("%s: not a valid problem (%v): %s", what, err, brief.Of(body))
	}
}

// The table of the contract has a row for each route, and no other rows.
func TestContractHasARowForEveryRoute(t *testing.T) {
	rows, routes := contractRows(), routesOf()
	for _, r := range routes {
		if _, ok := rows[r]; !ok {
			t.Errorf("%s has no row", r)
		}
	}
	for r := range rows {
		if !slices.Contains(routes, r) {
			t.Errorf("%s is in the table but is not a route", r)
		}
	}
}

// The method `each` calls `f` for every route, in a fixed order.
func (c *contract) each(f func(method, path string, r row)) {
	rows := contractRows()
	for _, route := range c.routes {
		r, ok := rows[route]
		if !ok {
			continue // TestContractHasARowForEveryRoute reports it
		}
		method, path, _ := strings.Cut(route, " ")
		f(method, path, r)
	}
}

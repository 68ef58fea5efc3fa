package e2e_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"gangway/internal/brief"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
)

// pantavisor is a client with the limits of Pantavisor's two HTTP clients. It sends HTTP/1.0 or
// "Connection: close", follows no redirects, takes only status 200 as success, and reads at most 2
// MiB of body. Its JSON look-up finds the first string that equals the key, at any depth, and does
// not unescape values.
type pantavisor struct {
	t    *testing.T
	host string
	tls  *tls.Config
	id   string

	token string // access token; "" means that the client certificate authenticates
}

// onboardPantavisor onboards an emulated device and returns a client for it that behaves as
// Pantavisor.
func onboardPantavisor(t *testing.T, h *hubtest.Hub, maker *fleet.Maker) *pantavisor {
	t.Helper()
	tok := h.Token(t, h.Owner, nil)
	client, err := fleet.NewHub(tok)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	d, err := fleet.New(maker, "H-2")
	if err != nil {
		t.Fatal(err)
	}
	certs, err := d.Onboard(t.Context(), client, tok)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(h.CA.RootPEM())
	p := &pantavisor{t: t, host: strings.TrimPrefix(h.URL, "https://"), tls: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{certs.TLS(d)}}}
	list := h.Devices(t, h.Owner)
	p.id = list[len(list)-1].ID
	return p
}

// send writes a request, byte for byte as Pantavisor does, and returns the status and the body of
// the response.
func (p *pantavisor) send(c *tls.Config, host, version, method, path string, body []byte) (int, []byte) {
	p.t.Helper()
	conn, err := tls.Dial("tcp", host, c)
	if err != nil {
		p.t.Fatal(err)
	}
	defer conn.Close()
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s %s\r\nHost: %s\r\nUser-Agent: Pantavisor/2 (Linux; x86_64) PV/test Date/0\r\nConnection: close\r\n", method, path, version, host)
	if p.token != "" && !strings.HasPrefix(path, "/local-s3/") {
		fmt.Fprintf(&b, "Authorization: Bearer %s\r\n", p.token)
	}
	if body != nil {
		fmt.Fprintf(&b, "Content-Type: application/json\r\nContent-Length: %d\r\n", len(body))
	}
	b.WriteString("\r\n")
	b.Write(body)
	if _, err := conn.Write(b.Bytes()); err != nil {
		p.t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	if len(answer) > 2<<20 && !strings.HasPrefix(path, "/local-s3/") {
		p.t.Fatalf("%s %s: a reply of %d bytes, want at most 2 MiB", method, path, len(answer))
	}
	return resp.StatusCode, answer
}

// The method `must` sends a request with the device's certificate, requires status 200, and returns
// the body.
func (p *pantavisor) must(method, path, body string) []byte {
	p.t.Helper()
	var b []byte
	if body != "" || method != "GET" {
		b = []byte(body)
	}
	status, answer := p.send(p.tls, p.host, "HTTP/1.1", method, path, b)
	if status != 200 {
		p.t.Fatalf("%s %s: %d %s", method, path, status, brief.Of(answer))
	}
	return answer
}

var firstString = regexp.MustCompile(`"((?:[^"\\]|\\.)*)"`)

// find does the same as Pantavisor's JSON look-up: it returns the value after the first string that
// equals the key, at any depth.
func find(doc []byte, key string) string {
	for _, m := range firstString.FindAllSubmatchIndex(doc, -1) {
		if string(doc[m[2]:m[3]]) != key {
			continue
		}
		rest := bytes.TrimLeft(doc[m[1]:], ": \t\n")
		var value json.RawMessage
		if json.NewDecoder(bytes.NewReader(rest)).Decode(&value) != nil {
			return ""
		}
		return strings.Trim(string(value), `"`)
	}
	return ""
}

// anonymous returns a TLS configuration without a client certificate, for signed URLs.
func (p *pantavisor) anonymous() *tls.Config { return &tls.Config{RootCAs: p.tls.RootCAs} }

// upload uploads an object as Pantavisor does when it first synchronises, and returns the object's
// hash.
func (p *pantavisor) upload(name string, content []byte) string {
	p.t.Helper()
	sum := fmt.Sprintf("%x", sha256.Sum256(content))
	status, answer := p.send(p.tls, p.host, "HTTP/1.0", "POST", "/objects/", fmt.Appendf(nil, `{"objectname":%q,"size":"%d","sha256sum":%q}`, name, len(content), sum))
	switch status {
	case 409:
		return sum
	case 200:
	default:
		p.t.Fatalf("POST /objects/: %d %s", status, brief.Of(answer))
	}
	// Pantavisor uses the part of the URL after /local-s3. For the host, it uses the name in its
	// configuration.
	_, path, found := strings.Cut(find(answer, "signed-puturl"), "/local-s3")
	if !found {
		p.t.Fatalf("no upload URL in %s", brief.Of(answer))
	}
	if status, answer := p.send(p.anonymous(), p.host, "HTTP/1.0", "PUT", "/local-s3"+path, content); status != 200 {
		p.t.Fatalf("PUT: %d %s", status, brief.Of(answer))
	}
	return sum
}

// download downloads an object as Pantavisor does in an update.
func (p *pantavisor) download(sum string) []byte {
	p.t.Helper()
	info := p.must("GET", "/objects/"+sum, "")
	if find(info, "sha256sum") != sum {
		p.t.Fatalf("the hub returned another object: %s", brief.Of(info))
	}
	u, err := url.Parse(strings.ReplaceAll(find(info, "signed-geturl"), `\u0026`, "&"))
	if err != nil || u.Scheme != "https" {
		p.t.Fatalf("%v in %s", err, brief.Of(info))
	}
	status, content := p.send(p.anonymous(), u.Host, "HTTP/1.1", "GET", u.Path, nil) // without the query
	if size, err := strconv.Atoi(find(info, "size")); status != 200 || err != nil || size != len(content) || fmt.Sprintf("%x", sha256.Sum256(content)) != sum {
		p.t.Fatalf("GET: %d, %d bytes, %v", status, len(content), err)
	}
	return content
}

const pendingSteps = "/steps?progress.status=%7B%22$in%22:%5B%22NEW%22,%22DOWNLOADING%22,%22INPROGRESS%22,%22TESTING%22,%22QUEUED%22%5D%7D"

// pending returns the first pending step, or nil.
func (p *pantavisor) pending() []byte {
	p.t.Helper()
	answer := p.must("GET", "/trails/"+p.id+pendingSteps, "")
	var list []json.RawMessage
	if err := json.Unmarshal(answer, &list); err != nil {
		p.t.Fatal(err)
	}
	if len(list) == 0 {
		return nil
	}
	return list[0]
}

// progress reports the progress of a revision to the hub.
func (p *pantavisor) progress(rev int, status, more string) {
	p.t.Helper()
	p.must("PUT", fmt.Sprintf("/trails/%s/steps/%d/progress", p.id, rev), fmt.Sprintf(`{"status":%q,"status-msg":"at work","progress":50,"retries":1%s}`, status, more))
}

// update downloads the pending revision and reports all statuses up to the final status `end`. It
// returns the revision's number and files.
func (p *pantavisor) update(end string) (rev int, files map[string][]byte) {
	p.t.Helper()
	step := p.pending()
	if step == nil {
		p.t.Fatal("no revision is pending")
	}
	rev, err := strconv.Atoi(find(step, "rev"))
	if err != nil {
		p.t.Fatalf("no rev in %s", brief.Of(step))
	}
	var state map[string]any
	if err := json.Unmarshal([]byte(find(step, "state")), &state); err != nil {
		p.t.Fatalf("%v in %s", err, brief.Of(step))
	}
	p.progress(rev, "QUEUED", "")
	p.progress(rev, "DOWNLOADING", `,"downloads":{"total":{"object_name":"total","total_size":1}}`)
	files = map[string][]byte{}
	for name, value := range state {
		if sum, ok := value.(string); ok && name != "#spec" {
			files[name] = p.download(sum)
		}
	}
	p.progress(rev, "INPROGRESS", "")
	// Ask for the pending step again, as Pantavisor does after a restart. The hub must return the
	// same step, with the progress that the device reported.
	if again := p.pending(); find(again, "rev") != strconv.Itoa(rev) || find([]byte(find(again, "progress")), "retries") != "1" {
		p.t.Fatalf("after a restart: %s", brief.Of(again))
	}
	p.progress(rev, "TESTING", "")
	p.progress(rev, end, "")
	return rev, files
}

// firstSync sends the state that runs on the device to the hub, as the first revision of the trail.
func (p *pantavisor) firstSync(files map[string][]byte) {
	p.t.Helper()
	if answer := p.must("GET", "/trails/", ""); string(bytes.TrimSpace(answer)) != "[]" {
		p.t.Fatalf("the hub has a trail already: %s", brief.Of(answer))
	}
	state := map[string]any{"#spec": "pantavisor-service-system@1", "device.json": map[string]any{"name": "<test>", "rev": 99}}
	for name, content := range files {
		state[name] = p.upload(name, content)
	}
	b, err := json.Marshal(state)
	if err != nil {
		p.t.Fatal(err)
	}
	for range 2 { // the second time as if the hub's first response was lost
		p.must("POST", "/trails/", string(b))
	}
	if answer := p.must("GET", "/trails/", ""); bytes.Count(answer, []byte(p.id+`","owner"`)) != 1 {
		p.t.Fatalf("the hub lists %s, want one trail", brief.Of(answer))
	}
}

// pantavisorHub starts a hub with one emulated device that speaks Pantavisor's protocol.
func pantavisorHub(t *testing.T) (*hubtest.Hub, *pantavisor) {
	t.Helper()
	maker, err := fleet.NewMaker("good", fleet.MakerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	h := hubtest.New(t, maker.Roots(), maker.Intermediates())
	return h, onboardPantavisor(t, h, maker)
}

// The hub serves the sequence that Pantavisor runs after its registration: the first
// synchronisation, updates, and logs.
func TestPantavisorsSequence(t *testing.T) {
	t.Parallel()
	h, p := pantavisorHub(t)
	kernel := bytes.Repeat([]byte("kernel\n"), 200_000)
	p.firstSync(map[string][]byte{"bsp/kernel": kernel, "bsp/modules": []byte("modules")})
	if p.pending() != nil {
		t.Fatal("the first revision is pending as an update")
	}
	owner := signIn(t, h)
	sum := fmt.Sprintf("%x", sha256.Sum256(kernel))
	post := func() {
		t.Helper()
		owner.call("POST", "/trails/"+p.id+"/steps", json.RawMessage(`{"rev":-1,"commit-msg":"rev","state":{"#spec":"pantavisor-service-system@1","bsp/kernel":"`+sum+`","a.json":{"rev":7,"state":{"x":1}}}}`), new(any))
	}
	post()
	post()
	for i, end := range []string{"DONE", "ERROR"} {
		rev, files := p.update(end)
		if rev != i+1 || !bytes.Equal(files["bsp/kernel"], kernel) || len(files) != 1 {
			t.Errorf("rev %d, %d files", rev, len(files))
		}
	}
	if p.pending() != nil {
		t.Error("a revision that ended is still pending")
	}
	var lines []string
	for i := range 200 {
		lines = append(lines, fmt.Sprintf(`{"tsec":%d,"tnano":0,"lvl":"INFO","src":"/pantavisor.log","plat":"pantavisor","rev":"2","msg":"line %d"}`, i, i))
	}
	status, answer := p.send(p.tls, p.host, "HTTP/1.0", "POST", "/logs/", []byte("["+strings.Join(lines, ",")+"]"))
	if status != 200 || find(answer, "status") != "ok" {
		t.Errorf("POST /logs/: %d %s", status, brief.Of(answer))
	}
	// Without a certificate or a token, the hub answers 401 to every request.
	if status, _ := p.send(p.anonymous(), p.host, "HTTP/1.1", "GET", "/trails/", nil); status != 401 {
		t.Errorf("without credentials: status %d, want 401", status)
	}
}

// A device with Pantavisor can read the list of pending steps even if their states have the largest
// size.
func TestLargestStateFitsADevice(t *testing.T) {
	t.Parallel()
	h, p := pantavisorHub(t)
	p.firstSync(nil)
	owner := signIn(t, h)
	for range 3 {
		state := `{"#spec":"pantavisor-service-system@1","a.json":"` + strings.Repeat("x", 1<<20-70) + `"}`
		owner.call("POST", "/trails/"+p.id+"/steps", json.RawMessage(`{"state":`+state+`}`), new(any))
	}
	if step := p.pending(); find(step, "rev") != "1" {
		t.Error("the first pending step is not revision 1")
	}
}

package load

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"gangway/internal/fleet"
	"gangway/wire"
)

// kind describes a kind of operation. An operation is what a device does at one scheduled time; it
// sends one request or several.
type kind struct {
	name, about string
	onboards    bool // the operation needs a device that is not onboarded
	device      bool // the operation needs an onboarded device
	keeps       bool // the operation uses the device's persistent connection
	trail       bool // the operation needs the device's trail
	token       bool // the operation needs an access token
	hostile     bool // the hub must refuse the operation; see the type expected
	run         func(ctx context.Context, r *runner, d *device) error
}

var kinds = []kind{
	{name: "onboard", about: "enrol and activate a device that is not onboarded yet, on two TLS connections", onboards: true, keeps: true, run: onboard},
	{name: "report", about: "send a report on the device's persistent connection (PATCH /device/meta)", device: true, keeps: true, run: report},
	{name: "poll", about: "ask for pending steps as Pantavisor does: on a new TLS connection without a client certificate, with an access token and the header Connection: close", device: true, trail: true, token: true, run: poll},
	{name: "logs", about: "send log lines on the device's persistent connection (POST /logs)", device: true, keeps: true, run: sendLogs},
	{name: "update", about: "post a revision and install it: find the pending step, download its object, report four statuses", device: true, keeps: true, trail: true, run: update},
	{name: "handshake", about: "do only the TLS handshake of a poll, to compare its cost with that of a whole poll", run: handshake},
	{name: "slow", about: "hostile: open TLS and send a byte a second until the hub closes the connection", hostile: true, run: slow},
	{name: "garbage", about: "hostile: send random bytes instead of TLS", hostile: true, run: garbage},
	{name: "oversized", about: "hostile: send a body that is too large to POST /onboard", hostile: true, run: oversized},
	{name: "forged", about: "hostile: send a forged request to POST /onboard: with the EK certificate of another TPM, corrupted bytes, a signature by the wrong key, or a wrong token", hostile: true, run: forged},
}

// KindHelp has the name and the description of a kind of operation, for a help text.
type KindHelp struct{ Name, About string }

// Kinds lists the kinds of requests.
func Kinds() []KindHelp {
	list := make([]KindHelp, len(kinds))
	for i, k := range kinds {
		list[i] = KindHelp{k.name, k.about}
	}
	return list
}

func findKind(name string) *kind {
	for i := range kinds {
		if kinds[i].name == name {
			return &kinds[i]
		}
	}
	return nil
}

// routes counts the requests to each route of the hub. It names the routes as the hub's metrics do.
type routes struct {
	mu sync.Mutex
	by map[string]*routeCount
}

type routeCount struct {
	latency  *times // measured from the moment at which the request was sent
	statuses tally  // status codes of the answers
	errors   tally  // errors of requests that got no answer
}

func (r *routes) of(name string) *routeCount {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.by == nil {
		r.by = map[string]*routeCount{}
	}
	c := r.by[name]
	if c == nil {
		c = &routeCount{latency: newTimes()}
		r.by[name] = c
	}
	return c
}

// send sends a request on a connection, and counts it under `route`, such as "POST /logs".
func (r *runner) send(ctx context.Context, c *conn, route string, q request) (a *answer, open bool, err error) {
	n := r.routes.of(route)
	begin := time.Now()
	a, open, err = c.do(ctx, r.cfg.Timeout, q)
	if err != nil {
		n.errors.add(errorCode(ctx, err))
		return nil, false, err
	}
	n.latency.record(time.Since(begin))
	n.statuses.add(fmt.Sprint(a.status))
	return a, open, nil
}

const (
	agentName      = "gangway-agent" // User-Agent of the agent's requests
	pantavisorName = "Pantavisor/2 (Linux; x86_64) PV/fleet Date/0"
)

// call sends a request on the device's own connection, and returns the body of the answer. It opens
// a connection if the device has none, and returns an error if the status is not 200.
func (r *runner) call(ctx context.Context, d *device, route, method, path string, body []byte) ([]byte, error) {
	for again := false; ; again = true {
		if d.conn == nil {
			c, err := r.to.dial(withDevice(ctx, d), d.number, r.to.device)
			if err != nil {
				return nil, err
			}
			d.conn = c
		}
		a, open, err := r.send(ctx, d.conn, route, request{method: method, path: path, agent: agentName, last: r.cfg.NewConnections, body: body})
		if !open {
			d.conn = nil
		}
		if errors.Is(err, errReused) && !again {
			r.reconnects.Add(1)
			continue
		}
		if err != nil {
			return nil, err
		}
		d.used = time.Now()
		return a.body, a.ok()
	}
}

// freshen makes a new emulated TPM for the device, and the onboarding request of this TPM.
func (r *runner) freshen(d *device) error {
	if r.cfg.Maker == nil {
		return errNoMaker
	}
	tpm, err := fleet.New(r.cfg.Maker, "H-2") // an EK on P-256: its key is small, and fast to make
	if err != nil {
		return err
	}
	b, err := tpm.Request(r.cfg.Token, fleet.RequestChange{})
	if err != nil {
		return err
	}
	d.fresh = &freshDevice{tpm, b}
	return nil
}

func onboard(ctx context.Context, r *runner, d *device) error {
	f := d.fresh
	c, err := r.to.dial(ctx, d.number, r.to.anonymous)
	if err != nil {
		return err
	}
	a, open, err := r.send(ctx, c, "POST /onboard", request{method: http.MethodPost, path: "/onboard", agent: agentName, body: f.request})
	if open {
		c.close()
	}
	if err != nil {
		return err
	}
	if err := a.ok(); err != nil {
		return err
	}
	certs, err := f.tpm.Open(f.request, a.body)
	if err != nil {
		return err
	}
	key, ok := f.tpm.IDevID.Private.(*ecdsa.PrivateKey)
	if !ok {
		return errors.New("the device's key is not ECDSA")
	}
	d.key, d.cert, d.ca = key, certs.IDevID.Raw, r.deviceCA(certs.DeviceCA.Raw)
	if c, err = r.to.dial(withDevice(ctx, d), d.number, r.to.device); err != nil {
		return err
	}
	return r.activate(ctx, d, c, certs)
}

// activate sends the activation proof on the connection `c`. The device keeps this connection for
// its later requests.
func (r *runner) activate(ctx context.Context, d *device, c *conn, certs *fleet.Certificates) error {
	state := c.tls.ConnectionState()
	exporter, err := state.ExportKeyingMaterial(wire.ExporterLabel, nil, wire.ExporterSize)
	if err != nil {
		c.close()
		return err
	}
	body, err := json.Marshal(wire.ActivationRequest{Proof: wire.ActivationProof(certs.Keys, exporter, certs.IDevIDHash())})
	if err != nil {
		c.close()
		return err
	}
	a, open, err := r.send(ctx, c, "POST /onboard/activate", request{method: http.MethodPost, path: "/onboard/activate", agent: agentName, body: body})
	if err != nil {
		return err
	}
	var record struct {
		ID string `json:"id"`
	}
	err = a.ok()
	if err == nil {
		err = json.Unmarshal(a.body, &record)
	}
	if err == nil && !wire.IsID(record.ID) {
		err = fmt.Errorf("the hub's answer to the activation has no id: %.200s", a.body)
	}
	if err == nil {
		d.id, d.fresh = record.ID, nil
		if open && r.keeps() {
			d.conn, open = c, false
		}
	}
	if open {
		c.close()
	}
	return err
}

func report(ctx context.Context, r *runner, d *device) error {
	_, err := r.call(ctx, d, "PATCH /device/meta", http.MethodPatch, "/device/meta", r.reportBody(d))
	return err
}

// reportBody returns a report in JSON, with the same members as the agent's reports.
func (r *runner) reportBody(d *device) []byte {
	now := time.Now()
	up := int(now.Sub(r.started).Seconds()) + d.number%86400
	return fmt.Appendf(nil, `{"gangway.version":"fleet","gangway.uptime-s":%d,"gangway.arch":"amd64","gangway.hostname":"fleet-%d","gangway.kernel":"6.12.0",`+
		`"pantavisor.arch":"x86_64/64/EL","pantavisor.cpumodel":"software emulation","pantavisor.mode":"remote","pantahub.claimed":"1","pantahub.online":"1","pantahub.state":"idle",`+
		`"interfaces":{"eth0.ipv4":["192.0.2.%d"]},"time":{"timeval":{"tv_sec":%d,"tv_usec":0},"timezone":{"tz_minuteswest":0,"tz_dsttime":0}},`+
		`"sysinfo":{"uptime":%d,"loads":[%d,0,0],"totalram":4294967296,"freeram":%d,"procs":99},"storage":{"total":68719476736,"free":%d,"reserved":0,"real_free":%d}}`,
		up, d.number, d.number%250+1, now.Unix(), up, up%100, 1<<31-up*4096, 1<<35-up*512, 1<<35-up*512)
}

func sendLogs(ctx context.Context, r *runner, d *device) error {
	now := time.Now()
	var b bytes.Buffer
	for i := range r.cfg.LogLines {
		sep := ","
		if i == 0 {
			sep = "["
		}
		fmt.Fprintf(&b, `%s{"tsec":%d,"tnano":%d,"lvl":"INFO","src":"app.log","plat":"gangway","rev":"%d","msg":"device %d: line %d: pump: 1450 rpm, 4.2 bar, valve open"}`,
			sep, now.Unix(), now.Nanosecond(), d.rev, d.number, i)
	}
	b.WriteByte(']')
	_, err := r.call(ctx, d, "POST /logs", http.MethodPost, "/logs", b.Bytes())
	return err
}

// tokenFor is how long a device uses an access token before it gets a new one. The hub accepts a
// token for an hour.
const tokenFor = 50 * time.Minute

// signIn gets an access token from the hub, unless the device has one that is still valid.
func (r *runner) signIn(ctx context.Context, d *device) error {
	if d.token != "" && time.Now().Before(d.until) {
		return nil
	}
	until := time.Now().Add(tokenFor)
	body, err := r.call(ctx, d, "POST /auth/x509/login", http.MethodPost, "/auth/x509/login", nil)
	if err != nil {
		return err
	}
	var a struct{ Token string }
	if err := json.Unmarshal(body, &a); err != nil || a.Token == "" {
		return errors.New("the hub's answer has no access token")
	}
	d.token, d.until = a.Token, until
	if !r.keeps() && d.conn != nil {
		d.conn.close()
		d.conn = nil
	}
	return nil
}

const systemSpec = `"#spec":"pantavisor-service-system@1"`

// createTrail makes the device's trail on the hub by sending the device's first state, unless the
// trail already exists.
func (r *runner) createTrail(ctx context.Context, d *device) error {
	if d.trail {
		return nil
	}
	_, err := r.call(ctx, d, "POST /trails", http.MethodPost, "/trails", []byte(`{`+systemSpec+`,"device.json":{"name":"fleet"}}`))
	d.trail = err == nil
	return err
}

// pendingSteps is the query with which Pantavisor asks for pending steps.
const pendingSteps = "/steps?progress.status=%7B%22$in%22:%5B%22NEW%22,%22DOWNLOADING%22,%22INPROGRESS%22,%22TESTING%22,%22QUEUED%22%5D%7D"

const stepsRoute = "GET /trails/{id}/steps"

func poll(ctx context.Context, r *runner, d *device) error {
	if err := r.setUp(ctx, d); err != nil {
		return err
	}
	c, err := r.to.dial(ctx, d.number, r.to.pantavisor)
	if err != nil {
		return err
	}
	a, _, err := r.send(ctx, c, stepsRoute, request{method: http.MethodGet, path: "/trails/" + d.id + pendingSteps, token: d.token, agent: pantavisorName, last: true})
	if err != nil {
		return err
	}
	if a.status == http.StatusUnauthorized {
		d.token = "" // sign in again at the next poll
	}
	return a.ok()
}

func handshake(ctx context.Context, r *runner, _ *device) error {
	c, err := r.to.dial(ctx, r.source(), r.to.pantavisor)
	if err != nil {
		return err
	}
	c.close()
	return nil
}

// object is the object that all updates download.
type object struct {
	content []byte
	sum     string
}

// upload uploads the object that all updates download. The device `d` sends the requests.
func (r *runner) upload(ctx context.Context, d *device) error {
	content := make([]byte, r.cfg.ObjectSize)
	for i := range content {
		content[i] = byte(i * 7)
	}
	sum := sha256.Sum256(content)
	r.object = object{content, hex.EncodeToString(sum[:])}
	body, err := r.call(ctx, d, "POST /objects", http.MethodPost, "/objects", fmt.Appendf(nil, `{"objectname":"app/data.bin","size":"%d","sha256sum":%q}`, len(content), r.object.sum))
	var no *refusal
	if errors.As(err, &no) && no.status == http.StatusConflict {
		return nil // an earlier run uploaded it
	}
	if err != nil {
		return err
	}
	at, err := blobPath(body, "signed-puturl")
	if err != nil {
		return err
	}
	c, err := r.to.dial(ctx, d.number, r.to.anonymous)
	if err != nil {
		return err
	}
	a, _, err := r.send(ctx, c, "PUT /local-s3/{token}", request{method: http.MethodPut, path: at, agent: agentName, last: true, body: content})
	if err != nil {
		return err
	}
	return a.ok()
}

// blobPath returns the path of the signed URL in the member `key` of the hub's answer about an
// object.
func blobPath(body []byte, key string) (string, error) {
	var record map[string]any
	if err := json.Unmarshal(body, &record); err != nil {
		return "", err
	}
	text, _ := record[key].(string)
	u, err := url.Parse(text)
	if err != nil || !strings.HasPrefix(u.Path, "/local-s3/") {
		return "", fmt.Errorf("the hub's answer about the object has no usable %s", key)
	}
	return u.EscapedPath(), nil
}

// update performs a whole update: it posts a revision, which is the owner's part, and installs it.
// A device may post revisions to its own trail, so the fleet need not sign in as the owner.
func update(ctx context.Context, r *runner, d *device) error {
	if err := r.setUp(ctx, d); err != nil {
		return err
	}
	trail := "/trails/" + d.id
	body, err := r.call(ctx, d, "POST /trails/{id}/steps", http.MethodPost, trail+"/steps", fmt.Appendf(nil, `{"rev":-1,"commit-msg":"fleet","state":{%s,"app/data.bin":%q,"app/run.json":{"time":%d}}}`, systemSpec, r.object.sum, time.Now().UnixNano()))
	if err != nil {
		return err
	}
	var posted struct{ Rev int }
	if err := json.Unmarshal(body, &posted); err != nil {
		return err
	}
	if body, err = r.call(ctx, d, stepsRoute, http.MethodGet, trail+pendingSteps, nil); err != nil {
		return err
	}
	var pending []struct{ Rev int }
	if err := json.Unmarshal(body, &pending); err != nil {
		return err
	}
	if len(pending) == 0 {
		return errNoStep
	}
	d.rev = pending[0].Rev // first complete an update that was interrupted
	for _, status := range []string{"DOWNLOADING", "INPROGRESS", "TESTING", "DONE"} {
		if status == "INPROGRESS" {
			if err := r.download(ctx, d); err != nil {
				return err
			}
		}
		path := fmt.Sprintf("%s/steps/%d/progress", trail, d.rev)
		if _, err := r.call(ctx, d, "PUT /trails/{id}/steps/{rev}/progress", http.MethodPut, path, fmt.Appendf(nil, `{"status":%q,"status-msg":"at work","progress":50}`, status)); err != nil {
			return err
		}
	}
	return nil
}

var (
	errNoStep  = errors.New("the hub has no pending step, although one was posted")
	errNoMaker = errors.New("this run needs new devices, so it needs the CA of the emulated TPMs (--maker)")
)

// download downloads the object that all updates use, and checks its content.
func (r *runner) download(ctx context.Context, d *device) error {
	body, err := r.call(ctx, d, "GET /objects/{sha}", http.MethodGet, "/objects/"+r.object.sum, nil)
	if err != nil {
		return err
	}
	at, err := blobPath(body, "signed-geturl")
	if err != nil {
		return err
	}
	c, err := r.to.dial(ctx, d.number, r.to.anonymous)
	if err != nil {
		return err
	}
	a, _, err := r.send(ctx, c, "GET /local-s3/{token}", request{method: http.MethodGet, path: at, agent: agentName, last: true})
	if err != nil {
		return err
	}
	if err := a.ok(); err != nil {
		return err
	}
	if !bytes.Equal(a.body, r.object.content) {
		return errors.New("the hub sent a different object than the fleet uploaded")
	}
	return nil
}

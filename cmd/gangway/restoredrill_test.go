package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gangway/internal/fleet"
	"gangway/internal/race"
)

// drillDevice is a device of the load, with the data that the hub has acknowledged.
type drillDevice struct {
	tpm       *fleet.Device
	certs     *fleet.Certificates
	id        string
	began     time.Time
	onboarded time.Time // when the device had the hub's answer
	object    []byte    // an object that the device uploaded
	revision  time.Time // when the device knew that its first revision, with this object, is stored
	reports   []time.Time
}

func (d *drillDevice) sum() string {
	sum := sha256.Sum256(d.object)
	return hex.EncodeToString(sum[:])
}

// drillLoad puts a hub under load: its devices onboard, upload an object, post a revision and
// report.
type drillLoad struct {
	h    *movingHub
	hub  *fleet.Hub
	stop context.CancelFunc
	done sync.WaitGroup

	mu      sync.Mutex
	devices []*drillDevice
	failed  []string
}

func (h *movingHub) drill(workers int) *drillLoad {
	h.t.Helper()
	hub, err := fleet.NewHub(h.token)
	if err != nil {
		h.t.Fatal(err)
	}
	l := &drillLoad{h: h, hub: hub}
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	h.t.Cleanup(func() { stop(); l.done.Wait() })
	for range workers {
		l.done.Go(func() {
			for ctx.Err() == nil {
				if err := l.live(ctx); err != nil {
					l.mu.Lock()
					l.failed = append(l.failed, err.Error())
					l.mu.Unlock()
				}
			}
		})
	}
	return l
}

// The method `live` does everything that one device does: it onboards, uploads an object, posts a
// revision and reports.
func (l *drillLoad) live(ctx context.Context) error {
	tpm, err := fleet.New(l.h.maker, "L-2")
	if err != nil {
		return err
	}
	d := &drillDevice{tpm: tpm, began: time.Now()}
	if d.certs, err = tpm.Onboard(context.Background(), l.hub, l.h.token); err != nil {
		return err
	}
	l.mu.Lock()
	d.onboarded = time.Now()
	l.devices = append(l.devices, d)
	l.mu.Unlock()
	conn, err := l.hub.Dial(context.Background(), d.certs.TLS(tpm))
	if err != nil {
		return err
	}
	defer conn.Close()
	id, object, err := firstRevision(conn)
	if err != nil {
		return err
	}
	l.mu.Lock()
	d.id, d.object, d.revision = id, object, time.Now()
	l.mu.Unlock()
	for n := range 10 {
		if ctx.Err() != nil {
			return nil
		}
		if _, err := ask(conn, http.MethodPatch, "/device/meta", fmt.Appendf(nil, `{"n":"%d"}`, n)); err != nil {
			return err
		}
		l.mu.Lock()
		d.reports = append(d.reports, time.Now())
		l.mu.Unlock()
		time.Sleep(20 * time.Millisecond)
	}
	return nil
}

// ask sends a request, and expects the status 200.
func ask(conn *fleet.Conn, method, path string, body []byte) ([]byte, error) {
	a, err := conn.Do(context.Background(), method, path, body)
	if err == nil && a.Status != http.StatusOK {
		err = fmt.Errorf("%s %s: %d %s", method, path, a.Status, a.Body)
	}
	if err != nil {
		return nil, err
	}
	return a.Body, nil
}

// firstRevision uploads a new object, and posts a first revision that contains the object.
func firstRevision(conn *fleet.Conn) (id string, object []byte, err error) {
	self, err := ask(conn, http.MethodGet, "/device", nil)
	if err != nil {
		return "", nil, err
	}
	var device struct{ ID string }
	if err := json.Unmarshal(self, &device); err != nil {
		return "", nil, err
	}
	object = []byte(strings.Repeat("the object of "+device.ID+"\n", 200))
	sum := sha256.Sum256(object)
	text, err := ask(conn, http.MethodPost, "/objects", fmt.Appendf(nil, `{"objectname":"app/data","size":"%d","sha256sum":"%x"}`, len(object), sum))
	if err != nil {
		return "", nil, err
	}
	at, err := signedPath(text, "signed-puturl")
	if err != nil {
		return "", nil, err
	}
	if _, err := ask(conn, http.MethodPut, at, object); err != nil {
		return "", nil, err
	}
	_, err = ask(conn, http.MethodPost, "/trails", fmt.Appendf(nil, `{"#spec":"pantavisor-service-system@1","app/data":"%x"}`, sum))
	return device.ID, object, err
}

// signedPath returns the path of a signed URL from the hub's JSON description of an object.
func signedPath(text []byte, key string) (string, error) {
	var record map[string]any
	if err := json.Unmarshal(text, &record); err != nil {
		return "", err
	}
	at, _ := record[key].(string)
	u, err := url.Parse(at)
	if err != nil || u.Path == "" {
		return "", fmt.Errorf("no %s in %s", key, text)
	}
	return u.EscapedPath(), nil
}

// The method `works` checks that the hub knows the device and the certificate of its identity. If
// the device sent reports or posted its revision before the time `before`, the hub must have the
// last of these reports, the revision and the revision's object.
func (d *drillDevice) works(hub *fleet.Hub, before time.Time) error {
	conn, err := hub.Dial(context.Background(), d.certs.TLS(d.tpm))
	if err != nil {
		return err
	}
	defer conn.Close()
	self, err := ask(conn, http.MethodGet, "/device", nil)
	if err != nil {
		return err
	}
	var known struct {
		ID   string
		Meta map[string]string `json:"device-meta"`
	}
	if err := json.Unmarshal(self, &known); err != nil {
		return err
	}
	if d.id != "" && known.ID != d.id {
		return fmt.Errorf("it is the device %s, and was %s", known.ID, d.id)
	}
	n := -1 // the last report before
	for i, at := range d.reports {
		if at.Before(before) {
			n = i
		}
	}
	var have int
	if _, err := fmt.Sscan(known.Meta["n"], &have); n >= 0 && (err != nil || have < n) {
		return fmt.Errorf("its report %d is lost; the newest is %q", n, known.Meta["n"])
	}
	if _, err := ask(conn, http.MethodPatch, "/device/meta", []byte(`{"after":"1"}`)); err != nil {
		return err
	}
	if d.revision.IsZero() || !d.revision.Before(before) {
		return nil
	}
	state, err := ask(conn, http.MethodGet, "/trails/"+d.id+"/steps/0/state", nil)
	if err != nil || !strings.Contains(string(state), d.sum()) {
		return fmt.Errorf("its revision: %s, %w", state, err)
	}
	record, err := ask(conn, http.MethodGet, "/objects/"+d.sum(), nil)
	if err != nil {
		return err
	}
	at, err := signedPath(record, "signed-geturl")
	if err != nil {
		return err
	}
	content, err := ask(conn, http.MethodGet, at, nil)
	if err == nil && sha256.Sum256(content) != sha256.Sum256(d.object) {
		err = fmt.Errorf("its object has %d other bytes", len(content))
	}
	return err
}

// The method `refused` returns the code with which the hub refuses the device.
func (d *drillDevice) refused(hub *fleet.Hub) string {
	conn, err := hub.Dial(context.Background(), d.certs.TLS(d.tpm))
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	a, err := conn.Do(context.Background(), http.MethodPatch, "/device/meta", []byte(`{}`))
	if err != nil {
		return err.Error()
	}
	return a.Code()
}

// wait waits until n more devices have a revision.
func (l *drillLoad) wait(n int) {
	l.h.t.Helper()
	count := func() (n int) {
		for _, d := range l.have() {
			if !d.revision.IsZero() {
				n++
			}
		}
		return n
	}
	first := count()
	for deadline := time.Now().Add(time.Minute); count() < first+n; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			l.h.t.Fatalf("only %d devices: %v\nthe hub: %s", count(), l.failed, l.h.log())
		}
	}
}

// The method `have` returns copies of the devices that the load has onboarded so far.
func (l *drillLoad) have() (list []drillDevice) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range l.devices {
		one := *d
		one.reports = slices.Clone(d.reports)
		list = append(list, one)
	}
	return list
}

// This test is a restore drill: a hub under load is backed up, and loses its disk. Everything that
// the hub acknowledged before the backup works in the restored hub: each device with its
// certificate, its identity, its object and its reports. The restore repeats the deletions and
// revocations after the backup, and lists the devices that it lost. A lost device can onboard again
// only after the operator has resumed the paused join token. 'make e2e-full' does the same with
// PostgreSQL.
func TestRestoreDrillUnderLoad(t *testing.T) {
	race.Skip(t)
	if testing.Short() {
		t.Skip("backs up a hub under load, and restores it")
	}
	t.Parallel()
	for _, engine := range []string{"SQLite", "PostgreSQL"} {
		t.Run(engine, func(t *testing.T) {
			if engine == "PostgreSQL" && os.Getenv("GANGWAY_E2E_FULL") == "" {
				t.Skip("make test has the drill with a database file")
			}
			t.Parallel()
			restoreDrill(t, engine == "PostgreSQL")
		})
	}
}

func restoreDrill(t *testing.T, shared bool) {
	h := newHubOn(t, shared)
	var key struct{ Recipient string }
	decode(t, h.run("", "backup", "key", h.path("backup.key"), "--output", "json"), &key)
	h.run("", "token", "create", "-o", h.path("limited.json"), "--max-uses", "1000", "--nick", "limited")
	h.run("", "token", "create", "-o", h.path("spare.json"), "--nick", "spare")
	h.run("", "api-token", "create", "ci", "--scope", "all", "-o", h.path("ci.token"))
	h.useToken("limited.json")
	backup := []string{"backup", "--data", h.data(), "--to", h.path("backups"), "--recipient", key.Recipient, "--output", "json"}

	l := h.drill(4)
	l.wait(6)
	h.run("", backup...) // so the second backup is incremental
	l.wait(6)
	begun := time.Now()
	var done struct {
		File, Hub       string
		Objects, Copied int
	}
	decode(t, h.run("", backup...), &done)
	ended := time.Now()
	if done.Copied == 0 || done.Copied >= done.Objects {
		t.Errorf("the second backup copied %d of %d objects", done.Copied, done.Objects)
	}
	before, _ := split(l.have(), begun, ended)

	// After the backup, the owner deletes a device, disables a join token and revokes an API token.
	gone := before[0]
	h.run("", "device", "delete", gone.id, "--yes")
	h.run("", "token", "disable", h.tokenID("spare.json"))
	h.run("", "api-token", "revoke", "ci")
	l.wait(8) // the onboarding of four of these devices may have begun before the backup ended
	l.stop()
	l.done.Wait()
	events := h.run("", "events", "--data", h.data(), "--since", "1h", "--output", "jsonl", "--sign")
	must(t, os.WriteFile(h.path("since.jsonl"), []byte(events), 0o600))
	must(t, h.hub.Process.Kill())
	_ = h.hub.Wait()
	_, after := split(l.have(), begun, ended)
	if len(l.failed) > 0 {
		t.Errorf("the load failed: %v", l.failed)
	}

	// The disk is lost.
	h.folder = h.path("restored")
	if shared {
		if _, err := h.pg.Query(t.Context(), "postgres", "CREATE DATABASE restored"); err != nil {
			t.Fatal(err)
		}
		h.env = []string{"GANGWAY_DATABASE=" + h.pg.URL("restored")}
	}
	var restored struct {
		Repeated int            `json:"repeated-changes"`
		Unknown  int            `json:"unknown-changes"`
		Lost     map[string]int `json:"lost-events"`
		Gaps     []struct{}     `json:"event-gaps"`
		Until    time.Time      `json:"events-until"`
		Tokens   int            `json:"paused-tokens"`
		Findings []struct{ Code, Severity string }
	}
	decode(t, h.run("", "restore", done.File, "--data", h.data(), "--identity", h.path("backup.key"), "--hub-name", done.Hub, "--events", h.path("since.jsonl"), "--output", "json"), &restored)
	if restored.Repeated != 3 || restored.Unknown != 0 || restored.Tokens != 1 {
		t.Errorf("%d changes were repeated, and %d are unknown; %d tokens are paused", restored.Repeated, restored.Unknown, restored.Tokens)
	}
	if len(restored.Gaps) > 0 || restored.Until.Before(ended) {
		t.Errorf("the events since the hour before have %d gaps and end at %s", len(restored.Gaps), restored.Until)
	}
	// The backup records the time at which it began in whole seconds, and restore counts all events
	// since that time. So the test truncates the time too.
	sure, _ := split(l.have(), begun.Truncate(time.Second), ended)
	if n := restored.Lost["device.activated"]; n < len(after) || n > len(l.devices)-len(sure) {
		t.Errorf("the restore names %d lost devices; %d onboarded after the backup, and %d before", n, len(after), len(sure))
	}
	for _, kind := range []string{"device.deleted", "token.disabled", "api-token.revoked"} {
		list := h.run("", "events", "--data", h.data(), "--kind", kind, "--output", "jsonl")
		if n := strings.Count(list, "Repeated after a restore"); n != 1 {
			t.Errorf("%s is repeated %d times: %s", kind, n, list)
		}
	}
	h.run("", "fsck", "--data", h.data(), "--contents") // fails if it finds a problem

	h.serve()
	h.await()
	for _, d := range before {
		if d.id == gone.id {
			if code := d.refused(l.hub); code != "certificate-not-active" {
				t.Errorf("the deleted device gets %q", code)
			}
		} else if err := d.works(l.hub, begun); err != nil {
			t.Errorf("a device that onboarded %s before the backup: %v", begun.Sub(d.onboarded).Round(time.Millisecond), err)
		}
	}
	var want []string
	for _, d := range after {
		if code := d.refused(l.hub); code != "certificate-not-active" {
			t.Errorf("a device that onboarded after the backup gets %q", code)
		}
		if d.id != "" {
			want = append(want, d.id)
		}
	}
	var lost []struct{ Device string }
	decode(t, h.run("", "restore", "lost", "--data", h.data(), "--output", "json"), &lost)
	for _, id := range want {
		if !slices.ContainsFunc(lost, func(d struct{ Device string }) bool { return strings.HasSuffix(d.Device, id) }) {
			t.Errorf("the lost device %s is not listed: %v", id, lost)
		}
	}
	if len(lost) != len(after) {
		t.Errorf("%d lost devices are listed, and %d have connected", len(lost), len(after))
	}

	// The hub does not know which uses of a token were lost, so it pauses the token until the
	// operator resumes it.
	back := after[0]
	if _, err := back.tpm.Onboard(t.Context(), l.hub, h.token); err == nil || !strings.Contains(err.Error(), "token-paused") {
		t.Errorf("the paused token: %v", err)
	}
	h.run("", "restore", "resume", h.token.ID, "--data", h.data(), "--spent", fmt.Sprint(len(after)))
	if _, err := back.tpm.Onboard(t.Context(), l.hub, h.token); err != nil {
		t.Errorf("a lost device does not come back: %v", err)
	}
	h.run("", "fsck", "--data", h.data())
	t.Logf("%d devices before the backup, %d after it, %d during it", len(before), len(after), len(l.devices)-len(before)-len(after))
}

// The function `split` returns the devices that were onboarded before a backup began, and those
// that began to onboard after it had ended.
func split(list []drillDevice, begun, ended time.Time) (before, after []drillDevice) {
	for _, d := range list {
		switch {
		case d.onboarded.Before(begun):
			before = append(before, d)
		case d.began.After(ended):
			after = append(after, d)
		}
	}
	return before, after
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func decode(t *testing.T, text string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
}

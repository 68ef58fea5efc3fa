package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/objects"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/fleet"
	"gangway/internal/race"
	"gangway/wire"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// newReplicas returns two hubs that share one database. The token file of the second scene names
// the second hub.
func newReplicas(t *testing.T) (first, second *scene) {
	t.Helper()
	first = newSceneWith(t, func(c *api.Config) { c.Replicas = true })
	other := *first
	other.Hub = first.Join(t)
	tok := *first.tok
	tok.Hub = other.URL
	other.tok = &tok
	other.client = must(fleet.NewHub(&tok))(t)
	return first, &other
}

// A change at one replica takes effect with the next request at another replica. The test changes
// sessions, policies, approvals and tokens, and removes devices.
func TestReplicasObeyAtOnce(t *testing.T) {
	t.Parallel()
	first, second := newReplicas(t)
	ada := first.person(t, "ada")
	there := second.person(t, "")
	there.token = ada.token // both hubs accept the session
	want[[]api.DeviceView](there, "GET", "/devices/", nil, 200)

	d := first.uncertified(t)
	request := must(d.Request(second.tok, fleet.RequestChange{}))(t)
	w := waits(t, second.post(t, request), "ek-certificate-none")
	decide(ada, w.DeviceID, "approve", 200)
	certs := must(d.Enrol(t.Context(), second.client, request))(t)
	must(d.Activate(t.Context(), first.client, certs))(t) // one replica answers the request, the other the activation
	id := first.deviceOf(t, d)
	device := must(second.client.Dial(t.Context(), certs.TLS(d)))(t)
	defer device.Close()
	get := func(wanted int) {
		t.Helper()
		if a := must(device.Do(t.Context(), "GET", "/device", nil))(t); a.Status != wanted {
			t.Errorf("GET /device: %d %s, want %d", a.Status, a.Body, wanted)
		}
	}
	get(200)
	if status, body := ada.do("DELETE", "/devices/"+id, nil); status != 200 && status != 204 {
		t.Fatalf("%d %s", status, body)
	}
	get(403) // on the same connection
	first.Policy(t, store.HubWide, "version: 1\n")
	if a := second.post(t, must(first.device(t).Request(second.tok, fleet.RequestChange{}))(t)); a.Status == 200 {
		t.Error("the second hub judges by the policy before the change")
	}
	must(first.Store.EndSessions(t.Context(), first.Owner.ID, store.Hash{}, store.Event{Time: first.Now(), Kind: "account.signed-out", Owner: first.Owner.ID}))(t)
	if status, body := there.do("GET", "/devices/", nil); status != 401 {
		t.Errorf("a session that has ended at another replica: %d %s", status, body)
	}
}

// An event at one replica reaches an open page of the other replica within 2 seconds.
func TestLiveChangesReachPagesOfOtherReplicas(t *testing.T) {
	t.Parallel()
	first, second := newReplicas(t)
	first.Account(t, "mallory")
	b, m := second.browser(t), second.browser(t)
	b.signIn()
	m.send("POST", "/sign-in", "nick=mallory&password=correct+horse+battery")
	lines, _ := b.stream(t.Context())
	theirs, _ := m.stream(t.Context())
	waitFor(t, lines, "retry")
	waitFor(t, theirs, "retry")
	begun := time.Now()
	must(first.victim.Onboard(t.Context(), first.client, first.tok))(t)
	waitFor(t, lines, `"kind":"device.activated"`)
	if took := time.Since(begun); took > 4*time.Second { // 2 s, on a machine that is not busy
		t.Errorf("the page waited for %v", took)
	}
	select {
	case line := <-theirs:
		if !strings.HasPrefix(line, ":") {
			t.Errorf("another account sees %q", line)
		}
	default:
	}
}

// A machine asks one replica for a claim, and a person types the short form of the machine's claim
// code at another replica. The database and its files contain neither the code nor its short form.
func TestShortFormWorksAtEveryReplica(t *testing.T) {
	t.Parallel()
	first, second := newReplicas(t)
	second.Server.Unlimited()
	b := second.browser(t)
	b.signIn()
	code := claimCode(t)
	words := wire.ClaimWords(code)
	typed := func() (int, string) {
		status, _, h := b.send("GET", "/ui/onboard/claim?code="+url.QueryEscape(words), "")
		return status, h.Get("Location")
	}
	if status, _ := typed(); status != 400 {
		t.Errorf("before the machine asks: %d", status)
	}
	first.asks(t, code)
	first.Server.ShareClaimants(t.Context())
	if status, to := typed(); status != 303 || to != "/claim/"+code {
		t.Errorf("%d to %q", status, to)
	}
	if _, page, _ := b.send("GET", "/claim/"+code, ""); !strings.Contains(page, `<bdi class="mono">127.0.0.1</bdi>`) {
		t.Errorf("the claim page does not say which machine asked: %s", brief.Of(page))
	}
	files := must(filepath.Glob(filepath.Join(first.Data(), "gangway.db*")))(t)
	for _, file := range files {
		text := must(os.ReadFile(file))(t)
		for _, secret := range []string{code, words, strings.ReplaceAll(words, "-", "")} {
			if bytes.Contains(text, []byte(secret)) {
				t.Errorf("%s contains %q", filepath.Base(file), secret)
			}
		}
	}
}

// Attack: a person guesses short forms of claim codes, or machines ask for claims endlessly. Each
// replica limits the guesses, and the machines can fill neither the replica's memory nor the
// database.
func TestShortFormsOfReplicasAreNotGuessedAndNotHoarded(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	first, second := newReplicas(t)
	b := second.browser(t)
	b.signIn()
	checkGuessesAreLimited(t, b)
	first.Server.Unlimited()
	code := claimCode(t)
	first.asks(t, code)
	first.Server.ShareClaimants(t.Context())
	before := first.Store.Stats().Commits
	for range 50 {
		first.asks(t, code)
		first.Server.ShareClaimants(t.Context())
	}
	if n := first.Store.Stats().Commits - before; n > 20 {
		t.Errorf("a machine that asks 50 times causes %d writes", n)
	}
	for range 3 {
		first.Server.NoteClaimants(t, 500)
		for range 10 {
			first.Server.ShareClaimants(t.Context())
		}
	}
	n := 0
	if err := openDatabase(t, first.Data()).QueryRow("SELECT count(*) FROM temporary_values").Scan(&n); err != nil || n > store.MaxTemporary || n < 500 {
		t.Errorf("the database has %d machines, %v", n, err)
	}
}

// An attacker who can write to the database copies an encrypted claim code to the key of another
// one. The hub does not accept the copy.
func TestForgedClaimCodeInTheDatabaseIsNotBelieved(t *testing.T) {
	t.Parallel()
	first, second := newReplicas(t)
	second.Server.Unlimited()
	b := second.browser(t)
	b.signIn()
	mine, other := claimCode(t), claimCode(t)
	for _, code := range []string{mine, other} {
		first.asks(t, code)
	}
	first.Server.ShareClaimants(t.Context())
	// Give both keys the same value, which is valid for only one of the keys.
	if _, err := openDatabase(t, first.Data()).Exec("UPDATE temporary_values SET value = (SELECT max(value) FROM temporary_values)"); err != nil {
		t.Fatal(err)
	}
	believed := 0
	for _, code := range []string{mine, other} {
		status, _, h := b.send("GET", "/ui/onboard/claim?code="+wire.ClaimWords(code), "")
		if to := h.Get("Location"); status == 303 && to == "/claim/"+code {
			believed++
		} else if status != 400 || to != "" {
			t.Errorf("%d to %q", status, to)
		}
	}
	if believed != 1 {
		t.Errorf("%d codes are believed", believed)
	}
}

// Only one replica does the periodic work. When it stops, another replica begins at once.
func TestOneReplicaDoesThePeriodicWork(t *testing.T) {
	t.Parallel()
	first, second := newReplicas(t)
	on := func(s *scene) bool {
		_, ok := s.Server.OnDuty(t.Context())
		return ok
	}
	soon(t, func() bool { return on(first) || on(second) })
	if !on(first) { // the first hub may have started later
		first, second = second, first
	}
	for range 3 {
		must(0, errors.Join(first.Server.TryLease(t.Context()), second.Server.TryLease(t.Context())))(t)
		if !on(first) || on(second) {
			t.Fatalf("on duty: %v, %v", on(first), on(second))
		}
	}
	first.Stop()
	soon(t, func() bool { return second.Server.TryLease(t.Context()) == nil && on(second) && !on(first) })
}

// If a replica is paused in the middle of its periodic work and another replica takes over, the
// paused replica removes nothing from the database when it continues.
func TestPausedReplicaRemovesNothing(t *testing.T) {
	t.Parallel()
	first, second := newReplicas(t)
	soon(t, func() bool {
		must(0, first.Server.TryLease(t.Context()))(t)
		must(0, second.Server.TryLease(t.Context()))(t)
		_, ok := first.Server.OnDuty(t.Context())
		if !ok {
			first, second = second, first
		}
		_, ok = first.Server.OnDuty(t.Context())
		return ok
	})
	duty, _ := first.Server.OnDuty(t.Context())
	fence, ok := store.FenceIn(duty)
	if !ok {
		t.Fatal("the periodic work has no fence")
	}
	must(0, first.Store.AppendEvent(t.Context(), store.Event{Time: time.Now().AddDate(-3, 0, 0), Kind: "old", Owner: first.Owner.ID}))(t)
	// The lease passes to the second replica as if it had expired while the first replica was
	// paused.
	must(0, first.Store.EndLease(t.Context(), fence))(t)
	soon(t, func() bool {
		must(0, second.Server.TryLease(t.Context()))(t)
		_, ok := second.Server.OnDuty(t.Context())
		if again, held := first.Server.OnDuty(t.Context()); !ok && held { // the first replica's timer took the lease again
			f, _ := store.FenceIn(again)
			must(0, first.Store.EndLease(t.Context(), f))(t)
		}
		return ok
	})
	first.Server.SweepOnce(duty)
	if events := must(first.Store.Events(t.Context(), store.EventFilter{Kind: "old"}))(t); len(events) != 1 {
		t.Error("the paused replica has removed an event")
	}
	if err := first.Server.Collect(context.WithoutCancel(duty)); err != nil && !errors.Is(err, store.ErrFenced) {
		t.Error(err)
	}
	must(0, first.Server.TryLease(t.Context()))(t)
	duty, ok = second.Server.OnDuty(t.Context())
	if !ok {
		t.Fatal("nobody is on duty")
	}
	second.Server.SweepOnce(duty)
	if events := must(first.Store.Events(t.Context(), store.EventFilter{Kind: "old"}))(t); len(events) != 0 {
		t.Error("the replica on duty has not removed the event")
	}
}

// lateRemovals is the bucket of a hub that is paused before each removal of an object.
type lateRemovals struct {
	objects.Store
	pause func(objects.Key)
}

func (l *lateRemovals) Delete(ctx context.Context, key objects.Key) error {
	l.pause(key)
	return l.Store.Delete(ctx, key)
}

// Two hubs share a bucket. The first hub collects unused objects, and is paused just before it
// removes one. Meanwhile, somebody uploads the same content to the second hub. The late removal
// must not touch the new copy. After that, uploads and removals of the same content run at the same
// time.
func TestTwoHubsOnOneBucketLoseNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the collectors of two hubs")
	}
	t.Parallel()
	backend := s3mem.New()
	must(0, backend.CreateBucket("fleet"))(t)
	server := httptest.NewServer(gofakes3.New(backend).Server())
	t.Cleanup(server.Close)
	bucket := must(objects.OpenS3(t.Context(), objects.S3Config{Endpoint: server.URL, Region: "us-east-1", Bucket: "fleet", AccessKey: "key", SecretKey: "secret", Spool: t.TempDir()}))(t)
	paused, resumed := make(chan objects.Key), make(chan bool)
	late := &lateRemovals{Store: bucket, pause: func(k objects.Key) { paused <- k; <-resumed }}
	first := newSceneWith(t, func(c *api.Config) { c.Replicas, c.Objects = true, late })
	first.Objects = bucket
	second := *first
	second.Hub = first.Join(t)
	ada := second.person(t, "ada")

	const content = "stored, removed and stored again"
	at := func(url string) string { return strings.Replace(url, first.URL, second.URL, 1) } // as the load balancer does
	put := func() (sum string, status int) {
		t.Helper()
		var o api.ObjectView
		_, body := ada.do("POST", "/objects/", map[string]any{"size": len(content), "sha256sum": sumOf([]byte(content))})
		must(0, json.Unmarshal(body, &o))(t)
		status, body, _ = send(ada, "PUT", at(o.PutURL), content)
		if status >= 500 {
			t.Fatalf("%d %s", status, body)
		}
		return o.Sum, status
	}
	if _, status := put(); status != 200 {
		t.Fatal(status)
	}
	first.Advance(8 * 24 * time.Hour) // for the first hub, nobody needs the object any more
	collected := make(chan error)
	go func() { collected <- first.Server.Collect(t.Context()) }()
	old := <-paused
	sum, status := put()
	if status != 200 {
		t.Fatal(status)
	}
	resumed <- true
	must(0, <-collected)(t)
	stored := func() (store.Object, bool) {
		o, err := second.Store.Object(t.Context(), first.Owner.ID, store.Hash(old.Sum))
		return o, err == nil && o.Stored
	}
	if o, ok := stored(); !ok || o.Place == old.Place {
		t.Errorf("%s", brief.Of(o))
	}
	o := want[api.ObjectView](ada, "GET", "/objects/"+sum, nil, 200)
	if status, body, _ := send(ada, "GET", at(o.GetURL), ""); status != 200 || string(body) != content {
		t.Errorf("%d %q", status, body)
	}

	late.pause = func(objects.Key) { time.Sleep(rand.N(5 * time.Millisecond)) }
	stop := make(chan bool)
	var looking atomic.Bool // the collector starts no new run
	go func() {
		for {
			select {
			case <-stop:
				collected <- nil
				return
			default:
			}
			if looking.Load() {
				time.Sleep(time.Millisecond)
				continue
			}
			first.Server.Collect(t.Context())
		}
	}()
	look := func() (kept bool) {
		t.Helper()
		is, ok := stored()
		_, err := bucket.Stat(t.Context(), objects.Key{Sum: is.Sum, Place: is.Place})
		again, still := stored()
		if kept = ok && still && again == is; kept && err != nil {
			t.Fatal("the record says that the object is stored, but its bytes are gone")
		}
		return kept
	}
	kept := 0
	for range 60 {
		looking.Store(false)
		time.Sleep(rand.N(4 * time.Millisecond))
		looking.Store(true) // a run that has begun goes on while the object is uploaded again
		put()
		if look() {
			kept++
		}
	}
	close(stop)
	<-collected
	t.Logf("%d of 60 uploads were stored when the test looked", kept)
	if put(); !look() {
		t.Error("without a collector, the upload is not stored")
	}
}

// If an account has too many changes, a message to the other replicas does not list them, and the
// account's open pages load again instead.
func TestNewsForReplicasAreBounded(t *testing.T) {
	t.Parallel()
	var o api.Outbox
	for i := range 100_000 {
		o.Add(store.Event{Owner: "busy", Device: fmt.Sprint(i), Kind: "k"})
	}
	o.Add(store.Event{Owner: "calm", Device: "d", Kind: "k"})
	o.Add(store.Event{Owner: "calm", Device: "d", Kind: "k"})
	if all, owners, many, changes := o.Take(); all || owners != 2 || many != 1 || changes != 1 {
		t.Errorf("all %v, %d owners, %d busy, %d changes", all, owners, many, changes)
	}
	for i := range 50 * api.NewsOwners {
		o.Add(store.Event{Owner: fmt.Sprint(i % (api.NewsOwners - 1)), Device: fmt.Sprint(i), Kind: "k"})
	}
	if all, owners, _, changes := o.Take(); all || owners != api.NewsOwners-1 || changes > api.NewsChanges {
		t.Errorf("all %v, %d owners, %d changes", all, owners, changes)
	}
	for i := range api.NewsOwners + 1 {
		o.Add(store.Event{Owner: fmt.Sprint(i), Kind: "k"})
	}
	if all, owners, _, _ := o.Take(); !all || owners != 0 {
		t.Errorf("all %v, %d owners", all, owners)
	}
	if all, owners, _, _ := o.Take(); all || owners != 0 {
		t.Error("the news stay")
	}
}

// brokenMail is a store that fails to read messages. Afterwards, the messages have other numbers,
// as after a failover to another database server.
type brokenMail struct {
	store.Replicas
	broken bool
	last   int64
	list   []store.Message
}

func (b *brokenMail) LastMessage(context.Context) (int64, error) { return b.last, nil }

func (b *brokenMail) Messages(_ context.Context, after int64, _ int) (list []store.Message, err error) {
	if b.broken {
		return nil, store.ErrBusy
	}
	for _, m := range b.list {
		if m.Seq > after {
			list = append(list, m)
		}
	}
	return list, nil
}

// If a replica may have missed messages from other replicas, all its open web pages load again.
func TestMissedMessagesReloadThePages(t *testing.T) {
	t.Parallel()
	mail := &brokenMail{last: 7}
	m := api.NewMailbox(mail, "me")
	now := time.Now()
	poll := func(fails bool, want string) {
		t.Helper()
		got := ""
		err := m.Poll(t.Context(), now, func(n api.News) {
			if n.All {
				got += "all "
			}
			for owner := range n.Owners {
				got += owner + " "
			}
		})
		if got = strings.TrimSpace(got); (err != nil) != fails || got != want {
			t.Errorf("heard %q, %v; want %q", got, err, want)
		}
		now = now.Add(time.Second)
	}
	message := func(seq int64, origin, body string) store.Message {
		return store.Message{Seq: seq, Origin: origin, Body: []byte(body)}
	}
	poll(false, "all")
	poll(false, "")
	mail.list = []store.Message{message(8, "me", `{"owners":{"a":[]}}`), message(9, "other", `{"owners":{"b":[]},"later":1}`), message(10, "other", `[`)}
	poll(false, "b all")
	mail.broken = true
	poll(true, "")
	poll(false, "all") // LastMessage works, and so the mailbox begins again
	mail.broken, mail.last = false, 2
	mail.list = []store.Message{message(3, "other", `{"owners":{"c":[]}}`)}
	now = now.Add(store.MessageLife)
	poll(false, "all")
	poll(false, "c")
}

// When a hub begins to stop, GET /readyz says so. For the duration Drain, the hub still answers
// other requests, and asks its clients to close their connections.
func TestStoppingHubDrains(t *testing.T) {
	t.Parallel()
	s := newSceneWith(t, func(c *api.Config) { c.Drain = 4 * time.Second })
	s.Server.Unlimited()
	p := s.person(t, "ada")
	status, _, h := p.request("GET", "/readyz", nil, nil)
	if status != 200 || h.Get("Connection") != "" {
		t.Fatalf("%d, Connection: %q", status, h.Get("Connection"))
	}
	b := s.browser(t)
	b.signIn()
	lines, _ := b.stream(t.Context())
	waitFor(t, lines, "retry")
	s.Stop()
	soon(t, func() bool {
		status, _ := p.do("GET", "/readyz", nil)
		return status == 503
	})
	status, body, _ := p.request("GET", "/readyz", nil, nil)
	if status != 503 || !strings.Contains(string(body), "The hub is stopping") || !strings.Contains(string(body), "not-ready") {
		t.Errorf("%d %s", status, body)
	}
	one := &http.Client{Transport: p.client.Transport}
	req := must(http.NewRequestWithContext(t.Context(), "GET", s.URL+"/healthz", nil))(t)
	resp := must(one.Do(req))(t)
	resp.Body.Close()
	if resp.StatusCode != 200 || resp.ProtoMajor == 1 && !resp.Close {
		t.Errorf("%d, and the connection stays", resp.StatusCode)
	}
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t) // with new connections
	waitFor(t, lines, "device.activated")
	for range lines { // the hub ends the stream
	}
	soon(t, func() bool {
		_, err := s.client.Post(t.Context(), "/onboard", nil)
		return err != nil
	})
}

// soon waits until `ok` returns true.
func soon(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not happen")
		}
	}
}

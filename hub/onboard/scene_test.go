package onboard_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gangway/hub/evidence"
	"gangway/hub/onboard"
	"gangway/hub/pki"
	"gangway/hub/store"
	"gangway/hub/trust"
	"gangway/internal/fleet"
	"gangway/wire"
)

// `maker` is the maker of all TPMs in the tests, and `ca` has the CAs of every hub. Both are made
// only once, to save time.
var (
	maker = sync.OnceValues(func() (*fleet.Maker, error) { return fleet.NewMaker("onboard", fleet.MakerOptions{}) })
	ca    = sync.OnceValues(func() (*pki.Hub, error) {
		dir, err := os.MkdirTemp("", "onboard")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(dir)
		return pki.Open(filepath.Join(dir, "pki"), pki.Options{Name: "Test"})
	})
)

// scene is what most tests begin with: a hub with two owners, and a join token of the first owner.
type scene struct {
	*testing.T
	store *fake
	hub   *onboard.Service
	maker *fleet.Maker
	now   time.Time
	log   *bytes.Buffer // what the hub logged
	anne  store.Account
	mary  store.Account
	token *wire.TokenFile
}

const (
	addr     = "192.0.2.7:51000"
	hubURL   = "https://hub.example"
	labRules = "version: 1\nsoftware_tpms: [FAKE]\n"
)

func newScene(t *testing.T) *scene {
	t.Helper()
	t.Parallel()
	return newSceneNow(t)
}

// newSceneNow is newScene for a test that does not run in parallel.
func newSceneNow(t *testing.T) *scene {
	t.Helper()
	s := &scene{T: t, store: newFake(), log: new(bytes.Buffer), now: time.Now().UTC().Truncate(time.Hour).Add(10 * time.Minute)}
	var err error
	s.maker, err = maker()
	s.must(err)
	s.hub = s.replica()
	s.anne, s.mary = store.Account{ID: wire.NewID(), Nick: "anne"}, store.Account{ID: wire.NewID(), Nick: "mary"}
	s.must(s.store.CreateAccount(s.Context(), s.anne))
	s.must(s.store.CreateAccount(s.Context(), s.mary))
	s.policy(store.HubWide, labRules)
	s.token = s.newToken(store.JoinToken{Owner: s.anne.ID})
	return s
}

// replica returns another service on the same store.
func (s *scene) replica() *onboard.Service {
	s.Helper()
	keys, err := ca()
	s.must(err)
	hub := &onboard.Service{Store: s.store, CA: keys, Log: slog.New(slog.NewTextHandler(s.log, nil)), Now: func() time.Time { return s.now }, PublicURL: hubURL}
	hub.SetTrust(trust.NewSet(trust.FromX509("test", s.maker.Roots(), s.maker.Intermediates())...))
	return hub
}

func (s *scene) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *scene) policy(owner, text string) {
	s.Helper()
	s.must(s.store.PutPolicy(s.Context(), store.Policy{Owner: owner, Text: text}))
}

// newToken stores a join token that expires in a day.
func (s *scene) newToken(t store.JoinToken) *wire.TokenFile {
	s.Helper()
	if t.Expires.IsZero() {
		t.Expires = s.now.Add(24 * time.Hour)
	}
	t, file, err := onboard.NewToken(s.hub.CA, hubURL, t)
	s.must(err)
	s.must(s.store.CreateJoinToken(s.Context(), t))
	return file
}

// device makes a machine with a TPM that has a certificate of the maker.
func (s *scene) device() *fleet.Device {
	s.Helper()
	d, err := fleet.New(s.maker, "H-2")
	s.must(err)
	return d
}

// withoutCertificate makes a machine that sends no EK certificate, which raises a question for its
// owner.
func (s *scene) withoutCertificate() *fleet.Device {
	s.Helper()
	d := s.device()
	d.EKCert = d.EK.Public.Raw
	return d
}

func (s *scene) request(d *fleet.Device, t *wire.TokenFile, change fleet.RequestChange) []byte {
	s.Helper()
	body, err := d.Request(t, change)
	s.must(err)
	return body
}

// enrol sends a new request with the scene's token.
func (s *scene) enrol(d *fleet.Device) error {
	s.Helper()
	_, err := s.hub.Enrol(s.Context(), s.request(d, s.token, fleet.RequestChange{}), addr)
	return err
}

// enrolled sends a request, which must be accepted, and opens the reply.
func (s *scene) enrolled(d *fleet.Device, t *wire.TokenFile) *fleet.Certificates {
	s.Helper()
	return s.reply(d, s.request(d, t, fleet.RequestChange{}))
}

func (s *scene) reply(d *fleet.Device, body []byte) *fleet.Certificates {
	s.Helper()
	reply, err := s.hub.Enrol(s.Context(), body, addr)
	s.must(err)
	c, err := d.Open(body, reply)
	s.must(err)
	return c
}

var exporter = []byte(strings.Repeat("x", wire.ExporterSize))

func (s *scene) activate(c *fleet.Certificates) (store.Device, error) {
	hash := c.IDevIDHash()
	return s.hub.Activate(s.Context(), hash, exporter, wire.ActivationProof(c.Keys, exporter, hash), addr)
}

// onboarded enrols and activates a device, which must succeed.
func (s *scene) onboarded(d *fleet.Device, t *wire.TokenFile) (store.Device, *fleet.Certificates) {
	s.Helper()
	c := s.enrolled(d, t)
	is, err := s.activate(c)
	s.must(err)
	return is, c
}

// refused fails the test if `err` is not a refusal with this code.
func (s *scene) refused(err error, code string) *evidence.Refusal {
	s.Helper()
	var r *evidence.Refusal
	if !errors.As(err, &r) || r.Code != code {
		s.Fatalf("got %v, want the refusal %s", err, code)
	}
	if r.Reason == "" || r.Hint == "" {
		s.Errorf("the refusal %s lacks its reason or its remedy", code)
	}
	return r
}

// waits fails the test if `err` is not a WaitingError with these questions.
func (s *scene) waits(err error, questions ...string) *onboard.WaitingError {
	s.Helper()
	var w *onboard.WaitingError
	if !errors.As(err, &w) {
		s.Fatalf("got %v, want a waiting device", err)
	}
	var codes []string
	for _, q := range w.Questions {
		codes = append(codes, q.Code)
	}
	equal(s, "questions", codes, questions)
	return w
}

// logged fails the test unless the hub has logged an error of the store with this message. It then
// empties the log.
func (s *scene) logged(message string) {
	s.Helper()
	if text := s.log.String(); !strings.Contains(text, message) || !strings.Contains(text, errBroken.Error()) {
		s.Errorf("the log is %.300q, want %q", text, message)
	}
	s.log.Reset()
}

// equal fails the test if the two values have different texts (%+v).
func equal[V any](s *scene, what string, got, want V) {
	s.Helper()
	if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w {
		s.Fatalf("%s: got %.300s, want %.300s", what, g, w)
	}
}

// lastEvent returns the newest event. It fails the test if this event is of another kind.
func (s *scene) lastEvent(kind string) store.Event {
	s.Helper()
	if len(s.store.events) == 0 {
		s.Fatalf("no event, want %s", kind)
	}
	e := s.store.events[len(s.store.events)-1]
	if e.Kind != kind {
		s.Fatalf("the last event is %s, want %s", e.Kind, kind)
	}
	return e
}

// ekHash returns the hash under which the hub registers a device's EK.
func (s *scene) ekHash(d *fleet.Device) store.Hash {
	s.Helper()
	r, err := evidence.Parse(s.request(d, s.token, fleet.RequestChange{}))
	s.must(err)
	return r.EKHash
}

// signedFor returns a change of a request that replaces the ownership proof by a valid proof for
// the owner `owner` and the token `tokenID`.
func (s *scene) signedFor(d *fleet.Device, owner, tokenID string) fleet.RequestChange {
	return fleet.RequestChange{CAData: func(c *wire.CAData) {
		c.Owner, c.TokenID, c.Proof = owner, tokenID, s.sign(s.token, d, owner, tokenID)
	}}
}

// sign makes an ownership proof with a join token's key.
func (s *scene) sign(token *wire.TokenFile, d *fleet.Device, owner, tokenID string) []byte {
	s.Helper()
	secret, err := token.Secret()
	s.must(err)
	key, err := wire.OwnershipKey(secret, token.ID)
	s.must(err)
	return ed25519.Sign(key, wire.OwnershipMessage(token.HubName, owner, tokenID, d.IDevID.Name()))
}

func encoded(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// first does the first step of the two-step enrolment, which must succeed, and opens the answer.
func (s *scene) first(d *fleet.Device) *fleet.Enrolled {
	s.Helper()
	a, err := s.hub.FirstStep(s.Context(), encoded(d.EnrollRequest()), addr)
	s.must(err)
	e, err := d.OpenEnrolled(encoded(a))
	s.must(err)
	return e
}

// second does the second step of the two-step enrolment.
func (s *scene) second(d *fleet.Device, t *wire.TokenFile, keys wire.StepKeys, change fleet.RegistrationChange) (onboard.SecondStepAnswer, error) {
	s.Helper()
	body, err := d.Registration(t, keys, change)
	s.must(err)
	return s.hub.SecondStep(s.Context(), body, addr)
}

var errBroken = errors.New("the store is broken")

// breakAtEach runs `step` once for each call that `step` makes to the store, each time with a new
// scene, and makes this call fail. `step` must then return the store's error, unless the call is to
// a method in `stays`: in this case, `step` must succeed.
func breakAtEach(t *testing.T, prepare func(s *scene) (step func() error), stays ...string) {
	for n := 1; ; n++ {
		done := true // true, so that the loop ends if -failfast skips the subtest
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			done = false
			s := newSceneNow(t)
			step := prepare(s)
			s.store.calls, s.store.failAt, s.store.failure = nil, n, errBroken
			err := step()
			if done = len(s.store.calls) < n; done {
				s.must(err)
				return
			}
			method := s.store.calls[n-1]
			for _, m := range stays {
				if m == method {
					s.must(err)
					return
				}
			}
			if !errors.Is(err, errBroken) {
				s.Errorf("%s failed, and the step returned %v", method, err)
			}
		})
		if done || t.Failed() {
			return
		}
	}
}

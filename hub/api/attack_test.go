package api_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/hub/store/sqlite/sqlitetest"
	"gangway/internal/brief"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
	"gangway/internal/race"
	"gangway/tcg"
	"gangway/wire"
)

// scene is a running hub that trusts one TPM maker, a victim (a device with a good TPM of that
// maker), and a join token.
type scene struct {
	*hubtest.Hub
	maker  *fleet.Maker
	client *fleet.Hub
	tok    *wire.TokenFile
	victim *fleet.Device
}

// The TPM makers in these tests. Each maker is made only once for all tests, because making its two
// RSA keys takes a tenth of a second. No two makers share a key.
var (
	// The hub of every scene trusts goodMaker.
	goodMaker = makerOnce("good", fleet.MakerOptions{})
	// A hub trusts unknownMaker only if a test adds this maker.
	unknownMaker = makerOnce("unknown", fleet.MakerOptions{})
	// impostorMaker has goodMaker's name, but different keys.
	impostorMaker = makerOnce("good", fleet.MakerOptions{})
	// expiredMaker is like unknownMaker, but its intermediate certificate has expired.
	expiredMaker = makerOnce("old", fleet.MakerOptions{IntermediateExpires: time.Now().Add(-time.Hour)})
)

func makerOnce(name string, o fleet.MakerOptions) func() (*fleet.Maker, error) {
	return sync.OnceValues(func() (*fleet.Maker, error) { return fleet.NewMaker(name, o) })
}

func newScene(t testing.TB) *scene {
	t.Helper()
	return newSceneBehind(t, nil)
}

// newSceneOnDisk is like newScene, but for tests of durability, races and timing. The scene's hub
// waits until its writes are on the disk, as a hub in production does.
func newSceneOnDisk(t testing.TB) *scene {
	t.Helper()
	maker := must(goodMaker())(t)
	return sceneOn(t, hubtest.New(t, maker.Roots(), maker.Intermediates()), maker)
}

func newSceneBehind(t testing.TB, proxy *api.Proxy) *scene {
	t.Helper()
	return newSceneWith(t, func(c *api.Config) { c.Proxy = proxy })
}

// newSceneWith is like newScene, but it first calls `change` with the hub's configuration.
func newSceneWith(t testing.TB, change func(*api.Config)) *scene {
	t.Helper()
	maker := must(goodMaker())(t)
	dir := sqlitetest.MemoryDir(t)
	// If no ballast file exists, the hub writes one with 16 MiB of zeros. That would make each test
	// slower, so make an empty ballast file first. The tests of the ballast use another file
	// system.
	if err := os.WriteFile(filepath.Join(dir, "ballast"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return sceneOn(t, hubtest.NewIn(t, dir, change, maker.Roots(), maker.Intermediates()), maker)
}

func sceneOn(t testing.TB, h *hubtest.Hub, maker *fleet.Maker) *scene {
	t.Helper()
	s := &scene{maker: maker, Hub: h}
	s.tok = s.Token(t, s.Owner, nil)
	s.client = must(fleet.NewHub(s.tok))(t)
	s.victim = s.device(t)
	return s
}

func (s *scene) device(t testing.TB) *fleet.Device {
	t.Helper()
	return must(fleet.New(s.maker, "H-2"))(t)
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (s *scene) post(t testing.TB, body []byte) *fleet.Answer {
	t.Helper()
	return must(s.client.Post(t.Context(), "/onboard", bytes.NewReader(body)))(t)
}

// The function `refused` checks that an answer is a refusal with the given status and code, and
// with a reason and a hint.
func refused(t testing.TB, a *fleet.Answer, status int, code string) {
	t.Helper()
	if a.Status != status || a.Code() != code {
		t.Fatalf("answered %d %s, want %d %q", a.Status, a.Body, status, code)
	}
	var p struct{ Msg, Hint string }
	if err := json.Unmarshal(a.Body, &p); err != nil || p.Msg == "" || p.Hint == "" {
		t.Fatalf("no message or no hint: %s", a.Body)
	}
}

// boundNothing checks that no device was created and the join token was not used.
func (s *scene) boundNothing(t testing.TB) {
	t.Helper()
	if n := len(s.Devices(t, s.Owner)); n != 0 {
		t.Errorf("%d devices", n)
	}
	if n := s.Uses(t, s.tok); n != 0 {
		t.Errorf("%d uses of the token", n)
	}
}

func TestOnboards(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	c := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	d := s.Devices(t, s.Owner)
	if len(d) != 1 || s.Uses(t, s.tok) != 1 || d[0].IDevIDHash != store.Hash(sha256.Sum256(c.IDevID.Raw)) {
		t.Fatalf("%s", brief.Of(d))
	}
	if aik, err := s.Store.AIK(t.Context(), s.victim.IAK.Name()); err != nil || !bytes.Equal(aik.Certificate, c.IAK.Raw) || aik.DeviceID != d[0].ID {
		t.Errorf("AIK registry: %s, %v", brief.Of(aik), err)
	}
}

// Attacks with an ownership proof that is for another key, token, owner or hub.

func TestRejectsOwnershipProofOfAnotherKey(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	attacker := s.device(t)
	stolen := must(tcg.ParseCSR(must(s.victim.Request(s.tok, fleet.RequestChange{}))(t)))(t)
	data := must(wire.ParseCAData(stolen.CAData))(t)
	body := must(attacker.Request(s.tok, fleet.RequestChange{CAData: func(d *wire.CAData) { d.Proof = data.Proof }}))(t)
	refused(t, s.post(t, body), 403, onboard.CodeOwnership)
	s.boundNothing(t)
}

func TestRejectsOwnershipProofOfAnotherToken(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	other := s.Token(t, s.Owner, nil)
	body := must(s.victim.Request(other, fleet.RequestChange{CAData: func(d *wire.CAData) { d.TokenID = s.tok.ID }}))(t)
	refused(t, s.post(t, body), 403, onboard.CodeOwnership)
	body = must(s.victim.Request(other, fleet.RequestChange{CAData: func(d *wire.CAData) { d.TokenID = wire.NewID() }}))(t)
	refused(t, s.post(t, body), 403, onboard.CodeTokenUnknown)
	s.boundNothing(t)
}

func TestRejectsOwnershipProofOfAnotherOwner(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	mallory := s.Account(t, "mallory")
	// The attacker uses Ada's token, but the request names Mallory as the owner. The proof does not
	// match.
	body := must(s.victim.Request(s.tok, fleet.RequestChange{CAData: func(d *wire.CAData) { d.Owner = wire.AccountPRN + mallory.ID }}))(t)
	refused(t, s.post(t, body), 403, onboard.CodeOwnership)
	// The request names Ada as the owner, but the proof is signed with Mallory's token. The proof
	// matches, but Ada does not own the token.
	own := s.Token(t, mallory, nil)
	own.Owner = s.tok.Owner
	body = must(s.victim.Request(own, fleet.RequestChange{}))(t)
	refused(t, s.post(t, body), 403, onboard.CodeTokenOwner)
	s.boundNothing(t)
}

func TestRejectsOwnershipProofOfAnotherHub(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	elsewhere := *s.tok
	elsewhere.HubName = strings.Repeat("0", 64)
	refused(t, s.post(t, must(s.victim.Request(&elsewhere, fleet.RequestChange{}))(t)), 403, onboard.CodeHubName)
	// The request names this hub, but the ownership proof names another hub.
	body := must(s.victim.Request(&elsewhere, fleet.RequestChange{CAData: func(d *wire.CAData) { d.HubName = s.tok.HubName }}))(t)
	refused(t, s.post(t, body), 403, onboard.CodeOwnership)
	s.boundNothing(t)
}

// Attacks with join tokens.

func TestRejectsDisabledToken(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	if err := s.Store.DisableJoinToken(t.Context(), s.Owner.ID, s.tok.ID); err != nil {
		t.Fatal(err)
	}
	refused(t, s.post(t, must(s.victim.Request(s.tok, fleet.RequestChange{}))(t)), 403, onboard.CodeTokenUnusable)
	s.boundNothing(t)
}

func TestRejectsExpiredToken(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.tok = s.Token(t, s.Owner, func(j *store.JoinToken) { j.Expires = s.Now().Add(-time.Second) })
	refused(t, s.post(t, must(s.victim.Request(s.tok, fleet.RequestChange{}))(t)), 403, onboard.CodeTokenUnusable)
	s.boundNothing(t)
}

func TestRejectsTokenDisabledBetweenRequestAndActivation(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	c := must(s.victim.Enrol(t.Context(), s.client, must(s.victim.Request(s.tok, fleet.RequestChange{}))(t)))(t)
	if err := s.Store.DisableJoinToken(t.Context(), s.Owner.ID, s.tok.ID); err != nil {
		t.Fatal(err)
	}
	refused(t, must(s.victim.Activate(t.Context(), s.client, c))(t), 403, onboard.CodeTokenUnusable)
	s.boundNothing(t)
}

func TestRejectsUsedUpToken(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.tok = s.Token(t, s.Owner, func(j *store.JoinToken) { j.MaxUses = 1 })
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	late := s.device(t)
	c := must(late.Enrol(t.Context(), s.client, must(late.Request(s.tok, fleet.RequestChange{}))(t)))(t)
	refused(t, must(late.Activate(t.Context(), s.client, c))(t), 403, onboard.CodeTokenUsedUp)
	if s.Uses(t, s.tok) != 1 || len(s.Devices(t, s.Owner)) != 1 {
		t.Error("the refused device changed something")
	}
	// The victim may onboard again, because its use of the token has already been counted.
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
}

func TestFiftyDevicesRaceForTheLastUse(t *testing.T) {
	t.Parallel()
	s := newSceneOnDisk(t)
	s.tok = s.Token(t, s.Owner, func(j *store.JoinToken) { j.MaxUses = 1 })
	const n = 50
	devices := make([]*fleet.Device, n)
	certs := make([]*fleet.Certificates, n)
	for i := range devices {
		devices[i] = s.device(t)
		certs[i] = must(devices[i].Enrol(t.Context(), s.client, must(devices[i].Request(s.tok, fleet.RequestChange{}))(t)))(t)
	}
	var won, lost int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range devices {
		wg.Go(func() {
			a, err := devices[i].Activate(context.Background(), s.client, certs[i])
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				t.Error(err)
			case a.Status == 200:
				won++
			case a.Code() == onboard.CodeTokenUsedUp:
				lost++
			default:
				t.Errorf("%d %s", a.Status, a.Body)
			}
		})
	}
	wg.Wait()
	if won != 1 || lost != n-1 || s.Uses(t, s.tok) != 1 || len(s.Devices(t, s.Owner)) != 1 {
		t.Errorf("%d won, %d lost, %d uses, %d devices", won, lost, s.Uses(t, s.tok), len(s.Devices(t, s.Owner)))
	}
}

// Replayed requests and replies.

// An attacker captures a device's onboarding request and sends it again. The attacker cannot use
// the answer, and no second device is created.
func TestReplayOfACapturedRequestGivesNothing(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	request := must(s.victim.Request(s.tok, fleet.RequestChange{}))(t)
	c := must(s.victim.Enrol(t.Context(), s.client, request))(t)
	refusedNone := must(s.victim.Activate(t.Context(), s.client, c))(t)
	if refusedNone.Status != 200 {
		t.Fatalf("%s", refusedNone.Body)
	}
	before := s.Devices(t, s.Owner)
	attacker := s.device(t)
	for range 3 {
		a := s.post(t, request)
		if a.Status != 200 {
			t.Fatalf("the same request got another answer: %d %s", a.Status, a.Body)
		}
		if _, err := attacker.Open(request, a.Body); err == nil {
			t.Fatal("another TPM opened the reply")
		}
		again := must(s.victim.Open(request, a.Body))(t)
		if !bytes.Equal(again.IDevID.Raw, c.IDevID.Raw) || !bytes.Equal(again.IAK.Raw, c.IAK.Raw) {
			t.Fatal("the same request got other certificates")
		}
	}
	if after := s.Devices(t, s.Owner); !reflect.DeepEqual(before, after) || s.Uses(t, s.tok) != 1 {
		t.Errorf("the device changed:\n%s\n%s", brief.Of(before), brief.Of(after))
	}
}

// Attacks by a stranger who has the victim's EK certificate, which is public.

func (s *scene) postAsStranger(t testing.TB, tok *wire.TokenFile) {
	t.Helper()
	stranger := s.device(t)
	stranger.EK, stranger.EKCert = &fleet.Key{Public: s.victim.EK.Public, Private: stranger.EK.Private}, s.victim.EKCert
	request := must(stranger.Request(tok, fleet.RequestChange{}))(t)
	a := s.post(t, request)
	if a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	// Nobody can open the reply. It is encrypted for a TPM that has both the victim's EK and the
	// stranger's IAK, and no such TPM exists.
	if _, err := stranger.Open(request, a.Body); err == nil {
		t.Fatal("the stranger opened the reply")
	}
	if _, err := s.victim.Open(request, a.Body); err == nil {
		t.Fatal("the victim's TPM opened a reply for another IAK")
	}
}

func TestStrangerWithTheVictimsEKCertificate(t *testing.T) {
	t.Parallel()
	for _, when := range []string{"before", "after"} {
		t.Run(when, func(t *testing.T) {
			s := newScene(t)
			mallory := s.Account(t, "mallory")
			attack := func() {
				for range 3 {
					s.postAsStranger(t, s.tok)                    // a leaked token
					s.postAsStranger(t, s.Token(t, mallory, nil)) // the stranger's own token
				}
			}
			if when == "before" {
				attack()
				s.boundNothing(t)
				must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
			} else {
				must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
				before := s.Devices(t, s.Owner)
				attack()
				if after := s.Devices(t, s.Owner); !reflect.DeepEqual(before, after) {
					t.Errorf("the victim's record changed:\n%s\n%s", brief.Of(before), brief.Of(after))
				}
			}
			d := s.Devices(t, s.Owner)
			if len(d) != 1 || s.Uses(t, s.tok) != 1 || len(s.Devices(t, mallory)) != 0 || strings.HasSuffix(d[0].Nick, "-2") {
				t.Errorf("devices %s, %d uses, mallory has %d", brief.Of(d), s.Uses(t, s.tok), len(s.Devices(t, mallory)))
			}
			// The victim's connection still works.
			must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
		})
	}
}

// The answer that a stranger gets does not reveal whether the hub has a device with the TPM, who
// owns that device, or whether the token is used up.
func TestPendingRevealsNothing(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	mallory := s.Account(t, "mallory")
	unknown := s.post(t, must(s.victim.Request(s.Token(t, mallory, nil), fleet.RequestChange{}))(t))
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	known := s.post(t, must(s.victim.Request(s.Token(t, mallory, nil), fleet.RequestChange{}))(t))
	if unknown.Status != 200 || known.Status != 200 {
		t.Errorf("%d for an unknown TPM, %d for one of another owner", unknown.Status, known.Status)
	}
	if _, err := s.Store.AIK(t.Context(), s.device(t).IAK.Name()); !errors.Is(err, store.ErrNotFound) {
		t.Error("the AIK registry knows a key that nobody proved")
	}
}

// Attacks with the certificates of a pending enrolment. The tests assume that the attacker has
// these certificates.

// Certificates that a device has received but not yet activated give no access.
func TestPendingCertificateOpensNothing(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	c := must(s.victim.Enrol(t.Context(), s.client, must(s.victim.Request(s.tok, fleet.RequestChange{}))(t)))(t)
	conn := must(s.client.Dial(t.Context(), c.TLS(s.victim)))(t)
	defer conn.Close()
	refused(t, must(conn.Do(t.Context(), "GET", "/device", nil))(t), 403, "certificate-not-active")
	refused(t, must(conn.Do(t.Context(), "PATCH", "/device/meta", []byte(`{"a":1}`)))(t), 403, "certificate-not-active")
	// The AIK of the pending enrolment is not in the AIK registry.
	if _, err := s.Store.AIK(t.Context(), s.victim.IAK.Name()); !errors.Is(err, store.ErrNotFound) {
		t.Error("a pending IAK is in the AIK registry")
	}
	s.boundNothing(t)
}

func TestStolenPendingCertificateWithItsSoftwareKeyIsRefused(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	// The stranger's IDevID key is a software key, and a software IAK certified the key. The test
	// assumes that the IDevID certificate leaked from a log or a backup.
	stranger := s.device(t)
	stranger.EK, stranger.EKCert = &fleet.Key{Public: s.victim.EK.Public, Private: stranger.EK.Private}, s.victim.EKCert
	request := must(stranger.Request(s.tok, fleet.RequestChange{}))(t)
	if a := s.post(t, request); a.Status != 200 {
		t.Fatalf("%s", a.Body)
	}
	e := must(s.Store.Enrolment(t.Context(), sha256.Sum256(request)))(t)
	leaked := tls.Certificate{Certificate: [][]byte{e.IDevIDCert, s.CA.DeviceCA().Raw}, PrivateKey: stranger.IDevID.Private}
	conn := must(s.client.Dial(t.Context(), leaked))(t)
	defer conn.Close()
	exporter := must(conn.Exporter())(t)
	guess := must(wire.DeriveKeys(make([]byte, wire.CredentialSize), sha256.Sum256(request)))(t)
	for _, proof := range [][]byte{nil, make([]byte, 32), wire.ActivationProof(guess, exporter, e.IDevIDHash)} {
		refused(t, must(conn.Activate(t.Context(), proof))(t), 403, onboard.CodeActivation)
	}
	refused(t, must(conn.Do(t.Context(), "GET", "/device", nil))(t), 403, "certificate-not-active")
	s.boundNothing(t)
}

func TestActivationProofMovedToAnotherConnectionIsRefused(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	c := must(s.victim.Enrol(t.Context(), s.client, must(s.victim.Request(s.tok, fleet.RequestChange{}))(t)))(t)
	first := must(s.client.Dial(t.Context(), c.TLS(s.victim)))(t)
	defer first.Close()
	proof := wire.ActivationProof(c.Keys, must(first.Exporter())(t), sha256.Sum256(c.IDevID.Raw))
	second := must(s.client.Dial(t.Context(), c.TLS(s.victim)))(t)
	defer second.Close()
	refused(t, must(second.Activate(t.Context(), proof))(t), 403, onboard.CodeActivation)
	s.boundNothing(t)
	if a := must(first.Activate(t.Context(), proof))(t); a.Status != 200 {
		t.Fatalf("at its own place it is refused: %s", a.Body)
	}
}

func TestActivationNeedsAClientCertificate(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	refused(t, must(s.client.Post(t.Context(), "/onboard/activate", strings.NewReader(`{"proof":"AA=="}`)))(t), 401, "no-certificate")
}

// Attacks by another owner.

// A device that one owner has onboarded cannot onboard with the join token of a second owner. The
// first owner gets an event.
func TestSecondOwnersTokenOnABoundTPMIsRefusedAndTheOwnerTold(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	before := s.Devices(t, s.Owner)
	bob := s.Account(t, "bob")
	theirs := s.Token(t, bob, nil)
	c := must(s.victim.Enrol(t.Context(), s.client, must(s.victim.Request(theirs, fleet.RequestChange{}))(t)))(t)
	refused(t, must(s.victim.Activate(t.Context(), s.client, c))(t), 409, onboard.CodeOtherOwner)
	if len(s.Devices(t, bob)) != 0 || s.Uses(t, theirs) != 0 || !reflect.DeepEqual(before, s.Devices(t, s.Owner)) {
		t.Error("the refused request changed something")
	}
	found := false
	for _, e := range must(s.Store.Events(t.Context(), store.EventFilter{Owner: s.Owner.ID}))(t) {
		found = found || e.Kind == "device.other-owner-tried" && e.Device == before[0].ID
	}
	if !found {
		t.Error("the owner got no event")
	}
	// After the first owner deletes the device, the second owner Bob can onboard the machine as a
	// new device.
	if err := s.Store.DeleteDevice(t.Context(), s.Owner.ID, before[0].ID, s.Now()); err != nil {
		t.Fatal(err)
	}
	must(s.victim.Onboard(t.Context(), s.client, theirs))(t)
	if d := s.Devices(t, bob); len(d) != 1 || d[0].ID == before[0].ID {
		t.Errorf("bob's devices: %s", brief.Of(d))
	}
}

// Races between requests.

func TestActivationRacesWithRevocation(t *testing.T) {
	t.Parallel()
	s := newSceneOnDisk(t)
	for range 10 {
		d := s.device(t)
		must(d.Onboard(t.Context(), s.client, s.tok))(t)
		id := s.deviceOf(t, d)
		// The device onboards again while the owner deletes the device.
		c := must(d.Enrol(t.Context(), s.client, must(d.Request(s.tok, fleet.RequestChange{}))(t)))(t)
		var wg sync.WaitGroup
		var a *fleet.Answer
		wg.Go(func() { a, _ = d.Activate(context.Background(), s.client, c) })
		wg.Go(func() {
			if err := s.Store.DeleteDevice(context.Background(), s.Owner.ID, id, s.Now()); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		// Whichever comes first, the activation or the deletion, the device is deleted in the end,
		// and its certificates give no access.
		if a == nil || a.Status != 200 && a.Code() != onboard.CodeRevoked {
			t.Fatalf("activation: %s", brief.Of(a))
		}
		conn := must(s.client.Dial(t.Context(), c.TLS(d)))(t)
		refused(t, must(conn.Do(t.Context(), "GET", "/device", nil))(t), 403, "certificate-not-active")
		conn.Close()
		if _, err := s.Store.Device(t.Context(), id); !errors.Is(err, store.ErrNotFound) {
			t.Fatal("the device exists again")
		}
	}
}

func (s *scene) deviceOf(t testing.TB, d *fleet.Device) string {
	t.Helper()
	h := must(tcg.KeyHash(d.EK.Private.Public()))(t)
	return must(s.Store.TPM(t.Context(), h))(t).DeviceID
}

func TestActivationRacesWithExpiry(t *testing.T) {
	t.Parallel()
	s := newSceneOnDisk(t)
	c := must(s.victim.Enrol(t.Context(), s.client, must(s.victim.Request(s.tok, fleet.RequestChange{}))(t)))(t)
	s.Advance(onboard.PendingFor + time.Second)
	// The enrolment has expired, but the hub has not removed it from the store yet.
	refused(t, must(s.victim.Activate(t.Context(), s.client, c))(t), 410, onboard.CodeExpired)
	if n := must(s.Store.ExpireEnrolments(t.Context(), s.Now(), 100))(t); n != 1 {
		t.Errorf("%d enrolments expired", n)
	}
	refused(t, must(s.victim.Activate(t.Context(), s.client, c))(t), 410, onboard.CodeExpired)
	s.boundNothing(t)

	for range 10 {
		d := s.device(t)
		request := must(d.Request(s.tok, fleet.RequestChange{}))(t)
		c := must(d.Enrol(t.Context(), s.client, request))(t)
		var wg sync.WaitGroup
		var a *fleet.Answer
		wg.Go(func() { a, _ = d.Activate(context.Background(), s.client, c) })
		wg.Go(func() {
			if _, err := s.Store.ExpireEnrolments(context.Background(), s.Now().Add(2*onboard.PendingFor), 100); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		e := must(s.Store.Enrolment(t.Context(), sha256.Sum256(request)))(t)
		if won := a != nil && a.Status == 200; won != (e.State == store.Active) {
			t.Fatalf("answered %s, and the enrolment is %s", brief.Of(a), e.State)
		}
	}
}

// Attacks on replies.

// A thief who has a device's IAK and IDevID key, but not its EK, cannot decrypt the hub's reply to
// the device.
func TestReplyOfAnotherTPMDoesNotOpen(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for _, ek := range []string{"L-1", "H-1", "H-3"} {
		d := must(fleet.New(s.maker, ek))(t)
		thief := must(fleet.New(s.maker, ek))(t)
		thief.IAK, thief.IDevID = d.IAK, d.IDevID // the thief has the IAK and the IDevID key of `d`, but another EK
		request := must(d.Request(s.tok, fleet.RequestChange{}))(t)
		reply := s.post(t, request)
		if _, err := thief.Open(request, reply.Body); err == nil {
			t.Errorf("%s: another EK opened the reply", ek)
		}
		must(d.Open(request, reply.Body))(t)
	}
}

// Attacks on the TLS connection.

func (s *scene) handshake(t *testing.T, cert tls.Certificate) error {
	t.Helper()
	conn, err := s.client.Dial(t.Context(), cert)
	if err != nil {
		return err
	}
	defer conn.Close()
	a, err := conn.Do(t.Context(), "GET", "/device", nil)
	if err != nil {
		return err
	}
	if a.Status == 200 {
		return nil
	}
	return errors.New(a.Code())
}

// The hub's TLS handshake refuses client certificates that are not IDevID certificates of the
// device CA: an IAK certificate, a self-signed certificate, and forged ones.
func TestTLSRefusesCertificatesThatAreNoDevices(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	c := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	if err := s.handshake(t, c.TLS(s.victim)); err != nil {
		t.Fatalf("handshake of a good device: %v", err)
	}
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	self := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, Subject: c.IDevID.Subject, Issuer: c.IDevID.Issuer}
	selfSigned := must(fleet.Issue(self, self, key.Public(), key))(t)
	// The attacker's CA has the device CA's name. It issued a certificate with the victim's names.
	fakeCA := &x509.Certificate{Subject: s.CA.DeviceCA().Subject, SubjectKeyId: s.CA.DeviceCA().SubjectKeyId, PublicKey: key.Public()}
	forged := must(fleet.Issue(self, fakeCA, key.Public(), key))(t)
	for name, cert := range map[string]tls.Certificate{
		"the IAK's":     {Certificate: [][]byte{c.IAK.Raw, c.ACA.Raw}, PrivateKey: s.victim.IAK.Private},
		"a forged CA's": {Certificate: [][]byte{forged.Raw, c.DeviceCA.Raw}, PrivateKey: key},
		"self-signed":   {Certificate: [][]byte{selfSigned.Raw}, PrivateKey: key},
		"self-signed, with the victim's behind it": {Certificate: [][]byte{selfSigned.Raw, c.IDevID.Raw, c.DeviceCA.Raw}, PrivateKey: key},
		"the EK's": {Certificate: [][]byte{s.victim.EKCert, s.maker.Intermediate.Raw}, PrivateKey: s.victim.EK.Private},
	} {
		if err := s.handshake(t, cert); err == nil {
			t.Errorf("%s certificate was accepted", name)
		}
	}
	// The hub refuses an attacker who has the victim's certificate but not the victim's key.
	if err := s.handshake(t, tls.Certificate{Certificate: c.TLS(s.victim).Certificate, PrivateKey: key}); err == nil {
		t.Error("the victim's certificate was accepted with another key")
	}
}

// The hub refuses a certificate of the device CA that is not for TLS client authentication, or that
// is not in the database.
func TestTLSRefusesCertificatesOfTheRightCAThatTheHubDidNotIssue(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	c := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	caKey := s.DeviceCAKey(t)
	for _, v := range []struct {
		name   string
		usages []x509.ExtKeyUsage
		other  []asn1.ObjectIdentifier
		want   string
	}{
		{"server", []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, nil, ""},
		{"attestation", nil, []asn1.ObjectIdentifier{tcg.OIDAIKCertificate}, ""},
		{"client, unknown to the store", []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, nil, "certificate-not-active"},
	} {
		template := &x509.Certificate{SerialNumber: c.IDevID.SerialNumber, Subject: c.IDevID.Subject, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: v.usages, UnknownExtKeyUsage: v.other}
		cert := must(fleet.Issue(template, s.CA.DeviceCA(), key.Public(), caKey))(t)
		err := s.handshake(t, tls.Certificate{Certificate: [][]byte{cert.Raw, s.CA.DeviceCA().Raw}, PrivateKey: key})
		if err == nil || v.want != "" && err.Error() != v.want {
			t.Errorf("%s: %v", v.name, err)
		}
	}
}

func TestTLSRefusesRevokedDevice(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	c := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	conn := must(s.client.Dial(t.Context(), c.TLS(s.victim)))(t)
	defer conn.Close()
	if a := must(conn.Do(t.Context(), "GET", "/device", nil))(t); a.Status != 200 {
		t.Fatalf("%s", a.Body)
	}
	if err := s.Store.DeleteDevice(t.Context(), s.Owner.ID, s.deviceOf(t, s.victim), s.Now()); err != nil {
		t.Fatal(err)
	}
	// The hub refuses the certificate on the open connection, and on a new connection.
	refused(t, must(conn.Do(t.Context(), "GET", "/device", nil))(t), 403, "certificate-not-active")
	if err := s.handshake(t, c.TLS(s.victim)); err == nil || err.Error() != "certificate-not-active" {
		t.Errorf("a new connection: %v", err)
	}
	// Activating again does not bring the device back.
	refused(t, must(s.victim.Activate(t.Context(), s.client, c))(t), 410, onboard.CodeRevoked)
}

func TestSupersededCertificateIsRefused(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	old := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	fresh := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	if err := s.handshake(t, old.TLS(s.victim)); err == nil {
		t.Error("the earlier certificate is still accepted")
	}
	if err := s.handshake(t, fresh.TLS(s.victim)); err != nil {
		t.Errorf("the new certificate: %v", err)
	}
}

// Attacks with bodies that are truncated, too large, or mutated.

func TestRejectsTruncatedAndOversizedBodies(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	good := must(s.victim.Request(s.tok, fleet.RequestChange{}))(t)
	for _, n := range []int{0, 1, 11, 12, 100, len(good) / 2, len(good) - 1} {
		refused(t, s.post(t, good[:n]), 400, "csr-malformed")
	}
	// The hub stops reading this body of 64 MiB at its limit.
	a, err := s.client.Post(t.Context(), "/onboard", io.LimitReader(zeros{}, 64<<20))
	if err == nil {
		refused(t, a, 413, "body-too-large")
	}
	a, err = s.client.Post(t.Context(), "/auth/login", io.LimitReader(zeros{}, 64<<20))
	if err == nil && a.Status/100 != 4 {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	// The hub still accepts a valid request.
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// The test sends 10,000 mutations of a good request (1000 with -short). The hub accepts no
// mutation, answers no request with 5xx, does not panic, and creates no device.
func TestRejectsTenThousandMutationsOverTLS(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	mutations := 10_000
	if testing.Short() {
		mutations = 1000
	}
	s := newScene(t)
	good := must(s.victim.Request(s.tok, fleet.RequestChange{}))(t)
	work := make(chan []byte)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for body := range work {
				a, err := s.client.Post(context.Background(), "/onboard", bytes.NewReader(body))
				if err != nil {
					t.Error(err)
				} else if a.Status/100 != 4 || a.Code() == "" {
					t.Errorf("answered %d %s", a.Status, a.Body)
				}
			}
		})
	}
	for _, body := range fleet.Mutations(good, mutations, 2) {
		work <- body
	}
	close(work)
	wg.Wait()
	s.boundNothing(t)
	if !strings.Contains(s.metrics(t), "gangway_panics_total 0") {
		t.Error("the hub panicked")
	}
}

// The hub bounds the number of certificates in a handshake, because it parses each certificate.
func TestHandshakeWithManyCertificatesIsRefused(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	c := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	for _, tc := range []struct {
		more int
		ok   bool
	}{{0, true}, {1, true}, {8, true}, {9, false}, {100, false}} {
		cert := c.TLS(s.victim)
		for range tc.more {
			cert.Certificate = append(cert.Certificate, c.DeviceCA.Raw)
		}
		if err := s.handshake(t, cert); (err == nil) != tc.ok {
			t.Errorf("the IDevID certificate and %d others: %v", tc.more, err)
		}
	}
}

// An overloaded hub still onboards devices, but it refuses the reports of other devices and tells
// these devices to try again later.
func TestOverloadedHubStillOnboards(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	full := must(api.New(api.Config{Store: s.Store, CA: s.CA, Onboard: s.Service, Objects: s.Objects, Log: s.Log(), Now: s.Now, PublicURL: s.URL, Names: []string{"127.0.0.1"}, Capacity: 1}))(t)
	tok := *s.tok
	tok.Hub = serve(t, full, full.TLSConfig())
	client := must(fleet.NewHub(&tok))(t)
	defer client.Close()
	certs := must(s.victim.Onboard(t.Context(), client, &tok))(t)
	conn := must(client.Dial(t.Context(), certs.TLS(s.victim)))(t)
	defer conn.Close()
	refused(t, must(conn.Do(t.Context(), "PATCH", "/device/meta", []byte("{}")))(t), 503, "overloaded")
	if a := must(conn.Do(t.Context(), "GET", "/healthz", nil))(t); a.Status != 200 {
		t.Errorf("GET /healthz: %d", a.Status)
	}
	// A hub that is not overloaded accepts the report of the same device, with the same
	// certificate.
	if a := must(must(s.client.Dial(t.Context(), certs.TLS(s.victim)))(t).Do(t.Context(), "PATCH", "/device/meta", []byte("{}")))(t); a.Status != 200 {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}

// The hub parks a device's idle connection: the connection waits for the next request without a
// goroutine. The next request on this connection has the device's identity. If the device is
// deleted meanwhile, the connection ends.
func TestParkedConnectionIsStillTheDevices(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	c := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	conn := must(s.client.Dial(t.Context(), c.TLS(s.victim)))(t)
	defer conn.Close()
	for range 2 {
		if a := must(conn.Do(t.Context(), "GET", "/device", nil))(t); a.Status != 200 || !strings.Contains(string(a.Body), s.deviceOf(t, s.victim)) {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		time.Sleep(1300 * time.Millisecond)
	}
	if err := s.Store.DeleteDevice(t.Context(), s.Owner.ID, s.deviceOf(t, s.victim), s.Now()); err != nil {
		t.Fatal(err)
	}
	refused(t, must(conn.Do(t.Context(), "GET", "/device", nil))(t), 403, "certificate-not-active")
}

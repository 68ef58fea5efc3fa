package api_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/boot"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/eventlog"
	"gangway/internal/fleet"
	"gangway/tcg"
	"gangway/wire"
)

// The method `connected` onboards the scene's victim and returns its connection, certificates and
// id.
func (s *scene) connected(t *testing.T) (*fleet.Conn, *fleet.Certificates, string) {
	t.Helper()
	certs := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	conn := must(s.client.Dial(t.Context(), certs.TLS(s.victim)))(t)
	t.Cleanup(func() { conn.Close() })
	return conn, certs, s.deviceOf(t, s.victim)
}

func challenge(t testing.TB, c *fleet.Conn) wire.BootChallenge {
	t.Helper()
	a := must(c.Do(t.Context(), "GET", "/device/boot", nil))(t)
	var out wire.BootChallenge
	if err := json.Unmarshal(a.Body, &out); err != nil || a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	return out
}

// report returns the report that a device sends for a boot and a nonce.
func report(t testing.TB, d *fleet.Device, nonce []byte, l eventlog.Log, resets uint32) *wire.BootReport {
	t.Helper()
	r := &wire.BootReport{Nonce: nonce, Bank: uint16(tcg.AlgSHA256), PCRs: l.PCRs(), EventLog: l.Bytes()}
	var err error
	if r.Attest, r.Signature, err = d.Quote(wire.BootQualifying(nonce, r.EventLog), tcg.AlgSHA256, r.PCRs, resets); err != nil {
		t.Fatal(err)
	}
	return r
}

func sendBoot(t testing.TB, c *fleet.Conn, r *wire.BootReport) *fleet.Answer {
	t.Helper()
	return must(c.Do(t.Context(), "POST", "/device/boot", must(json.Marshal(r))(t)))(t)
}

// The function `booted` sends a boot measurement and returns the verdict.
func booted(t testing.TB, c *fleet.Conn, d *fleet.Device, l eventlog.Log, resets uint32) wire.BootVerdict {
	t.Helper()
	a := sendBoot(t, c, report(t, d, challenge(t, c).Nonce, l, resets))
	var v wire.BootVerdict
	if err := json.Unmarshal(a.Body, &v); err != nil || a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	return v
}

var (
	usual   = eventlog.Boot(true, "linux 1", "quiet")
	another = eventlog.Boot(true, "linux 2", "quiet")
)

// A device's first boot becomes the reference. The hub compares later boots with the reference, and
// the owner can accept a changed boot.
func TestBootIsLearntComparedAndAccepted(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	c, _, id := s.connected(t)
	path := "/devices/" + id + "/boot"
	if v := want[api.BootView](ada, "GET", path, nil, 200); v.State != "unmeasured" || v.Reference != nil {
		t.Errorf("%s", brief.Of(v))
	}
	if v := booted(t, c, s.victim, usual, 1); v.State != "matches" {
		t.Fatalf("%s", brief.Of(v))
	}
	if v := booted(t, c, s.victim, usual, 2); v.State != "matches" || len(v.Changes) != 0 {
		t.Fatalf("%s", brief.Of(v))
	}
	v := booted(t, c, s.victim, another, 3)
	if v.State != "changed" || !strings.Contains(strings.Join(v.Changes, " "), "The kernel's hash differs from the reference of ") {
		t.Fatalf("%s", brief.Of(v))
	}
	view := want[api.BootView](ada, "GET", path, nil, 200)
	if view.State != "changed" || len(view.Changes) == 0 || view.Reference.From != "the first boot" || view.Latest.SecureBoot != "on" || len(view.History) != 3 || len(view.EventLog) == 0 {
		t.Errorf("%s", brief.Of(view))
	}
	if d := want[api.DeviceView](ada, "GET", "/devices/"+id, nil, 200); d.Boot != "changed" {
		t.Errorf("%s", brief.Of(d))
	}
	if list := want[[]api.DeviceView](ada, "GET", "/devices", nil, 200); list[0].Boot != "changed" {
		t.Errorf("%s", brief.Of(list))
	}
	events := want[[]api.EventView](ada, "GET", "/events?device="+id, nil, 200)
	if events[0].Kind != "device.boot-changed" || !strings.Contains(events[0].Message, "kernel") {
		t.Errorf("the owner got no event: %s", brief.Of(events[0]))
	}
	// The owner accepts the boot and locks the reference.
	view = want[api.BootView](ada, "POST", path+"/reference", map[string]any{"from": "latest", "lock": true}, 200)
	if view.State != "matches" || !view.Reference.Locked {
		t.Errorf("%s", brief.Of(view))
	}
	want[map[string]any](ada, "POST", path+"/reference", map[string]any{"from": "latest"}, 409)
	if v := booted(t, c, s.victim, usual, 4); v.State != "changed" {
		t.Errorf("%s", brief.Of(v))
	}
	// The owner can also set the values of the reference in a request, without a measurement.
	pcrs := map[string]string{"4": want[api.BootView](ada, "GET", path, nil, 200).Latest.PCRs[4]}
	if view := want[api.BootView](ada, "POST", path+"/reference", map[string]any{"from": "values", "bank": "SHA-256", "pcrs": pcrs, "lock": false}, 200); view.State != "matches" {
		t.Errorf("%s", brief.Of(view))
	}
}

// An owner can set the reference of one device from the reference of another device, if both are of
// the same model.
func TestReferenceOfAnotherDeviceOfTheModel(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	c, _, id := s.connected(t)
	booted(t, c, s.victim, usual, 1)
	other := s.device(t)
	stranger := s.device(t)
	stranger.Model = "another model"
	for _, d := range []*fleet.Device{other, stranger} {
		certs := must(d.Onboard(t.Context(), s.client, s.tok))(t)
		conn := must(s.client.Dial(t.Context(), certs.TLS(d)))(t)
		defer conn.Close()
		path := "/devices/" + s.deviceOf(t, d) + "/boot"
		status := 200
		if d == stranger {
			status = 409
		}
		want[map[string]any](ada, "POST", path+"/reference", map[string]any{"from": "device:" + id}, status)
		if d == other {
			if v := booted(t, conn, d, another, 1); v.State != "changed" {
				t.Errorf("%s", brief.Of(v))
			}
		}
	}
}

// If a device sends a false measurement, the hub refuses the measurement, and the device's owner
// gets an event.
func TestDeviceThatLiesAboutItsBootIsRefusedAndItsOwnerTold(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	c, certs, id := s.connected(t)
	booted(t, c, s.victim, usual, 1)
	lies := map[string]int{}
	lie := func(what, code string, r *wire.BootReport, on *fleet.Conn) {
		t.Helper()
		refused(t, sendBoot(t, on, r), 403, code)
		lies[code]++
		s.Server.FlushCounters(t.Context())
		counted := 0
		for _, e := range want[[]api.EventView](ada, "GET", "/events?kind=device.boot-refused&device="+id, nil, 200) {
			if e.Code == code {
				counted += e.Count // there is a row for each day, and the test may run at midnight
			}
		}
		if counted != lies[code] {
			t.Errorf("%s: the owner's events count %d, want %d", what, counted, lies[code])
		}
	}
	// The device sends the values and the log of the usual boot, but the quote of another boot.
	r := report(t, s.victim, challenge(t, c).Nonce, another, 2)
	r.PCRs = usual.PCRs()
	lie("values", boot.CodeValues, r, c)
	r = report(t, s.victim, challenge(t, c).Nonce, another, 2)
	r.EventLog = usual.Bytes()
	lie("log that was exchanged", boot.CodeNonce, r, c)
	// Another device's key signed the quote.
	lie("key", boot.CodeSigner, report(t, must(s.victim.WithNewIdentity())(t), challenge(t, c).Nonce, usual, 2), c)
	// The nonce is old, belongs to another connection, or is invented.
	old := challenge(t, c).Nonce
	s.Advance(2 * time.Minute)
	lie("old nonce", boot.CodeNonce, report(t, s.victim, old, usual, 2), c)
	second := must(s.client.Dial(t.Context(), certs.TLS(s.victim)))(t)
	defer second.Close()
	lie("another connection's nonce", boot.CodeNonce, report(t, s.victim, challenge(t, second).Nonce, usual, 2), c)
	lie("no nonce", boot.CodeNonce, report(t, s.victim, make([]byte, 32), usual, 2), c)
	v := want[api.BootView](ada, "GET", "/devices/"+id+"/boot", nil, 200)
	if v.State != "refused" || v.Refusal == nil || v.Refusal.Code != boot.CodeNonce || len(v.History) != 1 {
		t.Errorf("a false measurement was stored, or the owner got no event: %s", brief.Of(v))
	}
}

func TestNonceOfAnotherDeviceIsRefused(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	c, _, _ := s.connected(t)
	other := s.device(t)
	certs := must(other.Onboard(t.Context(), s.client, s.tok))(t)
	conn := must(s.client.Dial(t.Context(), certs.TLS(other)))(t)
	defer conn.Close()
	refused(t, sendBoot(t, c, report(t, s.victim, challenge(t, conn).Nonce, usual, 1)), 403, boot.CodeNonce)
}

// If the policy requires a measured boot, the API admits a device only if its boot matches the
// reference and was measured on the same connection.
func TestPolicyAdmitsOnlyABootThatMatchesOnThisConnection(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	c, certs, id := s.connected(t)
	report := func(c *fleet.Conn) *fleet.Answer {
		return must(c.Do(t.Context(), "PATCH", "/device/meta", []byte(`{"a":"b"}`)))(t)
	}
	booted(t, c, s.victim, usual, 1)
	s.Policy(t, s.Owner.ID, "version: 1\nmeasured_boot: require\n")
	booted(t, c, s.victim, usual, 2)
	if a := report(c); a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	token := must(c.Do(t.Context(), "POST", "/auth/x509/login", nil))(t)
	var answer struct{ Token string }
	if err := json.Unmarshal(token.Body, &answer); err != nil {
		t.Fatal(err)
	}
	p := s.person(t, "")
	p.token = answer.Token
	want[api.DeviceView](p, "GET", "/devices/"+id, nil, 200)
	// The machine may have booted other software after the measurement on the first connection. So
	// a new connection needs its own measurement.
	second := must(s.client.Dial(t.Context(), certs.TLS(s.victim)))(t)
	defer second.Close()
	refused(t, report(second), 403, "boot-unmeasured")
	refused(t, must(second.Do(t.Context(), "POST", "/device/secret", nil))(t), 403, "boot-unmeasured")
	if a := must(second.Do(t.Context(), "GET", "/device", nil))(t); a.Status != 200 {
		t.Errorf("its own record: %d %s", a.Status, a.Body)
	}
	if v := booted(t, second, s.victim, another, 3); v.State != "changed" {
		t.Fatalf("%s", brief.Of(v))
	}
	refused(t, report(second), 403, "boot-changed")
	// After the changed boot, the hub refuses the first connection and the token too.
	refused(t, report(c), 403, "boot-changed")
	want[map[string]any](p, "GET", "/devices/"+id, nil, 403)
	// Even after the owner has accepted the changed boot, the device must measure this boot again.
	want[api.BootView](s.person(t, "ada"), "POST", "/devices/"+id+"/boot/reference", map[string]any{"from": "latest"}, 200)
	refused(t, report(second), 403, "boot-unmeasured")
	booted(t, second, s.victim, another, 4)
	if a := report(second); a.Status != 200 {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}

// A device without a TPM cannot measure its boot. If the policy requires a measured boot, the hub
// refuses the device.
func TestDeviceWithoutTPMIsNotAdmittedWhereABootMustMatch(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Policy(t, store.HubWide, withoutTPM)
	auto := s.Token(t, s.Owner, func(t *store.JoinToken) { t.WithoutTPM = true })
	d := s.register(t, auto.Token, 200)
	p := s.signedInAs(t, d)
	s.Policy(t, s.Owner.ID, "version: 1\nmeasured_boot: require\n")
	want[map[string]any](p, "GET", "/devices/"+d.ID, nil, 403)
}

// If the TPM's reset count is lower than in the previous measurement, the owner gets an event.
func TestTPMThatWentBackwardsIsNoticed(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	c, _, id := s.connected(t)
	booted(t, c, s.victim, usual, 5)
	booted(t, c, s.victim, usual, 4)
	found := false
	for _, e := range want[[]api.EventView](ada, "GET", "/events?device="+id, nil, 200) {
		found = found || e.Kind == "device.tpm-went-backwards" && strings.Contains(e.Message, "reset count decreased from 5 to 4")
	}
	if !found {
		t.Error("no event")
	}
}

// After the owner requests a measurement, the answer to the device's next report asks for a
// measurement.
func TestDeviceIsAskedToMeasureAgain(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	c, _, id := s.connected(t)
	asked := func(wanted bool) {
		t.Helper()
		a := must(c.Do(t.Context(), "PATCH", "/device/meta", []byte("{}")))(t)
		if got := strings.Contains(string(a.Body), `"measure":true`); got != wanted || a.Status != 200 {
			t.Errorf("%d %s", a.Status, a.Body)
		}
	}
	asked(false)
	if v := want[api.BootView](ada, "POST", "/devices/"+id+"/boot/request", nil, 200); !v.Requested {
		t.Errorf("%s", brief.Of(v))
	}
	asked(true)
	booted(t, c, s.victim, usual, 1)
	asked(false)
}

func TestReportThatIsTooLargeIsRefused(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	c, _, _ := s.connected(t)
	r := report(t, s.victim, challenge(t, c).Nonce, usual, 1)
	r.EventLog = make([]byte, wire.MaxBootReport)
	if a := sendBoot(t, c, r); a.Status != 413 {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}

// An owner accepts exactly the boot that the page showed. If the device has measured a newer boot
// since, the hub does not accept the newer boot instead.
func TestOwnerAcceptsTheBootThatWasLookedAtAndNoNewerOne(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	c, _, id := s.connected(t)
	path := "/devices/" + id + "/boot"
	booted(t, c, s.victim, usual, 1)
	looked := want[api.BootView](ada, "GET", path, nil, 200).Number
	booted(t, c, s.victim, another, 2)
	p := want[api.Problem](ada, "POST", path+"/reference", map[string]any{"from": "latest", "measurement": looked}, 409)
	v := want[api.BootView](ada, "GET", path, nil, 200)
	if p.Code != "boot-newer" || v.State != "changed" || v.Number <= looked {
		t.Errorf("%s, %s after %d: %d", brief.Of(p), v.State, looked, v.Number)
	}
	if v := want[api.BootView](ada, "POST", path+"/reference", map[string]any{"from": "latest", "measurement": v.Number}, 200); v.State != "matches" {
		t.Errorf("%s", brief.Of(v))
	}
}

// If a device connects again and measures the same boot again, the boot that the owner saw is still
// the latest boot, and the history does not grow.
func TestSameBootShownAgainIsStillTheOneThatWasLookedAt(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	c, certs, id := s.connected(t)
	path := "/devices/" + id + "/boot"
	booted(t, c, s.victim, usual, 1)
	booted(t, c, s.victim, another, 2)
	looked := want[api.BootView](ada, "GET", path, nil, 200)
	second := must(s.client.Dial(t.Context(), certs.TLS(s.victim)))(t)
	defer second.Close()
	booted(t, second, s.victim, another, 2)
	again := want[api.BootView](ada, "GET", path, nil, 200)
	if again.Number != looked.Number || len(again.History) != 2 || bytes.Equal(again.Nonce, looked.Nonce) {
		t.Errorf("measurement %d after %d, %d in the history, new evidence: %v", again.Number, looked.Number, len(again.History), !bytes.Equal(again.Nonce, looked.Nonce))
	}
	if v := want[api.BootView](ada, "POST", path+"/reference", map[string]any{"from": "latest", "measurement": looked.Number}, 200); v.State != "matches" {
		t.Errorf("%s", brief.Of(v))
	}
	// The same values after another TPM reset are another boot.
	booted(t, c, s.victim, another, 3)
	if v := want[api.BootView](ada, "GET", path, nil, 200); v.Number <= looked.Number || len(v.History) != 3 {
		t.Errorf("measurement %d after %d, %d in the history", v.Number, looked.Number, len(v.History))
	}
}

// The owner decides while the device measures. Whatever comes first, the final boot state is the
// result of comparing the latest measurement with the current reference.
func TestDecisionsRacingWithMeasurementsLeaveATrueState(t *testing.T) {
	t.Parallel()
	s := newSceneOnDisk(t)
	s.Server.Unlimited()
	ada := s.person(t, "ada")
	c, _, id := s.connected(t)
	path := "/devices/" + id + "/boot"
	booted(t, c, s.victim, usual, 1)
	boots := 30
	if testing.Short() {
		boots = 10
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := range boots {
			l := usual
			if n%2 == 0 {
				l = another
			}
			booted(t, c, s.victim, l, uint32(n+2))
		}
	}()
	rounds, newer := 0, 0
	for running := true; running; rounds++ {
		select {
		case <-done:
			running = false
		default:
		}
		answer, _ := ada.do("POST", path+"/reference", map[string]any{"from": "latest"})
		if answer == 409 {
			newer++
		} else if answer != 200 {
			t.Fatal(answer)
		}
		v := want[api.BootView](ada, "GET", path, nil, 200)
		if differs := len(boot.Compare(v.Reference, v.Latest)) > 0; differs != (v.State == "changed") {
			t.Fatalf("%q although differs is %v", v.State, differs)
		}
	}
	t.Logf("%d decisions, of which %d met a newer boot", rounds, newer)
}

// A decision that began before the owner locked the reference does not replace the locked
// reference.
func TestLockedReferenceIsNotReplacedByADecisionBegunBefore(t *testing.T) {
	t.Parallel()
	s := newSceneOnDisk(t)
	ada := s.person(t, "ada")
	c, _, id := s.connected(t)
	path := "/devices/" + id + "/boot/reference"
	booted(t, c, s.victim, usual, 1)
	rounds := 10
	if testing.Short() {
		rounds = 3
	}
	for range rounds {
		want[api.BootView](ada, "POST", path, `{"from":"latest","lock":false}`, 200)
		var wg sync.WaitGroup
		statuses := make([]int, 12)
		for i := range statuses {
			wg.Go(func() {
				body := `{"from":"latest"}`
				if i == 6 {
					body = `{"from":"latest","lock":true}`
				}
				statuses[i], _ = ada.do("POST", path, body)
			})
		}
		wg.Wait()
		locked := want[api.BootView](ada, "GET", "/devices/"+id+"/boot", nil, 200).Reference.Locked
		if locked != (statuses[6] == 200) {
			t.Fatalf("locked is %v after %s", locked, brief.Of(statuses))
		}
	}
}

func TestDeviceThatMeasuresTooOftenIsToldToWait(t *testing.T) {
	t.Parallel()
	// The rate is so low that the rate limit admits no further request during the test, even on a
	// busy machine.
	s := newSceneWith(t, func(c *api.Config) { c.Rates = api.Rates{"boot": {PerSecond: 1.0 / 600, Burst: 30}} })
	c, _, _ := s.connected(t)
	for n := range 31 {
		a := sendBoot(t, c, &wire.BootReport{Nonce: make([]byte, 32)})
		if tooOften := a.Status == 429; tooOften != (n == 30) {
			t.Fatalf("measurement %d: %d %s", n+1, a.Status, a.Body)
		}
	}
	s.Advance(600 * time.Second)
	if a := sendBoot(t, c, &wire.BootReport{Nonce: make([]byte, 32)}); a.Status == 429 {
		t.Error("still limited after the wait")
	}
}

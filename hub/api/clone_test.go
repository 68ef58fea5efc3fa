package api_test

import (
	"crypto/tls"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/fleet"
	"gangway/tcg"
	"gangway/wire"
)

// copyOf is a machine with a copy of the device's TPM state: it has the same keys, but its TPM
// clock runs separately.
type copyOf struct {
	s     *scene
	d     *fleet.Device
	conn  *fleet.Conn
	reset uint32
	start time.Time // the time when the clock of the machine's TPM was zero
}

func (s *scene) copyOf(t *testing.T, certs *fleet.Certificates, reset uint32, ran time.Duration) *copyOf {
	t.Helper()
	conn := must(s.client.Dial(t.Context(), certs.TLS(s.victim)))(t)
	t.Cleanup(func() { conn.Close() })
	return &copyOf{s, s.victim, conn, reset, s.Now().Add(-ran)}
}

// clock returns the TPM's clock as the TPM would attest it now.
func (k *copyOf) clock() tcg.ClockInfo {
	return tcg.ClockInfo{Clock: uint64(k.s.Now().Sub(k.start).Milliseconds()), ResetCount: k.reset, Safe: true}
}

func (k *copyOf) measure(t *testing.T) {
	t.Helper()
	nonce := challenge(t, k.conn).Nonce
	r := &wire.BootReport{Nonce: nonce, Bank: uint16(tcg.AlgSHA256), PCRs: usual.PCRs(), EventLog: usual.Bytes()}
	var err error
	if r.Attest, r.Signature, err = k.d.QuoteAt(wire.BootQualifying(nonce, r.EventLog), tcg.AlgSHA256, r.PCRs, k.clock()); err != nil {
		t.Fatal(err)
	}
	if a := sendBoot(t, k.conn, r); a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
}

// report sends the device's metadata. If the hub asks for a measurement, the machine measures its
// boot again, and `asked` is true.
func (k *copyOf) report(t *testing.T) (asked bool) {
	t.Helper()
	a := must(k.conn.Do(t.Context(), "PATCH", "/device/meta", []byte("{}")))(t)
	if a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	if asked = strings.Contains(string(a.Body), `"measure":true`); asked {
		k.measure(t)
	}
	return asked
}

// eventsOfKinds returns a device's events of these kinds, the oldest first.
func eventsOfKinds(p *person, device string, kinds ...string) (list []api.EventView) {
	p.t.Helper()
	for _, e := range want[[]api.EventView](p, "GET", "/events?device="+device, nil, 200) {
		if slices.Contains(kinds, e.Kind) {
			list = append(list, e)
		}
	}
	slices.Reverse(list)
	return list
}

var clonedKinds = []string{"device.clone-suspected", "device.cloned", "device.tpm-went-backwards"}

// Two virtual machines have the same copied disk and TPM, and use one certificate at the same time.
// When the second machine connects, it looks like the first machine after a restart. When the first
// machine measures again, the hub finds the clone.
func TestClonedMachineOnTheSameCertificateIsFound(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	certs := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	id := s.deviceOf(t, s.victim)
	first := s.copyOf(t, certs, 5, time.Hour)
	first.measure(t)
	s.Advance(time.Minute)
	second := s.copyOf(t, certs, 6, time.Hour)
	second.measure(t)
	if list := eventsOfKinds(ada, id, clonedKinds...); len(list) != 0 {
		t.Fatalf("a machine that restarted is suspected: %s", brief.Of(list))
	}
	for i := range 6 {
		s.Advance(time.Minute)
		if asked := first.report(t); i == 0 && !asked {
			t.Fatal("a connection from before the restart is not asked to measure again")
		}
		s.Advance(time.Minute)
		second.report(t)
	}
	list := eventsOfKinds(ada, id, clonedKinds...)
	if len(list) != 2 || list[0].Code != "tpm-clone-suspected" || list[1].Code != "tpm-cloned" || !strings.Contains(list[0].Message, "continues a boot that had ended") {
		t.Fatalf("%s", brief.Of(list))
	}
	if d := want[api.DeviceView](ada, "GET", "/devices/"+id, nil, 200); d.Cloned != "certain" || d.Status != "active" {
		t.Errorf("%s", brief.Of(d))
	}
	if list := want[[]api.DeviceView](ada, "GET", "/devices", nil, 200); list[0].Cloned != "certain" {
		t.Errorf("%s", brief.Of(list))
	}
	v := want[api.ClonedView](ada, "GET", "/devices/"+id+"/cloned", nil, 200)
	if v.State != "certain" || len(v.Findings) != 2 || v.Decision != "" {
		t.Errorf("%s", brief.Of(v))
	}
	// The hub asks for no more measurements.
	if first.report(t) || second.report(t) {
		t.Error("asked to measure again although the clone is certain")
	}
}

// The original machine's TPM was started only seconds ago, so at first the clone's clock looks like
// the clock of a cleared TPM.
func TestClonesOfAYoungMachineAreFound(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	certs := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	id := s.deviceOf(t, s.victim)
	first := s.copyOf(t, certs, 2, 3*time.Second)
	first.measure(t)
	second := s.copyOf(t, certs, 3, 3*time.Second)
	second.measure(t)
	for range 8 {
		s.Advance(20 * time.Second)
		first.report(t)
		second.report(t)
	}
	if d := want[api.DeviceView](ada, "GET", "/devices/"+id, nil, 200); d.Cloned != "certain" {
		t.Errorf("%q", d.Cloned)
	}
}

// The usual actions of an honest machine cause no finding about a clone, and no event.
func TestHonestMachineIsNotTakenForAClone(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	certs := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	id := s.deviceOf(t, s.victim)
	// Two programs of the machine have one connection each. Later the machine reboots several
	// times, with a new connection each time.
	agent := s.copyOf(t, certs, 2, time.Minute)
	proxy := s.copyOf(t, certs, 2, time.Minute)
	proxy.start = agent.start
	agent.measure(t)
	proxy.measure(t)
	asked := 0
	for range 10 { // only the agent reports
		s.Advance(time.Minute)
		if agent.report(t) {
			asked++
		}
	}
	if asked != 1 { // one request, because the proxy's connection measured after the agent's connection
		t.Errorf("asked %d times to measure again", asked)
	}
	asked = 0
	for range 30 { // the number of requests is bounded even if both programs report
		s.Advance(time.Second)
		for _, k := range []*copyOf{agent, proxy} {
			if k.report(t) {
				asked++
			}
		}
	}
	if asked > 8 {
		t.Errorf("asked %d times to measure again", asked)
	}
	for reset := uint32(3); reset < 12; reset++ {
		s.Advance(time.Hour)
		k := s.copyOf(t, certs, reset, 0)
		k.start = agent.start
		k.measure(t)
		k.report(t)
	}
	if list := eventsOfKinds(ada, id, clonedKinds...); len(list) != 0 {
		t.Errorf("%s", brief.Of(list))
	}
	if d := want[api.DeviceView](ada, "GET", "/devices/"+id, nil, 200); d.Cloned != "" {
		t.Errorf("%s", brief.Of(d))
	}
}

// The function `suspected` returns a scene in which the victim's TPM attested a lower clock than
// before.
func suspected(t *testing.T) (s *scene, ada *person, k *copyOf, id string) {
	t.Helper()
	s = newScene(t)
	ada = s.person(t, "ada")
	certs := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	id = s.deviceOf(t, s.victim)
	s.copyOf(t, certs, 5, 10*time.Hour).measure(t)
	k = s.copyOf(t, certs, 5, 9*time.Hour)
	k.measure(t)
	return s, ada, k, id
}

// A suspected clone causes one event for the owner. The device keeps its access.
func TestOwnerIsToldOfASuspicionOnceAndItCostsNothing(t *testing.T) {
	t.Parallel()
	s, ada, k, id := suspected(t)
	for range 3 {
		k.measure(t)
		k.report(t)
	}
	for range 3 { // on a machine's only connection, the hub does not ask for another measurement
		s.Advance(time.Minute)
		if k.report(t) {
			t.Error("asked to measure again")
		}
	}
	for _, path := range []string{"/device", "/devices", "/devices/" + id} {
		if a := must(k.conn.Do(t.Context(), "GET", path, nil))(t); a.Status != 200 || strings.Contains(string(a.Body), "cloned") {
			t.Errorf("%s tells a clone that it is suspected: %d %s", path, a.Status, a.Body)
		}
	}
	list := eventsOfKinds(ada, id, "device.clone-suspected", "device.cloned")
	if back := eventsOfKinds(ada, id, "device.tpm-went-backwards"); len(back) != 1 {
		t.Errorf("%s", brief.Of(back))
	}
	if len(list) != 1 || !strings.Contains(list[0].Message, "gangway device cloned "+id) {
		t.Errorf("%s", brief.Of(list))
	}
	if d := want[api.DeviceView](ada, "GET", "/devices/"+id, nil, 200); d.Cloned != "suspected" || d.Status != "active" {
		t.Errorf("%s", brief.Of(d))
	}
}

func TestOwnerDecidesThatItIsOneMachine(t *testing.T) {
	t.Parallel()
	_, ada, k, id := suspected(t)
	path := "/devices/" + id + "/cloned"
	p := want[api.Problem](ada, "PUT", path, map[string]any{"decision": "one", "findings": []string{}}, 409)
	if p.Code != "cloned-changed" {
		t.Errorf("%s", brief.Of(p))
	}
	v := want[api.ClonedView](ada, "PUT", path, map[string]any{"decision": "one", "findings": []string{"counters-back"}}, 200)
	if v.State != "" || v.Decision != "one" || v.By != "ada" || !v.Findings[0].Answered {
		t.Errorf("%s", brief.Of(v))
	}
	if d := want[api.DeviceView](ada, "GET", "/devices/"+id, nil, 200); d.Cloned != "" {
		t.Errorf("%s", brief.Of(d))
	}
	k.measure(t)
	k.report(t)
	if v := want[api.ClonedView](ada, "PUT", path, map[string]any{"decision": ""}, 200); v.State != "suspected" || v.Decision != "" {
		t.Errorf("%s", brief.Of(v))
	}
	for _, bad := range []any{map[string]any{"decision": "three"}, map[string]any{}} {
		if p := want[api.Problem](ada, "PUT", path, bad, 400); p.Code != "decision" {
			t.Errorf("%s", brief.Of(p))
		}
	}
}

// The owner decides that there are several machines. The hub then refuses the device's connections,
// tokens and secrets, and a new onboarding with the same TPM state. The owner can withdraw the
// decision. A machine with a new TPM state is another device.
func TestClonesAreRefusedUntilTheyHaveATPMStateOfTheirOwn(t *testing.T) {
	t.Parallel()
	s, ada, _, id := suspected(t)
	certs := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	conn := must(s.client.Dial(t.Context(), certs.TLS(s.victim)))(t)
	defer conn.Close()
	var login struct{ Token string }
	if err := json.Unmarshal(must(conn.Do(t.Context(), "POST", "/auth/x509/login", nil))(t).Body, &login); err != nil || login.Token == "" {
		t.Fatalf("%v %s", err, brief.Of(login))
	}
	program := &person{t: t, s: s, client: ada.client, token: login.Token}
	want[api.DeviceView](program, "GET", "/devices/"+id, nil, 200)

	path := "/devices/" + id + "/cloned"
	if v := want[api.ClonedView](ada, "PUT", path, map[string]any{"decision": "two"}, 200); v.State != "refused" {
		t.Errorf("%s", brief.Of(v))
	}
	refused := func(a *fleet.Answer) {
		t.Helper()
		var p api.Problem
		if err := json.Unmarshal(a.Body, &p); err != nil || a.Status != 403 || p.Code != "tpm-cloned" || p.Hint == "" {
			t.Errorf("%d %s", a.Status, a.Body)
		}
	}
	for _, route := range []string{"GET /device", "GET /device/boot", "PATCH /device/meta", "POST /device/secret", "POST /auth/x509/login", "GET /trails"} {
		method, path, _ := strings.Cut(route, " ")
		refused(must(conn.Do(t.Context(), method, path, []byte("{}")))(t))
	}
	if p := want[api.Problem](program, "GET", "/devices/"+id, nil, 403); p.Code != "tpm-cloned" {
		t.Errorf("%s", brief.Of(p))
	}
	again := must(s.victim.WithNewIdentity())(t)
	again.IAK = s.victim.IAK
	request := must(again.Request(s.tok, fleet.RequestChange{}))(t)
	pending := must(again.Enrol(t.Context(), s.client, request))(t)
	refused(must(again.Activate(t.Context(), s.client, pending))(t))
	if d := want[api.DeviceView](ada, "GET", "/devices/"+id, nil, 200); d.Cloned != "refused" {
		t.Errorf("%s", brief.Of(d))
	}

	// A machine with another TPM is another device.
	other := s.device(t)
	must(other.Onboard(t.Context(), s.client, s.tok))(t)
	if d := want[api.DeviceView](ada, "GET", "/devices/"+s.deviceOf(t, other), nil, 200); d.Cloned != "" || d.ID == id {
		t.Errorf("%s", brief.Of(d))
	}

	want[api.ClonedView](ada, "PUT", path, map[string]any{"decision": "one"}, 200)
	if a := must(conn.Do(t.Context(), "GET", "/device", nil))(t); a.Status != 200 {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	if list := eventsOfKinds(ada, id, "device.clone-decided", "activation.refused"); len(list) != 2 {
		t.Errorf("%s", brief.Of(list))
	}
}

// The method `enrolled` onboards the victim again, as a machine with the given serial number and
// TPM clock. It returns the new client certificate.
func (s *scene) enrolled(t *testing.T, serial string, clock tcg.ClockInfo) tls.Certificate {
	t.Helper()
	d := must(s.victim.WithNewIdentity())(t)
	d.IAK, d.Serial = s.victim.IAK, serial
	request := must(d.Request(s.tok, fleet.RequestChange{Attest: func([]byte) []byte { return fleet.AttestAt(d.IAK.Name(), d.IDevID.Name(), clock) }}))(t)
	certs := must(d.Enrol(t.Context(), s.client, request))(t)
	if a := must(d.Activate(t.Context(), s.client, certs))(t); a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	return certs.TLS(d)
}

// A second machine onboards with a copy of a device's TPM state. Its serial number or its TPM clock
// shows the hub that it is another machine. The usual repairs of one machine cause no finding.
func TestSecondMachineThatTakesADeviceOverIsFound(t *testing.T) {
	t.Parallel()
	running := func(reset uint32, ran time.Duration) tcg.ClockInfo {
		return tcg.ClockInfo{Clock: uint64(ran.Milliseconds()), ResetCount: reset, Safe: true}
	}
	for name, c := range map[string]struct {
		serial string
		clock  tcg.ClockInfo
		code   string // code of the finding; empty: no finding
	}{
		"another serial number in the same boot": {"B", running(5, 10*time.Hour+time.Second), "serial-in-boot"},
		"a clock that went back":                 {"A", running(5, 9*time.Hour), "counters-back"},
		"the same machine, installed again":      {"A", running(6, 10*time.Hour+time.Second), ""},
		"a new board around the same TPM":        {"B", running(6, 10*time.Hour+time.Second), ""},
		"a TPM that was cleared":                 {"A", running(0, time.Second), ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			ada := s.person(t, "ada")
			s.enrolled(t, "A", running(5, 10*time.Hour))
			id := s.deviceOf(t, s.victim)
			s.Advance(time.Second)
			s.enrolled(t, c.serial, c.clock)
			v := want[api.ClonedView](ada, "GET", "/devices/"+id+"/cloned", nil, 200)
			if c.code == "" && len(v.Findings) > 0 || c.code != "" && (len(v.Findings) != 1 || v.Findings[0].Code != c.code || v.State != "suspected") {
				t.Errorf("%s", brief.Of(v))
			}
			if list := eventsOfKinds(ada, id, clonedKinds...); len(list) != len(v.Findings) {
				t.Errorf("%s", brief.Of(list))
			}
			again := eventsOfKinds(ada, id, "device.activated")[1].Message
			if says := strings.Contains(again, `Its serial number changed from "A" to "B".`); says != (c.serial == "B") {
				t.Errorf("%s", brief.Of(again))
			}
		})
	}
}

// The hub refuses the earlier certificate of a device that onboarded again. If the serial number
// changed in between, as with a replaced board, the use of the earlier certificate is also a
// finding about a clone.
func TestCertificateFromBeforeInUseIsFound(t *testing.T) {
	t.Parallel()
	for serial, found := range map[string]int{"A": 0, "B": 1} {
		s := newScene(t)
		ada := s.person(t, "ada")
		clock := tcg.ClockInfo{Clock: 1000, ResetCount: 5}
		first := s.enrolled(t, "A", clock)
		id := s.deviceOf(t, s.victim)
		clock.ResetCount = 6
		s.enrolled(t, serial, clock)
		conn := must(s.client.Dial(t.Context(), first))(t)
		defer conn.Close()
		for range 3 {
			if a := must(conn.Do(t.Context(), "GET", "/device", nil))(t); a.Status != 403 || !strings.Contains(string(a.Body), "certificate-not-active") {
				t.Fatalf("%d %s", a.Status, a.Body)
			}
		}
		if list := eventsOfKinds(ada, id, clonedKinds...); len(list) != found {
			t.Errorf("serial %s: %s", serial, brief.Of(list))
		}
	}
}

// If a peer has not proven possession of the TPM, it causes no finding about a clone.
func TestUnprovenPeerRaisesNoSuspicion(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	s.enrolled(t, "A", tcg.ClockInfo{Clock: 36_000_000, ResetCount: 5})
	id := s.deviceOf(t, s.victim)
	d := must(s.victim.WithNewIdentity())(t)
	d.IAK, d.Serial = s.victim.IAK, "B"
	request := must(d.Request(s.tok, fleet.RequestChange{Attest: func([]byte) []byte {
		return fleet.AttestAt(d.IAK.Name(), d.IDevID.Name(), tcg.ClockInfo{Clock: 1, ResetCount: 5})
	}}))(t)
	certs := must(d.Enrol(t.Context(), s.client, request))(t) // still pending
	conn := must(s.client.Dial(t.Context(), certs.TLS(d)))(t)
	defer conn.Close()
	if a := must(conn.Do(t.Context(), "GET", "/device", nil))(t); a.Status != 403 {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	if v := want[api.ClonedView](ada, "GET", "/devices/"+id+"/cloned", nil, 200); len(v.Findings) != 0 {
		t.Errorf("%s", brief.Of(v))
	}
	if _, err := s.Store.Clone(t.Context(), id); err != store.ErrNotFound {
		t.Errorf("a row was stored: %v", err)
	}
}

func TestOwnerDecidesAboutClonesOnThePage(t *testing.T) {
	t.Parallel()
	s, ada, _, id := suspected(t)
	b := s.browser(t)
	b.signIn()
	if _, page, _ := b.send("GET", "/ui/overview", ""); !strings.Contains(page, `href="/ui/onboard/waiting#cloned-h"`) {
		t.Errorf("the overview does not lead to the decision: %s", brief.Of(page))
	}
	status, page, _ := b.send("GET", "/ui/onboard/waiting", "")
	if status != 200 || !strings.Contains(page, "Devices that may be several machines") || !strings.Contains(page, "was set back") || !strings.Contains(page, "cloned?") {
		t.Fatalf("%d %s", status, brief.Of(page))
	}
	if status, _, _ := b.send("POST", "/ui/cloned/decide", "id="+id+"&decision=one&finding=clock-ahead"); status != 409 {
		t.Errorf("a decision on another state than the page showed: status %d", status)
	}
	for _, step := range []struct{ form, state, shows string }{
		{"decision=two&finding=counters-back", "refused", "Withdraw the decision"},
		{"decision=back&finding=counters-back", "suspected", "It is one machine: continue"},
		{"decision=one&finding=counters-back", "", ""},
	} {
		if status, page, h := b.send("POST", "/ui/cloned/decide", "id="+id+"&"+step.form); status != 303 || h.Get("Location") != "/ui/onboard/waiting" {
			t.Fatalf("%s: %d %s", step.form, status, brief.Of(page))
		}
		if d := want[api.DeviceView](ada, "GET", "/devices/"+id, nil, 200); d.Cloned != step.state {
			t.Errorf("%s: %q", step.form, d.Cloned)
		}
		if _, page, _ := b.send("GET", "/ui/onboard/waiting", ""); step.state != "" && !strings.Contains(page, step.shows) || step.state == "" && strings.Contains(page, "may be several machines") {
			t.Errorf("%s: %s", step.form, brief.Of(page))
		}
	}
}

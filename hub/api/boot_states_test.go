package api_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"gangway/hub/api"
	"gangway/hub/boot"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/eventlog"
	"gangway/internal/fleet"
	"gangway/internal/race"
	"gangway/tcg"
	"gangway/wire"
)

// reportOf makes the report that the device `d` sends for the given PCRs and event log.
func reportOf(t testing.TB, d *fleet.Device, nonce []byte, pcrs [][]byte, log []byte, resets uint32) *wire.BootReport {
	t.Helper()
	r := &wire.BootReport{Nonce: nonce, Bank: uint16(tcg.AlgSHA256), PCRs: pcrs, EventLog: log}
	var err error
	if r.Attest, r.Signature, err = d.Quote(wire.BootQualifying(nonce, log), tcg.AlgSHA256, pcrs, resets); err != nil {
		t.Fatal(err)
	}
	return r
}

func verdictOf(t testing.TB, c *fleet.Conn, d *fleet.Device, pcrs [][]byte, log []byte, resets uint32) wire.BootVerdict {
	t.Helper()
	a := sendBoot(t, c, reportOf(t, d, challenge(t, c).Nonce, pcrs, log, resets))
	var v wire.BootVerdict
	if err := json.Unmarshal(a.Body, &v); err != nil || a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	return v
}

// pageSays checks that the web page with the device list shows this boot state for the only device.
func (s *scene) pageSays(t *testing.T, state string) {
	t.Helper()
	b := s.browser(t)
	b.signIn()
	if _, page, _ := b.send("GET", "/ui/devices?c=boot", ""); !strings.Contains(page, `">`+state+`</span>`) || strings.Contains(page, "boot matches") {
		t.Errorf("the page does not say %q", state)
	}
}

// requestSecret requests the device's secret, which a measured-boot policy protects.
func requestSecret(t testing.TB, c *fleet.Conn) *fleet.Answer {
	return must(c.Do(t.Context(), "POST", "/device/secret", nil))(t)
}

// If nothing was measured into the PCRs, they have the same values after every boot. So the hub
// does not accept these values as a reference, and reports a boot with them as "nothing-measured".
func TestBootOfWhichNothingWasMeasuredSatisfiesNoRequirement(t *testing.T) {
	race.Skip(t)
	t.Parallel()
	var separators eventlog.Log
	for pcr := range 8 {
		separators = append(separators, eventlog.Event{PCR: pcr, Type: eventlog.Separator, Data: make([]byte, 4)})
	}
	started := eventlog.Log{}.PCRs()
	started[0][31] = 3
	for name, boots := range map[string]struct {
		pcrs [][]byte
		log  []byte
	}{
		"zeros":                        {eventlog.Log{}.PCRs(), nil},
		"zeros and a log of no event":  {eventlog.Log{}.PCRs(), eventlog.Log{}.Bytes()},
		"zeros and another boot's log": {eventlog.Log{}.PCRs(), usual.Bytes()},
		"a start value":                {started, nil},
		"separators":                   {separators.PCRs(), separators.Bytes()},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			ada := s.person(t, "ada")
			c, _, id := s.connected(t)
			path := "/devices/" + id + "/boot"
			s.Policy(t, s.Owner.ID, "version: 1\nmeasured_boot: require\n")
			v := verdictOf(t, c, s.victim, boots.pcrs, boots.log, 1)
			if v.State != "nothing-measured" || len(v.Changes) != 1 {
				t.Errorf("%s", brief.Of(v))
			}
			refused(t, requestSecret(t, c), 403, "boot-nothing-measured")
			view := want[api.BootView](ada, "GET", path, nil, 200)
			if view.State != "nothing-measured" || view.Reference != nil || len(view.History) != 1 {
				t.Errorf("%s", brief.Of(view))
			}
			if list := want[[]api.DeviceView](ada, "GET", "/devices", nil, 200); list[0].Boot != "nothing-measured" {
				t.Errorf("the list says %q", list[0].Boot)
			}
			s.pageSays(t, "nothing measured")
			if e := want[[]api.EventView](ada, "GET", "/events?device="+id, nil, 200)[0]; e.Kind != "device.boot-nothing-measured" {
				t.Errorf("the owner got no event: %s", brief.Of(e))
			}
			// The owner cannot accept a boot without measurements. The owner also cannot set the
			// values of this boot as the reference.
			if p := want[api.Problem](ada, "POST", path+"/reference", map[string]any{"from": "latest"}, 409); p.Code != "boot-nothing-measured" || p.Hint == "" {
				t.Errorf("%s", brief.Of(p))
			}
			want[api.Problem](ada, "POST", path+"/reference", map[string]any{"from": "values", "bank": "SHA-256", "pcrs": map[string]string{"1": strings.Repeat("0", 64)}}, 400)
			// The first boot with measurements becomes the reference. A later boot without
			// measurements does not match that reference.
			if v := verdictOf(t, c, s.victim, usual.PCRs(), usual.Bytes(), 2); v.State != "matches" {
				t.Errorf("%s", brief.Of(v))
			}
			if a := requestSecret(t, c); a.Status != 200 {
				t.Errorf("%d %s", a.Status, a.Body)
			}
			verdictOf(t, c, s.victim, boots.pcrs, boots.log, 3)
			refused(t, requestSecret(t, c), 403, "boot-nothing-measured")
			// A policy that does not require a measured boot admits the device.
			s.Policy(t, s.Owner.ID, "version: 1\nmeasured_boot: report\n")
			if a := requestSecret(t, c); a.Status != 200 {
				t.Errorf("%d %s", a.Status, a.Body)
			}
		})
	}
}

// After the hub has refused a measurement, it does not show an older measurement that matched, and
// does not admit the device because of it.
func TestRefusedMeasurementLeavesNoStaleMatch(t *testing.T) {
	t.Parallel()
	big := func(t testing.TB, s *scene, c *fleet.Conn) *wire.BootReport {
		r := report(t, s.victim, challenge(t, c).Nonce, usual, 1)
		r.EventLog = make([]byte, wire.MaxBootReport)
		return r
	}
	lie := func(t testing.TB, s *scene, c *fleet.Conn) *wire.BootReport {
		r := report(t, s.victim, challenge(t, c).Nonce, another, 2)
		r.PCRs = usual.PCRs()
		return r
	}
	for name, c := range map[string]struct {
		report func(testing.TB, *scene, *fleet.Conn) *wire.BootReport
		status int
		code   string
	}{"values that were not quoted": {lie, 403, boot.CodeValues}, "a report that is too large": {big, 413, "body-too-large"}} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			ada := s.person(t, "ada")
			conn, certs, id := s.connected(t)
			path := "/devices/" + id + "/boot"
			s.Policy(t, s.Owner.ID, "version: 1\nmeasured_boot: require\n")
			booted(t, conn, s.victim, usual, 1)
			for range 3 {
				refused(t, sendBoot(t, conn, c.report(t, s, conn)), c.status, c.code)
				if c.status == 413 { // the answer 413 ends the connection
					conn = must(s.client.Dial(t.Context(), certs.TLS(s.victim)))(t)
					defer conn.Close()
				}
			}
			refused(t, requestSecret(t, conn), 403, "boot-refused")
			v := want[api.BootView](ada, "GET", path, nil, 200)
			if v.State != "refused" || v.Refusal == nil || v.Refusal.Code != c.code || v.Refusal.Reason == "" || v.Refusal.Hint == "" || v.Latest == nil {
				t.Errorf("%s", brief.Of(v))
			}
			if list := want[[]api.DeviceView](ada, "GET", "/devices", nil, 200); list[0].Boot != "refused" {
				t.Errorf("the list says %q", list[0].Boot)
			}
			if d := want[api.DeviceView](ada, "GET", "/devices/"+id, nil, 200); d.Boot != "refused" {
				t.Errorf("the device's record says %q", d.Boot)
			}
			s.pageSays(t, "measurement refused")
			refusals := 0
			for _, e := range want[[]api.EventView](ada, "GET", "/events?device="+id, nil, 200) {
				if e.Kind == "device.boot-refused" {
					refusals++
				}
			}
			if refusals != 1 {
				t.Errorf("%d events for one kind of refusal, want 1", refusals)
			}
			// The owner accepts the measurement that came before the refused measurement. The hub
			// still shows the refusal afterwards.
			if v := want[api.BootView](ada, "POST", path+"/reference", map[string]any{"from": "latest", "measurement": v.Number}, 200); v.State != "refused" {
				t.Errorf("%s", brief.Of(v))
			}
			refused(t, requestSecret(t, conn), 403, "boot-refused")
			// A valid measurement ends the refusal, and the owner gets an event.
			booted(t, conn, s.victim, usual, 1)
			if v := want[api.BootView](ada, "GET", path, nil, 200); v.State != "matches" || v.Refusal != nil {
				t.Errorf("%s", brief.Of(v))
			}
			if e := want[[]api.EventView](ada, "GET", "/events?device="+id, nil, 200)[0]; e.Kind != "device.boot-matches" {
				t.Errorf("%s", brief.Of(e))
			}
			if a := requestSecret(t, conn); a.Status != 200 {
				t.Errorf("%d %s", a.Status, a.Body)
			}
		})
	}
}

// systemd 261 extends PCRs after the end of the firmware's event log. The hub shows this change to
// the owner, and the owner accepts the change once.
func TestOwnerAcceptsTheSeparatorOfSystemd(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	c, _, id := s.connected(t)
	path := "/devices/" + id + "/boot"
	s.Policy(t, s.Owner.ID, "version: 1\nmeasured_boot: require\n")
	booted(t, c, s.victim, usual, 1)
	word := sha256.Sum256([]byte("os-separator"))
	pcrs := usual.PCRs()
	for _, i := range []int{0, 1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 14} {
		v := sha256.Sum256(slices.Concat(pcrs[i], word[:]))
		pcrs[i] = v[:]
	}
	v := verdictOf(t, c, s.victim, pcrs, usual.Bytes(), 2)
	if v.State != "changed" || len(v.Changes) != 1 || !strings.Contains(v.Changes[0], "systemd's os-separator") {
		t.Fatalf("%s", brief.Of(v))
	}
	refused(t, requestSecret(t, c), 403, "boot-changed")
	view := want[api.BootView](ada, "GET", path, nil, 200)
	if view.State != "changed" || view.Latest.SecureBoot != "on" || len(view.Latest.Unexplained) != 0 {
		t.Errorf("%s", brief.Of(view))
	}
	want[api.BootView](ada, "POST", path+"/reference", map[string]any{"from": "latest", "measurement": view.Number}, 200)
	if v := verdictOf(t, c, s.victim, pcrs, usual.Bytes(), 3); v.State != "matches" {
		t.Errorf("%s", brief.Of(v))
	}
	if a := requestSecret(t, c); a.Status != 200 {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}

// An unreadable event log is not a reason for refusal. The hub compares the PCR values instead.
func TestLogThatCannotBeReadIsNoReasonToRefuse(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Policy(t, s.Owner.ID, "version: 1\nmeasured_boot: require\n")
	c, _, id := s.connected(t)
	for n, log := range [][]byte{[]byte("no log"), bytes.Repeat([]byte{0xFF}, 4096), make([]byte, boot.MaxLog+1), usual.Bytes()[:100], nil} {
		if v := verdictOf(t, c, s.victim, usual.PCRs(), log, uint32(n+1)); v.State != "matches" {
			t.Errorf("log %d: %s", n, brief.Of(v))
		}
	}
	if v := verdictOf(t, c, s.victim, another.PCRs(), []byte("no log"), 9); v.State != "changed" {
		t.Errorf("%s", brief.Of(v))
	}
	ada := s.person(t, "ada")
	if v := want[api.BootView](ada, "GET", "/devices/"+id+"/boot", nil, 200); v.Latest.LogState != boot.LogUnreadable || v.Latest.LogProblem == "" {
		t.Errorf("%s", brief.Of(v.Latest))
	}
	if v := want[api.BootView](ada, "POST", "/devices/"+id+"/boot/reference", map[string]any{"from": "latest"}, 200); v.State != store.BootMatches {
		t.Errorf("%s", brief.Of(v))
	}
}

// If a device measures on one connection a boot that does not match its reference, the hub refuses
// requests on all connections of the device, and with all its tokens.
func TestBootThatDoesNotMatchElsewhereEndsEveryAdmission(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		show func(*scene, *fleet.Conn)
		code string
	}{
		"nothing measured": {func(s *scene, conn *fleet.Conn) {
			verdictOf(t, conn, s.victim, eventlog.Log{}.PCRs(), usual.Bytes(), 2)
		}, "boot-nothing-measured"},
		"refused": {func(s *scene, conn *fleet.Conn) {
			r := report(t, s.victim, challenge(t, conn).Nonce, usual, 2)
			r.Nonce = make([]byte, len(r.Nonce))
			refused(t, sendBoot(t, conn, r), 403, boot.CodeNonce)
		}, "boot-refused"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			s.Policy(t, s.Owner.ID, "version: 1\nmeasured_boot: require\n")
			first, certs, id := s.connected(t)
			booted(t, first, s.victim, usual, 1)
			var login struct{ Token string }
			if err := json.Unmarshal(must(first.Do(t.Context(), "POST", "/auth/x509/login", nil))(t).Body, &login); err != nil {
				t.Fatal(err)
			}
			holder := s.person(t, "")
			holder.token = login.Token
			second := must(s.client.Dial(t.Context(), certs.TLS(s.victim)))(t)
			defer second.Close()
			c.show(s, second)
			for _, conn := range []*fleet.Conn{first, second} {
				refused(t, requestSecret(t, conn), 403, c.code)
			}
			want[api.Problem](holder, "GET", "/devices/"+id, nil, 403)
			// The device measures the usual boot again on the first connection. This does not admit
			// the second connection, on which the device has measured another boot.
			booted(t, first, s.victim, usual, 3)
			if a := requestSecret(t, first); a.Status != 200 {
				t.Errorf("%d %s", a.Status, a.Body)
			}
			refused(t, requestSecret(t, second), 403, "boot-unmeasured")
		})
	}
}

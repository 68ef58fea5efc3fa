package api_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/hubtest"
	"gangway/wire"
)

const withoutTPM = hubtest.LabPolicy + "without_tpm: accept\n"

// register creates a device without a TPM. The device belongs to the owner of the join token
// `token` or, if `token` is empty, to nobody.
func (s *scene) register(t *testing.T, token string, want int) api.Registered {
	t.Helper()
	header := map[string]string{}
	if token != "" {
		header["Pantahub-Devices-Auto-Token-V1"] = token
	}
	status, body, _ := s.person(t, "").request("POST", "/devices/", nil, header)
	if status != want {
		t.Fatalf("%d %s, want %d", status, body, want)
	}
	var d api.Registered
	if err := json.Unmarshal(body, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// signedInAs returns a client that is signed in with the device's secret.
func (s *scene) signedInAs(t *testing.T, d api.Registered) *person {
	t.Helper()
	p := s.person(t, "")
	p.token = want[struct{ Token string }](p, "POST", "/auth/login", map[string]string{"username": d.PRN, "password": d.Secret}, 200).Token
	return p
}

func TestDeviceWithoutTPMIsRefusedUnlessThePolicyAcceptsIt(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	auto := s.Token(t, s.Owner, func(t *store.JoinToken) { t.WithoutTPM = true })
	s.register(t, "", 400)
	s.register(t, auto.Token, 400)
	want[map[string]any](s.person(t, "ada"), "POST", "/devices", "{}", 400)
	// An owner's policy can refuse devices without a TPM, but cannot accept them if the hub's
	// policy refuses them.
	s.Policy(t, s.Owner.ID, "version: 1\nwithout_tpm: accept\n")
	want[map[string]any](s.person(t, "ada"), "POST", "/devices", "{}", 400)
	s.Policy(t, store.HubWide, withoutTPM)
	want[map[string]any](s.person(t, "ada"), "POST", "/devices", "{}", 200)
	s.register(t, auto.Token, 200)
	s.Policy(t, s.Owner.ID, "version: 1\nwithout_tpm: refuse\n")
	s.register(t, auto.Token, 400)
}

// Devices without a TPM send the join token itself, so the hub accepts only join tokens that were
// made for such devices.
func TestJoinTokenIsShownOnlyWhereItWasMadeForThat(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Policy(t, store.HubWide, withoutTPM)
	ada := s.person(t, "ada")
	plain := want[wire.TokenFile](ada, "POST", "/devices/tokens", map[string]any{"nick": "tpm"}, 200)
	s.register(t, plain.Token, 400)
	auto := want[wire.TokenFile](ada, "POST", "/devices/tokens", map[string]any{"nick": "pantavisor", "without-tpm": true, "max-uses": 2, "default-user-meta": map[string]any{"site": "oslo"}}, 200)
	d := s.register(t, auto.Token, 200)
	if d.Owner != wire.AccountPRN+s.Owner.ID || d.Challenge != "" || d.UserMeta["site"] != "oslo" || len(d.Secret) < 32 {
		t.Errorf("%s", brief.Of(d))
	}
	s.register(t, auto.Token, 200)
	s.register(t, auto.Token, 400) // used up
	if n := s.Uses(t, &auto); n != 2 {
		t.Errorf("%d uses", n)
	}
	for _, bad := range []string{"x", strings.Repeat("A", 32), strings.Repeat("A", 5000)} {
		s.register(t, bad, 400)
	}
	again := want[wire.TokenFile](ada, "POST", "/devices/tokens", map[string]any{"without-tpm": true}, 200)
	want[map[string]string](ada, "DELETE", "/devices/tokens/"+again.ID, nil, 200)
	s.register(t, again.Token, 400) // disabled
	late := want[wire.TokenFile](ada, "POST", "/devices/tokens", map[string]any{"without-tpm": true, "expires-in": "1h"}, 200)
	s.Advance(2 * time.Hour)
	s.register(t, late.Token, 400) // expired
}

// If many devices register at the same time with a join token that has one use left, only one
// device is created.
func TestAutoTokensLastUseGoesToOneDevice(t *testing.T) {
	t.Parallel()
	s := newSceneOnDisk(t)
	s.Policy(t, store.HubWide, withoutTPM)
	auto := s.Token(t, s.Owner, func(t *store.JoinToken) { t.WithoutTPM, t.MaxUses = true, 1 })
	hash := s.tokenOf(t, auto)
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			d := store.Device{ID: wire.NewID(), Nick: "raft", Owner: s.Owner.ID, TokenID: hash.ID, Created: s.Now()}
			if _, err := s.Store.CreateDevice(t.Context(), d, store.Hash{1}); err == nil {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || s.Uses(t, auto) != 1 {
		t.Errorf("%d devices, %d uses", won.Load(), s.Uses(t, auto))
	}
}

func (s *scene) tokenOf(t *testing.T, f *wire.TokenFile) store.JoinToken {
	t.Helper()
	return must(s.Store.JoinToken(t.Context(), f.ID))(t)
}

func TestClaimNeedsTheChallengeAndIsOnce(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Account(t, "eve")
	s.Policy(t, store.HubWide, withoutTPM)
	d, other := s.register(t, "", 200), s.register(t, "", 200)
	if d.Owner != "" || len(d.Challenge) != 14 || d.Challenge == other.Challenge {
		t.Fatalf("%s", brief.Of(d))
	}
	// The device can read its challenge at any time. Nobody else can read the challenge.
	self := s.signedInAs(t, d)
	view := want[api.DeviceView](self, "GET", "/devices/"+d.ID, nil, 200)
	if view.Challenge != d.Challenge || view.Owner != "" || view.Status != "unclaimed" {
		t.Errorf("%s", brief.Of(view))
	}
	ada, eve := s.person(t, "ada"), s.person(t, "eve")
	want[map[string]any](ada, "GET", "/devices/"+d.ID, nil, 404)
	for _, bad := range []string{other.Challenge, "x", d.Challenge[:13]} {
		want[map[string]any](ada, "PUT", "/devices/"+d.ID+"?challenge="+bad, nil, 412)
	}
	claimed := want[api.DeviceView](ada, "PUT", "/devices/"+d.ID+"?challenge="+strings.ToUpper(d.Challenge), nil, 200)
	if claimed.OwnerNick != "ada" || claimed.Challenge != "" {
		t.Errorf("%s", brief.Of(claimed))
	}
	want[map[string]any](eve, "PUT", "/devices/"+d.ID+"?challenge="+d.Challenge, nil, 412)
	// The device reads the new owner in its record, even with an access token that was issued
	// before the claim.
	if view := want[api.DeviceView](self, "GET", "/devices/"+d.ID, nil, 200); view.Owner != claimed.Owner || view.Challenge != "" {
		t.Errorf("%s", brief.Of(view))
	}
}

func TestGuessingChallengesIsSlowedDown(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Policy(t, store.HubWide, withoutTPM)
	d := s.register(t, "", 200)
	ada := s.person(t, "ada")
	for range 30 {
		if status, _ := ada.do("PUT", "/devices/"+d.ID+"?challenge=aaaa-bbbb-cccc", nil); status == http.StatusTooManyRequests {
			return
		}
	}
	t.Error("30 guesses were not limited")
}

func TestUnclaimedDevicesAreRefusedWhenTheyAreTooMany(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Policy(t, store.HubWide, withoutTPM)
	for range 30 {
		if status, _, _ := s.person(t, "").request("POST", "/devices", nil, nil); status == http.StatusTooManyRequests {
			return
		}
	}
	t.Error("30 registrations from one address were not limited")
}

// A device's access token becomes invalid when the secret with which the device got the token is
// replaced, or when the device is deleted.
func TestDeviceTokenEndsWithWhatItStandsOn(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Policy(t, store.HubWide, withoutTPM)
	auto := s.Token(t, s.Owner, func(t *store.JoinToken) { t.WithoutTPM = true })
	d := s.register(t, auto.Token, 200)
	p := s.signedInAs(t, d)
	want[api.DeviceView](p, "GET", "/devices/"+d.ID, nil, 200)
	// The hub does not accept a device's access token where it demands a person's token or the
	// device's client certificate.
	for path, method := range map[string]string{"/policy": "GET", "/devices/tokens": "GET", "/events": "GET", "/device/secret": "POST", "/auth/x509/login": "POST"} {
		if status, body := p.do(method, path, nil); status != 401 {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	// When the device gets a new secret, the tokens that it got with the old secret become invalid.
	if err := s.Store.PutDeviceSecret(t.Context(), d.ID, store.Hash{}, store.Hash{9}, time.Time{}); err != nil {
		t.Fatal(err)
	}
	want[map[string]any](p, "GET", "/devices/"+d.ID, nil, 401)
	want[map[string]any](s.person(t, ""), "POST", "/auth/login", map[string]string{"username": d.PRN, "password": d.Secret}, 401)
	// When the device is deleted, its tokens become invalid too.
	d = s.register(t, auto.Token, 200)
	p = s.signedInAs(t, d)
	want[api.DeviceView](s.person(t, "ada"), "DELETE", "/devices/"+d.ID, nil, 200)
	want[map[string]any](p, "GET", "/devices/"+d.ID, nil, 401)
	// The tokens also expire.
	d = s.register(t, auto.Token, 200)
	p = s.signedInAs(t, d)
	s.Advance(61 * time.Minute)
	want[map[string]any](p, "GET", "/devices/"+d.ID, nil, 401)
}

// Some programs on a device cannot use the device's TPM key. For them, a device with a TPM can get
// an access token and a device secret. Both expire soon, and become invalid when the device is
// deleted.
func TestChipGetsATokenAndASecretForItsPrograms(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	certs := must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	id := s.deviceOf(t, s.victim)
	conn := must(s.client.Dial(t.Context(), certs.TLS(s.victim)))(t)
	defer conn.Close()
	a := must(conn.Do(t.Context(), "POST", "/auth/x509/login", nil))(t)
	var answer struct{ Token string }
	if err := json.Unmarshal(a.Body, &answer); err != nil || a.Status != 200 || len(answer.Token) > 1016 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	p := s.person(t, "")
	p.token = answer.Token
	want[api.DeviceView](p, "GET", "/devices/"+id, nil, 200)
	a = must(conn.Do(t.Context(), "POST", "/device/secret", nil))(t)
	var secret api.SecretView
	if err := json.Unmarshal(a.Body, &secret); err != nil || a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	q := s.signedInAs(t, api.Registered{PRN: secret.PRN, Secret: secret.Secret})
	want[map[string]string](q, "PUT", "/devices/"+id+"/device-meta", map[string]any{"pantavisor.version": "022"}, 200)
	if until := time.Until(secret.Expires); until > 25*time.Hour {
		t.Errorf("the secret expires after %s", until)
	}
	s.Advance(25 * time.Hour)
	want[map[string]any](s.person(t, ""), "POST", "/auth/login", map[string]string{"username": secret.PRN, "password": secret.Secret}, 401)
	// Only the device with its TPM can renew the secret for another day.
	want[map[string]any](q, "PUT", "/device/secret", map[string]string{"secret": secret.Secret}, 401)
	keep := func(secret string) int {
		a := must(conn.Do(t.Context(), "PUT", "/device/secret", must(json.Marshal(map[string]string{"secret": secret}))(t)))(t)
		return a.Status
	}
	if status := keep("another"); status != 409 {
		t.Errorf("an unknown secret was extended: status %d", status)
	}
	if status := keep(secret.Secret); status != 200 {
		t.Errorf("%d", status)
	}
	s.signedInAs(t, api.Registered{PRN: secret.PRN, Secret: secret.Secret})
	s.Advance(25 * time.Hour)
	want[map[string]any](s.person(t, ""), "POST", "/auth/login", map[string]string{"username": secret.PRN, "password": secret.Secret}, 401)
	s.Advance(-25 * time.Hour)
	if err := s.Store.DeleteDevice(t.Context(), s.Owner.ID, id, s.Now()); err != nil {
		t.Fatal(err)
	}
	s.Advance(-25 * time.Hour)
	want[map[string]any](p, "GET", "/devices/"+id, nil, 401)
}

// A device can read only its own record, and cannot change what belongs to its owner, such as its
// nick and user-meta.
func TestDeviceSeesAndChangesItselfAlone(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Policy(t, store.HubWide, withoutTPM)
	auto := s.Token(t, s.Owner, func(t *store.JoinToken) { t.WithoutTPM = true })
	d, other := s.register(t, auto.Token, 200), s.register(t, auto.Token, 200)
	p := s.signedInAs(t, d)
	if list := want[[]api.DeviceView](p, "GET", "/devices/", nil, 200); len(list) != 1 || list[0].ID != d.ID {
		t.Errorf("%s", brief.Of(list))
	}
	for _, path := range []string{"", "/user-meta", "/device-meta"} {
		want[map[string]any](p, "GET", "/devices/"+other.ID+path, nil, 404)
	}
	want[map[string]any](p, "PATCH", "/devices/"+other.ID+"/device-meta", map[string]any{"a": 1}, 404)
	for _, c := range []struct{ method, path string }{{"PATCH", "/user-meta"}, {"PUT", "/user-meta"}, {"PUT", "/public"}, {"DELETE", ""}, {"PATCH", ""}, {"PUT", ""}} {
		if status, body := p.do(c.method, "/devices/"+d.ID+c.path, `{"nick":"mine","a":"b"}`); status != 401 {
			t.Errorf("%s %s: %d %s", c.method, c.path, status, body)
		}
	}
}

// Other accounts can see a public device, but not its metadata or anything else that only its owner
// may see.
func TestPublicDeviceShowsOthersNoMore(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Account(t, "eve")
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	id := s.deviceOf(t, s.victim)
	ada, eve := s.person(t, "ada"), s.person(t, "eve")
	want[map[string]any](ada, "PATCH", "/devices/"+id+"/user-meta", map[string]any{"password": "hunter2"}, 200)
	nick := s.Devices(t, s.Owner)[0].Nick
	paths := []string{"/devices/" + id, "/devices/" + nick + "?owner-nick=ada", "/devices/np/ada/" + nick}
	for _, path := range paths {
		want[map[string]any](eve, "GET", path, nil, 404)
	}
	want[api.DeviceView](ada, "PUT", "/devices/"+id+"/public", nil, 200)
	for _, path := range paths {
		d := want[api.DeviceView](eve, "GET", path, nil, 200)
		if d.ID != id || len(d.UserMeta)+len(d.DeviceMeta) != 0 || d.RealIP != "" || d.TokenID != "" || d.Machine.Serial != "" {
			t.Errorf("%s: %s", path, brief.Of(d))
		}
	}
	if list := want[[]api.DeviceView](eve, "GET", "/devices?owner-nick=ada&nick=^"+nick[:3], nil, 200); len(list) != 1 || len(list[0].UserMeta) != 0 {
		t.Errorf("%s", brief.Of(list))
	}
	want[map[string]any](eve, "GET", "/devices/"+id+"/user-meta", nil, 404)
	want[map[string]any](eve, "DELETE", "/devices/"+id, nil, 404)
	// Unknown filters are ignored, so they reveal nothing about other fields.
	if list := want[[]api.DeviceView](eve, "GET", "/devices?owner-nick=ada&secret=^a&user-meta=^h", nil, 200); len(list) != 1 {
		t.Errorf("%s", brief.Of(list))
	}
	want[api.DeviceView](ada, "DELETE", "/devices/"+id+"/public", nil, 200)
	want[map[string]any](eve, "GET", "/devices/"+id, nil, 404)
}

// A device's secret is only in the answer to the registration, and in no later answer.
func TestNoSecretIsReturnedAgain(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Policy(t, store.HubWide, withoutTPM)
	ada := s.person(t, "ada")
	d := s.register(t, "", 200)
	answers := []string{}
	for _, c := range []struct {
		method, path string
		in           any
	}{
		{"PUT", "/devices/" + d.ID + "?challenge=" + d.Challenge, nil}, {"GET", "/devices", nil}, {"GET", "/devices/" + d.ID, nil},
		{"PUT", "/devices/" + d.ID, map[string]any{"public": true}}, {"PUT", "/devices/" + d.ID + "/public", nil}, {"DELETE", "/devices/" + d.ID + "/public", nil},
		{"PATCH", "/devices/" + d.ID, map[string]string{"nick": "raft"}}, {"GET", "/events", nil}, {"DELETE", "/devices/" + d.ID, nil},
	} {
		status, body := ada.do(c.method, c.path, c.in)
		if status != 200 {
			t.Errorf("%s %s: %d %s", c.method, c.path, status, body)
		}
		answers = append(answers, string(body))
	}
	all := strings.Join(answers, "\n")
	if strings.Contains(all, d.Secret) || strings.Contains(all, d.Challenge) || strings.Contains(all, `"secret"`) {
		t.Errorf("a secret is shown again:\n%s", brief.Of(all))
	}
}

func TestNullInAMetaDeletes(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	id := s.deviceOf(t, s.victim)
	ada := s.person(t, "ada")
	path := "/devices/" + id + "/user-meta"
	want[map[string]any](ada, "PUT", path, map[string]any{"a.b": "1", "c": nil, "d": map[string]any{"e": 1}}, 200)
	want[map[string]any](ada, "PATCH", path, map[string]any{"a.b": nil, "f": 2}, 200)
	_, body := ada.do("GET", path, nil)
	if strings.TrimSpace(string(body)) != `{"d":{"e":1},"f":2}` {
		t.Errorf("%s", body)
	}
}

package api_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/boot"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/eventlog"
	"gangway/internal/hubtest"
	"gangway/wire/manifest"
)

const bank = "SHA-256"

func hexSum(text string) string {
	d := sha256.Sum256([]byte(text))
	return hex.EncodeToString(d[:])
}

// The function `system` returns the event log of a boot of the installed system. The system's EFI
// stub lets the firmware start the kernel, so the log has an event for the kernel.
func system(kernel string) eventlog.Log {
	started := sha256.Sum256([]byte("program " + kernel))
	return append(eventlog.Boot(true, kernel, "quiet"), eventlog.Event{PCR: 4, Type: eventlog.EFIBootApplication, Data: []byte{1}, Digest: started[:]})
}

// manifestOf returns the manifest of the system that the log system(kernel) describes. Its values
// are computed from the system's content, not copied from a measurement.
func manifestOf(kernel string, sequence uint64) *manifest.Manifest {
	pcr11 := make([]byte, 32)
	for _, s := range []string{".linux\x00", kernel, ".cmdline\x00", "quiet"} {
		content := sha256.Sum256([]byte(s))
		next := sha256.Sum256(append(pcr11, content[:]...))
		pcr11 = next[:]
	}
	m := &manifest.Manifest{Format: manifest.Format, Name: "system " + kernel, Made: time.Date(2026, 5, 3, 0, 0, 0, 0, time.UTC), Sequence: sequence}
	m.System.SHA256 = hexSum("file of " + kernel)
	m.System.Authenticode = map[string]string{bank: hexSum("image of " + kernel + "quiet")}
	m.System.Kernel = manifest.Program{SHA256: hexSum(kernel), Authenticode: map[string]string{bank: hexSum("program " + kernel)}}
	m.System.Cmdline = "quiet"
	m.System.PCR11 = map[string]map[string]string{bank: {"": hex.EncodeToString(pcr11)}}
	return m
}

type signer struct {
	*ecdsa.PrivateKey
	id, pem string
}

func newSigner(t testing.TB) signer {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	return signer{key, must(manifest.KeyID(key.Public()))(t), string(must(manifest.MarshalKey(key.Public()))(t))}
}

func (k signer) sign(t testing.TB, m *manifest.Manifest) string {
	t.Helper()
	return must(manifest.Sign(m, k))(t)
}

// addKey registers a signer's key.
func (p *person) addKey(k signer) {
	p.t.Helper()
	want[api.ManifestKeyView](p, "POST", "/boots/keys", api.NewManifestKey{Name: "release", Key: k.pem, Password: hubtest.Password}, 200)
}

func (p *person) addManifest(text string) api.ManifestView {
	p.t.Helper()
	return want[api.ManifestView](p, "POST", "/boots/manifests", text, 200)
}

// partsOf returns the state of each part of a device's boot, in the order of boot.Parts.
func partsOf(p *person, id string) string {
	p.t.Helper()
	v := want[api.BootView](p, "GET", "/devices/"+id+"/boot", nil, 200)
	var out []string
	for _, part := range v.Parts {
		out = append(out, part.State)
	}
	return strings.Join(out, " ")
}

const allKnown = "known known known known known"

// An owner adds the signed manifest of a system. The hub then expects that the device boots this
// system, and reports a boot of another system as changed.
func TestManifestsDecideWhatIsExpected(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	c, _, id := s.connected(t)
	k := newSigner(t)
	ada.addKey(k)
	one := ada.addManifest(k.sign(t, manifestOf("linux 1", 1)))
	// The first boot is judged too, so the boot of a foreign system does not become the reference.
	if v := booted(t, c, s.victim, system("foreign"), 1); v.State != store.BootChanged || len(v.Changes) == 0 {
		t.Fatalf("%s", brief.Of(v))
	}
	if v := want[api.BootView](ada, "GET", "/devices/"+id+"/boot", nil, 200); v.Reference != nil {
		t.Errorf("the foreign system is the reference: %s", brief.Of(v.Reference))
	}
	if v := booted(t, c, s.victim, system("linux 1"), 2); v.State != store.BootMatches {
		t.Fatalf("%s", brief.Of(v))
	}
	if got := partsOf(ada, id); got != "known known expected expected expected" {
		t.Errorf("%s", got)
	}
	v := want[api.BootView](ada, "GET", "/devices/"+id+"/boot", nil, 200)
	if v.Reference == nil || v.System == nil || v.System.SHA256 != one.System || v.System.Sequence != 1 {
		t.Errorf("%s", brief.Of(v))
	}
	// At first, an update of the system counts as a changed boot. After the owner adds the manifest
	// of the new system, the boot counts as expected, without another measurement.
	if v := booted(t, c, s.victim, system("linux 2"), 3); v.State != store.BootChanged {
		t.Fatalf("%s", brief.Of(v))
	}
	ada.addManifest(k.sign(t, manifestOf("linux 2", 2)))
	if got := partsOf(ada, id); got != "known known expected expected expected" {
		t.Errorf("%s", got)
	}
	// The device boots an older system that none of its revisions contains, so the verdict calls
	// the boot a roll-back.
	if v := booted(t, c, s.victim, system("linux 1"), 4); v.State != store.BootChanged || !strings.Contains(strings.Join(v.Changes, " "), "rolled back") {
		t.Errorf("%s", brief.Of(v))
	}
}

// From the moment at which a revision is posted, the hub expects the revision's system. The old
// system stays expected until the revision is done.
func TestSystemOfAPostedRevisionIsExpected(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	c, _, id := s.connected(t)
	k := newSigner(t)
	ada.addKey(k)
	for i, kernel := range []string{"linux 1", "linux 2"} {
		ada.addManifest(k.sign(t, manifestOf(kernel, uint64(i+1))))
	}
	do := func(method, path, body string) {
		t.Helper()
		if a := must(c.Do(t.Context(), method, path, []byte(body)))(t); a.Status != 200 {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
	}
	do("POST", "/trails/", `{`+systemSpec+`}`)
	for _, kernel := range []string{"linux 1", "linux 2"} {
		upload(ada, "/objects", kernel, "file of "+kernel)
	}
	state := func(kernel string) string {
		return fmt.Sprintf(`{%s,"gangway/system.efi":%q}`, systemSpec, hexSum("file of "+kernel))
	}
	boots := func(kernel, want string, resets uint32) {
		t.Helper()
		if v := booted(t, c, s.victim, system(kernel), resets); v.State != want {
			t.Errorf("%s: %s", kernel, brief.Of(v))
		}
	}
	report := func(rev int, status string) {
		t.Helper()
		s.Advance(time.Minute)
		do("PUT", fmt.Sprintf("/trails/%s/steps/%d/progress", id, rev), fmt.Sprintf(`{"status":%q}`, status))
	}
	first := post(ada, id, state("linux 1"))
	report(first.Rev, "DONE")
	boots("linux 1", store.BootMatches, 1)
	boots("linux 2", store.BootChanged, 2) // nobody has posted a revision with this system
	second := post(ada, id, state("linux 2"))
	boots("linux 2", store.BootMatches, 3)
	boots("linux 1", store.BootMatches, 4) // the trial ended early, and the device rolled back
	report(second.Rev, "DONE")
	boots("linux 2", store.BootMatches, 5)
	boots("linux 1", store.BootChanged, 6)
	third := post(ada, id, state("linux 1"))
	boots("linux 1", store.BootMatches, 7) // the owner orders the roll-back
	report(third.Rev, "ERROR")
	boots("linux 1", store.BootChanged, 8)
}

func TestRejectsManifestsThatTheOwnerDidNotSign(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Account(t, "bob")
	ada, bob := s.person(t, "ada"), s.person(t, "bob")
	c, _, id := s.connected(t)
	k, thief := newSigner(t), newSigner(t)
	good := k.sign(t, manifestOf("linux 1", 1))
	refused := func(p *person, text, code string, status int) {
		t.Helper()
		if got := want[api.Problem](p, "POST", "/boots/manifests", text, status); got.Code != code || got.Hint == "" {
			t.Errorf("%s", brief.Of(got))
		}
	}
	refused(ada, good, "manifest-key-unknown", 403) // no key is registered
	ada.addKey(k)
	parts := strings.Split(good, ".")
	refused(ada, thief.sign(t, manifestOf("linux 1", 1)), "manifest-key-unknown", 403)
	refused(ada, strings.Join([]string{parts[0], strings.Split(k.sign(t, manifestOf("evil", 1)), ".")[1], parts[2]}, "."), "manifest-signature", 403)
	refused(ada, strings.Join([]string{parts[0], parts[1], ""}, "."), "manifest-malformed", 400)
	refused(ada, `{"name":"unsigned"}`, "manifest-malformed", 400)
	refused(bob, good, "manifest-key-unknown", 403) // Bob's account does not have Ada's key
	// Another owner's manifest has no effect on Ada's devices.
	bob.addKey(thief)
	bob.addManifest(thief.sign(t, manifestOf("evil", 9)))
	ada.addManifest(good)
	refused(ada, good, "exists", 409)
	if v := booted(t, c, s.victim, system("evil"), 1); v.State != store.BootChanged {
		t.Errorf("%s", brief.Of(v))
	}
	if list := want[api.BootList[api.ManifestView]](bob, "GET", "/boots/manifests", nil, 200); len(list.Items) != 1 {
		t.Errorf("%s", brief.Of(list))
	}
	want[api.Problem](bob, "DELETE", "/boots/keys/"+k.id, nil, 404)
	want[api.Problem](bob, "GET", "/devices/"+id+"/boot", nil, 404)
}

// After the owner has replaced a stolen key, the manifests that the stolen key signed no longer
// count.
func TestManifestsOfARemovedKeyDoNotCount(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	c, _, id := s.connected(t)
	old, fresh := newSigner(t), newSigner(t)
	ada.addKey(old)
	ada.addManifest(old.sign(t, manifestOf("linux 1", 1)))
	ada.addManifest(old.sign(t, manifestOf("evil", 2)))
	booted(t, c, s.victim, system("linux 1"), 1)
	if v := booted(t, c, s.victim, system("evil"), 2); v.State != store.BootMatches {
		t.Fatalf("%s", brief.Of(v))
	}
	ada.addKey(fresh)
	ada.addManifest(fresh.sign(t, manifestOf("linux 1", 1)))
	want[map[string]string](ada, "DELETE", "/boots/keys/"+old.id, nil, 200)
	if v := want[api.BootView](ada, "GET", "/devices/"+id+"/boot", nil, 200); v.State != store.BootChanged {
		t.Errorf("the evil system is still expected: %s", brief.Of(v.Parts))
	}
	list := want[api.BootList[api.ManifestView]](ada, "GET", "/boots/manifests", nil, 200)
	if n := len(slices.DeleteFunc(list.Items, func(m api.ManifestView) bool { return !m.Counts })); n != 1 {
		t.Errorf("%d manifests count", n)
	}
	if got := want[api.Problem](ada, "POST", "/boots/manifests", old.sign(t, manifestOf("evil", 3)), 403); got.Code != "manifest-key-unknown" {
		t.Errorf("%s", brief.Of(got))
	}
	if v := booted(t, c, s.victim, system("linux 1"), 3); v.State != store.BootMatches {
		t.Errorf("%s", brief.Of(v))
	}
}

func TestManifestKeyNeedsThePasswordAndAUsableKey(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	k := newSigner(t)
	for code, body := range map[string]api.NewManifestKey{
		"current-password": {Name: "k", Key: k.pem, Password: "wrong"},
		"name-form":        {Name: "k\x00", Key: k.pem, Password: hubtest.Password},
		"manifest-key":     {Name: "k", Key: "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", Password: hubtest.Password},
	} {
		status := 400
		if code == "current-password" {
			status = 403
		}
		if got := want[api.Problem](ada, "POST", "/boots/keys", body, status); got.Code != code {
			t.Errorf("%s: %s", code, brief.Of(got))
		}
	}
	if list := want[api.BootList[api.ManifestKeyView]](ada, "GET", "/boots/keys", nil, 200); len(list.Items) != 0 {
		t.Errorf("%s", brief.Of(list))
	}
}

func TestCohortDecisionCoversTheOwnersDevicesOnly(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Account(t, "bob")
	ada, bob := s.person(t, "ada"), s.person(t, "bob")
	c, _, id := s.connected(t)
	update := system("linux 1")
	update[0].Data = eventlog.UTF16("fw 1.3")
	booted(t, c, s.victim, system("linux 1"), 1)
	if v := booted(t, c, s.victim, update, 2); v.State != store.BootChanged {
		t.Fatalf("%s", brief.Of(v))
	}
	list := want[api.CohortList](ada, "GET", "/boots/cohorts", nil, 200)
	if len(list.Items) != 1 || list.Items[0].Part != boot.FirmwareCode || list.Items[0].Cause != boot.CauseFirmware || list.Items[0].Bad != 1 || len(list.Items[0].Nicks) != 1 {
		t.Fatalf("%s", brief.Of(list))
	}
	cohort := list.Items[0]
	path := "/boots/cohorts/" + cohort.Part + "/" + cohort.Value
	if v := want[api.CohortDetail](ada, "GET", path+"?model="+cohort.Model, nil, 200); v.Devices != 1 || v.Bad != 1 || v.Members[0].Device != id {
		t.Errorf("%s", brief.Of(v))
	}
	// Bob has no device in this cohort, so he cannot see the cohort or decide about it.
	decision := api.NewBootDecision{Part: cohort.Part, Value: cohort.Value, Devices: 1}
	want[api.Problem](bob, "GET", path, nil, 404)
	want[api.Problem](bob, "POST", "/boots/decisions", decision, 404)
	if err := putDecision(s, "bob", decision); err != nil { // even a decision in Bob's name has no effect on Ada's device
		t.Fatal(err)
	}
	if got := partsOf(ada, id); got != "changed known known known known" {
		t.Errorf("%s", got)
	}
	other := decision
	other.Model = "another model"
	want[api.Problem](ada, "POST", "/boots/decisions", other, 404)
	d := want[api.BootDecisionView](ada, "POST", "/boots/decisions", decision, 200)
	if got := partsOf(ada, id); got != allKnown || d.Devices != 1 {
		t.Errorf("%s, %s", got, brief.Of(d))
	}
	want[api.Problem](ada, "POST", "/boots/decisions", decision, 409)
	if v := want[api.DeviceView](ada, "GET", "/devices/"+id, nil, 200); v.Boot != store.BootMatches {
		t.Errorf("%s", brief.Of(v))
	}
	want[api.Problem](bob, "DELETE", fmt.Sprint("/boots/decisions/", d.ID), nil, 404)
	want[map[string]string](ada, "DELETE", fmt.Sprint("/boots/decisions/", d.ID), nil, 200)
	if got := partsOf(ada, id); got != "changed known known known known" {
		t.Errorf("after the decision was undone: %s", got)
	}
	var kinds []string
	for _, e := range want[[]api.EventView](ada, "GET", "/events", nil, 200) {
		kinds = append(kinds, e.Kind)
	}
	for _, kind := range []string{"boot.accepted", "boot.accept-undone", "device.boot-changed"} {
		if !slices.Contains(kinds, kind) {
			t.Errorf("%s is not among the events %q", kind, kinds)
		}
	}
}

// A policy requires that the system of a boot is expected, and that the Secure Boot keys are known.
// The device gets its secret only if its boot satisfies both.
func TestPolicyRequiresStatesOfParts(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	c, certs, _ := s.connected(t)
	k := newSigner(t)
	s.Policy(t, s.Owner.ID, "version: 1\nmeasured_boot: {system: expected, keys: known}\n")
	asks := func(want string) {
		t.Helper()
		a := requestSecret(t, c)
		var p api.Problem
		if a.Status != 200 {
			if err := json.Unmarshal(a.Body, &p); err != nil {
				t.Fatal(err)
			}
		}
		if p.Code != want {
			t.Errorf("%d %s, not %q", a.Status, a.Body, want)
		}
	}
	asks("boot-unmeasured")
	booted(t, c, s.victim, system("linux 1"), 1)
	asks("boot-changed") // the policy requires an expected system, and this system is only known
	ada.addKey(k)
	ada.addManifest(k.sign(t, manifestOf("linux 1", 1)))
	asks("boot-unmeasured") // this connection's measurement was judged before the manifest was added
	booted(t, c, s.victim, system("linux 1"), 1)
	asks("")
	// A part of the boot may change if the policy does not name this part.
	update := system("linux 1")
	update[0].Data = eventlog.UTF16("fw 1.3")
	if v := booted(t, c, s.victim, update, 2); v.State != store.BootChanged {
		t.Errorf("%s", brief.Of(v))
	}
	asks("")
	off := system("linux 1")
	off[1].Data = eventlog.Variable("SecureBoot", []byte{0})
	booted(t, c, s.victim, off, 3)
	asks("boot-changed")
	booted(t, c, s.victim, update, 4)
	asks("")
	// Each connection needs its own measurement.
	c = must(s.client.Dial(t.Context(), certs.TLS(s.victim)))(t)
	defer c.Close()
	asks("boot-unmeasured")
	booted(t, c, s.victim, update, 5)
	asks("")
	// After the key was removed, the system is not expected any more.
	want[map[string]string](ada, "DELETE", "/boots/keys/"+k.id, nil, 200)
	asks("boot-changed")
}

// putDecision stores a decision directly, without the checks of the API.
func putDecision(s *scene, nick string, d api.NewBootDecision) error {
	a, err := s.Store.AccountByNickOrEmail(context.Background(), nick)
	if err != nil {
		return err
	}
	_, err = s.Store.PutBootDecision(context.Background(), store.BootDecision{Owner: a.ID, Part: d.Part, Value: d.Value, Made: s.Now()}, store.Event{Time: s.Now(), Kind: "test", Owner: a.ID})
	return err
}

// The preview shows one device. If a second device joins the cohort before the owner decides, the
// hub refuses the decision.
func TestDecisionAboutACohortThatGrewIsRefused(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	c, _, _ := s.connected(t)
	booted(t, c, s.victim, system("linux 1"), 1)
	second := s.device(t)
	certs := must(second.Onboard(t.Context(), s.client, s.tok))(t)
	conn := must(s.client.Dial(t.Context(), certs.TLS(second)))(t)
	defer conn.Close()
	list := want[api.CohortList](ada, "GET", "/boots/cohorts?part=keys", nil, 200)
	if len(list.Items) != 1 || list.Items[0].Devices != 1 {
		t.Fatalf("%s", brief.Of(list))
	}
	booted(t, conn, second, system("linux 1"), 1)
	body := api.NewBootDecision{Part: "keys", Value: list.Items[0].Value, Devices: 1}
	if p := want[api.Problem](ada, "POST", "/boots/decisions", body, 409); p.Code != "boot-cohort-grew" {
		t.Errorf("%s", brief.Of(p))
	}
	body.Devices = 2
	want[api.BootDecisionView](ada, "POST", "/boots/decisions", body, 200)
	for _, bad := range []string{"?part=pcr", "?model=x"} {
		want[api.Problem](ada, "GET", "/boots/cohorts"+bad, nil, 400)
	}
}

// An owner can have only a limited number of manifest keys and manifests.
func TestRulesAboutBootsAreBounded(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	ada := s.person(t, "ada")
	k := newSigner(t)
	ada.addKey(k)
	e := store.Event{Time: s.Now(), Kind: "test", Owner: s.Owner.ID}
	for i := 1; i < store.MaxManifestKeys; i++ {
		if err := s.Store.PutManifestKey(t.Context(), store.ManifestKey{Owner: s.Owner.ID, ID: store.Hash{byte(i)}, DER: must(x509.MarshalPKIXPublicKey(k.Public()))(t), Added: s.Now()}, e); err != nil {
			t.Fatal(err)
		}
	}
	for i := range store.MaxManifests {
		m := store.Manifest{Owner: s.Owner.ID, ID: store.Hash{byte(i)}, Key: store.Hash{1}, Text: []byte("{}"), Added: s.Now()}
		if err := s.Store.PutManifest(t.Context(), m, e); err != nil {
			t.Fatal(err)
		}
	}
	if p := want[api.Problem](ada, "POST", "/boots/keys", api.NewManifestKey{Name: "k", Key: newSigner(t).pem, Password: hubtest.Password}, 409); p.Code != "too-many-manifest-keys" {
		t.Errorf("%s", brief.Of(p))
	}
	if p := want[api.Problem](ada, "POST", "/boots/manifests", k.sign(t, manifestOf("linux 1", 1)), 409); p.Code != "too-many-manifests" {
		t.Errorf("%s", brief.Of(p))
	}
}

// The functions below make the keys, manifests and decisions for the cases of the contract test.

func manifestKeyOf(c *contract) map[string]string {
	t := c.ada.t
	der := must(x509.MarshalPKIXPublicKey(newSigner(t).Public()))(t)
	k := store.ManifestKey{Owner: c.Owner.ID, ID: sha256.Sum256(der), Name: "k", DER: der, Added: c.Now()}
	if err := c.Store.PutManifestKey(t.Context(), k, store.Event{Time: c.Now(), Kind: "test", Owner: c.Owner.ID}); err != nil {
		t.Fatal(err)
	}
	return map[string]string{"id": hex.EncodeToString(k.ID[:])}
}

func newManifest(c *contract) map[string]string {
	t := c.ada.t
	c.once.Do(func() {
		c.signer = newSigner(t)
		c.ada.addKey(c.signer)
	})
	return map[string]string{"body": c.signer.sign(t, manifestOf(rand.Text(), 1))}
}

func storedManifest(c *contract) map[string]string {
	return map[string]string{"id": c.ada.addManifest(newManifest(c)["body"]).ID}
}

func manifestForm(c *contract) map[string]string {
	return map[string]string{"body": "manifest=" + newManifest(c)["body"]}
}

func cohortOfBoat(c *contract) map[string]string {
	t := c.ada.t
	value := hexSum(rand.Text())
	b := store.Boot{Device: c.boatID, Time: c.Now(), State: store.BootMatches, Measurement: []byte("{}"), Changes: []byte("[]"),
		Judged: &store.BootJudged{Version: 1 << 40, Parts: []store.BootPart{{Part: "keys", Value: value}}}}
	ref, err := c.Store.BootReference(t.Context(), c.boatID)
	if err != nil && err != store.ErrNotFound {
		t.Fatal(err)
	}
	if _, err := c.Store.PutBoot(t.Context(), b, ref.Text); err != nil {
		t.Fatal(err)
	}
	return map[string]string{"part": "keys", "value": value}
}

func newDecision(c *contract) map[string]string {
	return map[string]string{"body": fmt.Sprintf(`{"part":"keys","value":%q}`, cohortOfBoat(c)["value"])}
}

func madeDecision(c *contract) map[string]string {
	d := want[api.BootDecisionView](c.ada, "POST", "/boots/decisions", newDecision(c)["body"], 200)
	return map[string]string{"id": fmt.Sprint(d.ID)}
}

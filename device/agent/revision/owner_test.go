package revision

import (
	"crypto"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gangway/wire/trail"
	"gangway/wire/trail/sig"
	"gangway/wire/trail/sig/sigtest"
)

// content returns a state with the given sequence number and one object, whose SHA-256 is `object`.
func content(object string, sequence int) sigtest.State {
	return sigtest.State{"app/root": object, "app/run.json": map[string]any{"name": "app"}, sig.SequencePath: map[string]any{"sequence": sequence}}
}

// The function `signed` returns a state as text, signed by a key.
func signed(t *testing.T, s sigtest.State, key crypto.Signer) string {
	t.Helper()
	return string(sigtest.Sign(t, s, "owner", key, sigtest.All()).Text(t))
}

// outcomeOfOffer offers a state as a revision and returns the device's final report.
func (h *evilHub) outcomeOfOffer(f *Follower, rev int, state string) report {
	h.t.Helper()
	h.offer(fmt.Sprint(rev), state)
	return h.outcomeOf(f, fmt.Sprint(rev))
}

// wantWontGo checks that the device's report `r` says that the revision was refused, with the given
// code and with a remedy.
func (h *evilHub) wantWontGo(name string, r report, code sig.Code) {
	h.t.Helper()
	if r.Status != "WONTGO" || !strings.Contains(r.Message, "("+string(code)+")") || !strings.Contains(r.Message, "ign ") {
		h.t.Errorf("%s: %+v; want WONTGO with %s", name, r, code)
	}
}

// Attack: an attacker controls the hub, including its keys, and offers the device any state, any
// number of times. A device with its owner's key pinned installs nothing and downloads nothing.
func TestHubUnderAnAttackersControlInstallsNothing(t *testing.T) {
	t.Parallel()
	owner, attacker := sigtest.NewKey(t), sigtest.NewKey(t)
	h := newEvilHub(t)
	f := h.device("", func(c *Config) { c.Keys = sigtest.Keys(t, owner) })
	good, evil := h.has("good"), h.has("evil")
	old := signed(t, content(h.has("old"), 4), owner)
	if r := h.outcomeOfOffer(f, 1, old); r.Status != "DONE" {
		t.Fatalf("%+v", r)
	}
	present := signed(t, content(good, 5), owner)
	if r := h.outcomeOfOffer(f, 2, present); r.Status != "DONE" {
		t.Fatalf("%+v", r)
	}
	calls, downloads := h.called(f), len(h.ranges)

	edit := func(change func(sigtest.State)) string {
		var s sigtest.State
		if err := json.Unmarshal([]byte(present), &s); err != nil {
			t.Fatal(err)
		}
		change(s)
		return string(s.Text(t))
	}
	part := sigtest.Header{"pvs": map[string]any{"include": []string{"app/run.json", sig.SequencePath}, "exclude": []string{}}}
	stated := content(evil, 9)
	stated[sig.SequencePath] = map[string]any{"sequence": 9, "keys": []string{sigtest.PEM(t, attacker)}}
	others := content(evil, 9)
	others[sig.SequencePath] = map[string]any{"sequence": 9, "devices": []string{"another"}}
	rev := 3
	for name, c := range map[string]struct {
		state string
		code  sig.Code
	}{
		"unsigned":                      {string(content(evil, 9).Text(t)), sig.CodeUnsigned},
		"signed by another key":         {signed(t, content(evil, 9), attacker), sig.CodeSignature},
		"a replaced object":             {edit(func(s sigtest.State) { s["app/root"] = evil }), sig.CodeSignature},
		"an unsigned extra file":        {edit(func(s sigtest.State) { s["app/init"] = evil }), sig.CodeSignature},
		"a removed file":                {edit(func(s sigtest.State) { delete(s, "app/run.json") }), sig.CodeSignature},
		"an omitted part":               {string(sigtest.Sign(t, content(evil, 9), "owner", owner, part).Text(t)), sig.CodePart},
		"a replayed old revision":       {old, sig.CodeOld},
		"a number that was used before": {signed(t, content(evil, 5), owner), sig.CodeOld},
		"a larger number":               {edit(func(s sigtest.State) { s[sig.SequencePath] = map[string]any{"sequence": 9} }), sig.CodeSignature},
		"new keys by the new key":       {signed(t, stated, attacker), sig.CodeSignature},
		"no sequence number": {signed(t, func() sigtest.State {
			s := content(evil, 9)
			delete(s, sig.SequencePath)
			return s
		}(), owner), sig.CodeSequence},
		"signed for other devices": {signed(t, others, owner), sig.CodeDevice},
		"an empty state":           {`{"#spec":"pantavisor-service-system@1"}`, sig.CodeUnsigned},
	} {
		h.wantWontGo(name, h.outcomeOfOffer(f, rev, c.state), c.code)
		rev++
	}
	if now := h.called(f); now != calls {
		t.Errorf("the hook was called: %s", strings.TrimPrefix(now, calls))
	}
	if len(h.ranges) != downloads {
		t.Error("something was downloaded")
	}
	if s := f.Status(); s.Revision != "2" {
		t.Errorf("the device runs revision %s", s.Revision)
	}
}

// The owner signs a revision that only two named devices may install. This device is one of them,
// so it must install the revision.
func TestRevisionForThisDevice(t *testing.T) {
	t.Parallel()
	key := sigtest.NewKey(t)
	h := newEvilHub(t)
	f := h.device("", func(c *Config) { c.Keys = sigtest.Keys(t, key) })
	s := content(h.has("good"), 1)
	s[sig.SequencePath] = map[string]any{"sequence": 1, "devices": []string{"another", "dev"}}
	if r := h.outcomeOfOffer(f, 1, signed(t, s, key)); r.Status != "DONE" {
		t.Errorf("%+v", r)
	}
}

// A signed revision fails because the hook's test fails. The owner posts the same revision again,
// and the hub returns the names in its state in another order. The device accepts the revision,
// because the content is the same, although the sequence number is not new.
func TestFailedSignedRevisionCanBeRetried(t *testing.T) {
	t.Parallel()
	key := sigtest.NewKey(t)
	h := newEvilHub(t)
	f := h.device(`[ "$1$GANGWAY_REV" != test1 ]`, func(c *Config) { c.Keys = sigtest.Keys(t, key) })
	text := signed(t, content(h.has("good"), 1), key)
	if r := h.outcomeOfOffer(f, 1, text); r.Status != "ERROR" {
		t.Errorf("%+v", r)
	}
	const spec = `"#spec":"pantavisor-service-system@1"`
	reordered := strings.TrimSuffix(strings.Replace(text, spec+",", "", 1), "}") + "," + spec + "}"
	if r := h.outcomeOfOffer(f, 2, reordered); r.Status != "DONE" {
		t.Errorf("%+v", r)
	}
}

// After the device has accepted a signed state, the hub replaces it with an unsigned state. The
// device must refuse the new state, and must not call the hook.
func TestStateIsReplacedAfterItsAcceptance(t *testing.T) {
	t.Parallel()
	key := sigtest.NewKey(t)
	h := newEvilHub(t)
	f := h.device("", func(c *Config) { c.Keys = sigtest.Keys(t, key) })
	h.offer("1", signed(t, content(h.has("good"), 1), key))
	h.state = string(content(h.has("evil"), 2).Text(t))
	h.wantWontGo("replaced", h.outcomeOf(f, "1"), sig.CodeUnsigned)
	if calls := h.called(f); calls != "" {
		t.Errorf("the hook was called: %s", calls)
	}
}

// The owner's signature does not cover one file of the state. The hook gets neither this file nor
// its entry in state.json.
func TestHookSeesOnlySignedContent(t *testing.T) {
	t.Parallel()
	key := sigtest.NewKey(t)
	h := newEvilHub(t)
	f := h.device(`[ "$1" = test ] && { cd "$2" && find . -type f | sort && cat state.json; } >"$2/../../seen"; exit 0`, func(c *Config) { c.Keys = sigtest.Keys(t, key) })
	header := sigtest.Header{"pvs": map[string]any{"include": []string{"**"}, "exclude": []string{"_sigs/owner.json", "app/src.json"}}}
	s := sigtest.Sign(t, content(h.has("good"), 1), "owner", key, header)
	s["app/src.json"] = map[string]any{"evil": true}
	if r := h.outcomeOfOffer(f, 1, string(s.Text(t))); r.Status != "DONE" {
		t.Fatalf("%+v", r)
	}
	b, err := os.ReadFile(filepath.Join(f.data, "seen"))
	if err != nil || strings.Contains(string(b), "evil") || strings.Contains(string(b), "_sigs") || strings.Contains(string(b), "src.json") || !strings.Contains(string(b), "./files/app/root\n") {
		t.Errorf("%s, %v", b, err)
	}
}

// The old key signs a revision that names a new key. After this revision, the device trusts only
// the new key. A restart of the agent, or another onboarding of the machine, does not change this.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	old, next := sigtest.NewKey(t), sigtest.NewKey(t)
	h := newEvilHub(t)
	f := h.device("", func(c *Config) { c.Keys = sigtest.Keys(t, old) })
	s := content(h.has("good"), 2)
	s[sig.SequencePath] = map[string]any{"sequence": 2, "keys": []string{sigtest.PEM(t, next)}}
	rotation := signed(t, s, old)
	if r := h.outcomeOfOffer(f, 1, rotation); r.Status != "DONE" {
		t.Fatalf("%+v", r)
	}
	reopen := func(device string) *Follower {
		t.Helper()
		cfg := f.cfg
		cfg.Device = device
		f, err := Open(cfg, h)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	h.wantWontGo("the old key", h.outcomeOfOffer(f, 2, signed(t, content(h.has("good"), 3), old)), sig.CodeSignature)
	h.wantWontGo("the old key after a restart", h.outcomeOfOffer(reopen("dev"), 3, signed(t, content(h.has("good"), 4), old)), sig.CodeSignature)
	if r := h.outcomeOfOffer(reopen("dev"), 4, signed(t, content(h.has("better"), 3), next)); r.Status != "DONE" {
		t.Errorf("%+v", r)
	}
	f = reopen("dev")
	if err := os.Remove(f.journalPath()); err != nil { // as when the machine gets a new id
		t.Fatal(err)
	}
	h.wantWontGo("an old revision after a new onboarding", h.outcomeOfOffer(reopen("dev"), 5, rotation), sig.CodeSignature)
}

// The power is cut after the device has recorded the acceptance of new keys, and before its journal
// names the revision. The old key, which signed the revision, still verifies this one revision.
func TestPowerCutDuringKeyRotation(t *testing.T) {
	t.Parallel()
	old, next := sigtest.NewKey(t), sigtest.NewKey(t)
	h := newEvilHub(t)
	f := h.device("", func(c *Config) { c.Keys = sigtest.Keys(t, old) })
	s := content(h.has("good"), 2)
	s[sig.SequencePath] = map[string]any{"sequence": 2, "keys": []string{sigtest.PEM(t, next)}}
	rotation := signed(t, s, old)
	parsed, verified, err := f.owner.parse([]byte(rotation))
	if err == nil {
		err = f.owner.accept(parsed, verified)
	}
	if err != nil {
		t.Fatal(err)
	}
	f, err = Open(f.cfg, h)
	if err != nil {
		t.Fatal(err)
	}
	if f.owner.keys.Name() != sigtest.Keys(t, next).Name() {
		t.Error("the new keys are not recorded")
	}
	if r := h.outcomeOfOffer(f, 1, rotation); r.Status != "DONE" {
		t.Errorf("%+v", r)
	}
}

// A person at the machine, or a new image, pins another key, because the old key is lost. The new
// key begins with an empty record. If the old key is pinned again later, its own record is used
// again.
func TestAnotherPinnedKeyIsTheWayOut(t *testing.T) {
	t.Parallel()
	lost, fresh := sigtest.NewKey(t), sigtest.NewKey(t)
	h := newEvilHub(t)
	f := h.device("", func(c *Config) { c.Keys = sigtest.Keys(t, lost) })
	if r := h.outcomeOfOffer(f, 1, signed(t, content(h.has("good"), 7), lost)); r.Status != "DONE" {
		t.Fatalf("%+v", r)
	}
	cfg := f.cfg
	cfg.Keys = sigtest.Keys(t, fresh)
	f, err := Open(cfg, h)
	if err != nil {
		t.Fatal(err)
	}
	if r := h.outcomeOfOffer(f, 2, signed(t, content(h.has("better"), 1), fresh)); r.Status != "DONE" {
		t.Errorf("%+v", r)
	}
	cfg.Keys = sigtest.Keys(t, lost)
	if f, err = Open(cfg, h); err != nil {
		t.Fatal(err)
	}
	h.wantWontGo("replayed", h.outcomeOfOffer(f, 3, signed(t, content(h.has("old"), 6), lost)), sig.CodeOld)
}

// A damaged record must not count as an empty record, which would allow old revisions.
func TestDamagedOwnerRecord(t *testing.T) {
	t.Parallel()
	key := sigtest.NewKey(t)
	h := newEvilHub(t)
	f := h.device("", func(c *Config) { c.Keys = sigtest.Keys(t, key) })
	for _, text := range []string{"", "{", `{"keys":"x"}`, `[]`} {
		if err := os.WriteFile(f.owner.path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(f.cfg, h); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// The image's first revision is on the data partition, which an attacker who has the disk can
// change. The device must use this revision only if the owner has signed it.
func TestUnsignedFirstRevisionIsNotUsed(t *testing.T) {
	t.Parallel()
	key := sigtest.NewKey(t)
	for _, isSigned := range []bool{true, false} {
		h := newEvilHub(t)
		first := filepath.Join(t.TempDir(), "first")
		object := h.has("good")
		state := content(object, 1)
		if isSigned {
			state = sigtest.Sign(t, state, "owner", key, sigtest.All())
		}
		err := os.MkdirAll(filepath.Join(first, "objects"), 0o700)
		for path, text := range map[string]string{"state.json": string(state.Text(t)), "objects/" + object: "good"} {
			if err == nil {
				err = os.WriteFile(filepath.Join(first, path), []byte(text), 0o600)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		f := h.device("", func(c *Config) { c.Keys, c.First = sigtest.Keys(t, key), first })
		if err := f.beginTrail(t.Context()); err != nil {
			t.Fatal(err)
		}
		begun, err := trail.ParseState([]byte(h.begun))
		if err != nil {
			t.Fatal(err)
		}
		if used := begun.Value("app/root") != nil; used != isSigned || isSigned && begun.Value("_sigs/owner.json") == nil {
			t.Errorf("signed %v: the trail begins with %s", isSigned, h.begun)
		}
	}
}

package onboard_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"gangway/hub/evidence"
	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/internal/fleet"
	"gangway/wire"
)

// pantacors makes a join token for the account anne that also accepts Pantacor's ownership proofs.
func (s *scene) pantacors() *wire.TokenFile {
	s.Helper()
	return s.newToken(store.JoinToken{Owner: s.anne.ID, ForPantacor: true})
}

func TestDeviceOnboardsInTwoSteps(t *testing.T) {
	s := newScene(t)
	d, token := s.device(), s.pantacors()
	e := s.first(d)
	equal(s, "AK certificate's end", e.AK.NotAfter.UTC(), s.now.Truncate(time.Hour).Add(2*time.Hour))
	equal(s, "enrolments after the first step", len(s.store.enrolments), 0)
	a, err := s.second(d, token, e.Keys, fleet.RegistrationChange{})
	s.must(err)
	equal(s, "device", a.Device.ID, e.AK.Subject.SerialNumber)
	equal(s, "owner", a.Device.Owner, s.anne.ID)
	is := s.store.byCertificate(sha256.Sum256(a.Certificate))
	equal(s, "state", is.State, store.Active)
	if v := string(is.Verdict); !strings.Contains(v, `"check":"ownership"`) || !strings.Contains(v, `"check":"credential"`) || strings.Contains(v, "does not name the hub") {
		t.Errorf("the verdict is %.300s", v)
	}
	if _, attested := onboard.AttestedCounters(is.Enrolment); attested {
		t.Error("a request without a certification attests counters")
	}
	var kept wire.RegistrationRecord
	if len(is.Request) == 0 || is.RequestHash != sha256.Sum256(is.Request) {
		t.Errorf("the request is not kept: %v", kept)
	}
	if want := hubURL + "/aca/certs/" + hex.EncodeToString(d.IAK.Name()) + ".crt"; !bytes.Contains(e.AK.Raw, []byte(want)) {
		t.Error("the AK certificate lacks its URL")
	}
}

func TestFirstStepRecordsItsCertificate(t *testing.T) {
	s := newScene(t)
	d := s.device()
	first := s.first(d)
	ev := s.lastEvent("aik.issued")
	equal(s, "event", []any{ev.Owner, ev.Addr, ev.Unproven}, []any{"", addr, true})
	if !strings.Contains(ev.Message, hex.EncodeToString(sum(s.ekHash(d)))) {
		t.Errorf("the event %q lacks the EK", ev.Message)
	}
	equal(s, "EK certificate kept", string(s.store.kept[s.ekHash(d)].Certificate), string(d.EKCert))
	equal(s, "the same hour", s.first(d).AK.Equal(first.AK), true)
	equal(s, "records", s.store.count("RecordIssuedAIK"), 1)
	s.now = s.now.Add(time.Hour)
	next := s.first(d)
	equal(s, "an hour later", next.AK.Equal(first.AK), false)
	equal(s, "events", len(s.store.events), 1)
	// The certificate names the device's id. When the owner deletes the device, the TPM is
	// released, so the next certificate names another id.
	is, _ := s.onboarded(d, s.token)
	equal(s, "after onboarding", s.first(d).AK.Equal(next.AK), true)
	s.must(s.store.DeleteDevice(t.Context(), s.anne.ID, is.ID, s.now))
	if again := s.first(d).AK; again.Equal(next.AK) || again.Subject.SerialNumber == is.ID {
		t.Error("the first step still names the deleted device")
	}
}

func sum(h store.Hash) []byte { return h[:] }

func TestFirstStepIsJudged(t *testing.T) {
	s := newScene(t)
	d := s.device()
	step := func(d *fleet.Device) (*wire.EnrollAnswer, error) {
		return s.hub.FirstStep(t.Context(), encoded(d.EnrollRequest()), addr)
	}
	refused := func(err error, code string) {
		t.Helper()
		s.refused(err, code)
		e := s.lastEvent("enrolment.refused")
		equal(s, "event", []any{e.Code, e.Owner, e.Addr}, []any{code, "", addr})
	}
	_, err := s.hub.FirstStep(t.Context(), []byte("{"), addr)
	refused(err, onboard.CodeSteps)
	_, err = s.hub.FirstStep(t.Context(), []byte(`{"ak-name":"?"}`), addr)
	if err == nil {
		t.Error("keys that cannot be read were accepted")
	}
	s.policy(s.anne.ID, "version: 1\nrules: [{maker: FAKE, then: refuse, reason: no}]\n")
	_, err = step(d)
	s.must(err) // the first step does not name the owner, so the owner's policy does not apply
	s.policy(store.HubWide, labRules+"rules: [{maker: FAKE, then: refuse, reason: no}]\n")
	_, err = step(s.device())
	refused(err, "policy")
	// While a question is open, the answer has the credential but no certificate.
	s.policy(store.HubWide, labRules)
	events := len(s.store.events)
	if e := s.first(s.withoutCertificate()); e.AK != nil || len(e.Keys.Register) == 0 {
		t.Error("the answer has a certificate although a question is open, or it has no credential")
	}
	equal(s, "events", len(s.store.events), events)
	s.store.failure, s.store.before = store.ErrFull, func(method string) {
		if method == "RecordIssuedAIK" {
			s.store.failAt = len(s.store.calls) + 1
		}
	}
	if e := s.first(s.device()); e.AK != nil || len(e.Keys.Register) == 0 {
		t.Error("a certificate came though the hub cannot record it")
	}
}

func TestFirstStepReportsTheStoresErrors(t *testing.T) {
	t.Parallel()
	breakAtEach(t, func(s *scene) func() error {
		d := s.device()
		return func() error {
			_, err := s.hub.FirstStep(s.Context(), encoded(d.EnrollRequest()), addr)
			return err
		}
	}, "AppendEvent")
}

func TestSecondStepReportsTheStoresErrors(t *testing.T) {
	t.Parallel()
	for _, form := range []bool{false, true} {
		breakAtEach(t, func(s *scene) func() error {
			d, token := s.device(), s.pantacors()
			keys := s.first(d).Keys
			return func() error {
				_, err := s.second(d, token, keys, s.ed25519(d, token, form))
				return err
			}
		})
	}
}

// ed25519 returns a change of a registration that replaces the ownership proof by one that names
// the hub. If `yes` is false, it returns an empty change.
func (s *scene) ed25519(d *fleet.Device, token *wire.TokenFile, yes bool) fleet.RegistrationChange {
	if !yes {
		return fleet.RegistrationChange{}
	}
	var proof []byte
	_, err := d.Request(token, fleet.RequestChange{CAData: func(c *wire.CAData) { proof = c.Proof }})
	s.must(err)
	return fleet.RegistrationChange{Extensions: func(ext map[int][]byte) { ext[wire.ExtOwnership] = proof }}
}

func TestSecondStepIsChecked(t *testing.T) {
	d := map[string]struct {
		code   string
		change func(s *scene, d *fleet.Device, token *wire.TokenFile) fleet.RegistrationChange
		plain  bool // use a join token that is not for Pantacor
	}{
		"another hub":             {code: onboard.CodeHubName, change: sent(func(r *wire.Registration) { r.HubName = strings.Repeat("ab", 32) })},
		"a token id that is none": {code: onboard.CodeOwnership, change: ext(func(_ *scene, e map[int][]byte) { e[wire.ExtToken] = []byte("xyz") })},
		"an unknown token":        {code: onboard.CodeOwnership, change: ext(func(_ *scene, e map[int][]byte) { e[wire.ExtToken] = []byte(wire.NewID()) })},
		"a proof that was altered": {code: onboard.CodeOwnership, change: ext(func(_ *scene, e map[int][]byte) {
			e[wire.ExtOwnership] = append([]byte{e[wire.ExtOwnership][0] ^ 1}, e[wire.ExtOwnership][1:]...)
		})},
		"another owner":                      {code: onboard.CodeOwnership, change: ext(func(s *scene, e map[int][]byte) { e[wire.ExtOwner] = []byte(wire.AccountPRN + s.mary.ID) })},
		"a token that is not for Pantacor's": {code: onboard.CodeOwnership, plain: true, change: sent(func(*wire.Registration) {})},
		"a proof of another credential":      {code: onboard.CodeCredential, change: sent(func(r *wire.Registration) { r.Proof[0] ^= 1 })},
		"another device's name":              {code: onboard.CodeDeviceName, change: sent(func(r *wire.Registration) { r.DeviceName = wire.NewID() })},
		"another device's prn":               {code: onboard.CodeDevicePRN, change: ext(func(_ *scene, e map[int][]byte) { e[wire.ExtDevice] = []byte(wire.DevicePRN + wire.NewID()) })},
		"the old form, with a proof that names the hub": {code: onboard.CodeUnbound, change: func(s *scene, d *fleet.Device, token *wire.TokenFile) fleet.RegistrationChange {
			c := s.ed25519(d, token, true)
			c.Sent = func(r *wire.Registration) { r.HubName = "" }
			return c
		}},
		"an Ed25519 proof that was altered": {code: onboard.CodeOwnership, change: func(s *scene, d *fleet.Device, token *wire.TokenFile) fleet.RegistrationChange {
			good := s.ed25519(d, token, true)
			return fleet.RegistrationChange{Extensions: func(e map[int][]byte) { good.Extensions(e); e[wire.ExtOwnership][0] ^= 1 }}
		}},
		"an Ed25519 proof, an owner that is too long": {code: onboard.CodeOwnership, change: func(s *scene, d *fleet.Device, token *wire.TokenFile) fleet.RegistrationChange {
			owner := strings.Repeat("a", wire.MaxOwner+1)
			return fleet.RegistrationChange{Extensions: func(e map[int][]byte) {
				e[wire.ExtOwner], e[wire.ExtOwnership] = []byte(owner), s.sign(token, d, owner, token.ID)
			}}
		}},
		"an Ed25519 proof, a token id that is none": {code: onboard.CodeOwnership, change: func(s *scene, d *fleet.Device, token *wire.TokenFile) fleet.RegistrationChange {
			good := s.ed25519(d, token, true)
			return fleet.RegistrationChange{Extensions: func(e map[int][]byte) { good.Extensions(e); e[wire.ExtToken] = []byte("xyz") }}
		}},
	}
	for name, c := range d {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			d, token := s.device(), s.pantacors()
			if c.plain {
				token = s.token
			}
			keys := s.first(d).Keys
			_, err := s.second(d, token, keys, c.change(s, d, token))
			s.refused(err, c.code)
			equal(s, "devices", len(s.store.devices), 0)
			e := s.lastEvent("enrolment.refused")
			want := ""
			switch c.code {
			case onboard.CodeUnbound, onboard.CodeCredential, onboard.CodeDeviceName, onboard.CodeDevicePRN: // after the ownership proof
				want = s.anne.ID + token.ID
			}
			equal(s, "event", []any{e.Code, e.Owner + e.Token, e.Device, e.Addr}, []any{c.code, want, "", addr})
		})
	}
}

func sent(f func(*wire.Registration)) func(*scene, *fleet.Device, *wire.TokenFile) fleet.RegistrationChange {
	return func(*scene, *fleet.Device, *wire.TokenFile) fleet.RegistrationChange {
		return fleet.RegistrationChange{Sent: f}
	}
}

func ext(f func(*scene, map[int][]byte)) func(*scene, *fleet.Device, *wire.TokenFile) fleet.RegistrationChange {
	return func(s *scene, _ *fleet.Device, _ *wire.TokenFile) fleet.RegistrationChange {
		return fleet.RegistrationChange{Extensions: func(e map[int][]byte) { f(s, e) }}
	}
}

func TestSecondStepRefusesUnreadableBodies(t *testing.T) {
	s := newScene(t)
	_, err := s.hub.SecondStep(t.Context(), []byte("{"), addr)
	s.refused(err, onboard.CodeSteps)
	_, err = s.hub.SecondStep(t.Context(), []byte(`{"csr":"","name":"","proof":""}`), addr)
	var refusal *evidence.Refusal
	if !errors.As(err, &refusal) || refusal.Code == onboard.CodeSteps {
		t.Errorf("got %v", err)
	}
}

// A second step may contain the device's id if it is the id that the hub gives this device.
func TestSecondStepMayNameTheDeviceItIs(t *testing.T) {
	s := newScene(t)
	d, token := s.device(), s.pantacors()
	e := s.first(d)
	_, err := s.second(d, token, e.Keys, fleet.RegistrationChange{
		Extensions: func(x map[int][]byte) { x[wire.ExtDevice] = []byte(wire.DevicePRN + e.AK.Subject.SerialNumber) },
		Sent:       func(r *wire.Registration) { r.DeviceName = e.AK.Subject.SerialNumber },
	})
	s.must(err)
}

func TestBothFormsOfOwnershipProof(t *testing.T) {
	s := newScene(t)
	d, token := s.device(), s.pantacors()
	c := s.ed25519(d, token, true)
	a, err := s.second(d, token, s.first(d).Keys, c)
	s.must(err)
	if v := string(s.store.byCertificate(sha256.Sum256(a.Certificate)).Verdict); !strings.Contains(v, "signed the name of this IDevID key, for this hub") {
		t.Errorf("the verdict is %.300s", v)
	}
	// The old form of the credential's proof does not name the hub. The hub accepts it only with
	// Pantacor's form of ownership proof, and adds a note about it to the verdict.
	d = s.device()
	keys := s.first(d).Keys
	a, err = s.second(d, token, keys, fleet.RegistrationChange{Sent: func(r *wire.Registration) { r.HubName, r.Proof = "", keys.ProveUnbound(r.CSR) }})
	s.must(err)
	if v := string(s.store.byCertificate(sha256.Sum256(a.Certificate)).Verdict); !strings.Contains(v, "does not name the hub") || !strings.Contains(v, "signed the name of this IDevID key") {
		t.Errorf("the verdict is %.300s", v)
	}
}

func TestCredentialIsProvenInItsHourOrTheNext(t *testing.T) {
	for later, code := range map[time.Duration]string{
		49 * time.Minute:               "",
		50 * time.Minute:               "",
		time.Hour + 49*time.Minute:     "",
		time.Hour + 50*time.Minute:     onboard.CodeCredential,
		-20 * time.Minute:              onboard.CodeCredential,
		24 * time.Hour * 365:           onboard.CodeCredential,
		time.Hour + 49*time.Minute + 1: "",
	} {
		s := newSceneNow(t)
		d := s.device()
		token := s.newToken(store.JoinToken{Owner: s.anne.ID, ForPantacor: true, Expires: s.now.Add(48 * time.Hour * 365)})
		keys := s.first(d).Keys
		s.now = s.now.Add(later)
		if later > 24*time.Hour {
			s.policy(s.anne.ID, "version: 1\nexpired_ek_certificate: accept\n")
		}
		_, err := s.second(d, token, keys, fleet.RegistrationChange{})
		if code == "" {
			s.must(err)
		} else {
			s.refused(err, code)
		}
	}
}

func TestSecondStepFollowsTheTokensState(t *testing.T) {
	for _, form := range []bool{false, true} {
		s := newSceneNow(t)
		d, token := s.device(), s.pantacors()
		keys := s.first(d).Keys
		row := s.store.tokens[token.ID]
		row.Expires = s.now
		s.store.tokens[token.ID] = row
		_, err := s.second(d, token, keys, s.ed25519(d, token, form))
		s.refused(err, onboard.CodeTokenUnusable)
		equal(s, "enrolments", len(s.store.enrolments), 0)
		row.Expires = s.now.Add(time.Second)
		s.store.tokens[token.ID] = row
		_, err = s.second(d, token, keys, s.ed25519(d, token, form))
		s.must(err)
		s.must(s.store.DisableJoinToken(t.Context(), s.anne.ID, token.ID))
		_, err = s.second(d, token, keys, s.ed25519(d, token, form))
		s.refused(err, onboard.CodeTokenUnusable)
	}
}

func TestSecondStepJudgesAndBindsLikeActivate(t *testing.T) {
	s := newScene(t)
	d, token := s.device(), s.pantacors()
	keys := s.first(d).Keys
	s.policy(s.anne.ID, "version: 1\nrules: [{maker: FAKE, then: ask}]\n")
	_, err := s.second(d, token, keys, fleet.RegistrationChange{})
	s.waits(err, "policy")
	s.policy(s.anne.ID, "")
	marys := s.newToken(store.JoinToken{Owner: s.mary.ID})
	s.onboarded(d, marys)
	_, err = s.second(d, token, keys, fleet.RegistrationChange{})
	s.refused(err, onboard.CodeOtherOwner)
}

// VerifyOwnership accepts a valid proof. All its refusals are the same, so that a stranger learns
// nothing about join tokens.
func TestOwnershipIsVerifiedForOthers(t *testing.T) {
	s := newScene(t)
	token := s.pantacors()
	secret, err := token.Secret()
	s.must(err)
	mac := wire.OwnershipMAC(sha256.Sum256(secret), "name")
	verify := func(id, owner, name string, mac []byte) error {
		return s.hub.VerifyOwnership(t.Context(), id, owner, name, mac)
	}
	s.must(verify(token.ID, token.Owner, "name", mac))
	asked := s.store.count("JoinToken")
	s.refused(verify("../..", token.Owner, "name", mac), onboard.CodeOwnership)
	equal(s, "looks for an id that is none", s.store.count("JoinToken"), asked)
	var first string
	for what, err := range map[string]error{
		"another name":   verify(token.ID, token.Owner, "other", mac),
		"another owner":  verify(token.ID, wire.AccountPRN+s.mary.ID, "name", mac),
		"another token":  verify(s.token.ID, token.Owner, "name", mac),
		"unknown token":  verify(wire.NewID(), token.Owner, "name", mac),
		"no token":       verify("../..", token.Owner, "name", mac),
		"a short mac":    verify(token.ID, token.Owner, "name", mac[:31]),
		"an empty proof": verify(token.ID, token.Owner, "name", nil),
	} {
		r := s.refused(err, onboard.CodeOwnership)
		if first == "" {
			first = r.Error()
		}
		equal(s, what, r.Error(), first)
	}
	s.store.calls, s.store.failAt, s.store.failure = nil, 1, errBroken
	equal(s, "broken store", errors.Is(verify(token.ID, token.Owner, "name", mac), errBroken), true)
	s.store.failAt = 0
	end := s.store.tokens[token.ID].Expires
	s.now = end.Add(-time.Second)
	s.must(verify(token.ID, token.Owner, "name", mac))
	s.now = end
	s.refused(verify(token.ID, token.Owner, "name", mac), onboard.CodeTokenUnusable)
	s.now = end.Add(-time.Second)
	disabled := s.store.tokens[token.ID]
	disabled.Disabled = true
	s.store.tokens[token.ID] = disabled
	s.refused(verify(token.ID, token.Owner, "name", mac), onboard.CodeTokenUnusable)
	disabled.Disabled = false
	s.store.tokens[token.ID] = disabled
	// If a stored key cannot be decrypted, the hub returns an internal error, not a refusal.
	row := s.store.tokens[token.ID]
	for _, key := range [][]byte{row.PantacorKey[:5], append(bytes.Clone(row.PantacorKey[:20]), 1), append([]byte{row.PantacorKey[0] ^ 1}, row.PantacorKey[1:]...)} {
		altered := row
		altered.PantacorKey = key
		s.store.tokens[token.ID] = altered
		err := verify(token.ID, token.Owner, "name", mac)
		var refusal *evidence.Refusal
		if err == nil || errors.As(err, &refusal) {
			t.Errorf("got %v", err)
		}
	}
	// The encrypted key of another token cannot be decrypted for this token, either.
	other := s.pantacors()
	altered := row
	altered.PantacorKey = s.store.tokens[other.ID].PantacorKey
	s.store.tokens[token.ID] = altered
	if verify(token.ID, token.Owner, "name", mac) == nil {
		t.Error("the key of another token was accepted")
	}
}

// Only a join token for devices without a TPM has the hash of its secret. Only a join token for
// Pantacor has an encrypted ownership key.
func TestTokenHasWhatItIsFor(t *testing.T) {
	s := newScene(t)
	plain, _, err := onboard.NewToken(s.hub.CA, hubURL, store.JoinToken{Owner: s.anne.ID})
	s.must(err)
	equal(s, "plain", []any{plain.SecretHash == store.Hash{}, plain.PantacorKey == nil}, []any{true, true})
	both, file, err := onboard.NewToken(s.hub.CA, hubURL, store.JoinToken{Owner: s.anne.ID, WithoutTPM: true, ForPantacor: true})
	s.must(err)
	secret, err := file.Secret()
	s.must(err)
	equal(s, "hash", both.SecretHash, onboard.TokenSecretHash(secret))
	equal(s, "key", len(both.PantacorKey) > 32, true)
	if bytes.Contains(both.PantacorKey, sum(sha256.Sum256(secret))) {
		t.Error("the key is not encrypted")
	}
}

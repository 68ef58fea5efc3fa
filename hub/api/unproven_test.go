package api_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/evidence"
	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/fleet"
	"gangway/tcg"
	"gangway/wire"
)

// The tests in this file check the hub's answers to peers that have not proved anything yet.

// revoker stands in for the hub's online look-ups, and counts them. It reports every EK certificate
// as revoked.
type revoker struct{ links, lists int }

func (o *revoker) Links(context.Context, *x509.Certificate) ([]*x509.Certificate, []string) {
	o.links++
	return nil, nil
}
func (o *revoker) ChecksCRLs() bool { return true }
func (o *revoker) Revocation(context.Context, *x509.Certificate, []*x509.Certificate) ([]string, *evidence.Refusal) {
	o.lists++
	return nil, &evidence.Refusal{Code: "ek-certificate-revoked", Reason: "The maker revoked it.", Hint: "Use another TPM."}
}

// The first step of the two-step enrolment refuses every request that the one-step enrolment
// refuses. If the evidence raises questions, the first step issues no certificate until the owner
// has decided.
func TestTwoStepsFirstStepIsJudgedAsEveryPath(t *testing.T) {
	t.Parallel()
	const lab = "version: 1\nsoftware_tpms: [FAKE]\n"
	for _, tc := range []struct {
		name, code string // empty code: the answer has no certificate
		prepare    func(*scene)
	}{
		{"software TPM", "tpm-software", func(s *scene) { s.Policy(t, store.HubWide, "version: 1\n") }},
		{"distrusted maker", "ek-chain-distrusted", func(s *scene) { setTrust(t, s.Store, store.Distrusted, s.maker.Root) }},
		{"rule", "policy", func(s *scene) {
			s.Policy(t, store.HubWide, lab+"rules:\n  - {maker: FAKE, then: refuse, reason: weak}\n")
		}},
		{"rule about any TPM", "policy", func(s *scene) { s.Policy(t, store.HubWide, lab+"rules:\n  - {then: refuse}\n") }},
		{"EK not listed", "ek-unlisted", func(s *scene) {
			if err := s.Store.PutEKList(t.Context(), store.HubWide, []store.ListedEK{{Key: &store.Hash{1}}}); err != nil {
				t.Fatal(err)
			}
		}},
		{"revoked", "ek-certificate-revoked", func(s *scene) { s.Service.Online = new(revoker) }},
		{"expired", "ek-certificate-expired", func(s *scene) {
			s.Policy(t, store.HubWide, lab+"expired_ek_certificate: refuse\n")
			d := s.victim
			template := must(fleet.EKTemplate(d.EK.Private.Public()))(t)
			template.NotAfter = time.Now().Add(-time.Hour)
			d.EKCert = must(s.maker.Sign(template, d.EK.Private.Public()))(t).Raw
		}},
		{"rule that asks", "", func(s *scene) { s.Policy(t, store.HubWide, lab+"rules:\n  - {maker: FAKE, then: ask}\n") }},
		{"rule about firmware that refuses", "", func(s *scene) {
			s.Policy(t, store.HubWide, lab+"rules:\n  - {firmware_below: \"9.0\", then: refuse}\n")
		}},
		{"rule about firmware that accepts", "", func(s *scene) {
			s.Policy(t, store.HubWide, lab+"rules:\n  - {firmware_below: \"9.0\", then: accept}\n  - {then: refuse}\n")
		}},
		{"no certificate", "", func(s *scene) { s.victim = s.uncertified(t) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newScene(t)
			tc.prepare(s)
			a := must(s.client.Post(t.Context(), "/enroll/request", bytes.NewReader(must(json.Marshal(s.victim.EnrollRequest()))(t))))(t)
			if tc.code != "" {
				refused(t, a, 403, tc.code)
				// The one-step enrolment refuses the machine with the same code.
				refused(t, s.post(t, must(s.victim.Request(s.tok, fleet.RequestChange{}))(t)), 403, tc.code)
			} else if e, err := s.victim.OpenEnrolled(a.Body); a.Status != 200 || err != nil || e.AK != nil {
				t.Errorf("%d %v: %s", a.Status, err, brief.Of(e))
			}
			if _, err := s.Store.IssuedAIK(t.Context(), s.ekHash(t), s.victim.IAK.Name(), s.Now()); err != store.ErrNotFound {
				t.Errorf("an AIK certificate is recorded: %v", err)
			}
			s.boundNothing(t)
		})
	}
}

func (s *scene) ekHash(t testing.TB) store.Hash {
	t.Helper()
	return sha256.Sum256(must(x509.MarshalPKIXPublicKey(s.victim.EK.Private.Public()))(t))
}

// The hub fetches no intermediate certificates for the first step, because anyone can send it.
func TestTwoStepsFirstStepFetchesNoLinks(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	web := new(revoker)
	s.Service.Online = web
	evil := must(unknownMaker())(t)
	d := must(fleet.New(evil, "H-2"))(t)
	if e, err := d.Enroll(t.Context(), s.client); err != nil || e.AK != nil {
		t.Errorf("%s %v", brief.Of(e), err)
	}
	s.Policy(t, store.HubWide, "version: 1\nsoftware_tpms: [FAKE]\nunknown_maker: refuse\n")
	if e, err := d.Enroll(t.Context(), s.client); err != nil || e.AK != nil {
		t.Errorf("what the second step may look up is refused by the first: %s %v", brief.Of(e), err)
	}
	// If the first step names an EK that the hub cannot encrypt to, the hub answers 4xx and not
	// 5xx.
	odd := *d
	odd.EK = &fleet.Key{Public: must(tcg.ParsePublic(d.EK.Public.Raw))(t), Private: d.EK.Private}
	odd.EK.Public.SymmetricBits = 192
	odd.EK.Public.Raw = odd.EK.Public.Marshal()
	refused(t, must(s.client.Post(t.Context(), "/enroll/request", bytes.NewReader(must(json.Marshal(odd.EnrollRequest()))(t))))(t), 403, evidence.CodeUntrusted)
	if web.links+web.lists != 0 {
		t.Errorf("%d links were fetched, %d lists asked", web.links, web.lists)
	}
}

// The hub records each certificate that it issues in a first step. Such a certificate expires, and
// an AK can have only one of them.
func TestTwoStepsFirstStepIssuesOnlyWhatIsRecorded(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	operatorEvents := func() (n int) {
		for _, e := range must(s.Store.Events(t.Context(), store.EventFilter{}))(t) {
			if e.Kind == "aik.issued" && e.Owner == "" && e.Device == "" {
				n++
			}
		}
		return n
	}
	first := must(s.victim.Enroll(t.Context(), s.client))(t).AK
	for range 3 {
		if again := must(s.victim.Enroll(t.Context(), s.client))(t).AK; !again.Equal(first) {
			t.Error("another certificate for the same request")
		}
	}
	row := must(s.Store.IssuedAIK(t.Context(), s.ekHash(t), s.victim.IAK.Name(), s.Now()))(t)
	if !bytes.Equal(row.Certificate, first.Raw) || !row.Expires.Equal(first.NotAfter) || first.NotAfter.Sub(s.Now()) > 2*time.Hour || operatorEvents() != 1 {
		t.Errorf("%s until %v; %d events for the operator", brief.Of(row), first.NotAfter, operatorEvents())
	}
	if _, err := s.Store.AIK(t.Context(), s.victim.IAK.Name()); err != store.ErrNotFound {
		t.Errorf("an AIK that nobody proved is in the registry: %v", err)
	}
	// If a stranger invents many AKs for one EK, they do not fill the hub's database, and do not
	// prevent other devices from onboarding.
	for range store.MaxIssuedPerEK + 2 {
		spy := must(s.victim.WithNewIdentity())(t)
		if must(spy.Enroll(t.Context(), s.client))(t).AK == nil {
			t.Error("no certificate")
		}
	}
	if operatorEvents() != 1 {
		t.Errorf("%d events for the operator about one EK", operatorEvents())
	}
	s.Advance(2 * time.Hour)
	if n := must(s.Store.ExpireIssuedAIKs(t.Context(), s.Now(), 1000))(t); n != store.MaxIssuedPerEK {
		t.Errorf("%d rows", n)
	}
	// The AIK certificate of an active enrolment does not expire.
	pan := (&steps{scene: s}).pantacorToken(t, s.Owner)
	must(s.victim.OnboardTwoStep(t.Context(), s.client, pan))(t)
	aik := must(s.Store.AIK(t.Context(), s.victim.IAK.Name()))(t)
	if c := must(x509.ParseCertificate(aik.Certificate))(t); c.NotAfter.Year() != 9999 {
		t.Errorf("until %v", c.NotAfter)
	}
}

// relay starts a rogue hub with a different CA and name, which forwards all requests to the real
// hub. The function `change` may alter their bodies. relay returns the rogue hub's token file.
func (s *scene) relay(t *testing.T, tok *wire.TokenFile, change func(path string, body []byte) []byte) *wire.TokenFile {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "rogue root"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	root := must(fleet.Issue(template, template, key.Public(), key))(t)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil && change != nil {
			body = change(r.URL.Path, body)
		}
		a, err := s.client.Post(r.Context(), r.URL.Path, bytes.NewReader(body))
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		w.WriteHeader(a.Status)
		w.Write(a.Body)
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{root.Raw}, PrivateKey: key}}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	rogue := *tok
	name := sha256.Sum256(root.RawSubjectPublicKeyInfo)
	rogue.Hub, rogue.HubName, rogue.HubCA = srv.URL, hex.EncodeToString(name[:]), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}))
	return &rogue
}

// Attack: a rogue hub relays both steps of a device's enrolment to the real hub, with a join token
// of the attacker's account there. The real hub creates no device for this account.
func TestTwoStepsRelayedByAnotherHubAreRefused(t *testing.T) {
	t.Parallel()
	hubName := func(name *string) func(string, []byte) []byte {
		return func(path string, body []byte) []byte {
			var fields map[string]any
			if path != "/register" || json.Unmarshal(body, &fields) != nil {
				return body
			}
			delete(fields, "hub-name")
			if name != nil {
				fields["hub-name"] = *name
			}
			altered, err := json.Marshal(fields)
			if err != nil {
				return body
			}
			return altered
		}
	}
	for _, tc := range []struct {
		name, code string
		token      func(*store.JoinToken)
		change     func(s *scene) func(string, []byte) []byte
		claim      func(s *scene, rogue *wire.TokenFile) // alters the rogue hub's token file
	}{
		{name: "as it came", code: onboard.CodeHubName},
		{name: "the hub's name taken out", code: onboard.CodeCredential, change: func(*scene) func(string, []byte) []byte { return hubName(nil) }},
		{name: "the hub's name exchanged", code: onboard.CodeCredential, change: func(s *scene) func(string, []byte) []byte { name := s.CA.HubName(); return hubName(&name) }},
		{name: "a token's file that claims the real hub's name", code: "hub-ca", claim: func(s *scene, rogue *wire.TokenFile) { rogue.HubName = s.CA.HubName() }},
		{name: "and holds the real hub's root too", code: "hub-ca", claim: func(s *scene, rogue *wire.TokenFile) {
			rogue.HubName, rogue.HubCA = s.CA.HubName(), string(s.CA.RootPEM())+rogue.HubCA
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newScene(t)
			mallory := s.Account(t, "mallory")
			tok := s.Token(t, mallory, func(j *store.JoinToken) { j.ForPantacor = true })
			var change func(string, []byte) []byte
			if tc.change != nil {
				change = tc.change(s)
			}
			rogue := s.relay(t, tok, change)
			there := must(fleet.NewHub(rogue))(t)
			defer there.Close()
			if tc.claim != nil {
				tc.claim(s, rogue)
			}
			if _, err := s.victim.OnboardTwoStep(t.Context(), there, rogue); err == nil || !strings.Contains(err.Error(), tc.code) {
				t.Errorf("onboarding in two steps: %v", err)
			}
			if _, err := s.victim.Onboard(t.Context(), there, rogue); err == nil {
				t.Error("the one-step enrolment was relayed")
			}
			if n := len(s.Devices(t, mallory)); n != 0 {
				t.Errorf("mallory has %d devices", n)
			}
			must(must(s.victim.WithNewIdentity())(t).Onboard(t.Context(), s.client, s.tok))(t)
		})
	}
}

// A device proves that its TPM decrypted the credential. The old form of this proof does not name
// the hub, so the hub accepts it only together with Pantacor's ownership proof, which requires a
// token for the two-step enrolment.
func TestTwoStepsProofThatNamesNoHub(t *testing.T) {
	t.Parallel()
	s := newSteps(t)
	keys := s.enrolled(t, s.victim).Keys
	signed := func(tok *wire.TokenFile) func(map[int][]byte) { // the ownership proof that names the hub
		return func(x map[int][]byte) {
			key := must(wire.OwnershipKey(must(tok.Secret())(t), tok.ID))(t)
			x[wire.ExtOwnership] = ed25519.Sign(key, wire.OwnershipMessage(tok.HubName, tok.Owner, tok.ID, s.victim.IDevID.Name()))
		}
	}
	old := func(r *wire.Registration) { r.HubName, r.Proof = "", keys.ProveUnbound(r.CSR) }
	mixed := func(r *wire.Registration) { r.Proof = keys.ProveUnbound(r.CSR) }
	nameless := func(r *wire.Registration) { r.HubName = "" }
	for _, tc := range []struct {
		name string
		tok  *wire.TokenFile
		ext  func(map[int][]byte)
		sent func(*wire.Registration)
		code string
	}{
		{"ordinary token, old proof", s.tok, signed(s.tok), old, onboard.CodeUnbound},
		{"ordinary token, Pantacor's ownership proof", s.tok, nil, nil, onboard.CodeOwnership},
		{"token for Pantacor, its own ownership proof, old proof", s.pan, signed(s.pan), old, onboard.CodeUnbound},
		{"an old proof that says which hub", s.pan, nil, mixed, onboard.CodeCredential},
		{"a proof that names the hub, and does not say so", s.pan, nil, nameless, onboard.CodeCredential},
		{"another hub's", s.pan, nil, func(r *wire.Registration) { r.HubName = strings.Repeat("0", 64) }, onboard.CodeHubName},
		{"ownership of another hub", s.tok, func(x map[int][]byte) { other := *s.tok; other.HubName = strings.Repeat("0", 64); signed(&other)(x) }, nil, onboard.CodeOwnership},
		{"ownership of another key", s.tok, func(x map[int][]byte) { signed(s.tok)(x); x[wire.ExtOwnership][3] ^= 1 }, nil, onboard.CodeOwnership},
	} {
		t.Run(tc.name, func(t *testing.T) {
			body := must(s.victim.Registration(tc.tok, keys, fleet.RegistrationChange{Extensions: tc.ext, Sent: tc.sent}))(t)
			refused(t, s.send(t, "/register", body), 403, tc.code)
			s.boundNothing(t)
		})
	}
	// With an ordinary token, both proofs name the hub, and the hub accepts them.
	must(fleet.ParseRegistered(s.send(t, "/register", must(s.victim.Registration(s.tok, keys, fleet.RegistrationChange{Extensions: signed(s.tok)}))(t))))(t)
	// Pantacor's old form is accepted, with a note in the verdict.
	other := s.device(t)
	keys = s.enrolled(t, other).Keys
	must(fleet.ParseRegistered(s.send(t, "/register", must(other.Registration(s.pan, keys, fleet.RegistrationChange{Sent: old}))(t))))(t)
	e := want[api.EvidenceView](s.person(t, "ada"), "GET", "/devices/"+s.deviceOf(t, other)+"/evidence", nil, 200)
	if notes := strings.Join(e.Verdict.Notes, " "); !strings.Contains(notes, "does not name the hub") {
		t.Errorf("the owner does not see the note: %q", notes)
	}
}

package api_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/fleet"
	"gangway/tcg"
	"gangway/wire"
)

// steps is a scene with a join token for the two-step enrolment.
type steps struct {
	*scene
	pan *wire.TokenFile
}

func newSteps(t testing.TB) *steps {
	t.Helper()
	return stepsOf(t, newScene(t))
}

// newStepsOnDisk is like newSteps, but its hub waits until data is on the disk, as a hub in
// production does. It is for tests of durability, races and timing.
func newStepsOnDisk(t testing.TB) *steps {
	t.Helper()
	return stepsOf(t, newSceneOnDisk(t))
}

func stepsOf(t testing.TB, hub *scene) *steps {
	t.Helper()
	s := &steps{scene: hub}
	s.pan = s.pantacorToken(t, s.Owner)
	return s
}

func (s *steps) pantacorToken(t testing.TB, owner store.Account) *wire.TokenFile {
	t.Helper()
	return s.Token(t, owner, func(t *store.JoinToken) { t.ForPantacor = true })
}

func (s *steps) send(t testing.TB, path string, body []byte) *fleet.Answer {
	t.Helper()
	return must(s.client.Post(t.Context(), path, bytes.NewReader(body)))(t)
}

// The method `enrolled` carries out the first step of a device's two-step enrolment. It returns the
// keys and the certificate that the device then has.
func (s *steps) enrolled(t testing.TB, d *fleet.Device) *fleet.Enrolled {
	t.Helper()
	return must(d.Enroll(t.Context(), s.client))(t)
}

// registration carries out the victim's first step, and returns the body of its second step,
// altered by `change`.
func (s *steps) registration(t testing.TB, change fleet.RegistrationChange) []byte {
	t.Helper()
	return must(s.victim.Registration(s.pan, s.enrolled(t, s.victim).Keys, change))(t)
}

// The method `rejected` sends a second step that is altered by `change`. The hub must refuse it and
// create no device.
func (s *steps) rejected(t testing.TB, status int, code string, change fleet.RegistrationChange) {
	t.Helper()
	refused(t, s.send(t, "/register", s.registration(t, change)), status, code)
	s.boundNothing(t)
}

func (s *steps) boundNothing(t testing.TB) {
	t.Helper()
	s.scene.boundNothing(t)
	if n := s.Uses(t, s.pan); n != 0 {
		t.Errorf("%d uses of the token", n)
	}
}

func TestOnboardsInTwoSteps(t *testing.T) {
	t.Parallel()
	s := newSteps(t)
	e := s.enrolled(t, s.victim)
	s.boundNothing(t)
	if e.AK == nil || e.AK.CheckSignatureFrom(s.CA.ACA()) != nil || !s.victim.IAK.Public.Is(e.AK.PublicKey) {
		t.Fatalf("AK certificate: %s", brief.Of(e.AK))
	}
	name := ""
	for _, x := range e.AK.Extensions {
		if x.Id.Equal(wire.ExtensionOID(wire.ExtAKName)) {
			name = string(x.Value)
		}
	}
	id := e.AK.Subject.SerialNumber
	if name != hex.EncodeToString(s.victim.IAK.Name()) || len(e.AK.URIs) != 1 || e.AK.URIs[0].String() != s.URL+"/aca/certs/"+name+".crt" {
		t.Errorf("name %q, URIs %s", name, brief.Of(e.AK.URIs))
	}
	where := "/aca/certs/" + name + ".crt"
	if status, _ := s.person(t, "").do("GET", where, nil); status != 404 {
		t.Errorf("an AK certificate before the proof: status %d", status)
	}

	body := must(s.victim.Registration(s.pan, e.Keys, fleet.RegistrationChange{
		Extensions: func(x map[int][]byte) { x[wire.ExtDevice] = []byte(wire.DevicePRN + id) },
		Sent:       func(r *wire.Registration) { r.DeviceName = id },
	}))(t)
	for _, path := range []string{"/devices/register", "/register"} { // sending the same registration twice has one effect
		a := s.send(t, path, body)
		cert := must(fleet.ParseRegistered(a))(t)
		var answer api.TPMRegistered
		if err := json.Unmarshal(a.Body, &answer); err != nil {
			t.Fatal(err)
		}
		d := s.Devices(t, s.Owner)
		if len(d) != 1 || d[0].ID != id || answer.Device.ID != id || answer.Device.Secret != "" || answer.Device.Owner != s.pan.Owner ||
			d[0].IDevIDHash != store.Hash(sha256.Sum256(cert.Raw)) || s.Uses(t, s.pan) != 1 {
			t.Fatalf("%s, %s", brief.Of(d), brief.Of(answer.Device))
		}
		conn := must(s.client.Dial(t.Context(), tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: s.victim.IDevID.Private}))(t)
		if a := must(conn.Do(t.Context(), "GET", "/device", nil))(t); a.Status != 200 {
			t.Errorf("%d %s", a.Status, a.Body)
		}
		conn.Close()
	}
	status, der := s.person(t, "").do("GET", where, nil)
	if status != 200 || must(x509.ParseCertificate(der))(t).CheckSignatureFrom(s.CA.ACA()) != nil {
		t.Errorf("AK certificate: %d", status)
	}
	// A one-step enrolment of the same TPM finds the same device.
	must(s.victim.Onboard(t.Context(), s.client, s.tok))(t)
	if d := s.Devices(t, s.Owner); len(d) != 1 || d[0].ID != id {
		t.Errorf("%s", brief.Of(d))
	}
}

func TestTwoStepsTakeKeysAsPEM(t *testing.T) {
	t.Parallel()
	s := newSteps(t)
	key := func(k *fleet.Key) string {
		der := must(x509.MarshalPKIXPublicKey(k.Private.Public()))(t)
		return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	}
	in := s.victim.EnrollRequest()
	in.AKPub, in.EKPub = key(s.victim.IAK), base64.StdEncoding.EncodeToString([]byte(key(s.victim.EK)))
	in.EKCert = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.victim.EKCert}))
	a := s.send(t, "/enroll/request", must(json.Marshal(in))(t))
	e := must(s.victim.OpenEnrolled(a.Body))(t)
	body := must(s.victim.Registration(s.pan, e.Keys, fleet.RegistrationChange{Sent: func(r *wire.Registration) {
		r.TPMKeys = in.TPMKeys
		r.IDevIDPub = base64.StdEncoding.EncodeToString(s.victim.IDevID.Public.Raw)
	}}))(t)
	must(fleet.ParseRegistered(s.send(t, "/register", body)))(t)
}

// Each test below names a numbered weakness of Pantacor's original hub, which this hub does not
// have.

// Weakness 1 of Pantacor's original hub: nothing proved that the CSR's key is in a TPM.
func TestTwoStepsRefuseCSRKeyOutsideTheTPM(t *testing.T) {
	t.Parallel()
	s := newSteps(t)
	soft := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	// The CSR has a software key, whose name is not the name in the registration, and otherwise the
	// victim's values.
	s.rejected(t, 400, "idevid-name", fleet.RegistrationChange{Signer: soft})
	// The CSR has the software key and the name of this key, but the AK certified another key, or
	// the request also contains the public area of the TPM's key.
	public := tcg.FromKey(tcg.IDevIDTemplates, &soft.PublicKey)[0]
	name := must(public.Name())(t)
	secret := must(s.pan.Secret())(t)
	own := func(x map[int][]byte) {
		x[wire.ExtOwnership] = wire.OwnershipMAC(sha256.Sum256(secret), hex.EncodeToString(name))
	}
	s.rejected(t, 403, "certify-name", fleet.RegistrationChange{Signer: soft, Extensions: own, Sent: func(r *wire.Registration) { r.Name = hex.EncodeToString(name) }})
	s.rejected(t, 403, "idevid-mismatch", fleet.RegistrationChange{Signer: soft, Sent: func(r *wire.Registration) {
		r.IDevIDPub = base64.StdEncoding.EncodeToString(s.victim.IDevID.Public.Raw)
	}})
}

// Weakness 1 of Pantacor's original hub: it parsed the AK's certification of the CSR's key, but did
// not verify it.
func TestTwoStepsRefuseBadCertifications(t *testing.T) {
	t.Parallel()
	s := newSteps(t)
	other := s.device(t)
	magic := func(b []byte) []byte { b = bytes.Clone(b); b[0] ^= 1; return b }
	quote := func(b []byte) []byte { b = bytes.Clone(b); b[5] = 0x18; return b }
	s.rejected(t, 403, "certify-magic", fleet.RegistrationChange{Attest: magic})
	s.rejected(t, 403, "certify-type", fleet.RegistrationChange{Attest: quote})
	s.rejected(t, 403, "certify-name", fleet.RegistrationChange{Attest: func([]byte) []byte { return fleet.Attest(s.victim.IAK.Name(), other.IDevID.Name()) }})
	s.rejected(t, 403, "certify-signature", fleet.RegistrationChange{Extensions: func(x map[int][]byte) {
		x[wire.ExtCertifySig] = must(other.IAK.Sign(x[wire.ExtCertify]))(t)
	}})
	// The AK name in the CSR is that of another TPM's AK, but the request contains the victim's AK.
	s.rejected(t, 400, "ak-name", fleet.RegistrationChange{Extensions: func(x map[int][]byte) {
		x[wire.ExtAKName] = []byte(hex.EncodeToString(other.IAK.Name()))
	}})
	for _, missing := range []int{wire.ExtAKName, wire.ExtOwner, wire.ExtOwnership, wire.ExtToken, wire.ExtCertify, wire.ExtCertifySig} {
		s.rejected(t, 400, "csr-extensions-malformed", fleet.RegistrationChange{Extensions: func(x map[int][]byte) { delete(x, missing) }})
	}
	s.rejected(t, 400, "csr-extensions-malformed", fleet.RegistrationChange{Extensions: func(x map[int][]byte) { x[10] = []byte("?") }})
}

// Weakness 1 of Pantacor's original hub: it did not verify quotes. This hub accepts a quote only if
// the AK signed it.
func TestTwoStepsRefuseQuoteOfAnotherTPM(t *testing.T) {
	t.Parallel()
	s := newSteps(t)
	other := s.device(t)
	quote := fleet.Quote(s.victim.IAK.Name())
	s.rejected(t, 403, "quote-signature", fleet.RegistrationChange{Extensions: func(x map[int][]byte) {
		x[wire.ExtQuote], x[wire.ExtQuoteSig] = quote, must(other.IAK.Sign(quote))(t)
	}})
	foreign := fleet.Quote(other.IAK.Name())
	s.rejected(t, 403, "quote-signature", fleet.RegistrationChange{Extensions: func(x map[int][]byte) {
		x[wire.ExtQuote], x[wire.ExtQuoteSig] = foreign, must(s.victim.IAK.Sign(foreign))(t)
	}})
	s.rejected(t, 400, "quote-malformed", fleet.RegistrationChange{Extensions: func(x map[int][]byte) { x[wire.ExtQuote] = quote }})
	a := s.send(t, "/register", s.registration(t, fleet.RegistrationChange{Extensions: func(x map[int][]byte) {
		x[wire.ExtQuote], x[wire.ExtQuoteSig], x[wire.ExtPCRs] = quote, must(s.victim.IAK.Sign(quote))(t), []byte("sha256:0")
	}}))
	must(fleet.ParseRegistered(a))(t)
}

// Weakness 1 of Pantacor's original hub: there was no challenge, so a device did not have to prove
// that its AK is in the same TPM as its EK.
func TestTwoStepsRefuseWhoCannotOpenTheCredential(t *testing.T) {
	t.Parallel()
	s := newSteps(t)
	// The thief has software keys, and the victim's EK certificate, which is public.
	thief := must(s.victim.WithNewIdentity())(t)
	thief.EK = must(fleet.NewKey(tcg.EKTemplates[0], nil))(t)
	in := thief.EnrollRequest()
	in.EKPub = s.victim.EnrollRequest().EKPub
	a := s.send(t, "/enroll/request", must(json.Marshal(in))(t))
	if a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	if _, err := thief.OpenEnrolled(a.Body); err == nil {
		t.Fatal("the thief opened the victim's credential")
	}
	for _, proof := range [][]byte{nil, make([]byte, 32), []byte("x")} {
		body := must(thief.Registration(s.pan, wire.StepKeys{}, fleet.RegistrationChange{Sent: func(r *wire.Registration) { r.EKPub, r.Proof = in.EKPub, proof }}))(t)
		refused(t, s.send(t, "/register", body), 403, onboard.CodeCredential)
	}
	// The thief decrypts the credential of the thief's own TPM, or a credential for another AK. The
	// hub refuses the keys from these credentials.
	own := s.device(t)
	keys := s.enrolled(t, own).Keys
	body := must(thief.Registration(s.pan, keys, fleet.RegistrationChange{Sent: func(r *wire.Registration) { r.EKPub = in.EKPub }}))(t)
	refused(t, s.send(t, "/register", body), 403, onboard.CodeCredential)
	again := must(own.WithNewIdentity())(t)
	refused(t, s.send(t, "/register", must(again.Registration(s.pan, keys, fleet.RegistrationChange{}))(t)), 403, onboard.CodeCredential)
	s.boundNothing(t)
}

// The device's proof for one CSR is not valid for another CSR.
func TestTwoStepsProofIsOfOneCSR(t *testing.T) {
	t.Parallel()
	s := newSteps(t)
	keys := s.enrolled(t, s.victim).Keys
	var one, other wire.Registration
	for _, r := range []*wire.Registration{&one, &other} {
		if err := json.Unmarshal(must(s.victim.Registration(s.pan, keys, fleet.RegistrationChange{}))(t), r); err != nil {
			t.Fatal(err)
		}
	}
	one.CSR = other.CSR
	refused(t, s.send(t, "/register", must(json.Marshal(one))(t)), 403, onboard.CodeCredential)
	s.boundNothing(t)
}

// The hub refuses a second step two hours after the first step.
func TestTwoStepsOldCredentialIsWorthNothing(t *testing.T) {
	t.Parallel()
	s := newSteps(t)
	body := s.registration(t, fleet.RegistrationChange{})
	s.Advance(2 * time.Hour)
	refused(t, s.send(t, "/register", body), 403, onboard.CodeCredential)
	s.boundNothing(t)
}

func TestTwoStepsRefuseEKCertificateOfAnotherTPM(t *testing.T) {
	t.Parallel()
	s := newSteps(t)
	other := s.device(t)
	lie := func(shown *wire.TPMKeys) { shown.EKCert = other.TPMKeys().EKCert }
	in := s.victim.EnrollRequest()
	lie(&in.TPMKeys)
	refused(t, s.send(t, "/enroll/request", must(json.Marshal(in))(t)), 403, "ek-key-mismatch")
	s.rejected(t, 403, "ek-key-mismatch", fleet.RegistrationChange{Sent: func(r *wire.Registration) { lie(&r.TPMKeys) }})
}

func TestTwoStepsRefuseAKNotRestricted(t *testing.T) {
	t.Parallel()
	s := newSteps(t)
	s.victim.IAK = must(fleet.NewKey(tcg.IAKTemplates[1], func(p *tcg.Public) { p.Attributes &^= tcg.Restricted }))(t)
	refused(t, s.send(t, "/enroll/request", must(json.Marshal(s.victim.EnrollRequest()))(t)), 403, "iak-not-restricted")
	in := s.device(t).EnrollRequest()
	in.AKName = hex.EncodeToString(s.victim.IAK.Name())
	refused(t, s.send(t, "/enroll/request", must(json.Marshal(in))(t)), 400, "ak-name")
}

// Weakness 2 of Pantacor's original hub: the ownership HMAC covered only a name that the caller
// chose, and everyone could read the HMAC in the CSR. With a copied HMAC, anyone could register any
// key.
func TestTwoStepsStolenHMACFitsNoOtherKey(t *testing.T) {
	t.Parallel()
	s := newSteps(t)
	var seen wire.Registration
	if err := json.Unmarshal(s.registration(t, fleet.RegistrationChange{}), &seen); err != nil {
		t.Fatal(err)
	}
	csr := must(x509.ParseCertificateRequest(seen.CSR))(t)
	var mac []byte
	for _, x := range csr.Extensions {
		if x.Id.Equal(wire.ExtensionOID(wire.ExtOwnership)) {
			mac = x.Value
		}
	}
	thief := s.device(t) // the thief has a genuine TPM, but not the victim's TPM
	keys := s.enrolled(t, thief).Keys
	for _, name := range []string{seen.Name, hex.EncodeToString(thief.IDevID.Name())} {
		body := must(thief.Registration(s.pan, keys, fleet.RegistrationChange{
			Extensions: func(x map[int][]byte) { x[wire.ExtOwnership] = mac },
			Sent:       func(r *wire.Registration) { r.Name = name },
		}))(t)
		if a := s.send(t, "/register", body); a.Code() != "idevid-name" && a.Code() != onboard.CodeOwnership {
			t.Errorf("%d %s", a.Status, a.Body)
		}
	}
	s.boundNothing(t)
}

// Weakness 2 of Pantacor's original hub: the HMAC became the device's password.
func TestTwoStepsHMACIsNoPassword(t *testing.T) {
	t.Parallel()
	s := newSteps(t)
	must(s.victim.OnboardTwoStep(t.Context(), s.client, s.pan))(t)
	mac := wire.OwnershipMAC(sha256.Sum256(must(s.pan.Secret())(t)), hex.EncodeToString(s.victim.IDevID.Name()))
	prn := wire.DevicePRN + s.deviceOf(t, s.victim)
	for _, password := range []string{base64.RawStdEncoding.EncodeToString(mac), base64.StdEncoding.EncodeToString(mac), ""} {
		want[map[string]any](s.person(t, ""), "POST", "/auth/login", map[string]string{"username": prn, "password": password}, 401)
	}
}

// Weakness 3 of Pantacor's original hub: the field device-name was the device's id, and a request
// could overwrite an existing device.
func TestTwoStepsDeviceNameTakesNobodysDevice(t *testing.T) {
	t.Parallel()
	s := newSteps(t)
	theirs := s.device(t)
	must(theirs.OnboardTwoStep(t.Context(), s.client, s.pan))(t)
	id := s.deviceOf(t, theirs)
	before := must(s.Store.Device(t.Context(), id))(t)
	mallory := s.Account(t, "mallory")
	tok := s.pantacorToken(t, mallory)
	keys := s.enrolled(t, s.victim).Keys
	for _, name := range []string{id, strings.ToUpper(id), "not hexadecimal", strings.Repeat("0", 24), strings.Repeat("a", 1000)} {
		body := must(s.victim.Registration(tok, keys, fleet.RegistrationChange{Sent: func(r *wire.Registration) { r.DeviceName = name }}))(t)
		refused(t, s.send(t, "/devices/register", body), 400, onboard.CodeDeviceName)
	}
	body := must(s.victim.Registration(tok, keys, fleet.RegistrationChange{Extensions: func(x map[int][]byte) { x[wire.ExtDevice] = []byte(wire.DevicePRN + id) }}))(t)
	refused(t, s.send(t, "/devices/register", body), 400, onboard.CodeDevicePRN)
	if after := must(s.Store.Device(t.Context(), id))(t); after.Owner != before.Owner || after.IDevIDHash != before.IDevIDHash || after.Activated != before.Activated {
		t.Errorf("%s became %s", brief.Of(before), brief.Of(after))
	}
	if n := len(s.Devices(t, mallory)); n != 0 {
		t.Errorf("%d devices", n)
	}
	// If the victim's own TPM registers with a second owner's token, the second owner does not get
	// the first owner's device either.
	keys = s.enrolled(t, theirs).Keys
	refused(t, s.send(t, "/devices/register", must(theirs.Registration(tok, keys, fleet.RegistrationChange{}))(t)), 409, onboard.CodeOtherOwner)
	if e := s.events(t, s.Owner, "device.other-owner-tried"); len(e) != 1 {
		t.Errorf("%d events for the owner", len(e))
	}
}

func (s *steps) events(t testing.TB, owner store.Account, kind string) (found []store.Event) {
	t.Helper()
	for _, e := range must(s.Store.Events(t.Context(), store.EventFilter{Owner: owner.ID}))(t) {
		if e.Kind == kind {
			found = append(found, e)
		}
	}
	return found
}

// Weakness 4 of Pantacor's original hub: a leaked database contained the key of every ownership
// proof, and tokens had no expiry and no limit of uses.
func TestTwoStepsLeakedDatabaseForgesNoOwnership(t *testing.T) {
	t.Parallel()
	s := newSteps(t)
	stored := s.token(t, s.pan)
	secret := must(s.pan.Secret())(t)
	key := sha256.Sum256(secret)
	// Nobody can decrypt the stored key with the database alone, or with the id of another token.
	if len(stored.PantacorKey) != 12+32+16 {
		t.Errorf("%d bytes are stored", len(stored.PantacorKey))
	}
	files := must(filepath.Glob(filepath.Join(s.Data(), "gangway.db*")))(t)
	if len(files) == 0 {
		t.Fatal("there is no database")
	}
	for _, file := range files {
		content := must(os.ReadFile(file))(t)
		for _, needle := range [][]byte{key[:], secret, []byte(s.pan.Token), []byte(hex.EncodeToString(key[:]))} {
			if bytes.Contains(content, needle) {
				t.Errorf("%s has the key of the token's proofs", filepath.Base(file))
			}
		}
	}
	// If somebody copies a stored key to the row of another token, the hub cannot decrypt it.
	moved := stored
	moved.ID, moved.Owner = wire.NewID(), s.Account(t, "mallory").ID
	if err := s.Store.CreateJoinToken(t.Context(), moved); err != nil {
		t.Fatal(err)
	}
	file := *s.pan
	file.ID, file.Owner = moved.ID, wire.AccountPRN+moved.Owner
	body := must(s.victim.Registration(&file, s.enrolled(t, s.victim).Keys, fleet.RegistrationChange{}))(t)
	if a := s.send(t, "/register", body); a.Status == 200 {
		t.Error("a stored key served another token")
	}
	s.boundNothing(t)
}

func (s *steps) token(t testing.TB, f *wire.TokenFile) store.JoinToken {
	t.Helper()
	return must(s.Store.JoinToken(t.Context(), f.ID))(t)
}

// Weakness 4 of Pantacor's original hub: tokens were valid forever. For the two-step enrolment,
// this hub accepts only a token that was made for it, until the token expires, is disabled or is
// used up.
func TestTwoStepsNeedATokenMadeForThem(t *testing.T) {
	t.Parallel()
	s := newSteps(t)
	keys := s.enrolled(t, s.victim).Keys
	try := func(tok *wire.TokenFile, status int, code string, change func(map[int][]byte)) {
		t.Helper()
		refused(t, s.send(t, "/register", must(s.victim.Registration(tok, keys, fleet.RegistrationChange{Extensions: change}))(t)), status, code)
	}
	try(s.tok, 403, onboard.CodeOwnership, nil) // an ordinary token
	unknown := *s.pan
	unknown.ID = wire.NewID()
	try(&unknown, 403, onboard.CodeOwnership, nil)
	try(s.pan, 403, onboard.CodeOwnership, func(x map[int][]byte) { x[wire.ExtOwner] = []byte(wire.AccountPRN + s.Account(t, "mallory").ID) })
	try(s.pan, 403, onboard.CodeOwnership, func(x map[int][]byte) { x[wire.ExtOwnership][0] ^= 1 })
	try(s.pan, 403, onboard.CodeOwnership, func(x map[int][]byte) { x[wire.ExtOwnership] = x[wire.ExtOwnership][:16] })
	once := s.Token(t, s.Owner, func(t *store.JoinToken) { t.ForPantacor, t.MaxUses = true, 1 })
	must(s.device(t).OnboardTwoStep(t.Context(), s.client, once))(t)
	try(once, 403, onboard.CodeTokenUsedUp, nil)
	if err := s.Store.DisableJoinToken(t.Context(), s.Owner.ID, s.pan.ID); err != nil {
		t.Fatal(err)
	}
	try(s.pan, 403, onboard.CodeTokenUnusable, nil)
	short := s.Token(t, s.Owner, func(tok *store.JoinToken) { tok.ForPantacor, tok.Expires = true, s.Now().Add(time.Minute) })
	s.Advance(time.Minute)
	keys = s.enrolled(t, s.victim).Keys
	try(short, 403, onboard.CodeTokenUnusable, nil)
}

func TestTwoStepsLastUseGoesToOneDevice(t *testing.T) {
	t.Parallel()
	s := newStepsOnDisk(t)
	once := s.Token(t, s.Owner, func(t *store.JoinToken) { t.ForPantacor, t.MaxUses = true, 1 })
	var bodies [][]byte
	for range 8 {
		d := s.device(t)
		bodies = append(bodies, must(d.Registration(once, s.enrolled(t, d).Keys, fleet.RegistrationChange{}))(t))
	}
	status := make([]int, len(bodies))
	var wg sync.WaitGroup
	for i, body := range bodies {
		wg.Go(func() {
			if a, err := s.client.Post(t.Context(), "/register", bytes.NewReader(body)); err == nil {
				status[i] = a.Status
			}
		})
	}
	wg.Wait()
	won := 0
	for _, code := range status {
		if code == 200 {
			won++
		} else if code != 403 {
			t.Errorf("answered %d", code)
		}
	}
	if won != 1 || len(s.Devices(t, s.Owner)) != 1 || s.Uses(t, once) != 1 {
		t.Errorf("%d devices, %d uses", won, s.Uses(t, once))
	}
}

// Weakness 5 of Pantacor's original hub: a revoked certificate could sign in.
func TestTwoStepsRevokedCertificateSignsInNoMore(t *testing.T) {
	t.Parallel()
	s := newSteps(t)
	body := s.registration(t, fleet.RegistrationChange{})
	cert := must(fleet.ParseRegistered(s.send(t, "/register", body)))(t)
	login := func() int {
		conn := must(s.client.Dial(t.Context(), tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: s.victim.IDevID.Private}))(t)
		defer conn.Close()
		return must(conn.Do(t.Context(), "POST", "/auth/x509/login", nil))(t).Status
	}
	if got := login(); got != 200 {
		t.Fatalf("%d", got)
	}
	if err := s.Store.DeleteDevice(t.Context(), s.Owner.ID, s.deviceOf(t, s.victim), s.Now()); err != nil {
		t.Fatal(err)
	}
	if got := login(); got != 403 {
		t.Errorf("answered %d after the device was deleted", got)
	}
	// If somebody sends the registration again, even with different white space, the device stays
	// deleted.
	for _, again := range [][]byte{body, append([]byte("\n "), body...)} {
		refused(t, s.send(t, "/register", again), 410, onboard.CodeRevoked)
	}
	// The device itself can onboard again, as a new device.
	must(s.victim.OnboardTwoStep(t.Context(), s.client, s.pan))(t)
}

// While a machine waits for its owner's decision, it gets no certificate from either step.
func TestTwoStepsUndecidedMachineGetsNoCertificate(t *testing.T) {
	t.Parallel()
	s := newSteps(t)
	d := s.uncertified(t)
	e := s.enrolled(t, d)
	if e.AK != nil {
		t.Error("an AK certificate although nobody has decided")
	}
	body := must(d.Registration(s.pan, e.Keys, fleet.RegistrationChange{}))(t)
	a := s.send(t, "/register", body)
	var w wire.Waiting
	if err := json.Unmarshal(a.Body, &w); err != nil || a.Status != 202 || w.DeviceID == "" {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	s.boundNothing(t)
	want[api.WaitingView](s.person(t, "ada"), "POST", "/devices/"+w.DeviceID+"/approve", map[string]any{}, 200)
	must(fleet.ParseRegistered(s.send(t, "/register", body)))(t)
}

func TestTwoStepsSoftwareTPMIsRefusedUnlessNamed(t *testing.T) {
	t.Parallel()
	s := newSteps(t)
	s.Policy(t, store.HubWide, "version: 1\n")
	refused(t, s.send(t, "/enroll/request", must(json.Marshal(s.victim.EnrollRequest()))(t)), 403, "tpm-software")
}

// If the owner's policy refuses the TPM's maker, the hub refuses the second step.
func TestTwoStepsOwnersPolicyHolds(t *testing.T) {
	t.Parallel()
	s := newSteps(t)
	s.Policy(t, s.Owner.ID, "version: 1\nrules:\n  - maker: FAKE\n    then: refuse\n    reason: no\n")
	s.rejected(t, 403, "policy", fleet.RegistrationChange{})
}

func TestTwoStepsRejectMalformedBodies(t *testing.T) {
	t.Parallel()
	s := newSteps(t)
	e := s.enrolled(t, s.victim)
	first := must(json.Marshal(s.victim.EnrollRequest()))(t)
	second := must(s.victim.Registration(s.pan, e.Keys, fleet.RegistrationChange{}))(t)
	for path, good := range map[string][]byte{"/enroll/request": first, "/register": second, "/devices/register": second} {
		if a := s.send(t, path, bytes.Repeat([]byte(" "), wire.MaxStepBody+1)); a.Status != 413 {
			t.Errorf("%s: %d", path, a.Status)
		}
		if a := s.send(t, path, append(bytes.Clone(good), "{}"...)); a.Status != 400 {
			t.Errorf("%s: data behind the body: %d", path, a.Status)
		}
		for _, bad := range []string{"", "null", "[]", "{}", `"x"`, strings.Repeat("[", 10000), `{"csr":"AAAA"}`, `{"csr":7}`} {
			if a := s.send(t, path, []byte(bad)); a.Status != 400 {
				t.Errorf("%s: %.20s: %d %s", path, bad, a.Status, a.Body)
			}
		}
		var fields map[string]any
		if err := json.Unmarshal(good, &fields); err != nil {
			t.Fatal(err)
		}
		for field := range fields {
			for _, bad := range []any{"", "!", "AAAA", "-----BEGIN PUBLIC KEY-----", strings.Repeat("A", 30000), 7, nil, []string{"A"}} {
				changed := map[string]any{}
				for k, v := range fields {
					changed[k] = v
				}
				changed[field] = bad
				a := s.send(t, path, must(json.Marshal(changed))(t))
				if a.Status < 400 || a.Status > 499 {
					// Without an EK certificate, the machine waits for its owner's decision: the
					// first step answers 200 without a certificate for the AK, and the second step
					// answers 202.
					if field == "ek-cert" && (a.Status == 202 || a.Status == 200) {
						continue
					}
					t.Errorf("%s: %s %.20v: %d %s", path, field, bad, a.Status, a.Body)
				}
			}
		}
	}
	if len(s.Devices(t, s.Owner)) != 0 {
		t.Error("a request bound something")
	}
}

func TestTwoStepsRejectMutations(t *testing.T) {
	t.Parallel()
	s := newSteps(t)
	good := s.registration(t, fleet.RegistrationChange{})
	var r wire.Registration
	if err := json.Unmarshal(good, &r); err != nil {
		t.Fatal(err)
	}
	n := 400
	if testing.Short() {
		n = 50
	}
	for i := range n {
		changed := r
		changed.CSR = bytes.Clone(r.CSR)
		changed.CSR[i*len(r.CSR)/n] ^= 1 << (i % 8)
		if a := s.send(t, "/register", must(json.Marshal(changed))(t)); a.Status != 400 && a.Status != 403 {
			t.Errorf("bit of byte %d: %d %s", i*len(r.CSR)/n, a.Status, a.Body)
		}
	}
	s.boundNothing(t)
}

// The route that checks ownership proofs accepts a valid proof, and gives the same answer to every
// invalid proof.
func TestSignatureVerifyTellsGoodFromBadAndNoMore(t *testing.T) {
	t.Parallel()
	s := newSteps(t)
	secret := must(s.pan.Secret())(t)
	name := hex.EncodeToString(s.victim.IDevID.Name())
	mac := wire.OwnershipMAC(sha256.Sum256(secret), name)
	ask := func(change func(*api.SignatureQuestion)) (int, string) {
		q := api.SignatureQuestion{Service: "aca", TokenID: s.pan.ID, Owner: s.pan.Owner, IDevIDName: name, Signature: mac}
		if change != nil {
			change(&q)
		}
		status, body := s.person(t, "").do("POST", "/auth/signature/verify", q)
		return status, string(body)
	}
	if status, body := ask(nil); status != 200 || body != "ok" {
		t.Errorf("%d %q", status, body)
	}
	plainSecret := must(s.tok.Secret())(t)
	var answers []string
	for _, change := range []func(*api.SignatureQuestion){
		func(q *api.SignatureQuestion) { q.TokenID = wire.NewID() },
		func(q *api.SignatureQuestion) { q.TokenID = "x" },
		func(q *api.SignatureQuestion) { q.Owner = wire.AccountPRN + wire.NewID() },
		func(q *api.SignatureQuestion) { q.IDevIDName = strings.ToUpper(name) },
		func(q *api.SignatureQuestion) { q.Signature = nil },
		func(q *api.SignatureQuestion) { q.Signature = mac[:31] },
		func(q *api.SignatureQuestion) { // a token of another kind
			q.TokenID, q.Signature = s.tok.ID, wire.OwnershipMAC(sha256.Sum256(plainSecret), name)
		},
	} {
		status, body := ask(change)
		if status != 400 {
			t.Errorf("%d %s", status, body)
		}
		answers = append(answers, body)
	}
	if err := s.Store.DisableJoinToken(t.Context(), s.Owner.ID, s.pan.ID); err != nil {
		t.Fatal(err)
	}
	status, body := ask(nil)
	if status != 400 {
		t.Errorf("disabled: %d", status)
	}
	for _, a := range append(answers, body) {
		if a != answers[0] {
			t.Errorf("answers differ: %s, %s", a, answers[0])
		}
	}
	slow := 0
	for range 60 {
		if status, _ := ask(nil); status == http.StatusTooManyRequests {
			slow++
		}
	}
	if slow == 0 {
		t.Error("the number of requests to check an ownership proof is not limited")
	}
}

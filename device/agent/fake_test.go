package agent

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gangway/device/identity"
	"gangway/device/install/lockout"
	"gangway/internal/fleet"
	"gangway/tcg"
	"gangway/wire"

	"github.com/google/go-tpm/tpm2"
)

// fakeTPM is a TPM whose keys are in memory.
type fakeTPM struct {
	ek, iak, idevid *fleet.Key
	ekCert          *x509.Certificate // nil: the TPM has no EK certificate

	mu       sync.Mutex
	uses     int           // number of uses of the keys
	locked   int           // number of further uses that the TPM refuses because of a lockout
	liftable bool          // the agent can lift the lockout without a password
	state    lockout.State // the TPM's report about its lockout
	lifts    int           // number of the agent's tries to lift the lockout
	quotes   [][]byte      // qualifying data of each quote
	quoteErr error
}

func newFakeTPM(t *testing.T) *fakeTPM {
	t.Helper()
	i := slices.IndexFunc(tcg.EKTemplates, func(t tcg.Template) bool { return t.Name == "H-2" })
	f := &fakeTPM{}
	for at, template := range map[**fleet.Key]tcg.Template{&f.ek: tcg.EKTemplates[i], &f.iak: tcg.IAKTemplates[1], &f.idevid: tcg.IDevIDTemplates[1]} {
		key, err := fleet.NewKey(template, nil)
		if err != nil {
			t.Fatal(err)
		}
		*at = key
	}
	return f
}

// The method `use` counts one use of a key. While the TPM is in lockout, use returns
// TPM_RC_LOCKOUT.
func (f *fakeTPM) use() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.uses++
	if f.locked > 0 {
		f.locked--
		return fmt.Errorf("fake: %w", tpm2.TPMRCLockout)
	}
	return nil
}

func (f *fakeTPM) loadKeys(context.Context, identity.Options) (*deviceKeys, error) {
	if err := f.use(); err != nil {
		return nil, err
	}
	keys := identity.Keys{EK: f.ek.Public, EKTemplate: "H-2", IAK: f.iak.Public, IDevID: f.idevid.Public, IAKName: f.iak.Name(), IDevIDName: f.idevid.Name()}
	if f.ekCert != nil {
		keys.EKCertificate = &tcg.EKCertificate{Certificate: f.ekCert, PublicKey: f.ek.Private.Public()}
	}
	return &deviceKeys{keys, fakeEnroller{f}, f.idevid.Private}, nil
}

type fakeEnroller struct{ tpm *fakeTPM }

func (e fakeEnroller) Close() error { return nil }

func (e fakeEnroller) Request(r identity.RequestInfo) ([]byte, error) {
	caData, err := r.CAData(e.tpm.idevid.Name())
	if err != nil {
		return nil, err
	}
	attest := fleet.Attest(e.tpm.iak.Name(), e.tpm.idevid.Name())
	signature, err := e.tpm.iak.Sign(attest)
	if err != nil {
		return nil, err
	}
	ek := e.tpm.ek.Public.Raw
	if e.tpm.ekCert != nil {
		ek = e.tpm.ekCert.Raw
	}
	csr := &tcg.CSR{ProdModel: []byte(r.Model), ProdSerial: []byte(r.Serial), CAData: caData, EKCert: ek,
		AttestPub: e.tpm.iak.Public.Raw, SigningPub: e.tpm.idevid.Public.Raw, SgnCertifyInfo: attest, SgnCertifySig: signature}
	return csr.Encode(tcg.AlgSHA256, e.tpm.idevid.Sign)
}

func (e fakeEnroller) ActivateCredential(blob, secret []byte) ([]byte, error) {
	return (&fleet.Device{EK: e.tpm.ek, IAK: e.tpm.iak}).ActivateCredential(blob, secret)
}

type fakeSigner struct{ crypto.Signer }

func (fakeSigner) Keep(context.Context, uint32) (uint32, error) { return 0x81020000, nil }
func (fakeSigner) Drop(context.Context, uint32) (int, error)    { return 0, nil }
func (fakeSigner) Close() error                                 { return nil }

func (f *fakeTPM) loadSigner(context.Context, identity.Options) (signer, error) {
	if err := f.use(); err != nil {
		return nil, err
	}
	return fakeSigner{f.idevid.Private}, nil
}

func (f *fakeTPM) quote(_ context.Context, _ identity.Options, qualifying []byte) (*identity.Quoted, error) {
	if err := f.use(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.quoteErr != nil {
		return nil, f.quoteErr
	}
	f.quotes = append(f.quotes, qualifying)
	return &identity.Quoted{Bank: tcg.AlgSHA256, PCRs: make([][]byte, 16), Attest: qualifying, Signature: []byte("signature")}, nil
}

func (f *fakeTPM) readLockout(context.Context) (lockout.State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.state
	s.Locked = f.locked > 0
	f.locked = max(0, f.locked-1) // the TPM's timer allows one more use
	return s, nil
}

func (f *fakeTPM) liftLockout(context.Context) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lifts++
	if !f.liftable {
		return true, lockout.ErrPassword
	}
	was := f.locked > 0
	f.locked = 0
	return was, nil
}

func (f *fakeTPM) Close() error { return nil }

// fakeHub is a hub that accepts every device without checking it. A test can replace any of its
// answers.
type fakeHub struct {
	t      *testing.T
	ca     *testCA
	name   string
	server *httptest.Server
	owner  string // the owner's PRN

	mu       sync.Mutex
	answers  map[string]func(body []byte) (int, string) // answers that replace the hub's own, by "METHOD /path"
	header   http.Header                                // headers that every answer has
	asked    []string                                   // all requests so far, "METHOD /path"
	bodies   map[string][][]byte                        // the bodies of the requests so far, by "METHOD /path"
	requests map[string]bool                            // the different onboarding requests that the hub answered
	tokens   []string                                   // the token id of each onboarding request
	pending  wire.Keys                                  // the keys of the last reply
	issued   [][]byte                                   // the last reply's certificates (DER)
	claim    string                                     // the answer to GET /claims/CODE; empty: the hub's own
	claims   int                                        // number of requests GET /claims/CODE so far
	change   func(certs [][]byte) [][]byte              // alters a reply's certificates before they are sealed
}

const fakeDevice = "0123456789abcdef01234567"

func newFakeHub(t *testing.T) *fakeHub {
	t.Helper()
	return fakeHubOf(t, newTestCA(t))
}

// fakeHubOf starts a fake hub with the given CA. Two fake hubs with the same CA stand for two
// addresses of one hub.
func fakeHubOf(t *testing.T, ca *testCA) *fakeHub {
	t.Helper()
	sum := sha256.Sum256(ca.cert.RawSubjectPublicKeyInfo)
	h := &fakeHub{t: t, ca: ca, name: hex.EncodeToString(sum[:]), owner: wire.AccountPRN + fakeDevice, header: http.Header{},
		answers: map[string]func([]byte) (int, string){}, bodies: map[string][][]byte{}, requests: map[string]bool{}}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := h.issue(&x509.Certificate{Subject: pkix.Name{CommonName: "tls"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, key.Public(), ca.cert, ca.key)
	h.server = httptest.NewUnstartedServer(h)
	h.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	h.server.TLS = &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, Certificates: []tls.Certificate{{Certificate: [][]byte{leaf}, PrivateKey: key}}}
	h.server.StartTLS()
	t.Cleanup(h.server.Close)
	return h
}

func (h *fakeHub) issue(template *x509.Certificate, key crypto.PublicKey, ca *x509.Certificate, by crypto.Signer) []byte {
	template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(time.Now().UnixNano()), day(1000), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	der, err := x509.CreateCertificate(rand.Reader, template, ca, key, by)
	if err != nil {
		h.t.Error(err)
	}
	return der
}

func (h *fakeHub) caPEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.ca.cert.Raw}))
}

func (h *fakeHub) token() *wire.TokenFile {
	id := wire.NewID()
	return &wire.TokenFile{ID: id, PRN: wire.TokenPRN + id, Owner: h.owner, Token: base64.StdEncoding.EncodeToString(wire.NewSecret()), Hub: h.server.URL, HubName: h.name, HubCA: h.caPEM()}
}

func (h *fakeHub) file() *wire.HubFile {
	return &wire.HubFile{Hub: h.server.URL, HubName: h.name, HubCA: h.caPEM()}
}

// The method `refuse` makes the hub refuse the next `n` requests with the method and path in
// `request` ("METHOD /path"). If `n` is 0, the hub refuses all such requests.
func (h *fakeHub) refuse(request string, n, status int, code string, more ...string) {
	text := fmt.Sprintf(`{"code":%d,"error":%q,"msg":"No.","hint":"Look."%s}`, status, code, strings.Join(more, ""))
	h.answer(request, n, status, text)
}

func (h *fakeHub) answer(request string, n, status int, text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	times := 0
	h.answers[request] = func([]byte) (int, string) {
		if times++; n > 0 && times > n {
			return 0, ""
		}
		return status, text
	}
}

// count returns how many requests with this method and path ("METHOD /path") the hub received.
func (h *fakeHub) count(request string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, a := range h.asked {
		if a == request {
			n++
		}
	}
	return n
}

func (h *fakeHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	what := r.Method + " " + r.URL.Path
	h.asked = append(h.asked, what)
	h.bodies[what] = append(h.bodies[what], body)
	for name, values := range h.header {
		w.Header()[name] = values
	}
	if answer := h.answers[what]; answer != nil {
		if status, text := answer(body); status != 0 {
			w.WriteHeader(status)
			io.WriteString(w, text)
			return
		}
	}
	device := fmt.Sprintf(`{"id":%q,"nick":"gate","owner-nick":"ada","tpm":{"manufacturer":"FAKE"}}`, fakeDevice)
	switch {
	case what == "POST /onboard":
		w.Write(h.onboard(body))
	case what == "POST /onboard/activate":
		h.activate(w, r, body, device)
	case what == "GET /device":
		io.WriteString(w, device)
	case what == "GET /device/boot":
		json.NewEncoder(w).Encode(wire.BootChallenge{Nonce: make([]byte, wire.BootNonceSize)})
	case what == "POST /device/boot":
		io.WriteString(w, `{"state":"matches"}`)
	case strings.HasPrefix(what, "GET /claims/"):
		h.claims++
		if h.claim != "" {
			io.WriteString(w, h.claim)
			return
		}
		json.NewEncoder(w).Encode(wire.Claim{Owner: h.owner, OwnerNick: "ada"})
	default:
		io.WriteString(w, "{}")
	}
}

// onboard issues certificates for a request. It returns the reply, sealed to the TPM that made the
// request.
func (h *fakeHub) onboard(request []byte) []byte {
	csr, err := tcg.ParseCSR(request)
	if err != nil {
		h.t.Error(err)
		return nil
	}
	h.requests[string(request)] = true
	ca, err := wire.ParseCAData(csr.CAData)
	if err != nil {
		h.t.Error(err)
		return nil
	}
	h.tokens = append(h.tokens, ca.TokenID)
	keyOf := func(raw []byte) (*tcg.Public, crypto.PublicKey) {
		p, err := tcg.ParsePublic(raw)
		if err != nil {
			h.t.Error(err)
			return nil, nil
		}
		key, err := p.Key()
		if err != nil {
			h.t.Error(err)
		}
		return p, key
	}
	ek, _ := keyOf(ca.EKPublic)
	iak, iakKey := keyOf(csr.AttestPub)
	_, idevid := keyOf(csr.SigningPub)
	between, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		h.t.Error(err)
	}
	authority := h.issue(&x509.Certificate{Subject: pkix.Name{CommonName: "devices"}, IsCA: true, BasicConstraintsValid: true}, between.Public(), h.ca.cert, h.ca.key)
	authorityCert, err := x509.ParseCertificate(authority)
	if err != nil {
		h.t.Error(err)
	}
	client := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	h.issued = [][]byte{
		h.issue(&x509.Certificate{Subject: pkix.Name{CommonName: "idevid"}, ExtKeyUsage: client}, idevid, authorityCert, between), authority,
		h.issue(&x509.Certificate{Subject: pkix.Name{CommonName: "aik"}}, iakKey, authorityCert, between), authority,
	}
	certs := h.issued
	if h.change != nil {
		certs = h.change(certs)
	}
	var content []byte
	for _, der := range certs {
		content = append(content, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	secret := make([]byte, 32)
	rand.Read(secret)
	name, err := iak.Name()
	if err != nil {
		h.t.Error(err)
	}
	blob, encrypted, err := tcg.MakeCredential(ek, name, secret)
	if err != nil {
		h.t.Error(err)
	}
	if h.pending, err = wire.DeriveKeys(secret, sha256.Sum256(request)); err != nil {
		h.t.Error(err)
	}
	sealed, err := wire.Seal(h.pending, content)
	if err != nil {
		h.t.Error(err)
	}
	return (&wire.Reply{CredentialBlob: blob, Secret: encrypted, Sealed: sealed}).Encode()
}

func (h *fakeHub) activate(w http.ResponseWriter, r *http.Request, body []byte, device string) {
	var proof wire.ActivationRequest
	exporter, err := r.TLS.ExportKeyingMaterial(wire.ExporterLabel, nil, wire.ExporterSize)
	if err != nil || json.Unmarshal(body, &proof) != nil || len(r.TLS.PeerCertificates) == 0 ||
		!wire.VerifyActivationProof(h.pending, exporter, sha256.Sum256(r.TLS.PeerCertificates[0].Raw), proof.Proof) {
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, `{"code":403,"error":"activation-proof","msg":"No.","hint":"Look."}`)
		return
	}
	io.WriteString(w, device)
}

// testMachine is a machine under test. It has a TPM and a state folder, and records the sentences
// that its agent reports.
type testMachine struct {
	t     *testing.T
	tpm   *fakeTPM
	state string

	mu   sync.Mutex
	said []string // what the agent said: "name: sentence"
}

func newMachine(t *testing.T) *testMachine {
	return &testMachine{t: t, tpm: newFakeTPM(t), state: t.TempDir()}
}

// The method `agent` starts an agent on the machine. When the test ends, the agent is closed, if
// the test has not already closed it.
func (m *testMachine) agent(cfg Config) *Agent {
	m.t.Helper()
	cfg.StateDir, cfg.TPM, cfg.open = m.state, "fake", func(string) (tpm, error) { return m.tpm, nil }
	cfg.EventLog, cfg.Model, cfg.Serial, cfg.pause = "/nonexistent", "model", "serial", 10*time.Millisecond
	cfg.Progress = func(p Progress) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.said = append(m.said, p.Name+": "+p.Detail)
	}
	a, err := New(cfg)
	for end := time.Now().Add(5 * time.Second); errors.Is(err, ErrInUse) && time.Now().Before(end); a, err = New(cfg) {
		// Another test may have just forked a child process. Until the child executes its program,
		// it has a copy of the lock file's descriptor, so the lock is held although the file was
		// closed.
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { a.Close() })
	return a
}

// The method `onboard` onboards the machine, and then releases the lock of its state folder.
func (m *testMachine) onboard(cfg Config) (*State, error) {
	m.t.Helper()
	a := m.agent(cfg)
	ctx, cancel := context.WithTimeout(m.t.Context(), 20*time.Second)
	defer cancel()
	s, err := a.Onboard(ctx)
	if err := a.Close(); err != nil {
		m.t.Error(err)
	}
	return s, err
}

func (m *testMachine) onboarded(cfg Config) *State {
	m.t.Helper()
	s, err := m.onboard(cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	return s
}

// The method `heard` returns how many of the sentences that the agent reported contain `text`.
func (m *testMachine) heard(text string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, line := range m.said {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// The method `stored` returns the state from the machine's state folder.
func (m *testMachine) stored() State {
	m.t.Helper()
	s, err := (&folder{path: m.state}).read()
	if err != nil {
		m.t.Fatal(err)
	}
	return s
}

// edit changes the state in the machine's state folder. Call edit only while no agent runs.
func (m *testMachine) edit(change func(*State)) {
	m.t.Helper()
	s := m.stored()
	change(&s)
	if err := (&folder{path: m.state}).saveState(s); err != nil {
		m.t.Fatal(err)
	}
}

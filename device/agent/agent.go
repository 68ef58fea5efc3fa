// Package agent is the device's life: it onboards, connects and reports.
//
// Onboarding is a machine of four phases, each of which is on the disk before
// the next begins, so that a kill at any instruction loses nothing:
//
//	new        nothing sent
//	requested  the request is stored; it may have been sent. It is sent again
//	           as it is, and the same request gets the same answer
//	answered   the reply is stored, still sealed: what opens it is in the TPM
//	active     the certificates are stored, and the hub has bound the device
//
// No secret is ever written into the state folder. The join token's file is not
// copied; what is kept of it (where the hub is and which CA it has) is public.
// Pantavisor alone gets one, short-lived, in a file of its own.
package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"gangway/device/agent/logs"
	"gangway/device/agent/revision"
	"gangway/device/identity"
	"gangway/tcg"
	"gangway/wire"
)

// Config is what an Agent is made of.
type Config struct {
	// Token is the join token's file. It is needed until the device is
	// active, and not afterwards.
	Token *wire.TokenFile
	// Hub is the hub of a machine without a join token, which shows a code
	// until somebody has taken it there. It is not looked at if there is a
	// Token.
	Hub *wire.HubFile
	// TPM is the address of the TPM, see identity.Open.
	TPM string
	// Proxy is the proxy by which the hub is reached; nil: none.
	Proxy *HTTPProxy
	// StateDir is the folder of the state, made if it is not there.
	StateDir string
	// Again onboards again, whatever the state: a person's word, who may bring
	// back a device that was deleted. It needs a Token or a Hub.
	Again bool
	// Model and Serial name the machine; empty: from the firmware's tables.
	Model, Serial string
	// EndorsementAuth is the password of the TPM's endorsement hierarchy; empty:
	// it has none.
	EndorsementAuth []byte
	// WithoutEKCertificate leaves out EK certificates of keys that the TPM does
	// not make, as after a change of its endorsement seed.
	WithoutEKCertificate bool
	// EK and Key choose an endorsement key's template ("L-1", "H-3") and the
	// identity keys' algorithm (identity.Algorithm); empty: the best.
	EK, Key string
	// ReportEvery is how often Run reports. Default: one minute.
	ReportEvery time.Duration
	// Poll is how often Run asks for what the owner set and for a new
	// revision. Default: 30 seconds.
	Poll time.Duration
	// Trail is how the device follows its trail; without a hook it does not.
	// Dir, Device, Say and Line are the agent's to set, and Poll where it is 0.
	Trail revision.Config
	// ReportFiles are files whose text is reported as device-meta, by key. What
	// the agent reports itself comes first.
	ReportFiles map[string]string
	// UserMetaHook is called as PROGRAM user-meta FILE when the owner has
	// changed the device's user-meta. Empty: it is only kept in the file.
	UserMetaHook string
	// SendLog sends the agent's own lines to the hub, and those of the
	// sources: files that are followed, a Unix datagram socket, a reader.
	SendLog   bool
	LogFiles  []string
	LogSocket string
	LogReader io.Reader
	// SetClock, if set, sets the system's clock: where it is evidently wrong, or
	// behind the hub's.
	SetClock func(time.Time) error
	// NTP are time servers, by which SetClock is called too.
	NTP []string
	// EventLog is the file of the firmware's event log. Default: EventLogPath.
	EventLog string
	// Progress, if set, is called at each step.
	Progress func(Progress)
	// Log may be nil.
	Log *slog.Logger
	// Version is reported to the hub.
	Version string

	open  func(address string) (tpm, error) // nil: openTPM
	pause time.Duration                     // before the first retry; 0: firstWait
}

func (c *Config) openTPM() (tpm, error) {
	if c.open != nil {
		return c.open(c.TPM)
	}
	return openTPM(c.TPM)
}

// Progress is something that the agent has done.
type Progress struct {
	Name   string        // stable: "ek", "keys", "request", "reply", "activate", "waiting"
	Detail string        // one sentence for a person
	Took   time.Duration // 0 where it means nothing
}

// Agent onboards one device and keeps it connected. Its methods are not safe
// for concurrent use.
type Agent struct {
	cfg     Config
	dir     *folder
	logs    logs.Log
	started time.Time

	mu    sync.Mutex // Run does several things at once; guards what follows
	state State

	said        map[string]string // the last sentence of each kind that is said once
	logTooLarge bool              // the hub, or what is before it, takes no event log

	time  *timeKeeper // nil: no time servers
	timed sync.Once   // they were asked before the hub is
}

// New opens the state folder and takes its lock. Close gives it back.
func New(cfg Config) (*Agent, error) {
	if cfg.StateDir == "" || cfg.TPM == "" {
		return nil, errors.New("agent: the state folder and the TPM's address are needed")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.ReportEvery == 0 {
		cfg.ReportEvery = time.Minute
	}
	if cfg.Poll == 0 {
		cfg.Poll = 30 * time.Second
	}
	if cfg.Trail.Poll == 0 {
		cfg.Trail.Poll = cfg.Poll
	}
	dir, err := openFolder(cfg.StateDir)
	if err != nil {
		return nil, err
	}
	state, err := dir.read()
	if err != nil {
		dir.close()
		return nil, err
	}
	a := &Agent{cfg: cfg, dir: dir, state: state, started: time.Now()}
	if cfg.SetClock != nil && len(cfg.NTP) > 0 {
		a.time = newTimeKeeper(cfg.NTP, cfg.SetClock, func(format string, args ...any) { a.say("clock", format, args...) })
	}
	return a, nil
}

// Close releases the state folder.
func (a *Agent) Close() error { return a.dir.close() }

// hub is a hub whose word may put the clock right.
func (a *Agent) hub(at *addresses, ca string) (*hub, error) {
	h, err := newHub(at, ca, a.cfg.Proxy)
	if err != nil || a.cfg.SetClock == nil {
		return h, err
	}
	if a.time != nil {
		a.timed.Do(func() { a.time.complain(a.time.ask(context.Background(), ntpFirst, h.certs)) })
	}
	set := func(t time.Time) error {
		err := a.cfg.SetClock(t)
		if err == nil {
			a.time.rebase(t)
		}
		return err
	}
	h.clock = &clockSetter{set: set, say: func(was, is time.Time, err error) {
		if err != nil {
			a.say("clock", "The machine's clock says %s, the hub's %s; it cannot be set: %v.", was.UTC().Format(time.DateTime), is.UTC().Format(time.DateTime), err)
			return
		}
		a.say("clock", "The machine's clock was set from %s to %s, by the hub's.", was.UTC().Format(time.DateTime), is.UTC().Format(time.DateTime))
	}}
	return h, nil
}

func (a *Agent) say(name, format string, args ...any) {
	a.sayTook(name, 0, format, args...)
}

func (a *Agent) sayTook(name string, took time.Duration, format string, args ...any) {
	p := Progress{name, fmt.Sprintf(format, args...), took}
	a.cfg.Log.Info(p.Detail, "step", p.Name, "took", p.Took)
	a.log("gangway-agent", p.Detail)
	if a.cfg.Progress != nil {
		a.cfg.Progress(p)
	}
}

// sayOnce says a sentence, unless it was the last about its subject. An empty
// one says that all is well again, and nothing is printed.
func (a *Agent) sayOnce(about, name, format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	a.mu.Lock()
	if a.said == nil {
		a.said = make(map[string]string)
	}
	news := line != a.said[about]
	a.said[about] = line
	a.mu.Unlock()
	if news && line != "" {
		a.say(name, "%s", line)
	}
}

// log keeps a line for the hub.
func (a *Agent) log(source, line string) {
	if a.cfg.SendLog {
		a.logs.Add("INFO", source, line)
	}
}

// Refused is the hub's final no. It is an error.
type Refused struct {
	Status int    `json:"code"`
	Code   string `json:"error"`
	Reason string `json:"msg"`
	Hint   string `json:"hint"`
	// Certificate is what became of the connection's certificate, where Code is
	// "certificate-not-active": "pending", "superseded", "revoked", "expired" or
	// "unknown".
	Certificate string `json:"certificate"`
}

func (r *Refused) Error() string {
	s := fmt.Sprintf("the hub refused: %s (%s)", r.Reason, r.Code)
	if r.Hint != "" {
		s += " " + r.Hint
	}
	return s
}

// HTTPStatus is the answer's status.
func (r *Refused) HTTPStatus() int { return r.Status }

// Temporary reports whether asking again may help.
func (r *Refused) Temporary() bool {
	if strings.HasPrefix(r.Code, "boot-") || r.Code == "tpm-cloned" {
		return true // the owner may accept it, or take a decision back; and another measurement may hold
	}
	return r.Status >= 500 || r.Status == http.StatusTooManyRequests || r.Status == http.StatusRequestTimeout
}

// needsNewRequest reports whether a refusal is of the stored request or reply alone,
// so that a new request may do.
func (r *Refused) needsNewRequest() bool {
	switch r.Code {
	case "enrolment-expired", "enrolment-superseded", "certificate-unknown", "activation-proof":
		return true
	}
	return false
}

// maxNewRequests bounds how often one call of Onboard starts from the beginning.
const maxNewRequests = 3

// Onboard brings the device aboard and returns when it is active, or when the
// hub refuses for good (*Refused). While the hub is away it waits, and says
// what for. A device that is active already is checked against its TPM, and the
// hub is asked: one that it no longer lets in comes back where it may, and is
// otherwise refused (*Removed).
func (a *Agent) Onboard(ctx context.Context) (*State, error) {
	if err := a.onboard(ctx); err != nil {
		return nil, a.failed(ctx, err)
	}
	return &a.state, nil
}

// failed notes an error where 'gangway-agent status' finds it, unless the agent
// was only stopped.
func (a *Agent) failed(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	return errors.Join(err, a.edit(func(s *State) { s.Waiting = err.Error() }))
}

func (a *Agent) onboard(ctx context.Context) error {
	start := time.Now()
	t, err := a.cfg.openTPM()
	if err != nil {
		return err
	}
	defer t.Close()
	if a.state.Former != nil && a.cfg.Token == nil && a.cfg.Hub == nil { // it was stopped while it onboarded again
		if err := a.restoreFormer(); err != nil {
			return err
		}
	}
	if a.state.Phase == PhaseActive || a.state.Phase == PhaseRemoved {
		if err := a.adoptAddress(); err != nil && !a.cfg.Again {
			return err
		}
		again, err := a.checkActive(ctx, t)
		if err != nil || !again {
			return err
		}
	}
	if a.cfg.Token == nil && a.cfg.Hub == nil {
		return errors.New("agent: onboarding needs a join token file (--token-file)")
	}
	if a.state.Phase == PhaseActive || a.state.Phase == PhaseRemoved || a.cfg.Again {
		if err := a.startOver(); err != nil {
			return err
		}
	}
	err = a.enrol(ctx, t, start)
	if err == nil || ctx.Err() != nil { // stopped: it goes on at the next start
		return err
	}
	return errors.Join(err, a.restoreFormer())
}

// enrol goes from whatever phase to active.
func (a *Agent) enrol(ctx context.Context, t tpm, start time.Time) (err error) {
	if err := a.preferAddress(a.cfg.file()); err != nil {
		return err
	}
	claimed := a.cfg.Token == nil
	if claimed {
		if a.cfg.Token, err = a.claimedToken(ctx); err != nil {
			return err
		}
		defer func() { a.cfg.Token = nil }() // a claim is for once
	}
	if err := a.dropOtherHub(); err != nil {
		return err
	}
	id, err := a.load(ctx, t)
	if err != nil {
		return err
	}
	defer id.Close()
	for anew := 0; ; anew++ {
		err := a.advance(ctx, id, start)
		var refused *Refused
		why := removal(err)
		switch {
		case err == nil || anew == maxNewRequests:
			return err
		case errors.Is(err, errStale):
			a.say("anew", "The earlier request has another EK certificate than one would have now; starting anew.")
		case !errors.As(err, &refused):
			return err
		case why != "": // since the request was made
			if removed := a.checkReturn(why, refused, claimed && a.state.Former == nil); removed != nil {
				return removed
			}
			a.say("anew", "%s Starting anew.", removedWords(why))
		case refused.needsNewRequest():
			a.say("anew", "The hub no longer wants the earlier request (%s); starting anew.", refused.Code)
		default:
			return err
		}
		if err := a.reset(); err != nil {
			return err
		}
		if claimed {
			if a.cfg.Token, err = a.claim(ctx); err != nil {
				return err
			}
		}
	}
}

// dropOtherHub drops what was begun with another hub or token.
func (a *Agent) dropOtherHub() error {
	if a.state.Phase != PhaseNew && (a.state.HubName != a.cfg.Token.HubName || a.state.TokenID != a.cfg.Token.ID) {
		return a.reset()
	}
	return nil
}

func (a *Agent) reset() error {
	a.state = State{Phase: PhaseNew, RoundTrips: a.state.RoundTrips, Returned: a.state.Returned, Former: a.state.Former, Addresses: a.state.Addresses}
	return a.dir.reset(a.state)
}

// options are for the keys of an algorithm.
func (a *Agent) options(key identity.Algorithm) identity.Options {
	return identity.Options{Algorithm: key, EndorsementAuth: a.cfg.EndorsementAuth}
}

func (a *Agent) load(ctx context.Context, t tpm) (*deviceKeys, error) {
	begin := time.Now()
	var id *deviceKeys
	err := a.waitOutLockout(ctx, t, func() (err error) {
		o := a.options(identity.Algorithm(a.cfg.Key))
		o.EK, o.AllowUnvouched, o.WithoutCertificate = a.cfg.EK, true, a.cfg.WithoutEKCertificate
		id, err = t.loadKeys(ctx, o)
		return err
	})
	if err != nil {
		return nil, err
	}
	found := "with its certificate found"
	switch {
	case id.EKCertificate == nil && id.Omission.Why != 0:
		found = "found, without its certificate"
	case id.EKCertificate == nil:
		found = "found, and no certificate of it"
	case !id.EK.Is(id.EKCertificate.PublicKey):
		found = "found, and a certificate of another key, which the hub will refuse"
	}
	a.sayTook("keys", time.Since(begin), "Endorsement key %s %s; attestation and identity keys made in the TPM (%s).", id.EKTemplate, found, id.IDevID.Algorithm())
	if id.Omission.Why != 0 {
		a.say("note", "%s The owner is told so.", id.Omission)
	}
	for _, note := range id.Notes {
		a.say("note", "%s", note)
	}
	return id, nil
}

// advance goes from the phase on the disk to active.
func (a *Agent) advance(ctx context.Context, id *deviceKeys, start time.Time) error {
	hub, err := a.hubOf(a.cfg.Token.HubName, a.cfg.Token.HubCA)
	if err != nil {
		return err
	}
	if a.state.Phase == PhaseNew {
		if err := a.request(id); err != nil {
			return err
		}
	}
	request, err := a.dir.load(requestFile)
	if err != nil {
		return err
	}
	if err := a.ownRequest(id, request); err != nil {
		return err
	}
	requestHash := sha256.Sum256(request)
	if a.state.Phase == PhaseRequested {
		begin := time.Now()
		var reply []byte
		err := a.retry(ctx, hub.at, func() (err error) {
			a.state.RoundTrips++
			reply, err = hub.post(ctx, "/onboard", "application/octet-stream", request)
			return err
		})
		if err != nil {
			return err
		}
		if _, err := wire.ParseReply(reply); err != nil {
			return err
		}
		a.state.Phase = PhaseAnswered
		if err := a.dir.save(replyFile, reply, a.state); err != nil {
			return err
		}
		a.sayTook("reply", time.Since(begin), "The hub answered with certificates sealed to this TPM.")
	}
	certs, keys, err := a.open(id, requestHash)
	if err != nil {
		return err
	}
	return a.activate(ctx, hub, id, certs, keys, start)
}

// ownRequest checks that a stored request is of this TPM's keys: a state folder
// that was copied from another machine in the middle of onboarding ends here.
func (a *Agent) ownRequest(id *deviceKeys, request []byte) error {
	csr, err := tcg.ParseCSR(request)
	if err != nil {
		return fmt.Errorf("agent: the stored request in %s is damaged: %w. %s", a.cfg.StateDir, err, remedyAgain)
	}
	if !bytes.Equal(csr.SigningPub, id.IDevID.Raw) || !bytes.Equal(csr.AttestPub, id.IAK.Raw) {
		return a.otherTPM()
	}
	if a.state.Phase == PhaseRequested && !bytes.Equal(csr.EKCert, id.EKCert()) {
		return errStale
	}
	return nil
}

// errStale reports that a stored request, which may have been refused, has another
// EK certificate than a new one would have: the TPM or an option was changed.
var errStale = errors.New("agent: the stored request has another EK certificate than the TPM")

func (a *Agent) otherTPM() error {
	return fmt.Errorf("agent: the state folder %s is of another TPM, or of other keys of this one. To onboard this machine, run 'gangway-agent onboard --again --token-file FILE'", a.cfg.StateDir)
}

// request makes and stores the request.
func (a *Agent) request(id *deviceKeys) error {
	begin := time.Now()
	token := a.cfg.Token
	secret, err := token.Secret()
	if err != nil {
		return err
	}
	key, err := wire.OwnershipKey(secret, token.ID)
	if err != nil {
		return err
	}
	model, serial := machine(a.cfg.Model, a.cfg.Serial, id.EK.Raw)
	body, err := id.Request(identity.RequestInfo{
		Model: model, Serial: serial,
		CAData: func(idevidName []byte) ([]byte, error) {
			d := wire.CAData{
				HubName: token.HubName, Owner: token.Owner, TokenID: token.ID,
				EKPublic: id.EK.Raw, Chain: id.EKChain, Omission: id.Omission,
				Proof: ed25519.Sign(key, wire.OwnershipMessage(token.HubName, token.Owner, token.ID, idevidName)),
			}
			return d.Encode()
		},
	})
	if err != nil {
		return err
	}
	a.state = State{
		Phase: PhaseRequested, Hub: token.Hub, HubName: token.HubName, HubCA: token.HubCA, TokenID: token.ID, Owner: token.Owner,
		EK: id.EKTemplate, EKSHA256: ekHash(id.EK), Key: id.IDevID.Algorithm(), Algorithm: algorithmOf(id.IDevID),
		RoundTrips: a.state.RoundTrips, Returned: a.state.Returned, Former: a.state.Former, Addresses: a.state.Addresses,
	}
	if err := a.dir.save(requestFile, body, a.state); err != nil {
		return err
	}
	a.sayTook("request", time.Since(begin), "Request signed by the identity key, which the attestation key certified.")
	return nil
}

func ekHash(ek *tcg.Public) string {
	key, err := ek.Key()
	if err != nil {
		return ""
	}
	hash, err := tcg.KeyHash(key)
	if err != nil {
		return ""
	}
	return hex.EncodeToString(hash[:])
}

// open decrypts the stored reply with the TPM and checks what is in it.
func (a *Agent) open(id *deviceKeys, requestHash [32]byte) (*certificates, wire.Keys, error) {
	raw, err := a.dir.load(replyFile)
	if err != nil {
		return nil, wire.Keys{}, err
	}
	reply, err := wire.ParseReply(raw)
	if err != nil {
		return nil, wire.Keys{}, err
	}
	begin := time.Now()
	secret, err := id.ActivateCredential(reply.CredentialBlob, reply.Secret)
	if err != nil {
		return nil, wire.Keys{}, fmt.Errorf("agent: the TPM does not open the hub's reply: %w", err)
	}
	keys, err := wire.DeriveKeys(secret, requestHash)
	if err != nil {
		return nil, wire.Keys{}, err
	}
	content, err := wire.Open(keys, reply.Sealed)
	if err != nil {
		return nil, wire.Keys{}, err
	}
	certs, err := parseCertificates(content, a.state.HubCA)
	if err != nil {
		return nil, wire.Keys{}, err
	}
	if err := certs.belongTo(id); err != nil {
		return nil, wire.Keys{}, err
	}
	a.sayTook("open", time.Since(begin), "The TPM opened the reply: AIK and IDevID certificates received.")
	return certs, keys, nil
}

// activate makes the first connection under the IDevID.
func (a *Agent) activate(ctx context.Context, hub *hub, id *deviceKeys, certs *certificates, keys wire.Keys, start time.Time) error {
	begin := time.Now()
	hub = hub.as(certs.chain(), id.idevid)
	defer hub.close()
	var device deviceView
	err := a.retry(ctx, hub.at, func() error {
		return hub.activate(ctx, keys, sha256.Sum256(certs.idevid.Raw), &device)
	})
	if err != nil {
		return err
	}
	a.state.Phase = PhaseActive
	a.state.DeviceID, a.state.Nick, a.state.OwnerNick = device.ID, device.Nick, device.OwnerNick
	a.state.TPM = device.TPM
	a.state.Waiting, a.state.Former = "", nil
	a.state.OnboardingMS = time.Since(start).Milliseconds()
	a.state.Onboarded = time.Now().UTC().Truncate(time.Second)
	if err := a.dir.activate(certs, a.state); err != nil {
		return err
	}
	a.sayTook("activate", time.Since(begin), "First connection under the IDevID: this device is %q (%s).", device.Nick, device.ID)
	return nil
}

// signer loads the identity key and checks that the stored certificate is of
// it: a state folder that was copied to another machine ends here.
func (a *Agent) signer(ctx context.Context, t tpm) (signer, error) {
	certs, err := a.dir.certificates(a.state.HubCA)
	if err != nil {
		return nil, err
	}
	var s signer
	err = a.waitOutLockout(ctx, t, func() (err error) {
		s, err = t.loadSigner(ctx, a.options(a.state.Algorithm))
		return err
	})
	if err != nil {
		return nil, err
	}
	if !samePublic(certs.idevid, s.Public()) {
		s.Close()
		return nil, a.otherTPM()
	}
	return s, nil
}

// algorithmOf names the algorithm by which identity makes the same key again.
func algorithmOf(key *tcg.Public) identity.Algorithm {
	switch {
	case key.Type == tcg.AlgRSA:
		return identity.RSA2048
	case key.Curve == tcg.CurveP384:
		return identity.P384
	case key.Curve == tcg.CurveP521:
		return identity.P521
	}
	return identity.P256
}

// certificates are what a reply holds.
type certificates struct {
	idevid, deviceCA, iak, aca *x509.Certificate
}

func parseCertificates(content []byte, hubCA string) (*certificates, error) {
	var all []*x509.Certificate
	for rest := content; len(rest) > 0; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("agent: the certificates cannot be read")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("agent: the certificates cannot be read: %w", err)
		}
		all = append(all, c)
	}
	if len(all) != 4 {
		return nil, fmt.Errorf("agent: the reply holds %d certificates, 4 were expected", len(all))
	}
	c := &certificates{all[0], all[1], all[2], all[3]}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(hubCA)) {
		return nil, errors.New("agent: no CA of the hub is known")
	}
	for _, v := range []struct {
		leaf, ca *x509.Certificate
		usage    x509.ExtKeyUsage
	}{{c.idevid, c.deviceCA, x509.ExtKeyUsageClientAuth}, {c.iak, c.aca, x509.ExtKeyUsageAny}} {
		pool := x509.NewCertPool()
		pool.AddCert(v.ca)
		// The certificates' own dates are not in question (they never end),
		// and the machine's clock may be.
		_, err := v.leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: pool, KeyUsages: []x509.ExtKeyUsage{v.usage}, CurrentTime: v.leaf.NotBefore.Add(time.Hour)})
		if err != nil {
			return nil, fmt.Errorf("agent: a certificate in the reply is not the hub's: %w", err)
		}
	}
	return c, nil
}

// belongTo checks that the certificates are for the TPM's own keys.
func (c *certificates) belongTo(id *deviceKeys) error {
	iak, err := id.IAK.Key()
	if err != nil {
		return err
	}
	if !samePublic(c.idevid, id.idevid.Public()) || !samePublic(c.iak, iak) {
		return errors.New("agent: a certificate in the reply is for another key than this TPM's")
	}
	return nil
}

func samePublic(c *x509.Certificate, key crypto.PublicKey) bool {
	k, ok := c.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(key)
}

// chain is what TLS sends: the leaf and its issuer.
func (c *certificates) chain() [][]byte { return [][]byte{c.idevid.Raw, c.deviceCA.Raw} }

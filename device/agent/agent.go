// Package agent runs on the device. It onboards the machine, keeps it connected to the hub, and
// reports the device's state.
//
// Onboarding has four phases. The agent writes each phase to the disk before the next phase begins,
// so nothing is lost even if the agent is killed at an arbitrary instruction:
//
//	new        nothing was sent
//	requested  the request is stored and may have been sent. The agent sends the
//	           same request again, and the hub gives the same answer
//	answered   the reply is stored, still sealed; only this TPM can open it
//	active     the certificates are stored, and the hub has activated the device
//
// The state folder never contains a secret. The agent does not copy the token file, but keeps only
// its public part: the hub's address and CA. The only secret that the agent writes to the disk is
// a short-lived secret for Pantavisor, in Pantavisor's own file.
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

// Config configures an Agent.
type Config struct {
	// Token is the token file. Until the device is active, Token or Hub is required.
	Token *wire.TokenFile
	// Hub is the hub of a machine without a join token. The machine shows a claim code until
	// somebody claims the machine at that hub. The agent ignores Hub if Token is set.
	Hub *wire.HubFile
	// TPM is the address of the TPM, see identity.Open.
	TPM string
	// Proxy is the HTTP proxy for connections to the hub. Nil means a direct connection.
	Proxy *HTTPProxy
	// StateDir is the state folder. It is created if missing.
	StateDir string
	// Again makes the machine onboard again in any state, even if the owner deleted the device. Set
	// Again only when a person at the machine has requested it. Again requires Token or Hub.
	Again bool
	// Model and Serial describe the machine. If one of them is empty, the agent reads it from the
	// firmware's tables.
	Model, Serial string
	// EndorsementAuth is the password of the TPM's endorsement hierarchy; empty
	// if it has none.
	EndorsementAuth []byte
	// If WithoutEKCertificate is set and no EK certificate in the TPM matches the EK, the agent
	// sends its request without an EK certificate. This is for a TPM whose endorsement seed was
	// changed, so that no stored certificate matches.
	WithoutEKCertificate bool
	// EK selects the endorsement key's template ("L-1", "H-3"). Key is the algorithm of the IAK and
	// the IDevID key (identity.Algorithm). An empty value means the best template or algorithm that
	// the TPM has.
	EK, Key string
	// ReportEvery is the interval of Run's reports. Default: one minute.
	ReportEvery time.Duration
	// Poll is the interval at which Run asks for user-meta and new revisions.
	// Default: 30 seconds.
	Poll time.Duration
	// Trail configures how the device follows its trail, which is its list of revisions at the hub.
	// If Trail has neither a Hook nor a First, the device does not follow its trail. The agent sets
	// Trail's Dir, Device, Say and Line. If Trail's Poll is 0, the agent sets Poll too.
	Trail revision.Config
	// ReportFiles maps keys of the device-meta to paths of files. The agent reports the text of
	// each file under the file's key. A key that the agent itself reports keeps the agent's value.
	ReportFiles map[string]string
	// UserMetaHook is called as PROGRAM user-meta FILE when the owner changes
	// the user-meta. Empty: the agent only writes the file.
	UserMetaHook string
	// SendLog makes the agent send its own log lines to the hub. The agent also sends lines from
	// LogFiles (files that grow), LogSocket (a Unix datagram socket) and LogReader.
	SendLog   bool
	LogFiles  []string
	LogSocket string
	LogReader io.Reader
	// SetClock, if set, sets the system clock. The agent calls SetClock if the clock is clearly
	// wrong or behind the hub's clock.
	SetClock func(time.Time) error
	// NTP names time servers. If SetClock is set, the agent asks these servers for the time, and
	// sets the clock from their answers.
	NTP []string
	// EventLog is the file with the firmware's event log. Default: eventlog.Path.
	EventLog string
	// InstallReport is the file with the report of the installer that installed this system
	// (wire.InstallReport). The agent sends the report with each boot measurement. If InstallReport
	// is empty, there is no report.
	InstallReport string
	// Progress, if set, is called after each step of the agent.
	Progress func(Progress)
	// Log may be nil.
	Log *slog.Logger
	// Version is the agent's version, which the agent reports to the hub.
	Version string

	open  func(address string) (tpm, error) // nil: openTPM
	pause time.Duration                     // pause before the first retry; 0: firstWait
}

func (c *Config) openTPM() (tpm, error) {
	if c.open != nil {
		return c.open(c.TPM)
	}
	return openTPM(c.TPM)
}

// Progress describes a step that the agent has done.
type Progress struct {
	Name   string        // stable, one word, such as "keys", "request", "activate" or "waiting"
	Detail string        // one sentence for a person
	Took   time.Duration // 0 if not measured
}

// Agent onboards a device and keeps it connected. Its methods are not safe for
// concurrent use.
type Agent struct {
	cfg     Config
	dir     *folder
	logs    logs.Log
	started time.Time

	mu    sync.Mutex // guards the fields below: Run uses them from several goroutines
	state State

	said        map[string]string // the last sentence of sayOnce for each subject
	logTooLarge bool              // the hub, or a proxy before it, refused the event log as too large

	time  *timeKeeper // nil: no time servers are configured
	timed sync.Once   // makes the agent ask the time servers once, before its first request to the hub
}

// New opens and locks the state folder. Close unlocks it.
func New(cfg Config) (*Agent, error) {
	if cfg.StateDir == "" || cfg.TPM == "" {
		return nil, errors.New("agent: the configuration lacks the state folder or the TPM's address")
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

// The method `hub` makes a connection to a hub whose verified answers may set the clock.
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
			a.say("clock", "The machine's clock shows %s, but the hub's clock shows %s. Setting the machine's clock failed: %v.", was.UTC().Format(time.DateTime), is.UTC().Format(time.DateTime), err)
			return
		}
		a.say("clock", "The machine's clock was set from %s to %s, according to the hub's clock.", was.UTC().Format(time.DateTime), is.UTC().Format(time.DateTime))
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

// sayOnce reports a sentence to the log and to Config.Progress. If the sentence equals the last
// sentence about the subject `about`, sayOnce does not report it again. If the sentence is empty,
// sayOnce reports nothing and forgets the last sentence about the subject.
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

// log queues a line for the hub.
func (a *Agent) log(source, line string) {
	if a.cfg.SendLog {
		a.logs.Add("INFO", source, line)
	}
}

// Refused is the error for a request that the hub refused.
type Refused struct {
	Status int    `json:"code"`
	Code   string `json:"error"`
	Reason string `json:"msg"`
	Hint   string `json:"hint"`
	// Certificate is the state of the connection's certificate, if Code is
	// "certificate-not-active": "pending", "superseded", "revoked", "expired" or
	// "unknown".
	Certificate string `json:"certificate"`

	retryAfter time.Duration // how long the agent must not send the request again; 0: the hub has set no time
}

func (r *Refused) Error() string {
	s := fmt.Sprintf("the hub refused: %s (%s)", r.Reason, r.Code)
	if r.Hint != "" {
		s += " " + r.Hint
	}
	return s
}

// HTTPStatus returns the HTTP status of the hub's answer.
func (r *Refused) HTTPStatus() int { return r.Status }

// Temporary reports whether the hub may answer the same request differently later.
func (r *Refused) Temporary() bool {
	if strings.HasPrefix(r.Code, "boot-") || r.Code == "tpm-cloned" {
		return true // the owner may accept the boot or undo a decision; the next measurement may match
	}
	return r.Status >= 500 || r.Status == http.StatusTooManyRequests || r.Status == http.StatusRequestTimeout
}

// needsNewRequest reports whether the refusal is only about the stored request or reply, so that a
// new request may succeed.
func (r *Refused) needsNewRequest() bool {
	switch r.Code {
	case "enrolment-expired", "enrolment-superseded", "certificate-unknown", "activation-proof":
		return true
	}
	return false
}

// maxNewRequests is the maximum number of new requests that one call of Onboard makes.
const maxNewRequests = 3

// Onboard onboards the device. It returns when the device is active, or returns a *Refused when the
// hub refuses permanently. While the hub cannot be reached, Onboard logs the failure and retries.
//
// If the device is already active, Onboard checks that the device's certificate is for a key of
// this TPM, and asks the hub whether it still accepts the device. If the hub does not accept the
// device, Onboard onboards it again or, if checkReturn forbids that, returns a *Removed.
func (a *Agent) Onboard(ctx context.Context) (*State, error) {
	if err := a.onboard(ctx); err != nil {
		return nil, a.failed(ctx, err)
	}
	return &a.state, nil
}

// The method `failed` stores err in the state, where 'gangway-agent status' shows it, and returns
// err. If ctx has ended, failed stores nothing, because the agent was only stopped.
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
	if a.state.Former != nil && a.cfg.Token == nil && a.cfg.Hub == nil { // an earlier run was stopped while it onboarded the device again
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
		return errors.New("agent: onboarding needs a join token file: name it with --token-file")
	}
	if a.state.Phase == PhaseActive || a.state.Phase == PhaseRemoved || a.cfg.Again {
		if err := a.startOver(); err != nil {
			return err
		}
	}
	err = a.enrol(ctx, t, start)
	if err == nil || ctx.Err() != nil { // if ctx has ended, the next start continues from the stored phase
		return err
	}
	return errors.Join(err, a.restoreFormer())
}

// enrol continues the onboarding from any phase until the device is active.
func (a *Agent) enrol(ctx context.Context, t tpm, start time.Time) (err error) {
	if err := a.preferAddress(a.cfg.file()); err != nil {
		return err
	}
	claimed := a.cfg.Token == nil
	if claimed {
		if a.cfg.Token, err = a.claimedToken(ctx); err != nil {
			return err
		}
		defer func() { a.cfg.Token = nil }() // a claim's join token is valid for one onboarding only
	}
	if err := a.dropOtherHub(); err != nil {
		return err
	}
	id, err := a.load(ctx, t)
	if err != nil {
		return err
	}
	defer id.Close()
	for requests := 0; ; requests++ {
		err := a.advance(ctx, id, start)
		var refused *Refused
		why := removal(err)
		switch {
		case err == nil || requests == maxNewRequests:
			return err
		case errors.Is(err, errStale):
			a.say("anew", "The stored request does not have the TPM's current EK certificate. Starting again.")
		case !errors.As(err, &refused):
			return err
		case why != "": // the device was removed after the request was made
			if removed := a.checkReturn(why, refused, claimed && a.state.Former == nil); removed != nil {
				return removed
			}
			a.say("anew", "%s Starting again.", removedWords(why))
		case refused.needsNewRequest():
			a.say("anew", "The hub no longer accepts the stored request (%s). Starting again.", refused.Code)
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

// dropOtherHub discards an onboarding that was begun with another hub or another token.
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

// The method `options` returns the options for making keys with this algorithm.
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
	found := "found, with its certificate"
	switch {
	case id.EKCertificate == nil && id.Omission.Why != 0:
		found = "found, but the agent leaves out its certificate"
	case id.EKCertificate == nil:
		found = "found, but the TPM has no certificate for it"
	case !id.EK.Is(id.EKCertificate.PublicKey):
		found = "found, but the TPM's certificate is for another key, so the hub will refuse it"
	}
	a.sayTook("keys", time.Since(begin), "Endorsement key %s %s. The TPM made the attestation and identity keys (%s).", id.EKTemplate, found, id.IDevID.Algorithm())
	if id.Omission.Why != 0 {
		a.say("note", "%s The hub shows this reason to the owner.", id.Omission)
	}
	for _, note := range id.Notes {
		a.say("note", "%s", note)
	}
	return id, nil
}

// advance continues the onboarding from its stored phase until the device is active.
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
		a.sayTook("reply", time.Since(begin), "The hub answered with certificates that only this TPM can open.")
	}
	certs, keys, err := a.open(id, requestHash)
	if err != nil {
		return err
	}
	return a.activate(ctx, hub, id, certs, keys, start)
}

// ownRequest checks that the stored request is for this TPM's keys. It returns an error if the
// state folder was copied from another machine during onboarding.
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

// errStale means that a new request would have a different EK certificate from the stored request,
// because the TPM or an option has changed.
var errStale = errors.New("agent: the EK certificate in the stored request differs from the EK certificate in the TPM")

func (a *Agent) otherTPM() error {
	return fmt.Errorf("agent: the state folder %s belongs to another TPM, or to other keys of this TPM. To onboard this machine, run 'gangway-agent onboard --again --token-file FILE'", a.cfg.StateDir)
}

// The method `request` makes and stores the request.
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
	a.sayTook("request", time.Since(begin), "The request is ready: the attestation key certified the identity key.")
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

// open decrypts the stored reply with the TPM and checks the certificates in the reply.
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
		return nil, wire.Keys{}, fmt.Errorf("agent: opening the hub's reply with the TPM: %w", err)
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
	a.sayTook("open", time.Since(begin), "The TPM opened the reply; it has the AIK and IDevID certificates.")
	return certs, keys, nil
}

// activate makes the first connection with the IDevID certificate, which activates the enrolment.
func (a *Agent) activate(ctx context.Context, hub *hub, id *deviceKeys, certs *certificates, keys wire.Keys, start time.Time) error {
	begin := time.Now()
	hub = hub.as(certs.idevid, id.idevid)
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
	a.sayTook("activate", time.Since(begin), "The first connection with the IDevID certificate succeeded: this device is %q (%s).", device.Nick, device.ID)
	return nil
}

// The method `signer` loads the IDevID key and checks that the stored certificate is for that key.
// The check fails if the state folder was copied from another machine.
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

// algorithmOf returns the algorithm of a key, with which package identity makes the same key again.
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

// certificates are the certificates in the hub's reply to an enrolment request.
type certificates struct {
	idevid, deviceCA, iak, aca *x509.Certificate
}

func parseCertificates(content []byte, hubCA string) (*certificates, error) {
	var all []*x509.Certificate
	for rest := content; len(rest) > 0; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("agent: reading the certificates: not PEM certificates")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("agent: reading the certificates: %w", err)
		}
		all = append(all, c)
	}
	if len(all) != 4 {
		return nil, fmt.Errorf("agent: the hub's reply has %d certificates instead of 4; update the agent or the hub", len(all))
	}
	c := &certificates{all[0], all[1], all[2], all[3]}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(hubCA)) {
		return nil, errors.New("agent: the agent's state has no CA of the hub; name a token file with --token-file")
	}
	for _, v := range []struct {
		leaf, ca *x509.Certificate
		usage    x509.ExtKeyUsage
	}{{c.idevid, c.deviceCA, x509.ExtKeyUsageClientAuth}, {c.iak, c.aca, x509.ExtKeyUsageAny}} {
		pool := x509.NewCertPool()
		pool.AddCert(v.ca)
		// Do not check the dates: the certificates never expire, and the machine's clock may be
		// wrong.
		_, err := v.leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: pool, KeyUsages: []x509.ExtKeyUsage{v.usage}, CurrentTime: v.leaf.NotBefore.Add(time.Hour)})
		if err != nil {
			return nil, fmt.Errorf("agent: a certificate in the reply was not issued by the hub's CA: %w", err)
		}
	}
	return c, nil
}

// belongTo checks that the certificates in the reply are for this TPM's keys.
func (c *certificates) belongTo(id *deviceKeys) error {
	iak, err := id.IAK.Key()
	if err != nil {
		return err
	}
	if !samePublic(c.idevid, id.idevid.Public()) || !samePublic(c.iak, iak) {
		return errors.New("agent: a certificate in the hub's reply is for a key that this TPM does not have")
	}
	return nil
}

func samePublic(c *x509.Certificate, key crypto.PublicKey) bool {
	k, ok := c.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(key)
}

// The method `chain` returns the certificate chain for other programs, in DER: the IDevID
// certificate and the certificate of its issuer.
func (c *certificates) chain() [][]byte { return [][]byte{c.idevid.Raw, c.deviceCA.Raw} }

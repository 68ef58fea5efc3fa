package api

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"gangway/hub/bearer"
	"gangway/hub/store"
	"gangway/wire"
)

// access is the credential that a route requires of its callers.
type access int

const (
	// anyone is for routes that need no credential. It is also for routes with the credential in
	// the body or the path: a password, evidence of a TPM, or a claim code.
	anyone access = iota
	// visitor is like the access `anyone`, but the method `identify` looks up the account of a
	// signed-in request, so that the page can show the account.
	visitor
	// fullVisitor is like visitor, but the method `identify` refuses a token that does not have all
	// scopes.
	fullVisitor
	// registrant is like the access `anyone`, but a request with an Authorization header must be
	// from a scopedAccount, unless the request also has a join token: then the header is ignored.
	registrant
	// urlHolder is anyone who has a URL that the hub signed: see signedURL.
	urlHolder

	// scopedAccount is an account's valid token whose scopes allow the route. It is either a bearer
	// token or in a browser's cookie.
	scopedAccount
	// anySignIn is an account's valid token with any scopes.
	anySignIn
	// anySession is a person's session with any scopes. The hub refuses API tokens.
	anySession
	// fullSession is a person's session with all scopes. It protects the routes that no program may
	// call: those that make API tokens, change the password, end sessions, or delete the account.
	fullSession

	// operator is a fullSession of an account with the role operator. The role gives access only to
	// the operator's own routes; no route for owners depends on the role.
	operator

	// accountOrDevice is a scopedAccount or an activeDevice. The activeDevice acts for its owner's
	// account.
	accountOrDevice

	// activeDevice is an active device. The hub identifies the device by the certificate of the
	// connection, or by an access token that the device got with its certificate or secret. If the
	// owner's policy requires a measured boot, the device's boot must satisfy the policy: see
	// checkBoot.
	activeDevice
	// tlsDevice is an activeDevice that the hub identifies by the certificate of this connection,
	// or of the device's connection to the hub's proxy. Only the device's TPM can make such a
	// connection.
	tlsDevice
	// unmeasuredDevice is like tlsDevice, but the device's boot need not satisfy the policy. A
	// device calls these routes before the hub has measured its boot.
	unmeasuredDevice
	// pendingDevice is a device with a certificate that the device CA issued and that need not be
	// active. The TLS connection must end at the hub itself, not at a proxy. The handler checks the
	// activation proof in the body.
	pendingDevice
)

// caller is the person, program or device that sent a request.
type caller struct {
	Owner   string         // Account.ID; empty for a device without an owner
	Account *store.Account // nil: a device, or a caller that is not signed in
	Device  *store.Device  // nil: a person or program
	signIn  *signIn        // the sign-in of Account
	url     *signedURL     // for urlHolder
}

func accountCaller(in *signIn) caller {
	return caller{Owner: in.account.ID, Account: &in.account, signIn: in}
}

func deviceCaller(d store.Device) caller { return caller{Owner: d.Owner, Device: &d} }

// prn returns the caller's Pantacor resource name.
func (c caller) prn() string {
	if c.Device != nil {
		return wire.DevicePRN + c.Device.ID
	}
	return wire.AccountPRN + c.Owner
}

// isDevice reports whether the caller is the device with this id.
func (c caller) isDevice(id string) bool { return c.Device != nil && c.Device.ID == id }

// facts are what the hub finds out about a request before the request's handler runs. A request's
// context has a pointer to them, because each change of the context would copy the whole request.
type facts struct {
	origin origin
	caller *caller        // set when the method `identify` has found the caller
	device *bearer.Claims // claims of the request's access token: see Server.deviceClaims
}

type factsKey struct{}

// factsIn returns the facts about a request, or nil if the context does not belong to a request.
func factsIn(ctx context.Context) *facts {
	f, _ := ctx.Value(factsKey{}).(*facts)
	return f
}

// callerOf returns the caller that the method `identify` found.
func callerOf(r *http.Request) caller { return *factsIn(r.Context()).caller }

// accountOf returns the signed-in account. It panics if the caller is not signed in, so the route's
// access must require an account.
func accountOf(r *http.Request) store.Account { return *callerOf(r).Account }

// signInOf returns the caller's sign-in, or nil if the caller is not signed in.
func signInOf(r *http.Request) *signIn { return callerOf(r).signIn }

// deviceOf returns the calling device without its metadata: see store.Devices.BareDevice. It panics
// if the caller is not a device, so the route's access must require a device.
func deviceOf(r *http.Request) store.Device { return *callerOf(r).Device }

var (
	errNotSignedIn   = problem(http.StatusUnauthorized, "not-signed-in", "Sign in with 'gangway login', or on the hub's page.", "You are not signed in, or your session has ended.")
	errScope         = problem(http.StatusForbidden, "insufficient-scope", "Sign in without 'scope', or use a token with a scope that allows the request.", "The token's scopes do not allow this request.")
	errAPIToken      = problem(http.StatusForbidden, "api-token", "Sign in with your password.", "This request is not allowed with an API token.")
	errNotOperator   = problem(http.StatusForbidden, "not-operator", "To give an account the role, run 'gangway account operator NICK --data DIR' on the hub's machine.", "This page is only for accounts with the role operator.")
	errNoCertificate = problem(http.StatusUnauthorized, "no-certificate", "Connect with the device's IDevID certificate.", "This route is for devices, and the connection has no client certificate.")
	errNotActive     = problem(http.StatusForbidden, "certificate-not-active", "Activate the certificate first; if it was revoked or replaced, onboard again.", "The connection's certificate does not belong to an active device.")
)

// identify finds a request's caller. It returns a Problem if the route's access, `who`, does not
// admit the caller.
func (s *Server) identify(r *http.Request, who access) (caller, error) {
	switch who {
	case anyone:
		return caller{}, nil
	case visitor, fullVisitor:
		in, err := s.authenticateAccount(r)
		if errors.Is(err, error(errNotSignedIn)) {
			return caller{}, nil
		}
		if err == nil && who == fullVisitor && !in.claims.Allows(r.Method, "") {
			err = errScope
		}
		if err != nil {
			return caller{}, err
		}
		return accountCaller(in), nil
	case registrant:
		if r.Header.Get(autoTokenHeader) != "" || r.Header.Get("Authorization") == "" {
			return caller{}, nil
		}
		return s.identifyAccount(r, scopedAccount)
	case urlHolder:
		u, err := s.readSignedURL(r)
		return caller{url: u}, err
	case scopedAccount, anySignIn, anySession, fullSession, operator:
		return s.identifyAccount(r, who)
	case accountOrDevice:
		if !onPages(r) && s.isDeviceRequest(r) {
			return s.identifyDevice(r, activeDevice)
		}
		return s.identifyAccount(r, scopedAccount)
	case activeDevice, tlsDevice, unmeasuredDevice:
		return s.identifyDevice(r, who)
	case pendingDevice:
		if originOf(r).proxied {
			return caller{}, errActivationProxied
		}
		if _, ok := clientCertificate(r); !ok {
			return caller{}, errNoCertificate
		}
		return caller{}, nil
	}
	panic("hub: unknown access")
}

func (s *Server) identifyAccount(r *http.Request, who access) (caller, error) {
	in, err := s.authenticateAccount(r)
	if err != nil {
		return caller{}, err
	}
	switch isProgram := in.apiToken != nil; {
	case isProgram && (who == anySession || who == fullSession || who == operator):
		return caller{}, errAPIToken
	case (who == fullSession || who == operator) && !in.claims.Allows(r.Method, ""),
		who == scopedAccount && !in.claims.Allows(r.Method, resourceOf(r.URL.Path)):
		return caller{}, errScope
	case who == operator && !in.account.Operator:
		return caller{}, errNotOperator
	}
	return accountCaller(in), nil
}

func (s *Server) identifyDevice(r *http.Request, who access) (caller, error) {
	if _, ok := clientCertificate(r); !ok && who != activeDevice {
		return caller{}, errNoCertificate
	}
	d, err := s.authenticateDevice(r)
	if err == nil && who != unmeasuredDevice {
		err = s.checkBoot(r, d)
	}
	if err != nil {
		return caller{}, err
	}
	return deviceCaller(d), nil
}

// isDeviceRequest reports whether a request to a route for accountOrDevice counts as a device's
// request. A request with a person's session counts as that person's request, even if the request's
// connection has a device's certificate.
func (s *Server) isDeviceRequest(r *http.Request) bool {
	_, certified := clientCertificate(r)
	_, noCookie := r.Cookie(cookieName)
	return certified && r.Header.Get("Authorization") == "" && noCookie != nil || s.deviceClaims(r) != nil
}

// deviceClaims returns the claims of a request's access token, or nil if the request has no valid
// access token of a device. A request's token is verified once, because deviceClaims first decides
// whose request it is, and then which device's.
func (s *Server) deviceClaims(r *http.Request) *bearer.Claims {
	f := factsIn(r.Context())
	if f.device != nil {
		return f.device
	}
	token, ok := bearerToken(r)
	if !ok {
		return nil
	}
	claims, err := s.tokens.Verify(token, s.cfg.Now())
	if err != nil || claims.Type != bearer.Device {
		return nil
	}
	f.device = &claims
	return f.device
}

// resourceOf returns the name that scopes use for the resource at a path, such as "devices" in the
// scope "devices.readonly". The name is empty if the token must have all scopes.
func resourceOf(path string) string {
	first, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch {
	case first == "devices" && (rest == "tokens" || strings.HasPrefix(rest, "tokens/")):
		return "" // a join token can add devices to the account
	case first == "devices", first == "objects", first == "trails":
		return first
	case first == "logs", first == "aca", first == "fleet", first == "boots":
		return "devices"
	case first == "profiles":
		return "profile"
	case first == "auth":
		return "user"
	}
	return ""
}

var (
	errUnmeasured  = problem(http.StatusForbidden, "boot-unmeasured", "Send a measurement first, on the same connection: GET /device/boot, then POST /device/boot. The agent does this by itself.", "The owner's policy requires a boot measurement, and this connection has none.")
	errBootNothing = problem(http.StatusForbidden, "boot-nothing-measured", "Switch on the TPM's SHA-256 bank and UEFI boot in the machine's firmware, or set 'measured_boot: report' in the policy.", "The owner's policy requires a measured boot, and the firmware measured nothing into the TPM.")
	errBootRefused = problem(http.StatusForbidden, "boot-refused", "The device's owner can display the reason with 'gangway device boot'. The agent sends another measurement by itself.", "The owner's policy requires a measured boot, and the device's last measurement was refused.")
	errBootChanged = problem(http.StatusForbidden, "boot-changed", "The device's owner can display the changes with 'gangway device boot', and accept them.", "The owner's policy requires that every part of the boot is expected or known, and a part of this boot has changed.")
)

// checkBoot refuses a device if the device's boot does not satisfy the owner's policy. The policy
// may require a matching boot, or that parts of the boot have certain states. The device must have
// sent the measurement on this connection, because it may have restarted since a measurement on an
// earlier connection. In two cases, checkBoot uses the device's last measurement on any connection:
// if the request has a token and no client certificate, or if it came through a proxy.
func (s *Server) checkBoot(r *http.Request, d store.Device) error {
	rules, err := s.cfg.Onboard.PolicyAt(r.Context(), d.ConfigVersion, d.Owner)
	if err != nil || !rules.RequireBoot && len(rules.BootParts) == 0 {
		return err
	}
	state, err := s.cfg.Store.BootState(r.Context(), d.ID)
	if err != nil {
		return err
	}
	switch state {
	case store.BootMatches:
	case store.BootChanged:
		if rules.RequireBoot {
			return errBootChanged
		}
	case store.BootNothing:
		return errBootNothing
	case store.BootRefused:
		return errBootRefused
	default:
		return errUnmeasured
	}
	if err := s.checkParts(r, d, rules.BootParts); err != nil {
		return err
	}
	if c, own := connectionOfDevice(r); own && (c == nil || rules.RequireBoot && !c.matched.Load()) {
		return errUnmeasured
	}
	return nil
}

// checkParts refuses a device if a part of its boot does not have the state that the policy
// requires.
func (s *Server) checkParts(r *http.Request, d store.Device, required map[string]string) error {
	if len(required) == 0 {
		return nil
	}
	states, err := s.statesOfDevice(r.Context(), d.ID)
	if err != nil {
		return err
	}
	if states == nil {
		return errUnmeasured
	}
	if part, want, some := unmet(states, required); some {
		return problem(http.StatusForbidden, "boot-changed", errBootChanged.Hint, "The owner's policy requires that the part %q of the boot is %s, but it is %s.", part, want, cmp.Or(states[part], "not judged"))
	}
	if c, own := connectionOfDevice(r); own {
		if c == nil || c.states.Load() == nil {
			return errUnmeasured
		}
		if _, _, some := unmet(*c.states.Load(), required); some {
			return errUnmeasured
		}
	}
	return nil
}

// connectionOfDevice returns the state of the connection if a device made the connection with its
// own certificate; `own` is then true. In two cases, c is nil and `own` is false: if the request
// has a token and no client certificate, or if the request came through a proxy.
func connectionOfDevice(r *http.Request) (c *connState, own bool) {
	if _, ok := clientCertificate(r); !ok || originOf(r).proxied {
		return nil, false
	}
	c, _ = r.Context().Value(connKey{}).(*connState)
	return c, true
}

// The functions below decide which devices, trails and objects a caller may use. For a device that
// the caller may not use, the answer is byte for byte the same as for a device that does not exist.

// ownDevice finds a device of the calling account by its id or nick.
func (s *Server) ownDevice(r *http.Request) (store.Device, error) {
	return s.ownDeviceNamed(r, r.PathValue("id"))
}

func (s *Server) ownDeviceNamed(r *http.Request, name string) (store.Device, error) {
	return s.deviceOfAccount(r.Context(), accountOf(r).ID, name)
}

// deviceOfAccount finds an account's device by its id or nick.
func (s *Server) deviceOfAccount(ctx context.Context, account, name string) (store.Device, error) {
	if !wire.IsID(name) {
		return s.cfg.Store.DeviceByNick(ctx, account, name)
	}
	d, err := s.cfg.Store.Device(ctx, name)
	if err == nil && (d.Owner != account || account == "") {
		err = store.ErrNotFound
	}
	return d, err
}

// ownDeviceOrSelf finds the device in the path: the calling device itself, or a device of the
// calling account, by id or nick.
func (s *Server) ownDeviceOrSelf(r *http.Request) (store.Device, error) {
	c := callerOf(r)
	if c.Device != nil {
		if !c.isDevice(r.PathValue("id")) {
			return store.Device{}, store.ErrNotFound
		}
		return s.cfg.Store.Device(r.Context(), c.Device.ID)
	}
	return s.ownDevice(r)
}

// visibleDevice finds the device that the path names, either by its id or by its nick among the
// devices of the account `of`. The device must be public or the caller's own; `own` reports which.
func (s *Server) visibleDevice(r *http.Request, of store.Account) (d store.Device, own bool, err error) {
	ctx, name, self := r.Context(), r.PathValue("id"), callerOf(r).Account
	d, err = s.deviceOfAccount(ctx, of.ID, name)
	if errors.Is(err, store.ErrNotFound) && wire.IsID(name) {
		// An id finds a device of any owner.
		if d, err = s.cfg.Store.Device(ctx, name); err == nil && d.Public {
			_, err = enabled(s.cfg.Store.Account(ctx, d.Owner))
		} else if err == nil {
			err = store.ErrNotFound
		}
	}
	own = self != nil && d.Owner == self.ID
	if err == nil && !own && !d.Public {
		err = store.ErrNotFound
	}
	return d, own, err
}

// accountInQuery finds the account that a query is about. It is the account that the query names
// or, if the query names no account, the calling account.
func (s *Server) accountInQuery(r *http.Request) (store.Account, error) {
	q, self := r.URL.Query(), accountOf(r)
	if id := strings.TrimPrefix(q.Get("owner"), wire.AccountPRN); id != "" && id != self.ID {
		return enabled(s.cfg.Store.Account(r.Context(), id))
	}
	if nick := q.Get("owner-nick"); nick != "" && !strings.EqualFold(nick, self.Nick) {
		return s.accountByNick(r.Context(), nick)
	}
	return self, nil
}

// accountByNick finds an account by its nick. It does not accept an e-mail address, so that nobody
// can test which addresses have accounts.
func (s *Server) accountByNick(ctx context.Context, nick string) (store.Account, error) {
	a, err := s.cfg.Store.AccountByNickOrEmail(ctx, nick)
	if err == nil && !strings.EqualFold(a.Nick, nick) {
		err = store.ErrNotFound
	}
	return enabled(a, err)
}

// enabled checks the result of a look-up of an account. It returns err if the look-up failed, and
// store.ErrNotFound if the account is disabled.
func enabled(a store.Account, err error) (store.Account, error) {
	if err == nil && a.Disabled {
		return store.Account{}, store.ErrNotFound
	}
	return a, err
}

// trailDevice finds the device whose trail the path names: the calling device itself, or a device
// of the calling account.
func (s *Server) trailDevice(r *http.Request) (store.Device, error) {
	c, id := callerOf(r), r.PathValue("id")
	if c.Device != nil {
		if c.Device.ID != id {
			return store.Device{}, store.ErrNotFound
		}
		s.markSeen(r, id)
		return *c.Device, requireOwner(*c.Device)
	}
	d, err := s.cfg.Store.Device(r.Context(), id)
	if err == nil && d.Owner != c.Owner {
		err = store.ErrNotFound
	}
	if err != nil {
		return store.Device{}, err
	}
	return d, nil
}

// readableTrailDevice is like trailDevice, but for a request that only reads. Every signed-in
// person may read the trail of a public device.
func (s *Server) readableTrailDevice(r *http.Request) (store.Device, error) {
	d, err := s.trailDevice(r)
	if callerOf(r).Device != nil || !errors.Is(err, store.ErrNotFound) {
		return d, err
	}
	d, err = s.cfg.Store.Device(r.Context(), r.PathValue("id"))
	if err == nil {
		err = s.checkPublic(r.Context(), d)
	}
	return d, err
}

// checkPublic returns store.ErrNotFound for a device that other accounts may not read: the device
// is not public, or its owner's account is disabled.
func (s *Server) checkPublic(ctx context.Context, d store.Device) error {
	if !d.Public {
		return store.ErrNotFound
	}
	_, err := enabled(s.cfg.Store.Account(ctx, d.Owner))
	return err
}

// requireOwner refuses a device without an owner, because the hub stores states, objects, log lines
// and metadata for an owner only. The status is 403, because devices retry after a 403.
func requireOwner(d store.Device) error {
	if d.Owner == "" {
		return problem(http.StatusForbidden, "unclaimed", "Claim the device with the challenge that it displays.", "The device has no owner yet.")
	}
	return nil
}

// ownIAKName returns the name of a device's IAK, if the caller is that device or its owner. For any
// other caller it returns errNoAIK.
func (s *Server) ownIAKName(r *http.Request, id string) ([]byte, error) {
	c, err := s.identify(r, accountOrDevice)
	var d store.Device
	if err == nil {
		d, err = s.cfg.Store.Device(r.Context(), id)
	}
	if err == nil && !c.isDevice(id) && (c.Account == nil || d.Owner != c.Owner) {
		err = store.ErrNotFound
	}
	var e store.Enrolment
	if err == nil {
		e, err = s.cfg.Store.Enrolment(r.Context(), d.Enrolment)
	}
	if slices.Contains([]error{errNotSignedIn, errNoCertificate, errNotActive, errScope, store.ErrNotFound}, err) {
		err = errNoAIK
	}
	return e.IAKName, err
}

// checkCredential reports whether the credential for which the hub signed a URL is valid now. A
// session or an API token must not have ended, and its account must be enabled. A device must have
// the same certificate as when the hub signed the URL, and the hub must not refuse the device as
// cloned. If the credential is for a public device, the device must be public now.
func (s *Server) checkCredential(ctx context.Context, c credential) (valid bool, err error) {
	valid = true
	switch c.kind() {
	case deviceCredential:
		var d store.Device
		d, err = s.cfg.Store.Device(ctx, c.device())
		valid = c.hasCertificate(d.IDevIDHash) && d.Clone != store.CloneRefused
	case publicCredential:
		var d store.Device
		if d, err = s.cfg.Store.Device(ctx, c.device()); err == nil {
			err = s.checkPublic(ctx, d)
		}
	case apiTokenCredential:
		var t store.APIToken
		if t, err = s.cfg.Store.APIToken(ctx, c.hash(), s.cfg.Now()); err == nil {
			_, err = s.enabledAccount(ctx, t.Account)
		}
	default:
		var in store.Session
		if in, err = s.cfg.Store.Session(ctx, c.hash(), s.cfg.Now()); err == nil {
			_, err = s.enabledAccount(ctx, in.AccountID)
		}
	}
	if errors.Is(err, store.ErrNotFound) || err == error(errNotSignedIn) {
		return false, nil
	}
	return valid, err
}

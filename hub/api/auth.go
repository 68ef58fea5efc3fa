package api

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"net/http"
	"strings"
	"time"

	"gangway/hub/bearer"
	"gangway/hub/store"
	"gangway/internal/strictjson"
	"gangway/wire"

	"github.com/go-jose/go-jose/v4/jwt"
)

const (
	// tokenFor is how long a token is good. Pantacor's client cannot renew
	// one by itself and asks for the password again, so it is a working day.
	tokenFor = 12 * time.Hour
	// sessionFor is how long a sign-in may be renewed.
	sessionFor = 7 * 24 * time.Hour
)

// cookieName holds a browser's session. The prefix makes browsers insist on
// Secure, on this host alone, and on path "/".
const cookieName = "__Host-gangway"

// maxBody bounds JSON bodies, in bytes.
const maxBody = 64 << 10

type ownerKey struct{}
type deviceKey struct{}

// signIn is who is signed in, and by what token.
type signIn struct {
	account  store.Account
	claims   bearer.Claims
	session  store.Session   // zero with an API token
	apiToken *store.APIToken // nil: a person's session
}

// owner returns the signed-in account; asOwner has put it there.
func owner(r *http.Request) store.Account { return r.Context().Value(ownerKey{}).(*signIn).account }

// signed returns the whole sign-in; asOwner has put it there.
func signed(r *http.Request) *signIn { return r.Context().Value(ownerKey{}).(*signIn) }

// peer returns the device; asDevice has put it there.
func peer(r *http.Request) store.Device { return r.Context().Value(deviceKey{}).(store.Device) }

// asOwner lets a request through that carries a valid token, as a bearer or in
// a browser's cookie, whose scopes allow the route.
func (s *Server) asOwner(h handler) handler {
	return s.asSignedIn(func(w http.ResponseWriter, r *http.Request) error {
		if claims := signed(r).claims; !claims.Allows(r.Method, resourceOf(r.URL.Path)) {
			return errScope
		}
		return h(w, r)
	})
}

// asPerson is asOwner for what only a person may do, in a session without
// narrower scopes: make API tokens, change the password, end sessions and the
// account. An API token may not, whatever its scopes.
func (s *Server) asPerson(h handler) handler {
	return s.asSignedIn(func(w http.ResponseWriter, r *http.Request) error {
		if in := signed(r); in.apiToken != nil {
			return errAPIToken
		} else if !in.claims.Allows(r.Method, "") {
			return errScope
		}
		return h(w, r)
	})
}

// asSignedIn is asOwner for what a token may do whatever its scopes: to itself
// and its session.
func (s *Server) asSignedIn(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		in, err := s.signedIn(r)
		if err != nil {
			return err
		}
		return h(w, r.WithContext(context.WithValue(r.Context(), ownerKey{}, in)))
	}
}

// resourceOf is what scopes call the resource at a path; empty where only the
// scope for all will do.
func resourceOf(path string) string {
	first, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch {
	case first == "devices" && (rest == "tokens" || strings.HasPrefix(rest, "tokens/")):
		return "" // who makes join tokens makes devices
	case first == "devices", first == "objects", first == "trails":
		return first
	case first == "logs", first == "aca":
		return "devices"
	case first == "profiles":
		return "profile"
	case first == "auth":
		return "user"
	}
	return ""
}

var (
	errNotSignedIn = problem(http.StatusUnauthorized, "not-signed-in", "Sign in with 'gangway login', or on the page.", "You are not signed in, or your sign-in has ended.")
	errScope       = problem(http.StatusForbidden, "insufficient-scope", "Sign in without 'scope', or with one that allows it.", "The token's scopes do not allow this.")
)

var errAPIToken = problem(http.StatusForbidden, "api-token", "Sign in with your password.", "An API token may not do this.")

// bearerToken returns the token of the Authorization header. The scheme's name
// is compared without regard to case (RFC 9110, 11.1).
func bearerToken(r *http.Request) (string, bool) {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.TrimLeft(token, " "), ok && strings.EqualFold(scheme, "Bearer")
}

// signedIn verifies the token and looks up what it rests on, a session or an
// API token, and its account: all must be there now. It puts who it is into the
// context's store.Actor.
func (s *Server) signedIn(r *http.Request) (*signIn, error) {
	token, ok := bearerToken(r)
	means := store.ByAPI
	if !ok {
		c, err := r.Cookie(cookieName)
		if err != nil {
			return nil, errNotSignedIn
		}
		token, means = c.Value, store.ByPage
	} else if strings.HasPrefix(token, apiTokenPrefix) {
		return s.byAPIToken(r, sha256.Sum256([]byte(token)))
	}
	now := s.cfg.Now()
	claims, err := s.tokens.Verify(token, now)
	if err != nil || claims.Type != bearer.User {
		return nil, errNotSignedIn
	}
	if hash, ok := tokenHash(claims.Session); ok {
		in, err := s.byAPIToken(r, hash)
		if err != nil {
			return nil, err
		}
		if in.account.ID != claims.ID {
			return nil, errNotSignedIn
		}
		in.claims = claims // which may be narrower
		return in, nil
	}
	session, err := s.cfg.Store.Session(r.Context(), sha256.Sum256([]byte(claims.Session)), now)
	if errors.Is(err, store.ErrNotFound) || err == nil && session.AccountID != claims.ID {
		return nil, errNotSignedIn
	}
	if err != nil {
		return nil, err
	}
	account, err := s.enabledAccount(r.Context(), session.AccountID)
	if err != nil {
		return nil, err
	}
	actsAs(r, account, means)
	return &signIn{account: account, claims: claims, session: session}, nil
}

// enabledAccount is errNotSignedIn for an account that is gone or disabled.
func (s *Server) enabledAccount(ctx context.Context, id string) (store.Account, error) {
	a, err := s.cfg.Store.Account(ctx, id)
	if errors.Is(err, store.ErrNotFound) || err == nil && a.Disabled {
		return store.Account{}, errNotSignedIn
	}
	return a, err
}

// actsAs says in the request's context which account it is of.
func actsAs(r *http.Request, a store.Account, means string) {
	*store.ActorIn(r.Context()) = store.Actor{ID: wire.AccountPRN + a.ID, Name: a.Nick, Means: means, Addr: remoteAddr(r)}
}

var (
	errNoCertificate = problem(http.StatusUnauthorized, "no-certificate", "Connect with the device's IDevID certificate.", "This is for devices, and the connection has no client certificate.")
	errNotActive     = problem(http.StatusForbidden, "certificate-not-active", "Activate it first; if it was revoked or replaced, onboard again.", "The certificate is not an active device's.")
)

// readJSON reads a body of at most maxBody bytes into v, by the one strict
// reader. Unknown fields are ignored, as Pantacor's clients send some; a name
// twice or in another case, null and trailing data are refused.
func readJSON(w http.ResponseWriter, r *http.Request, v any) error {
	return readJSONOf(w, r, maxBody, v)
}

// readJSONOf is readJSON for a body of at most limit bytes.
func readJSONOf(w http.ResponseWriter, r *http.Request, limit int64, v any) error {
	body, err := readBody(w, r, limit)
	if err != nil {
		return err
	}
	if err := strictjson.Decode(body, v); err != nil {
		return badBody(err)
	}
	return nil
}

func badBody(err error) error {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return err
	}
	return problem(http.StatusBadRequest, "body-malformed", "See /openapi.json for what is expected.", "The body cannot be read: %v.", err)
}

var errWrongPassword = problem(http.StatusUnauthorized, "wrong-password", "Check both and try again.", "The name or the password is wrong.")

var errDisabled = problem(http.StatusForbidden, "account-disabled", "Ask the hub's operator to enable it.", "The account is disabled.")

// signInAs makes a session and returns its token, good for tokenFor. scope is
// as bearer.ParseScopes reads it; means is store.ByPage or store.ByAPI.
func (s *Server) signInAs(r *http.Request, login, password, scope, means string) (token string, expires time.Time, err error) {
	ctx, addr := r.Context(), remoteAddr(r)
	scopes, err := bearer.ParseScopes(scope)
	if err != nil {
		return "", expires, problem(http.StatusBadRequest, "scope", "Leave it out for all.", "%s.", err)
	}
	account, err := s.cfg.Store.AccountByNickOrEmail(ctx, login)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return "", expires, err
	}
	now, from := s.cfg.Now(), network(addr)
	lane, allowed := s.accounts.allow(login, account.ID, from, now)
	if !allowed {
		return "", expires, errTooManyTries
	}
	ok, err := s.passwords.check(ctx, lane, password, account.PasswordHash)
	if err != nil {
		return "", expires, err
	}
	if ok && account.Disabled {
		s.unproven(ctx, store.Event{Time: now, Kind: "account.sign-in-refused", Code: errDisabled.Code, Owner: account.ID, Means: means, Addr: addr, Message: "A sign-in to the disabled account was refused."})
		return "", expires, errDisabled
	}
	if ok {
		id := rand.Text()
		session := store.Session{TokenHash: sha256.Sum256([]byte(id)), AccountID: account.ID, Created: now, Expires: now.Add(sessionFor), Addr: addr, Means: means}
		if token, expires, err = s.userToken(account, session, id, scopes, now); err != nil {
			return "", expires, err
		}
		err = s.cfg.Store.CreateSession(ctx, session, account.PasswordHash)
		if errors.Is(err, store.ErrChanged) || errors.Is(err, store.ErrNotFound) {
			ok = false // while the password was being checked
		} else if err != nil {
			return "", expires, err
		}
	}
	if !ok {
		s.unproven(ctx, store.Event{Time: now, Kind: "account.sign-in-refused", Code: errWrongPassword.Code, Owner: account.ID, Means: means, Addr: addr, Message: "Somebody tried to sign in with a wrong name or password."})
		return "", expires, errWrongPassword
	}
	s.accounts.signedIn(account.ID, from, now)
	actsAs(r, account, means)
	s.often(ctx, store.Event{Time: now, Kind: "account.signed-in", Owner: account.ID, Message: "Signed in."})
	return token, expires, nil
}

// userToken signs a token of a session.
func (s *Server) userToken(a store.Account, session store.Session, id, scopes string, now time.Time) (string, time.Time, error) {
	expires := now.Add(tokenFor)
	if expires.After(session.Expires) {
		expires = session.Expires
	}
	token, err := s.tokens.Sign(bearer.Claims{
		Type: bearer.User, Nick: a.Nick, PRN: wire.AccountPRN + a.ID, ID: a.ID, Roles: "user", Scopes: scopes,
		Session: id, Original: jwt.NewNumericDate(session.Created), Expires: jwt.NewNumericDate(expires),
	}, now)
	if errors.Is(err, bearer.ErrTooLong) {
		err = errManyScopes
	}
	return token, expires, err
}

// renew gives a signed-in person another token of the same session, until
// that ends; and a program another one of its API token, with the same scopes.
func (s *Server) renew(w http.ResponseWriter, r *http.Request) error {
	in, now := signed(r), s.cfg.Now()
	var token string
	var err error
	if in.apiToken != nil {
		token, _, err = s.apiAccessToken(in.account, *in.apiToken, in.claims.Scopes, now)
	} else {
		token, _, err = s.userToken(in.account, in.session, in.claims.Session, in.claims.Scopes, now)
	}
	if err != nil {
		return err
	}
	s.count(r.Context(), store.Event{Time: now, Kind: "account.token-renewed", Owner: in.account.ID, Message: "The access token was renewed."})
	writeJSON(w, http.StatusOK, tokenAnswer{token})
	return nil
}

// tokenAnswer is all that a sign-in answers: devices of Pantacor's take
// exactly this form and no other field.
type tokenAnswer struct {
	Token string `json:"token"`
}

// jwks publishes the keys that tokens are verified by.
func (s *Server) jwks(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/jwk-set+json")
	w.Header().Set("Cache-Control", "max-age=3600")
	keys := s.tokens.JWKS(s.cfg.Now())
	setLength(w, len(keys))
	_, err := w.Write(keys)
	return err
}

func (s *Server) login(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		Username string `json:"username"`
		Password string `json:"password"`
		Scope    string `json:"scope"`
	}
	malformed := readJSON(w, r, &body)
	device := malformed == nil && strings.HasPrefix(body.Username, wire.DevicePRN)
	limits := s.logins
	if device {
		limits = s.deviceLogins
	}
	if !limits.allow(network(remoteAddr(r)), s.cfg.Now()) {
		return errTooFast
	}
	if malformed != nil {
		return malformed
	}
	if device {
		token, err := s.deviceLogin(r, body.Username, body.Password)
		if err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, tokenAnswer{token})
		return nil
	}
	var token string
	var err error
	if strings.HasPrefix(body.Password, apiTokenPrefix) {
		token, err = s.apiLogin(r, body.Username, body.Password, body.Scope)
		if !errors.Is(err, error(errWrongPassword)) {
			if err == nil {
				writeJSON(w, http.StatusOK, tokenAnswer{token})
			}
			return err
		}
		// It may be a password that only looks like one.
	}
	token, _, err = s.signInAs(r, body.Username, body.Password, body.Scope, store.ByAPI)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, tokenAnswer{token})
	return nil
}

// logout ends a person's session. A program's API token is not its own to end.
func (s *Server) logout(w http.ResponseWriter, r *http.Request) error {
	in := signed(r)
	if in.apiToken != nil {
		return errAPIToken
	}
	if err := s.signedOut(r, in); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "OK"})
	return nil
}

func (s *Server) signedOut(r *http.Request, in *signIn) error {
	if err := s.cfg.Store.DeleteSession(r.Context(), in.session.TokenHash); err != nil {
		return err
	}
	s.often(r.Context(), store.Event{Time: s.cfg.Now(), Kind: "account.signed-out", Owner: in.account.ID, Message: "Signed out."})
	return nil
}

func (s *Server) authStatus(w http.ResponseWriter, r *http.Request) error {
	claims := signed(r).claims
	claims.Session = "" // who shows the answer around gives nothing away
	claims.Nick = owner(r).Nick
	writeJSON(w, http.StatusOK, claims)
	return nil
}

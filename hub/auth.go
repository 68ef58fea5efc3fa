package hub

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"net/http"
	"strings"
	"time"

	"gangway/bearer"
	"gangway/internal/strictjson"
	"gangway/store"
	"gangway/tcg/join"

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
	account store.Account
	claims  bearer.Claims
	session store.Session
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
	case first == "auth":
		return "user"
	}
	return ""
}

var (
	errNotSignedIn = problem(http.StatusUnauthorized, "not-signed-in", "Sign in with 'gangway login', or on the page.", "You are not signed in, or your sign-in has ended.")
	errScope       = problem(http.StatusForbidden, "insufficient-scope", "Sign in without 'scope', or with one that allows it.", "The token's scopes do not allow this.")
)

// signedIn verifies the token and looks up its session and account: all three
// must be there now.
func (s *Server) signedIn(r *http.Request) (*signIn, error) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		c, err := r.Cookie(cookieName)
		if err != nil {
			return nil, errNotSignedIn
		}
		token = c.Value
	}
	now := s.cfg.Now()
	claims, err := s.tokens.Verify(token, now)
	if err != nil || claims.Type != bearer.User {
		return nil, errNotSignedIn
	}
	session, err := s.cfg.Store.Session(r.Context(), sha256.Sum256([]byte(claims.Session)), now)
	if errors.Is(err, store.ErrNotFound) || err == nil && session.AccountID != claims.ID {
		return nil, errNotSignedIn
	}
	if err != nil {
		return nil, err
	}
	account, err := s.cfg.Store.Account(r.Context(), session.AccountID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, errNotSignedIn
	}
	return &signIn{account, claims, session}, err
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

// signInAs makes a session and returns its token, good for tokenFor. scope is
// as bearer.ParseScopes reads it.
func (s *Server) signInAs(ctx context.Context, login, password, scope, addr string) (token string, expires time.Time, err error) {
	scopes, err := bearer.ParseScopes(scope)
	if err != nil {
		return "", expires, problem(http.StatusBadRequest, "scope", "Leave it out for all.", "%s.", err)
	}
	account, err := s.cfg.Store.AccountByLogin(ctx, login)
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
	if !ok {
		s.record(ctx, store.Event{Time: now, Kind: "account.sign-in-refused", Code: errWrongPassword.Code, Owner: account.ID, Addr: addr, Message: "Somebody tried to sign in with a wrong name or password."})
		return "", expires, errWrongPassword
	}
	s.accounts.signedIn(account.ID, from, now)
	id := rand.Text()
	session := store.Session{TokenHash: sha256.Sum256([]byte(id)), AccountID: account.ID, Created: now, Expires: now.Add(sessionFor)}
	if err := s.cfg.Store.CreateSession(ctx, session); err != nil {
		return "", expires, err
	}
	token, expires, err = s.userToken(account, session, id, scopes, now)
	if err != nil {
		return "", expires, err
	}
	s.record(ctx, store.Event{Time: now, Kind: "account.signed-in", Owner: account.ID, Addr: addr, Message: "Signed in."})
	return token, expires, nil
}

// userToken signs a token of a session.
func (s *Server) userToken(a store.Account, session store.Session, id, scopes string, now time.Time) (string, time.Time, error) {
	expires := now.Add(tokenFor)
	if expires.After(session.Expires) {
		expires = session.Expires
	}
	token, err := s.tokens.Sign(bearer.Claims{
		Type: bearer.User, Nick: a.Nick, PRN: join.AccountPRN + a.ID, ID: a.ID, Roles: "user", Scopes: scopes,
		Session: id, Original: jwt.NewNumericDate(session.Created), Expires: jwt.NewNumericDate(expires),
	}, now)
	return token, expires, err
}

// renew gives a signed-in person another token of the same session, until
// that ends.
func (s *Server) renew(w http.ResponseWriter, r *http.Request) error {
	in := signed(r)
	token, _, err := s.userToken(in.account, in.session, in.claims.Session, in.claims.Scopes, s.cfg.Now())
	if err != nil {
		return err
	}
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

// record appends to the audit trail; what cannot be written is reported.
func (s *Server) record(ctx context.Context, e store.Event) {
	if err := s.cfg.Store.AppendEvent(ctx, e); err != nil {
		s.log.Error("audit trail", "kind", e.Kind, "err", err)
	}
}

func (s *Server) login(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		Username string `json:"username"`
		Password string `json:"password"`
		Scope    string `json:"scope"`
	}
	malformed := readJSON(w, r, &body)
	device := malformed == nil && strings.HasPrefix(body.Username, join.DevicePRN)
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
		token, err := s.deviceLogin(r.Context(), body.Username, body.Password)
		if err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, tokenAnswer{token})
		return nil
	}
	token, _, err := s.signInAs(r.Context(), body.Username, body.Password, body.Scope, remoteAddr(r))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, tokenAnswer{token})
	return nil
}

func (s *Server) logout(w http.ResponseWriter, r *http.Request) error {
	if err := s.cfg.Store.DeleteSession(r.Context(), signed(r).session.TokenHash); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "OK"})
	return nil
}

func (s *Server) authStatus(w http.ResponseWriter, r *http.Request) error {
	claims := signed(r).claims
	claims.Session = "" // who shows the answer around gives nothing away
	claims.Nick = owner(r).Nick
	writeJSON(w, http.StatusOK, claims)
	return nil
}

package api

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"net/http"
	"strings"
	"time"

	"gangway/hub/bearer"
	"gangway/hub/store"
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
	in, now := signInOf(r), s.cfg.Now()
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
	malformed := readJSON(r, &body)
	device := malformed == nil && strings.HasPrefix(body.Username, wire.DevicePRN)
	rate := signInRate
	if device {
		rate = deviceSignInRate
	}
	if !s.limiters[rate].allow(network(remoteAddr(r)), s.cfg.Now()) {
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
	if err := s.signedOut(r, signInOf(r)); err != nil {
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
	claims := signInOf(r).claims
	claims.Session = "" // who shows the answer around gives nothing away
	claims.Nick = accountOf(r).Nick
	writeJSON(w, http.StatusOK, claims)
	return nil
}

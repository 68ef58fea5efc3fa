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
	// accessTokenLife is as long as a working day, because Pantacor's client cannot renew an access
	// token, and asks for the password again when the token expires.
	accessTokenLife = 12 * time.Hour
	// sessionLife is how long a session's access token can be renewed.
	sessionLife = 7 * 24 * time.Hour
)

// cookieName is the name of the cookie that contains a browser's access token. Because of the
// prefix __Host-, browsers accept the cookie only with Secure and the path "/", and send it only to
// this host.
const cookieName = "__Host-gangway"

var errWrongPassword = problem(http.StatusUnauthorized, "wrong-password", "Check the name and the password, and try again.", "The name or the password is wrong.")

var errDisabled = problem(http.StatusForbidden, "account-disabled", "Ask the hub's operator to enable the account.", "The account is disabled.")

// signInWithPassword makes a session, and returns an access token for it and the time when this
// token expires. `scope` has the form that bearer.ParseScopes reads. `means` is store.ByPage or
// store.ByAPI.
func (s *Server) signInWithPassword(r *http.Request, login, password, scope, means string) (token string, expires time.Time, err error) {
	ctx, addr := r.Context(), remoteAddr(r)
	scopes, err := bearer.ParseScopes(scope)
	if err != nil {
		return "", expires, problem(http.StatusBadRequest, "scope", "Leave the scope out to get all scopes.", "%s.", err)
	}
	account, err := s.cfg.Store.AccountByNickOrEmail(ctx, login)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return "", expires, err
	}
	now, from := s.cfg.Now(), network(addr)
	lane, allowed := s.accounts.allow(login, account.ID, from, now)
	if !allowed {
		return "", expires, errTooManyAttempts
	}
	ok, err := s.passwords.check(ctx, lane, password, account.PasswordHash)
	if err != nil {
		return "", expires, err
	}
	if ok && account.Disabled {
		s.recordUnproven(ctx, store.Event{Time: now, Kind: "account.sign-in-refused", Code: errDisabled.Code, Owner: account.ID, Means: means, Addr: addr, Message: "A sign-in to the disabled account was refused."})
		return "", expires, errDisabled
	}
	if ok {
		id := rand.Text()
		session := store.Session{TokenHash: sha256.Sum256([]byte(id)), AccountID: account.ID, Created: now, Expires: now.Add(sessionLife), Addr: addr, Means: means}
		if token, expires, err = s.sessionToken(account, session, id, scopes, now); err != nil {
			return "", expires, err
		}
		err = s.cfg.Store.CreateSession(ctx, session, account.PasswordHash)
		if errors.Is(err, store.ErrChanged) || errors.Is(err, store.ErrNotFound) {
			ok = false // the account was changed or deleted while the password was being checked
		} else if err != nil {
			return "", expires, err
		}
	}
	if !ok {
		s.recordUnproven(ctx, store.Event{Time: now, Kind: "account.sign-in-refused", Code: errWrongPassword.Code, Owner: account.ID, Means: means, Addr: addr, Message: "A sign-in was refused: the name or the password is wrong."})
		return "", expires, errWrongPassword
	}
	s.accounts.signedIn(account.ID, from, now)
	actAsAccount(r, account, means)
	s.recordOrCount(ctx, store.Event{Time: now, Kind: "account.signed-in", Owner: account.ID, Message: "Signed in."})
	return token, expires, nil
}

// sessionToken signs an access token for a session.
func (s *Server) sessionToken(a store.Account, session store.Session, id, scopes string, now time.Time) (string, time.Time, error) {
	expires := now.Add(accessTokenLife)
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

// renew issues another access token with the same scopes. A person can renew until the session
// ends, and a program until the API token expires.
func (s *Server) renew(w http.ResponseWriter, r *http.Request) error {
	in, now := signInOf(r), s.cfg.Now()
	var token string
	var err error
	if in.apiToken != nil {
		token, _, err = s.apiAccessToken(in.account, *in.apiToken, in.claims.Scopes, now)
	} else {
		token, _, err = s.sessionToken(in.account, in.session, in.claims.Session, in.claims.Scopes, now)
	}
	if err != nil {
		return err
	}
	s.count(r.Context(), store.Event{Time: now, Kind: "account.token-renewed", Owner: in.account.ID, Message: "The access token was renewed."})
	writeJSON(w, http.StatusOK, tokenAnswer{token})
	return nil
}

// tokenAnswer is the whole answer to a sign-in. Pantacor's devices do not accept an answer with
// other fields.
type tokenAnswer struct {
	Token string `json:"token"`
}

// jwks publishes the public keys with which access tokens are verified.
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
	if device && onPages(r) {
		return s.errDeviceRoute()
	}
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
		token, err := s.signInDevice(r, body.Username, body.Password)
		if err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, tokenAnswer{token})
		return nil
	}
	var token string
	var err error
	if strings.HasPrefix(body.Password, apiTokenPrefix) {
		token, err = s.signInWithAPIToken(r, body.Username, body.Password, body.Scope)
		if !errors.Is(err, error(errWrongPassword)) {
			if err == nil {
				writeJSON(w, http.StatusOK, tokenAnswer{token})
			}
			return err
		}
		// A person's password may begin like an API token, so try the text as a password too.
	}
	token, _, err = s.signInWithPassword(r, body.Username, body.Password, body.Scope, store.ByAPI)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, tokenAnswer{token})
	return nil
}

// logout ends a person's session. A program cannot end its API token.
func (s *Server) logout(w http.ResponseWriter, r *http.Request) error {
	if err := s.endOwnSession(r, signInOf(r)); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "OK"})
	return nil
}

func (s *Server) endOwnSession(r *http.Request, in *signIn) error {
	if err := s.cfg.Store.DeleteSession(r.Context(), in.session.TokenHash); err != nil {
		return err
	}
	s.recordOrCount(r.Context(), store.Event{Time: s.cfg.Now(), Kind: "account.signed-out", Owner: in.account.ID, Message: "Signed out."})
	return nil
}

func (s *Server) authStatus(w http.ResponseWriter, r *http.Request) error {
	claims := signInOf(r).claims
	claims.Session = "" // the session claim is a secret, and people may show the answer to others
	claims.Nick = accountOf(r).Nick
	writeJSON(w, http.StatusOK, claims)
	return nil
}

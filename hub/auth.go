package hub

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"gangway/store"
	"gangway/tcg/join"
)

// sessionFor is how long a sign-in lasts.
const sessionFor = 12 * time.Hour

// cookieName holds a browser's session. The prefix makes browsers insist on
// Secure, on this host alone, and on path "/".
const cookieName = "__Host-gangway"

// maxBody bounds JSON bodies, in bytes.
const maxBody = 64 << 10

type ownerKey struct{}
type deviceKey struct{}

// owner returns the signed-in account; asOwner has put it there.
func owner(r *http.Request) store.Account { return r.Context().Value(ownerKey{}).(store.Account) }

// peer returns the device; asDevice has put it there.
func peer(r *http.Request) store.Device { return r.Context().Value(deviceKey{}).(store.Device) }

// asOwner lets a request through that carries a valid session, as a bearer
// token or a browser's cookie.
func (s *Server) asOwner(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		account, err := s.signedIn(r)
		if err != nil {
			return err
		}
		return h(w, r.WithContext(context.WithValue(r.Context(), ownerKey{}, account)))
	}
}

var errNotSignedIn = problem(http.StatusUnauthorized, "not-signed-in", "Sign in with 'gangway login', or on the page.", "You are not signed in, or your sign-in has ended.")

func (s *Server) signedIn(r *http.Request) (store.Account, error) {
	session, err := s.session(r)
	if err != nil {
		return store.Account{}, err
	}
	account, err := s.cfg.Store.Account(r.Context(), session.AccountID)
	if errors.Is(err, store.ErrNotFound) {
		return store.Account{}, errNotSignedIn
	}
	return account, err
}

func (s *Server) session(r *http.Request) (store.Session, error) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		c, err := r.Cookie(cookieName)
		if err != nil {
			return store.Session{}, errNotSignedIn
		}
		token = c.Value
	}
	session, err := s.cfg.Store.Session(r.Context(), sha256.Sum256([]byte(token)), s.cfg.Now())
	if errors.Is(err, store.ErrNotFound) {
		return store.Session{}, errNotSignedIn
	}
	return session, err
}

// leaf returns the SHA-256 of the client certificate whose key the peer
// proved: the first, never another one of the chain it sent.
func leaf(state *tls.ConnectionState) (store.Hash, bool) {
	if state == nil || len(state.PeerCertificates) == 0 || len(state.VerifiedChains) == 0 {
		return store.Hash{}, false
	}
	return sha256.Sum256(state.PeerCertificates[0].Raw), true
}

var (
	errNoCertificate = problem(http.StatusUnauthorized, "no-certificate", "Connect with the device's IDevID certificate.", "This is for devices, and the connection has no client certificate.")
	errNotActive     = problem(http.StatusForbidden, "certificate-not-active", "Activate it first; if it was revoked or replaced, onboard again.", "The certificate is not an active device's.")
)

// asDevice lets a request through on a connection whose client certificate is
// an active device's, as the store says now.
func (s *Server) asDevice(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		hash, ok := leaf(r.TLS)
		if !ok {
			return errNoCertificate
		}
		d, err := s.cfg.Store.DeviceByCertificate(r.Context(), hash)
		if errors.Is(err, store.ErrNotFound) {
			return errNotActive
		}
		if err != nil {
			return err
		}
		return h(w, r.WithContext(context.WithValue(r.Context(), deviceKey{}, d)))
	}
}

// readJSON reads a body of at most maxBody bytes into v. Unknown fields are
// let pass, as Pantacor's clients send some; trailing data is not.
func readJSON(w http.ResponseWriter, r *http.Request, v any) error {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	if err := dec.Decode(v); err != nil {
		return badBody(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return badBody(errors.New("data follows the JSON value"))
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

// signInAs makes a session and returns its token.
func (s *Server) signInAs(ctx context.Context, login, password, addr string) (token string, expires time.Time, err error) {
	account, err := s.cfg.Store.AccountByLogin(ctx, login)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return "", expires, err
	}
	ok, err := s.passwords.check(ctx, password, account.PasswordHash)
	if err != nil {
		return "", expires, err
	}
	now := s.cfg.Now()
	if !ok {
		s.record(ctx, store.Event{Time: now, Kind: "account.sign-in-refused", Code: errWrongPassword.Code, Owner: account.ID, Addr: addr, Message: "Somebody tried to sign in with a wrong name or password."})
		return "", expires, errWrongPassword
	}
	random := make([]byte, 32)
	rand.Read(random) // never fails
	token = base64.RawURLEncoding.EncodeToString(random)
	expires = now.Add(sessionFor)
	err = s.cfg.Store.CreateSession(ctx, store.Session{TokenHash: sha256.Sum256([]byte(token)), AccountID: account.ID, Created: now, Expires: expires})
	if err != nil {
		return "", expires, err
	}
	s.record(ctx, store.Event{Time: now, Kind: "account.signed-in", Owner: account.ID, Addr: addr, Message: "Signed in."})
	return token, expires, nil
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
	}
	if err := readJSON(w, r, &body); err != nil {
		return err
	}
	token, _, err := s.signInAs(r.Context(), body.Username, body.Password, remoteAddr(r))
	if err != nil {
		return err
	}
	// Devices of Pantacor's take exactly this form and no other field.
	writeJSON(w, http.StatusOK, struct {
		Token string `json:"token"`
	}{token})
	return nil
}

func (s *Server) logout(w http.ResponseWriter, r *http.Request) error {
	session, err := s.session(r)
	if err != nil {
		return err
	}
	if err := s.cfg.Store.DeleteSession(r.Context(), session.TokenHash); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "OK"})
	return nil
}

func (s *Server) authStatus(w http.ResponseWriter, r *http.Request) error {
	a := owner(r)
	session, err := s.session(r)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, struct {
		Type  string `json:"type"`
		Nick  string `json:"nick"`
		PRN   string `json:"prn"`
		ID    string `json:"id"`
		Roles string `json:"roles"`
		Exp   int64  `json:"exp"`
	}{"USER", a.Nick, join.AccountPRN + a.ID, a.ID, "user", session.Expires.Unix()})
	return nil
}

package api

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"gangway/hub/bearer"
	"gangway/hub/store"
	"gangway/wire"

	"github.com/go-jose/go-jose/v4/jwt"
)

const (
	// apiTokenPrefix lets people and secret scanners recognise API tokens.
	apiTokenPrefix = "gwt_"
	// onAPIToken is the prefix of the session claim in an access token that was issued for an API
	// token. The API token's hash follows, in hexadecimal.
	onAPIToken = "t:"

	apiTokenPRN      = "prn:::tokens:/"
	apiTokenLife     = 90 * 24 * time.Hour
	maxAPITokenLife  = 366 * 24 * time.Hour
	maxAPITokens     = 100 // for each account
	apiTokenUseEvery = 10 * time.Minute
)

var apiTokenName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-zA-Z0-9_.+\-]{1,64}$`) })

// APITokenView is an API token, without its secret.
type APITokenView struct {
	ID          string     `json:"id"`
	PRN         string     `json:"prn"`
	Name        string     `json:"name"`
	Type        string     `json:"type"` // bearer.User
	Owner       string     `json:"owner"`
	Scopes      []string   `json:"scopes"`
	TimeCreated time.Time  `json:"time-created"`
	ExpireAt    time.Time  `json:"expire-at"`
	Expired     bool       `json:"expired"`
	LastUsed    *time.Time `json:"last-used,omitempty"` // may be ten minutes older than the last use
	LastAddr    string     `json:"last-addr,omitempty"`
}

func viewAPIToken(t store.APIToken, now time.Time) APITokenView {
	v := APITokenView{
		ID: t.ID, PRN: apiTokenPRN + t.ID, Name: t.Name, Type: bearer.User, Owner: wire.AccountPRN + t.Account,
		Scopes: strings.Fields(t.Scopes), TimeCreated: t.Created.UTC(), ExpireAt: t.Expires.UTC(), Expired: !now.Before(t.Expires), LastAddr: t.UsedAddr,
	}
	if !t.Used.IsZero() {
		used := t.Used.UTC()
		v.LastUsed = &used
	}
	return v
}

// NewAPIToken is the request to create an API token. The field ExpiresIn exists only in Gangway.
// The other fields have the same names as in Pantacor Hub.
type NewAPIToken struct {
	Name      string     `json:"name"`
	Type      string     `json:"type,omitempty"` // ignored: every API token has the type bearer.User
	Scopes    []string   `json:"scopes"`
	ExpireAt  *time.Time `json:"expire-at,omitempty"`
	ExpiresIn string     `json:"expires-in,omitempty"` // Go duration, e.g. "720h"
}

// APITokenCreated is the answer to NewAPIToken. It is the only answer that contains the secret.
type APITokenCreated struct {
	APITokenView
	Secret string `json:"secret"`
}

// APITokens is a list of API tokens.
type APITokens struct {
	Items []APITokenView `json:"items"`
}

func (n NewAPIToken) expires(now time.Time) (time.Time, error) {
	life := apiTokenLife
	switch {
	case n.ExpiresIn != "" && n.ExpireAt != nil:
		return now, problem(http.StatusBadRequest, "expires", "Send expires-in or expire-at, but not both.", "The request has both expires-in and expire-at.")
	case n.ExpiresIn != "":
		d, err := time.ParseDuration(n.ExpiresIn)
		if err != nil {
			return now, problem(http.StatusBadRequest, "expires", "Write a duration like 720h.", "expires-in is not a duration.")
		}
		life = d
	case n.ExpireAt != nil:
		life = n.ExpireAt.Sub(now)
	}
	if life <= 0 || life > maxAPITokenLife {
		return now, problem(http.StatusBadRequest, "expires", "Choose a time within 366 days.", "The API token would expire in the past, or in more than 366 days.")
	}
	return now.Add(life), nil
}

// createAPIToken makes an API token, for a program that acts for the caller's account.
func (s *Server) createAPIToken(w http.ResponseWriter, r *http.Request) error {
	var body NewAPIToken
	if err := readJSON(r, &body); err != nil {
		return err
	}
	made, err := s.makeAPIToken(r, body)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, made)
	return nil
}

// makeAPIToken makes an API token of the caller's account.
func (s *Server) makeAPIToken(r *http.Request, body NewAPIToken) (made APITokenCreated, err error) {
	if !apiTokenName().MatchString(body.Name) {
		return made, problem(http.StatusBadRequest, "name-form", "Use 1 to 64 letters and digits, and the signs . _ - and +.", "The API token's name has characters that are not allowed, or is empty or too long.")
	}
	if len(body.Scopes) == 0 {
		return made, problem(http.StatusBadRequest, "scope", `Name at least one scope, such as "devices.readonly". "all" allows everything.`, "The API token has no scope.")
	}
	scopes, err := bearer.ParseScopes(strings.Join(body.Scopes, " "))
	if err != nil {
		return made, problem(http.StatusBadRequest, "scope", "See docs/operations.md for the list of scopes.", "%s.", err)
	}
	now, in := s.cfg.Now(), signInOf(r)
	expires, err := body.expires(now)
	if err != nil {
		return made, err
	}
	secret := apiTokenPrefix + rand.Text()
	t := store.APIToken{ID: wire.NewID(), Hash: sha256.Sum256([]byte(secret)), Account: in.account.ID, Name: body.Name, Scopes: scopes, Created: now, Expires: expires}
	// An access token for this API token cannot be signed if there are too many scopes. Sign one
	// now, so that the hub refuses these scopes before it stores the API token.
	if _, _, err := s.apiAccessToken(in.account, t, scopes, now); err != nil {
		return made, err
	}
	e := store.Event{Time: now, Kind: "api-token.created", Owner: in.account.ID,
		Message: fmt.Sprintf("API token %q was created (%s); it expires on %s.", t.Name, strings.Join(body.Scopes, " "), expires.UTC().Format(time.DateOnly))}
	switch err := s.cfg.Store.CreateAPIToken(r.Context(), t, in.session.TokenHash, maxAPITokens, e.By(store.ActorIn(r.Context()))); {
	case errors.Is(err, store.ErrExists):
		return made, problem(http.StatusConflict, "exists", "Choose another name, or revoke the API token with this name first.", "You already have an API token with this name.")
	case errors.Is(err, store.ErrTooMany):
		return made, problem(http.StatusConflict, "too-many-api-tokens", "Revoke API tokens that are not used.", "You have %d API tokens, which is the maximum.", maxAPITokens)
	case errors.Is(err, store.ErrNotFound): // the session ended during the request
		return made, errNotSignedIn
	case err != nil:
		return made, err
	}
	return APITokenCreated{viewAPIToken(t, now), secret}, nil
}

func (s *Server) listAPITokens(w http.ResponseWriter, r *http.Request) error {
	tokens, err := s.cfg.Store.APITokens(r.Context(), accountOf(r).ID)
	if err != nil {
		return err
	}
	list := APITokens{Items: make([]APITokenView, len(tokens))}
	for i, t := range tokens {
		list.Items[i] = viewAPIToken(t, s.cfg.Now())
	}
	writeJSON(w, http.StatusOK, list)
	return nil
}

// ownAPIToken finds an API token of the caller's account.
func (s *Server) ownAPIToken(r *http.Request, id string) (store.APIToken, error) {
	tokens, err := s.cfg.Store.APITokens(r.Context(), accountOf(r).ID)
	if err != nil {
		return store.APIToken{}, err
	}
	i := slices.IndexFunc(tokens, func(t store.APIToken) bool { return t.ID == id })
	if i < 0 {
		return store.APIToken{}, store.ErrNotFound
	}
	return tokens[i], nil
}

func (s *Server) showAPIToken(w http.ResponseWriter, r *http.Request) error {
	t, err := s.ownAPIToken(r, r.PathValue("id"))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, viewAPIToken(t, s.cfg.Now()))
	return nil
}

// revokeAPIToken deletes an API token. All access tokens that were issued for the API token end at
// the same time.
func (s *Server) revokeAPIToken(w http.ResponseWriter, r *http.Request) error {
	if _, err := s.revokeAPITokenNamed(r, r.PathValue("id")); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "OK"})
	return nil
}

func (s *Server) revokeAPITokenNamed(r *http.Request, id string) (store.APIToken, error) {
	t, err := s.ownAPIToken(r, id)
	if err != nil {
		return t, err
	}
	e := store.Event{Time: s.cfg.Now(), Kind: "api-token.revoked", Owner: t.Account, Message: fmt.Sprintf("API token %q was revoked.", t.Name)}
	return t, s.cfg.Store.DeleteAPIToken(r.Context(), t.Account, t.ID, e.By(store.ActorIn(r.Context())))
}

func apiClaims(a store.Account, t store.APIToken, scopes string) bearer.Claims {
	return bearer.Claims{
		Type: bearer.User, Nick: a.Nick, PRN: wire.AccountPRN + a.ID, ID: a.ID, Roles: "user", Scopes: scopes,
		Session: onAPIToken + hex.EncodeToString(t.Hash[:]), Original: jwt.NewNumericDate(t.Created),
	}
}

// apiAccessToken signs an access token for an API token. The access token expires when the API
// token expires, or earlier.
func (s *Server) apiAccessToken(a store.Account, t store.APIToken, scopes string, now time.Time) (string, time.Time, error) {
	expires := now.Add(accessTokenLife)
	if expires.After(t.Expires) {
		expires = t.Expires
	}
	c := apiClaims(a, t, scopes)
	c.Expires = jwt.NewNumericDate(expires)
	token, err := s.tokens.Sign(c, now)
	if errors.Is(err, bearer.ErrTooLong) {
		err = errManyScopes
	}
	return token, expires, err
}

var errManyScopes = problem(http.StatusBadRequest, "scope", "Ask for fewer scopes.", "The scopes do not fit into an access token.")

// signInWithAPIToken issues an access token for an API token that was sent as the password. It is
// for programs that can only sign in with a name and a password. `login` is the name of the account
// or of the API token.
func (s *Server) signInWithAPIToken(r *http.Request, login, secret, scope string) (string, error) {
	in, err := s.authenticateAPIToken(r, sha256.Sum256([]byte(secret)))
	if errors.Is(err, error(errNotSignedIn)) {
		return "", errWrongPassword
	}
	if err != nil {
		return "", err
	}
	if !strings.EqualFold(login, in.account.Nick) && login != in.apiToken.Name && login != wire.AccountPRN+in.account.ID && (login == "" || !strings.EqualFold(login, in.account.Email)) {
		return "", errWrongPassword
	}
	scopes := in.claims.Scopes
	if scope != "" {
		if scopes, err = bearer.ParseScopes(scope); err != nil {
			return "", problem(http.StatusBadRequest, "scope", "Leave the scope out to get all scopes of the API token.", "%s.", err)
		}
		has := strings.Fields(in.claims.Scopes)
		for _, one := range strings.Fields(scopes) {
			if !slices.Contains(has, one) && !slices.Contains(has, bearer.AllScopes) {
				return "", errScope
			}
		}
	}
	now := s.cfg.Now()
	token, _, err := s.apiAccessToken(in.account, *in.apiToken, scopes, now)
	if err != nil {
		return "", err
	}
	s.count(r.Context(), store.Event{Time: now, Kind: "account.signed-in", Owner: in.account.ID, Message: fmt.Sprintf("Signed in with API token %q.", in.apiToken.Name)})
	return token, nil
}

package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"

	"github.com/go-jose/go-jose/v4/jwt"

	"gangway/hub/bearer"
	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/wire"
)

// signIn is who is signed in, and by what token.
type signIn struct {
	account  store.Account
	claims   bearer.Claims
	session  store.Session   // zero with an API token
	apiToken *store.APIToken // nil: a person's session
}

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

// byAPIToken finds the account that an API token is for. Its claims are those
// of an access token that it could get.
func (s *Server) byAPIToken(r *http.Request, hash store.Hash) (*signIn, error) {
	now := s.cfg.Now()
	t, err := s.cfg.Store.APIToken(r.Context(), hash, now)
	if errors.Is(err, store.ErrNotFound) {
		return nil, errNotSignedIn
	}
	if err != nil {
		return nil, err
	}
	account, err := s.enabledAccount(r.Context(), t.Account)
	if err != nil {
		return nil, err
	}
	if now.Sub(t.Used) >= apiTokenUseEvery {
		ctx, cancel := context.WithTimeout(r.Context(), countFor)
		defer cancel()
		if err := s.cfg.Store.UsedAPIToken(ctx, hash, remoteAddr(r), now); err != nil && !errors.Is(err, context.Canceled) {
			s.log.Error("last use of an API token", "token", t.ID, "err", err)
		}
	}
	*store.ActorIn(r.Context()) = store.Actor{ID: wire.AccountPRN + account.ID, Name: account.Nick, Means: store.ByAPIToken, Credential: t.Name, Addr: remoteAddr(r)}
	c := apiClaims(account, t, t.Scopes)
	c.Issuer, c.Subject, c.Audience, c.Issued, c.Expires = s.cfg.PublicURL, c.PRN, jwt.Audience{s.cfg.PublicURL}, jwt.NewNumericDate(t.Created), jwt.NewNumericDate(t.Expires)
	return &signIn{account: account, claims: c, apiToken: &t}, nil
}

// tokenHash reads the hash of an API token from an access token's session.
func tokenHash(session string) (h store.Hash, ok bool) {
	text, ok := strings.CutPrefix(session, onAPIToken)
	if !ok {
		return h, false
	}
	b, err := hex.DecodeString(text)
	return h, err == nil && copy(h[:], b) == len(h)
}

// authenticateDevice finds the device that a request comes from: by the certificate of
// its connection, or by a device's token. It refuses a device whose owner has
// said that several machines run with its TPM's state.
func (s *Server) authenticateDevice(r *http.Request) (store.Device, error) {
	d, err := s.deviceByCredential(r)
	if err == nil && d.Clone == store.CloneRefused {
		err = onboard.RefuseCloned
	}
	return d, err
}

func (s *Server) deviceByCredential(r *http.Request) (store.Device, error) {
	if hash, ok := leaf(r); ok {
		d, err := s.cfg.Store.DeviceByCertificate(r.Context(), hash)
		if errors.Is(err, store.ErrNotFound) {
			s.usedEarlier(r, hash)
			err = s.notActive(r.Context(), hash)
		}
		deviceActs(r, d, store.ByCertificate)
		return d, err
	}
	token, ok := bearerToken(r)
	if !ok {
		return store.Device{}, errNoCertificate
	}
	now := s.cfg.Now()
	claims, err := s.tokens.Verify(token, now)
	if err != nil || claims.Type != bearer.Device {
		return store.Device{}, errNotSignedIn
	}
	// The owner, and whether it is there at all, are what the store says now.
	d, err := s.cfg.Store.Device(r.Context(), claims.ID)
	if errors.Is(err, store.ErrNotFound) {
		return d, errNotSignedIn
	}
	if err != nil {
		return d, err
	}
	stands := d.IDevIDHash
	if strings.HasPrefix(claims.Session, bySecret) {
		if stands, err = s.cfg.Store.Secret(r.Context(), d.ID, now); errors.Is(err, store.ErrNotFound) {
			return store.Device{}, errNotSignedIn
		} else if err != nil {
			return d, err
		}
	}
	prefix := claims.Session[:min(2, len(claims.Session))]
	if stands == (store.Hash{}) || subtle.ConstantTimeCompare([]byte(claims.Session), []byte(prefix+hex.EncodeToString(stands[:16]))) != 1 ||
		prefix != byCertificate && prefix != bySecret {
		return store.Device{}, errNotSignedIn
	}
	deviceActs(r, d, store.ByToken)
	return d, nil
}

// notActive says what became of a certificate that is not an active device's. The
// peer has shown that it has the certificate's key.
func (s *Server) notActive(ctx context.Context, hash store.Hash) error {
	e, err := s.cfg.Store.EnrolmentByCertificate(ctx, hash)
	if errors.Is(err, store.ErrNotFound) {
		return inactive("unknown", "The hub has no record of this certificate.", "Onboard again.")
	}
	if err != nil {
		return err
	}
	switch e.State {
	case store.Pending:
		return inactive("pending", "The certificate was not activated yet.", "Activate it first.")
	case store.Superseded:
		_, err := s.cfg.Store.Device(ctx, e.DeviceID)
		if err == nil {
			return inactive("superseded", "The device has onboarded again since it got this certificate.", "Use the newer one, or onboard again.")
		}
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
	case store.Expired:
		return inactive("expired", "The certificate was not activated in time.", "Onboard again.")
	}
	return inactive("revoked", "The device was deleted, or denied, by its owner.", "Onboard again with a join token if it is to come back.")
}

// inactive is errNotActive with what became of the certificate.
func inactive(certificate, message, hint string) *Problem {
	p := *errNotActive
	p.Certificate, p.Message, p.Hint = certificate, message, hint
	return &p
}

// deviceActs says in the request's context which device it is from.
func deviceActs(r *http.Request, d store.Device, means string) {
	if d.ID != "" {
		*store.ActorIn(r.Context()) = store.Actor{ID: wire.DevicePRN + d.ID, Name: d.Nick, Means: means, Addr: remoteAddr(r)}
	}
}

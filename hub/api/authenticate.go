package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"
	"time"

	"gangway/hub/bearer"
	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/wire"

	"github.com/go-jose/go-jose/v4/jwt"
)

// signIn is the account of a signed-in request, and the token that the request used.
type signIn struct {
	account  store.Account
	claims   bearer.Claims
	session  store.Session   // zero if the request used an API token
	apiToken *store.APIToken // nil: a person's session
	byCookie bool            // the token came in a cookie; browsers may send cookies also with requests that other sites cause
}

// bearerToken returns the token of the Authorization header. The name of the scheme is not
// case-sensitive (RFC 9110, section 11.1).
func bearerToken(r *http.Request) (string, bool) {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.TrimLeft(token, " "), ok && strings.EqualFold(scheme, "Bearer")
}

// authenticateAccount verifies the token of a request, and finds the account and the session or API
// token to which the token belongs. If one of them no longer exists, it returns an error.
// authenticateAccount also makes the account the store.Actor in the request's context.
func (s *Server) authenticateAccount(r *http.Request) (*signIn, error) {
	token, ok := bearerToken(r)
	means := store.ByAPI
	if !ok {
		c, err := r.Cookie(cookieName)
		if err != nil {
			return nil, errNotSignedIn
		}
		token, means = c.Value, store.ByPage
	} else if strings.HasPrefix(token, apiTokenPrefix) {
		return s.authenticateAPIToken(r, sha256.Sum256([]byte(token)))
	}
	now := s.cfg.Now()
	claims, err := s.tokens.Verify(token, now)
	if err != nil || claims.Type != bearer.User {
		return nil, errNotSignedIn
	}
	if hash, ok := apiTokenHash(claims.Session); ok {
		in, err := s.authenticateAPIToken(r, hash)
		if err != nil {
			return nil, err
		}
		if in.account.ID != claims.ID {
			return nil, errNotSignedIn
		}
		in.claims = claims // the access token may have fewer scopes than the API token
		in.byCookie = means == store.ByPage
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
	actAsAccount(r, account, means)
	return &signIn{account: account, claims: claims, session: session, byCookie: means == store.ByPage}, nil
}

// enabledAccount returns the account with this id. If the account was deleted or is disabled, it
// returns errNotSignedIn.
func (s *Server) enabledAccount(ctx context.Context, id string) (store.Account, error) {
	a, err := s.cfg.Store.Account(ctx, id)
	if errors.Is(err, store.ErrNotFound) || err == nil && a.Disabled {
		return store.Account{}, errNotSignedIn
	}
	return a, err
}

// actAsAccount sets the actor in the request's context to an account.
func actAsAccount(r *http.Request, a store.Account, means string) {
	*store.ActorIn(r.Context()) = store.Actor{ID: wire.AccountPRN + a.ID, Name: a.Nick, Means: means, Addr: remoteAddr(r)}
}

// authenticateAPIToken finds the account of an API token. The returned claims are the same as in an
// access token for this API token.
func (s *Server) authenticateAPIToken(r *http.Request, hash store.Hash) (*signIn, error) {
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
		ctx, cancel := context.WithTimeout(r.Context(), countTimeout)
		defer cancel()
		if err := s.cfg.Store.MarkAPITokenUsed(ctx, hash, remoteAddr(r), now); err != nil && !errors.Is(err, context.Canceled) {
			s.log.Error("could not record the last use of an API token", "token", t.ID, "err", err)
		}
	}
	*store.ActorIn(r.Context()) = store.Actor{ID: wire.AccountPRN + account.ID, Name: account.Nick, Means: store.ByAPIToken, Credential: t.Name, Addr: remoteAddr(r)}
	c := apiClaims(account, t, t.Scopes)
	c.Issuer, c.Subject, c.Audience, c.Issued, c.Expires = s.cfg.PublicURL, c.PRN, jwt.Audience{s.cfg.PublicURL}, jwt.NewNumericDate(t.Created), jwt.NewNumericDate(t.Expires)
	return &signIn{account: account, claims: c, apiToken: &t}, nil
}

// apiTokenHash returns the hash of an API token from the session claim of an access token.
func apiTokenHash(session string) (h store.Hash, ok bool) {
	text, ok := strings.CutPrefix(session, onAPIToken)
	if !ok {
		return h, false
	}
	b, err := hex.DecodeString(text)
	return h, err == nil && copy(h[:], b) == len(h)
}

// authenticateDevice finds the device that sent a request, by the certificate of its connection or
// by a device's access token. It refuses a device if the owner decided that several machines have
// the device's TPM state.
func (s *Server) authenticateDevice(r *http.Request) (store.Device, error) {
	d, err := s.findDevice(r)
	if err == nil && d.Clone == store.CloneRefused {
		err = onboard.ErrCloned
	}
	return d, err
}

func (s *Server) findDevice(r *http.Request) (store.Device, error) {
	if hash, ok := clientCertificate(r); ok {
		d, err := s.cfg.Store.DeviceByCertificate(r.Context(), hash)
		if errors.Is(err, store.ErrNotFound) {
			s.noteUsedCertificate(r, hash)
			err = s.whyNotActive(r, hash)
		}
		actAsDevice(r, d, store.ByCertificate)
		return d, err
	}
	claims := s.deviceClaims(r)
	if claims == nil {
		if _, ok := bearerToken(r); ok {
			return store.Device{}, errNotSignedIn
		}
		return store.Device{}, errNoCertificate
	}
	// The token may have been issued before the device was deleted or got another owner.
	d, err := s.cfg.Store.BareDevice(r.Context(), claims.ID)
	if errors.Is(err, store.ErrNotFound) {
		return d, errNotSignedIn
	}
	if err != nil {
		return d, err
	}
	stands := d.IDevIDHash
	if strings.HasPrefix(claims.Session, bySecret) {
		if stands, err = s.cfg.Store.DeviceSecret(r.Context(), d.ID, s.cfg.Now()); errors.Is(err, store.ErrNotFound) {
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
	actAsDevice(r, d, store.ByToken)
	return d, nil
}

// whyNotActive returns the reason why a certificate does not belong to an active device. The peer
// may learn the reason, because it has proven that it has the certificate's key.
func (s *Server) whyNotActive(r *http.Request, hash store.Hash) error {
	ctx := r.Context()
	e, err := s.cfg.Store.EnrolmentByCertificate(ctx, hash)
	if errors.Is(err, store.ErrNotFound) {
		if lost := originOf(r).lost; lost != nil {
			if err := s.noteLost(r, lost, hash); err != nil {
				return err
			}
			return notActiveProblem("unknown", "The hub was restored from a backup of "+s.cfg.Restore.Backup.UTC().Format(time.RFC3339)+", and lost its record of this device.", "Onboard again, with a join token of the same owner.")
		}
		return notActiveProblem("unknown", "The hub has no record of this certificate.", "Onboard again.")
	}
	if err != nil {
		return err
	}
	switch e.State {
	case store.Pending:
		return notActiveProblem("pending", "The certificate is not activated yet.", "Activate it first.")
	case store.Superseded:
		_, err := s.cfg.Store.Device(ctx, e.DeviceID)
		if err == nil {
			return notActiveProblem("superseded", "The device has onboarded again since it got this certificate.", "Use the newer certificate, or onboard again.")
		}
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
	case store.Expired:
		return notActiveProblem("expired", "The certificate was not activated in time.", "Onboard again.")
	}
	return notActiveProblem("revoked", "The owner deleted or denied the device.", "To use the device again, onboard it with a join token.")
}

// notActiveProblem returns errNotActive with the state of the certificate.
func notActiveProblem(certificate, message, hint string) *Problem {
	p := *errNotActive
	p.Certificate, p.Message, p.Hint = certificate, message, hint
	return &p
}

// actAsDevice sets the actor in the request's context to a device.
func actAsDevice(r *http.Request, d store.Device, means string) {
	if d.ID != "" {
		*store.ActorIn(r.Context()) = store.Actor{ID: wire.DevicePRN + d.ID, Name: d.Nick, Means: means, Addr: remoteAddr(r)}
	}
}

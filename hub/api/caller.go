package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"gangway/hub/bearer"
	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/wire"

	"github.com/go-jose/go-jose/v4/jwt"
)

// deviceTokenFor is how long a device's token is good.
const deviceTokenFor = time.Hour

// Words before what a device's token stands on: the certificate that it was
// given to, or the secret. The token ends with either.
const (
	byCertificate = "x:"
	bySecret      = "s:"
)

// deviceToken signs a token of a device, unless its owner refuses it as cloned.
func (s *Server) deviceToken(d store.Device, by string, hash store.Hash, expires time.Time) (string, error) {
	if d.Clone == store.CloneRefused {
		return "", onboard.ErrCloned
	}
	now := s.cfg.Now()
	if latest := now.Add(deviceTokenFor); expires.IsZero() || expires.After(latest) {
		expires = latest
	}
	return s.tokens.Sign(bearer.Claims{
		Type: bearer.Device, Nick: d.Nick, PRN: wire.DevicePRN + d.ID, ID: d.ID, Roles: "device", Scopes: bearer.AllScopes,
		Owner: ownerPRN(d.Owner), Session: by + hex.EncodeToString(hash[:16]), Original: jwt.NewNumericDate(now), Expires: jwt.NewNumericDate(expires),
	}, now)
}

func ownerPRN(id string) string {
	if id == "" {
		return ""
	}
	return wire.AccountPRN + id
}

// deviceOf finds the device that a request comes from: by the certificate of
// its connection, or by a device's token. It refuses a device whose owner has
// said that several machines run with its TPM's state.
func (s *Server) deviceOf(r *http.Request) (store.Device, error) {
	d, err := s.deviceByProof(r)
	if err == nil && d.Clone == store.CloneRefused {
		err = onboard.ErrCloned
	}
	return d, err
}

func (s *Server) deviceByProof(r *http.Request) (store.Device, error) {
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
		if stands, err = s.cfg.Store.DeviceSecret(r.Context(), d.ID, now); errors.Is(err, store.ErrNotFound) {
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

// asDevice lets a request through that comes from an active device, as the
// store says now: by its certificate, or by a token that one or a secret got;
// and whose boot is as its owner's policy wants it.
func (s *Server) asDevice(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		d, err := s.deviceOf(r)
		if err == nil {
			err = s.admitted(r, d)
		}
		if err != nil {
			return err
		}
		return h(w, r.WithContext(context.WithValue(r.Context(), deviceKey{}, d)))
	}
}

// asUnmeasured is asDevice, by the chip's own connection, for what a device
// must be able to do before its boot is known.
func (s *Server) asUnmeasured(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if _, ok := leaf(r); !ok {
			return errNoCertificate
		}
		d, err := s.deviceOf(r)
		if err != nil {
			return err
		}
		return h(w, r.WithContext(context.WithValue(r.Context(), deviceKey{}, d)))
	}
}

// asChip is asDevice for what the TPM alone may do: with the certificate of
// this very connection, or of the one to the hub's proxy.
func (s *Server) asChip(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if _, ok := leaf(r); !ok {
			return errNoCertificate
		}
		return s.asDevice(h)(w, r)
	}
}

// caller is who asks where people and devices may: an account, or a device
// for the account that owns it.
type caller struct {
	Owner   string         // Account.ID; empty for a device that is nobody's
	Account *store.Account // nil: a device
	Device  *store.Device  // nil: a person
}

// prn names the caller.
func (c caller) prn() string {
	if c.Device != nil {
		return wire.DevicePRN + c.Device.ID
	}
	return wire.AccountPRN + c.Owner
}

// isDevice reports whether the caller is the device with this id.
func (c caller) isDevice(id string) bool { return c.Device != nil && c.Device.ID == id }

type callerKey struct{}

// who returns the caller; asCaller has put it there.
func who(r *http.Request) caller { return r.Context().Value(callerKey{}).(caller) }

// asCaller lets through what asOwner or asDevice would. A request that shows a
// person's session is judged by it alone, whatever certificate its connection
// has.
func (s *Server) asCaller(h handler) handler {
	owner := s.asOwner(func(w http.ResponseWriter, r *http.Request) error {
		a := owner(r)
		return h(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, caller{Owner: a.ID, Account: &a})))
	})
	device := s.asDevice(func(w http.ResponseWriter, r *http.Request) error {
		d := peer(r)
		return h(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, caller{Owner: d.Owner, Device: &d})))
	})
	return func(w http.ResponseWriter, r *http.Request) error {
		_, certified := leaf(r)
		_, noCookie := r.Cookie(cookieName)
		if certified && r.Header.Get("Authorization") == "" && noCookie != nil || s.isDeviceToken(r) {
			return device(w, r)
		}
		return owner(w, r)
	}
}

func (s *Server) isDeviceToken(r *http.Request) bool {
	token, ok := bearerToken(r)
	if !ok {
		return false
	}
	claims, err := s.tokens.Verify(token, s.cfg.Now())
	return err == nil && claims.Type == bearer.Device
}

// loginByCertificate gives a device a token for programs that cannot use its
// key.
func (s *Server) loginByCertificate(w http.ResponseWriter, r *http.Request) error {
	d := peer(r)
	token, err := s.deviceToken(d, byCertificate, d.IDevIDHash, time.Time{})
	if err != nil {
		return err
	}
	s.count(r.Context(), store.Event{Time: s.cfg.Now(), Kind: "device.signed-in", Owner: d.Owner, Device: d.ID, Message: fmt.Sprintf("Device %q signed in with its certificate.", d.Nick)})
	writeJSON(w, http.StatusOK, tokenAnswer{token})
	return nil
}

// secretFor is how long a secret is good that a TPM's connection got.
const secretFor = 24 * time.Hour

// SecretView is what a program on a device signs in with.
type SecretView struct {
	PRN     string    `json:"prn"`
	Secret  string    `json:"secret"`
	Expires time.Time `json:"expires"`
}

// newSecret gives a device's programs a short-lived secret in the place of the
// last one: Pantavisor signs in with nothing else.
func (s *Server) newSecret(w http.ResponseWriter, r *http.Request) error {
	d := peer(r)
	secret, hash := makeSecret()
	expires := s.cfg.Now().Add(secretFor).UTC().Truncate(time.Second)
	if err := s.cfg.Store.PutDeviceSecret(r.Context(), d.ID, d.IDevIDHash, hash, expires); errors.Is(err, store.ErrNotFound) {
		return errNotActive // since it was asked
	} else if err != nil {
		return err
	}
	s.count(r.Context(), store.Event{Time: s.cfg.Now(), Kind: "device.secret-made", Owner: d.Owner, Device: d.ID, Message: fmt.Sprintf("Device %q got a secret for its programs.", d.Nick)})
	writeJSON(w, http.StatusOK, SecretView{wire.DevicePRN + d.ID, secret, expires})
	return nil
}

// KeptView says until when a secret is good now.
type KeptView struct {
	PRN     string    `json:"prn"`
	Expires time.Time `json:"expires"`
}

// keepSecret makes a device's last secret good for another while, also one
// that has ended meanwhile: a program that reads its secret once, at its
// start, keeps it for as long as the TPM vouches for it.
func (s *Server) keepSecret(w http.ResponseWriter, r *http.Request) error {
	d := peer(r)
	var body struct {
		Secret string `json:"secret"`
	}
	if err := readJSON(w, r, &body); err != nil {
		return err
	}
	last, err := s.cfg.Store.DeviceSecret(r.Context(), d.ID, time.Unix(0, 0))
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	hash := store.Hash(sha256.Sum256([]byte(body.Secret)))
	if err != nil || subtle.ConstantTimeCompare(hash[:], last[:]) != 1 {
		return problem(http.StatusConflict, "secret-unknown", "Get a new one: POST /device/secret.", "This is not the last secret that the device got.")
	}
	expires := s.cfg.Now().Add(secretFor).UTC().Truncate(time.Second)
	if err := s.cfg.Store.PutDeviceSecret(r.Context(), d.ID, d.IDevIDHash, hash, expires); errors.Is(err, store.ErrNotFound) {
		return errNotActive // since it was asked
	} else if err != nil {
		return err
	}
	s.count(r.Context(), store.Event{Time: s.cfg.Now(), Kind: "device.secret-renewed", Owner: d.Owner, Device: d.ID, Message: fmt.Sprintf("Device %q renewed the secret of its programs.", d.Nick)})
	writeJSON(w, http.StatusOK, KeptView{wire.DevicePRN + d.ID, expires})
	return nil
}

// deviceLogin checks a device's secret and returns a token. Secrets are random
// and long, so their plain hash is enough.
func (s *Server) deviceLogin(r *http.Request, prn, secret string) (string, error) {
	ctx, now, id := r.Context(), s.cfg.Now(), strings.TrimPrefix(prn, wire.DevicePRN)
	d, err := s.cfg.Store.Device(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return "", errWrongPassword
	}
	if err != nil {
		return "", err
	}
	have, err := s.cfg.Store.DeviceSecret(ctx, id, now)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return "", err
	}
	hash := store.Hash(sha256.Sum256([]byte(secret)))
	if err != nil || subtle.ConstantTimeCompare(hash[:], have[:]) != 1 {
		s.unproven(ctx, store.Event{Time: now, Kind: "device.sign-in-refused", Code: errWrongPassword.Code, Owner: d.Owner, Device: d.ID, Means: store.BySecret,
			Message: fmt.Sprintf("Somebody tried to sign in as device %q with a wrong secret, or one that has expired.", d.Nick)})
		return "", errWrongPassword
	}
	token, err := s.deviceToken(d, bySecret, hash, time.Time{})
	if err != nil {
		return "", err
	}
	deviceActs(r, d, store.BySecret)
	s.count(ctx, store.Event{Time: now, Kind: "device.signed-in", Owner: d.Owner, Device: d.ID, Message: fmt.Sprintf("Device %q signed in with its secret.", d.Nick)})
	return token, nil
}

// trailOf finds the device whose trail a request is about: the caller itself,
// or one that the caller owns. Anybody else's is not found.
func (s *Server) trailOf(r *http.Request) (store.Device, error) {
	c, id := who(r), r.PathValue("id")
	if c.Device != nil {
		if c.Device.ID != id {
			return store.Device{}, store.ErrNotFound
		}
		s.sawDevice(r, id)
		return *c.Device, claimed(*c.Device)
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

// readableTrail is trailOf for a caller who only reads: every person who is
// signed in may read the trail of a device that its owner has published.
func (s *Server) readableTrail(r *http.Request) (store.Device, error) {
	d, err := s.trailOf(r)
	if who(r).Device != nil || !errors.Is(err, store.ErrNotFound) {
		return d, err
	}
	d, err = s.cfg.Store.Device(r.Context(), r.PathValue("id"))
	if err == nil {
		err = s.published(r.Context(), d)
	}
	return d, err
}

// published is store.ErrNotFound for a device that not everyone who is signed
// in may read: it is not public, or its owner is disabled.
func (s *Server) published(ctx context.Context, d store.Device) error {
	if !d.Public {
		return store.ErrNotFound
	}
	a, err := s.cfg.Store.Account(ctx, d.Owner)
	if err == nil && a.Disabled {
		err = store.ErrNotFound
	}
	return err
}

// claimed refuses what a device may do only once it is somebody's: states,
// objects, lines and metadata are kept for its owner. 403 makes devices try later.
func claimed(d store.Device) error {
	if d.Owner == "" {
		return problem(http.StatusForbidden, "unclaimed", "Its owner claims it with the challenge that it shows.", "The device is nobody's yet.")
	}
	return nil
}

// sawDevice records a sign of life.
func (s *Server) sawDevice(r *http.Request, id string) {
	if err := s.cfg.Store.MarkDeviceSeen(r.Context(), id, remoteAddr(r), s.cfg.Now()); err != nil && !errors.Is(err, context.Canceled) {
		s.log.Error("last seen", "device", id, "err", err)
	}
}

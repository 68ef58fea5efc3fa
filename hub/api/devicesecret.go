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

// deviceTokenLife is how long an access token of a device is valid.
const deviceTokenLife = time.Hour

// A device's access token is issued for the device's certificate or for its secret. The token's
// session claim consists of one of these prefixes and the first bytes of the certificate's or
// secret's hash. When that certificate or secret becomes invalid, the hub refuses the token.
const (
	byCertificate = "x:"
	bySecret      = "s:"
)

// deviceToken signs an access token for a device. It refuses a device if the owner decided that
// several machines have the device's TPM state.
func (s *Server) deviceToken(d store.Device, by string, hash store.Hash, expires time.Time) (string, error) {
	if d.Clone == store.CloneRefused {
		return "", onboard.ErrCloned
	}
	now := s.cfg.Now()
	if latest := now.Add(deviceTokenLife); expires.IsZero() || expires.After(latest) {
		expires = latest
	}
	return s.tokens.Sign(bearer.Claims{
		Type: bearer.Device, Nick: d.Nick, PRN: wire.DevicePRN + d.ID, ID: d.ID, Roles: "device", Scopes: bearer.AllScopes,
		Owner: accountPRN(d.Owner), Session: by + hex.EncodeToString(hash[:16]), Original: jwt.NewNumericDate(now), Expires: jwt.NewNumericDate(expires),
	}, now)
}

// signInByCertificate issues an access token to a device, for those of its programs that cannot use
// the TPM's key.
func (s *Server) signInByCertificate(w http.ResponseWriter, r *http.Request) error {
	d := deviceOf(r)
	token, err := s.deviceToken(d, byCertificate, d.IDevIDHash, time.Time{})
	if err != nil {
		return err
	}
	s.count(r.Context(), store.Event{Time: s.cfg.Now(), Kind: "device.signed-in", Owner: d.Owner, Device: d.ID, Message: fmt.Sprintf("Device %q signed in with its certificate.", d.Nick)})
	writeJSON(w, http.StatusOK, tokenAnswer{token})
	return nil
}

// secretLife is how long a secret of a device with a TPM is valid.
const secretLife = 24 * time.Hour

// SecretView is the secret by which a program on a device signs in.
type SecretView struct {
	PRN     string    `json:"prn"`
	Secret  string    `json:"secret"`
	Expires time.Time `json:"expires"`
}

// newSecret replaces the short-lived secret with which a device's programs sign in. Pantavisor
// cannot sign in in any other way.
func (s *Server) newSecret(w http.ResponseWriter, r *http.Request) error {
	d := deviceOf(r)
	secret, hash := makeSecret()
	expires := s.cfg.Now().Add(secretLife).UTC().Truncate(time.Second)
	if err := s.cfg.Store.PutDeviceSecret(r.Context(), d.ID, d.IDevIDHash, hash, expires); errors.Is(err, store.ErrNotFound) {
		return errNotActive // the device onboarded again, or was deleted, during the request
	} else if err != nil {
		return err
	}
	s.count(r.Context(), store.Event{Time: s.cfg.Now(), Kind: "device.secret-made", Owner: d.Owner, Device: d.ID, Message: fmt.Sprintf("Device %q got a secret for its programs.", d.Nick)})
	writeJSON(w, http.StatusOK, SecretView{wire.DevicePRN + d.ID, secret, expires})
	return nil
}

// KeptView says when a secret expires.
type KeptView struct {
	PRN     string    `json:"prn"`
	Expires time.Time `json:"expires"`
}

// keepSecret renews a device's last secret, even if the secret has expired. Some programs read the
// secret only when they start; they can use it as long as the agent, which authenticates with the
// TPM's key, renews it.
func (s *Server) keepSecret(w http.ResponseWriter, r *http.Request) error {
	d := deviceOf(r)
	var body struct {
		Secret string `json:"secret"`
	}
	if err := readJSON(r, &body); err != nil {
		return err
	}
	last, err := s.cfg.Store.DeviceSecret(r.Context(), d.ID, time.Unix(0, 0))
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	hash := store.Hash(sha256.Sum256([]byte(body.Secret)))
	if err != nil || subtle.ConstantTimeCompare(hash[:], last[:]) != 1 {
		return problem(http.StatusConflict, "secret-unknown", "Get a new secret with POST /device/secret.", "This is not the device's newest secret.")
	}
	expires := s.cfg.Now().Add(secretLife).UTC().Truncate(time.Second)
	if err := s.cfg.Store.PutDeviceSecret(r.Context(), d.ID, d.IDevIDHash, hash, expires); errors.Is(err, store.ErrNotFound) {
		return errNotActive // the device onboarded again, or was deleted, during the request
	} else if err != nil {
		return err
	}
	s.count(r.Context(), store.Event{Time: s.cfg.Now(), Kind: "device.secret-renewed", Owner: d.Owner, Device: d.ID, Message: fmt.Sprintf("Device %q renewed the secret with which its programs sign in to the hub.", d.Nick)})
	writeJSON(w, http.StatusOK, KeptView{wire.DevicePRN + d.ID, expires})
	return nil
}

// signInDevice checks a device's secret and returns an access token. Secrets are long and random,
// so an unsalted hash is enough.
func (s *Server) signInDevice(r *http.Request, prn, secret string) (string, error) {
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
		s.recordUnproven(ctx, store.Event{Time: now, Kind: "device.sign-in-refused", Code: errWrongPassword.Code, Owner: d.Owner, Device: d.ID, Means: store.BySecret,
			Message: fmt.Sprintf("A sign-in as device %q was refused: the secret is wrong or has expired.", d.Nick)})
		return "", errWrongPassword
	}
	token, err := s.deviceToken(d, bySecret, hash, time.Time{})
	if err != nil {
		return "", err
	}
	actAsDevice(r, d, store.BySecret)
	s.count(ctx, store.Event{Time: now, Kind: "device.signed-in", Owner: d.Owner, Device: d.ID, Message: fmt.Sprintf("Device %q signed in with its secret.", d.Nick)})
	return token, nil
}

// markSeen records when and from where a device was last seen.
func (s *Server) markSeen(r *http.Request, id string) {
	if err := s.cfg.Store.MarkDeviceSeen(r.Context(), id, remoteAddr(r), s.cfg.Now()); err != nil && !errors.Is(err, context.Canceled) {
		s.log.Error("could not record when a device was last seen", "device", id, "err", err)
	}
}

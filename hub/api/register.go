package api

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"time"

	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/wire"
)

const (
	// autoTokenHeader is the header in which Pantacor's devices send a join token.
	autoTokenHeader = "Pantahub-Devices-Auto-Token-V1"
	// unclaimedLife is how long after its last contact the hub keeps a device without an owner.
	unclaimedLife = 48 * time.Hour
)

// Registered is the answer to a registration. The order of its fields matters, because Pantavisor
// takes the first occurrence of a name anywhere in the document.
type Registered struct {
	ID           string         `json:"id"`
	PRN          string         `json:"prn"`
	Secret       string         `json:"secret"` // only in this answer
	Owner        string         `json:"owner"`  // empty: nobody has claimed the device
	Challenge    string         `json:"challenge,omitempty"`
	Nick         string         `json:"nick"`
	TimeCreated  time.Time      `json:"time-created"`
	TimeModified time.Time      `json:"time-modified"`
	Public       bool           `json:"public"`
	Garbage      bool           `json:"garbage"`
	UserMeta     map[string]any `json:"user-meta"`
	DeviceMeta   map[string]any `json:"device-meta"`
}

// makeSecret returns a new secret, with which a device can sign in, and its hash.
func makeSecret() (string, store.Hash) {
	raw := make([]byte, 24)
	rand.Read(raw) // never fails
	secret := base64.RawURLEncoding.EncodeToString(raw)
	return secret, sha256.Sum256([]byte(secret))
}

// registerDevice makes a device without evidence of a TPM, if the policy accepts devices without a
// TPM, which the default policy does not. The device's owner is the signed-in account, or the owner
// of a join token that allows such devices. Without a sign-in and a join token, the device has no
// owner until somebody claims it.
func (s *Server) registerDevice(w http.ResponseWriter, r *http.Request) error {
	if r.UserAgent() == "" {
		return problem(http.StatusBadRequest, "user-agent", "Send a User-Agent header.", "The request has no User-Agent header.")
	}
	now := s.cfg.Now()
	d := store.Device{ID: wire.NewID(), Created: now, LastSeenAddr: remoteAddr(r)}
	d.Nick = onboard.Nick(d.ID)
	switch {
	case r.Header.Get(autoTokenHeader) != "":
		t, err := s.joinTokenInHeader(r)
		if err != nil {
			return err
		}
		d.Owner, d.TokenID, d.UserMeta = t.Owner, t.ID, t.DefaultUserMeta
	case callerOf(r).Account != nil:
		d.Owner = callerOf(r).Owner
		var body struct {
			Nick     string         `json:"nick"`
			UserMeta map[string]any `json:"user-meta"`
		}
		if r.ContentLength != 0 {
			if err := readJSON(r, &body); err != nil {
				return err
			}
		}
		if body.Nick != "" {
			if !nickForm().MatchString(body.Nick) {
				return errNickForm
			}
			d.Nick = body.Nick
		}
		d.UserMeta = body.UserMeta
	}
	rules, err := s.cfg.Onboard.Policy(r.Context(), d.Owner)
	if err != nil {
		return err
	}
	if !rules.WithoutTPM {
		// The status is not 403, because after a 403, Pantacor's programs ask for a password or
		// retry endlessly.
		return problem(http.StatusBadRequest, "without-tpm", "Onboard the device with its TPM, or ask the operator to change the policy's without_tpm.", "The policy refuses devices without a TPM.")
	}
	secret, hash := makeSecret()
	d, err = s.cfg.Store.CreateDevice(r.Context(), d, hash)
	switch {
	case errors.Is(err, store.ErrFull):
		return problem(http.StatusTooManyRequests, "unclaimed-full", "Try again later: unclaimed devices expire.", "Too many devices on this hub wait to be claimed.")
	case errors.Is(err, store.ErrTokenUnusable):
		return errAutoToken
	case errors.Is(err, store.ErrTokenPaused):
		return problem(http.StatusBadRequest, onboard.CodeTokenPaused, onboard.HintTokenPaused, onboard.ReasonTokenPaused)
	case errors.Is(err, store.ErrTokenUsedUp):
		return problem(http.StatusBadRequest, onboard.CodeTokenUsedUp, "Make a new join token with 'gangway token create'.", "The join token has reached its maximum number of devices.")
	case err != nil:
		return err
	}
	if d.Owner != "" {
		s.record(r.Context(), store.Event{Time: now, Kind: "device.registered", Owner: d.Owner, Device: d.ID, Token: d.TokenID,
			Message: fmt.Sprintf("Device %q was registered without evidence of a TPM.", d.Nick)})
	}
	view := Registered{ID: d.ID, PRN: wire.DevicePRN + d.ID, Secret: secret, Owner: accountPRN(d.Owner), Nick: d.Nick,
		TimeCreated: d.Created, TimeModified: d.Activated, UserMeta: orEmpty(d.UserMeta), DeviceMeta: orEmpty(d.DeviceMeta)}
	if d.Owner == "" {
		view.Challenge = s.challenge(d.ID)
	}
	writeJSON(w, http.StatusOK, view)
	return nil
}

var errAutoToken = problem(http.StatusBadRequest, "auto-token", "Make a join token with 'gangway token create --without-tpm'.", "The join token is unknown, disabled or expired, or does not allow devices without a TPM.")

func (s *Server) joinTokenInHeader(r *http.Request) (store.JoinToken, error) {
	secret, err := base64.StdEncoding.DecodeString(r.Header.Get(autoTokenHeader))
	if err != nil || len(secret) != wire.SecretSize {
		return store.JoinToken{}, errAutoToken
	}
	t, err := s.cfg.Store.JoinTokenBySecretHash(r.Context(), onboard.TokenSecretHash(secret))
	if errors.Is(err, store.ErrNotFound) || err == nil && (t.Disabled || !t.Expires.After(s.cfg.Now())) {
		return store.JoinToken{}, errAutoToken
	}
	return t, err
}

func orEmpty(m map[string]any) map[string]any {
	if m == nil {
		return map[string]any{}
	}
	return m
}

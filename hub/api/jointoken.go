package api

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"gangway/hub/onboard"
	"gangway/hub/store"
	"gangway/wire"
)

// Defaults of a join token.
const (
	defaultTokenLife = 30 * 24 * time.Hour
	maxTokenLife     = 10 * 366 * 24 * time.Hour
	maxTokenUses     = 1_000_000
)

// JoinTokenView is a join token without its secret.
type JoinTokenView struct {
	ID              string         `json:"id"`
	PRN             string         `json:"prn"`
	Nick            string         `json:"nick"`
	Owner           string         `json:"owner"`
	Disabled        bool           `json:"disabled"`
	Expires         time.Time      `json:"expires"`
	MaxUses         int            `json:"max-uses"` // 0: no limit
	Uses            int            `json:"uses"`
	TimeCreated     time.Time      `json:"time-created"`
	TimeModified    time.Time      `json:"time-modified"`
	WithoutTPM      bool           `json:"without-tpm"`
	ForPantacor     bool           `json:"for-pantacor"`
	DefaultUserMeta map[string]any `json:"default-user-meta"`
	Unreadable      []string       `json:"unreadable,omitempty"` // as in DeviceView
}

func viewJoinToken(t store.JoinToken) JoinTokenView {
	meta := t.DefaultUserMeta
	if meta == nil {
		meta = map[string]any{}
	}
	return JoinTokenView{t.ID, wire.TokenPRN + t.ID, t.Nick, wire.AccountPRN + t.Owner, t.Disabled, t.Expires.UTC(), t.MaxUses, t.Uses, t.Created.UTC(), t.Created.UTC(), t.WithoutTPM, t.ForPantacor, meta, t.Unreadable}
}

// NewJoinToken is the request to create a join token.
type NewJoinToken struct {
	Nick      string `json:"nick"`
	MaxUses   int    `json:"max-uses"`
	ExpiresIn string `json:"expires-in"` // Go duration, e.g. "720h"
	// WithoutTPM allows devices to register with the token and without evidence of a TPM, if the
	// policy accepts that.
	WithoutTPM bool `json:"without-tpm"`
	// ForPantacor also accepts Pantacor's ownership proofs in the two-step enrolment. Those do not
	// name a hub, and the hub must store their key, encrypted, to check them.
	ForPantacor     bool           `json:"for-pantacor"`
	DefaultUserMeta map[string]any `json:"default-user-meta"`
}

// JoinTokenCreated is the answer: the join token's view and its token file in one object. It is the
// only answer that contains the secret.
type JoinTokenCreated struct {
	wire.TokenFile
	Disabled        bool           `json:"disabled"`
	MaxUses         int            `json:"max-uses"`
	Uses            int            `json:"uses"`
	TimeCreated     time.Time      `json:"time-created"`
	TimeModified    time.Time      `json:"time-modified"`
	WithoutTPM      bool           `json:"without-tpm"`
	ForPantacor     bool           `json:"for-pantacor"`
	DefaultUserMeta map[string]any `json:"default-user-meta"`
}

func (s *Server) createJoinToken(w http.ResponseWriter, r *http.Request) error {
	var body NewJoinToken
	if r.ContentLength != 0 {
		if err := readJSON(r, &body); err != nil {
			return err
		}
	}
	life := defaultTokenLife
	if body.ExpiresIn != "" {
		d, err := time.ParseDuration(body.ExpiresIn)
		if err != nil || d <= 0 || d > maxTokenLife {
			return problem(http.StatusBadRequest, "expires-in", "Write it like 24h or 30m.", "\"expires-in\" is not a duration of at most ten years.")
		}
		life = d
	}
	if body.MaxUses < 0 || body.MaxUses > maxTokenUses {
		return problem(http.StatusBadRequest, "max-uses", "Use 0 for no limit.", "\"max-uses\" is not a number from 0 to %d.", maxTokenUses)
	}
	if len(body.Nick) > 64 {
		return problem(http.StatusBadRequest, "nick-form", "Use at most 64 characters.", "The nick is too long.")
	}
	a := accountOf(r)
	now := s.cfg.Now()
	t, file, err := onboard.NewToken(s.cfg.CA, s.cfg.PublicURL, store.JoinToken{
		Owner: a.ID, Nick: body.Nick, Expires: now.Add(life), MaxUses: body.MaxUses, DefaultUserMeta: body.DefaultUserMeta, Created: now, WithoutTPM: body.WithoutTPM, ForPantacor: body.ForPantacor,
	})
	if err != nil {
		return err
	}
	err = s.cfg.Store.CreateJoinToken(r.Context(), t)
	if errors.Is(err, store.ErrFull) {
		return errTokensFull
	}
	if err != nil {
		return err
	}
	s.record(r.Context(), store.Event{Time: now, Kind: "token.created", Owner: a.ID, Token: t.ID, Message: fmt.Sprintf("Join token %q was created.", t.Nick)})
	v := viewJoinToken(t)
	writeJSON(w, http.StatusOK, JoinTokenCreated{
		TokenFile: *file, MaxUses: v.MaxUses, TimeCreated: v.TimeCreated, TimeModified: v.TimeModified, WithoutTPM: v.WithoutTPM, ForPantacor: v.ForPantacor, DefaultUserMeta: v.DefaultUserMeta,
	})
	return nil
}

var errTokensFull = problem(http.StatusConflict, "tokens-full", "Delete join tokens that are no longer needed. Several devices can use one token (max-uses).", "You have %d join tokens, which is the maximum.", store.MaxJoinTokens)

// listJoinTokens lists join tokens, newest first. With ?after=ID the list begins after the token
// with this id. ?limit= is at most 1000, which is also the default.
func (s *Server) listJoinTokens(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	limit, err := pageSize(r, 1000)
	if err != nil {
		return err
	}
	tokens, err := s.cfg.Store.JoinTokensPage(r.Context(), accountOf(r).ID, q.Get("after"), limit)
	if err != nil {
		return err
	}
	views := make([]JoinTokenView, len(tokens))
	for i, t := range tokens {
		views[i] = viewJoinToken(t)
	}
	writeJSON(w, http.StatusOK, views)
	return nil
}

// endJoinToken disables a join token, as Pantacor Hub does. With ?purge=true it deletes a disabled
// one.
func (s *Server) endJoinToken(w http.ResponseWriter, r *http.Request) error {
	a, id := accountOf(r), r.PathValue("id")
	e := store.Event{Time: s.cfg.Now(), Kind: "token.disabled", Owner: a.ID, Token: id, Message: "A join token was disabled."}
	switch purge := r.URL.Query().Get("purge"); purge {
	case "", "false":
		if err := s.cfg.Store.DisableJoinToken(r.Context(), a.ID, id); err != nil {
			return err
		}
		s.record(r.Context(), e)
	case "true":
		e.Kind, e.Message = "token.deleted", "A join token was deleted."
		err := s.cfg.Store.DeleteJoinToken(r.Context(), a.ID, id, e.By(store.ActorIn(r.Context())))
		if errors.Is(err, store.ErrStatus) {
			return problem(http.StatusConflict, "token-not-disabled", "Disable the join token first ('gangway token disable').", "The join token is not disabled, so devices can still use it.")
		}
		if err != nil {
			return err
		}
	default:
		return problem(http.StatusBadRequest, "purge", "Use true or false.", "\"purge\" is neither true nor false.")
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "OK"})
	return nil
}

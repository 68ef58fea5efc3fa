package api

import (
	"context"
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
	maxTokenNick     = 64 // bytes
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

// ViewJoinTokens returns the views of join tokens, in the same order.
func ViewJoinTokens(tokens []store.JoinToken) []JoinTokenView {
	views := make([]JoinTokenView, len(tokens))
	for i, t := range tokens {
		views[i] = viewJoinToken(t)
	}
	return views
}

// NewJoinToken is the request to create a join token.
type NewJoinToken struct {
	Nick      string `json:"nick"`
	MaxUses   int    `json:"max-uses"`
	ExpiresIn string `json:"expires-in"` // Go duration, e.g. "720h"
	// WithoutTPM allows devices to register with the token although they have no evidence of a TPM.
	// The policy must also accept devices without evidence of a TPM.
	WithoutTPM bool `json:"without-tpm"`
	// ForPantacor allows Pantacor's ownership proofs in the two-step enrolment. These proofs do not
	// name a hub, so another hub can relay the proofs. To check the proofs, the hub must store
	// their symmetric key, encrypted.
	ForPantacor     bool           `json:"for-pantacor"`
	DefaultUserMeta map[string]any `json:"default-user-meta"`
}

// JoinTokenCreated is the answer to NewJoinToken: the join token's view and its token file in one
// object. It is the only answer that contains the secret.
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
			return problem(http.StatusBadRequest, "expires-in", "Write a duration like 24h or 30m.", "\"expires-in\" is not a duration of at most ten years.")
		}
		life = d
	}
	t, file, err := s.newJoinToken(r.Context(), accountOf(r), body, life)
	if err != nil {
		return err
	}
	v := viewJoinToken(t)
	writeJSON(w, http.StatusOK, JoinTokenCreated{
		TokenFile: *file, MaxUses: v.MaxUses, TimeCreated: v.TimeCreated, TimeModified: v.TimeModified, WithoutTPM: v.WithoutTPM, ForPantacor: v.ForPantacor, DefaultUserMeta: v.DefaultUserMeta,
	})
	return nil
}

// newJoinToken creates a join token that expires after `life`. Only the returned token file
// contains the secret.
func (s *Server) newJoinToken(ctx context.Context, a store.Account, n NewJoinToken, life time.Duration) (store.JoinToken, *wire.TokenFile, error) {
	var none store.JoinToken
	if n.MaxUses < 0 || n.MaxUses > maxTokenUses {
		return none, nil, problem(http.StatusBadRequest, "max-uses", "Use 0 for no limit.", "\"max-uses\" is not a number from 0 to %d.", maxTokenUses)
	}
	if len(n.Nick) > maxTokenNick {
		return none, nil, problem(http.StatusBadRequest, "nick-form", "Use at most 64 characters.", "The nick is too long.")
	}
	now := s.cfg.Now()
	t, file, err := onboard.NewToken(s.cfg.CA, s.cfg.PublicURL, store.JoinToken{
		Owner: a.ID, Nick: n.Nick, Expires: now.Add(life), MaxUses: n.MaxUses, DefaultUserMeta: n.DefaultUserMeta, Created: now, WithoutTPM: n.WithoutTPM, ForPantacor: n.ForPantacor,
	})
	if err != nil {
		return none, nil, err
	}
	err = s.cfg.Store.CreateJoinToken(ctx, t)
	if errors.Is(err, store.ErrFull) {
		return none, nil, errTokensFull
	}
	if err != nil {
		return none, nil, err
	}
	s.record(ctx, store.Event{Time: now, Kind: "token.created", Owner: a.ID, Token: t.ID, Message: fmt.Sprintf("Join token %q was created.", t.Nick)})
	return t, file, nil
}

var errTokensFull = problem(http.StatusConflict, "tokens-full", "Delete join tokens that you do not need. Several devices can use one token (max-uses).", "You have %d join tokens, which is the maximum.", store.MaxJoinTokens)

// listJoinTokens lists join tokens, newest first. With ?after=ID the list begins after the token
// with this id. ?limit= is the largest number of tokens in the list, at most 1000 (default: 1000).
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
	writeJSON(w, http.StatusOK, ViewJoinTokens(tokens))
	return nil
}

// endJoinToken disables a join token, as Pantacor Hub does for this route. With ?purge=true it
// deletes a join token that is already disabled.
func (s *Server) endJoinToken(w http.ResponseWriter, r *http.Request) error {
	var end func(context.Context, store.Account, string) error
	switch purge := r.URL.Query().Get("purge"); purge {
	case "", "false":
		end = s.disableJoinToken
	case "true":
		end = s.deleteJoinToken
	default:
		return problem(http.StatusBadRequest, "purge", "Use true or false.", "The parameter \"purge\" must be true or false.")
	}
	if err := end(r.Context(), accountOf(r), r.PathValue("id")); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "OK"})
	return nil
}

func (s *Server) disableJoinToken(ctx context.Context, a store.Account, id string) error {
	if err := s.cfg.Store.DisableJoinToken(ctx, a.ID, id); err != nil {
		return err
	}
	s.record(ctx, store.Event{Time: s.cfg.Now(), Kind: "token.disabled", Owner: a.ID, Token: id, Message: "A join token was disabled."})
	return nil
}

func (s *Server) deleteJoinToken(ctx context.Context, a store.Account, id string) error {
	e := store.Event{Time: s.cfg.Now(), Kind: "token.deleted", Owner: a.ID, Token: id, Message: "A join token was deleted."}
	err := s.cfg.Store.DeleteJoinToken(ctx, a.ID, id, e.By(store.ActorIn(ctx)))
	if errors.Is(err, store.ErrStatus) {
		return problem(http.StatusConflict, "token-not-disabled", "Disable the join token first ('gangway token disable').", "The join token is not disabled, so devices can still use it.")
	}
	return err
}

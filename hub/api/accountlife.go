package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"gangway/hub/store"
	"gangway/wire"
)

// verifyPasswordAgain checks the password in a request's body. It protects routes that a thief with
// a stolen session must not be able to use. The check uses the same queue and rate limits as a
// sign-in.
func (s *Server) verifyPasswordAgain(r *http.Request, password string) error {
	in, now := signInOf(r), s.cfg.Now()
	lane, allowed := s.accounts.allow(in.account.Nick, in.account.ID, network(remoteAddr(r)), now)
	if !allowed {
		return errTooManyAttempts
	}
	ok, err := s.passwords.check(r.Context(), lane, password, in.account.PasswordHash)
	if err != nil {
		return err
	}
	if !ok {
		// The status is not 401: clients discard their session after a 401, but this session is
		// still valid.
		p := problem(http.StatusForbidden, "current-password", "Check the password and try again.", "The current password is wrong.")
		s.recordOrCount(r.Context(), store.Event{Time: now, Kind: "account.password-refused", Code: p.Code, Owner: in.account.ID, Message: "A signed-in client sent a wrong current password."})
		return p
	}
	return nil
}

// PasswordChanged is the answer to a request that changed the caller's password.
type PasswordChanged struct {
	Status    string `json:"status"`
	APITokens int    `json:"api-tokens"` // number of API tokens that stay valid
}

// changePassword replaces the caller's password, if the body has the current password, and ends all
// other sessions.
func (s *Server) changePassword(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		Current      string `json:"current"`
		Password     string `json:"password"`
		EndAPITokens bool   `json:"end-api-tokens"`
		Token        string `json:"token"` // sent by Pantacor's clients: the token from a password e-mail
	}
	if err := readJSON(r, &body); err != nil {
		return err
	}
	if body.Token != "" {
		return errNoMail
	}
	left, err := s.replacePassword(r, body.Current, body.Password, body.EndAPITokens)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, PasswordChanged{"OK", left})
	return nil
}

// replacePassword replaces the caller's password, and ends all other sessions. It returns the
// number of API tokens that stay valid.
func (s *Server) replacePassword(r *http.Request, current, password string, endAPITokens bool) (left int, err error) {
	in, now := signInOf(r), s.cfg.Now()
	if err := s.verifyPasswordAgain(r, current); err != nil {
		return 0, err
	}
	var hash string
	var bad error
	if err := s.passwords.queue.do(r.Context(), knownNetwork, func() error {
		hash, bad = HashPassword(password)
		return nil
	}); err != nil {
		return 0, err
	}
	if bad != nil {
		return 0, problem(http.StatusBadRequest, "password-form", "Choose another password.", "The new password is not accepted: %v.", bad)
	}
	e := store.Event{Time: now, Kind: "account.password-changed", Owner: in.account.ID, Message: "The password was changed, and all other sessions were ended."}
	switch err := s.cfg.Store.ChangePassword(r.Context(), store.PasswordChange{
		Account: in.account.ID, VerifiedHash: in.account.PasswordHash, NewHash: hash, KeepSession: in.session.TokenHash, EndAPITokens: endAPITokens, Event: e.By(store.ActorIn(r.Context())),
	}); {
	case errors.Is(err, store.ErrChanged), errors.Is(err, store.ErrNotFound):
		return 0, problem(http.StatusConflict, "password-changed", "Sign in again.", "The password was changed, or the account was disabled, during the request.")
	case err != nil:
		return 0, err
	}
	tokens, err := s.cfg.Store.APITokens(r.Context(), in.account.ID)
	return len(tokens), err
}

var errNoMail = problem(http.StatusPreconditionFailed, "no-mail", "Ask the hub's operator for a new password ('gangway account passwd NICK --data DIR').", "This hub does not send e-mail, so it cannot reset a password by e-mail.")

// recoverPassword always returns errNoMail, because this hub sends no e-mail. In Pantacor Hub, this
// route sends an e-mail with a token for a new password. The answer is the same for every e-mail
// address, so that it does not show which accounts exist.
func (s *Server) recoverPassword(http.ResponseWriter, *http.Request) error { return errNoMail }

// SessionView describes one of the account's sessions.
type SessionView struct {
	ID      string    `json:"id"`
	Current bool      `json:"current"` // the caller's own session
	Created time.Time `json:"time-created"`
	Expires time.Time `json:"expires"`
	Addr    string    `json:"addr"`  // IP address of the sign-in
	Means   string    `json:"means"` // "page" or "api"
}

// ViewSessions converts sessions to their views. `current` is the caller's session; if it is zero,
// no view is marked as current.
func ViewSessions(sessions []store.Session, current store.Hash) []SessionView {
	views := make([]SessionView, len(sessions))
	for i, one := range sessions {
		views[i] = SessionView{one.ID(), one.TokenHash == current, one.Created.UTC(), one.Expires.UTC(), one.Addr, one.Means}
	}
	return views
}

func (s *Server) listSessions(w http.ResponseWriter, r *http.Request) error {
	sessions, err := s.cfg.Store.Sessions(r.Context(), accountOf(r).ID, s.cfg.Now())
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, ViewSessions(sessions, signInOf(r).session.TokenHash))
	return nil
}

func (s *Server) endSession(w http.ResponseWriter, r *http.Request) error {
	if err := s.endSessionNamed(r, r.PathValue("id")); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "OK"})
	return nil
}

// endSessionNamed ends the session with this id, if it belongs to the caller's account.
func (s *Server) endSessionNamed(r *http.Request, id string) error {
	e := store.Event{Time: s.cfg.Now(), Kind: "account.session-ended", Owner: accountOf(r).ID, Message: "A session was ended."}
	return s.cfg.Store.EndSession(r.Context(), accountOf(r).ID, id, e.By(store.ActorIn(r.Context())))
}

// SessionsEnded says how many sessions were ended.
type SessionsEnded struct {
	Status string `json:"status"`
	Ended  int    `json:"ended"`
}

// endSessions ends all sessions except the caller's. With ?all=true it ends the caller's session
// too.
func (s *Server) endSessions(w http.ResponseWriter, r *http.Request) error {
	keep := signInOf(r).session.TokenHash
	if all := r.URL.Query().Get("all"); all == "true" {
		keep = store.Hash{}
	} else if all != "" && all != "false" {
		return problem(http.StatusBadRequest, "all", "Use true or false.", "The parameter \"all\" must be true or false.")
	}
	n, err := s.endAllSessions(r, keep)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, SessionsEnded{"OK", n})
	return nil
}

// endAllSessions ends all sessions of the caller's account except the session `keep`, and returns
// the number of ended sessions.
func (s *Server) endAllSessions(r *http.Request, keep store.Hash) (int, error) {
	e := store.Event{Time: s.cfg.Now(), Kind: "account.sessions-ended", Owner: accountOf(r).ID, Message: "Signed out everywhere."}
	return s.cfg.Store.EndSessions(r.Context(), accountOf(r).ID, keep, e.By(store.ActorIn(r.Context())))
}

// readOwnAccountRequest reads the body of a request about the account in the path. It checks that
// the account is the caller's own account, and that the password in the body is correct.
func (s *Server) readOwnAccountRequest(r *http.Request, body any, password *string) error {
	if err := readJSON(r, body); err != nil {
		return err
	}
	if id := r.PathValue("id"); strings.TrimPrefix(id, wire.AccountPRN) != accountOf(r).ID {
		return store.ErrNotFound
	}
	return s.verifyPasswordAgain(r, *password)
}

// disableOwnAccount disables the caller's account, for a person who suspects that somebody else has
// access to the account. Only the operator can enable the account again.
func (s *Server) disableOwnAccount(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		Password string `json:"password"`
	}
	if err := s.readOwnAccountRequest(r, &body, &body.Password); err != nil {
		return err
	}
	if err := s.disableSelf(r); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "OK"})
	return nil
}

func (s *Server) disableSelf(r *http.Request) error {
	e := store.Event{Time: s.cfg.Now(), Kind: "account.disabled", Owner: accountOf(r).ID, Message: "The account was disabled: its sessions and API tokens ended."}
	return s.cfg.Store.DisableAccount(r.Context(), accountOf(r).ID, e.By(store.ActorIn(r.Context())))
}

func (s *Server) deleteOwnAccount(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		Password    string `json:"password"`
		WithDevices bool   `json:"with-devices"`
	}
	if err := s.readOwnAccountRequest(r, &body, &body.Password); err != nil {
		return err
	}
	if _, err := DeleteAccount(r.Context(), s.cfg.Store, accountOf(r), body.WithDevices, *store.ActorIn(r.Context()), s.cfg.Now()); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "OK"})
	return nil
}

// DeleteAccount deletes an account. If the account has devices and `withDevices` is false,
// DeleteAccount returns an error. If `withDevices` is true, it deletes the devices too and returns
// the number of deleted devices. If DeleteAccount is interrupted, the account stays disabled; call
// DeleteAccount again to continue.
func DeleteAccount(ctx context.Context, st accountStore, a store.Account, withDevices bool, by store.Actor, now time.Time) (devices int, err error) {
	if n, err := st.CountDevices(ctx, a.ID); err != nil {
		return 0, err
	} else if n > 0 && !withDevices {
		return 0, errHasDevices(n)
	}
	if withDevices {
		// Disable the account, so that no device onboards during the deletion.
		disabled := store.Event{Time: now, Kind: "account.disabled", Owner: a.ID, Message: fmt.Sprintf("Account %q was disabled, to be deleted with its devices.", a.Nick)}
		if err := st.DisableAccount(ctx, a.ID, disabled.By(&by)); err != nil {
			return 0, err
		}
		if devices, err = deleteDevices(ctx, st, a, by, now); err != nil {
			return devices, err
		}
	}
	deleted := store.Event{Time: now, Kind: "account.deleted", Owner: a.ID, Message: fmt.Sprintf("Account %q was deleted.", a.Nick)}
	err = st.DeleteAccount(ctx, a.ID, deleted.By(&by))
	if errors.Is(err, store.ErrHasDevices) { // a device onboarded just now
		err = errHasDevices(1)
	}
	return devices, err
}

func errHasDevices(n int) error {
	return problem(http.StatusConflict, "account-has-devices", "Delete the devices first, or together with the account ('with-devices'). A deleted device must onboard again before it can be used.", "The account has %d device(s).", n)
}

func deleteDevices(ctx context.Context, st accountStore, a store.Account, by store.Actor, now time.Time) (n int, err error) {
	for {
		page, err := st.Devices(ctx, a.ID, "", 100)
		if err != nil || len(page) == 0 {
			return n, err
		}
		for _, d := range page {
			if err := st.DeleteDevice(ctx, a.ID, d.ID, now); err != nil && !errors.Is(err, store.ErrNotFound) {
				return n, err
			}
			n++
			if err := st.AppendEvent(ctx, deviceDeleted(d, now).By(&by)); err != nil {
				return n, err
			}
		}
	}
}

func deviceDeleted(d store.Device, now time.Time) store.Event {
	return store.Event{Time: now, Kind: "device.deleted", Owner: d.Owner, Device: d.ID,
		Message: fmt.Sprintf("Device %q was deleted: its certificates are revoked, and its TPM may onboard to any account.", d.Nick)}
}

// profilesShown is the maximum number of profiles in a list.
const profilesShown = 100

// Profile is the part of an account that others may see.
type Profile struct {
	Nick string `json:"nick"`
}

// listProfiles lists the accounts with public devices, and the caller's own account. Pantacor's
// client completes names with this list. With ?nick=NICK, the list has only the account with this
// nick; with ?nick=^PREFIX, it has only the nicks that begin with PREFIX.
func (s *Server) listProfiles(w http.ResponseWriter, r *http.Request) error {
	nick := r.URL.Query().Get("nick")
	prefix, begins := strings.CutPrefix(nick, "^")
	nicks, err := s.cfg.Store.PublicOwners(r.Context(), prefix, accountOf(r).ID, profilesShown)
	if err != nil {
		return err
	}
	profiles := []Profile{}
	for _, one := range nicks {
		if begins || nick == "" || strings.EqualFold(one, nick) {
			profiles = append(profiles, Profile{one})
		}
	}
	writeJSON(w, http.StatusOK, profiles)
	return nil
}

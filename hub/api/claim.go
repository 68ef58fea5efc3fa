package api

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"gangway/hub/store"
	"gangway/hub/ui"
	"gangway/wire"
)

var errClaimCode = problem(http.StatusBadRequest, "claim-code", "Scan the code on the machine's screen again.", "This is not a valid claim code.")

// claimPage shows the page that asks whether to claim the machine with this claim code. Loading the
// page changes nothing, so that a link preview cannot claim a machine.
func (s *Server) claimPage(w http.ResponseWriter, r *http.Request) error {
	code := r.PathValue("code")
	id, key, err := wire.ParseClaimCode(code)
	if err != nil {
		return errClaimCode
	}
	p := ui.ClaimPage{Code: code, Words: wire.ClaimWords(code)}
	if a := callerOf(r).Account; a != nil {
		had, err := s.hasClaimed(r, id, key, a.ID)
		if err != nil {
			return err
		}
		if had {
			return s.redirect(w, r, claimPath+"/"+id, ui.Notice{})
		}
		if one, ok := s.findClaimant(r.Context(), p.Words); ok && one.code == code {
			p.Asked, p.Addr = one.asked, one.addr
		}
	}
	return s.writeClaimPage(w, r, http.StatusOK, p)
}

// hasClaimed reports whether the account `owner` has claimed the machine with this claim code.
func (s *Server) hasClaimed(r *http.Request, id string, key []byte, owner string) (bool, error) {
	had, has, err := orMissing(s.cfg.Store.JoinToken(r.Context(), id))
	return has && had.Owner == owner && subtle.ConstantTimeCompare(had.PublicKey, key) == 1, err
}

func (s *Server) writeClaimPage(w http.ResponseWriter, r *http.Request, status int, p ui.ClaimPage) error {
	return s.renderPage(w, r, status, "claim", ui.Page{Title: "Claim a machine", Section: ui.SectionOnboard, Data: p})
}

// claimOnPage registers the claim code's key as a join token of the signed-in account. A person can
// also sign in with the form, because the phone that scanned the code is usually not signed in.
func (s *Server) claimOnPage(w http.ResponseWriter, r *http.Request) error {
	code := r.PathValue("code")
	id, key, err := wire.ParseClaimCode(code)
	if err != nil {
		return errClaimCode
	}
	if err := readForm(r); err != nil {
		return err
	}
	var account store.Account
	if a := callerOf(r).Account; a != nil {
		account = *a
	} else {
		nick := r.PostForm.Get("nick")
		token, expires, err := s.signInWithPassword(r, nick, r.PostForm.Get("password"), "", store.ByPage)
		if errors.Is(err, error(errWrongPassword)) {
			s.setAuthenticate(w, r)
			return s.writeClaimPage(w, r, http.StatusUnauthorized, ui.ClaimPage{Code: code, Words: wire.ClaimWords(code), Typed: nick, Problem: errWrongPassword.Message})
		}
		if err != nil {
			return err
		}
		if account, err = s.cfg.Store.AccountByNickOrEmail(r.Context(), nick); err != nil {
			return err
		}
		s.setCookie(w, token, expires)
	}
	now := s.cfg.Now()
	t := store.JoinToken{
		ID: id, PublicKey: key, Owner: account.ID, Nick: "machine " + wire.ClaimWords(code),
		MaxUses: 1, Created: now, Expires: now.Add(wire.ClaimLife),
	}
	err = s.cfg.Store.CreateJoinToken(r.Context(), t)
	if errors.Is(err, store.ErrExists) {
		// The same account may repeat its claim.
		if had, e := s.hasClaimed(r, id, key, account.ID); e == nil && had {
			err = nil
		} else {
			return problem(http.StatusConflict, "claim-taken", "Restart the machine, and claim it with the new code on its screen.", "Another account has already claimed the machine with this code.")
		}
	} else if err == nil {
		s.record(r.Context(), store.Event{Time: now, Kind: "token.created", Owner: account.ID, Token: id, Message: "The machine with the claim code " + wire.ClaimWords(code) + " was claimed."})
	}
	if errors.Is(err, store.ErrFull) {
		return errTokensFull
	}
	if err != nil {
		return err
	}
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		writeJSON(w, http.StatusOK, wire.Claim{Owner: wire.AccountPRN + account.ID, OwnerNick: account.Nick})
		return nil
	}
	http.Redirect(w, r, claimPath+"/"+id, http.StatusSeeOther)
	return nil
}

// showClaim returns the account that claimed the machine with this code. The claim code contains
// the public key of the join token, and showClaim compares that key with the stored key. So only
// the machine itself, and people who have seen the code, can find out who claimed the machine.
func (s *Server) showClaim(w http.ResponseWriter, r *http.Request) error {
	none := problem(http.StatusNotFound, "not-claimed", "Ask again in a few seconds.", "Nobody has claimed this machine yet.")
	id, key, err := wire.ParseClaimCode(r.PathValue("code"))
	if err != nil {
		return errClaimCode
	}
	s.claimants.note(r.PathValue("code"), remoteAddr(r), s.cfg.Now())
	t, err := s.cfg.Store.JoinToken(r.Context(), id)
	if errors.Is(err, store.ErrNotFound) {
		return none
	}
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(t.PublicKey, key) != 1 || t.Disabled || !s.cfg.Now().Before(t.Expires) {
		return none
	}
	account, err := s.cfg.Store.Account(r.Context(), t.Owner)
	if errors.Is(err, store.ErrNotFound) {
		return none
	}
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, wire.Claim{Owner: wire.AccountPRN + account.ID, OwnerNick: account.Nick})
	return nil
}

// claimDevice makes the calling account the owner of the unclaimed device in the path, if
// `challenge` is this device's challenge: the secret that the device received from the hub.
func (s *Server) claimDevice(w http.ResponseWriter, r *http.Request, challenge string) error {
	d, err := s.claimByChallenge(r, r.PathValue("id"), challenge)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, viewDevice(d, accountOf(r).Nick))
	return nil
}

// claimByChallenge makes the calling account the owner of an unclaimed device, if `challenge` is
// this device's challenge. It limits the attempts from one network.
func (s *Server) claimByChallenge(r *http.Request, id, challenge string) (store.Device, error) {
	a, now := accountOf(r), s.cfg.Now()
	if !s.limiters[claimRate].allow(network(remoteAddr(r)), now) {
		return store.Device{}, problem(http.StatusTooManyRequests, "too-many-requests", "Wait a minute and try again.", "Too many claims from this address.")
	}
	wrong := problem(http.StatusPreconditionFailed, "claim", "Compare the id and the challenge with the device's screen. A device can be claimed only once.", "No unclaimed device has this id and this challenge.")
	if !wire.IsID(id) || subtle.ConstantTimeCompare([]byte(strings.ToLower(strings.TrimSpace(challenge))), []byte(s.challenge(id))) != 1 {
		return store.Device{}, wrong
	}
	rules, err := s.cfg.Onboard.Policy(r.Context(), a.ID)
	if err != nil {
		return store.Device{}, err
	}
	if !rules.WithoutTPM {
		return store.Device{}, problem(http.StatusPreconditionFailed, "without-tpm", "Onboard the device with its TPM, or change the policy's without_tpm.", "Your policy refuses devices without a TPM.")
	}
	d, err := s.cfg.Store.ClaimDevice(r.Context(), id, a.ID, now)
	if errors.Is(err, store.ErrNotFound) {
		return store.Device{}, wrong
	}
	if err != nil {
		return store.Device{}, err
	}
	s.record(r.Context(), store.Event{Time: now, Kind: "device.claimed", Owner: a.ID, Device: d.ID, Message: fmt.Sprintf("Device %q was claimed with its challenge.", d.Nick)})
	return d, nil
}

// challenge returns the secret with which a person claims a device that has no owner. It has 60
// bits, and is derived from the hub's seal key, so it is the same for each request and need not be
// in the database.
func (s *Server) challenge(id string) string {
	m := hmac.New(sha256.New, s.cfg.CA.SealKey())
	m.Write([]byte("gangway claim challenge v1\x00" + id))
	text := strings.ToLower(base32.StdEncoding.EncodeToString(m.Sum(nil)[:10]))[:12]
	return text[:4] + "-" + text[4:8] + "-" + text[8:]
}

package agent

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"gangway/internal/strictjson"
	"gangway/wire"
)

// A machine repeatedly asks the hub whether a person has claimed it. These are the pauses between
// its requests. At first, the pause is claimSoon, because a person is probably in front of the
// machine. If nobody has claimed the machine after the time claimLong, the pause becomes
// claimLater.
const (
	claimSoon  = 3 * time.Second
	claimLater = 15 * time.Second
	claimLong  = 10 * time.Minute
)

// claimedToken waits until a person claims this machine, and returns the machine's own join token.
// If an onboarding with an earlier token has begun at the same hub, claimedToken does not wait, and
// returns the earlier token without its secret. The secret is not needed, because the request is
// already signed.
func (a *Agent) claimedToken(ctx context.Context) (*wire.TokenFile, error) {
	s := &a.state
	if (s.Phase == PhaseRequested || s.Phase == PhaseAnswered) && s.HubName == a.cfg.Hub.HubName {
		return &wire.TokenFile{ID: s.TokenID, Owner: s.Owner, Hub: s.Hub, HubName: s.HubName, HubCA: s.HubCA}, nil
	}
	if err := a.reset(); err != nil {
		return nil, err
	}
	return a.claim(ctx)
}

// The method `claim` makes a join token, shows the token's claim code, and waits until a person
// claims the machine. The token's secret is only in memory, so the claim code changes each time the
// agent restarts.
func (a *Agent) claim(ctx context.Context) (*wire.TokenFile, error) {
	secret, id := wire.NewSecret(), wire.NewID()
	key, err := wire.OwnershipKey(secret, id)
	if err != nil {
		return nil, err
	}
	code, err := wire.ClaimCode(id, key.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, err
	}
	h, err := a.hubOf(a.cfg.Hub.HubName, a.cfg.Hub.HubCA)
	if err != nil {
		return nil, err
	}
	defer h.close()
	address := ""
	show := func() error { // called again when the hub has named the URL of the hub's pages
		if now := h.at.forPeople() + "/claim/" + code; now != address {
			address = now
			if err := a.edit(func(s *State) { s.Claim, s.ClaimWords = address, wire.ClaimWords(code) }); err != nil {
				return err
			}
			a.say("claim", "This machine has no owner yet. To claim it, open %s and check that the page shows %s.", address, wire.ClaimWords(code))
		}
		return nil
	}
	if err := show(); err != nil {
		return nil, err
	}
	var who wire.Claim
	shown := time.Now()
	for {
		var answer []byte
		err := a.retry(ctx, h.at, func() (err error) {
			answer, err = h.send(ctx, http.MethodGet, "/claims/"+code, "", nil)
			return err
		})
		if err == nil {
			if err := strictjson.Decode(answer, &who); err != nil {
				return nil, fmt.Errorf("agent: reading the hub's answer to the claim: %w", err)
			}
			break
		}
		var no *Refused
		if !errors.As(err, &no) || no.Code != "not-claimed" {
			return nil, err
		}
		if err := show(); err != nil {
			return nil, err
		}
		pause := claimSoon
		if time.Since(shown) > claimLong {
			pause = claimLater
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
	text, err := json.Marshal(wire.TokenFile{
		ID: id, PRN: wire.TokenPRN + id, Owner: who.Owner, Token: base64.StdEncoding.EncodeToString(secret),
		Hub: a.cfg.Hub.Hub, HubName: a.cfg.Hub.HubName, HubCA: a.cfg.Hub.HubCA,
	})
	if err != nil {
		return nil, err
	}
	token, err := wire.ParseTokenFile(text)
	if err != nil {
		return nil, fmt.Errorf("agent: the hub's answer to the claim has an invalid owner: %w", err)
	}
	if err := a.edit(func(s *State) { s.Claim, s.ClaimWords, s.Waiting = "", "", "" }); err != nil {
		return nil, err
	}
	a.say("claimed", "%q has claimed this machine.", clip(who.OwnerNick))
	return token, nil
}

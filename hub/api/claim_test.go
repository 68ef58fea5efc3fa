package api_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"gangway/internal/brief"
	"gangway/internal/fleet"
	"gangway/internal/hubtest"
	"gangway/wire"
)

// ownToken makes the secret, the id and the claim code of a join token, as a machine without a
// token file does for itself.
func ownToken(t testing.TB) (secret []byte, id, code string) {
	t.Helper()
	secret, id = wire.NewSecret(), wire.NewID()
	key := must(wire.OwnershipKey(secret, id))(t)
	return secret, id, must(wire.ClaimCode(id, key.Public().(ed25519.PublicKey)))(t)
}

func claimCode(t testing.TB) string {
	t.Helper()
	_, _, code := ownToken(t)
	return code
}

// A claim code is useless without an account. Opening the page of the claim code changes nothing.
func TestClaimNeedsAnAccount(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	code := claimCode(t)
	stranger := s.person(t, "")
	for _, body := range []string{"", "nick=ada", "nick=ada&password=wrong", "nick=nobody&password=x"} {
		if status, page, _ := stranger.request("POST", "/claim/"+code, body, map[string]string{"Content-Type": "application/x-www-form-urlencoded"}); status != 401 {
			t.Errorf("%q: %d %s", body, status, brief.Of(page))
		}
	}
	stranger.request("GET", "/claim/"+code, nil, nil)
	if status, _, _ := stranger.request("GET", "/claims/"+code, nil, nil); status != 404 {
		t.Errorf("it was claimed: status %d", status)
	}
	narrow := signInFor(s.person(t, "ada"), "metrics")
	if status, body, _ := stranger.request("POST", "/claim/"+code, nil, map[string]string{"Authorization": "Bearer " + narrow}); status != 403 {
		t.Errorf("a token for something else claims: %d %s", status, body)
	}
	status, page, _ := stranger.request("POST", "/claim/"+code, nil, map[string]string{"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"})
	if status != 403 {
		t.Errorf("another site's page claims: %d %s", status, brief.Of(page))
	}
}

// After one account has used a claim code, another account cannot use this code. Only a caller who
// knows the claim code can ask the hub who claimed the machine.
func TestClaimedCodeIsNotTakenAway(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	_, id, code := ownToken(t)
	s.Account(t, "mallory")
	ada, mallory := s.person(t, "ada"), s.person(t, "mallory")
	if status, body, _ := ada.request("POST", "/claim/"+code, nil, map[string]string{"Accept": "application/json"}); status != 200 || !strings.Contains(string(body), `"owner-nick":"ada"`) {
		t.Fatalf("%d %s", status, body)
	}
	if status, body, _ := mallory.request("POST", "/claim/"+code, nil, nil); status != 409 {
		t.Errorf("%d %s", status, body)
	}
	// A claim code with the same id and another key is refused too.
	key := must(wire.OwnershipKey(wire.NewSecret(), id))(t)
	other := must(wire.ClaimCode(id, key.Public().(ed25519.PublicKey)))(t)
	if status, body, _ := mallory.request("POST", "/claim/"+other, nil, nil); status != 409 {
		t.Errorf("%d %s", status, body)
	}
	if status, body, _ := mallory.request("GET", "/claims/"+other, nil, nil); status != 404 {
		t.Errorf("a caller without the key learns the owner: %d %s", status, body)
	}
	// Mallory forges a claim code with the id of Ada's join token. With this code, Mallory cannot
	// find out the owner of the join token, and cannot become its owner.
	guess := must(wire.ClaimCode(s.tok.ID, key.Public().(ed25519.PublicKey)))(t)
	if status, body, _ := mallory.request("GET", "/claims/"+guess, nil, nil); status != 404 {
		t.Errorf("%d %s", status, body)
	}
	if status, body, _ := mallory.request("POST", "/claim/"+guess, nil, nil); status != 409 {
		t.Errorf("%d %s", status, body)
	}
	s.Advance(wire.ClaimLife + time.Second)
	if status, body, _ := mallory.request("GET", "/claims/"+code, nil, nil); status != 404 {
		t.Errorf("an hour later: %d %s", status, body)
	}
}

// The machine that shows the claim code onboards once, with a secret that never left the machine. A
// person who only saw the code cannot onboard a device with it.
func TestClaimedMachineJoinsAndNoOther(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	secret, id, code := ownToken(t)
	ada := s.person(t, "ada")
	tok := *s.tok
	tok.ID, tok.PRN, tok.Token = id, wire.TokenPRN+id, base64.StdEncoding.EncodeToString(secret)
	if a := s.post(t, must(s.victim.Request(&tok, fleet.RequestChange{}))(t)); a.Status == http.StatusOK {
		t.Errorf("it onboarded before anyone claimed it: %s", a.Body)
	}
	status, _, h := ada.request("POST", "/claim/"+code, "nick=ada&password="+strings.ReplaceAll(hubtest.Password, " ", "+"), map[string]string{"Content-Type": "application/x-www-form-urlencoded"})
	if status != 303 || h.Get("Location") != "/ui/onboard/claim/"+id {
		t.Fatalf("%d", status)
	}
	saw := tok
	saw.Token = base64.StdEncoding.EncodeToString(wire.NewSecret())
	if a := s.post(t, must(s.victim.Request(&saw, fleet.RequestChange{}))(t)); a.Status != http.StatusForbidden {
		t.Errorf("a person who only saw the code onboards: %d %s", a.Status, a.Body)
	}
	if a := s.post(t, must(s.victim.Request(&tok, fleet.RequestChange{}))(t)); a.Status != http.StatusOK {
		t.Errorf("the machine does not onboard: %d %s", a.Status, a.Body)
	}
}

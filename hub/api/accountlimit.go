package api

import (
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// accountLimiter bounds how often all networks together may try passwords for one account. A
// network from which somebody has signed in to the account before is exempt, so strangers cannot
// lock the owner out.
//
// The state is kept only in memory, so after a restart every network counts as unknown.
type accountLimiter struct {
	attempts *limiter[string] // by the login as typed, in lower case

	mu    sync.Mutex
	known map[accountNetwork]time.Time // guarded by mu: time of the last sign-in
}

type accountNetwork struct {
	account string
	network netip.Prefix
}

// knownNetworkLife is how long a network is remembered after its last sign-in.
const knownNetworkLife = 90 * 24 * time.Hour

var errTooManyAttempts = problem(http.StatusTooManyRequests, "too-many-tries", "Wait a minute and try again, or sign in from a network that you used before.", "Too many passwords were tried for this account.")

func newAccountLimiter(r Rate) *accountLimiter {
	return &accountLimiter{attempts: limiterOf[string](r), known: make(map[accountNetwork]time.Time)}
}

// allow reports whether the hub may check a password, and in which lane of the queue for password
// checks: known networks and unknown networks have separate lanes. `account` is empty if no account
// has the name `login`. The limits are the same for such a name, so that a stranger cannot find out
// which accounts exist.
func (a *accountLimiter) allow(login, account string, from netip.Prefix, now time.Time) (lane int, allowed bool) {
	a.mu.Lock()
	last, ok := a.known[accountNetwork{account, from}]
	a.mu.Unlock()
	if ok && account != "" && now.Sub(last) < knownNetworkLife {
		return knownNetwork, true
	}
	if len(login) > 256 {
		login = login[:256] // no account has a longer login
	}
	return unknownNetwork, a.attempts.allow(strings.ToLower(login), now)
}

// signedIn remembers the network of a successful sign-in.
func (a *accountLimiter) signedIn(account string, from netip.Prefix, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.known) >= maxClients {
		for k, last := range a.known {
			if now.Sub(last) > 24*time.Hour {
				delete(a.known, k)
			}
		}
		if len(a.known) >= maxClients {
			clear(a.known)
		}
	}
	a.known[accountNetwork{account, from}] = now
}

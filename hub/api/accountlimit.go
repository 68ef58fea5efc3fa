package api

import (
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// accountLimiter bounds tries of passwords for one account, from however many
// addresses they come. A network from which somebody signed in to the account
// before is not bounded by it, so that strangers cannot lock a person out.
//
// What it remembers is in memory only: after a restart, each network is new.
type accountLimiter struct {
	tries *limiter[string] // by login, as it was typed, in lower case

	mu    sync.Mutex
	known map[accountNetwork]time.Time // guarded by mu: the last sign-in
}

type accountNetwork struct {
	account string
	network netip.Prefix
}

// knownFor is how long a network is remembered.
const knownFor = 90 * 24 * time.Hour

var errTooManyTries = problem(http.StatusTooManyRequests, "too-many-tries", "Wait a minute and try again, or sign in from where you did before.", "Too many passwords were tried for this account.")

func newAccountLimiter(r Rate) *accountLimiter {
	return &accountLimiter{tries: limiterOf[string](r), known: make(map[accountNetwork]time.Time)}
}

// allow reports whether a password may be tried, and in which lane of the
// queue. account is empty if there is none of this login: that makes no
// difference to a stranger.
func (a *accountLimiter) allow(login, account string, from netip.Prefix, now time.Time) (lane int, allowed bool) {
	a.mu.Lock()
	last, ok := a.known[accountNetwork{account, from}]
	a.mu.Unlock()
	if ok && account != "" && now.Sub(last) < knownFor {
		return known, true
	}
	if len(login) > 256 {
		login = login[:256] // no account has it
	}
	return stranger, a.tries.allow(strings.ToLower(login), now)
}

// signedIn remembers where an account was signed in from.
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

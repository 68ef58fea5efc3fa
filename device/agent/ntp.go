package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"gangway/device/agent/sntp"
)

// A time server's answer is not authenticated. So it sets a clock that is
// evidently wrong, as the hub's word does; one that may be right it moves by at
// most a day from what it said at the start, for a certificate that has expired
// must not come back to life. The hub's own word, which is verified, counts more.
const (
	ntpMost  = 24 * time.Hour
	ntpFirst = 2 * time.Second // for each server, before the hub is asked
	ntpWait  = 5 * time.Second
	ntpEvery = time.Hour
	ntpAgain = time.Minute // after a failure
	// ntpSlack is how far a clock may be off without being set: less than a
	// network's way takes is not known.
	ntpSlack = 100 * time.Millisecond
)

// timeKeeper sets the clock by time servers.
type timeKeeper struct {
	servers []string
	set     func(time.Time) error
	say     func(format string, args ...any)
	now     func() time.Time

	mu sync.Mutex
	// base is what the clock said at the start, or what the hub has set it to,
	// and since is when that was, by a clock that nobody sets.
	base  time.Time
	since time.Time
	said  string // the last failure
}

func newTimeKeeper(servers []string, set func(time.Time) error, say func(string, ...any)) *timeKeeper {
	k := &timeKeeper{servers: servers, set: set, say: say, now: time.Now}
	k.rebase(k.now())
	return k
}

// rebase notes that the hub has set the clock.
func (k *timeKeeper) rebase(is time.Time) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.base, k.since = is.Round(0), time.Now()
}

// ask asks the servers in order, each for as long as it may take, until one has
// answered, and sets the clock by it.
func (k *timeKeeper) ask(ctx context.Context, wait time.Duration, roots []*x509.Certificate) error {
	var errs []error
	for _, server := range k.servers {
		one, cancel := context.WithTimeout(ctx, wait)
		is, err := sntp.Ask(one, server, madeAt(roots))
		cancel()
		if err == nil {
			return k.heard(server, is, roots)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// heard sets the clock by an answer that came just now.
func (k *timeKeeper) heard(server string, is time.Time, roots []*x509.Certificate) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	expected := k.base.Add(time.Since(k.since))
	switch off := is.Sub(now); {
	case !plausible(is, roots):
		return fmt.Errorf("the time server %s says %s, which cannot be", server, is.UTC().Format(time.DateTime))
	case !plausible(now, roots):
		k.base, k.since = is.Round(0), time.Now()
	case off.Abs() < ntpSlack:
		return nil
	case is.Sub(expected).Abs() > ntpMost:
		return fmt.Errorf("the time server %s says %s, the machine's clock %s: more than a day is not believed without the hub's word; set the clock, if it is wrong", server, is.UTC().Format(time.DateTime), now.UTC().Format(time.DateTime))
	}
	if err := k.set(is); err != nil {
		return fmt.Errorf("the clock cannot be set: %w", err)
	}
	if is.Sub(now).Abs() >= time.Second {
		k.say("The machine's clock was set from %s to %s, by the time server %s.", now.UTC().Format(time.DateTime), is.UTC().Format(time.DateTime), server)
	}
	return nil
}

// complain says a failure, once.
func (k *timeKeeper) complain(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	k.mu.Lock()
	news := text != "" && text != k.said
	k.said = text
	k.mu.Unlock()
	if news {
		k.say("The time: %s.", text)
	}
}

// keep asks again and again, until ctx ends.
func (k *timeKeeper) keep(ctx context.Context, roots []*x509.Certificate) {
	for {
		pause := ntpEvery
		err := k.ask(ctx, ntpWait, roots)
		if ctx.Err() != nil {
			return
		}
		if k.complain(err); err != nil {
			pause = ntpAgain
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause*9/10 + rand.N(pause/5)):
		}
	}
}

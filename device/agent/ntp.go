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

// The answer of a time server is not authenticated. So the agent limits how far such answers can
// move a plausible clock: to at most ntpMost from a base, which is the last value to which the hub
// set the clock or to which a clearly wrong clock was corrected. Without such a value, the base is
// the clock's value when the agent started. Because of this limit, forged answers cannot make a
// certificate valid again that expired long ago. If the clock is clearly wrong, the answer of any
// time server may set it.
const (
	ntpMost  = 24 * time.Hour
	ntpFirst = 2 * time.Second // time to wait for each server before the agent asks the hub
	ntpWait  = 5 * time.Second
	ntpEvery = time.Hour
	ntpAgain = time.Minute // pause after a failure
	// ntpSlack is the smallest error of the clock that the agent corrects. Delays of the network
	// make smaller differences unreliable.
	ntpSlack = 100 * time.Millisecond
)

// timeKeeper sets the clock from time servers.
type timeKeeper struct {
	servers []string
	set     func(time.Time) error
	say     func(format string, args ...any)
	now     func() time.Time

	mu sync.Mutex
	// base is the last value to which the hub set the clock, or to which a clearly wrong clock was
	// corrected. Without such a value, base is the clock's value when the agent started. `since` is
	// the moment when `base` was set. It contains Go's monotonic time, which does not change with
	// the clock.
	base  time.Time
	since time.Time
	said  string // the last failure that `complain` reported; empty after a success
}

func newTimeKeeper(servers []string, set func(time.Time) error, say func(string, ...any)) *timeKeeper {
	k := &timeKeeper{servers: servers, set: set, say: say, now: time.Now}
	k.rebase(k.now())
	return k
}

// rebase records that the hub has set the clock to the time `is`.
func (k *timeKeeper) rebase(is time.Time) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.base, k.since = is.Round(0), time.Now()
}

// The method `ask` asks the servers in order until one of them answers, and sets the clock from
// that answer. It waits at most `wait` for each server.
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

// The method `heard` sets the clock from a time server's answer that has just arrived.
func (k *timeKeeper) heard(server string, is time.Time, roots []*x509.Certificate) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	expected := k.base.Add(time.Since(k.since))
	switch off := is.Sub(now); {
	case !plausible(is, roots):
		return fmt.Errorf("the time server %s reports %s, which is not plausible", server, is.UTC().Format(time.DateTime))
	case !plausible(now, roots):
		k.base, k.since = is.Round(0), time.Now()
	case off.Abs() < ntpSlack:
		return nil
	case is.Sub(expected).Abs() > ntpMost:
		return fmt.Errorf("the time server %s reports %s, but the machine's clock shows %s: a change of more than a day needs the hub's confirmation; if the clock is wrong, set it by hand", server, is.UTC().Format(time.DateTime), now.UTC().Format(time.DateTime))
	}
	if err := k.set(is); err != nil {
		return fmt.Errorf("setting the clock: %w", err)
	}
	if is.Sub(now).Abs() >= time.Second {
		k.say("The machine's clock was changed from %s to %s, the time that the time server %s reported.", now.UTC().Format(time.DateTime), is.UTC().Format(time.DateTime), server)
	}
	return nil
}

// complain reports why the time servers failed. If the failure is the same as the last one,
// complain reports nothing.
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
		k.say("Asking the time servers for the time failed: %s.", text)
	}
}

// keep asks the time servers at intervals until ctx ends.
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

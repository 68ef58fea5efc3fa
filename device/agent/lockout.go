package agent

import (
	"context"
	"fmt"
	"time"

	"gangway/device/identity"
	"gangway/device/install/lockout"
)

// lockoutPoll is how often the TPM is asked whether its lockout has ended.
const lockoutPoll = 30 * time.Second

// waitOutLockout calls use, and again after a lockout that made the TPM refuse
// it. A lockout that can be lifted without a password is lifted, once; else it
// is waited for. The device's keys are used so that lockout does not refuse them
// (package identity): this is for TPMs whose makers see that otherwise, and for
// certificates in NV that are protected from guessing.
func (a *Agent) waitOutLockout(ctx context.Context, t tpm, use func() error) error {
	err, waited := a.liftLockout(ctx, t, use), false
	for ; identity.IsLockout(err); err = use() {
		waited = true
		if err := a.awaitUnlocked(ctx, t); err != nil {
			return err
		}
	}
	if err == nil && waited {
		a.clearWaiting()
	}
	return err
}

// liftLockout is throughLockout for what is optional: a lockout that cannot be
// lifted is not waited for.
func (a *Agent) liftLockout(ctx context.Context, t tpm, use func() error) error {
	err := use()
	if identity.IsLockout(err) && a.tryLift(ctx, t) {
		err = use()
	}
	return err
}

// tryLift lifts the lockout where that needs no password, and reports whether it
// did.
func (a *Agent) tryLift(ctx context.Context, t tpm) bool {
	was, err := t.liftLockout(ctx)
	switch {
	case err != nil:
		a.cfg.Log.Warn("lockout", "err", err)
	case was:
		a.say("lockout", "The TPM was in lockout, after losses of power or wrong passwords; it was lifted.")
	}
	return was && err == nil
}

// awaitUnlocked waits until the TPM says that the lockout has ended, or, where it
// does not say that it is in one, for a moment.
func (a *Agent) awaitUnlocked(ctx context.Context, t tpm) error {
	for {
		s, err := t.readLockout(ctx)
		if err != nil {
			return err
		}
		a.setWaiting(lockoutWords(s))
		pause := lockoutPoll
		if s.Interval > 0 {
			pause = min(pause, max(s.Interval/4, 250*time.Millisecond))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		if !s.Locked {
			return nil
		}
	}
}

func lockoutWords(s lockout.State) string {
	ends := "It ends when the person who knows the lockout password lifts it, or the TPM is cleared."
	if s.Interval > 0 {
		ends = fmt.Sprintf("It ends by itself within %s, if the machine stays switched on.", s.Interval)
	}
	password := ""
	if s.Password {
		password = " It cannot be lifted here: the TPM's lockout hierarchy has a password."
	}
	return fmt.Sprintf("The TPM is in lockout: it counted %d wrong passwords or losses of power, and %d are too many.%s %s", s.Tries, s.Max, password, ends)
}

// clearWaiting takes back what waiting said.
func (a *Agent) clearWaiting() {
	if err := a.edit(func(s *State) { s.Waiting = "" }); err != nil {
		a.cfg.Log.Warn("state", "err", err)
	}
}

package agent

import (
	"context"
	"fmt"
	"time"

	"gangway/device/identity"
	"gangway/device/install/lockout"
)

// lockoutPoll is the longest interval at which the agent asks whether the TPM's
// lockout has ended.
const lockoutPoll = 30 * time.Second

// waitOutLockout calls `use`, and calls it again for as long as a TPM lockout makes it fail. If the
// TPM's lockout hierarchy has no password, waitOutLockout lifts the lockout once. Otherwise it
// waits until the lockout ends. With most TPMs, a lockout never makes `use` fail, because package
// identity uses the keys in a way that a lockout does not affect. There are two exceptions: some
// TPMs refuse to use the keys nevertheless, and some EK certificates are in NV indices with
// dictionary attack protection.
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

// liftLockout calls `use`. If `use` fails because of a lockout, and tryLift lifts the lockout,
// liftLockout calls `use` once more. Unlike waitOutLockout, liftLockout does not wait for the end
// of a lockout.
func (a *Agent) liftLockout(ctx context.Context, t tpm, use func() error) error {
	err := use()
	if identity.IsLockout(err) && a.tryLift(ctx, t) {
		err = use()
	}
	return err
}

// tryLift lifts the lockout if the TPM's lockout hierarchy has no password. It returns false if the
// TPM stays in lockout.
func (a *Agent) tryLift(ctx context.Context, t tpm) bool {
	was, err := t.liftLockout(ctx)
	switch {
	case err != nil:
		a.cfg.Log.Warn("lockout", "err", err)
	case was:
		a.say("lockout", "The TPM was in lockout after power losses or wrong passwords; the lockout was lifted.")
	}
	return was && err == nil
}

// awaitUnlocked waits until the TPM reports that the lockout has ended. If the TPM reports no
// lockout although it has just refused a command because of one, awaitUnlocked waits for one poll
// interval.
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
	ends := "The lockout ends when a person uses the lockout password to end it, or clears the TPM."
	if s.Interval > 0 {
		ends = fmt.Sprintf("If the machine stays switched on, the lockout ends within %s.", s.Interval)
	}
	password := ""
	if s.Password {
		password = " The agent cannot end the lockout, because the TPM's lockout hierarchy has a password."
	}
	return fmt.Sprintf("The TPM is in lockout: it counted %d wrong passwords or power losses; the limit is %d.%s %s", s.Tries, s.Max, password, ends)
}

// clearWaiting removes the sentence that setWaiting stored in the state.
func (a *Agent) clearWaiting() {
	if err := a.edit(func(s *State) { s.Waiting = "" }); err != nil {
		a.cfg.Log.Warn("state", "err", err)
	}
}

package revision

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"gangway/wire/trail"
)

// maxTries is how often a call of the hook is begun in one phase. More than
// one means that the agent was killed, or the machine lost its power, in it:
// after so many the revision is to blame.
const maxTries = 3

// maxRollbacks is the same for rolling back, after which nothing is left to do
// but to call for a person.
const maxRollbacks = 10

// advance does the next thing for the step under way, and says how long to
// wait after it.
func (f *Follower) advance(ctx context.Context) (time.Duration, error) {
	switch w := f.journal.Step; w.Phase {
	case queued:
		return 0, f.fetch(ctx)
	case installing:
		return 0, f.install(ctx)
	case rebooting, rebootingAfter:
		return f.reboot(ctx)
	case inTest:
		return f.test(ctx)
	case committing:
		return 0, f.commit(ctx)
	case rollingBack:
		return 0, f.rollBack(ctx)
	case ended:
		return 0, f.finish(ctx)
	default:
		return 0, diskError(fmt.Errorf("the journal's phase %q is none of this version's", w.Phase))
	}
}

// fetch downloads and lays out. Nothing is installed yet, so a step that its
// owner took back is simply dropped.
func (f *Follower) fetch(ctx context.Context) error {
	w := f.journal.Step
	err := f.report(ctx, w.Rev, "QUEUED", 5, "Taken by the device.", nil)
	if err == nil {
		err = f.confirm(ctx)
	}
	if err == nil {
		err = f.prepare(ctx, f.journal.Step.revision)
	}
	if err == nil {
		err = f.report(ctx, w.Rev, "INPROGRESS", 50, "Being installed.", nil)
	}
	var gone *abandoned
	switch {
	case errors.As(err, &gone):
		return f.end(gone.outcome, gone.reason)
	case withdrawn(err):
		f.say("Revision %d is not wanted any more.", w.Rev)
		return f.drop()
	case err != nil:
		return err
	}
	return f.enter(installing, nil)
}

// confirm takes the state as it is now that the step is taken: until then its
// owner may have exchanged it.
func (f *Follower) confirm(ctx context.Context) error {
	w := f.journal.Step
	text, err := f.conn.Do(ctx, http.MethodGet, fmt.Sprintf("/trails/%s/steps/%d/state", f.cfg.Device, w.Rev), nil, trail.MaxAnswer)
	if err != nil {
		return err
	}
	s, err := parseState(text)
	if err != nil {
		return &abandoned{wontGo, "This device does not take the revision: " + err.Error() + "."}
	}
	rev := revision{w.Rev, s.sum}
	if err := f.keepState(rev, s); err != nil || rev == w.revision {
		return err
	}
	return f.change(func(w *work) { w.revision = rev })
}

// withdrawn says that the step is final, or gone, on the hub.
func withdrawn(err error) bool {
	var no Refusal
	return errors.As(err, &no) && (no.HTTPStatus() == http.StatusConflict || no.HTTPStatus() == http.StatusNotFound)
}

func (f *Follower) install(ctx context.Context) error {
	w := f.journal.Step
	if w.Tries >= maxTries {
		return f.fail(fmt.Sprintf("The machine stopped %d times in the middle of the installation.", w.Tries))
	}
	f.say("Revision %d is being installed.", w.Rev)
	v, err := f.call(ctx, "install")
	switch {
	case err != nil:
		return err
	case !v.ok:
		return f.fail(v.reason)
	case v.reboot:
		return f.askReboot(rebooting)
	}
	return f.enter(inTest, nil)
}

// askReboot writes down which start of the machine this is, before anybody
// ends it.
func (f *Follower) askReboot(p phase) error {
	id, err := f.bootID()
	if err != nil {
		return err
	}
	f.rebootCalled = false
	return f.enter(p, func(w *work) { w.BootID = id })
}

func (f *Follower) bootID() (string, error) {
	b, err := os.ReadFile(f.cfg.BootID)
	if err != nil {
		return "", diskError(err)
	}
	return strings.TrimSpace(string(b)), nil
}

// waited is how long this process has seen the step as it is. The machine's
// clock has no say: without a battery it begins anywhere, and is set later.
func (f *Follower) waited() time.Duration {
	w := f.journal.Step
	if now := fmt.Sprint(w.revision, w.Phase, w.Passed); f.phase != now {
		f.phase, f.since = now, time.Now()
	}
	return time.Since(f.since)
}

// reboot has the hook start the machine anew, and goes on when it did.
func (f *Follower) reboot(ctx context.Context) (time.Duration, error) {
	w := f.journal.Step
	id, err := f.bootID()
	if err != nil {
		return 0, err
	}
	if id != w.BootID {
		f.say("The machine was started anew.")
		if w.Phase == rebootingAfter {
			return 0, f.end(failed, w.Reason)
		}
		return 0, f.enter(inTest, nil)
	}
	if f.waited() > f.cfg.RebootWithin {
		reason := fmt.Sprintf("The machine was not started anew within %s.", f.cfg.RebootWithin)
		if w.Phase == rebootingAfter {
			return 0, f.end(failed, w.Reason+" "+reason)
		}
		return 0, f.fail(reason)
	}
	if !f.rebootCalled && w.Tries < maxTries { // again after the agent alone was started anew
		f.rebootCalled = true
		// It is only told to; an owner who is watching learns why it goes away.
		_ = f.report(ctx, w.Rev, "INPROGRESS", 60, "The machine starts anew.", nil)
		f.say("Revision %d needs the machine to start anew.", w.Rev)
		v, err := f.call(ctx, "reboot")
		if err != nil {
			return 0, err
		}
		if !v.ok {
			if w.Phase == rebootingAfter {
				return 0, f.end(failed, w.Reason+" "+v.reason)
			}
			return 0, f.fail(v.reason)
		}
	}
	return min(5*time.Second, f.cfg.RebootWithin), nil
}

// test has the hook test what is installed, and then the hub reached: a
// revision that cuts the machine off is no good either.
func (f *Follower) test(ctx context.Context) (time.Duration, error) {
	w := f.journal.Step
	if !w.Passed {
		if w.Tries >= maxTries {
			return 0, f.fail(fmt.Sprintf("The machine stopped %d times in the middle of the test.", w.Tries))
		}
		if err := f.report(ctx, w.Rev, "TESTING", 75, "Being tested.", nil); withdrawn(err) {
			return 0, f.fail("Its owner gave it up.")
		}
		f.say("Revision %d is being tested.", w.Rev)
		v, err := f.call(ctx, "test")
		if err != nil {
			return 0, err
		}
		if !v.ok || v.reboot {
			return 0, f.fail(v.refused("test"))
		}
		return 0, f.change(func(w *work) { w.Passed, w.Call = true, "" })
	}
	if f.cfg.HubWithin > 0 {
		f.waited()
		asking, cancel := context.WithTimeout(ctx, 30*time.Second)
		err := f.report(asking, w.Rev, "TESTING", 90, "The test passed.", nil)
		cancel()
		switch {
		case withdrawn(err):
			return 0, f.fail("Its owner gave it up.")
		case err != nil && ctx.Err() != nil:
			return 0, ctx.Err()
		case err != nil:
			if f.waited() > f.cfg.HubWithin {
				return 0, f.fail(fmt.Sprintf("With it the hub could not be reached within %s: %v.", f.cfg.HubWithin, err))
			}
			f.complain(err)
			return min(5*time.Second, f.cfg.HubWithin/4), nil
		}
	}
	return 0, f.enter(committing, nil)
}

// commit makes the revision the one that runs. What ran before is kept, to go
// back to by hand.
func (f *Follower) commit(ctx context.Context) error {
	w := f.journal.Step
	if w.Tries >= maxTries {
		return f.fail(fmt.Sprintf("The machine stopped %d times when the revision was made permanent.", w.Tries))
	}
	v, err := f.call(ctx, "commit")
	if err != nil {
		return err
	}
	if !v.ok || v.reboot {
		return f.fail(v.refused("commit"))
	}
	j := f.journal
	rev, step := w.revision, *w
	step.Phase, step.Outcome, step.Reason, step.Call = ended, done, "Installed, tested, and made permanent.", ""
	j.Former, j.Current, j.Step = j.Current, &rev, &step
	if err := f.save(j); err != nil {
		return err
	}
	f.say("Revision %d runs.", rev.Rev)
	return nil
}

// fail begins to roll back.
func (f *Follower) fail(reason string) error {
	f.say("Revision %d is rolled back: %s", f.journal.Step.Rev, reason)
	return f.enter(rollingBack, func(w *work) { w.Reason = reason })
}

func (f *Follower) rollBack(ctx context.Context) error {
	w := f.journal.Step
	if w.Tries >= maxRollbacks {
		return f.end(failed, fmt.Sprintf("%s The machine stopped %d times when it was rolled back: look after it.", w.Reason, w.Tries))
	}
	v, err := f.call(ctx, "rollback")
	switch {
	case err != nil:
		return err
	case !v.ok:
		return f.end(failed, w.Reason+" Rolling back failed too: "+v.reason)
	case v.reboot:
		return f.askReboot(rebootingAfter)
	}
	return f.end(failed, w.Reason)
}

// end writes the outcome down, to be reported.
func (f *Follower) end(o outcome, reason string) error {
	return f.enter(ended, func(w *work) { w.Outcome, w.Reason = o, reason })
}

// finish reports the outcome until the hub has taken it, or has another.
func (f *Follower) finish(ctx context.Context) error {
	w := f.journal.Step
	if err := f.report(ctx, w.Rev, string(w.Outcome), 100, w.Reason, nil); err != nil && !withdrawn(err) {
		return err
	}
	f.say("Revision %d: %s.", w.Rev, w.Outcome)
	return f.drop()
}

// drop forgets the step and what it alone needed.
func (f *Follower) drop() error {
	j := f.journal
	j.Step = nil
	if err := f.save(j); err != nil {
		return err
	}
	f.hashed = nil
	f.collect()
	return nil
}

// transfer is what Pantavisor reports of a download.
type transfer struct {
	Name       string `json:"object_name"`
	ID         string `json:"object_id"`
	Total      int64  `json:"total_size"`       // bytes
	Downloaded int64  `json:"total_downloaded"` // bytes
	Start      int64  `json:"start_time"`       // seconds since 1970
	Current    int64  `json:"current_time"`
}

type downloads struct {
	Total transfer `json:"total"`
}

// report tells the hub a status, percent and message. more may be nil.
func (f *Follower) report(ctx context.Context, rev int, status string, percent int, message string, more any) error {
	b, err := json.Marshal(struct {
		Status    string `json:"status"`
		Message   string `json:"status-msg"`
		Progress  int    `json:"progress"`
		Retries   int    `json:"retries"`
		Downloads any    `json:"downloads,omitempty"`
	}{status, clip(message, 4<<10), percent, max(0, f.tries()-1), more})
	if err != nil {
		return err
	}
	_, err = f.conn.Do(ctx, http.MethodPut, fmt.Sprintf("/trails/%s/steps/%d/progress", f.cfg.Device, rev), b, trail.MaxRecord*2)
	return err
}

func (f *Follower) tries() int { return f.journal.Step.Tries }

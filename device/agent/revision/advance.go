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

// maxTries limits how often the agent calls the hook in one phase. If the agent is killed or the
// machine loses power while the hook runs, the agent calls the hook again. After maxTries calls,
// the agent assumes that the revision is the cause, and the revision fails.
const maxTries = 3

// maxRollbacks limits how often the agent calls the hook to roll back a revision. After
// maxRollbacks calls, only a person can repair the machine.
const maxRollbacks = 10

// advance does the next action for the revision in the journal, the file that records the phase of
// the installation. It returns how long to wait after that action.
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
		return 0, diskError(fmt.Errorf("unknown journal phase %q", w.Phase))
	}
}

// fetch downloads the revision's objects and writes its files. The hook has not been called at this
// point, so if the owner withdraws the revision, fetch only has to remove it from the journal.
func (f *Follower) fetch(ctx context.Context) error {
	w := f.journal.Step
	err := f.report(ctx, w.Rev, "QUEUED", 5, "Accepted by the device.", nil)
	if err == nil {
		err = f.confirm(ctx)
	}
	if err == nil {
		err = f.prepare(ctx, f.journal.Step.revision)
	}
	if err == nil {
		err = f.report(ctx, w.Rev, "INPROGRESS", 50, "Installing.", nil)
	}
	var gone *abandoned
	switch {
	case errors.As(err, &gone):
		return f.end(gone.outcome, gone.reason)
	case withdrawn(err):
		f.say("Revision %d was withdrawn.", w.Rev)
		return f.drop()
	case err != nil:
		return err
	}
	return f.enter(installing, nil)
}

// After the device has told the hub that it accepts the revision, confirm gets the revision's state
// again. Until the hub knew this, the owner could replace the state, so the copy that the device
// already has may be outdated.
func (f *Follower) confirm(ctx context.Context) error {
	w := f.journal.Step
	text, err := f.conn.Do(ctx, http.MethodGet, fmt.Sprintf("/trails/%s/steps/%d/state", f.cfg.Device, w.Rev), nil, trail.MaxAnswer)
	if err != nil {
		return err
	}
	s, signed, err := f.owner.parse(text)
	if errors.Is(err, errDisk) {
		return err
	}
	if err != nil {
		return &abandoned{wontGo, "This device does not accept the revision: " + err.Error() + "."}
	}
	if err := f.owner.accept(s, signed); err != nil {
		return err
	}
	rev := revision{w.Rev, s.sum}
	if err := f.keepState(rev, s); err != nil || rev == w.revision {
		return err
	}
	return f.change(func(w *work) { w.revision = rev })
}

// The function `withdrawn` reports whether err means that the hub has a final status for the
// revision, or does not know the revision. In both cases the device must not install the revision.
func withdrawn(err error) bool {
	var no Refusal
	return errors.As(err, &no) && (no.HTTPStatus() == http.StatusConflict || no.HTTPStatus() == http.StatusNotFound)
}

func (f *Follower) install(ctx context.Context) error {
	w := f.journal.Step
	if w.Tries >= maxTries {
		return f.fail(fmt.Sprintf("The machine stopped %d times during the installation.", w.Tries))
	}
	f.say("Installing revision %d.", w.Rev)
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

// askReboot enters the phase `p`, in which the agent waits for a reboot. It saves the current boot
// id; a different boot id will show that the machine has rebooted.
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

// The method `waited` returns how long the current phase has lasted since the agent's process
// started. It uses monotonic time, because the machine's clock may be wrong and may be set at any
// time.
func (f *Follower) waited() time.Duration {
	w := f.journal.Step
	if now := fmt.Sprint(w.revision, w.Phase, w.Passed); f.phase != now {
		f.phase, f.since = now, time.Now()
	}
	return time.Since(f.since)
}

// The method `reboot` calls the hook to reboot the machine, and waits for the reboot. After the
// reboot it enters the next phase.
func (f *Follower) reboot(ctx context.Context) (time.Duration, error) {
	w := f.journal.Step
	id, err := f.bootID()
	if err != nil {
		return 0, err
	}
	if id != w.BootID {
		f.say("The machine has rebooted.")
		if w.Phase == rebootingAfter {
			return 0, f.end(failed, w.Reason)
		}
		return 0, f.enter(inTest, nil)
	}
	if f.waited() > f.cfg.RebootWithin {
		reason := fmt.Sprintf("The machine did not reboot within %s.", f.cfg.RebootWithin)
		if w.Phase == rebootingAfter {
			return 0, f.end(failed, w.Reason+" "+reason)
		}
		return 0, f.fail(reason)
	}
	if !f.rebootCalled && w.Tries < maxTries { // if the agent was restarted and the machine was not, call the hook again
		f.rebootCalled = true
		// Ignore an error: the report only tells the owner why the device will be offline.
		_ = f.report(ctx, w.Rev, "INPROGRESS", 60, "Rebooting.", nil)
		f.say("Rebooting the machine for revision %d.", w.Rev)
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

// The method `test` calls the hook to test the revision. Then it checks that the hub can be
// reached, because a revision that cuts the machine off from the hub must fail.
func (f *Follower) test(ctx context.Context) (time.Duration, error) {
	w := f.journal.Step
	if !w.Passed {
		if w.Tries >= maxTries {
			return 0, f.fail(fmt.Sprintf("The machine stopped %d times during the test.", w.Tries))
		}
		if err := f.report(ctx, w.Rev, "TESTING", 75, "Testing.", nil); withdrawn(err) {
			return 0, f.fail("The owner withdrew the revision.")
		}
		f.say("Testing revision %d.", w.Rev)
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
			return 0, f.fail("The owner withdrew the revision.")
		case err != nil && ctx.Err() != nil:
			return 0, ctx.Err()
		case err != nil:
			if f.waited() > f.cfg.HubWithin {
				return 0, f.fail(fmt.Sprintf("With this revision the hub could not be reached within %s: %v.", f.cfg.HubWithin, err))
			}
			f.complain(err)
			return min(5*time.Second, f.cfg.HubWithin/4), nil
		}
	}
	return 0, f.enter(committing, nil)
}

// commit calls the hook to make the revision permanent. The device keeps the previous revision's
// files, so that a person can restore that revision.
func (f *Follower) commit(ctx context.Context) error {
	w := f.journal.Step
	if w.Tries >= maxTries {
		return f.fail(fmt.Sprintf("The machine stopped %d times during the commit.", w.Tries))
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

// fail starts the rollback.
func (f *Follower) fail(reason string) error {
	f.say("Rolling back revision %d: %s", f.journal.Step.Rev, reason)
	return f.enter(rollingBack, func(w *work) { w.Reason = reason })
}

func (f *Follower) rollBack(ctx context.Context) error {
	w := f.journal.Step
	if w.Tries >= maxRollbacks {
		return f.end(failed, fmt.Sprintf("%s The machine stopped %d times during the rollback. A person must repair the machine.", w.Reason, w.Tries))
	}
	v, err := f.call(ctx, "rollback")
	switch {
	case err != nil:
		return err
	case !v.ok:
		return f.end(failed, w.Reason+" The rollback failed too: "+v.reason)
	case v.reboot:
		return f.askReboot(rebootingAfter)
	}
	return f.end(failed, w.Reason)
}

// The method `end` records the outcome of the installation in the journal. The method `finish`
// reports this outcome to the hub later.
func (f *Follower) end(o outcome, reason string) error {
	return f.enter(ended, func(w *work) { w.Outcome, w.Reason = o, reason })
}

// finish reports the outcome to the hub. The follower repeats finish until the hub has a final
// status for the revision.
func (f *Follower) finish(ctx context.Context) error {
	w := f.journal.Step
	if err := f.report(ctx, w.Rev, string(w.Outcome), 100, w.Reason, nil); err != nil && !withdrawn(err) {
		return err
	}
	f.say("Revision %d: %s.", w.Rev, w.Outcome)
	return f.drop()
}

// drop removes the finished revision from the journal. Then it removes the files that only this
// revision needed.
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

// transfer is the progress of a download, in the format of Pantavisor's reports.
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

// report sends the revision's status, progress in percent and message to the hub. The parameter
// `more` has details for the owner, such as the progress of downloads, or is nil.
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

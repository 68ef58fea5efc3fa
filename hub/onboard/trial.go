package onboard

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gangway/hub/evidence"
	"gangway/hub/policy"
	"gangway/hub/store"
	"gangway/tcg"
)

// ErrKept means that this version of the hub cannot read a device's stored evidence.
var ErrKept = errors.New("onboard: kept request")

// Trial judges stored evidence by two policies: the policy in force for an owner, and a new policy
// that the owner is considering. It changes nothing, and fetches nothing from makers' servers. It
// uses the same trusted makers and EK lists with both policies. A Trial is not safe for concurrent
// use.
type Trial struct {
	s      *Service
	input  *evidence.Input
	lists  *inForce
	owner  string
	now    policy.Effective
	would  policy.Effective
	moment time.Time
}

// Outcome is what a policy would do with a device that sent its evidence again.
type Outcome struct {
	Action evidence.Action
	// Code and Reason describe the refusal or the first question. They are empty if the policy
	// accepts the device.
	Code, Reason string
}

// Try begins a trial of an owner's new policy `own`. If `own` is nil, the trial shows what would
// happen if the owner had no policy.
func (s *Service) Try(ctx context.Context, owner string, own *policy.Document) (*Trial, error) {
	at := s.Now()
	version, err := s.Store.ConfigVersion(ctx)
	if err != nil {
		return nil, err
	}
	input, rules, err := s.input(ctx, version, owner, at)
	if err != nil {
		return nil, err
	}
	hub, err := s.scope(ctx, store.HubWide)
	if err != nil {
		return nil, err
	}
	return &Trial{s: s, input: input, lists: rules, owner: owner, now: rules.Effective, would: policy.Merge(hub.policy, own), moment: at}, nil
}

// RequiresBoot reports whether the policies require that every part of a boot is expected or known.
func (t *Trial) RequiresBoot() (now, would bool) { return t.now.RequireBoot, t.would.RequireBoot }

// BootParts returns, for each part of the boot, the state that the policies require.
func (t *Trial) BootParts() (now, would map[string]string) { return t.now.BootParts, t.would.BootParts }

// WithoutTPM reports whether the policies accept devices without a TPM.
func (t *Trial) WithoutTPM() (now, would bool) { return t.now.WithoutTPM, t.would.WithoutTPM }

// Device returns how each of the two policies judges a device's enrolment: `now` for the policy in
// force, and `would` for the new policy. If the owner has approved the device's EK, the questions
// that this approval answered do not count.
func (t *Trial) Device(ctx context.Context, e *store.Enrolment) (now, would Outcome, err error) {
	r, approval, err := t.kept(ctx, e)
	if err != nil {
		return now, would, err
	}
	return t.both(ctx, r, approval)
}

// Present returns how the policy in force judges a device's enrolment, with the makers'
// certificates and the EK lists in force.
func (t *Trial) Present(ctx context.Context, e *store.Enrolment) (now Outcome, err error) {
	r, approval, err := t.kept(ctx, e)
	if err != nil {
		return now, err
	}
	if err := t.look(ctx, r); err != nil {
		return now, err
	}
	return t.judge(ctx, r, approval, t.now.Evidence)
}

// kept returns the stored request of an enrolment, and the owner's approval of its EK.
func (t *Trial) kept(ctx context.Context, e *store.Enrolment) (*evidence.Request, *store.WaitingDevice, error) {
	r, err := evidence.ParseKept(e.Request)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrKept, err)
	}
	if r.EKCertificate != nil && len(e.EKLinks) > 0 { // EKLinks has intermediate certificates that the hub fetched earlier
		links, _ := tcg.SplitCertificates(e.EKLinks)
		if r, err = r.WithCertificate(r.EKCertificateDER(), links); err != nil {
			return nil, nil, fmt.Errorf("%w: %w", ErrKept, err)
		}
	}
	approval, err := t.s.Store.WaitingByEK(ctx, t.owner, e.EK, t.moment)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, nil, err
	}
	return r, &approval, nil
}

// look searches the EK lists for the request's EK.
func (t *Trial) look(ctx context.Context, r *evidence.Request) (err error) {
	if len(t.lists.lists) > 0 {
		t.input.Listing, err = t.s.listing(ctx, t.lists, r)
	}
	return err
}

// Waiting returns how each of the two policies judges a waiting device. If the owner has denied the
// device, the outcome is a refusal.
func (t *Trial) Waiting(ctx context.Context, w *store.WaitingDevice) (now, would Outcome, err error) {
	r, err := evidence.ParseKept(w.Request)
	if err != nil {
		return now, would, fmt.Errorf("onboard: request of a waiting device: %w", err)
	}
	return t.both(ctx, r, w)
}

func (t *Trial) both(ctx context.Context, r *evidence.Request, w *store.WaitingDevice) (now, would Outcome, err error) {
	if err := t.look(ctx, r); err != nil {
		return now, would, err
	}
	if now, err = t.judge(ctx, r, w, t.now.Evidence); err != nil {
		return now, would, err
	}
	would, err = t.judge(ctx, r, w, t.would.Evidence)
	return now, would, err
}

// judge judges a request by a policy, as the methods examine and askOwner of Service do.
func (t *Trial) judge(ctx context.Context, r *evidence.Request, w *store.WaitingDevice, p evidence.Policy) (Outcome, error) {
	t.input.Policy = p
	v := new(evidence.Verdict)
	evidence.Verify(v, r, t.input)
	if _, known := t.input.KnownChain(r); !known && v.Refusal == nil {
		kept, found, err := t.s.withKept(ctx, r, t.input)
		if err != nil {
			return Outcome{}, err
		}
		if found {
			shown := new(evidence.Verdict)
			evidence.Verify(shown, kept, t.input)
			v.AddOmitted(shown)
		}
	}
	if v.Refusal != nil {
		return Outcome{evidence.Refuse, v.Refusal.Code, v.Refusal.Reason}, nil
	}
	if w.State == store.Denied {
		return Outcome{evidence.Refuse, CodeDenied, errDenied(*w, "").Reason}, nil
	}
	for _, q := range v.Questions {
		if !w.Approves([]string{q.Code}) {
			return Outcome{evidence.Ask, q.Code, q.Reason}, nil
		}
	}
	return Outcome{Action: evidence.Accept}, nil
}

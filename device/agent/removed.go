package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// The reasons why the hub does not accept a device that was active. The field Refused.Certificate
// contains one of these values.
const (
	removedRevoked    = "revoked"    // the owner deleted or denied the device
	removedSuperseded = "superseded" // the same TPM has onboarded again, and has a newer certificate
	removedUnknown    = "unknown"    // the hub has no record of the certificate
)

const (
	// returnAfter is the shortest time between two onboardings that a device begins by itself.
	// Without this limit, two machines with copies of the same TPM state (clones) would replace
	// each other endlessly.
	returnAfter = 24 * time.Hour
	// retryRemoved is the average interval at which a removed device asks the hub whether the hub
	// accepts the device again. statePoll is the interval at which the device checks whether
	// another agent has changed the state folder.
	retryRemoved = time.Hour
	statePoll    = 2 * time.Second
)

// Removed is the error for a device that was active, that the hub no longer accepts, and that must
// not onboard again by itself. The error wraps the hub's *Refused.
type Removed struct {
	Why     string // "revoked", "superseded" or "unknown"
	Remedy  string // one sentence
	Refused *Refused
}

func (r *Removed) Error() string {
	return fmt.Sprintf("%s %s (%s)", removedWords(r.Why), r.Remedy, r.Refused.Code)
}

func (r *Removed) Unwrap() error { return r.Refused }

func removedWords(why string) string {
	switch why {
	case removedSuperseded:
		return "The hub no longer accepts this machine's certificate: this TPM onboarded again later, with another state folder."
	case removedUnknown:
		return "The hub does not know this machine's certificate: the hub may have been restored from a backup."
	}
	return "The owner deleted this device or denied it."
}

const remedyAgain = "To onboard this machine again, run 'gangway-agent onboard --again --token-file FILE' with a join token of its owner."

// removal returns the reason why the hub does not accept a device that was active. It returns "" if
// err is not a refusal of the device's certificate. A refusal without a reason counts as "revoked",
// because the owner may have deleted the device.
func removal(err error) string {
	var no *Refused
	switch {
	case !errors.As(err, &no):
		return ""
	case no.Code == "device-revoked":
		return removedRevoked
	case no.Code != "certificate-not-active":
		return ""
	}
	switch no.Certificate {
	case removedSuperseded:
		return removedSuperseded
	case removedUnknown, "pending", "expired": // the hub lost newer records, for example because an old backup was restored
		return removedUnknown
	}
	return removedRevoked
}

// checkReturn decides whether a device that the hub does not accept any more may onboard again by
// itself. `no` is the hub's refusal, and `why` is the reason that the function `removal` found in
// it. `claims` is true if the machine was not onboarded before and shows a claim code. The result
// is nil if the device may onboard again, and otherwise an error that says why it may not. The
// rules are:
//
//   - If the owner deleted the device, only a person at the machine can make it onboard again
//     (Config.Again).
//   - In the other cases, nobody removed the device on purpose. If it has a join token, it may
//     onboard again, at most once a day.
//   - If `claims` is true, the machine may onboard: its disk has no data of a former owner that a
//     new owner could read. For the same reason, a machine that was onboarded before must not show
//     a claim code.
func (a *Agent) checkReturn(why string, no *Refused, claims bool) *Removed {
	removed := &Removed{Why: why, Remedy: remedyAgain, Refused: no}
	since := time.Since(a.state.Returned)
	switch {
	case a.cfg.Again, claims:
		return nil
	case why == removedRevoked, a.cfg.Token == nil:
	case since >= 0 && since < returnAfter:
		removed.Remedy = fmt.Sprintf("The agent onboarded this machine again at %s, and does this only once a day. Look for another machine with a copy of this TPM's state or of this state folder. %s", a.state.Returned.Format(time.RFC3339), remedyAgain)
	default:
		return nil
	}
	return removed
}

// checkActive asks the hub about a device whose stored phase is active or removed. `again` reports
// whether the device must onboard again. If the hub does not accept the device, and the device must
// not onboard again, the error is a *Removed.
func (a *Agent) checkActive(ctx context.Context, t tpm) (again bool, err error) {
	if a.cfg.Again {
		return true, nil
	}
	err = a.confirmActive(ctx, t)
	why := removal(err)
	if why == "" {
		return false, err
	}
	var no *Refused
	errors.As(err, &no) // always true, because the function `removal` found a reason in `err`
	removed := a.checkReturn(why, no, false)
	err = a.edit(func(s *State) {
		if s.Removed != why {
			s.RemovedAt = time.Now().UTC().Truncate(time.Second)
		}
		s.Phase, s.Removed = PhaseRemoved, why
		if removed == nil {
			s.Returned = time.Now().UTC().Truncate(time.Second)
		}
	})
	if removed != nil {
		return false, errors.Join(removed, err)
	}
	a.say("again", "%s Onboarding again.", removedWords(why))
	return true, err
}

// confirmActive asks the hub, as this device, whether the device is active. If the hub accepts the
// certificate but refuses the request for another reason, for example because it does not accept
// what the machine booted, confirmActive returns nil. Run handles such a refusal.
func (a *Agent) confirmActive(ctx context.Context, t tpm) error {
	h, closeHub, err := a.identified(ctx, t)
	if err != nil {
		return err
	}
	defer closeHub()
	var device deviceView
	err = a.retry(ctx, h.at, func() error {
		answer, err := h.send(ctx, http.MethodGet, "/device", "", nil)
		if err == nil && json.Unmarshal(answer, &device) != nil {
			device = deviceView{} // the answer is malformed: keep the values in the state
		}
		var no *Refused
		if errors.As(err, &no) && removal(err) == "" && no.Status == http.StatusForbidden {
			a.cfg.Log.Info("the hub knows the device", "refusal", no.Code)
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	err = a.edit(func(s *State) {
		s.Phase, s.Removed, s.RemovedAt, s.Waiting = PhaseActive, "", time.Time{}, ""
		if device.ID != "" {
			s.DeviceID, s.Nick, s.OwnerNick = device.ID, device.Nick, device.OwnerNick
		}
	})
	unused := ""
	if a.cfg.Token != nil && a.cfg.Token.ID != a.state.TokenID {
		unused = " The join token " + a.cfg.Token.ID + " is not used; to use the join token, run 'gangway-agent onboard --again'."
	}
	a.say("checked", "This machine is already onboarded as %q. The hub at %s has just confirmed this.%s", a.state.Nick, h.url(), unused)
	return err
}

// startOver begins a new onboarding. It keeps the present state in State.Former until the hub
// accepts the new request, so that nothing is lost if the hub refuses it.
func (a *Agent) startOver() error {
	former := a.state.Former
	if former == nil && (a.state.Phase == PhaseActive || a.state.Phase == PhaseRemoved) {
		was := a.state
		former = &was
	}
	a.state = State{Phase: PhaseNew, Returned: a.state.Returned, Former: former, Addresses: a.state.Addresses}
	return a.dir.saveState(a.state)
}

// restoreFormer restores the state that startOver stored in State.Former.
func (a *Agent) restoreFormer() error {
	if a.state.Former == nil {
		return nil
	}
	returned := a.state.Returned
	a.state = *a.state.Former
	a.state.Returned = returned
	return errors.Join(a.dir.saveState(a.state), a.dir.remove(requestFile, replyFile))
}

// notOnboarded returns the error for a state whose phase is not PhaseActive. It says why the device
// cannot talk to its hub.
func (s *State) notOnboarded() error {
	if s.Phase == PhaseRemoved {
		return fmt.Errorf("agent: %s %s", removedWords(s.Removed), remedyAgain)
	}
	return errors.New("agent: the device is not onboarded yet; run 'gangway-agent onboard' first")
}

// OnboardAndRun onboards the device if needed, and keeps it connected until ctx ends. If the hub
// stops accepting the device, the device onboards again, provided that checkReturn allows it.
// Otherwise OnboardAndRun reports why the hub does not accept the device, and then waits without
// holding the state folder's lock, so that a person can onboard the device again with another
// agent. If the hub refuses permanently for any other reason, OnboardAndRun returns the *Refused.
func (a *Agent) OnboardAndRun(ctx context.Context) error {
	for {
		if a.state.Phase == PhaseActive || a.state.Phase == PhaseRemoved {
			if err := a.adoptAddress(); err != nil { // a wrong file must not stop a device that works
				a.say("note", "%v.", err)
				a.cfg.Token, a.cfg.Hub = nil, nil
			}
		}
		if a.state.Phase != PhaseActive {
			_, err := a.Onboard(ctx)
			var removed *Removed
			switch {
			case errors.As(err, &removed):
				if err := a.waitRemoved(ctx, removed); err != nil {
					return err
				}
				continue
			case err != nil:
				return err
			}
		}
		err := a.Run(ctx)
		why := removal(err)
		if why == "" {
			return a.failed(ctx, err)
		}
		// The next loop calls Onboard, which asks the hub again and decides what to do.
		if err := a.edit(func(s *State) { s.Phase = PhaseRemoved }); err != nil {
			return err
		}
	}
}

// waitRemoved releases the state folder's lock. It waits until it is time to ask the hub again, or
// until another agent has changed the state. Then it takes the lock again.
func (a *Agent) waitRemoved(ctx context.Context, removed *Removed) error {
	a.say("removed", "%v", removed)
	before, err := os.Stat(filepath.Join(a.cfg.StateDir, stateFile))
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	if err := a.dir.close(); err != nil {
		return err
	}
	ask := time.Now().Add(retryRemoved/2 + rand.N(retryRemoved))
	for changed := false; !changed && time.Now().Before(ask); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(statePoll):
		}
		now, err := os.Stat(filepath.Join(a.cfg.StateDir, stateFile))
		changed = err != nil || !os.SameFile(before, now) || !now.ModTime().Equal(before.ModTime())
	}
	return a.relock(ctx)
}

// relock waits for the state folder's lock and takes it. Then it reads the state again, because
// another agent may have changed it.
func (a *Agent) relock(ctx context.Context) error {
	for {
		dir, err := openFolder(a.cfg.StateDir)
		if errors.Is(err, ErrInUse) && ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-time.After(statePoll):
			}
			continue
		}
		if err != nil {
			return err
		}
		state, err := dir.read()
		if err != nil {
			return errors.Join(err, dir.close())
		}
		a.mu.Lock()
		a.dir, a.state = dir, state
		a.mu.Unlock()
		return nil
	}
}

// Accepted is the sentence that Ask returns if the hub accepts the device.
const Accepted = "The hub accepts the device."

// Ask asks the hub once whether the hub accepts the device whose state is in the state folder. Ask
// returns the hub's answer as a sentence, or a sentence that says why the hub could not be asked.
// Ask neither locks nor changes the state folder, because another agent may be running.
func Ask(ctx context.Context, cfg Config) (string, error) {
	dir := &folder{path: cfg.StateDir}
	state, err := dir.read()
	if err != nil {
		return "", err
	}
	if state.Phase != PhaseActive && state.Phase != PhaseRemoved {
		return "", state.notOnboarded()
	}
	t, err := cfg.openTPM()
	if err != nil {
		return "", err
	}
	defer t.Close()
	cfg.Log = slog.New(slog.DiscardHandler)
	a := &Agent{cfg: cfg, dir: dir, state: state}
	h, closeHub, err := a.identified(ctx, t)
	if err != nil {
		return "", err
	}
	defer closeHub()
	_, err = h.send(ctx, http.MethodGet, "/device", "", nil)
	var no *Refused
	switch {
	case err == nil:
		return Accepted, nil
	case removal(err) != "":
		return removedWords(removal(err)), nil
	case errors.As(err, &no):
		return fmt.Sprintf("The hub knows the device but refuses it: %s (%s)", no.Reason, no.Code), nil
	}
	return "Asking the hub failed: " + describe(err) + ".", nil
}

// The method `identified` returns a connection to the hub with the device's certificate, and a
// function that closes the connection.
func (a *Agent) identified(ctx context.Context, t tpm) (*hub, func(), error) {
	signer, err := a.signer(ctx, t)
	if err != nil {
		return nil, nil, err
	}
	certs, err := a.dir.certificates(a.state.HubCA)
	if err != nil {
		return nil, nil, errors.Join(err, signer.Close())
	}
	h, err := a.hubOf(a.state.HubName, a.state.HubCA)
	if err != nil {
		return nil, nil, errors.Join(err, signer.Close())
	}
	h = h.as(certs.idevid, signer)
	return h, func() { h.close(); signer.Close() }, nil
}

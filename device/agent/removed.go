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

// Why the hub no longer lets a device in. The hub's word, in its answers
// (Refused.Certificate).
const (
	removedRevoked    = "revoked"    // its owner deleted it, or a person denied it
	removedSuperseded = "superseded" // the same TPM has onboarded again since
	removedUnknown    = "unknown"    // the hub's records do not have the certificate
)

const (
	// returnAfter is how often a device comes back by itself. Two machines with
	// one TPM's state would otherwise take the device from each other for ever.
	returnAfter = 24 * time.Hour
	// retryRemoved is how often a device that was removed asks whether it is let in
	// again, and stateLook how often it looks whether it was onboarded again.
	retryRemoved  = time.Hour
	statePoll = 2 * time.Second
)

// Removed is that the hub no longer lets the device in, and that it does not
// come back by itself. It is an error, and wraps the hub's *Refused.
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
		return "The hub no longer takes this machine's certificate: this TPM has onboarded again since, with other state."
	case removedUnknown:
		return "The hub does not know this machine's certificate: its records may be of a backup."
	}
	return "The owner deleted this device, or denied it."
}

const remedyAgain = "To bring it back, run 'gangway-agent onboard --again --token-file FILE' with a join token of its owner."

// removal is why the hub no longer lets a device in; empty: that is not what err
// says. Who does not say why may have deleted the device.
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
	case removedUnknown, "pending", "expired": // the hub's records are older than the device
		return removedUnknown
	}
	return removedRevoked
}

// checkReturn decides whether a device that the hub no longer lets in comes back by
// itself: nil, or why not. A deletion is its owner's word, so another person's
// word is needed, at the machine (Config.Again). What nobody decided, a good token
// puts right, once a day. A machine that was aboard does not show a code: whoever
// claimed it would get what its former owner left on its disk. claims: it was not
// aboard yet, and shows one.
func (a *Agent) checkReturn(why string, no *Refused, claims bool) *Removed {
	removed := &Removed{Why: why, Remedy: remedyAgain, Refused: no}
	since := time.Since(a.state.Returned)
	switch {
	case a.cfg.Again, claims:
		return nil
	case why == removedRevoked, a.cfg.Token == nil:
	case since >= 0 && since < returnAfter:
		removed.Remedy = fmt.Sprintf("It came back by itself at %s already, and does so once a day: look for another machine with a copy of this TPM's state, or of this state folder. %s", a.state.Returned.Format(time.RFC3339), remedyAgain)
	default:
		return nil
	}
	return removed
}

// checkActive asks the hub about a device that was active when it was last heard of,
// and reports whether it is to onboard again. A *Removed: the hub does not let it
// in, and it stays out.
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
	errors.As(err, &no) // or there would be no reason
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

// confirmActive asks the hub, over the TPM's connection, whether the device is aboard.
// What else the hub has against it is for Run to sort out.
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
			device = deviceView{} // what it knew before will do
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
		unused = " The join token " + a.cfg.Token.ID + " is not used; 'gangway-agent onboard --again' uses it."
	}
	a.say("checked", "This machine is aboard already, as %q: the hub at %s said so just now.%s", a.state.Nick, h.url(), unused)
	return err
}

// startOver begins anew and keeps what was, until the hub has let the device in by
// the new request: a refusal loses nothing.
func (a *Agent) startOver() error {
	former := a.state.Former
	if former == nil && (a.state.Phase == PhaseActive || a.state.Phase == PhaseRemoved) {
		was := a.state
		former = &was
	}
	a.state = State{Phase: PhaseNew, Returned: a.state.Returned, Former: former, Addresses: a.state.Addresses}
	return a.dir.saveState(a.state)
}

// restoreFormer takes restoreFormer what leave did.
func (a *Agent) restoreFormer() error {
	if a.state.Former == nil {
		return nil
	}
	returned := a.state.Returned
	a.state = *a.state.Former
	a.state.Returned = returned
	return errors.Join(a.dir.saveState(a.state), a.dir.remove(requestFile, replyFile))
}

// notOnboarded is why a device cannot talk to its hub: an error for a phase that is
// not PhaseActive.
func (s *State) notOnboarded() error {
	if s.Phase == PhaseRemoved {
		return fmt.Errorf("agent: %s %s", removedWords(s.Removed), remedyAgain)
	}
	return errors.New("agent: the device is not onboarded yet: onboard it first with 'gangway-agent onboard'")
}

// OnboardAndRun onboards if need be and keeps the device connected until ctx ends. A
// device that the hub no longer lets in comes back by itself where it may, and
// otherwise waits, says why, and lets go of the state folder meanwhile, so that
// a person can onboard it again. A *Refused that is none of these ends it.
func (a *Agent) OnboardAndRun(ctx context.Context) error {
	for {
		if a.state.Phase == PhaseActive || a.state.Phase == PhaseRemoved {
			if err := a.adoptAddress(); err != nil { // what runs is not to suffer from a file
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
		// Onboard asks the hub itself, and decides.
		if err := a.edit(func(s *State) { s.Phase = PhaseRemoved }); err != nil {
			return err
		}
	}
}

// waitRemoved waits, without the state folder's lock, until it is time to ask the hub
// again, or another agent has changed the state.
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

// relock takes the state folder's lock again, waiting for it, and reads what
// another agent may have written.
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

// Ask asks the hub once, in the name of the device whose state is in a folder,
// whether it lets the device in. It takes no lock and changes nothing: another
// agent may be running. The sentence says what the hub answered, or why it could
// not be asked.
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
		return "The device is aboard.", nil
	case removal(err) != "":
		return removedWords(removal(err)), nil
	case errors.As(err, &no):
		return fmt.Sprintf("The hub knows the device, and refuses: %s (%s)", no.Reason, no.Code), nil
	}
	return "The hub cannot be asked now: " + describe(err) + ".", nil
}

// identified is the hub under the device's certificate. The function that it
// returns closes it.
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
	h = h.as(certs.chain(), signer)
	return h, func() { h.close(); signer.Close() }, nil
}

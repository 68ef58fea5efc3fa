package agent

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gangway/device/agent/revision"
	"gangway/tcg"

	"golang.org/x/sync/errgroup"
)

// Run keeps an active device connected until ctx ends or the hub no longer
// knows the device (*Refused): it reports, sends its log, takes what its owner
// sets, and follows its trail, as configured.
func (a *Agent) Run(ctx context.Context) error {
	s, err := a.dial(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	group, ctx := errgroup.WithContext(ctx)
	var follower *revision.Follower
	if a.cfg.Trail.Hook != "" || a.cfg.Trail.First != "" {
		if follower, err = a.follower(s); err != nil {
			return err
		}
		a.logs.Rev = func() string { return follower.Status().Revision }
		group.Go(func() error { return follower.Run(ctx) })
	}
	if a.cfg.SendLog {
		a.collectLogs(ctx, group)
		group.Go(func() error { return a.logs.Run(ctx, s) })
	}
	if a.time != nil {
		group.Go(func() error { a.time.keep(ctx, s.h.certs); return nil })
	}
	group.Go(func() error { return a.watchUserMeta(ctx, s) })
	group.Go(func() error { return a.reportAlways(ctx, s, follower) })
	err = group.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// collectLogs opens the log's sources.
func (a *Agent) collectLogs(ctx context.Context, group *errgroup.Group) {
	for _, path := range a.cfg.LogFiles {
		group.Go(func() error { return a.logs.Follow(ctx, path) })
	}
	if a.cfg.LogSocket != "" {
		group.Go(func() error {
			if err := a.logs.Listen(ctx, a.cfg.LogSocket); err != nil {
				a.say("logs", "No lines are taken from the socket: %v.", err)
			}
			return nil
		})
	}
	if a.cfg.LogReader != nil {
		// Nothing ends a read of standard input but its end, or the process's.
		go a.logs.Read(a.cfg.LogReader, "stdin")
	}
}

// follower makes the follower of the device's trail.
func (a *Agent) follower(s *session) (*revision.Follower, error) {
	c := a.cfg.Trail
	c.Dir, c.Device = filepath.Join(a.cfg.StateDir, trailFolder), a.state.DeviceID
	c.Say = func(sentence string) { a.say("trail", "%s", sentence) }
	c.Line = func(line string) { a.log("hook", line) }
	return revision.Open(c, s)
}

// reportAlways reports every so often,
// and when another revision runs.
func (a *Agent) reportAlways(ctx context.Context, s *session, follower *revision.Follower) error {
	var changed <-chan struct{}
	if follower != nil {
		changed = follower.Changed()
	}
	for {
		err := a.retry(ctx, s.h.at, func() error { return a.report(ctx, s, follower) })
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-time.After(a.cfg.ReportEvery*9/10 + rand.N(a.cfg.ReportEvery/5+1)):
		}
	}
}

// report tells the hub of the device itself, and measures again when the hub
// asks for it.
func (a *Agent) report(ctx context.Context, s *session, follower *revision.Follower) error {
	body, err := json.Marshal(a.meta(s, follower))
	if err != nil {
		return err
	}
	raw, err := s.Do(ctx, http.MethodPatch, "/device/meta", body, maxAnswer)
	var refused *Refused
	if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		// It was deleted in the middle of this request: the next one is told so.
		raw, err = s.Do(ctx, http.MethodPatch, "/device/meta", body, maxAnswer)
	}
	if errors.As(err, &refused) && (refused.Status == http.StatusBadRequest || refused.Status == http.StatusRequestEntityTooLarge) {
		// What it says of itself is optional; that it is there is not.
		a.sayOnce(onReport, "report", "The hub does not take what this machine reports of itself (%s): %s %s Only that it is there is reported.", refused.Code, refused.Reason, refused.Hint)
		raw, err = s.Do(ctx, http.MethodPatch, "/device/meta", []byte("{}"), maxAnswer)
	} else if err == nil {
		a.sayOnce(onReport, "report", "")
	}
	if err != nil {
		return err
	}
	var answer struct{ Measure bool }
	if json.Unmarshal(raw, &answer) == nil && answer.Measure {
		if err := s.remeasure(ctx); err != nil {
			return err
		}
	}
	first := false
	err = a.edit(func(state *State) {
		first = state.LastSeen.IsZero() || state.Waiting != ""
		state.Waiting = ""
		state.LastSeen = time.Now().UTC().Truncate(time.Second)
	})
	if first {
		a.say("connected", "Connected to %s as %q.", s.h.url(), a.state.Nick)
	}
	if err != nil { // the report was taken all the same
		a.sayOnce(onState, "state", "The agent's state cannot be saved: %v.", err)
	} else {
		a.sayOnce(onState, "state", "")
	}
	return nil
}

// edit changes the state and writes it, if the folder is this agent's to write.
func (a *Agent) edit(change func(*State)) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(&a.state)
	if a.dir.lock == nil {
		return nil // another agent may be using it
	}
	return a.dir.saveState(a.state)
}

// machine names the machine: as configured, or by the firmware's tables, or
// by its endorsement key, which every machine has.
func machine(model, serial string, ekPublic []byte) (string, string) {
	if model == "" {
		model = dmi("product_name")
	}
	if model == "" {
		model = "unknown"
	}
	if serial == "" {
		serial = dmi("product_serial")
	}
	if serial == "" {
		serial = ekSerial(ekPublic)
	}
	return clip(model), clip(serial)
}

// dmi reads a field of the firmware's tables that makers have filled in.
func dmi(field string) string {
	b, err := os.ReadFile("/sys/class/dmi/id/" + field)
	if err != nil {
		return ""
	}
	s := strings.TrimSpace(tcg.Printable(string(b))) // a blank field may be of 0xFF
	switch strings.ToLower(s) {
	case "none", "default string", "not specified", "to be filled by o.e.m.", "system serial number", "0":
		return ""
	}
	return s
}

func ekSerial(public []byte) string {
	sum := sha256.Sum256(public)
	return fmt.Sprintf("ek-%x", sum[:8])
}

// clip bounds a text as the request's format does.
func clip(s string) string {
	s = strings.ToValidUTF8(s, "")
	if len(s) > tcg.MaxProduct {
		s = strings.ToValidUTF8(s[:tcg.MaxProduct], "")
	}
	return s
}

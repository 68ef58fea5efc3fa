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

// Run keeps an active device connected until ctx ends, or until the hub refuses the device
// permanently (*Refused). It sends reports and fetches the user-meta. Depending on the
// configuration, it also sends log lines, asks time servers for the time and installs the revisions
// of the trail.
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

// collectLogs starts to read log lines from the configured files, socket and reader into the
// agent's log, whose lines are sent to the hub.
func (a *Agent) collectLogs(ctx context.Context, group *errgroup.Group) {
	for _, path := range a.cfg.LogFiles {
		group.Go(func() error { return a.logs.Follow(ctx, path) })
	}
	if a.cfg.LogSocket != "" {
		group.Go(func() error {
			if err := a.logs.Listen(ctx, a.cfg.LogSocket); err != nil {
				a.say("logs", "Reading log lines from the socket failed: %v.", err)
			}
			return nil
		})
	}
	if a.cfg.LogReader != nil {
		// This goroutine is not in the group: a read of standard input cannot be cancelled.
		go a.logs.Read(a.cfg.LogReader, "stdin")
	}
}

// follower makes the device's revision.Follower.
func (a *Agent) follower(s *session) (*revision.Follower, error) {
	c := a.cfg.Trail
	c.Dir, c.Device = filepath.Join(a.cfg.StateDir, trailFolder), a.state.DeviceID
	c.Say = func(sentence string) { a.say("trail", "%s", sentence) }
	c.Line = func(line string) { a.log("hook", line) }
	return revision.Open(c, s)
}

// reportAlways sends a report at intervals, and whenever the running revision has changed.
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

// The method `report` sends a report. If the hub's answer asks for a boot measurement, report also
// sends a boot measurement.
func (a *Agent) report(ctx context.Context, s *session, follower *revision.Follower) error {
	body, err := json.Marshal(a.meta(s, follower))
	if err != nil {
		return err
	}
	raw, err := s.Do(ctx, http.MethodPatch, "/device/meta", body, maxAnswer)
	var refused *Refused
	if errors.As(err, &refused) && refused.Status == http.StatusNotFound {
		// The owner deleted the device while the request was in progress. The hub's answer to a
		// second request says why the device is refused.
		raw, err = s.Do(ctx, http.MethodPatch, "/device/meta", body, maxAnswer)
	}
	if errors.As(err, &refused) && (refused.Status == http.StatusBadRequest || refused.Status == http.StatusRequestEntityTooLarge) {
		// Report without the device-meta, which is optional. The report itself is not, because it
		// tells the hub that the device is connected.
		a.sayOnce(onReport, "report", "The hub refuses this machine's report (%s): %s %s Therefore the agent sends empty reports.", refused.Code, refused.Reason, refused.Hint)
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
	if err != nil { // the hub has accepted the report, so the error only concerns the answer
		a.sayOnce(onState, "state", "The agent's state cannot be saved: %v.", err)
	} else {
		a.sayOnce(onState, "state", "")
	}
	return nil
}

// edit changes the state. It saves the state only if this agent has the state folder's lock.
func (a *Agent) edit(change func(*State)) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(&a.state)
	if a.dir.lock == nil {
		return nil // another agent may have the state folder's lock
	}
	return a.dir.saveState(a.state)
}

// The function `machine` returns the machine's model and serial number. Configured values take
// precedence over the values in the firmware's tables. If neither has a serial number, the serial
// number is derived from the endorsement key, which every TPM has.
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

// dmi reads a field of the firmware's SMBIOS tables. It returns "" for a placeholder such as "To be
// filled".
func dmi(field string) string {
	b, err := os.ReadFile("/sys/class/dmi/id/" + field)
	if err != nil {
		return ""
	}
	s := strings.TrimSpace(tcg.Printable(string(b))) // an empty field may contain bytes 0xFF
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

// clip shortens a text to tcg.MaxProduct bytes, the limit in an onboarding request.
func clip(s string) string {
	s = strings.ToValidUTF8(s, "")
	if len(s) > tcg.MaxProduct {
		s = strings.ToValidUTF8(s[:tcg.MaxProduct], "")
	}
	return s
}

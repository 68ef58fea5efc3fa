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
	"runtime"
	"strings"
	"time"

	"gangway/identity"
	"gangway/tcg"
)

// Run keeps an active device connected, reporting, until ctx ends or the hub
// no longer knows the device (*Refused).
func (a *Agent) Run(ctx context.Context) error {
	if a.state.Phase != PhaseActive {
		return errors.New("agent: the device is not onboarded yet: onboard it first with 'gangway-agent onboard'")
	}
	t, err := identity.Open(a.cfg.TPM)
	if err != nil {
		return err
	}
	defer t.Close()
	signer, err := a.signer(ctx, t)
	if err != nil {
		return err
	}
	defer signer.Close()
	certs, err := a.dir.certificates(a.state.HubCA)
	if err != nil {
		return err
	}
	h, err := newHub(a.state.Hub, a.state.HubCA)
	if err != nil {
		return err
	}
	h = h.as(certs.chain(), signer)
	defer h.close()
	started := time.Now()
	for {
		err := a.patiently(ctx, "the hub at "+h.url, func() error { return a.report(ctx, h, t, started) })
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(a.cfg.ReportEvery*9/10 + rand.N(a.cfg.ReportEvery/5+1)):
		}
	}
}

// report measures first on each new connection, since it may be of another
// boot as far as the hub can tell, and again when the hub asks.
func (a *Agent) report(ctx context.Context, h *hub, t *identity.TPM, started time.Time) error {
	body, err := json.Marshal(a.meta(started))
	if err != nil {
		return err
	}
	for again := false; ; again = true {
		measured := h.connections.Load()
		if again || measured != a.measured || measured == 0 {
			// A measurement that the hub refuses is its owner's to look at; what the
			// device may do then is the policy's.
			var no *Refused
			if err := a.measure(ctx, h, t); errors.As(err, &no) && strings.HasPrefix(no.Code, "boot-") {
				a.step("boot", "The hub does not believe this machine's measurement (%s): %s", no.Code, no.Reason)
			} else if err != nil {
				return err
			}
			measured = h.connections.Load()
		}
		raw, err := h.send(ctx, http.MethodPatch, "/device/meta", "application/json", body)
		var refused *Refused
		if errors.As(err, &refused) && refused.Code == "boot-unmeasured" && !again {
			continue // the connection was lost in between
		}
		if err != nil {
			a.measured = 0 // the next try shows it anew
			return err
		}
		a.measured = measured
		var answer struct{ Measure bool }
		if json.Unmarshal(raw, &answer) == nil && answer.Measure && !again {
			continue
		}
		break
	}
	first := a.state.LastSeen.IsZero() || a.state.Waiting != ""
	a.state.Waiting = ""
	a.state.LastSeen = time.Now().UTC().Truncate(time.Second)
	if first {
		a.step("connected", "Connected to %s as %q.", h.url, a.state.Nick)
	}
	return a.dir.saveState(a.state)
}

// meta is what the device reports of itself.
func (a *Agent) meta(started time.Time) map[string]any {
	host, _ := os.Hostname()
	m := map[string]any{
		"gangway.version":  a.cfg.Version,
		"gangway.uptime-s": int(time.Since(started).Seconds()),
		"gangway.arch":     runtime.GOARCH,
		"gangway.hostname": host,
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m["gangway.kernel"] = strings.TrimSpace(string(b))
	}
	return m
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
	s := strings.TrimSpace(string(b))
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

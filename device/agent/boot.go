package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"gangway/device/identity"
	"gangway/internal/diskfile"
	"gangway/internal/strictjson"
	"gangway/tcg/eventlog"
	"gangway/wire"
)

// Subjects for Agent.sayOnce.
const (
	onEventLog = "event log"
	onInstall  = "installer's report"
	onMeasure  = "measurement"
	onReport   = "report"
	onState    = "state"
)

// eventLog reads the firmware's event log. The log is optional: if the agent cannot read the log,
// it reports the reason once and sends only the PCRs to the hub.
func (a *Agent) eventLog() []byte {
	path := a.cfg.EventLog
	if path == "" {
		path = eventlog.Path
	}
	log, err := diskfile.Read(path, 0, eventlog.MaxLog)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		a.sayOnce(onEventLog, "boot", "The firmware's event log does not exist at %s. Only the PCRs are sent to the hub.", path)
	case err != nil:
		a.sayOnce(onEventLog, "boot", "The firmware's event log is not sent: %v. Only the PCRs are sent to the hub.", err)
	case a.logTooLarge:
		return nil
	default:
		a.sayOnce(onEventLog, "boot", "")
	}
	return log
}

// installReport reads the installer's report. The report is optional: if the installer wrote no
// report, or if the file is damaged, the hub gets the measurement without the report.
func (a *Agent) installReport() *wire.InstallReport {
	if a.cfg.InstallReport == "" {
		return nil
	}
	text, err := diskfile.Read(a.cfg.InstallReport, 0, wire.MaxInstallReport)
	text = bytes.TrimRight(text, " ")
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && len(text) == 0:
		return nil
	case err == nil:
		r := new(wire.InstallReport)
		if err = strictjson.Decode(text, r); err == nil {
			a.sayOnce(onInstall, "boot", "")
			return r
		}
	}
	a.sayOnce(onInstall, "boot", "The installer's report at %s is not sent: %v.", a.cfg.InstallReport, err)
	return nil
}

// The method `measure` sends the hub a boot measurement: a quote of the PCRs over the hub's nonce,
// and the event log. `sent` reports whether the hub accepted the measurement. If the TPM's quote
// fails or the hub refuses the measurement, measure logs this failure once, and `err` is nil,
// because the owner's policy decides what the device may do without a measurement. `err` is set
// only if the connection fails or `ctx` ends.
func (a *Agent) measure(ctx context.Context, h *hub, t tpm) (sent bool, err error) {
	log := a.eventLog()
	verdict, err := a.sendBoot(ctx, h, t, log)
	var no *Refused
	if errors.As(err, &no) && no.Status == http.StatusRequestEntityTooLarge && len(log) > 0 {
		a.logTooLarge = true
		a.sayOnce(onEventLog, "boot", "The firmware's event log of %d bytes is too large for the hub (%s). Only the PCRs are sent.", len(log), no.Code)
		log = nil
		verdict, err = a.sendBoot(ctx, h, t, log)
	}
	if errors.As(err, &no) && no.Code == "boot-nonce" { // the connection was lost, or the nonce expired because the TPM was slow
		verdict, err = a.sendBoot(ctx, h, t, log)
	}
	var failed *measureError
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case errors.As(err, &no):
		a.sayOnce(onMeasure, "boot", "The hub refuses this machine's boot measurement (%s): %s %s", no.Code, no.Reason, no.Hint)
		if !no.Temporary() || strings.HasPrefix(no.Code, "boot-") {
			a.setBoot("refused")
		}
		return false, nil
	case errors.As(err, &failed):
		a.sayOnce(onMeasure, "boot", "The boot measurement failed: %v.", failed.error)
		a.setBoot("unmeasured")
		return false, nil
	case err != nil:
		return false, err
	}
	a.sayOnce(onMeasure, "boot", "")
	if a.setBoot(verdict.State) {
		a.say("boot", "The hub has this machine's boot measurement: %s.", bootWords(verdict))
	}
	return true, nil
}

// setBoot sets the state's Boot in memory and reports whether the value has changed. The next
// report to the hub also saves the state.
func (a *Agent) setBoot(state string) (news bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	news = state != a.state.Boot
	a.state.Boot = state
	return news
}

// measureError is a failure of the TPM's quote, or a malformed answer of the hub.
type measureError struct{ error }

func (e *measureError) Unwrap() error { return e.error }

func (a *Agent) sendBoot(ctx context.Context, h *hub, t tpm, log []byte) (*wire.BootVerdict, error) {
	raw, err := h.send(ctx, http.MethodGet, "/device/boot", "", nil)
	if err != nil {
		return nil, err
	}
	var challenge wire.BootChallenge
	if err := strictjson.Decode(raw, &challenge); err != nil {
		return nil, &measureError{fmt.Errorf("agent: reading the hub's challenge: %w", err)}
	}
	var quoted *identity.Quoted
	// Do not wait for the end of a lockout: all other requests would wait too.
	err = a.liftLockout(ctx, t, func() (err error) {
		quoted, err = t.quote(ctx, a.options(a.state.Algorithm), wire.BootQualifying(challenge.Nonce, log))
		return err
	})
	if err != nil {
		return nil, &measureError{err}
	}
	body, err := json.Marshal(wire.BootReport{Nonce: challenge.Nonce, Bank: uint16(quoted.Bank), PCRs: quoted.PCRs, Attest: quoted.Attest, Signature: quoted.Signature, EventLog: log, Installed: a.installReport()})
	if err != nil {
		return nil, err
	}
	if raw, err = h.post(ctx, "/device/boot", "application/json", body); err != nil {
		return nil, err
	}
	verdict := new(wire.BootVerdict)
	if err := strictjson.Decode(raw, verdict); err != nil {
		return nil, &measureError{fmt.Errorf("agent: reading the hub's verdict on the boot: %w", err)}
	}
	return verdict, nil
}

func bootWords(v *wire.BootVerdict) string {
	switch {
	case v.State == "nothing-measured":
		return "the firmware measured nothing into the TPM"
	case len(v.Changes) == 0:
		return "it " + v.State + " the reference"
	}
	return fmt.Sprintf("%s, %d difference(s), the first: %s", v.State, len(v.Changes), v.Changes[0])
}

// If a measurement fails, it is repeated on the same connection after a pause. The pause starts at
// firstRemeasure and doubles up to lastRemeasure.
const (
	firstRemeasure = time.Minute
	lastRemeasure  = time.Hour
)

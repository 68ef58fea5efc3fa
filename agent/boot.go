package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"

	"gangway/identity"
	"gangway/tcg/join"
)

// EventLogPath is where Linux shows the firmware's event log.
const EventLogPath = "/sys/kernel/security/tpm0/binary_bios_measurements"

// maxEventLog bounds what is sent of it, in bytes.
const maxEventLog = 1 << 20

// eventLog reads the firmware's event log. A machine without one is no error:
// the PCRs themselves count.
func (a *Agent) eventLog() ([]byte, error) {
	path := a.cfg.EventLog
	if path == "" {
		path = EventLogPath
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		if !a.logMissing {
			a.logMissing = true
			a.step("boot", "There is no event log of the firmware to read at %s; the PCRs alone are shown to the hub.", path)
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	log, err := io.ReadAll(io.LimitReader(f, maxEventLog+1))
	if err != nil {
		return nil, fmt.Errorf("agent: the firmware's event log: %w", err)
	}
	if len(log) > maxEventLog {
		return nil, fmt.Errorf("agent: the firmware's event log has more than %d bytes", maxEventLog)
	}
	return log, nil
}

// measure shows the hub what was booted: a quote of the PCRs over the hub's
// nonce, and the event log. A TPM without a bank to quote is said so, and left
// to the owner's policy.
func (a *Agent) measure(ctx context.Context, h *hub, t *identity.TPM) error {
	raw, err := h.send(ctx, http.MethodGet, "/device/boot", "", nil)
	if err != nil {
		return err
	}
	var challenge join.BootChallenge
	if err := json.Unmarshal(raw, &challenge); err != nil {
		return fmt.Errorf("agent: the hub's challenge cannot be read: %w", err)
	}
	log, err := a.eventLog()
	if err != nil {
		return err
	}
	quoted, err := identity.LoadQuote(ctx, t, a.options(a.state.Algorithm), join.BootQualifying(challenge.Nonce, log))
	if errors.Is(err, identity.ErrNoBank) {
		a.step("boot", "%v", err)
		return nil
	}
	if err != nil {
		return err
	}
	body, err := json.Marshal(join.BootReport{Nonce: challenge.Nonce, Bank: uint16(quoted.Bank), PCRs: quoted.PCRs, Attest: quoted.Attest, Signature: quoted.Signature, EventLog: log})
	if err != nil {
		return err
	}
	if raw, err = h.post(ctx, "/device/boot", "application/json", body); err != nil {
		return err
	}
	var verdict join.BootVerdict
	if err := json.Unmarshal(raw, &verdict); err != nil {
		return fmt.Errorf("agent: the hub's verdict on the boot cannot be read: %w", err)
	}
	a.mu.Lock()
	news := verdict.State != a.state.Boot
	a.state.Boot = verdict.State // saved with the next report
	a.mu.Unlock()
	if news {
		a.step("boot", "The hub has seen what this machine booted: %s.", bootWords(verdict))
	}
	return nil
}

func bootWords(v join.BootVerdict) string {
	if len(v.Changes) == 0 {
		return "it " + v.State + " the reference"
	}
	return fmt.Sprintf("%s, %d difference(s), the first: %s", v.State, len(v.Changes), v.Changes[0])
}

package preflight

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"gangway/internal/diskfile"
	"gangway/internal/finding"
	"gangway/tcg"
	"gangway/tcg/eventlog"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// firmwarePCRs is the number of the PCRs that firmware extends: PCR 0 to 7 (PC Client Platform
// Firmware Profile, 3.3.4).
const firmwarePCRs = 8

// comparedBanks are the banks whose PCRs are compared with the log, the preferred bank first.
var comparedBanks = []struct {
	alg  tcg.AlgID
	hash crypto.Hash
}{{tcg.AlgSHA256, crypto.SHA256}, {tcg.AlgSHA384, crypto.SHA384}, {tcg.AlgSHA512, crypto.SHA512}}

// CheckEventLog reads the firmware's event log from a file, and compares it with the TPM's PCRs. If
// `link` is nil, it does not compare.
func CheckEventLog(path string, link transport.TPM) []Finding {
	log, err := diskfile.Read(path, 0, eventlog.MaxLog)
	if err != nil || len(log) == 0 {
		return []Finding{noLog(path, err)}
	}
	if old := oldLog(log); old != nil {
		return []Finding{*old}
	}
	all := []Finding{good("event-log", "The firmware's event log has %d bytes.", len(log))}
	if link != nil {
		all = append(all, compare(log, link))
	}
	return all
}

// noLog explains why there is no log. Without a log, the hub gets only the PCRs.
func noLog(path string, err error) Finding {
	f := Finding{Severity: Warning, Action: finding.UpdateFirmware, Cause: "Without the event log, the hub sees that a boot has changed, but not what has changed."}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.Code, f.Fact = "event-log-missing", "The firmware's event log does not exist at "+path+"."
		f.Remedy = "Mount securityfs (mount -t securityfs securityfs /sys/kernel/security); if the file is still missing, switch the TPM on in the firmware's setup, or update the firmware."
	case errors.Is(err, fs.ErrPermission):
		f.Code, f.Action, f.Fact = "event-log-permission", "", "This user has no permission to read the firmware's event log."
		f.Remedy = "Run the command as root."
	case errors.Is(err, diskfile.ErrLarge):
		f.Code, f.Fact = "event-log-large", fmt.Sprintf("The firmware's event log has more than %d bytes, so the agent does not send it.", eventlog.MaxLog)
		f.Remedy = "Update the machine's firmware."
	case err != nil:
		f.Code, f.Fact, f.Remedy = "event-log-unreadable", fmt.Sprintf("Reading the firmware's event log failed: %v.", err), "Restart the machine; if it fails again, update the firmware."
	default:
		f.Code, f.Fact, f.Remedy = "event-log-empty", "The firmware's event log is empty.", "Update the machine's firmware."
	}
	return f
}

// oldLog returns a finding if the log has only SHA-1 digests, or if its start cannot be read.
func oldLog(log []byte) *Finding {
	l := eventlog.Read(log, tcg.AlgSHA256)
	if l.State != eventlog.Unreadable && slices.ContainsFunc(l.Algs, func(a tcg.AlgID) bool { return a != eventlog.AlgSHA1 }) {
		return nil
	}
	fact := fmt.Sprintf("The firmware's event log has %d bytes, and no digests except SHA-1.", len(log))
	if l.State == eventlog.Unreadable {
		fact = l.Problem
	}
	return &Finding{
		Code: "event-log-old", Severity: Note, Action: finding.UpdateFirmware,
		Fact:   fact,
		Remedy: "If the hub cannot explain this machine's boot, update the firmware.",
	}
}

// compare replays the log, and compares the results with the values of PCR 0 to 7 in the best bank.
func compare(log []byte, link transport.TPM) Finding {
	for _, bank := range comparedBanks {
		values, err := readPCRs(link, bank.alg)
		if err != nil {
			return unknownReplay(fmt.Sprintf("Reading the TPM's PCRs failed: %v.", err))
		}
		if values == nil {
			continue
		}
		l := eventlog.Read(log, bank.alg)
		if !slices.Contains(l.Algs, bank.alg) {
			return unknownReplay("The log has no digests for the TPM's PCR bank.")
		}
		return compareValues(l, values, bank.hash)
	}
	return unknownReplay("The TPM has no PCR bank of SHA-256 or better.")
}

func compareValues(l *eventlog.Log, values [][]byte, hash crypto.Hash) Finding {
	var unexplained []string
	measured := false
	for pcr, value := range values {
		measured = measured || slices.ContainsFunc(value[:len(value)-1], func(b byte) bool { return b != 0 })
		if !l.Explains(pcr, value, hash) {
			unexplained = append(unexplained, fmt.Sprint(pcr))
		}
	}
	switch {
	case !measured:
		return Finding{
			Code: "event-log-nothing-measured", Severity: Warning, Action: finding.UpdateFirmware,
			Fact:   "The firmware measured nothing: PCR 0 to 7 still have the values that they have after a reset.",
			Cause:  "The firmware does not support the TPM, or the TPM was reset while the machine was running. The hub never counts such a boot as expected.",
			Remedy: "Switch the TPM on in the firmware's setup, update the firmware, and switch the machine off and on.",
		}
	case len(unexplained) > 0:
		cause := "A program extended these PCRs and did not log it, or the firmware's log is incomplete. The hub compares these PCRs by their values only."
		if l.Problem != "" {
			cause = l.Problem + " " + cause
		}
		return Finding{
			Code: "event-log-replay", Severity: Warning, Action: finding.UpdateFirmware,
			Fact: "The firmware's event log does not explain PCR " + strings.Join(unexplained, ", ") + ".", Cause: cause, Remedy: "Update the machine's firmware.",
		}
	}
	return good("event-log-replays", "The firmware's event log explains PCR 0 to 7.")
}

func unknownReplay(why string) Finding {
	return Finding{
		Code: "event-log-not-compared", Severity: Note, Action: finding.FirmwareSetup, Fact: "The firmware's event log was not compared with the TPM's PCRs.",
		Cause: why, Remedy: "Enable the SHA-256 bank in the firmware's setup (TPM, PCR bank), and restart.",
	}
}

// readPCRs reads PCR 0 to 7 of a bank. It returns nil if the bank is not in use. It reads one PCR
// at a time, because a TPM may return fewer values than a command requests.
func readPCRs(link transport.TPM, bank tcg.AlgID) (values [][]byte, err error) {
	for pcr := range uint(firmwarePCRs) {
		rsp, err := tpm2.PCRRead{PCRSelectionIn: tpm2.TPMLPCRSelection{
			PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgID(bank), PCRSelect: tpm2.PCClientCompatible.PCRs(pcr)}},
		}}.Execute(link)
		if errors.Is(err, tpm2.TPMRCHash) || err == nil && len(rsp.PCRValues.Digests) == 0 {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		values = append(values, bytes.Clone(rsp.PCRValues.Digests[0].Buffer))
	}
	return values, nil
}

package preflight

import (
	"errors"
	"fmt"
	"io/fs"

	"gangway/device/install"
	"gangway/device/install/slots"
	"gangway/internal/finding"
)

// CheckSecureBoot reports the mode of Secure Boot (UEFI 2.10, 32.3) and whether Secure Boot is on.
// Gangway works in every mode, so no mode is a problem.
func CheckSecureBoot(f install.Firmware) Finding {
	s, err := f.SecureBoot()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Finding{
			Code: "secure-boot-unknown", Severity: Note, Action: finding.FirmwareSetup, Fact: "The firmware does not report the state of Secure Boot.",
			Cause:  "The machine was not started by UEFI, the firmware has no Secure Boot, or efivarfs is not mounted.",
			Remedy: "Start the machine by UEFI and not by the compatibility mode (CSM, legacy boot).",
		}
	case err != nil:
		return Finding{
			Code: "secure-boot-unreadable", Severity: Note, Action: finding.UpdateFirmware, Fact: "The state of Secure Boot cannot be read.",
			Cause: err.Error(), Remedy: "Run the command as root, or update the firmware.",
		}
	case s.Mode == install.AuditMode:
		return Finding{
			Code: "secure-boot-audit", Severity: Warning, Action: finding.FirmwareSetup, Fact: "Secure Boot is in audit mode: the firmware starts programs that it does not trust.",
			Cause: "The firmware's setup, or a program, has chosen this mode.", Remedy: "Leave the audit mode in the firmware's setup (Secure Boot).",
		}
	case s.Mode == install.SetupMode && s.Enforcing:
		return Finding{
			Code: "secure-boot-contradiction", Severity: Warning, Action: finding.UpdateFirmware, Fact: "The firmware reports that Secure Boot is on and that it has no platform key, which contradict each other.",
			Remedy: "Reset the Secure Boot keys in the firmware's setup, or update the firmware.",
		}
	case s.Mode == install.SetupMode:
		return Finding{
			Code: "secure-boot-setup", Severity: Note, Action: finding.FirmwareSetup, Fact: "Secure Boot is in setup mode: the firmware has no platform key, and any program can enrol keys.",
			Remedy: "Enrol the owner's keys (gangway image build --secure-boot-keys), or restore the factory keys in the firmware's setup.",
		}
	case !s.Enforcing:
		return Finding{
			Code: "secure-boot-off", Severity: Note, Action: finding.FirmwareSetup, Fact: fmt.Sprintf("Secure Boot is off, in %s mode: the firmware starts any program.", s.Mode),
			Remedy: "To start only programs with a trusted signature, switch Secure Boot on in the firmware's setup.",
		}
	}
	return good("secure-boot", "Secure Boot is on, in %s mode.", s.Mode)
}

// CheckOneShot reports firmware that did not remove the variable LoaderEntryOneShot at this start,
// although the boot manager started the entry that the variable names.
func CheckOneShot(f install.Firmware) Finding {
	kept, err := f.KeptOneShot()
	switch {
	case err != nil:
		return Finding{
			Code: "firmware-oneshot-unknown", Severity: Note, Fact: "The boot manager's variable LoaderEntryOneShot cannot be read.",
			Cause: err.Error(), Remedy: "Run the command as root.",
		}
	case kept:
		return Finding{
			Code: "firmware-oneshot-kept", Severity: Warning, Action: finding.UpdateFirmware,
			Fact:   "The firmware did not remove the variable LoaderEntryOneShot: the machine starts the same entry again and again.",
			Cause:  "The firmware's storage for variables is full, locked or faulty. If an update of the system failed, the machine could not return to the former system.",
			Remedy: "Update the firmware, or reset it to its factory settings. Until then, the machine refuses updates of its system.",
		}
	}
	return good("firmware-oneshot", "The firmware has no outdated variable LoaderEntryOneShot.")
}

// CheckEntry reports firmware that has forgotten the boot entry of an installed system. It returns
// nothing if the running system is not one that Gangway installed.
func CheckEntry(f install.Firmware) []Finding {
	running, err := f.Selected()
	if err != nil || running != slots.A.Entry() && running != slots.B.Entry() {
		return nil
	}
	esp, err := f.BootedFrom()
	if err == nil && f.Names(esp) {
		return []Finding{good("firmware-entry", "The firmware has a boot entry for this system.")}
	}
	return []Finding{{
		Code: "firmware-entry-forgotten", Severity: Note, Action: finding.UpdateFirmware, Fact: "The firmware has no boot entry for this system, although the installer made one.",
		Cause:  "The firmware or another system removed the entry. The firmware started the system by the fallback path \\EFI\\BOOT\\BOOTX64.EFI.",
		Remedy: "If the machine starts from another disk, choose this disk in the firmware's setup; otherwise nothing is needed.",
	}}
}

// checkStorage writes a variable, reads it back and removes it. Whether the firmware keeps a
// variable during a restart remains unknown.
func checkStorage(f install.Firmware) Finding {
	err := f.Probe()
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return Finding{
			Code: "firmware-variables-none", Severity: Note, Action: finding.FirmwareSetup, Fact: "The firmware's variables cannot be written.", Cause: err.Error(),
			Remedy: "Start the machine by UEFI and not by the compatibility mode (CSM, legacy boot).",
		}
	case err != nil:
		return Finding{
			Code: "firmware-variables-forgotten", Severity: Warning, Action: finding.UpdateFirmware, Fact: "The firmware did not store or remove a variable as it was told.",
			Cause:  err.Error() + ". The firmware's storage for variables is full, locked or faulty.",
			Remedy: "Update the firmware, or reset it to its factory settings. The installation works without a boot entry, but the machine will refuse updates of its system.",
		}
	}
	return good("firmware-variables", "The firmware can store and remove variables.")
}

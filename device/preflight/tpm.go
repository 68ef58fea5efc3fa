package preflight

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gangway/device/identity/tpmrc"
	"gangway/device/install/lockout"
	"gangway/internal/finding"
	"gangway/tcg"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// TPM has the properties that a TPM reports.
type TPM struct {
	Version      string   `json:"version"` // "2.0"
	Manufacturer string   `json:"manufacturer"`
	Model        string   `json:"model,omitempty"`
	Firmware     string   `json:"firmware"`
	Revision     string   `json:"revision"` // of the specification
	Banks        []string `json:"banks"`    // PCR banks in use
	Lockout      lockout.State
	// Certificates is the number of EK certificates that the TPM stores, at the NV indices of
	// the EK profile.
	Certificates int `json:"certificates"`
	// Endorsement and Owner report whether these hierarchies are enabled.
	Endorsement, Owner bool
	// EndorsementPassword reports whether the endorsement hierarchy has a password.
	EndorsementPassword bool
}

// ReadTPM reads the properties of a TPM. It uses no key of the TPM.
func ReadTPM(link transport.TPM) (*TPM, error) {
	t := &TPM{}
	if err := t.read(link); err != nil {
		return nil, tpmrc.Explain(err, tpmrc.None)
	}
	return t, nil
}

// Bits of TPMA_PERMANENT and TPMA_STARTUP_CLEAR (Part 2, 8.6 and 8.7).
const (
	endorsementAuthSet = 1 << 1
	ownerEnabled       = 1 << 1
	endorsementEnabled = 1 << 2
)

// Range of the NV indices of EK certificates (EK Credential Profile 2.5, 2.2.1.4 and 2.2.1.5).
const (
	firstEKCertificate, lastEKCertificate = 0x01C00002, 0x01C0001F
)

func (t *TPM) read(link transport.TPM) error {
	fixed, err := properties(link, tpm2.TPMPTFamilyIndicator, 13)
	if err != nil {
		return err
	}
	variable, err := properties(link, tpm2.TPMPTPermanent, 2)
	if err != nil {
		return err
	}
	t.Version = text(fixed[tpm2.TPMPTFamilyIndicator])
	t.Manufacturer = text(fixed[tpm2.TPMPTManufacturer])
	t.Model = text(fixed[tpm2.TPMPTVendorString1], fixed[tpm2.TPMPTVendorString2], fixed[tpm2.TPMPTVendorString3], fixed[tpm2.TPMPTVendorString4])
	v1, v2 := fixed[tpm2.TPMPTFirmwareVersion1], fixed[tpm2.TPMPTFirmwareVersion2]
	t.Firmware = fmt.Sprintf("%d.%d.%d.%d", v1>>16, v1&0xFFFF, v2>>16, v2&0xFFFF)
	t.Revision = fmt.Sprintf("%d.%02d", fixed[tpm2.TPMPTRevision]/100, fixed[tpm2.TPMPTRevision]%100)
	t.EndorsementPassword = variable[tpm2.TPMPTPermanent]&endorsementAuthSet != 0
	startup := variable[tpm2.TPMPTStartupClear]
	t.Endorsement, t.Owner = startup&endorsementEnabled != 0, startup&ownerEnabled != 0
	if t.Lockout, err = lockout.Read(link); err != nil {
		return err
	}
	if t.Banks, err = banks(link); err != nil {
		return err
	}
	t.Certificates, err = certificates(link)
	return err
}

func properties(link transport.TPM, first tpm2.TPMPT, count uint32) (map[tpm2.TPMPT]uint32, error) {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(first), PropertyCount: count}.Execute(link)
	if err != nil {
		return nil, err
	}
	list, err := rsp.CapabilityData.Data.TPMProperties()
	if err != nil {
		return nil, fmt.Errorf("preflight: reading the TPM's properties: %w", err)
	}
	values := map[tpm2.TPMPT]uint32{}
	for _, p := range list.TPMProperty {
		values[p.Property] = p.Value
	}
	return values, nil
}

// text decodes the characters in a TPM's 32-bit properties.
func text(values ...uint32) string {
	var b []byte
	for _, v := range values {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return strings.Join(strings.Fields(tcg.Printable(string(b))), " ")
}

var bankNames = map[tpm2.TPMAlgID]string{
	tpm2.TPMAlgSHA1: "SHA-1", tpm2.TPMAlgSHA256: "SHA-256", tpm2.TPMAlgSHA384: "SHA-384", tpm2.TPMAlgSHA512: "SHA-512", 0x0012: "SM3-256",
}

// The function `banks` returns the names of the PCR banks in which PCRs are allocated.
func banks(link transport.TPM) ([]string, error) {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapPCRs, PropertyCount: 16}.Execute(link)
	if err != nil {
		return nil, err
	}
	list, err := rsp.CapabilityData.Data.AssignedPCR()
	if err != nil {
		return nil, fmt.Errorf("preflight: reading the TPM's PCR banks: %w", err)
	}
	var names []string
	for _, s := range list.PCRSelections {
		if !slices.ContainsFunc(s.PCRSelect, func(b byte) bool { return b != 0 }) {
			continue
		}
		name, ok := bankNames[s.Hash]
		if !ok {
			name = fmt.Sprintf("0x%04X", uint16(s.Hash))
		}
		names = append(names, name)
	}
	return names, nil
}

// The function `certificates` returns the number of NV indices with EK certificates.
func certificates(link transport.TPM) (n int, err error) {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: firstEKCertificate, PropertyCount: 64}.Execute(link)
	if err != nil {
		return 0, err
	}
	list, err := rsp.CapabilityData.Data.Handles()
	if err != nil {
		return 0, fmt.Errorf("preflight: reading the TPM's NV indices: %w", err)
	}
	for _, h := range list.Handle {
		switch {
		case h < firstEKCertificate || h > lastEKCertificate:
		case h == 0x01C00003, h == 0x01C00004, h == 0x01C0000B, h == 0x01C0000C: // nonces and templates
		default:
			n++
		}
	}
	return n, nil
}

// Judge returns the findings about a TPM. `withPassword` reports whether the caller has the
// password of the endorsement hierarchy.
func (t *TPM) Judge(withPassword bool) []Finding {
	if t.Version != "2.0" {
		return []Finding{{
			Code: "tpm-version", Severity: Problem, Action: finding.FirmwareSetup,
			Fact:   fmt.Sprintf("The TPM has version %q; Gangway requires version 2.0.", t.Version),
			Remedy: "Update the TPM's firmware, or switch the firmware's setup from TPM 1.2 to TPM 2.0 (fTPM, PTT).",
		}}
	}
	all := []Finding{good("tpm", "TPM 2.0, %s %s, firmware %s, revision %s.", t.Manufacturer, t.Model, t.Firmware, t.Revision)}
	all = append(all, t.checkBanks(), t.checkLockout(), t.checkCertificates())
	return append(all, t.checkHierarchies(withPassword)...)
}

// NoTPM returns the finding that explains why the TPM cannot be used.
func NoTPM(address string, err error) Finding {
	f := Finding{Code: "tpm-missing", Severity: Problem, Action: finding.FirmwareSetup, Fact: "The TPM at " + address + " cannot be used.", Cause: err.Error(),
		Remedy: "Switch the TPM on in the firmware's setup (TPM, fTPM or PTT), and run this command as root or as a member of the group tss."}
	if c := (*tpmrc.Cause)(nil); errors.As(err, &c) {
		f.Code, f.Action, f.Fact, f.Cause, f.Remedy = c.Code, "", c.Reason, fmt.Sprintf("The TPM answered %v.", c.Err), c.Remedy
	}
	return f
}

func (t *TPM) checkBanks() Finding {
	list := strings.Join(t.Banks, ", ")
	if slices.Contains(t.Banks, "SHA-256") {
		return good("tpm-banks", "PCR banks: %s.", list)
	}
	f := Finding{
		Code: "tpm-banks-no-sha256", Severity: Warning, Action: finding.FirmwareSetup, Fact: "The TPM's PCR bank of SHA-256 is not in use (banks in use: " + list + ").",
		Cause:  "The firmware's setup chooses the banks. The key of an encrypted disk is sealed to a PCR of the SHA-256 bank.",
		Remedy: "Enable the SHA-256 bank in the firmware's setup (TPM, PCR bank), and restart.",
	}
	if slices.Contains(t.Banks, "SHA-384") || slices.Contains(t.Banks, "SHA-512") {
		return f
	}
	if list == "" {
		list = "none"
	}
	f.Code, f.Severity, f.Fact = "tpm-banks-weak", Problem, "The TPM has no PCR bank of SHA-256 or better (banks in use: "+list+")."
	f.Cause = "The firmware's setup chooses the banks. A measurement in a bank of SHA-1 can be forged, so the hub does not accept it."
	return f
}

func (t *TPM) checkLockout() Finding {
	l := t.Lockout
	ends := "The lockout does not end by itself: a person must lift it with the lockout password, or clear the TPM."
	if l.Interval > 0 {
		ends = fmt.Sprintf("While the machine is on, the count falls by one every %s.", l.Interval.Round(time.Second))
	}
	switch {
	case l.Locked:
		remedy := "Leave the machine on until the lockout has ended, or lift it: tpm2_dictionarylockout --clear-lockout. " + ends
		if l.Password {
			remedy = "Leave the machine on until the lockout has ended; to lift it earlier, a person needs the lockout password. " + ends
		}
		return Finding{Code: "tpm-lockout", Severity: Problem, Action: finding.Wait, Fact: fmt.Sprintf("The TPM is in lockout: it counted %d wrong passwords or power losses, and the limit is %d.", l.Tries, l.Max),
			Cause: "A program tried wrong passwords, or the machine lost power while a key with a password was in use.", Remedy: remedy}
	case l.Max > 0 && l.Tries*2 >= l.Max:
		return Finding{Code: "tpm-lockout-near", Severity: Warning, Action: finding.Wait, Fact: fmt.Sprintf("The TPM is near its lockout: it counted %d wrong passwords or power losses, and the limit is %d.", l.Tries, l.Max),
			Cause: "A program tries wrong passwords, or the machine loses power while a key with a password is in use.", Remedy: "Find the program, and shut the machine down before you cut its power. " + ends}
	}
	return good("tpm-lockout-none", "The TPM is not in lockout: it counted %d of %d wrong tries.", l.Tries, l.Max)
}

func (t *TPM) checkCertificates() Finding {
	if t.Certificates > 0 {
		return good("tpm-ek-certificate", "The TPM's memory has %d EK certificate(s) of its maker.", t.Certificates)
	}
	return Finding{
		Code: "tpm-ek-certificate-missing", Severity: Note, Action: finding.Approve, Fact: "The TPM's memory has no EK certificate.",
		Cause:  "Some makers publish the certificate instead of storing it, and a software TPM may have none.",
		Remedy: "The owner must compare the EK's SHA-256 and approve the machine once, or list the EK beforehand: gangway policy ek-list.",
	}
}

func (t *TPM) checkHierarchies(withPassword bool) (all []Finding) {
	if !t.Endorsement {
		all = append(all, hierarchyDisabled("tpm-endorsement-disabled", "endorsement"))
	}
	if !t.Owner {
		all = append(all, hierarchyDisabled("tpm-owner-disabled", "owner"))
	}
	if t.EndorsementPassword && !withPassword {
		all = append(all, Finding{
			Code: "tpm-endorsement-password", Severity: Problem, Action: finding.ClearTPM, Fact: "The TPM's endorsement hierarchy has a password, and this command was started without it.",
			Cause:  "Another system, or a person, has set the password. The device's keys cannot be made without the password.",
			Remedy: "Write the password to a file and name the file with --endorsement-auth-file, or clear the TPM, which removes the password.",
		})
	}
	return all
}

func hierarchyDisabled(code, name string) Finding {
	return Finding{
		Code: code, Severity: Problem, Action: finding.Restart, Fact: "The TPM's " + name + " hierarchy is disabled.",
		Cause:  "A program or the firmware disabled the hierarchy after the last start.",
		Remedy: "Restart the machine: this enables the hierarchy. If the hierarchy stays disabled, enable it in the firmware's setup (TPM, Security).",
	}
}

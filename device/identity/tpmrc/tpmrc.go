// Package tpmrc explains a TPM's response codes to the person at the machine: what is wrong, and
// what to do.
package tpmrc

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"
)

// Hierarchy is the hierarchy whose authorisation a TPM command requires.
type Hierarchy string

// The hierarchies (Part 1, 13). None means that a command requires no hierarchy's authorisation.
const (
	None        Hierarchy = ""
	Endorsement Hierarchy = "endorsement"
	Owner       Hierarchy = "owner"
	Lockout     Hierarchy = "lockout"
)

// Stable codes of causes.
const (
	CodeLockout             = "tpm-lockout"
	CodeEndorsementAuth     = "tpm-endorsement-password"
	CodeEndorsementAuthBad  = "tpm-endorsement-password-wrong"
	CodeEndorsementDisabled = "tpm-endorsement-disabled"
	CodeOwnerAuth           = "tpm-owner-password"
	CodeOwnerDisabled       = "tpm-owner-disabled"
	CodeLockoutAuth         = "tpm-lockout-password"
	CodeFailure             = "tpm-failure"
	CodeNotStarted          = "tpm-not-started"
	CodeUpgrade             = "tpm-upgrade"
	CodeBusy                = "tpm-busy"
	CodeFull                = "tpm-full"
	CodeNV                  = "tpm-nv"
	CodeUnsupported         = "tpm-unsupported"
	CodeAltered             = "tpm-altered"
	CodeOther               = "tpm-refused"
)

// ErrAltered means that a response does not come from the TPM as the machine received it.
var ErrAltered = errors.New("the response is not authentic")

// Cause is an error that explains why the TPM refused a command, or why its response is not used. It
// wraps the tpm2.TPMRC, or ErrAltered.
type Cause struct {
	Code   string // stable
	Reason string // one sentence
	Remedy string // one sentence
	Err    error  // the TPM's answer and the command
}

func (c *Cause) Error() string {
	return fmt.Sprintf("%s %s (%s: %v)", c.Reason, c.Remedy, c.Code, c.Err)
}

func (c *Cause) Unwrap() error { return c.Err }

// meaning explains some response codes. If hierarchy is not None, the meaning applies only to
// commands that require this hierarchy's authorisation.
type meaning struct {
	codes                []tpm2.TPMRC
	hierarchy            Hierarchy
	code, reason, remedy string
}

var (
	denied   = []tpm2.TPMRC{tpm2.TPMRCBadAuth, tpm2.TPMRCAuthFail, tpm2.TPMRCAuthMissing, tpm2.TPMRCAuthUnavailable}
	meanings = []meaning{
		{[]tpm2.TPMRC{tpm2.TPMRCLockout}, None, CodeLockout,
			"The TPM is in lockout: it counted too many wrong passwords or power losses.",
			"Leave the machine switched on until the lockout has ended, or lift it with 'tpm2_dictionarylockout --clear-lockout'."},
		{[]tpm2.TPMRC{tpm2.TPMRCHierarchy, tpm2.TPMRCDisabled}, Endorsement, CodeEndorsementDisabled,
			"The TPM's endorsement hierarchy is disabled.",
			"Restart the machine: this enables the hierarchy. If the hierarchy stays disabled, enable it in the firmware setup (TPM, Security)."},
		{[]tpm2.TPMRC{tpm2.TPMRCHierarchy, tpm2.TPMRCDisabled}, Owner, CodeOwnerDisabled,
			"The TPM's owner hierarchy is disabled.",
			"Restart the machine: this enables the hierarchy. If the hierarchy stays disabled, enable it in the firmware setup (TPM, Security)."},
		{denied, Endorsement, CodeEndorsementAuth,
			"The TPM's endorsement hierarchy has a password.",
			"Write the password into a file that only root can read, and name the file with --endorsement-auth-file. Or clear the TPM, which removes the password."},
		{denied, Owner, CodeOwnerAuth,
			"The TPM's owner hierarchy has a password.",
			"Remove the password with 'tpm2_changeauth -c owner', or clear the TPM in the firmware's setup."},
		{denied, Lockout, CodeLockoutAuth,
			"The TPM's lockout hierarchy has a password.",
			"Remove the password with the help of the person who set it, or clear the TPM in the firmware's setup."},
		{[]tpm2.TPMRC{tpm2.TPMRCFailure}, None, CodeFailure,
			"The TPM is in failure mode: its self-test failed.",
			"Switch the machine off, wait a few seconds and switch it on; if it fails again, update the TPM's firmware."},
		{[]tpm2.TPMRC{tpm2.TPMRCInitialize}, None, CodeNotStarted,
			"The firmware did not start the TPM.",
			"Enable the TPM in the firmware's setup, or update the machine's firmware."},
		{[]tpm2.TPMRC{tpm2.TPMRCUpgrade, tpm2.TPMRCReboot}, None, CodeUpgrade,
			"The TPM's firmware is being updated, or the TPM needs a restart after an update.",
			"Finish the update and restart the machine."},
		{[]tpm2.TPMRC{tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCCanceled}, None, CodeBusy,
			"The TPM is busy.",
			"Try again. If the TPM stays busy, end the other programs that use the TPM."},
		{[]tpm2.TPMRC{tpm2.TPMRCObjectMemory, tpm2.TPMRCSessionMemory, tpm2.TPMRCMemory, tpm2.TPMRCObjectHandles, tpm2.TPMRCSessionHandles, tpm2.TPMRCContextGap}, None, CodeFull,
			"The TPM has no memory for another key or session: other programs use all of its memory.",
			"End these programs or restart the machine. Then use /dev/tpmrm0, which programs can share."},
		{[]tpm2.TPMRC{tpm2.TPMRCNVRate, tpm2.TPMRCNVUnavailable}, None, CodeNV,
			"The TPM currently refuses to write to its memory, to limit wear.",
			"Try again in a few minutes."},
		{[]tpm2.TPMRC{tpm2.TPMRCNVSpace}, None, CodeNV,
			"The TPM has no room for another NV index.",
			"Remove an index that no program needs, with 'tpm2_nvundefine', or clear the TPM in the firmware's setup."},
		{[]tpm2.TPMRC{tpm2.TPMRCCommandCode, tpm2.TPMRCCurve, tpm2.TPMRCAsymmetric, tpm2.TPMRCSymmetric, tpm2.TPMRCHash, tpm2.TPMRCKeySize, tpm2.TPMRCScheme, tpm2.TPMRCKDF, tpm2.TPMRCType}, None, CodeUnsupported,
			"The TPM does not support the command or algorithm.",
			"Choose another algorithm with --key or --ek, or update the TPM's firmware."},
	}
	other = meaning{code: CodeOther,
		reason: "The TPM refused a command.",
		remedy: "Restart the machine; if the error happens again, report the error with the code that follows."}
	wrongPassword = meaning{code: CodeEndorsementAuthBad,
		reason: "The password in the file for the TPM's endorsement hierarchy is wrong.",
		remedy: "Correct the file named with --endorsement-auth-file: its content, without the last line end, is the password."}
)

// Altered returns the *Cause that wraps ErrAltered and `err`.
func Altered(err error) error {
	return &Cause{CodeAltered,
		"The TPM's response is not authentic: a device on its bus changes its responses, or the TPM is faulty.",
		"Restart the machine. If this happens again, examine the machine.",
		fmt.Errorf("%w: %w", ErrAltered, err)}
}

// Explain returns err as a *Cause if err contains a TPM's response code, or says that the HMAC of a
// response is wrong. `h` is the hierarchy whose authorisation the command required. Otherwise, or
// if err already is a *Cause, Explain returns err unchanged.
func Explain(err error, h Hierarchy) error {
	var rc tpm2.TPMRC
	var cause *Cause
	if err == nil || errors.As(err, &cause) {
		return err
	}
	// go-tpm v0.9.8 has no variable for this error.
	if strings.Contains(err.Error(), "incorrect authorization HMAC") {
		return Altered(err)
	}
	if !errors.As(err, &rc) {
		return err
	}
	m := find(rc, h)
	return &Cause{m.code, m.reason, m.remedy, err}
}

// ExplainWithPassword is like Explain, but for an operation for which the user supplied a password
// of the endorsement hierarchy.
func ExplainWithPassword(err error) error {
	err = Explain(err, Endorsement)
	if cause := (*Cause)(nil); errors.As(err, &cause) && cause.Code == CodeEndorsementAuth {
		return &Cause{wrongPassword.code, wrongPassword.reason, wrongPassword.remedy, cause.Err}
	}
	return err
}

// layers are the bits with which a resource manager, such as the kernel's, marks its own
// codes (TSS 2.0 Overview, 3.6).
const layers = 0x00FF0000

func find(rc tpm2.TPMRC, h Hierarchy) meaning {
	rc &^= layers
	for _, m := range meanings {
		if m.hierarchy != None && m.hierarchy != h {
			continue
		}
		for _, c := range m.codes {
			if rc.Is(c) {
				return m
			}
		}
	}
	return other
}

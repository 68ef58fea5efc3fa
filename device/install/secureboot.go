package install

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
)

// SecureBootMode is a mode of Secure Boot (UEFI 2.10, 32.3).
type SecureBootMode string

// The modes.
const (
	UserMode     SecureBootMode = "user"     // a platform key is enrolled
	SetupMode    SecureBootMode = "setup"    // without a platform key: any program can enrol keys
	AuditMode    SecureBootMode = "audit"    // as SetupMode; the firmware also records the images that it would not trust
	DeployedMode SecureBootMode = "deployed" // as UserMode, and only a reset of the platform key leaves the mode
)

// SecureBootState is the state of Secure Boot. Enforcing reports whether the firmware checks the
// signatures of programs.
type SecureBootState struct {
	Mode      SecureBootMode
	Enforcing bool
}

// SecureBoot reads the state of Secure Boot. If the firmware has no such state, the error is
// fs.ErrNotExist. Firmware older than UEFI 2.5 has no variables for audit mode and deployed mode.
func (f Firmware) SecureBoot() (SecureBootState, error) {
	s := SecureBootState{Mode: UserMode}
	enforcing, err := f.flag("SecureBoot")
	if err != nil {
		return s, err
	}
	s.Enforcing = enforcing
	for _, v := range []struct {
		name string
		mode SecureBootMode
	}{{"SetupMode", SetupMode}, {"AuditMode", AuditMode}, {"DeployedMode", DeployedMode}} {
		set, err := f.flag(v.name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return s, err
		}
		if set {
			s.Mode = v.mode
		}
	}
	return s, nil
}

// flag reads a global variable of one byte, 0 or 1.
func (f Firmware) flag(name string) (bool, error) {
	b, err := f.read(name, globalVendor)
	if err != nil {
		return false, err
	}
	if len(b) != 1 || b[0] > 1 {
		return false, fmt.Errorf("install: the firmware's variable %s has the value %x; 00 or 01 is required", name, b[:min(len(b), 8)])
	}
	return b[0] == 1, nil
}

// SecureBootKeys returns a text that changes when the keys of Secure Boot change: PK, KEK, db or
// dbx.
func (f Firmware) SecureBootKeys() string {
	const imageSecurity = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
	h := sha256.New()
	for _, v := range []struct{ name, vendor string }{{"PK", globalVendor}, {"KEK", globalVendor}, {"db", imageSecurity}, {"dbx", imageSecurity}} {
		value, err := f.read(v.name, v.vendor)
		fmt.Fprintf(h, "%s %v %d ", v.name, err == nil, len(value))
		h.Write(value)
	}
	return hex.EncodeToString(h.Sum(nil))
}

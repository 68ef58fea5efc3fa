package machine

import (
	"fmt"
	"os"
	"strings"

	"gangway/device/install/lockout"
	"gangway/device/screen"

	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
)

const tpmPath = "/dev/tpmrm0"

func OpenTPM() (transport.TPMCloser, error) {
	t, err := linuxtpm.Open(tpmPath)
	if err != nil {
		return nil, fmt.Errorf("the TPM at %s: %w", tpmPath, err)
	}
	return t, nil
}

// LiftLockout lifts the TPM's lockout, which losses of power lead to.
func LiftLockout() {
	t, err := OpenTPM()
	if err != nil {
		screen.Say("%v", err)
		return
	}
	defer t.Close()
	switch was, err := lockout.Lift(t); {
	case err != nil:
		screen.Say("%v", err)
	case was:
		screen.Say("The TPM was in lockout, for its power failed a few times; it was lifted.")
	}
}

// HasTPM says what is wrong with the machine's TPM; empty: nothing.
func HasTPM() string {
	b, err := os.ReadFile("/sys/class/tpm/tpm0/tpm_version_major")
	switch {
	case err != nil:
		return "No TPM: switch it on in the firmware's setup (TPM, fTPM or PTT)."
	case strings.TrimSpace(string(b)) != "2":
		return "The TPM is not of version 2.0, which is needed."
	}
	return ""
}

package machine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"gangway/device/install/lockout"

	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxtpm"
)

// TPMPath is the device of the machine's TPM.
const TPMPath = "/dev/tpmrm0"

const tpmClass = "/sys/class/tpm/tpm0"

// The errors of CheckTPM. Their texts are sentences for the person at the machine.
var (
	ErrNoTPM  = errors.New("No TPM: switch it on in the firmware's setup (TPM, fTPM or PTT).") //lint:ignore ST1005 shown to a person
	ErrOldTPM = errors.New("The TPM's version is not 2.0, which Gangway requires.")            //lint:ignore ST1005 shown to a person
)

// CheckTPM returns nil if the machine has a TPM 2.0. Otherwise it returns ErrNoTPM or ErrOldTPM.
func CheckTPM() error { return checkTPM(tpmClass) }

func checkTPM(class string) error {
	b, err := os.ReadFile(filepath.Join(class, "tpm_version_major"))
	switch {
	case err != nil:
		return ErrNoTPM
	case strings.TrimSpace(string(b)) != "2":
		return ErrOldTPM
	}
	return nil
}

// OpenTPM opens the machine's TPM.
func OpenTPM() (transport.TPMCloser, error) {
	t, err := linuxtpm.Open(TPMPath)
	if err != nil {
		return nil, fmt.Errorf("the TPM at %s: %w", TPMPath, err)
	}
	return t, nil
}

// LiftLockout lifts the TPM's lockout, if the TPM is in lockout, and logs this. Repeated losses of
// power can cause a lockout.
func LiftLockout(logf func(format string, args ...any)) {
	t, err := OpenTPM()
	if err != nil {
		logf("%v", err)
		return
	}
	defer t.Close()
	switch lifted, err := lockout.Lift(t); {
	case err != nil:
		logf("%v", err)
	case lifted:
		logf("The TPM was in lockout, because the machine lost power a few times; the lockout is lifted.")
	}
}

// ClearTPM clears the TPM (lockout.Clear).
func ClearTPM() error {
	t, err := OpenTPM()
	if err != nil {
		return err
	}
	defer t.Close()
	return lockout.Clear(t)
}

package machine

import (
	"encoding/base64"
	"fmt"
	"gangway/device/screen"
	"os"
	"strings"
)

const eventLog = "/sys/kernel/security/tpm0/binary_bios_measurements"

// ShowBoot prints the firmware's event log, in base64, and the PCRs 0 to 15.
// Neither is a secret.
func ShowBoot() {
	b, err := os.ReadFile(eventLog)
	if err != nil {
		screen.Say("no event log: %v", err)
		return
	}
	screen.Say("event log %s", base64.StdEncoding.EncodeToString(b))
	for i := range 16 {
		pcr, err := os.ReadFile(fmt.Sprintf("/sys/class/tpm/tpm0/pcr-sha256/%d", i))
		if err != nil {
			screen.Say("no PCR %d: %v", i, err)
			return
		}
		screen.Say("PCR %d %s", i, strings.ToLower(strings.TrimSpace(string(pcr))))
	}
}

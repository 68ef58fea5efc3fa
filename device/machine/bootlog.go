package machine

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// EventLogPath is the file in which Linux shows the firmware's event log.
const EventLogPath = "/sys/kernel/security/tpm0/binary_bios_measurements"

// LogBoot logs the firmware's event log, in base64, and the PCRs 0 to 15, for tests and diagnosis.
// Neither is secret.
func LogBoot(logf func(format string, args ...any)) {
	logBoot(EventLogPath, filepath.Join(tpmClass, "pcr-sha256"), logf)
}

func logBoot(events, pcrs string, logf func(format string, args ...any)) {
	b, err := os.ReadFile(events)
	if err != nil {
		logf("no event log: %v", err)
		return
	}
	logf("event log %s", base64.StdEncoding.EncodeToString(b))
	for i := range 16 {
		pcr, err := os.ReadFile(filepath.Join(pcrs, fmt.Sprint(i)))
		if err != nil {
			logf("no PCR %d: %v", i, err)
			return
		}
		logf("PCR %d %s", i, strings.ToLower(strings.TrimSpace(string(pcr))))
	}
}

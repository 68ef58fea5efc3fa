package machine

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"gangway/tcg/eventlog"
)

// LogBoot logs the firmware's event log, in base64, and PCRs 0 to 15, for tests and diagnosis.
// Neither the log nor the PCRs are secret.
func LogBoot(logf func(format string, args ...any)) {
	logBoot(eventlog.Path, filepath.Join(tpmClass, "pcr-sha256"), logf)
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

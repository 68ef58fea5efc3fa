package doctor

import (
	"context"
	"fmt"
	"slices"
	"time"

	"gangway/hub/alarm"
	"gangway/internal/finding"
)

// ownChecks is about alarms for conditions that the doctor checks itself. It maps the name of such
// an alarm to the codes of the doctor's findings. If the doctor reports one of these codes, it does
// not list the alarm as well.
var ownChecks = map[string][]string{
	"certificate-expires": {"certificate-expires", "ca-expires", "tls-ca-expires", "url-expired"},
	"disk-low":            {"disk-low", "disk-full"},
	"backup-old":          {"backup-old", "backup-missing"},
	"backup-damaged":      {"backup-damaged", "backup-missing"},
	"clock-drift":         {"clock-unset", "clock-back"},
}

// checkAlarms lists the alarms that the running hub has raised and that have not ended.
func checkAlarms(_ context.Context, e *exam) (found []finding.Finding) {
	if e.database == nil {
		return nil
	}
	for _, a := range e.database.Alarms {
		if slices.ContainsFunc(e.found, func(f finding.Finding) bool { return slices.Contains(ownChecks[a.Name], f.Code) }) {
			continue
		}
		rule, ok := alarm.Find(a.Name)
		if !ok {
			continue // the alarm is of a newer version of the hub
		}
		found = append(found, bad(finding.Warning, "alarm-"+a.Name, a.Fact,
			fmt.Sprintf("The hub itself detected this problem, on %s UTC.", a.Since.UTC().Format(time.DateTime)), rule.Remedy))
	}
	if len(found) == 0 && e.served {
		return good("alarms", "The hub has found nothing that needs the operator's attention.")
	}
	return found
}

package trail

import (
	"encoding/json"
	"fmt"
	"slices"

	"gangway/internal/strictjson"
)

// ParseProgress reads a device's progress report: a JSON object of at most MaxProgress bytes with a
// "status" that a device may report. It returns the status and the whole report in compact form.
// The report keeps fields that the hub does not know, because a device may read them back later.
func ParseProgress(text []byte) (Status, []byte, error) {
	if len(text) > MaxProgress {
		return "", nil, fmt.Errorf("the progress report has more than %d bytes", MaxProgress)
	}
	compact, object, err := strictjson.Storable(text)
	if err != nil {
		return "", nil, fmt.Errorf("the progress: %w", err)
	}
	status, _ := object["status"].(string)
	if !slices.Contains(deviceStatuses, Status(status)) {
		return "", nil, fmt.Errorf("the progress report's status %q is not a status that a device may report: %v", clip(status, 32), deviceStatuses)
	}
	return Status(status), compact, nil
}

// NewProgress returns the JSON of a progress report that the hub itself writes.
func NewProgress(status Status, percent int, message string) []byte {
	b, err := json.Marshal(struct {
		Progress int    `json:"progress"`
		Message  string `json:"status-msg"`
		Status   Status `json:"status"`
	}{percent, message, status})
	if err != nil {
		panic(err) // cannot happen: strings and a number always encode
	}
	return b
}

// Report contains the fields of a progress report that a person sees in a list of revisions.
type Report struct {
	Message string
	Percent int // 0 to 100
}

// ReadReport reads a report that ParseProgress accepted. A field of an unexpected type counts as
// empty.
func ReadReport(progress []byte) Report {
	var fields map[string]any
	if json.Unmarshal(progress, &fields) != nil {
		return Report{}
	}
	message, _ := fields["status-msg"].(string)
	percent, _ := fields["progress"].(float64)
	return Report{message, int(min(max(percent, 0), 100))}
}

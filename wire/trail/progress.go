package trail

import (
	"encoding/json"
	"fmt"
	"slices"

	"gangway/internal/strictjson"
)

// ParseProgress reads a device's progress report: a JSON object of at most MaxProgress bytes with a
// "status" that a device may report. It returns the status and the whole text in compact form. The
// text includes fields that the hub does not know, because a device reads back what it wrote.
func ParseProgress(text []byte) (Status, []byte, error) {
	if len(text) > MaxProgress {
		return "", nil, fmt.Errorf("the progress has more than %d bytes", MaxProgress)
	}
	compact, object, err := strictjson.Storable(text)
	if err != nil {
		return "", nil, fmt.Errorf("the progress: %w", err)
	}
	status, _ := object["status"].(string)
	if !slices.Contains(deviceStatuses, Status(status)) {
		return "", nil, fmt.Errorf("the progress's status %q is not one that a device reports: %v", clip(status, 32), deviceStatuses)
	}
	return Status(status), compact, nil
}

// NewProgress makes a progress that the hub writes itself.
func NewProgress(status Status, percent int, message string) []byte {
	b, err := json.Marshal(struct {
		Progress int    `json:"progress"`
		Message  string `json:"status-msg"`
		Status   Status `json:"status"`
	}{percent, message, status})
	if err != nil {
		panic(err) // strings and a number marshal
	}
	return b
}

// Report is the part of a progress that lists of revisions show.
type Report struct {
	Message string
	Percent int // 0 to 100
}

// ReadReport reads a progress that ParseProgress accepted. If a field has another type than
// expected, it counts as empty.
func ReadReport(progress []byte) Report {
	var fields map[string]any
	if json.Unmarshal(progress, &fields) != nil {
		return Report{}
	}
	message, _ := fields["status-msg"].(string)
	percent, _ := fields["progress"].(float64)
	return Report{message, int(min(max(percent, 0), 100))}
}

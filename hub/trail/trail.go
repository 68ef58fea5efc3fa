// Package trail reads what people and devices send about states: the state
// itself, a device's report on its progress, and a filter by status. It is
// pure. What it returns is what was checked: a text that two readers could take
// for two different things is refused.
package trail

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"gangway/hub/store"
	"gangway/internal/strictjson"
)

// Sizes in bytes. A device reads answers of at most 2 MiB.
const (
	MaxState    = 1 << 20
	MaxProgress = 64 << 10
	MaxMeta     = 64 << 10
)

// Specs are the formats of a state, its "#spec".
var Specs = []string{"pantavisor-service-system@1", "pantavisor-multi-platform@1", "pantavisor-service-embed@1"}

// State is a state as it will be kept.
type State struct {
	JSON    []byte       // compact
	Sum     store.Hash   // SHA-256 of the canonical JSON
	Objects []store.Hash // that it names, each once, sorted
}

// ParseState reads a state: one of Specs under "#spec", under names that end
// in ".json" a document or an object's hash, and under all others an object's
// hash, which is 64 lower-case hexadecimal digits.
func ParseState(text []byte) (*State, error) {
	if len(text) > MaxState {
		return nil, fmt.Errorf("the state has more than %d bytes", MaxState)
	}
	compact, object, err := strictjson.Storable(text)
	if err != nil {
		return nil, fmt.Errorf("the state: %w", err)
	}
	if spec, _ := object["#spec"].(string); !slices.Contains(Specs, spec) {
		return nil, fmt.Errorf(`the state's "#spec" is none of %s`, strings.Join(Specs, ", "))
	}
	s := &State{JSON: compact, Sum: sha256.Sum256(canonical(nil, object))}
	for name, value := range object {
		if name == "#spec" {
			continue
		}
		text, _ := value.(string)
		sum, isSum := parseSum(text)
		switch {
		case isSum:
			s.Objects = append(s.Objects, sum)
		case !strings.HasSuffix(name, ".json"):
			return nil, fmt.Errorf("the state's %q is not the SHA-256 of an object, 64 lower-case hexadecimal digits", name)
		}
	}
	slices.SortFunc(s.Objects, func(a, b store.Hash) int { return slices.Compare(a[:], b[:]) })
	s.Objects = slices.Compact(s.Objects)
	return s, nil
}

func parseSum(text string) (sum store.Hash, ok bool) {
	if len(text) != hex.EncodedLen(len(sum)) || strings.ToLower(text) != text {
		return sum, false
	}
	_, err := hex.Decode(sum[:], []byte(text))
	return sum, err == nil
}

// ParseMeta reads a step's meta, any JSON object, and returns it compact.
func ParseMeta(text []byte) ([]byte, error) {
	if len(text) > MaxMeta {
		return nil, fmt.Errorf("the meta has more than %d bytes", MaxMeta)
	}
	compact, _, err := strictjson.Storable(text)
	if err != nil {
		return nil, fmt.Errorf("the meta: %w", err)
	}
	return compact, nil
}

// deviceStatuses are those that a device may report.
var deviceStatuses = []store.RevisionStatus{store.RevisionQueued, store.RevisionDownloading, store.RevisionSyncing, store.RevisionInProgress,
	store.RevisionTesting, store.RevisionDone, store.RevisionUpdated, store.RevisionError, store.RevisionWontGo}

// ParseProgress reads a device's report. The text is kept as it is, but for
// spaces: a device reads back what it wrote, whatever else is in it.
func ParseProgress(text []byte) (store.RevisionStatus, []byte, error) {
	if len(text) > MaxProgress {
		return "", nil, fmt.Errorf("the progress has more than %d bytes", MaxProgress)
	}
	compact, object, err := strictjson.Storable(text)
	if err != nil {
		return "", nil, fmt.Errorf("the progress: %w", err)
	}
	status, _ := object["status"].(string)
	if !slices.Contains(deviceStatuses, store.RevisionStatus(status)) {
		return "", nil, fmt.Errorf("the progress's status %q is none that a device reports: %v", cut(status), deviceStatuses)
	}
	return store.RevisionStatus(status), compact, nil
}

func cut(s string) string {
	if len(s) > 32 {
		return s[:32] + "..."
	}
	return s
}

// NewProgress is the progress of a step that no device has reported on.
func NewProgress(status store.RevisionStatus, percent int, message string) []byte {
	b, err := json.Marshal(struct {
		Progress int                  `json:"progress"`
		Message  string               `json:"status-msg"`
		Status   store.RevisionStatus `json:"status"`
	}{percent, message, status})
	if err != nil {
		panic(err) // strings and a number marshal
	}
	return b
}

// Report is what is shown of a progress in a list.
type Report struct {
	Message string
	Percent int
}

// ReadReport reads what ParseProgress let pass; what is of another type than
// expected is left out.
func ReadReport(progress []byte) Report {
	var fields map[string]any
	if json.Unmarshal(progress, &fields) != nil {
		return Report{}
	}
	message, _ := fields["status-msg"].(string)
	percent, _ := fields["progress"].(float64)
	return Report{message, int(min(max(percent, 0), 100))}
}

// Filters of status that cover more than one. The words of clients that know
// other spellings are let pass and fit nothing.
var otherStatuses = []store.RevisionStatus{"CANCELLED", "CANCELED", ""}

var errFilter = errors.New(`a filter by status is a status, or {"$in":[...]}, {"$nin":[...]}, {"$ne":...} or {"$eq":...} of statuses`)

// ParseStatuses reads a filter: a status, or one of four operators as a JSON
// object. It returns the statuses that fit, in their order.
func ParseStatuses(text string) ([]store.RevisionStatus, error) {
	if len(text) > 1024 {
		return nil, errFilter
	}
	if !strings.HasPrefix(text, "{") {
		return fitting([]store.RevisionStatus{store.RevisionStatus(text)}, true)
	}
	_, object, err := strictjson.Object([]byte(text))
	if err != nil || len(object) != 1 {
		return nil, errFilter
	}
	for operator, operand := range object {
		switch operator {
		case "$in", "$nin":
			list, ok := operand.([]any)
			if !ok {
				return nil, errFilter
			}
			var named []store.RevisionStatus
			for _, x := range list {
				s, ok := x.(string)
				if !ok {
					return nil, errFilter
				}
				named = append(named, store.RevisionStatus(s))
			}
			return fitting(named, operator == "$in")
		case "$ne", "$eq":
			s, ok := operand.(string)
			if !ok {
				return nil, errFilter
			}
			return fitting([]store.RevisionStatus{store.RevisionStatus(s)}, operator == "$eq")
		}
	}
	return nil, errFilter
}

// fitting returns the statuses that are, or are not, among the named.
func fitting(named []store.RevisionStatus, among bool) ([]store.RevisionStatus, error) {
	for _, s := range named {
		if !slices.Contains(store.RevisionStatuses, s) && !slices.Contains(otherStatuses, s) {
			return nil, errFilter
		}
	}
	var fit []store.RevisionStatus
	for _, s := range store.RevisionStatuses {
		if slices.Contains(named, s) == among {
			fit = append(fit, s)
		}
	}
	return fit, nil
}

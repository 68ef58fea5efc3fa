package trail

import (
	"errors"
	"slices"
	"strings"

	"gangway/internal/strictjson"
)

// Status is the status of a revision. The values are Pantacor's.
type Status string

const (
	StatusNew         Status = "NEW"    // set by the hub: the device has not accepted the revision yet
	StatusCancelled   Status = "CANCEL" // set by the hub: the owner withdrew the revision
	StatusQueued      Status = "QUEUED"
	StatusDownloading Status = "DOWNLOADING"
	StatusSyncing     Status = "SYNCING"
	StatusInProgress  Status = "INPROGRESS"
	StatusTesting     Status = "TESTING"
	StatusDone        Status = "DONE"
	StatusUpdated     Status = "UPDATED"
	StatusError       Status = "ERROR"
	StatusWontGo      Status = "WONTGO"
)

// Statuses lists all statuses. The first six statuses are open: the hub offers a revision with an
// open status to the revision's device. The other statuses are final.
var Statuses = []Status{StatusNew, StatusQueued, StatusDownloading, StatusSyncing, StatusInProgress, StatusTesting,
	StatusDone, StatusUpdated, StatusError, StatusWontGo, StatusCancelled}

// deviceStatuses are the statuses that a device may report.
var deviceStatuses = []Status{StatusQueued, StatusDownloading, StatusSyncing, StatusInProgress,
	StatusTesting, StatusDone, StatusUpdated, StatusError, StatusWontGo}

// Final reports whether a revision keeps this status permanently.
func (s Status) Final() bool {
	switch s {
	case StatusDone, StatusUpdated, StatusError, StatusWontGo, StatusCancelled:
		return true
	}
	return false
}

// otherStatuses are accepted in a filter, because clients send them. No revision has such a status.
var otherStatuses = []Status{"CANCELLED", "CANCELED", ""}

var errFilter = errors.New(`the filter by status is not valid: write one status, or {"$in":[...]}, {"$nin":[...]}, {"$ne":...} or {"$eq":...} with statuses`)

// ParseStatuses reads a filter of at most 1024 bytes: a status, or a JSON object with one of four
// operators. It returns the statuses that match, in the order of Statuses.
func ParseStatuses(text string) ([]Status, error) {
	if len(text) > 1024 {
		return nil, errFilter
	}
	if !strings.HasPrefix(text, "{") {
		return matching([]Status{Status(text)}, true)
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
			var named []Status
			for _, x := range list {
				s, ok := x.(string)
				if !ok {
					return nil, errFilter
				}
				named = append(named, Status(s))
			}
			return matching(named, operator == "$in")
		case "$ne", "$eq":
			s, ok := operand.(string)
			if !ok {
				return nil, errFilter
			}
			return matching([]Status{Status(s)}, operator == "$eq")
		}
	}
	return nil, errFilter
}

// The function `matching` returns the statuses in `named` if `among` is true. Otherwise it returns
// all statuses that are not in `named`.
func matching(named []Status, among bool) ([]Status, error) {
	for _, s := range named {
		if !slices.Contains(Statuses, s) && !slices.Contains(otherStatuses, s) {
			return nil, errFilter
		}
	}
	var match []Status
	for _, s := range Statuses {
		if slices.Contains(named, s) == among {
			match = append(match, s)
		}
	}
	return match, nil
}

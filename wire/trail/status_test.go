package trail_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"gangway/wire/trail"
)

// ParseProgress returns the text of a valid report unchanged, with fields that the hub does not
// know.
func TestProgressIsKeptAsItCame(t *testing.T) {
	t.Parallel()
	text := `{"status":"DOWNLOADING","status-msg":"<50%>","progress":25,"retries":3,"logs":"x","downloads":{"total":{"object_name":"total","total_size":12345678901234567890}},"new":null}`
	status, kept, err := trail.ParseProgress([]byte(text))
	if err != nil || status != trail.StatusDownloading || string(kept) != text {
		t.Errorf("%s %s %v", status, kept, err)
	}
	if r := trail.ReadReport(kept); r.Message != "<50%>" || r.Percent != 25 {
		t.Errorf("%+v", r)
	}
	if r := trail.ReadReport([]byte(`{"status-msg":7,"progress":1e300}`)); r.Message != "" || r.Percent != 100 {
		t.Errorf("%+v", r)
	}
	for _, bad := range []string{``, `[]`, `{}`, `{"status":"NEW"}`, `{"status":"CANCEL"}`, `{"status":"done"}`, `{"status":7}`, `{"status":"DONE","status":"ERROR"}`,
		`{"status":"` + strings.Repeat("x", 1000) + `"}`, `{"status":"DONE","x":"` + strings.Repeat("x", trail.MaxProgress) + `"}`} {
		if _, _, err := trail.ParseProgress([]byte(bad)); err == nil || len(err.Error()) > 300 {
			t.Errorf("%.50s: %v", bad, err)
		}
	}
	if _, _, err := trail.ParseProgress(trail.NewProgress(trail.StatusDone, 100, `a "message"`)); err != nil {
		t.Error(err)
	}
}

func TestReadsFiltersByStatus(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"NEW":        "[NEW]",
		"CANCEL":     "[CANCEL]",
		"CANCELLED":  "[]",
		`{"$in":[]}`: "[]",
		`{"$in":["TESTING","NEW","NEW","CANCELED"]}`:                    "[NEW TESTING]",
		`{"$in":["NEW","DOWNLOADING","INPROGRESS","TESTING","QUEUED"]}`: "[NEW QUEUED DOWNLOADING INPROGRESS TESTING]",
		`{"$ne":"DONE"}`: "[NEW QUEUED DOWNLOADING SYNCING INPROGRESS TESTING UPDATED ERROR WONTGO CANCEL]",
		`{"$nin":["NEW","QUEUED","DOWNLOADING","SYNCING","INPROGRESS","TESTING"]}`: "[DONE UPDATED ERROR WONTGO CANCEL]",
		`{"$eq":"ERROR"}`: "[ERROR]",
	} {
		got, err := trail.ParseStatuses(text)
		if err != nil || fmt.Sprint(got) != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	all, err := trail.ParseStatuses(`{"$ne":""}`)
	if err != nil || !slices.Equal(all, trail.Statuses) {
		t.Errorf("%v, %v", all, err)
	}
	for _, bad := range []string{"done", "NEW' OR 1=1", `{}`, `{"$where":"sleep(1000)"}`, `{"$regex":"^a"}`, `{"$in":"NEW"}`, `{"$in":[{"$ne":"NEW"}]}`, `{"$in":[1]}`,
		`{"$in":["NEW"],"$ne":"NEW"}`, `{"$in":["NEW"],"$in":["DONE"]}`, `{"$ne":null}`, `{"$ne":["NEW"]}`, `{"$in":["new"]}`, `{"$gt":""}`, `["NEW"]`, `{"$in":["NEW"]} ` + strings.Repeat(" ", 2000)} {
		if got, err := trail.ParseStatuses(bad); err == nil {
			t.Errorf("%.50s was read as %v", bad, got)
		}
	}
}

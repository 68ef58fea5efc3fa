package api_test

import (
	"strings"
	"testing"
	"time"

	"gangway/hub/alarm"
)

// While an alarm lasts, the operator's page shows its cause, its remedy and the section of the
// runbook. When the alarm ends, the page says so.
func TestOperatorSeesAlarms(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.Server.FreshReadings()
	s.operator(t)
	read := func() string {
		t.Helper()
		status, body, _ := s.signedIn(t, "olga").send("GET", "/ui/operator/alarms", "")
		if status != 200 {
			t.Fatalf("%d %.300s", status, body)
		}
		return body
	}
	rule, _ := alarm.Find("backup-old")
	remedy := strings.ReplaceAll(rule.Remedy, "'", "&#39;")
	if err := s.Store.SetLastBackup(t.Context(), s.Now()); err != nil {
		t.Fatal(err)
	}
	body := read()
	if strings.Contains(body, remedy) {
		t.Error("the page shows the alarm before it begins")
	}
	for _, r := range alarm.Rules {
		if !strings.Contains(body, r.Title) || !strings.Contains(body, r.Alert) {
			t.Errorf("the page lacks the rule %s", r.Name)
		}
	}
	if err := s.Store.SetLastBackup(t.Context(), s.Now().Add(-8*24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if body := read(); !strings.Contains(body, remedy) || !strings.Contains(body, "The newest recorded backup of the hub is from") || !strings.Contains(body, "needs you") {
		t.Errorf("the page does not show the alarm: %.3000s", body)
	}
	if err := s.Store.SetLastBackup(t.Context(), s.Now()); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(read(), remedy) {
		t.Error("the page shows the alarm after its end")
	}
}

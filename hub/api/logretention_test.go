package api_test

import (
	"strings"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/hub/store"
	"gangway/internal/brief"
)

// If an owner keeps less of the logs than the hub allows, the hub removes the owner's older lines,
// and no lines of other owners.
func TestOwnerKeepsLogsForLessTime(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	kept := want[api.LogRetention](f.ada, "GET", "/logs/retention", nil, 200)
	if kept.Age != 0 || kept.Bytes != 0 || kept.HubAge != 30*24*3600 || kept.HubBytes != 8<<20 {
		t.Errorf("without a rule: %s", brief.Of(kept))
	}
	want[map[string]string](f.boat, "POST", "/logs", `{"msg":"old"}`, 200)
	want[map[string]string](f.pirate, "POST", "/logs", `{"msg":"theirs"}`, 200)
	f.Advance(25 * time.Hour)
	f.ada, f.mallory = f.person(t, "ada"), f.person(t, "mallory") // the access tokens have expired
	want[map[string]string](f.boat, "POST", "/logs", `{"msg":"new"}`, 200)
	kept = want[api.LogRetention](f.ada, "PUT", "/logs/retention", map[string]any{"max-age": 24 * 3600, "max-bytes": 1 << 20}, 200)
	if kept.Age != 24*3600 || kept.Bytes != 1<<20 {
		t.Errorf("the answer is %s", brief.Of(kept))
	}
	if again := want[api.LogRetention](f.ada, "GET", "/logs/retention", nil, 200); again != kept {
		t.Errorf("then it is %s", brief.Of(again))
	}
	if other := want[api.LogRetention](f.mallory, "GET", "/logs/retention", nil, 200); other.Age != 0 {
		t.Errorf("the rule of another owner is %s", brief.Of(other))
	}
	if err := f.Server.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.Advance(2 * time.Second)
	if got := lines(want[api.LogPage](f.ada, "GET", "/logs", nil, 200)); got != "new" {
		t.Errorf("the lines left are %q", got)
	}
	if got := lines(want[api.LogPage](f.mallory, "GET", "/logs", nil, 200)); got != "theirs" {
		t.Errorf("the other owner's lines are %q", got)
	}
	list, err := f.Store.Events(t.Context(), store.EventFilter{Owner: f.Owner.ID, Kind: "logs.retention-changed"})
	if err != nil || len(list) != 1 || !strings.Contains(list[0].Message, "for 1d, 1.0 MiB of each device") {
		t.Errorf("events: %s, %v", brief.Of(list), err)
	}
}

// Attack: an owner asks the hub to keep more than the operator allows, or uses numbers that
// overflow.
func TestOwnerCannotKeepMoreLogsThanTheHub(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	for _, in := range []string{
		`{"max-age":2592001}`, `{"max-age":3599}`, `{"max-age":-1}`, `{"max-age":9223372036854775807}`, `{"max-age":9223372037}`,
		`{"max-bytes":8388609}`, `{"max-bytes":65535}`, `{"max-bytes":-9223372036854775808}`,
	} {
		if p := want[api.Problem](f.ada, "PUT", "/logs/retention", in, 400); p.Code != "log-retention-bound" {
			t.Errorf("%s: %s", in, brief.Of(p))
		}
	}
	for _, in := range []string{`{"max-age":2592000,"max-bytes":8388608}`, `{"max-age":3600,"max-bytes":65536}`, `{}`} {
		want[api.LogRetention](f.ada, "PUT", "/logs/retention", in, 200)
	}
}

func TestLogRetentionOnThePage(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	b := s.browser(t)
	b.signIn()
	has := func(page string, values ...string) {
		t.Helper()
		for _, v := range values {
			if !strings.Contains(page, ` value="`+v+`"`) {
				t.Errorf("no field of the page has the value %q", v)
			}
		}
	}
	says(t, b.page("/ui/settings"), "for 30d, and at most 8.0 MiB of each device")
	b.posts("/ui/settings/logs", 303, "age", "1w", "size", "1 MiB")
	has(b.page("/ui/settings"), "7d", "1.0 MiB")
	page := b.posts("/ui/settings/logs", 400, "age", "31d", "size", "a lot")
	says(t, page, "at most 30d", "This is not a size.")
	has(page, "31d", "a lot")
	says(t, b.posts("/ui/settings/logs", 400, "age", "-1d", "size", "1"), "at least 1h", "at least 64 KiB")
	says(t, b.posts("/ui/settings/logs", 400, "age", "soon", "size", "99999999 PB"), "This age is not a duration", "This is not a size.")
	has(b.page("/ui/settings"), "7d")
	b.posts("/ui/settings/logs", 303, "age", "", "size", "")
	if page := b.page("/ui/settings"); strings.Contains(page, `value="7d"`) {
		t.Error("the rule is still there")
	}
}

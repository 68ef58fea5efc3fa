package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gangway/hub/api"
	"gangway/internal/locked"
)

func sendLogs(send func(method, path, body string), lines ...string) {
	send("POST", "/logs", "["+strings.Join(lines, ",")+"]")
}

func logLine(level, source, message string) string {
	text, _ := json.Marshal(map[string]any{"tsec": 1_700_000_000, "tnano": 0, "lvl": level, "src": source, "plat": "box", "rev": "3", "msg": message})
	return string(text)
}

func TestDeviceLogs(t *testing.T) {
	h, run, send := connected(t, nil)
	d := only(t, h)
	if _, notes, err := run("", "device", "logs", d.Nick); err != nil || !strings.Contains(notes, "No line") {
		t.Errorf("an empty log: %v %s", err, notes)
	}
	sendLogs(send, logLine("INFO", "kernel", "first"), logLine("error", "app", "bad\x1b[2J\nsecond line"), logLine("WARN", "kernel", "third"))
	for _, c := range []struct {
		arg   []string
		lines []string
	}{
		{nil, []string{"first", `bad\x1b[2J`, "    second line", "third"}},
		{[]string{"--level", "ERROR"}, []string{"bad", "    second line"}},
		{[]string{"--level", "error,warn"}, []string{"bad", "    second line", "third"}},
		{[]string{"--source", "kernel"}, []string{"first", "third"}},
		{[]string{"--revision", "3", "--tail", "1"}, []string{"third"}},
		{[]string{"--revision", "4"}, nil},
		{[]string{"--since", "1h"}, []string{"first", "bad", "    second line", "third"}},
		{[]string{"--until", "1h"}, nil},
		{[]string{"--tail", "0"}, []string{"first", "bad", "    second line", "third"}},
	} {
		out, _, err := run("", append([]string{"device", "logs", d.ID[:8]}, c.arg...)...)
		got := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
		if out == "" {
			got = nil
		}
		ok := err == nil && len(got) == len(c.lines) && !strings.Contains(out, "\x1b")
		for i := range got {
			ok = ok && i < len(c.lines) && strings.Contains(got[i], c.lines[i])
		}
		if !ok {
			t.Errorf("%q: %v\n%s\nwant %q", c.arg, err, out, c.lines)
		}
	}
	out, _, err := run("", "device", "logs", d.Nick, "--output", "jsonl", "-n", "2")
	var line api.LogView
	if first, _, _ := strings.Cut(out, "\n"); err != nil || strings.Count(out, "\n") != 2 || json.Unmarshal([]byte(first), &line) != nil || line.Level != "error" {
		t.Errorf("jsonl: %v %s", err, out)
	}
	if out, _, err := run("", "device", "logs", d.Nick, "--output", "csv"); err != nil || !strings.HasPrefix(out, "time,level,source,message,revision,platform,device-time\n") {
		t.Errorf("csv: %v %s", err, out)
	}
}

// The function `until` waits until the function `yes` returns true. It fails the test if this takes
// too long.
func until(t *testing.T, what string, yes func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !yes(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not come within a minute", what)
		}
	}
}

// --follow shows each line exactly once, whenever the line arrives.
func TestDeviceLogsFollow(t *testing.T) {
	h, _, send := connected(t, nil)
	d := only(t, h)
	for _, before := range []int{0, 3} {
		for i := range before {
			sendLogs(send, logLine("INFO", "app", fmt.Sprintf("before-%d.", i)))
		}
		ctx, cancel := context.WithCancel(t.Context())
		var out, notes locked.Buffer
		c := command(&app{stdout: &out, stderr: &notes, poll: 20 * time.Millisecond})
		c.SetArgs([]string{"device", "logs", d.Nick, "--follow", "--tail", "2"})
		done := make(chan error, 1)
		go func() { done <- c.ExecuteContext(ctx) }()
		if before > 0 {
			until(t, "the newest line", func() bool { return strings.Contains(out.String(), "before-2.") })
		}
		for i := range 3 {
			sendLogs(send, logLine("INFO", "app", fmt.Sprintf("round-%d-%d.", before, i)))
			until(t, "a new line", func() bool { return strings.Contains(out.String(), fmt.Sprintf("round-%d-%d.", before, i)) })
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("after Ctrl-C: %v %s", err, notes.String())
		}
		for line := range strings.Lines(out.String()) {
			if strings.Count(out.String(), line) != 1 {
				t.Errorf("the line %q is there twice", line)
			}
		}
		if strings.Contains(out.String(), "before-0.") {
			t.Errorf("--tail 2 shows three lines: %s", out.String())
		}
	}
}

func TestDeviceMetadata(t *testing.T) {
	h, run, send := connected(t, nil)
	d := only(t, h)
	send("PATCH", "/devices/"+d.ID+"/device-meta", `{"uptime":5,"note":"x\u001b[2J"}`)
	for _, step := range []struct {
		arg  []string
		want []string
	}{
		{[]string{"set", d.Nick, "site=oslo", "rack=7"}, []string{"rack: 7 (new)", "site: oslo (new)"}},
		{[]string{"set", d.ID[:6], "site=bergen", "rack-", "old-"}, []string{"rack: removed (was 7)", "site: bergen (was oslo)", "old: was not set"}},
		{[]string{"set", strings.ToUpper(d.Nick), "ports=[80, 443]", "--json"}, []string{"ports: [80,443] (new)"}},
		{[]string{"set", d.Nick, "text=a=b-", "--output", "json"}, []string{`"now": "a=b-"`}},
		{[]string{"meta", d.Nick}, []string{"owner   site", "bergen", "[80,443]", "device  uptime", `x\x1b[2J`}},
		{[]string{"meta", d.Nick, "--output", "csv"}, []string{"set-by,key,value\n", "owner,site,bergen\n"}},
		{[]string{"meta", d.Nick, "--output", "json"}, []string{`"site": "bergen"`, `"uptime": 5`}},
		{[]string{"meta", d.Nick, "--output", "yaml"}, []string{"site: bergen"}},
		{[]string{"ls", "meta.site=bergen"}, []string{d.Nick}},
	} {
		out, notes, err := run("", append([]string{"device"}, step.arg...)...)
		for _, want := range step.want {
			if err != nil || !strings.Contains(out, want) || strings.Contains(out, "\x1b") {
				t.Errorf("%q: %v %s\n%s\nwant %q", step.arg, err, notes, out, want)
			}
		}
	}
	now, err := h.Store.Device(t.Context(), d.ID)
	if err != nil || len(now.UserMeta) != 3 || now.UserMeta["site"] != "bergen" {
		t.Errorf("user-meta is %v, %v", now.UserMeta, err)
	}
}

// Two people who change different keys at the same time do not undo each other's changes.
func TestSetKeepsKeysThatOthersSet(t *testing.T) {
	h, run := onboarded(t, nil)
	d := only(t, h)
	if err := h.Store.PatchUserMeta(t.Context(), d.Owner, d.ID, map[string]any{"theirs": "1"}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := run("", "device", "set", d.Nick, "mine=1"); err != nil {
		t.Fatal(err)
	}
	now, err := h.Store.Device(t.Context(), d.ID)
	if err != nil || now.UserMeta["theirs"] != "1" || now.UserMeta["mine"] != "1" {
		t.Errorf("user-meta is %v, %v", now.UserMeta, err)
	}
	// If the hub refuses one change, it applies no change.
	if _, _, err := run("", "device", "set", d.Nick, "mine=2", "large="+strings.Repeat("x", 1<<20)); err == nil {
		t.Error("metadata of a MiB is accepted")
	}
	if now, err := h.Store.Device(t.Context(), d.ID); err != nil || now.UserMeta["mine"] != "1" {
		t.Errorf("a refused change left %.100v, %v", now.UserMeta, err)
	}
}

func TestRevisionsOnTheCommandLine(t *testing.T) {
	h, run, send := connected(t, nil)
	d := only(t, h)
	if _, _, err := run("", "device", "revisions", d.Nick); err == nil || !strings.Contains(err.Error(), "has no revisions yet") {
		t.Errorf("without a trail: %v", err)
	}
	send("POST", "/trails/", `{"#spec":"pantavisor-service-system@1","app/run.json":{"version":1},"old.json":{}}`)
	dir := t.TempDir()
	write := func(text string) string {
		path := filepath.Join(dir, "state.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	second := write(`{"#spec":"pantavisor-service-system@1","app/run.json":{"version":2},"new.json":{"a\u001b":1}}`)
	expect := func(typed string, arg []string, want ...string) {
		t.Helper()
		out, notes, err := run(typed, append([]string{"device"}, arg...)...)
		for _, w := range want {
			if err != nil || !strings.Contains(out+notes, w) || strings.Contains(out+notes, "\x1b") {
				t.Errorf("%q: %v\n%s%s\nwant %q", arg, err, out, notes, w)
			}
		}
	}
	count := func(want int) {
		t.Helper()
		if trail, err := h.Store.Trail(t.Context(), d.ID); err != nil || trail.Rev != want {
			t.Errorf("the newest revision is %d, %v; want %d", trail.Rev, err, want)
		}
	}
	// 'gangway device post' shows the changes. It posts the revision only when the person has
	// confirmed these changes.
	expect("", []string{"post", d.Nick, second, "--dry-run"}, `~ app/run.json  {"version":1} → {"version":2}`, "+ new.json", "- old.json")
	for _, answer := range []string{"no", "", "yes please"} {
		if out, _, err := run(answer, "device", "post", d.Nick, second); err == nil || !strings.Contains(err.Error(), "nothing was posted") || !strings.Contains(out, "- old.json") {
			t.Errorf("the answer %q: %v %s", answer, err, out)
		}
	}
	count(0)
	expect("yes", []string{"post", d.ID[:7], second, "--message", "second"}, "Revision 1 is posted")
	count(1)
	expect("", []string{"ls"}, "1 posted")
	expect("", []string{"show", d.Nick}, "revision", "0 done; 1 is posted")
	send("PUT", "/trails/"+d.ID+"/steps/1/progress", `{"status":"DOWNLOADING","progress":40,"status-msg":"2 of 5"}`)
	expect("", []string{"revisions", d.Nick}, "downloading 40%", "second", "ada", "the device", "2 of 5")
	send("PUT", "/trails/"+d.ID+"/steps/1/progress", `{"status":"DONE","progress":100,"status-msg":"ok"}`)
	expect("", []string{"revisions", d.Nick, "--output", "csv"}, "1,DONE,", "0,DONE,")
	expect("", []string{"revisions", d.Nick, "--output", "json", "--limit", "1"}, `"rev": 1`, `"by": "ada"`)
	expect("", []string{"state", d.Nick, "0"}, `"version": 1`)
	expect("", []string{"state", d.Nick, "--output", "yaml"}, "version: 2")
	expect("", []string{"state", d.Nick, "1", "--from", "0"}, "- old.json")

	// If the state comes from standard input, 'gangway device post' cannot ask for confirmation. So
	// it requires --yes.
	if _, _, err := run(`{"#spec":"pantavisor-service-system@1"}`, "device", "post", d.Nick, "-"); err == nil || !strings.Contains(err.Error(), "--yes") {
		t.Errorf("from standard input without --yes: %v", err)
	}
	expect(`{"#spec":"pantavisor-service-system@1"}`, []string{"post", d.Nick, "-", "--yes", "--output", "json"}, `"rev": 2`, `"change": "removed"`)
	send("PUT", "/trails/"+d.ID+"/steps/2/progress", `{"status":"DONE","progress":100,"status-msg":"ok"}`)
	expect("yes", []string{"rollback", d.Nick}, "Revision 3 is posted", "+ new.json")
	expect("", []string{"rollback", d.Nick, "0", "--yes"}, "Revision 4 is posted", "+ old.json")
	expect("", []string{"revisions", d.Nick}, "Roll back to revision 1", "Roll back to revision 0")
	if _, _, err := run("", "device", "rollback", d.Nick, "4", "--yes"); err == nil || !strings.Contains(err.Error(), "the newest") {
		t.Errorf("roll back to the newest: %v", err)
	}
	if _, _, err := run("", "device", "rollback", d.Nick, "17", "--yes"); err == nil || !strings.Contains(err.Error(), "has no revision 17") {
		t.Errorf("roll back to a revision that is not there: %v", err)
	}
	count(4)
}

// --wait ends when the revision has a final status. The exit code is 0 only if the device installed
// the revision.
func TestPostWaitsForTheDevice(t *testing.T) {
	h, run, send := connected(t, nil)
	d := only(t, h)
	send("POST", "/trails/", `{"#spec":"pantavisor-service-system@1","app/run.json":{"version":1}}`)
	for i, c := range []struct{ status, want string }{{"DONE", ""}, {"ERROR", "failed: no space"}} {
		report := fmt.Sprintf(`{"status":%q,"progress":100,"status-msg":"no space"}`, c.status)
		go func() {
			for range 1000 {
				if trail, err := h.Store.Trail(t.Context(), d.ID); err != nil || trail.Rev > i {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			send("PUT", fmt.Sprintf("/trails/%s/steps/%d/progress", d.ID, i+1), report)
		}()
		_, notes, err := run(fmt.Sprintf(`{"#spec":"pantavisor-service-system@1","app/run.json":{"version":%d}}`, i+2), "device", "post", d.Nick, "-", "--yes", "--wait")
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("after %s: %v %s", c.status, err, notes)
		}
	}
}

// If another revision is posted after the person has seen the differences, the hub refuses the
// post, because the person confirmed other changes.
func TestPostRefusesWhatThePersonDidNotSee(t *testing.T) {
	h, run, send := connected(t, nil)
	d := only(t, h)
	send("POST", "/trails/", `{"#spec":"pantavisor-service-system@1"}`)
	s, err := loadSignIn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	view, err := findDevice(t.Context(), d.ID)
	if err != nil {
		t.Fatal(err)
	}
	_, state, err := revision(t.Context(), view, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.do(t.Context(), "POST", "/trails/"+d.ID+"/steps", map[string]any{"state": json.RawMessage(`{"#spec":"pantavisor-service-system@1","x.json":1}`)}, nil); err != nil {
		t.Fatal(err)
	}
	err = (&app{stdout: new(bytes.Buffer), stderr: new(bytes.Buffer)}).post(t.Context(), view, 0, state, posting{yes: true})
	if err == nil || !strings.Contains(err.Error(), "rev") {
		t.Errorf("got %v, want a refusal", err)
	}
	out, _, err := run("", "device", "revisions", d.Nick, "--output", "csv", "--columns", "rev")
	if err != nil || strings.Contains(out, "2") {
		t.Errorf("%v %s", err, out)
	}
}

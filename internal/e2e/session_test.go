package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"gangway/hub/store"
	"gangway/internal/brief"
	"gangway/internal/hubtest"
	"gangway/internal/locked"
	"gangway/internal/pty"
	"gangway/internal/swtpm"
)

var update = flag.Bool("update", false, "write the transcript of pvr's session into docs/pvr.md")

const transcriptHeading = "## A session\n"

// shell runs commands on a terminal as a person types them, with the real pvr in PATH, and records
// their output in a transcript.
type shell struct {
	t    *testing.T
	pvr  *pvr
	dir  string
	text strings.Builder
}

func (s *shell) command(ctx context.Context, line string) *exec.Cmd {
	c := s.pvr.command(ctx, s.dir)
	c.Path, c.Args = "/bin/sh", []string{"sh", "-c", line}
	c.Env = append(c.Env, "PVR_BASEURL="+s.pvr.h.URL, "PATH="+filepath.Join(s.pvr.home, "bin")+":/usr/bin:/bin", "TERM=dumb")
	return c
}

// say adds a paragraph of text to the transcript.
func (s *shell) say(format string, args ...any) { fmt.Fprintf(&s.text, "\n"+format+"\n", args...) }

// The method `runs` runs command lines, which must succeed, and adds each line and its output to
// the transcript.
func (s *shell) runs(lines ...string) (all string) {
	s.t.Helper()
	s.text.WriteString("\n```\n")
	for _, line := range lines {
		ctx, cancel := context.WithTimeout(s.t.Context(), patience)
		out, err := s.command(ctx, line).CombinedOutput()
		cancel()
		if err != nil {
			s.t.Fatalf("%s: %v\n%s", line, err, out)
		}
		all += string(out)
		fmt.Fprintf(&s.text, "$ %s\n%s", line, onScreen(out))
	}
	s.text.WriteString("```\n")
	return all
}

// The method `types` runs a command line on a terminal. `dialogue` has pairs of a prompt and an
// answer: when a prompt appears, the method types the answer.
func (s *shell) types(line string, dialogue ...[2]string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	controller, terminal := pty.New(s.t, 0, 0)
	c := s.command(ctx, line)
	c.Stdin, c.Stdout, c.Stderr = terminal, terminal, terminal
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	terminal.Close()
	seen := new(locked.Buffer)
	copied := make(chan struct{})
	go func() { io.Copy(seen, controller); close(copied) }()
	for _, d := range dialogue {
		eventually(s.t, "the prompt "+d[0], func() bool { return strings.HasSuffix(strings.TrimRight(seen.String(), " "), d[0]) })
		if _, err := io.WriteString(controller, d[1]+"\n"); err != nil {
			s.t.Fatal(err)
		}
	}
	err := c.Wait()
	select {
	case <-copied:
	case <-time.After(5 * time.Second):
	}
	if err != nil {
		s.t.Fatalf("%s: %v\n%s", line, err, seen)
	}
	fmt.Fprintf(&s.text, "\n```\n$ %s\n%s```\n", line, onScreen([]byte(seen.String())))
}

// onScreen returns the part of an output that remains on the screen: without escape sequences and
// overwritten text.
func onScreen(out []byte) string {
	var b strings.Builder
	last := ""
	for line := range strings.Lines(strings.ReplaceAll(string(out), "\r\n", "\n")) {
		line = strings.TrimRight(line, "\n \r")
		if at := strings.LastIndex(line, "\r"); at >= 0 {
			line = line[at+1:]
		}
		line = strings.TrimRight(escapes.ReplaceAllString(line, ""), " ")
		line = took.ReplaceAllString(line, "  0s [OK]")
		// Leave out repeated progress lines, because their number depends on the machine's speed.
		if line != last || !strings.HasSuffix(line, "[OK]") {
			b.WriteString(line + "\n")
		}
		last = line
	}
	return b.String()
}

var (
	escapes = regexp.MustCompile(`\x1b\[[0-9;?]*[A-Za-z]`)
	took    = regexp.MustCompile(` +\d+m?s \[OK\]$`)
)

// stableText returns the transcript with fixed values in place of times, ids and addresses, which
// differ in each run.
func (s *shell) stableText(replace ...string) string {
	text := strings.NewReplacer(replace...).Replace(s.text.String())
	for _, r := range []struct{ pattern, by string }{
		{`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z| ?[+-]\d\d:?\d\d)?( \w+)?`, "2026-01-02T03:04:05Z"},
		{`127\.0\.0\.1:\d+`, "hub.example:12443"},
		{`127\.0\.0\.1`, "192.0.2.7"},
		{`[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d`, "Jan  2 03:04:05"},
		{`"iat": \d+`, `"iat": 1767323045`},
		{`"exp": \d+`, `"exp": 1767366245`},
		{`"orig_iat": \d+`, `"orig_iat": 1767323045`},
	} {
		text = regexp.MustCompile(r.pattern).ReplaceAllString(text, r.by)
	}
	return text
}

// The real pvr and the real agent work together in a long terminal session. docs/pvr.md has its
// transcript.
func TestPVRSessionWithTheRealAgent(t *testing.T) {
	tpm := newTPM(t, swtpm.P384)
	h := newHub(t, tpm)
	h.Policy(t, store.HubWide, hubtest.LabPolicy+"without_tpm: accept\n")
	s := &shell{t: t, pvr: needPVR(t, h), dir: t.TempDir()}
	if err := os.Mkdir(filepath.Join(s.pvr.home, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	bin, err := filepath.Abs(s.pvr.bin)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(bin, filepath.Join(s.pvr.home, "bin", "pvr")); err != nil {
		t.Fatal(err)
	}

	s.say("Create an account and sign in. `pvr` asks the person to follow a link and to confirm an e-mail\naddress, as Pantacor's hub requires. Gangway's hub requires neither: the account exists at once.")
	s.runs("pvr register -u grace -p '" + hubtest.Password + "' -e grace@example.org")
	s.types("pvr login", [2]string{"Username:", "grace"}, [2]string{"Password:", hubtest.Password})

	grace, err := h.Store.AccountByNickOrEmail(t.Context(), "grace")
	if err != nil {
		t.Fatal(err)
	}
	m := newMachineAt(t, tpm, h, newLink(t, strings.TrimPrefix(h.URL, "https://")), grace)
	lines := m.path("pump.log")
	if err := os.WriteFile(lines, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m.nick = "brave-otter-3fa2"
	m.ada.call("PATCH", "/devices/"+m.id, map[string]string{"nick": m.nick}, new(any))
	m.args = append(m.args, "--log-file", lines)
	m.run()
	m.waitForTrail()
	s.say("Before the next command, a device has onboarded with one of grace's join tokens. The device's agent\nruns with a hook that installs revisions ([agent.md](agent.md)).")
	if out := s.runs("pvr ps"); !strings.Contains(out, m.id[:8]) || !strings.Contains(out, "DONE") {
		t.Errorf("the output is %s", out)
	}

	other, challenge := deviceToClaim(t, h)
	s.say("A second device has no TPM; this hub's policy accepts such devices. The device displays a challenge,\nand a person claims the device with this challenge.")
	s.runs("pvr claim -c " + challenge + " $PVR_BASEURL/devices/" + other)
	if d, err := h.Store.Device(t.Context(), other); err != nil || d.Owner != grace.ID {
		t.Errorf("claimed by %q, %v", d.Owner, err)
	}
	m.ada.call("PATCH", "/devices/"+other, map[string]string{"nick": "level-pier-84f3"}, new(any))
	if out := s.runs("pvr device ps"); !strings.Contains(out, other[:8]) {
		t.Errorf("the output is %s", out)
	}

	eventually(t, "the device says that it runs revision 0", func() bool {
		d, err := h.Store.Device(t.Context(), m.id)
		return err == nil && d.DeviceMeta["pantavisor.revision"] == "0"
	})
	s.say("The owner sets user-meta of a device, and the device's agent stores them in the file\n`user-meta.json`. What the device reports about itself is in its device-meta.")
	s.runs("pvr device set "+m.nick+" pump.speed=3", "pvr device get "+m.nick+" | grep -E '\"(nick|pump.speed|pantavisor.revision|pantavisor.mode)\"'")
	eventually(t, "the setting arrives", func() bool {
		b, _ := os.ReadFile(m.path("state", "user-meta.json"))
		return string(bytes.TrimSpace(b)) == `{"pump.speed":"3"}`
	})

	url := "$PVR_BASEURL/trails/" + m.id
	s.say("Clone the device's state, add a file, and post the new state as revision 1.")
	s.runs("pvr clone "+url+" pump", "mkdir pump/app && echo 'speed limit 5' >pump/app/pump.conf", "cd pump && pvr add . && pvr commit", "cd pump && pvr post -m 'limit the speed'")
	m.waitForStatus(1, "DONE")
	if got := m.installed("app/pump.conf"); got != "speed limit 5\n" {
		t.Errorf("installed: %q", got)
	}
	s.say("The agent downloads the revision. Its hook installs and tests the revision. Then the agent reports\nthe status `DONE`.")
	if out := s.runs("pvr device ps"); !regexp.MustCompile(m.id[:8] + `.* 1 +DONE`).MatchString(out) {
		t.Errorf("the output is %s", out)
	}

	s.say("If the test of a revision fails, the device returns to the former revision, and the owner can read\nthe reason. The next revision contains its own test, `hook/test.sh`, which the hook runs and which\nfails.")
	s.runs("mkdir pump/hook && echo 'echo the pump does not start; exit 7' >pump/hook/test.sh", "cd pump && pvr add . && pvr commit", "cd pump && pvr post -m 'a bad one'")
	m.waitForStatus(2, "ERROR")
	if got := m.installed("app/pump.conf"); got != "speed limit 5\n" {
		t.Errorf("installed after rolling back: %q", got)
	}
	if out := s.runs("pvr device ps"); !regexp.MustCompile(m.id[:8]+`.*ERROR`).MatchString(out) || !strings.Contains(out, "code 7") {
		t.Errorf("the output is %s", out)
	}

	f, err := os.OpenFile(lines, os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString("pump: 1450 rpm\n")
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	s.say("The device's log has lines from the agent, from the hook, and from the files that the agent follows,\nsuch as `pump.log`.")
	s.readUntil("pvr device logs "+m.nick, "pump: 1450 rpm", "Revision 1 runs.", "the pump does not start", "pump: 1450 rpm")
	m.stop()

	// Send the same request as the command `gangway device publish`.
	m.ada.call("PUT", "/devices/"+m.id+"/public", nil, new(any))
	s.say("After `gangway device publish " + m.nick + "`, every account on the hub can read the device's\nrevisions. Here joan, who does not own the device, clones revision 1.")
	joan := h.Account(t, "joan")
	if list, err := h.Store.Devices(t.Context(), joan.ID, "", 10); err != nil || len(list) != 0 {
		t.Errorf("%d devices, %v", len(list), err)
	}
	s.types("pvr login", [2]string{"Username:", "joan"}, [2]string{"Password:", hubtest.Password})
	if out := s.runs("pvr clone "+url+"/steps/1 shared", "cat shared/app/pump.conf"); !strings.Contains(out, "speed limit 5") {
		t.Errorf("the output is %s", out)
	}

	text := s.stableText(m.id, "65f0c1d2e3f4a5b6c7d8e9f0", m.id[:10], "65f0c1d2e3", m.id[:8], "65f0c1d2", other, "70a1b2c3d4e5f60718293a4b", other[:8], "70a1b2c3",
		challenge, "J4QK-7NDM-W2XR", grace.ID, "0123456789abcdef01234567", joan.ID, "0123456789abcdef89abcdef", lines, "/var/log/pump.log", s.dir, "/home/grace")
	// pvr sorts the list by the real ids. Sort it by the replaced ids instead.
	text = regexp.MustCompile(`(  70a1b2c3[^\n]*\n)(  65f0c1d2[^\n]*\n(?: {20,}[^\n]*\n)*)`).ReplaceAllString(text, "$2$1")
	compareTranscript(t, text)
}

// readUntil runs a command that does not end by itself, until the command has printed the line
// `last`. For each word in `words`, it adds to the transcript the first line that contains the
// word.
func (s *shell) readUntil(line, last string, words ...string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	seen := new(locked.Buffer)
	c := s.command(ctx, "exec "+line)
	c.Stdout, c.Stderr = seen, seen
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	defer c.Wait()
	defer c.Process.Kill()
	eventually(s.t, "the log has "+last, func() bool { return strings.Contains(seen.String(), last) })
	time.Sleep(4 * time.Second) // long enough for pvr to poll again; pvr polls every second until a new line arrives
	if n := strings.Count(seen.String(), last); n != 1 {
		s.t.Errorf("%q was shown %d times:\n%s", last, n, seen.String())
	}
	fmt.Fprintf(&s.text, "\n```\n$ %s\n", line)
	for _, word := range words {
		found := ""
		for l := range strings.Lines(onScreen([]byte(seen.String()))) {
			if strings.Contains(l, word) {
				found = l
				break
			}
		}
		if found == "" {
			s.t.Errorf("%s prints no line with %q: %s", line, word, seen)
		}
		s.text.WriteString(found)
	}
	s.text.WriteString("...\n```\n")
}

// deviceToClaim registers a device without a TPM and without a join token. It returns the device's
// id, and the challenge with which a person claims the device.
func deviceToClaim(t *testing.T, h *hubtest.Hub) (id, challenge string) {
	t.Helper()
	client := signIn(t, h).client
	resp, err := client.Post(h.URL+"/devices/", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("POST /devices/: %s %s %v", resp.Status, brief.Of(body), err)
	}
	return find(body, "id"), find(body, "challenge")
}

// The function `normalized` replaces the parts of a table's line that differ in each run: how long
// ago an event happened, and the width of that column.
func normalized(line string) string {
	return strings.Join(strings.Fields(ago.ReplaceAllString(line, "ago")), " ")
}

var ago = regexp.MustCompile(`(less than a minute|about a minute|\d+ minutes?) ago`)

// compareTranscript compares the transcript with the one in docs/pvr.md. With -update, it writes
// the transcript to docs/pvr.md instead.
func compareTranscript(t *testing.T, text string) {
	t.Helper()
	path := filepath.Join("..", "..", "docs", "pvr.md")
	doc, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, had, ok := strings.Cut(string(doc), transcriptHeading)
	if !ok {
		t.Fatalf("%s has no heading %q", path, transcriptHeading)
	}
	if *update {
		if err := os.WriteFile(path, []byte(head+transcriptHeading+text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	old, now := strings.Split(had, "\n"), strings.Split(text, "\n")
	for i := range min(len(old), len(now)) {
		if normalized(old[i]) != normalized(now[i]) {
			t.Fatalf("docs/pvr.md differs from this session; write it with: go test ./internal/e2e -run SessionWithTheRealAgent -update\nwas: %q\nis:  %q", old[i], now[i])
		}
	}
	if len(old) != len(now) {
		t.Errorf("docs/pvr.md has %d lines of the session, want %d", len(old), len(now))
	}
}

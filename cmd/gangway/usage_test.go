package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"gangway/hub/api"
)

// The function `typed` runs a command line whose words are `words`, as if a person had typed it. It
// returns the exit code, and the text on standard output and on standard error.
func typed(t *testing.T, words ...string) (code int, stdout, stderr string) {
	t.Helper()
	in, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var out, notes bytes.Buffer
	code = (&app{stdin: in, stdout: &out, stderr: &notes}).run(ctx, words)
	return code, out.String(), notes.String()
}

// goText matches words that do not help a person: words of Go's libraries, and names of data
// formats such as JSON.
var goText = regexp.MustCompile(`strconv\.|time: (?:missing|unknown|invalid)|json: |yaml: |unmarshal|x509: |asn1: |tcg: |invalid character|main\.|nil pointer|0x[0-9a-f]{6,}|missing port in address|%!|unknown shorthand|bad flag syntax|invalid argument`)

// A new user tries all commands with wrong input. Every message says what is wrong and what to do.
func TestWrongUsageSaysCauseAndRemedy(t *testing.T) {
	h, run := onboarded(t, nil)
	d := only(t, h)
	token := func(nick string) string {
		t.Helper()
		out, _, err := run("", "token", "create", "--nick", nick)
		var made api.JoinTokenCreated
		if err != nil || json.Unmarshal([]byte(out), &made) != nil {
			t.Fatal(err, out)
		}
		return made.ID
	}
	first, second := token("twins"), token("twins")
	dir := t.TempDir()
	file := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	empty, note := file("empty", ""), file("note.txt", "hello world\n")
	listed := file("list.csv", "pallet 7,"+strings.Repeat("ab", 32)+",required\n")
	odd := file("odd.csv", "ek,note\n"+strings.Repeat("ab", 32)+",x\n")
	three := file("three.csv", strings.Repeat("ab", 32)+",pallet 7,required\n")
	kinds := file("kinds.yaml", "version: 1\nrules: ask\n")
	list := file("list.yaml", "- version: 1\n- rules\n")
	spec := file("spec.json", `{"app/run.json":{}}`)
	pem := file("key.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
	data := filepath.Join(dir, "nothing")
	usage, failed := exitUsage, exitFailed

	for _, c := range []struct {
		line string
		code int
		want []string
	}{
		// Words that similar commands of other programs use.
		{"devices", usage, []string{`did you mean "gangway device ls"?`}},
		{"devices list", usage, []string{`did you mean "gangway device ls"?`}},
		{"ls", usage, []string{`"gangway device ls"`, "'gangway --help'"}},
		{"tokens", usage, []string{`did you mean "gangway token ls"?`}},
		{"users", usage, []string{`did you mean "gangway account ls"?`}},
		{"machines", usage, []string{`did you mean "gangway device ls"?`}},
		{"approve x", usage, []string{`did you mean "gangway device approve"?`}},
		{"build x64-uefi-installer", usage, []string{`did you mean "gangway image build"`}},
		{"start", usage, []string{`did you mean "gangway serve"?`}},
		{"signin", usage, []string{`did you mean "gangway login"?`}},
		{"audit", usage, []string{`did you mean "gangway events"?`}},
		{"frobnicate", usage, []string{"the commands are", "device"}},
		{"Device ls", usage, []string{`did you mean "gangway device ls"?`}},
		{"device remove " + d.Nick + " --yes", usage, []string{`did you mean "gangway device delete"?`}},
		{"device del", usage, []string{`did you mean "gangway device delete"?`}},
		{"device get " + d.Nick, usage, []string{`did you mean "gangway device show"?`}},
		{"device aprove x", usage, []string{`did you mean "gangway device approve"?`}},
		{"device accept x", usage, []string{`did you mean "gangway device approve"?`}},
		{"device reject x", usage, []string{`did you mean "gangway device deny"?`}},
		{"device pending", usage, []string{`did you mean "gangway device waiting"?`}},
		{"device create", usage, []string{"gangway"}},
		{"token add", usage, []string{`did you mean "gangway token create"?`}},
		{"token revoke x", usage, []string{`did you mean "gangway token disable"?`}},
		{"token show x", usage, []string{"unknown command"}},
		{"api-token delete ci", usage, []string{`did you mean "gangway api-token revoke"?`}},
		{"account add", usage, []string{`did you mean "gangway account create"?`}},
		{"account password", usage, []string{`did you mean "gangway account passwd"?`}},
		{"policy get", usage, []string{`did you mean "gangway policy show"?`}},
		{"policy edit", usage, []string{`did you mean "gangway policy set"?`}},
		{"policy eklist", usage, []string{`did you mean "gangway policy ek-list"?`}},
		{"trust add x", usage, []string{`did you mean "gangway trust import"?`}},
		{"image make", usage, []string{`did you mean "gangway image build"?`}},
		{"image download", usage, []string{`did you mean "gangway image fetch"?`}},

		{"device tail x", usage, []string{`did you mean "gangway device logs"?`}},
		{"logs x", usage, []string{`did you mean "gangway device logs"?`}},
		{"device metadata x", usage, []string{`did you mean "gangway device meta"?`}},
		{"device label x site=oslo", usage, []string{`did you mean "gangway device meta"`}},
		{"device deploy x state.json", usage, []string{`did you mean "gangway device post"?`}},
		{"device history x", usage, []string{`did you mean "gangway device revisions"?`}},
		{"device undo x", usage, []string{`did you mean "gangway device rollback"?`}},
		{"rollback x", usage, []string{`did you mean "gangway device rollback"?`}},

		{"contexts", usage, []string{`did you mean "gangway context ls"?`}},
		{"profile", usage, []string{`did you mean "gangway context ls"?`}},
		{"context delete x", usage, []string{`did you mean "gangway context rm"?`}},
		{"switch x", usage, []string{`did you mean "gangway context use"?`}},

		// Missing and extra arguments.
		{"context use", usage, []string{"the context's name is missing"}},
		{"context rename default", usage, []string{"the new name is missing"}},
		{"device logs", usage, []string{"the device's id or nick is missing", "Usage: gangway device logs ID|NICK"}},
		{"device set", usage, []string{"the device's id or nick is missing", "KEY=VALUE"}},
		{"device set " + d.Nick, usage, []string{"KEY=VALUE sets a key, KEY- removes it"}},
		{"device post " + d.Nick, usage, []string{"the file of the state, or - for standard input, is missing"}},
		{"device rollback", usage, []string{"the device's id or nick is missing"}},
		{"device rollback " + d.Nick + " 1 2", usage, []string{`unexpected argument "2"`}},
		{"device state", usage, []string{"the device's id or nick is missing"}},
		{"device show", usage, []string{"the device's id or nick is missing", "Usage: gangway device show ID|NICK"}},
		{"device rename " + d.Nick, usage, []string{"the new nick is missing", "NEW-NICK"}},
		{"device show a b", usage, []string{`unexpected argument "b"`, "Usage: "}},
		{"token disable", usage, []string{"the join token's id or nick is missing", "Usage: gangway token disable ID|NICK"}},
		{"login https://a.example https://b.example", usage, []string{`unexpected argument "https://b.example"`}},
		{"policy set", usage, []string{"the policy's file"}},
		{"api-token create", usage, []string{"the token's name is missing"}},
		{"device delete " + d.Nick + " —yes", usage, []string{"write --yes"}},

		// Flags.
		{"device ls --json", usage, []string{"did you mean --output json?"}},
		{"device ls --outputs json", usage, []string{"did you mean --output?"}},
		{"device ls -output json", usage, []string{"-output"}},
		{"device ls --output xml", usage, []string{"table, wide, json, yaml or csv"}},
		{"device show " + d.ID + " --output csv", usage, []string{"commands that print a list"}},
		{"device ls --output jsonl", usage, []string{"gangway events"}},
		{"device ls --columns nick,colour", usage, []string{`there is no column "colour"`, "nick, id, state"}},
		{"device ls --columns nick --output json", usage, []string{"--output csv"}},
		{"device ls --limit many", usage, []string{`--limit "many" is not a whole number`}},
		{"device ls --limit -3", usage, []string{"or 0 for all"}},
		{"device ls --sort colour", failed, []string{"colour", "nick"}},
		{"device ls --watch --output json", usage, []string{"the format json cannot be used", "--output csv"}},
		{"token ls --watch --output yaml", usage, []string{"the format yaml cannot be used"}},
		{"top --output json", usage, []string{"gangway device ls --watch"}},
		{"top", usage, []string{"needs a terminal", "gangway device ls --watch"}},
		{"open nobody", failed, []string{"'gangway device ls'"}},
		{"dashboard", usage, []string{`did you mean "gangway top"?`}},
		{"browse x", usage, []string{`did you mean "gangway open"?`}},
		{"device ls --data x", usage, []string{"it is a flag of"}},
		{"device delete x --force", usage, []string{"did you mean --yes?"}},
		{"device ls stat:quiet", failed, []string{`Did you mean "state"?`}},
		{"device ls state:sleepy", failed, []string{"is not a state", "quiet"}},
		{`device ls "open`, failed, []string{"quote"}},
		{"token create --expires-in 30", usage, []string{"has no unit", "30d"}},
		{"token create --expires-in 1y", usage, []string{`unknown unit "y"`}},
		{"token create --expires-in soon", usage, []string{"write a number and a unit"}},
		{"token create --max-uses lots", usage, []string{"is not a whole number"}},
		{"token create --meta site", usage, []string{"KEY=VALUE"}},
		{"token create --name x", usage, []string{"did you mean --nick?"}},
		{"token create -o json", usage, []string{"--output json"}},
		{"token create --nick", usage, []string{"--nick needs a value"}},
		{"api-token create ci --scope everything", failed, []string{"scope"}},
		{"events --since yesterday", usage, []string{"write it like 24h, 7d"}},
		{"demo --once=perhaps", usage, []string{"must be true or false"}},
		{"demo --devices three", usage, []string{"is not a whole number"}},

		{"device logs x --tail some", usage, []string{`--tail "some" is not a whole number`}},
		{"device logs x --tail -1", usage, []string{"or 0 for all"}},
		{"device logs x --since yesterday", usage, []string{"--since", "write it like 24h, 7d"}},
		{"device logs x --follow --until 1h", usage, []string{"are mutually exclusive"}},
		{"device logs x --follow --output json", usage, []string{"--output jsonl"}},
		{"device logs x --limit 5", usage, []string{"unknown flag --limit"}},
		{"device set " + d.Nick + " site", usage, []string{"KEY=VALUE", "KEY-"}},
		{"device set " + d.Nick + " =oslo", usage, []string{"has no key"}},
		{"device set " + d.Nick + " a=1 a=2", usage, []string{"twice"}},
		{"device set " + d.Nick + " a=one --json", usage, []string{"is not JSON", "without --json"}},
		{"device set " + d.Nick + " gangway.network=x", usage, []string{"'gangway device network'"}},
		{"device revisions " + d.Nick + " --limit -1", usage, []string{"or 0 for all"}},
		{"device rollback " + d.Nick + " first", usage, []string{"is not the number of a revision"}},
		{"device state " + d.Nick + " 1 --from x", usage, []string{"is not the number of a revision"}},
		{"device post " + d.Nick + " --msg x s.json", usage, []string{"did you mean --message?"}},

		{"device ls --profile x", usage, []string{"did you mean --context?"}},
		{"device ls --context a/b", usage, []string{"is not the name of a context"}},
		{"device ls --hub http://hub.example", usage, []string{"is not the URL of a hub"}},
		{"device ls --hub hub.example/ui", usage, []string{"is not the URL of a hub"}},
		{"device ls --hub hub.example --context x", usage, []string{"are mutually exclusive"}},

		{"doctor", usage, []string{"--data is needed"}},
		{"doctor --data " + dir + " --check-time 5", usage, []string{"has no unit"}},
		{"doctor --data " + dir + " --check-time 1ms", usage, []string{"at least 1s"}},
		{"doctor --data " + filepath.Join(dir, "nowhere"), failed, []string{"is not a hub's data folder", "gangway serve --data"}},
		{"health", usage, []string{`did you mean "gangway doctor"?`}},
		{"diagnose", usage, []string{`did you mean "gangway doctor"?`}},

		// Names of things.
		{"device ls --hub hub.example", failed, []string{"not signed in to https://hub.example", "gangway login https://hub.example"}},
		{"device ls --context x", failed, []string{`there is no context "x"`, "default"}},
		{"context use x", failed, []string{`there is no context "x"`, "default"}},
		{"context rm x", failed, []string{`there is no context "x"`, "default"}},
		{"device logs nobody", failed, []string{"'gangway device ls'"}},
		{"device meta nobody", failed, []string{"'gangway device ls'"}},
		{"device set nobody a=b", failed, []string{"'gangway device ls'"}},
		{"device revisions " + d.Nick, failed, []string{"has no revisions yet", "docs/trails.md"}},
		{"device rollback " + d.Nick, failed, []string{"has no revisions yet"}},
		{"device state " + d.Nick + " 3", failed, []string{"has no revision 3", "gangway device revisions"}},
		{"device show nobody", failed, []string{`there is no device "nobody"`, "'gangway device ls'"}},
		{"device show " + d.Nick[:5], failed, []string{"did you mean " + d.Nick}},
		{"device show 000000000000000000000000", failed, []string{"Check the id"}},
		{"device approve " + d.Nick, failed, []string{"has onboarded already", "gangway device show"}},
		{"device approve " + d.ID, failed, []string{"has onboarded already"}},
		{"device deny somebody", failed, []string{"there is no waiting machine", "'gangway device waiting'"}},
		{"token disable twins", failed, []string{"matches 2 join tokens", first, second, "give one whole id"}},
		{"token disable nothing", failed, []string{"there is no join token", "'gangway token ls'"}},
		{"token delete " + first, failed, []string{"disable"}},
		{"api-token revoke ci", failed, []string{"there is no API token", "'gangway api-token ls'"}},
		{"account sessions --end 0000", failed, []string{"there is no session"}},

		// Files.
		{"policy set " + note, failed, []string{"this is not a policy", "version: 1"}},
		{"policy set " + list, failed, []string{"this is not a policy"}},
		{"policy set " + empty, failed, []string{"the policy is empty", "version: 1"}},
		{"policy set " + pem, failed, []string{"this is not a policy"}},
		{"policy set " + kinds, failed, []string{"line 2", "which this setting cannot have"}},
		{"policy set " + filepath.Join(dir, "absent.yaml"), failed, []string{"there is no file", "or - for standard input"}},
		{"policy check " + dir, failed, []string{"is a folder"}},
		{"policy ek-list " + listed, failed, []string{"no header", "ek_sha256,serial,note,certificate"}},
		{"policy ek-list " + odd, failed, []string{"no header", "ek_sha256,serial,note,certificate"}},
		{"policy ek-list " + three, failed, []string{"3 columns", "ek_sha256,serial,note,certificate"}},
		{"policy ek-list " + empty, failed, []string{"empty", "remove the list"}},
		{"trust check " + empty, failed, []string{"is empty", "'gangway trust check --help'"}},
		{"trust check " + note, failed, []string{"is not an EK certificate", "PEM"}},
		{"trust check " + filepath.Join(dir, "absent.crt"), failed, []string{"no such file"}},
		{"trust remove --data " + data + " 1234", failed, []string{"gangway serve --data"}},
		{"image build x64-uefi-installer --token-file " + note + " --claim", usage, []string{"--token-file and --claim are mutually exclusive", "leave one of them out"}},
		{"image build x64-uefi-installer", usage, []string{"--token-file", "--claim", "--reset-only"}},
		{"image build arm64 --claim", usage, []string{"the only target is x64-uefi-installer"}},

		{"device post " + d.Nick + " " + filepath.Join(dir, "absent.state"), failed, []string{"there is no file", "- for standard input"}},
		{"device post " + d.Nick + " " + empty, failed, []string{"is empty", "gangway device state"}},
		{"device post " + d.Nick + " " + note, failed, []string{"does not contain a state", "docs/trails.md"}},
		{"device post " + d.Nick + " " + spec, failed, []string{"does not contain a state", "#spec"}},
		{"device post " + d.Nick + " " + dir, failed, []string{"is a folder"}},

		// The hub's own commands.
		{"serve", usage, []string{"--data is needed"}},
		{"serve --data " + data + " --listen 13444", usage, []string{"write :13444", "127.0.0.1:13444"}},
		{"serve --data " + data + " --listen localhost", usage, []string{"ADDRESS:PORT"}},
		{"serve --data " + data + " --listen :99999", usage, []string{"1 to 65535"}},
		{"serve --data " + data + " --listen 192.0.2.1:13444", failed, []string{"is not an address of this machine"}},
		{"serve --data " + data + " --metrics-listen 9090", usage, []string{"--metrics-listen", "127.0.0.1:9090"}},
		{"serve --data " + data + " --listen " + strings.TrimPrefix(h.URL, "https://"), failed, []string{"address already in use", "ss -ltnp"}},
		{"serve --data " + data + " --events-age 90", usage, []string{"has no unit"}},
		{"serve --port 443", usage, []string{"did you mean --listen?"}},
		{"account create --data " + data + " --nick eve --generate", failed, []string{"gangway serve --data"}},
		{"account ls", usage, []string{"--data is needed"}},
		{"login hub.example", usage, []string{"must begin with https://"}},
		{"login https://127.0.0.1:1 --nick ada --hub-name 12", usage, []string{"64 hexadecimal digits"}},
		{"login https://127.0.0.1:1 --nick ada", usage, []string{"--hub-name, --hub-ca or --data"}},
	} {
		code, _, stderr := typed(t, strings.Fields(c.line)...)
		if code != c.code {
			t.Errorf("%q: exit code %d, want %d: %s", c.line, code, c.code, stderr)
		}
		for _, want := range c.want {
			if !strings.Contains(stderr, want) {
				t.Errorf("%q: the message has no %q:\n%s", c.line, want, stderr)
			}
		}
		if text := goText.FindString(stderr); text != "" {
			t.Errorf("%q: the message has Go's own text %q:\n%s", c.line, text, stderr)
		}
	}
	if _, err := os.Stat(data); err == nil {
		t.Error("a wrong command line made the hub's data folder")
	}
}

// The commands find a device, token or account by its nick, its id, or the first digits of its id,
// ignoring case.
func TestThingsAreFoundByWhatAPersonTypes(t *testing.T) {
	h, run := onboarded(t, nil)
	d := only(t, h)
	for _, which := range []string{d.ID, d.Nick, strings.ToUpper(d.ID), strings.ToUpper(d.Nick), d.ID[:6], d.ID[:8] + "…", d.ProdSerial} {
		out, _, err := run("", "device", "show", which)
		if err != nil || !strings.Contains(out, d.ID) {
			t.Errorf("device show %q: %v %.200s", which, err, out)
		}
	}
	for _, which := range []string{"spring", "SPRING", ""} {
		out, _, err := run("", "token", "create", "--nick", "spring")
		var made api.JoinTokenCreated
		if err != nil || json.Unmarshal([]byte(out), &made) != nil {
			t.Fatal(err, out)
		}
		if which == "" {
			which = made.ID[:10]
		}
		if _, notes, err := run("", "token", "disable", which); err != nil || !strings.Contains(notes, made.ID) {
			t.Errorf("token disable %q: %v %s", which, err, notes)
		}
		if _, _, err := run("", "token", "delete", made.ID); err != nil {
			t.Error(err)
		}
	}
}

// With --output json, errors are JSON too, with the hub's code or with "usage".
func TestErrorsAreJSONWithOutputJSON(t *testing.T) {
	_, _ = onboarded(t, nil)
	for line, want := range map[string]failure{
		"device show 000000000000000000000000 --output json": {Code: "not-found"},
		"device shw --output json":                           {Code: "usage"},
		"device ls --outpt json --output=json":               {Code: "usage"},
		"device show nobody --output json":                   {Code: "failed"},
	} {
		_, out, stderr := typed(t, strings.Fields(line)...)
		var got failure
		if err := json.Unmarshal([]byte(stderr), &got); err != nil || got.Code != want.Code || got.Message == "" || out != "" {
			t.Errorf("%q: got %q and %q, %v; want the code %q", line, out, stderr, err, want.Code)
		}
	}
}

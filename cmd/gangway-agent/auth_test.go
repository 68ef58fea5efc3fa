package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReadsPasswordsFromFiles(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, content string
		mode          os.FileMode
		want, fails   string
	}{
		{"one line", "secret\n", 0o600, "secret", ""},
		{"no line end", "secret", 0o400, "secret", ""},
		{"DOS line end", "secret\r\n", 0o640, "secret", ""},
		{"blanks are part of it", " a b \n\n", 0o600, " a b \n", ""},
		{"hexadecimal", "hex:00ff0A\n", 0o600, "\x00\xff\n", ""},
		{"empty", "", 0o600, "", ""},
		{"longest", strings.Repeat("a", 64) + "\n", 0o600, strings.Repeat("a", 64), ""},
		{"too long", strings.Repeat("a", 65), 0o600, "", "at most 64 bytes"},
		{"bad digits", "hex:zecret", 0o600, "", "hexadecimal"},
		{"readable by everybody", "secret", 0o644, "", "chmod 600"},
	} {
		file := filepath.Join(t.TempDir(), "auth")
		if err := os.WriteFile(file, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, c.mode); err != nil {
			t.Fatal(err)
		}
		got, err := readAuth(file)
		if c.fails != "" {
			if err == nil || !strings.Contains(err.Error(), c.fails) || strings.Contains(err.Error(), "zecret") {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
	if b, err := readAuth(""); b != nil || err != nil {
		t.Errorf("no file: %q, %v", b, err)
	}
	if _, err := readAuth(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a file that is not there is an empty password")
	}
}

// If a command line of gangway-agent is wrong, the error message says how to correct the command
// line, and which command prints the help.
func TestWrongUsageSaysCauseAndRemedy(t *testing.T) {
	t.Parallel()
	for line, want := range map[string][]string{
		"onboard":                       {"--token-file is missing", "--hub-file", "Usage: gangway-agent onboard --token-file FILE", "See 'gangway-agent onboard --help'."},
		"run --poll 5":                  {`--poll "5" has no unit`, "5s, 5m, 5h or 5d", "See 'gangway-agent run --help'."},
		"run --report-every soon":       {"write a number and a unit"},
		"run --parallel many":           {"is not a whole number"},
		"run --report-file x":           {`--report-file "x" must be KEY=VALUE`},
		"run --interval 5m":             {"did you mean --poll?"},
		"run extra":                     {`unexpected argument "extra"`},
		"enrol":                         {`did you mean "gangway-agent onboard"?`},
		"start":                         {`did you mean "gangway-agent run"?`},
		"frobnicate":                    {"the commands are", "onboard", "See 'gangway-agent --help'."},
		"status --token-file x":         {"it is a flag of", "'gangway-agent onboard'"},
		"status --output yaml":          {"text or json"},
		"pantavisor regster":            {`did you mean "gangway-agent pantavisor register"?`},
		"export":                        {"--out is missing", "See 'gangway-agent export --help'."},
		"proxy":                         {"--unix or --tcp", "See 'gangway-agent proxy --help'."},
		"export --out x --handle first": {"0x81020000"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(append(strings.Fields(line), "--state", t.TempDir()), &stdout, &stderr)
		if code != exitUsage {
			t.Errorf("%q: exit code %d, want %d: %s", line, code, exitUsage, stderr.String())
		}
		for _, w := range want {
			if !strings.Contains(stderr.String(), w) {
				t.Errorf("%q: the message has no %q:\n%s", line, w, stderr.String())
			}
		}
	}
}

package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode"

	"gangway/internal/fleet"
	"gangway/internal/pty"

	"go.yaml.in/yaml/v3"
)

// hostile has characters that could control a terminal: escape sequences of 7 and 8 bits, a bell, a
// line break, and marks that change the direction of text. It also has bytes that are not UTF-8.
const hostile = "box\x1b]0;owned\x07\u009b31m\u202e7-\x1b[2J\u2066\u200f\r\nID  NICK\x7f\U000e0041\xff"

func obeyed(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
}

// A device chooses its model and serial number. These texts must not control the terminal in any
// output format.
func TestDeviceStringsDoNotControlTheTerminal(t *testing.T) {
	h, run := onboarded(t, func(d *fleet.Device) { d.Model, d.Serial = hostile, "=cmd|'/c calc'!A1\u202e" })
	d := only(t, h)
	for _, format := range []string{"table", "wide", "csv", "json", "yaml"} {
		for _, arg := range [][]string{{"device", "ls"}, {"device", "show", d.ID}, {"events"}, {"device", "ls", `"box"`}} {
			if len(arg) > 1 && arg[1] == "show" && (format == "wide" || format == "csv") {
				continue
			}
			out, notes, err := run("", append(arg, "--output", format)...)
			if err != nil {
				t.Errorf("%q as %s: %v", arg, format, err)
			}
			if bad := obeyed(out + notes); bad != "" {
				t.Errorf("%q as %s prints %q", arg, format, bad)
			}
		}
	}
	_, _, stderr := typed(t, "device", "show", "\x1b[2J\u202e")
	if bad := obeyed(stderr); bad != "" {
		t.Errorf("an error prints %q", bad)
	}
}

// The escapes in JSON and YAML output decode to the original text.
func TestEscapesKeepTheText(t *testing.T) {
	t.Parallel()
	want := map[string]any{"text": strings.TrimSuffix(hostile, "\xff"), "lines": "a\nb\n", "word": "yes", "number": "1e3", "empty": "", "null": nil, "list": []any{}, "<&>": true, "\u202ekey": map[string]any{}}
	for format, decode := range map[string]func([]byte, any) error{formatJSON: json.Unmarshal, formatYAML: yaml.Unmarshal} {
		var out bytes.Buffer
		if done, err := (&app{stdout: &out, output: format}).json(want); err != nil || !done {
			t.Fatal(done, err)
		}
		got := map[string]any{}
		if err := decode(out.Bytes(), &got); err != nil {
			t.Fatalf("%s: %v\n%q", format, err, out.String())
		}
		for k, v := range want {
			if fmt.Sprint(got[k]) != fmt.Sprint(v) {
				t.Errorf("%s: %q is %q, want %q", format, k, got[k], v)
			}
		}
		if bad := obeyed(out.String()); bad != "" {
			t.Errorf("%s prints %q", format, bad)
		}
	}
}

type berth struct{ Nick, Model, ID string }

var berthColumns = []column[berth]{
	{name: "nick", cell: func(b berth) string { return b.Nick }},
	{name: "state", cell: func(berth) string { return "active" }, tone: func(berth) tone { return good }, whole: true},
	{name: "id", cell: func(b berth) string { return b.ID }},
	{name: "model-name", wide: true, cell: func(b berth) string { return b.Model }},
}

func TestTablesFitTheTerminal(t *testing.T) {
	t.Parallel()
	list := []berth{{"north-pier", strings.Repeat("long ", 30), strings.Repeat("ab", 12)}, {"海港の見張り番", "x", strings.Repeat("cd", 12)}}
	for limit := 40; limit < 200; limit += 7 {
		for line := range strings.Lines(string(formatTableOf(list, berthColumns, limit, false))) {
			if w := displayWidth(strings.TrimSuffix(line, "\n")); w > limit {
				t.Errorf("with %d cells, a line has %d: %q", limit, w, line)
			}
		}
	}
	wide := string(formatTableOf(list, berthColumns, 0, false))
	if !strings.Contains(wide, strings.Repeat("long ", 30)) || !strings.HasPrefix(wide, "NICK ") || !strings.Contains(wide, "MODEL NAME") {
		t.Errorf("without a terminal, nothing is cut: %s", wide)
	}
	lines := strings.Split(wide, "\n")
	if strings.Contains(wide, "\x1b") || displayWidth(lines[1][:strings.Index(lines[1], "active")]) != displayWidth(lines[2][:strings.Index(lines[2], "active")]) {
		t.Errorf("wide letters move the next column:\n%s", wide)
	}
}

// A list is printed in each output format, with the columns of this format.
func TestFormatsOfALists(t *testing.T) {
	t.Parallel()
	list := []berth{{"north", "=HYPERLINK(\"http://x\")", "1"}, {"-7", "+49 40", "2"}}
	print := func(format string, columns ...string) (string, error) {
		var out, notes bytes.Buffer
		err := printList(&app{stdout: &out, stderr: &notes, output: format, columns: columns}, list, berthColumns, "none")
		return out.String(), err
	}
	text, err := print(formatCSV)
	rows, wrong := csv.NewReader(strings.NewReader(text)).ReadAll()
	if err != nil || wrong != nil || len(rows) != 3 || rows[0][3] != "model-name" {
		t.Fatalf("csv: %v %v %q", err, wrong, text)
	}
	// A spreadsheet must not execute a device's name as a formula. Numbers stay numbers.
	if rows[1][3] != `'=HYPERLINK("http://x")` || rows[2][3] != "'+49 40" || rows[2][0] != "-7" {
		t.Errorf("csv: %q", rows)
	}
	if text, err := print(formatTable); err != nil || strings.Contains(text, "MODEL") {
		t.Errorf("table: %v %s", err, text)
	}
	if text, err := print(formatWide); err != nil || !strings.Contains(text, "MODEL NAME") {
		t.Errorf("wide: %v %s", err, text)
	}
	if text, err := print(formatTable, "ID", "Model Name"); err != nil || !strings.HasPrefix(text, "ID ") || strings.Contains(text, "NICK") {
		t.Errorf("columns: %v %s", err, text)
	}
	if _, err := print(formatCSV, "colour"); err == nil || !strings.Contains(err.Error(), "nick, state, id, model-name") {
		t.Errorf("unknown column: %v", err)
	}
}

// The output has colours only on a terminal that can show colours, and only without NO_COLOR.
func TestColoursOnlyOnATerminal(t *testing.T) {
	_, terminal := pty.New(t, 40, 24)
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")
	a := &app{stdout: terminal}
	if !a.colour() || a.width() != 40 {
		t.Errorf("on a terminal: colour %t, width %d", a.colour(), a.width())
	}
	t.Setenv("NO_COLOR", "1")
	if a.colour() {
		t.Error("NO_COLOR is set, and there is colour")
	}
	t.Setenv("NO_COLOR", "")
	t.Setenv("TERM", "dumb")
	if a.colour() {
		t.Error("the terminal is dumb, and there is colour")
	}
	t.Setenv("TERM", "xterm")
	if a := (&app{stdout: new(bytes.Buffer)}); a.colour() || a.width() != 0 {
		t.Error("a pipe has colour or a width")
	}
	if text := string(formatTableOf([]berth{{"a", "b", "c"}}, berthColumns, 0, true)); !strings.Contains(text, "\x1b[32mactive\x1b[0m") {
		t.Errorf("no colour in %q", text)
	}
}

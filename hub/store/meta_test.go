package store

import (
	"encoding/json"
	"testing"

	"gangway/internal/race"
	"gangway/internal/strictjson"
)

// FuzzMetaPatch checks that a patch that was not decoded has the same text, and that it changes
// metadata in the same way, as a patch that encoding/json has decoded.
func FuzzMetaPatch(f *testing.F) {
	for _, c := range [][2]string{
		{`{}`, `{}`}, {`{"a":1}`, `{"a":null}`}, {`{"b":1}`, `{"c":2,"a":[1,{"z":1,"y":2}]}`}, {`{"a":{"b":null}}`, `{"a":{"c":null},"n":null}`},
		{`{"a":"\n","b":1e3}`, `{"c":"\u0000"}`}, {`{"a":1,"b":2,"c":3}`, `{"b":null,"d":null}`}, {`{"ü":"\\"}`, `{"ü":"\"","u":-0.0}`},
	} {
		f.Add(c[0], c[1])
	}
	f.Fuzz(func(t *testing.T, text, change string) {
		var before, m map[string]any
		if strictjson.Decode([]byte(text), &before) != nil || strictjson.Decode([]byte(change), &m) != nil {
			return
		}
		text, err := EncodeMeta(before)
		if err != nil {
			return
		}
		p, err := NewMetaPatch(m)
		if err != nil {
			if _, ok := ReadMetaPatch([]byte(change)); ok {
				t.Fatalf("%q is not a patch (%v), but it can be read as one", change, err)
			}
			return
		}
		decoded := MetaPatch{text: p.text}
		want, err := decoded.Merge(text)
		if err != nil {
			t.Fatal(err)
		}
		patches := []MetaPatch{p}
		if read, ok := ReadMetaPatch([]byte(change)); ok {
			patches = append(patches, read)
		}
		for _, p := range patches {
			if got, err := p.Merge(text); err != nil || got != want || p.Empty() != (len(m) == 0) || !p.Empty() && p.text != decoded.text {
				t.Fatalf("%q with %q is %q (%v), want %q", text, change, got, err, want)
			}
		}
		if !json.Valid([]byte(want)) {
			t.Fatalf("%q is not JSON", want)
		}
	})
}

// The patch of a usual report is not decoded.
func TestReadMetaPatchReadsReports(t *testing.T) {
	t.Parallel()
	report := `{"gangway.version":"1.0","gangway.network":"in force: automatic\n", "load":[0.5, 1], "sysinfo":{"uptime":3,"procs":1}}`
	p, ok := ReadMetaPatch([]byte(report))
	if !ok || !p.plain {
		t.Fatal("the report must be decoded")
	}
	after, err := p.Merge(`{"gangway.version":"0.9","serial":"x"}`)
	if want := `{"gangway.network":"in force: automatic\n","gangway.version":"1.0","load":[0.5,1],"serial":"x","sysinfo":{"procs":1,"uptime":3}}`; err != nil || after != want {
		t.Errorf("%s (%v)", after, err)
	}
}

// A report needs only the memory that stays in use until it is written: the text and the members of
// the patch, and the merged text.
func TestReportAllocatesLittle(t *testing.T) {
	race.Skip(t)
	report := []byte(`{"version":"1.0","uptime":7, "load":[0.5, 1],"interfaces":{"eth0":"192.0.2.1"},"sysinfo":{"uptime":3,"procs":1}}`)
	const stored = `{"interfaces":{"eth0":"192.0.2.1"},"load":[0.5,2],"serial":"x","sysinfo":{"procs":1,"uptime":3},"uptime":6,"version":"1.0"}`
	if n := testing.AllocsPerRun(1000, func() {
		p, ok := ReadMetaPatch(report)
		if !ok {
			t.Fatal("the report must be decoded")
		}
		if _, err := p.Merge(stored); err != nil {
			t.Fatal(err)
		}
	}); n > 4 {
		t.Errorf("%v allocations", n)
	}
}

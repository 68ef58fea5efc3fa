package search_test

import (
	"bufio"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"gangway/hub/search"
	"gangway/hub/store"
)

func term(field store.SearchField, value string) store.SearchTerm {
	return store.SearchTerm{Field: field, Value: value}
}

func meta(key, value string) store.SearchTerm {
	return store.SearchTerm{Field: store.FieldMeta, Key: key, Value: value}
}

func TestParse(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]store.DeviceSearch{
		"":                            {},
		" \t\n ":                      {},
		"forklift":                    {Words: []string{"forklift"}},
		" a  b\u00a0c":                {Words: []string{"a", "b", "c"}},
		`"hall 3" x`:                  {Words: []string{"hall 3", "x"}},
		`"a:b" c"d=e"`:                {Words: []string{"a:b", "cd=e"}},
		`"a\"\\b"`:                    {Words: []string{`a"\b`}},
		`C:\ `:                        {},
		`a\b`:                         {Words: []string{`a\b`}},
		`model:NUC`:                   {Terms: []store.SearchTerm{term(store.FieldModel, "NUC")}},
		`MODEL=NUC`:                   {Terms: []store.SearchTerm{term(store.FieldModel, "NUC")}},
		`model:"NUC 7"`:               {Terms: []store.SearchTerm{term(store.FieldModel, "NUC 7")}},
		`model:""`:                    {Terms: []store.SearchTerm{term(store.FieldModel, "")}},
		`model:a:b=c`:                 {Terms: []store.SearchTerm{term(store.FieldModel, "a:b=c")}},
		`is:Quiet state:boot-changed`: {Terms: []store.SearchTerm{term(store.FieldState, "quiet"), term(store.FieldState, "boot-changed")}},
		`maker:IFX tpm:AMD fw:7.85 sn:S-1 token:shop id:ABCD`: {Terms: []store.SearchTerm{term(store.FieldMaker, "IFX"), term(store.FieldMaker, "AMD"),
			term(store.FieldFirmware, "7.85"), term(store.FieldSerial, "S-1"), term(store.FieldToken, "shop"), term(store.FieldID, "abcd")}},
		`meta.site=oslo meta.a.b:x`:     {Terms: []store.SearchTerm{meta("site", "oslo"), meta("a.b", "x")}},
		`meta."a b:c"=""`:               {Terms: []store.SearchTerm{meta("a b:c", "")}},
		`model:NUC raft meta.Site=Oslo`: {Words: []string{"raft"}, Terms: []store.SearchTerm{term(store.FieldModel, "NUC"), meta("Site", "Oslo")}},
	} {
		got, err := search.Parse(text)
		if text == `C:\ ` {
			if err == nil {
				t.Errorf("%q was parsed", text)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

func TestErrorsSayWhatAndWhereAndTheRemedy(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text, code, word, remedy string
		offset                   int
	}{
		{`modell:NUC`, search.CodeField, "modell", `Did you mean "model"?`, 0},
		{`x mdoel=NUC`, search.CodeField, "mdoel", `Did you mean "model"?`, 2},
		{`firmwear:7`, search.CodeField, "firmwear", `Did you mean "firmware"?`, 0},
		{`weight:7`, search.CodeField, "weight", "Use state, model, maker, firmware, token, serial, id, meta.KEY, or put the text in quotes", 0},
		{`aa:bb:cc`, search.CodeField, "aa", "put the text in quotes", 0},
		{`nick:raft`, search.CodeField, "nick", "without a field", 0},
		{`meta:site`, search.CodeField, "meta", "like meta.site=oslo", 0},
		{`meta.=x`, search.CodeField, "meta.", "like meta.site=oslo", 0},
		{`:x`, search.CodeField, "", "Use state", 0},
		{`model:`, search.CodeValue, "model:", "Write the value", 0},
		{`model: NUC`, search.CodeValue, "model:", "Write the value", 0},
		{`state:quite`, search.CodeValue, "quite", `Did you mean "quiet"?`, 6},
		{`state:happy`, search.CodeValue, "happy", "Use active, quiet,", 6},
		{`id:abc`, search.CodeValue, "abc", "4 to 24", 3},
		{`id:wxyz`, search.CodeValue, "wxyz", "4 to 24", 3},
		{`sn:--`, search.CodeValue, "--", "whole serial number", 3},
		{`a --`, search.CodeValue, "--", "Leave the word out", 2},
		{`""`, search.CodeValue, `""`, "Leave the word out", 0},
		{`a "b c`, search.CodeQuote, `"b c`, `Write " at the end`, 2},
		{`"\`, search.CodeQuote, `"\`, `Write " at the end`, 0},
		{`model:"b`, search.CodeQuote, `"b`, `Write " at the end`, 6},
		{"a\x00b", search.CodeText, "", "control characters", 1},
		{"a \xff", search.CodeText, "", "control characters", 2},
		{strings.Repeat("x", 513), search.CodeTooLong, "", "at most 512", 512},
		{"1 2 3 4 5 6 7 8 9 a", search.CodeTooMany, "9 a", "Leave some", 16},
		{"meta.k=" + strings.Repeat("x", 300), search.CodeValue, strings.Repeat("x", 40) + "…", "at most 256", 7},
	} {
		s, err := search.Parse(c.text)
		var e *search.Error
		if !errors.As(err, &e) || e.Code != c.code || e.Word != c.word || e.Offset != c.offset || !strings.Contains(e.Remedy, c.remedy) || e.Reason == "" {
			t.Errorf("%.40q: %+v", c.text, err)
		}
		if len(s.Words)+len(s.Terms) > 0 {
			t.Errorf("%.40q: an error, and %+v", c.text, s)
		}
	}
}

// Parse accepts each example in docs/search.md, and Format writes a search that Parse reads back
// unchanged.
func TestExamplesOfTheDocs(t *testing.T) {
	t.Parallel()
	f, err := os.Open("../../docs/search.md")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	inside, n := false, 0
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		if strings.HasPrefix(line, "```") {
			inside = line == "```search"
			continue
		}
		if !inside {
			continue
		}
		n++
		s, err := search.Parse(line)
		if err != nil {
			t.Errorf("%s: %v", line, err)
		}
		again, err := search.Parse(search.Format(s))
		if err != nil || !reflect.DeepEqual(s, again) {
			t.Errorf("%s: %s: %v", line, search.Format(s), err)
		}
	}
	if n < 10 {
		t.Errorf("%d examples", n)
	}
}

func FuzzFormatIsReadBack(f *testing.F) {
	for _, seed := range []string{`model:"NUC 7" state:quiet meta.site=oslo word "two words"`, `meta."a b:=\""="x\\"`, `a\b "c\"`, `""`, `id:ABCDEF a"b"c`, "\u2028x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := search.Parse(text)
		if err != nil {
			var e *search.Error
			if !errors.As(err, &e) || e.Code == "" || e.Remedy == "" || e.Offset < 0 || e.Offset > len(text) {
				t.Fatalf("%q: %+v", text, err)
			}
			return
		}
		if len(s.Words)+len(s.Terms) > store.MaxTerms {
			t.Fatalf("%q: %+v", text, s)
		}
		formatted := search.Format(s)
		again, err := search.Parse(formatted)
		if len(formatted) > search.MaxLength {
			return // quotes made the text longer than Parse accepts
		}
		if err != nil || !reflect.DeepEqual(again, s) {
			t.Fatalf("%q became %q: %+v, %v", text, formatted, again, err)
		}
	})
}

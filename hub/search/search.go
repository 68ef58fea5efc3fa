// Package search parses the language in which users search for devices. The web pages, the API and
// the command line use the same language:
//
//	model:"NUC 7" state:quiet meta.site=oslo forklift "hall 3"
//
// A search is a list of conditions, separated by spaces, and finds the devices that match all of
// them. A condition is either a word, or a field and its value. docs/search.md describes the
// language for users.
//
// The package only parses searches; package store finds the devices.
package search

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"gangway/hub/store"
)

// MaxLength is the maximum length of a search's text, in bytes.
const MaxLength = 512

// Codes of an Error.
const (
	CodeTooLong = "search-too-long" // more than MaxLength bytes
	CodeTooMany = "search-too-many" // more than store.MaxTerms conditions
	CodeText    = "search-text"     // not UTF-8, or a control character
	CodeQuote   = "search-quote"    // a quotation mark that is not closed
	CodeField   = "search-field"    // unknown field
	CodeValue   = "search-value"    // a value that the field cannot have
)

// Error describes an error in the text of a search.
type Error struct {
	Code   string
	Offset int    // offset of Word in the text, in bytes
	Word   string // the part of the text that has the error
	Reason string // one sentence of fact
	Remedy string // one sentence of remedy
}

func (e *Error) Error() string { return e.Reason + " " + e.Remedy }

// fields lists the names of each field. The first name is the one that Format writes; the others
// are aliases.
var fields = []struct {
	field store.SearchField
	names []string
}{
	{store.FieldState, []string{"state", "is"}},
	{store.FieldModel, []string{"model", "machine"}},
	{store.FieldMaker, []string{"maker", "tpm", "manufacturer"}},
	{store.FieldFirmware, []string{"firmware", "fw"}},
	{store.FieldToken, []string{"token"}},
	{store.FieldSerial, []string{"serial", "sn"}},
	{store.FieldID, []string{"id"}},
}

// metaPrefix begins the name of a field that searches user-meta or device-meta.
const metaPrefix = "meta."

// Names returns the first name of each field, for messages and completion.
func Names() (names []string) {
	for _, f := range fields {
		names = append(names, f.names[0])
	}
	return append(names, metaPrefix+"KEY")
}

// Parse parses the text of a search. It sets only Words and Terms of the result. The value of the
// field `token` may be an id or a nick, so the caller must look up the join token. Any error is an
// *Error.
func Parse(text string) (store.DeviceSearch, error) {
	var s store.DeviceSearch
	if len(text) > MaxLength {
		return s, &Error{Code: CodeTooLong, Offset: MaxLength, Reason: fmt.Sprintf("The search has %d bytes.", len(text)),
			Remedy: fmt.Sprintf("Use at most %d.", MaxLength)}
	}
	for i, r := range text {
		if r == utf8.RuneError && !strings.HasPrefix(text[i:], "\uFFFD") || unicode.IsControl(r) && !unicode.IsSpace(r) {
			return s, &Error{Code: CodeText, Offset: i, Reason: "The search has a control character, or is not valid UTF-8.", Remedy: "Remove the control characters."}
		}
	}
	p := parser{text: text}
	for p.space(); p.at < len(text); p.space() {
		begin := p.at
		if len(s.Words)+len(s.Terms) == store.MaxTerms {
			return store.DeviceSearch{}, &Error{Code: CodeTooMany, Offset: begin, Word: clip(text[begin:]), Reason: fmt.Sprintf("The search has more than %d conditions.", store.MaxTerms),
				Remedy: "Leave some conditions out."}
		}
		word, term, err := p.condition()
		if err != nil {
			return store.DeviceSearch{}, err
		}
		if term != nil {
			s.Terms = append(s.Terms, *term)
		} else {
			s.Words = append(s.Words, word)
		}
	}
	return s, nil
}

type parser struct {
	text string
	at   int
}

func (p *parser) space() {
	for p.at < len(p.text) {
		r, n := utf8.DecodeRuneInString(p.text[p.at:])
		if !unicode.IsSpace(r) {
			return
		}
		p.at += n
	}
}

// condition parses one condition: a word, or a field and its value. If the condition is a word,
// `term` is nil.
func (p *parser) condition() (word string, term *store.SearchTerm, err error) {
	begin := p.at
	name, separated, err := p.part(true)
	if err != nil {
		return "", nil, err
	}
	if !separated {
		return p.word(begin, name)
	}
	t, err := fieldNamed(name, begin, p.text[begin:p.at])
	if err != nil {
		return "", nil, err
	}
	p.at++ // the separator
	from := p.at
	if from == len(p.text) || p.atSpace() {
		return "", nil, &Error{Code: CodeValue, Offset: begin, Word: clip(p.text[begin:p.at]), Reason: fmt.Sprintf("%q has no value.", clip(p.text[begin:p.at])),
			Remedy: `Write the value after the field, or "" for devices without a value.`}
	}
	if t.Value, _, err = p.part(false); err != nil {
		return "", nil, err
	}
	if err := checkValue(&t, from, p.text[from:p.at]); err != nil {
		return "", nil, err
	}
	return "", &t, nil
}

func (p *parser) word(begin int, word string) (string, *store.SearchTerm, error) {
	if !strings.ContainsFunc(word, func(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }) {
		raw := clip(p.text[begin:p.at])
		return "", nil, &Error{Code: CodeValue, Offset: begin, Word: raw, Reason: fmt.Sprintf("%q has no letter or digit.", raw), Remedy: "Leave the word out."}
	}
	return word, nil, nil
}

func (p *parser) atSpace() bool {
	r, _ := utf8.DecodeRuneInString(p.text[p.at:])
	return unicode.IsSpace(r)
}

// The method `part` reads up to the next space or, if `name` is true, up to the next ":" or "=" if
// that comes first. The result `separated` says that it stopped at ":" or "=". Any of the text may
// be in quotes.
func (p *parser) part(name bool) (part string, separated bool, err error) {
	var b strings.Builder
	for p.at < len(p.text) && !p.atSpace() {
		switch c := p.text[p.at]; {
		case c == '"':
			quoted, err := p.quoted()
			if err != nil {
				return "", false, err
			}
			b.WriteString(quoted)
		case name && (c == ':' || c == '='):
			return b.String(), true, nil
		default:
			b.WriteByte(c)
			p.at++
		}
	}
	return b.String(), false, nil
}

// quoted reads a text in quotation marks. A backslash takes away the special meaning of the
// character after it.
func (p *parser) quoted() (string, error) {
	begin := p.at
	var b strings.Builder
	for p.at++; p.at < len(p.text); p.at++ {
		switch c := p.text[p.at]; {
		case c == '"':
			p.at++
			return b.String(), nil
		case c == '\\' && p.at+1 < len(p.text):
			p.at++
			b.WriteByte(p.text[p.at])
		default:
			b.WriteByte(c)
		}
	}
	return "", &Error{Code: CodeQuote, Offset: begin, Word: clip(p.text[begin:]), Reason: "A quotation mark is not closed.", Remedy: `Write " at the end of the text, or \" for a quotation mark inside the text.`}
}

// fieldNamed returns a term for the field with the given name. `at` is the name's offset in the
// search's text, and `raw` is the name as the user wrote it, including any quotation marks.
func fieldNamed(name string, at int, raw string) (store.SearchTerm, error) {
	if key, ok := strings.CutPrefix(name, metaPrefix); ok {
		if key == "" || len(key) > maxMeta {
			return store.SearchTerm{}, &Error{Code: CodeField, Offset: at, Word: clip(raw), Reason: "The metadata key is empty or too long.",
				Remedy: "Write the key after the dot, like meta.site=oslo."}
		}
		return store.SearchTerm{Field: store.FieldMeta, Key: key}, nil
	}
	lower := strings.ToLower(name)
	for _, f := range fields {
		if slices.Contains(f.names, lower) {
			return store.SearchTerm{Field: f.field}, nil
		}
	}
	e := &Error{Code: CodeField, Offset: at, Word: clip(raw), Reason: fmt.Sprintf("%q is not a field of a device.", clip(raw))}
	switch near := nearest(lower); {
	case lower == "nick" || lower == "name":
		e.Remedy = "Write the nick, or its beginning, without a field."
	case lower == "meta":
		e.Remedy = "Write the metadata key too, like meta.site=oslo."
	case near != "":
		e.Remedy = fmt.Sprintf("Did you mean %q?", near)
	default:
		e.Remedy = "Use " + strings.Join(Names(), ", ") + ", or put the text in quotes to search for it."
	}
	return store.SearchTerm{}, e
}

// maxMeta is the maximum length, in bytes, of the key and of the value in a metadata condition.
const maxMeta = 256

// checkValue checks the value of a term, and converts it to the form that package store expects.
// `at` is the value's offset in the search's text, and `raw` is the value as the user wrote it,
// including any quotation marks.
func checkValue(t *store.SearchTerm, at int, raw string) error {
	wrong := func(remedy, format string, args ...any) error {
		return &Error{Code: CodeValue, Offset: at, Word: clip(raw), Reason: fmt.Sprintf(format, args...), Remedy: remedy}
	}
	switch t.Field {
	case store.FieldState:
		t.Value = strings.ToLower(t.Value)
		if slices.Contains(store.States, t.Value) {
			return nil
		}
		remedy := "Use " + strings.Join(store.States, ", ") + "."
		if near := closest(t.Value, store.States); near != "" {
			remedy = fmt.Sprintf("Did you mean %q?", near)
		}
		return wrong(remedy, "%q is not a state of a device.", clip(t.Value))
	case store.FieldID:
		t.Value = strings.ToLower(t.Value)
		if len(t.Value) < 4 || len(t.Value) > 24 || strings.Trim(t.Value, "0123456789abcdef") != "" {
			return wrong("Write the first 4 to 24 hexadecimal digits of the id.", "%q is not the beginning of an id.", clip(t.Value))
		}
	case store.FieldSerial:
		if !strings.ContainsFunc(t.Value, func(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }) {
			return wrong("Write the whole serial number.", "%q is not a serial number.", clip(t.Value))
		}
	case store.FieldMeta:
		if len(t.Value) > maxMeta {
			return wrong(fmt.Sprintf("Use at most %d bytes.", maxMeta), "The value is too long for a search.")
		}
	}
	return nil
}

// nearest returns the field name that is most similar to `name`, or "" if no field name is similar.
func nearest(name string) string {
	var all []string
	for _, f := range fields {
		all = append(all, f.names...)
	}
	return closest(name, append(all, "meta"))
}

// closest returns the word that is most similar to `text`. If more than a third of the characters
// differ, it returns "".
func closest(text string, words []string) (best string) {
	least := max(1, len(text)/3) + 1
	if len(text) > 32 {
		return ""
	}
	for _, word := range words {
		if d := distance(text, word); d < least {
			best, least = word, d
		}
	}
	return best
}

// distance returns the smallest number of edits that change the text `a` into the text `b`. An edit
// inserts, removes or replaces a byte, or swaps two adjacent bytes.
func distance(a, b string) int {
	before, row := make([]int, len(b)+1), make([]int, len(b)+1)
	var twoBefore []int
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		twoBefore, before, row = before, row, make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(before[j+1]+1, row[j]+1, before[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], twoBefore[j-1]+1)
			}
		}
	}
	return row[len(b)]
}

// clip shortens a text to about 40 bytes, so that it can be quoted in a message.
func clip(text string) string {
	const most = 40
	for i := range text {
		if i >= most {
			return text[:i] + "…"
		}
	}
	return text
}

// Format writes a search in the search language, so that Parse returns the same search again.
func Format(s store.DeviceSearch) string {
	var parts []string
	for _, word := range s.Words {
		parts = append(parts, quote(word, ":="))
	}
	for _, t := range s.Terms {
		name, separator := string(t.Field), ":"
		if t.Field == store.FieldMeta {
			name, separator = metaPrefix+quote(t.Key, ":="), "="
		}
		for _, f := range fields {
			if f.field == t.Field {
				name = f.names[0]
			}
		}
		parts = append(parts, name+separator+quote(t.Value, ""))
	}
	return strings.Join(parts, " ")
}

// quote puts a text in quotation marks if it is empty, or contains a space, a quotation mark or one
// of the characters in `special`.
func quote(text, special string) string {
	plain := func(r rune) bool { return !unicode.IsSpace(r) && r != '"' && !strings.ContainsRune(special, r) }
	if text != "" && !strings.ContainsFunc(text, func(r rune) bool { return !plain(r) }) {
		return text
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}

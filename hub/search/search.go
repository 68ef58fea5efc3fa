// Package search is the search language for devices, the same on the page, in the API and on the
// command line:
//
//	model:"NUC 7" state:quiet meta.site=oslo forklift "hall 3"
//
// A search is a list of conditions, separated by spaces; a device must fit all of them. A condition
// is a word, or a field and its value. docs/search.md describes the language for users.
//
// The package only parses; package store answers searches.
package search

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"gangway/hub/store"
)

// MaxLength bounds the text of a search, in bytes.
const MaxLength = 512

// Codes of errors.
const (
	CodeTooLong = "search-too-long" // more than MaxLength bytes
	CodeTooMany = "search-too-many" // more than store.MaxTerms conditions
	CodeText    = "search-text"     // not UTF-8, or a control character
	CodeQuote   = "search-quote"    // a quote without its end
	CodeField   = "search-field"    // no such field
	CodeValue   = "search-value"    // a value that the field cannot have
)

// Error says what is wrong with the text of a search.
type Error struct {
	Code   string
	Offset int    // of Word in the text, in bytes
	Word   string // the part of the text that is wrong
	Reason string // one sentence of fact
	Remedy string // one sentence of remedy
}

func (e *Error) Error() string { return e.Reason + " " + e.Remedy }

// fields are the names of fields and their aliases. The first name of a field is the one that Format
// writes.
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

// metaPrefix begins the field of a metadata member.
const metaPrefix = "meta."

// Names are the first names of all fields, for messages and for completion.
func Names() (names []string) {
	for _, f := range fields {
		names = append(names, f.names[0])
	}
	return append(names, metaPrefix+"KEY")
}

// Parse reads the text of a search. Its result has Words and Terms only. The value of a token is as
// it was written, an id or a nick: the caller knows the tokens. The error is an *Error.
func Parse(text string) (store.DeviceSearch, error) {
	var s store.DeviceSearch
	if len(text) > MaxLength {
		return s, &Error{Code: CodeTooLong, Offset: MaxLength, Reason: fmt.Sprintf("The search has %d bytes.", len(text)),
			Remedy: fmt.Sprintf("Use at most %d.", MaxLength)}
	}
	for i, r := range text {
		if r == utf8.RuneError && !strings.HasPrefix(text[i:], "\uFFFD") || unicode.IsControl(r) && !unicode.IsSpace(r) {
			return s, &Error{Code: CodeText, Offset: i, Reason: "The search has a character that cannot be searched.", Remedy: "Remove the control characters."}
		}
	}
	p := parser{text: text}
	for p.space(); p.at < len(text); p.space() {
		begin := p.at
		if len(s.Words)+len(s.Terms) == store.MaxTerms {
			return store.DeviceSearch{}, &Error{Code: CodeTooMany, Offset: begin, Word: clip(text[begin:]), Reason: fmt.Sprintf("The search has more than %d conditions.", store.MaxTerms),
				Remedy: "Leave some of them out."}
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

// condition reads a word, or a field and its value.
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
			Remedy: `Write the value behind it, or "" for devices without one.`}
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

// part reads to the next space, or with a name to the next : or = too, which it does not read. Parts
// of the text may be in quotes.
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

// quoted reads a text in quotes. A backslash keeps the meaning of the character after it.
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
	return "", &Error{Code: CodeQuote, Offset: begin, Word: clip(p.text[begin:]), Reason: "A quote has no end.", Remedy: `Write " at the end of the text, or \" for a quote in it.`}
}

// fieldNamed returns the term of a field; raw is the field's name as it was written.
func fieldNamed(name string, at int, raw string) (store.SearchTerm, error) {
	if key, ok := strings.CutPrefix(name, metaPrefix); ok {
		if key == "" || len(key) > maxMeta {
			return store.SearchTerm{}, &Error{Code: CodeField, Offset: at, Word: clip(raw), Reason: "The metadata's key is empty or too long.",
				Remedy: "Write it like meta.site=oslo."}
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
		e.Remedy = "Write the metadata's key too, like meta.site=oslo."
	case near != "":
		e.Remedy = fmt.Sprintf("Did you mean %q?", near)
	default:
		e.Remedy = "Use " + strings.Join(Names(), ", ") + ", or put the text in quotes to search for it."
	}
	return store.SearchTerm{}, e
}

// maxMeta bounds the key and the value of a metadata member that can be searched, in bytes.
const maxMeta = 256

// checkValue checks the value of a term, and brings it into the form that package store expects. raw
// is the value as it was written.
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
			return wrong("Write 4 to 24 of its hexadecimal digits.", "%q is not the beginning of an id.", clip(t.Value))
		}
	case store.FieldSerial:
		if !strings.ContainsFunc(t.Value, func(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }) {
			return wrong("Write the whole serial number.", "%q is not a serial number.", clip(t.Value))
		}
	case store.FieldMeta:
		if len(t.Value) > maxMeta {
			return wrong(fmt.Sprintf("Use at most %d bytes.", maxMeta), "The value is too long to be searched.")
		}
	}
	return nil
}

// nearest returns the name of a field that differs little from a name, or "".
func nearest(name string) string {
	var all []string
	for _, f := range fields {
		all = append(all, f.names...)
	}
	return closest(name, append(all, "meta"))
}

// closest returns the word that differs least from a text, in at most a third of its characters.
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

// distance is the number of bytes to insert, remove or replace, or of neighbours to exchange, to make
// b of a.
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

// clip shortens a text for a message.
func clip(text string) string {
	const most = 40
	for i := range text {
		if i >= most {
			return text[:i] + "…"
		}
	}
	return text
}

// Format writes a search in the language: Parse reads it back.
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

// quote puts a text in quotes if it is empty or has a space, a quote or one of the special
// characters.
func quote(text, special string) string {
	plain := func(r rune) bool { return !unicode.IsSpace(r) && r != '"' && !strings.ContainsRune(special, r) }
	if text != "" && !strings.ContainsFunc(text, func(r rune) bool { return !plain(r) }) {
		return text
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}

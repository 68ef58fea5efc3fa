package strictjson

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
)

// Member is a member of a JSON object. The value is JSON text without white space, and the names in
// all its objects are sorted.
type Member struct{ Name, Value string }

// maxPlainNumber is the length of the longest number that Members accepts. A number without an
// exponent is too large for a float64 only if it has at least 309 digits.
const maxPlainNumber = 300

// Members parses a JSON object and returns its members, sorted by name, together with the text of
// the whole object. Each value has the text that encoding/json makes of the value that Decode
// returns. Members needs a tenth of the time of Decode, because it does not make Go values.
//
// Members accepts only a part of JSON. `ok` is false not only for text that Decode or CheckStorable
// refuses, but also for objects that have escapes in names, numbers with exponents, or strings that
// encoding/json writes in another way. For these, the caller must use Decode. No text is valid for
// Members and invalid for Decode.
func Members(text []byte) (list []Member, compact string, ok bool) {
	p := newPlainParser()
	defer p.free()
	if !p.parse(text) {
		return nil, "", false
	}
	compact = string(p.compact())
	list = make([]Member, len(p.members))
	for i, m := range p.members {
		list[i] = Member{compact[m.name():m.nameEnd()], compact[m.value():m.end]}
	}
	return list, compact, true
}

// Merge changes members of a JSON object and returns the text of the changed object, in the form
// that Members returns. `changes` has the new members, sorted by name, as Members returns them. A
// change to null removes the member. If Members does not accept `text`, `ok` is false.
func Merge(text string, changes []Member) (merged string, ok bool) {
	p := newPlainParser()
	defer p.free()
	p.text = append(p.text[:0], text...)
	if !p.parse(p.text) {
		return "", false
	}
	p.merged = p.merge(p.merged[:0], changes)
	if string(p.merged) == text {
		return text, true
	}
	return string(p.merged), true
}

// plainParser parses the JSON text `in`, beginning at the position `at`. The hub merges a report of
// each device every minute, so parsers keep their memory for the next text: see parsers.
type plainParser struct {
	in []byte
	at int
	// copied is true if the compact text differs from `in`. Then `out` has the compact text of
	// in[:at]. Otherwise, the compact text is in[:at] itself.
	copied bool
	out    []byte
	// members has the members of the objects that are not complete yet, beginning with those of the
	// outermost object. In the end, it has the members of the whole object.
	members []span

	unsorted, text, merged []byte // memory for the methods `sort` and `merge`, and for Merge
}

// span is a member's place in the compact text: the member begins with the quotation mark before
// its name, which has nameLen bytes.
type span struct{ begin, nameLen, end int }

func (s span) name() int    { return s.begin + len(`"`) }
func (s span) nameEnd() int { return s.name() + s.nameLen }
func (s span) value() int   { return s.nameEnd() + len(`":`) }

// parsers holds parsers that are not in use.
var parsers = sync.Pool{New: func() any { return new(plainParser) }}

// maxKept is the size of the largest text whose parser is kept in `parsers`.
const maxKept = 16 << 10

func newPlainParser() *plainParser { return parsers.Get().(*plainParser) }

func (p *plainParser) free() {
	small := len(p.in) <= maxKept && cap(p.merged) <= 2*maxKept
	if p.in = nil; small {
		parsers.Put(p)
	}
}

// parse parses a whole object.
func (p *plainParser) parse(text []byte) bool {
	p.in, p.at, p.copied, p.members = text, 0, false, p.members[:0]
	if !utf8.Valid(text) || bytes.Contains(text, lineSeparator) || bytes.Contains(text, paragraphSeparator) {
		return false
	}
	if !p.next('{') || !p.object(0) {
		return false
	}
	p.space()
	return p.at == len(p.in)
}

var lineSeparator, paragraphSeparator = []byte("\u2028"), []byte("\u2029")

// compact returns the compact text of in[:at].
func (p *plainParser) compact() []byte {
	if p.copied {
		return p.out
	}
	return p.in[:p.at]
}

// The method `copy` makes the compact text a copy, so that it may differ from `in`.
func (p *plainParser) copy() {
	if !p.copied {
		p.out, p.copied = append(p.out[:0], p.in[:p.at]...), true
	}
}

// The method `take` adds the text up to the position `end` to the compact text.
func (p *plainParser) take(end int) {
	if p.copied {
		p.out = append(p.out, p.in[p.at:end]...)
	}
	p.at = end
}

func (p *plainParser) space() {
	for p.at < len(p.in) {
		switch p.in[p.at] {
		case ' ', '\t', '\n', '\r':
			p.copy()
			p.at++
		default:
			return
		}
	}
}

// The method `is` skips white space, and reports whether the next byte is `b`.
func (p *plainParser) is(b byte) bool {
	p.space()
	return p.at < len(p.in) && p.in[p.at] == b
}

// The method `next` skips white space. If the next byte is then `b`, it takes that byte, and returns
// true.
func (p *plainParser) next(b byte) bool {
	if !p.is(b) {
		return false
	}
	p.take(p.at + 1)
	return true
}

// object parses an object after its opening brace, and adds its members to p.members.
func (p *plainParser) object(depth int) bool {
	if depth == MaxStorableDepth {
		return false
	}
	first := len(p.members)
	for sorted := true; !p.next('}'); {
		if len(p.members) > first && !p.next(',') {
			return false
		}
		p.space()
		begin := len(p.compact())
		if !p.string(false) {
			return false
		}
		m := span{begin: begin, nameLen: len(p.compact()) - begin - len(`""`)}
		if !p.next(':') || !p.value(depth+1) {
			return false
		}
		m.end = len(p.compact())
		sorted = sorted && (len(p.members) == first || p.order(p.members[len(p.members)-1], m) < 0)
		p.members = append(p.members, m)
		if !sorted && p.is('}') && !p.sort(p.members[first:]) {
			return false
		}
	}
	return true
}

// order compares the names of two members.
func (p *plainParser) order(a, b span) int {
	text := p.compact()
	return bytes.Compare(text[a.name():a.nameEnd()], text[b.name():b.nameEnd()])
}

// The method `sort` sorts the members of an object, which are at the end of the compact text. It
// returns false if a name occurs twice.
func (p *plainParser) sort(members []span) bool {
	p.copy()
	first := members[0].begin
	slices.SortFunc(members, p.order)
	p.unsorted = append(p.unsorted[:0], p.out[first:]...)
	for i := 1; i < len(members); i++ {
		if p.order(members[i-1], members[i]) == 0 {
			return false
		}
	}
	p.out = p.out[:first]
	for i := range members {
		m := &members[i]
		if i > 0 {
			p.out = append(p.out, ',')
		}
		begin := len(p.out)
		p.out = append(p.out, p.unsorted[m.begin-first:m.end-first]...)
		m.begin, m.end = begin, len(p.out)
	}
	return true
}

func (p *plainParser) array(depth int) bool {
	if depth == MaxStorableDepth {
		return false
	}
	for first := true; !p.next(']'); first = false {
		if !first && !p.next(',') || !p.value(depth+1) {
			return false
		}
	}
	return true
}

func (p *plainParser) value(depth int) bool {
	if p.space(); p.at == len(p.in) {
		return false
	}
	switch p.in[p.at] {
	case '{':
		p.take(p.at + 1)
		outer := len(p.members)
		ok := p.object(depth)
		p.members = p.members[:outer]
		return ok
	case '[':
		p.take(p.at + 1)
		return p.array(depth)
	case '"':
		return p.string(true)
	case 't':
		return p.literal("true")
	case 'f':
		return p.literal("false")
	case 'n':
		return p.literal("null")
	}
	return p.number()
}

func (p *plainParser) literal(word string) bool {
	end := p.at + len(word)
	if end > len(p.in) || string(p.in[p.at:end]) != word {
		return false
	}
	p.take(end)
	return true
}

// The method `string` parses a string. If `escapes` is true, the string may have the escapes of two
// characters that encoding/json writes too.
func (p *plainParser) string(escapes bool) bool {
	if !p.is('"') {
		return false
	}
	for end := p.at + 1; end < len(p.in); end++ {
		switch b := p.in[end]; {
		case b == '"':
			p.take(end + 1)
			return true
		case b == '\\' && escapes && end+1 < len(p.in) && strings.IndexByte(`"\bfnrt`, p.in[end+1]) >= 0:
			end++
		case b == '\\', b < ' ':
			return false
		}
	}
	return false
}

// number parses a number without an exponent.
func (p *plainParser) number() bool {
	end := p.at
	if end < len(p.in) && p.in[end] == '-' {
		end++
	}
	whole := p.digits(end)
	if whole == end || p.in[end] == '0' && whole > end+1 {
		return false
	}
	end = whole
	if end < len(p.in) && p.in[end] == '.' {
		if whole = p.digits(end + 1); whole == end+1 {
			return false
		}
		end = whole
	}
	if end-p.at > maxPlainNumber || end < len(p.in) && (p.in[end] == 'e' || p.in[end] == 'E') {
		return false
	}
	p.take(end)
	return true
}

// digits returns the position after the digits at the position `at`.
func (p *plainParser) digits(at int) int {
	for at < len(p.in) && '0' <= p.in[at] && p.in[at] <= '9' {
		at++
	}
	return at
}

// The method `merge` appends the object that was parsed, with `changes`, to `b`.
func (p *plainParser) merge(b []byte, changes []Member) []byte {
	text, old := p.compact(), p.members
	b = append(b, '{')
	empty := len(b)
	for len(old) > 0 || len(changes) > 0 {
		order := -1 // which list has the next name: -1: `old`; 1: `changes`; 0: both
		switch {
		case len(old) == 0:
			order = 1
		case len(changes) > 0:
			order = compareName(text[old[0].name():old[0].nameEnd()], changes[0].Name)
		}
		var next Member
		if order >= 0 {
			next, changes = changes[0], changes[1:]
		}
		if order <= 0 {
			if order < 0 {
				b = append(separate(b, empty), text[old[0].begin:old[0].end]...)
			}
			old = old[1:]
		}
		if order >= 0 && next.Value != "null" {
			b = append(append(append(append(separate(b, empty), '"'), next.Name...), `":`...), next.Value...)
		}
	}
	return append(b, '}')
}

// compareName is like strings.Compare, but allocates nothing.
func compareName(a []byte, b string) int {
	switch {
	case string(a) < b:
		return -1
	case string(a) > b:
		return 1
	}
	return 0
}

// separate appends a comma to the text of an object whose members begin at the position `empty`, if
// there is a member before.
func separate(b []byte, empty int) []byte {
	if len(b) > empty {
		b = append(b, ',')
	}
	return b
}

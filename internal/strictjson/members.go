package strictjson

import (
	"slices"
	"strings"
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
func Members(text string) (list []Member, compact string, ok bool) {
	if !utf8.ValidString(text) || strings.Contains(text, "\u2028") || strings.Contains(text, "\u2029") {
		return nil, "", false
	}
	p := plainParser{in: text, out: make([]byte, 0, len(text))}
	if !p.next('{') {
		return nil, "", false
	}
	spans, ok := p.object(make([]span, 0, 32), 0)
	if !ok {
		return nil, "", false
	}
	if p.space(); p.at != len(p.in) {
		return nil, "", false
	}
	compact = string(p.out)
	list = make([]Member, len(spans))
	for i, s := range spans {
		list[i] = Member{s.name, compact[s.begin+len(s.name)+len(`"":`) : s.end]}
	}
	return list, compact, true
}

// plainParser parses JSON text from `in`, beginning at the position `at`, and appends the compact
// text to `out`.
type plainParser struct {
	in  string
	at  int
	out []byte
}

// span is the place of a member in plainParser.out.
type span struct {
	name       string
	begin, end int
}

func (p *plainParser) space() {
	for p.at < len(p.in) {
		switch p.in[p.at] {
		case ' ', '\t', '\n', '\r':
			p.at++
		default:
			return
		}
	}
}

// The method `next` skips white space. If the next byte is then `b`, it skips that byte too, and
// returns true.
func (p *plainParser) next(b byte) bool {
	p.space()
	if p.at == len(p.in) || p.in[p.at] != b {
		return false
	}
	p.at++
	return true
}

// object parses an object after its opening brace. It appends the members to `members`, which is
// empty.
func (p *plainParser) object(members []span, depth int) (_ []span, ok bool) {
	if depth == MaxStorableDepth {
		return nil, false
	}
	p.out = append(p.out, '{')
	for sorted := true; !p.next('}'); {
		if len(members) > 0 {
			if !p.next(',') {
				return nil, false
			}
			p.out = append(p.out, ',')
		}
		begin := len(p.out)
		name, ok := p.text(false)
		if !ok || !p.next(':') {
			return nil, false
		}
		p.out = append(p.out, ':')
		if !p.value(depth + 1) {
			return nil, false
		}
		sorted = sorted && (len(members) == 0 || members[len(members)-1].name < name)
		members = append(members, span{name, begin, len(p.out)})
		if p.space(); !sorted && p.at < len(p.in) && p.in[p.at] == '}' && !p.sort(members) {
			return nil, false
		}
	}
	p.out = append(p.out, '}')
	return members, true
}

// The method `sort` sorts the members of an object at the end of p.out. It returns false if a name
// occurs twice.
func (p *plainParser) sort(members []span) bool {
	first := members[0].begin
	unsorted := string(p.out[first:])
	slices.SortFunc(members, func(a, b span) int { return strings.Compare(a.name, b.name) })
	p.out = p.out[:first]
	for i := range members {
		m := &members[i]
		if i > 0 {
			if members[i-1].name == m.name {
				return false
			}
			p.out = append(p.out, ',')
		}
		begin := len(p.out)
		p.out = append(p.out, unsorted[m.begin-first:m.end-first]...)
		m.begin, m.end = begin, len(p.out)
	}
	return true
}

func (p *plainParser) array(depth int) bool {
	if depth == MaxStorableDepth {
		return false
	}
	p.out = append(p.out, '[')
	for first := true; !p.next(']'); first = false {
		if !first {
			if !p.next(',') {
				return false
			}
			p.out = append(p.out, ',')
		}
		if !p.value(depth + 1) {
			return false
		}
	}
	p.out = append(p.out, ']')
	return true
}

func (p *plainParser) value(depth int) bool {
	if p.space(); p.at == len(p.in) {
		return false
	}
	switch p.in[p.at] {
	case '{':
		p.at++
		_, ok := p.object(nil, depth)
		return ok
	case '[':
		p.at++
		return p.array(depth)
	case '"':
		_, ok := p.text(true)
		return ok
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
	if !strings.HasPrefix(p.in[p.at:], word) {
		return false
	}
	p.take(p.at + len(word))
	return true
}

// The method `take` appends the text up to the position `end` to p.out.
func (p *plainParser) take(end int) {
	p.out = append(p.out, p.in[p.at:end]...)
	p.at = end
}

// text parses a string and returns its text between the quotation marks. If `escapes` is true, the
// string may have the escapes of two characters that encoding/json writes too.
func (p *plainParser) text(escapes bool) (s string, ok bool) {
	if p.space(); p.at == len(p.in) || p.in[p.at] != '"' {
		return "", false
	}
	for end := p.at + 1; end < len(p.in); end++ {
		switch b := p.in[end]; {
		case b == '"':
			s = p.in[p.at+1 : end]
			p.take(end + 1)
			return s, true
		case b == '\\' && escapes && end+1 < len(p.in) && strings.IndexByte(`"\bfnrt`, p.in[end+1]) >= 0:
			end++
		case b == '\\', b < ' ':
			return "", false
		}
	}
	return "", false
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

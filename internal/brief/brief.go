// Package brief shortens the values in messages of failing tests, so that a message does not bury
// the wrong field in kilobytes of base64.
package brief

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Most is the maximum length of the text that Of returns, in bytes. A note about the omitted bytes
// may follow this text.
const Most = 300

// mostWord is the largest number of bytes of one word, such as a certificate in base64. mostNumbers
// is the largest number of elements of a byte slice that is printed in decimal numbers.
const (
	mostWord    = 40
	mostNumbers = 8
)

var (
	word    = regexp.MustCompile(fmt.Sprintf(`[^\s"'<>{}\[\](),:&]{%d,}`, mostWord+20))
	control = regexp.MustCompile(`[\x00-\x08\x0b-\x1f\x7f]`)
	numbers = regexp.MustCompile(fmt.Sprintf(`\[(\d+ ){%d,}\d+\]`, mostNumbers+4))
)

// Of formats a value as %+v does, except that byte slices become text. It shortens long words and
// byte slices, escapes control characters, removes newlines at the end, and shortens the result to
// Most bytes. If it shortens the result, it adds the original length.
func Of(v any) string {
	var text string
	switch v := v.(type) {
	case nil:
		return "nothing"
	case []byte:
		text = string(v)
	case fmt.Stringer, error:
		text = fmt.Sprint(v)
	default:
		text = fmt.Sprintf("%+v", v)
	}
	text = strings.TrimRight(text, "\n")
	if !utf8.ValidString(text) {
		text = fmt.Sprintf("%x", text)
	}
	text = control.ReplaceAllStringFunc(text, func(c string) string { return fmt.Sprintf(`\x%02x`, c) })
	whole := len(text)
	text = numbers.ReplaceAllStringFunc(text, func(list string) string { return cut(list, 4*mostNumbers) + "]" })
	text = word.ReplaceAllStringFunc(text, func(w string) string { return cut(w, mostWord) })
	if len(text) > Most {
		return fmt.Sprintf("%s (%d bytes in all)", cut(text, Most), whole)
	}
	return text
}

// cut returns at most the first `n` bytes of a text and an ellipsis. It does not split a character.
func cut(text string, n int) string {
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n] + "…"
}

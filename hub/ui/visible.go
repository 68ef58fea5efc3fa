package ui

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Visible escapes the characters of a text that are invisible, or that reorder the text around
// them: control characters, line breaks and direction marks such as U+202E. Pages use it for texts
// from devices and people, so that no text can look like another.
func Visible(s string) string { return visible(s, "") }

// VisibleLines is like Visible, but keeps line breaks and tabs.
func VisibleLines(s string) string { return visible(strings.ReplaceAll(s, "\r\n", "\n"), "\n\t") }

func visible(s, keep string) string {
	if isVisible(s, keep) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.IsPrint(r) || strings.ContainsRune(keep, r):
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r > 0xffff:
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

func isVisible(s, keep string) bool {
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) && !strings.ContainsRune(keep, r) {
			return false
		}
	}
	return true
}

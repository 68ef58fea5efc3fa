package ui

import "testing"

func TestTextThatReordersOtherTextIsEscaped(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain <b>":            "plain <b>",
		"Zürich 東京":            "Zürich 東京",
		"a\u202egnp.exe":       `a\u202egnp.exe`,
		"\u2066x\u2069\u200fy": `\u2066x\u2069\u200fy`,
		"\x1b[31mred\x00\x7f":  `\x1b[31mred\x00\x7f`,
		"a\r\nb\tc":            `a\r\nb\tc`,
		"bad \xff byte":        `bad \xff byte`,
		"\uFFFD":               "\uFFFD",
		"\U000E0041tag":        `\U000e0041tag`,
		"nbsp\u00a0":           `nbsp\u00a0`,
	} {
		if got := Visible(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got, want := VisibleLines("a\r\nb\tc\r\u202e"), "a\nb\tc\\r\\u202e"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

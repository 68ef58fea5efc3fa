package screen

import (
	"fmt"
	"io"
	"strings"

	"rsc.io/qr"
)

// ShowCode shows the URL `address` as a QR code on the panel. ShowCode("") removes the code. The
// change appears when the panel is next redrawn. If the code does not fit on the screen, ShowCode
// returns an error, and the panel has no code.
func (s *Screen) ShowCode(address string) error {
	var code []string
	var err error
	if address != "" {
		code, err = QR(address, rows)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.panel != nil {
		s.panel.code = code
	}
	return err
}

// quietZones are the widths, in modules, of the light margin around a QR code, in order of
// preference. ISO/IEC 18004 requires 4. QR code readers also accept 2, so the panel uses a smaller
// margin if the screen has no room for 4.
var quietZones = []int{4, 3, 2}

// QR draws a text as a QR code of half-block characters, in at most `lines` lines. Each character
// is one module wide and two high. QR draws the light modules and not the dark modules, because the
// screen is dark.
func QR(text string, lines int) ([]string, error) {
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		return nil, fmt.Errorf("encode %q as a QR code: %w", text, err)
	}
	for _, quiet := range quietZones {
		side := code.Size + 2*quiet
		if (side+1)/2 > lines {
			continue
		}
		light := func(x, y int) bool { return !code.Black(x-quiet, y-quiet) } // Black is false outside of the code
		var out []string
		for y := 0; y < side; y += 2 {
			var b strings.Builder
			for x := range side {
				b.WriteString(half[light(x, y)][light(x, y+1)])
			}
			out = append(out, b.String())
		}
		return out, nil
	}
	return nil, fmt.Errorf("the QR code of %q does not fit on the screen, which has %d lines", text, lines)
}

// The variable `half` has the half-block characters. The first key is true if the upper half is
// light, the second key if the lower half is light.
var half = map[bool]map[bool]string{true: {true: "\u2588", false: "\u2580"}, false: {true: "\u2584", false: " "}}

// drawCode draws the panel with the code at the left and the text at the right.
func (p *panel) drawCode(w io.Writer) {
	side := len([]rune(p.code[0]))
	room := width + 1 - side - 2
	right := []string{"", white + Cut(strings.ToUpper(p.title), room), ""}
	for _, l := range wrapped(p.status, room) {
		right = append(right, green+l)
	}
	right = append(right, "")
	for _, f := range p.facts {
		right = append(right, grey+Cut(f.name, room))
		for _, l := range wrapped(f.value, room) {
			right = append(right, bold+l)
		}
	}
	var b strings.Builder
	b.WriteString(clearScreen)
	for i, line := range p.code {
		if i > 0 {
			b.WriteString("\r\n") // not after the last line, because the screen would scroll
		}
		b.WriteString(white + line + plain)
		if i < len(right) {
			b.WriteString("  " + right[i] + plain)
		}
	}
	io.WriteString(w, b.String())
}

package screen

import (
	"fmt"
	"io"
	"strings"

	"rsc.io/qr"
)

// rows is how many lines every console has.
const rows = 25

// ShowCode shows an address as a code; an empty one takes it off the screen.
func ShowCode(address, words string) {
	var code []string
	if address != "" {
		var err error
		if code, err = blocks(address, rows); err != nil {
			Say("%v", err)
		}
	}
	Consoles.Lock()
	if Consoles.panel != nil {
		Consoles.panel.code = code
	}
	Consoles.Unlock()
	switch {
	case address == "":
		Now("Joining the hub")
	case code == nil:
		Now("This machine has no owner yet. Open\n%s\nand compare %s", address, words)
	default:
		Now("This machine has no owner yet. Scan the code, and compare\n%s", words)
		SayBeside("claim: %s compare %s", address, words)
	}
}

// quiet are the light modules around a QR code: 4 by its standard (ISO/IEC
// 18004); half of that is read too, where the screen has not more.
var quiet = []int{4, 3, 2}

// blocks draws a text as a QR code of half blocks, two modules a character, of
// at most so many lines. What is light is drawn, on a dark screen.
func blocks(text string, lines int) ([]string, error) {
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		return nil, fmt.Errorf("no code can be made of %q: %w", text, err)
	}
	for _, q := range quiet {
		side := code.Size + 2*q
		if (side+1)/2 > lines {
			continue
		}
		light := func(x, y int) bool { return !code.Black(x-q, y-q) } // outside of it all is light
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
	return nil, fmt.Errorf("the screen has no room for the code of %q", text)
}

// half are the characters by whether their upper and lower half are light.
var half = map[bool]map[bool]string{true: {true: "\u2588", false: "\u2580"}, false: {true: "\u2584", false: " "}}

// drawCode draws the panel with a code at its left.
func (p *panel) drawCode(w io.Writer) {
	side := len([]rune(p.code[0]))
	room := Width + 1 - side - 2
	right := []string{"", white + Cut(strings.ToUpper(p.title), room), ""}
	for _, l := range Wrapped(p.now, room) {
		right = append(right, green+l)
	}
	right = append(right, "")
	for _, f := range p.facts {
		right = append(right, grey+Cut(f.name, room))
		for _, l := range Wrapped(f.value, room) {
			right = append(right, bold+l)
		}
	}
	var b strings.Builder
	b.WriteString(clearScreen)
	for i, line := range p.code {
		if i > 0 {
			b.WriteString("\r\n") // not after the last: the screen would roll
		}
		b.WriteString(white + line + plain)
		if i < len(right) {
			b.WriteString("  " + right[i] + plain)
		}
	}
	io.WriteString(w, b.String())
}

// Wrapped breaks a text into lines of at most n characters, at spaces where
// there are some.
func Wrapped(text string, n int) (out []string) {
	for line := range strings.SplitSeq(text, "\n") {
		current := ""
		for word := range strings.FieldsSeq(line) {
			r := []rune(word)
			if current != "" && len([]rune(current))+1+len(r) > n {
				out, current = append(out, current), ""
			}
			for len(r) > n {
				out, r = append(out, string(r[:n])), r[n:]
			}
			if current != "" {
				current += " "
			}
			current += string(r)
		}
		out = append(out, current)
	}
	return out
}

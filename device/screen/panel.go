package screen

import (
	"fmt"
	"io"
	"strings"
)

// panel is what the screen shows to the person who stands before it: what is
// the matter, in a few words, and what to do.
type panel struct {
	title string
	facts []fact
	// now is the sentence that matters; alarm is whether something is wrong.
	now   string
	alarm bool
	lines []string // the last that were said
	code  []string // a code to be scanned, drawn in characters; none: nil
}

type fact struct{ name, value string }

// Escapes of the Linux console (console_codes(4)).
const (
	clearScreen = "\x1b[H\x1b[2J\x1b[?25l"
	bold        = "\x1b[1m"
	white       = "\x1b[1;37m"
	red         = "\x1b[1;37;41m"
	green       = "\x1b[1;32m"
	grey        = "\x1b[0;37m"
	plain       = "\x1b[0m"
)

func (p *panel) log(line string) {
	p.lines = append(p.lines, line)
	p.lines = p.lines[max(0, len(p.lines)-6):]
}

func (p *panel) set(name, value string) {
	for i := range p.facts {
		if p.facts[i].name == name {
			p.facts[i].value = value
			return
		}
	}
	p.facts = append(p.facts, fact{name, value})
}

// Width is what every console has, in characters.
const Width = 78

func (p *panel) draw(w io.Writer) {
	if p.code != nil {
		p.drawCode(w)
		return
	}
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\r\n", args...) }
	b.WriteString(clearScreen)
	line("")
	line("  %s%s%s", white, spaced(p.title), plain)
	line("  %s%s%s", grey, strings.Repeat("_", Width-4), plain)
	line("")
	for _, f := range p.facts {
		line("     %s%-10s%s %s%s%s", grey, f.name, plain, bold, Cut(f.value, Width-18), plain)
	}
	line("")
	colour := green
	if p.alarm {
		colour = red
	}
	for l := range strings.SplitSeq(p.now, "\n") {
		line("  %s   %-*s%s", colour, Width-8, Cut(l, Width-8), plain)
	}
	line("")
	for _, l := range p.lines {
		line("     %s%s%s", grey, Cut(l, Width-8), plain)
	}
	io.WriteString(w, b.String()) // one write, so that it does not flicker
}

// spaced sets a title wide.
func spaced(s string) string {
	return strings.Join(strings.Split(strings.ToUpper(s), ""), " ")
}

func Cut(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-3]) + "..."
	}
	return s
}

// Show makes the screen a panel.
func Show(title string) {
	Consoles.Lock()
	defer Consoles.Unlock()
	Consoles.panel = &panel{title: title}
	for i, f := range Consoles.Files {
		if i < len(Consoles.Names) && IsScreen(Consoles.Names[i]) {
			enlarge(f)
		}
	}
}

// Note states a fact on the panel, and says it on the other consoles if it is
// new.
func Note(name, value string) {
	Consoles.Lock()
	if Consoles.panel != nil {
		for _, f := range Consoles.panel.facts {
			if f == (fact{name, value}) {
				Consoles.Unlock()
				return
			}
		}
		Consoles.panel.set(name, value)
	}
	Consoles.Unlock()
	SayBeside("%s: %s", strings.ToLower(name), value)
}

// Now says what is going on; alarm that something is wrong.
func Now(format string, args ...any)   { state(false, format, args...) }
func Alarm(format string, args ...any) { state(true, format, args...) }

func state(wrong bool, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	Consoles.Lock()
	same := false
	if p := Consoles.panel; p != nil {
		same = p.now == text
		p.now, p.alarm = text, wrong
	}
	Consoles.Unlock()
	if !same {
		SayBeside("%s", strings.ReplaceAll(text, "\n", " "))
	}
}

// Redraw shows a sentence on the screen alone: for what changes each second.
func Redraw(wrong bool, format string, args ...any) {
	Consoles.Lock()
	defer Consoles.Unlock()
	if Consoles.panel == nil {
		return
	}
	Consoles.panel.now, Consoles.panel.alarm = fmt.Sprintf(format, args...), wrong
	for i, f := range Consoles.Files {
		if i < len(Consoles.Names) && IsScreen(Consoles.Names[i]) {
			Consoles.panel.draw(f)
		}
	}
}

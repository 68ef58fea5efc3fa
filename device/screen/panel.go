package screen

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// Size of every console, in characters. The last column stays empty, because a console may wrap a
// line that fills the last column.
const (
	rows  = 25
	width = 78
)

// maxLog is the number of log lines that the panel shows.
const maxLog = 6

// panel is the content of the screen after StartPanel.
type panel struct {
	title  string
	facts  []fact
	status string // the important sentence; "\n" separates its lines
	alarm  bool   // `status` describes a problem, and is shown in red
	lines  []string
	hint   string   // says which key of the keyboard a person may press; empty: nothing
	code   []string // the lines of a QR code; nil: none
}

type fact struct{ name, value string }

// Escape sequences of the Linux console (console_codes(4)).
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
	p.lines = p.lines[max(0, len(p.lines)-maxLog):]
}

// The method `set` sets a fact, and reports whether the panel changed.
func (p *panel) set(name, value string) bool {
	for i := range p.facts {
		if p.facts[i].name == name {
			changed := p.facts[i].value != value
			p.facts[i].value = value
			return changed
		}
	}
	p.facts = append(p.facts, fact{name, value})
	return true
}

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
	line("  %s%s%s", grey, strings.Repeat("_", width-4), plain)
	line("")
	for _, f := range p.facts {
		line("     %s%-10s%s %s%s%s", grey, f.name, plain, bold, Cut(f.value, width-18), plain)
	}
	line("")
	colour := green
	if p.alarm {
		colour = red
	}
	for l := range strings.SplitSeq(p.status, "\n") {
		line("  %s   %-*s%s", colour, width-8, Cut(l, width-8), plain)
	}
	line("")
	for _, l := range p.lines {
		line("     %s%s%s", grey, Cut(l, width-8), plain)
	}
	if p.hint != "" {
		line("")
		line("  %s   %s%s", grey, Cut(p.hint, width-8), plain)
	}
	io.WriteString(w, b.String()) // one write, so that the screen does not flicker
}

// The function `spaced` returns a title in capital letters, with a space between the letters.
func spaced(s string) string {
	return strings.Join(strings.Split(strings.ToUpper(s), ""), " ")
}

// Cut shortens a text to `n` characters if the text is longer. The last three characters are then
// dots.
func Cut(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-3]) + "..."
	}
	return s
}

// StartPanel shows a panel on the screen, instead of lines.
func (s *Screen) StartPanel(title string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.panel = &panel{title: title, hint: s.hint}
	for _, c := range s.consoles {
		if f, ok := c.ReadWriter.(*os.File); ok && c.isScreen() {
			enlarge(f)
		}
	}
}

// Fact shows a fact on the panel. It replaces an earlier fact with the same name. If the fact is
// new, Fact also writes it to the other consoles.
func (s *Screen) Fact(name, value string) {
	s.mu.Lock()
	news := s.panel == nil || s.panel.set(name, value)
	s.mu.Unlock()
	if news {
		s.Serialf("%s: %s", strings.ToLower(name), value)
	}
}

// Statusf shows the current step of the machine on the panel; "\n" separates lines. It also writes
// the text to the other consoles, as one line. If the panel already shows the same text, Statusf
// writes nothing to the other consoles.
func (s *Screen) Statusf(format string, args ...any) { s.status(false, fmt.Sprintf(format, args...)) }

// Alarmf is like Statusf, for a text about a problem.
func (s *Screen) Alarmf(format string, args ...any) { s.status(true, fmt.Sprintf(format, args...)) }

func (s *Screen) status(alarm bool, text string) {
	s.mu.Lock()
	same := s.panel != nil && s.panel.status == text
	if s.panel != nil {
		s.panel.status, s.panel.alarm = text, alarm
	}
	s.mu.Unlock()
	if !same {
		s.Serialf("%s", strings.ReplaceAll(text, "\n", " "))
	}
}

// Redraw replaces the sentence on the panel, and writes nothing to the other consoles. Use it for
// a sentence that changes every second.
func (s *Screen) Redraw(alarm bool, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.panel == nil {
		return
	}
	s.panel.status, s.panel.alarm = text, alarm
	s.redraw()
}

// redraw draws the panel. The caller holds s.mu.
func (s *Screen) redraw() {
	for _, c := range s.consoles {
		if c.isScreen() && !s.lent[c.Name] {
			s.panel.draw(c)
		}
	}
}

// RedrawWhole is like Redraw, for a text of any length: it breaks the text into lines, so that the
// panel shows all of it.
func (s *Screen) RedrawWhole(alarm bool, text string) {
	s.Redraw(alarm, strings.Join(wrapped(text, width-8), "\n"))
}

// The function `wrapped` breaks a text into lines of at most `n` characters, at spaces where
// possible.
func wrapped(text string, n int) (out []string) {
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

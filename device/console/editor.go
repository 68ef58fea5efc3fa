package console

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"gangway/device/install/netfile"

	"github.com/gdamore/tcell/v2"
)

// editor is a modal in which a person edits a short text. It checks the text after each key press,
// so that it shows a mistake at once.
type editor struct {
	lines  [][]rune // at least one
	x, y   int      // cursor: column and line in the text
	top    int      // number of the first visible line
	check  func(text string) error
	accept func(c *console, text string)
}

func newEditor(text string, check func(string) error, accept func(*console, string)) *editor {
	e := &editor{check: check, accept: accept}
	for l := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		e.lines = append(e.lines, []rune(l))
	}
	return e
}

func (e *editor) keys() string { return "Ctrl-O: try  Esc: cancel" }

// The method `text` returns the edited text.
func (e *editor) text() string {
	var b strings.Builder
	for _, l := range e.lines {
		b.WriteString(string(l) + "\n")
	}
	return b.String()
}

func (e *editor) draw(c *console, w, top, height int) {
	room := max(1, height-2) // the two other lines show the mistake
	e.top = min(max(e.top, e.y-room+1), e.y)
	left := max(0, e.x-w+2) // scroll a long line to the left
	for i := range min(room, len(e.lines)-e.top) {
		if l := e.lines[e.top+i]; len(l) > left {
			c.put(0, top+i, w, string(l[left:]), tcell.StyleDefault)
		}
	}
	mistake := "The settings have no mistake."
	look := good
	if err := e.check(e.text()); err != nil {
		mistake, look = err.Error(), bad
	}
	for i, l := range layout([]row{para(look, "%s", mistake)}, w) {
		if i < 2 {
			c.put(0, top+height-2+i, w, l.text, c.style(look))
		}
	}
	c.screen.ShowCursor(e.x-left, top+e.y-e.top)
}

func (e *editor) key(c *console, k *tcell.EventKey) {
	switch k.Key() {
	case tcell.KeyEscape:
		c.modal, c.message = nil, "The settings are unchanged."
	case tcell.KeyCtrlO:
		if err := e.check(e.text()); err != nil {
			c.message = "Correct the mistake first."
			return
		}
		e.accept(c, e.text())
	case tcell.KeyEnter:
		e.newline(c)
	case tcell.KeyBackspace, tcell.KeyBackspace2:
		e.backspace()
	case tcell.KeyDelete, tcell.KeyCtrlD:
		e.remove()
	case tcell.KeyRune:
		e.insert(c, k.Rune())
	default:
		e.move(k.Key())
	}
}

func (e *editor) move(k tcell.Key) {
	switch k {
	case tcell.KeyLeft:
		if e.x > 0 {
			e.x--
		} else if e.y > 0 {
			e.y--
			e.x = len(e.lines[e.y])
		}
	case tcell.KeyRight:
		if e.x < len(e.lines[e.y]) {
			e.x++
		} else if e.y < len(e.lines)-1 {
			e.y, e.x = e.y+1, 0
		}
	case tcell.KeyUp:
		e.y = max(0, e.y-1)
	case tcell.KeyDown:
		e.y = min(len(e.lines)-1, e.y+1)
	case tcell.KeyHome, tcell.KeyCtrlA:
		e.x = 0
	case tcell.KeyEnd, tcell.KeyCtrlE:
		e.x = len(e.lines[e.y])
	}
	e.x = min(e.x, len(e.lines[e.y]))
}

// The method `full` reports whether the text has its maximum size. If so, full also shows a
// message.
func (e *editor) full(c *console) bool {
	if len(e.text()) < netfile.MaxFile {
		return false
	}
	c.message = fmt.Sprintf("The settings can have at most %d bytes.", netfile.MaxFile)
	return true
}

func (e *editor) insert(c *console, r rune) {
	if unicode.IsPrint(r) && !e.full(c) {
		e.lines[e.y] = slices.Insert(e.lines[e.y], e.x, r)
		e.x++
	}
}

func (e *editor) newline(c *console) {
	if e.full(c) {
		return
	}
	rest := slices.Clone(e.lines[e.y][e.x:])
	e.lines[e.y] = e.lines[e.y][:e.x]
	e.lines = slices.Insert(e.lines, e.y+1, rest)
	e.y, e.x = e.y+1, 0
}

func (e *editor) backspace() {
	if e.x == 0 && e.y == 0 {
		return
	}
	e.move(tcell.KeyLeft)
	e.remove()
}

// The method `remove` removes the character at the cursor. At the end of a line, it joins the line
// with the next one.
func (e *editor) remove() {
	l := e.lines[e.y]
	switch {
	case e.x < len(l):
		e.lines[e.y] = slices.Delete(l, e.x, e.x+1)
	case e.y < len(e.lines)-1:
		e.lines[e.y] = append(l, e.lines[e.y+1]...)
		e.lines = slices.Delete(e.lines, e.y+1, e.y+2)
	}
}

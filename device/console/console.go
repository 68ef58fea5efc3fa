package console

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"gangway/device/agent"
	"gangway/device/console/access"
	"gangway/device/doctor"
	"gangway/tcg"

	"github.com/gdamore/tcell/v2"
	"github.com/rivo/uniseg"
)

// Config holds the settings of a console.
type Config struct {
	// Screen is the terminal. Run prepares it, and restores it at the end.
	Screen tcell.Screen
	// Doctor contains the addresses of the TPM and the proxy, and the path of the agent's state
	// folder.
	Doctor  doctor.Config
	Machine Machine
	// Limit is the highest level that the image allows (package access).
	Limit access.Level
	// LogFile is the file with the machine's log. If LogFile is empty, the console shows systemd's
	// journal of gangway-agent.
	LogFile string
	Version string
	// Idle is how long the console stays open without a key press. 0 means that it never closes by
	// itself.
	Idle time.Duration
	// Plain means that the console uses no colours.
	Plain bool
}

// ErrOff means that the image or the machine's owner has switched the console off.
var ErrOff = errors.New("the console is switched off, by the image or by the machine's owner (user-meta " + access.MetaKey + ")")

// refreshEvery is the interval at which the console reads the facts about the machine again.
const refreshEvery = 2 * time.Second

// console is a running console. Only the goroutine of Run uses it; other goroutines send events to
// that goroutine.
type console struct {
	cfg     Config
	screen  tcell.Screen
	unicode bool

	next, shown *grid // `next` is the grid to draw; `shown` is the grid on the terminal, nil if unknown

	facts    *facts
	health   *health // nil: the machine has not been examined yet
	checking bool

	at      int // page
	help    bool
	scroll  int // number of the first visible line of the page
	atEnd   bool
	message string
	modal   modal // nil: none
	busy    bool  // an action is in progress
	typed   time.Time
}

// repaint makes the next draw send every cell to the terminal.
func (c *console) repaint() {
	c.shown = nil
	c.screen.Sync()
}

// modal is a question, the editor or the form for the PIN. While the console shows a modal, all key
// presses go to the modal, and none to the console's pages.
type modal interface {
	draw(c *console, width, top, height int)
	key(c *console, k *tcell.EventKey)
	keys() string
}

// Events that goroutines in the background send to the goroutine of Run.
type (
	factsEvent  struct{ *facts }
	healthEvent struct{ *health }
	doneEvent   struct {
		message string
		err     error
		then    modal // nil: none
	}
)

// Run shows the console until the person leaves it, ctx ends, or the owner switches it off.
func Run(ctx context.Context, cfg Config) error {
	c := &console{cfg: cfg, screen: cfg.Screen, facts: cfg.read(ctx), typed: time.Now()}
	if c.facts.level == access.Off {
		return ErrOff
	}
	if err := c.screen.Init(); err != nil {
		return fmt.Errorf("console: %w", err)
	}
	defer c.screen.Fini()
	c.unicode = c.screen.CharacterSet() == "UTF-8"
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go c.refresh(ctx)
	stop := context.AfterFunc(ctx, func() { c.post(ctx.Err()) })
	defer stop()
	c.check(ctx)
	return c.loop(ctx)
}

// post sends data to the event loop.
func (c *console) post(data any) {
	_ = c.screen.PostEvent(tcell.NewEventInterrupt(data)) // the queue may be full; ignore this error, because the next refresh comes soon
}

// The method `refresh` reads the facts about the machine every refreshEvery, until ctx ends.
func (c *console) refresh(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(refreshEvery):
			c.post(factsEvent{c.cfg.read(ctx)})
		}
	}
}

// check examines the machine in the background.
func (c *console) check(ctx context.Context) {
	if c.checking {
		return
	}
	c.checking = true
	go func() { c.send(ctx, healthEvent{c.cfg.examine(ctx)}) }()
}

// The method `send` sends an event to the event loop. Unlike `post`, it waits until the queue has
// room.
func (c *console) send(ctx context.Context, data any) {
	for c.screen.PostEvent(tcell.NewEventInterrupt(data)) != nil {
		select {
		case <-ctx.Done():
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (c *console) loop(ctx context.Context) error {
	for {
		c.draw()
		switch e := c.screen.PollEvent().(type) {
		case nil: // the terminal is gone
			return nil
		case *tcell.EventResize:
			c.repaint()
		case *tcell.EventInterrupt:
			c.heard(e.Data())
		case *tcell.EventKey:
			c.typed = time.Now()
			if c.key(ctx, e) {
				return nil
			}
		case *tcell.EventError:
			return nil
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case c.facts.level == access.Off:
			return ErrOff
		case c.cfg.Idle > 0 && time.Since(c.typed) > c.cfg.Idle:
			return nil
		}
	}
}

func (c *console) heard(data any) {
	switch d := data.(type) {
	case factsEvent:
		c.facts = d.facts
	case healthEvent:
		c.health, c.checking = d.health, false
	case doneEvent:
		c.busy, c.message = false, d.message
		if d.err != nil {
			c.message = "It failed: " + d.err.Error()
		} else if d.then != nil {
			c.modal, c.scroll = d.then, 0
		}
	}
}

// The method `key` handles a key press, and reports whether the console must end.
func (c *console) key(ctx context.Context, k *tcell.EventKey) bool {
	switch {
	case k.Key() == tcell.KeyCtrlC || k.Key() == tcell.KeyCtrlQ:
		return true
	case k.Key() == tcell.KeyCtrlL:
		c.repaint()
		return false
	case c.busy:
		return false
	}
	c.message = ""
	if c.modal != nil {
		c.modal.key(c, k)
		return false
	}
	switch k.Key() {
	case tcell.KeyLeft, tcell.KeyBacktab:
		c.open(c.at + len(pages) - 1)
	case tcell.KeyRight, tcell.KeyTab:
		c.open(c.at + 1)
	case tcell.KeyUp:
		c.scrollBy(-1)
	case tcell.KeyDown:
		c.scrollBy(1)
	case tcell.KeyPgUp:
		c.scrollBy(-c.room())
	case tcell.KeyPgDn:
		c.scrollBy(c.room())
	case tcell.KeyHome:
		c.scrollBy(-1 << 20)
	case tcell.KeyEnd:
		c.scrollBy(1 << 20)
	case tcell.KeyEscape:
		c.help = false
	case tcell.KeyRune:
		return c.rune(ctx, k.Rune())
	}
	return false
}

func (c *console) rune(ctx context.Context, r rune) (leave bool) {
	switch {
	case r >= '1' && r <= '9':
		c.open(int(r - '1'))
	case r == '?':
		c.help, c.scroll = !c.help, 0
	case r == 'q':
		return true
	case r == 'c':
		c.check(ctx)
	default:
		for _, a := range actions {
			if a.key == r && pages[c.at].name == a.page && !c.help {
				c.start(ctx, a)
			}
		}
	}
	return false
}

func (c *console) open(n int) {
	c.at, c.help, c.scroll = n%len(pages), false, 0
	c.atEnd = pages[c.at].tails
}

// room returns the number of lines that are available for a page.
func (c *console) room() int {
	_, h := c.screen.Size()
	return max(1, h-frame)
}

func (c *console) scrollBy(n int) {
	c.atEnd = false
	c.scroll = max(0, c.scroll+n) // the method `draw` reduces a value that is too large
}

// Number of lines around a page. Above a page are the title, the tabs and a horizontal line. Below
// a page are the message and the line that explains the keys.
const (
	above = 3
	frame = above + 2
)

// Size of the smallest terminal on which the console works, in characters.
const (
	minWidth  = 30
	minHeight = 8
)

func (c *console) draw() {
	c.screen.HideCursor()
	w, h := c.screen.Size()
	c.next = newGrid(w, h)
	if w < minWidth || h < minHeight {
		c.put(0, 0, w, "The terminal is too small.", tcell.StyleDefault)
	} else {
		c.drawAll(w, h)
	}
	c.next.show(c.screen, c.shown)
	c.shown = c.next
	c.screen.Show()
}

func (c *console) drawAll(w, h int) {
	c.drawTitle(w)
	c.drawTabs(w)
	c.put(0, 2, w, strings.Repeat("-", w), c.style(faint))
	if c.modal != nil {
		c.modal.draw(c, w, above, h-frame)
	} else {
		c.drawPage(w, h-frame)
	}
	if c.message != "" {
		c.drawMessage(w, h)
	} else {
		c.put(0, h-2, w, strings.Repeat("-", w), c.style(faint))
	}
	c.put(0, h-1, w, c.keyLine(w), tcell.StyleDefault)
}

func (c *console) drawTitle(w int) {
	right := time.Now().UTC().Format("15:04:05")
	if c.facts.level == access.Read {
		right = "read only  " + right
	}
	c.put(0, 0, w-len(right)-1, "Gangway  "+c.facts.state.Nick, c.style(strong))
	c.put(w-len(right), 0, len(right), right, tcell.StyleDefault)
}

func (c *console) drawTabs(w int) {
	total := 0
	for _, p := range pages {
		total += len(p.name) + 3
	}
	if total-1 > w {
		c.put(0, 1, w, fmt.Sprintf("< %d/%d %s >", c.at+1, len(pages), pages[c.at].name), c.style(strong))
		return
	}
	x := 0
	for i, p := range pages {
		style := tcell.StyleDefault
		if i == c.at {
			style = style.Reverse(true)
		}
		label := fmt.Sprintf("%d %s", i+1, p.name)
		c.put(x, 1, w-x, label, style)
		x += len(label) + 1
	}
}

func (c *console) keyLine(w int) string {
	if c.busy {
		return "Please wait."
	}
	if c.modal != nil {
		return c.modal.keys()
	}
	own := pages[c.at].keys
	if own != "" {
		own += "  "
	}
	if w < 60 {
		return own + "? help  q leave"
	}
	return own + "1-9, arrows: pages  up, down: scroll  ? help  q leave"
}

// drawMessage draws the message above the line that explains the keys. A message of several lines
// covers the end of the page.
func (c *console) drawMessage(w, h int) {
	text := wrap(tcg.Printable(c.message), w)
	text = text[:min(len(text), h-above-2)]
	for i, line := range text {
		y := h - 1 - len(text) + i
		c.put(0, y, w, strings.Repeat(" ", w), tcell.StyleDefault)
		c.put(0, y, w, line, c.style(strong))
	}
}

// drawPage draws the visible rows of the page or of the help.
func (c *console) drawPage(w, room int) {
	rows := helpRows
	if !c.help {
		rows = pages[c.at].rows(c, w, room)
	}
	all := layout(rows, w)
	last := max(0, len(all)-room)
	c.scroll = min(c.scroll, last)
	if c.atEnd && !c.help {
		c.scroll = last
	}
	for i := range min(room, len(all)-c.scroll) {
		l := all[c.scroll+i]
		style := c.style(l.look)
		if l.exact {
			style = c.codeStyle()
		}
		if l.name != "" {
			c.put(0, above+i, nameWidth, l.name, c.nameStyle(l.look))
		}
		c.put(l.indent, above+i, w-l.indent, l.text, style)
	}
	if last > 0 {
		where := fmt.Sprintf(" %d-%d of %d ", c.scroll+1, min(c.scroll+room, len(all)), len(all))
		c.put(w-len(where), 2, len(where), where, c.style(faint))
	}
}

// put draws a text in at most `width` columns. It drops every character that could control the
// terminal, because the text may come from the hub or from a log.
func (c *console) put(x, y, width int, text string, style tcell.Style) {
	if width <= 0 {
		return
	}
	text = tcg.Printable(text)
	for rest, state := text, -1; rest != ""; {
		var g string
		var n int
		g, rest, n, state = uniseg.FirstGraphemeClusterInString(rest, state)
		if n > width {
			return
		}
		c.next.set(x, y, g, n, style)
		x, width = x+n, width-n
	}
}

// The method `style` returns the terminal's style for a row with the appearance `l`. Colours never
// carry information of their own, so the console is usable without them.
func (c *console) style(l look) tcell.Style {
	s := tcell.StyleDefault
	colours := !c.cfg.Plain && c.screen.Colors() >= 8
	switch {
	case l == strong, l == bad && !colours:
		return s.Bold(true)
	case !colours || l == plain || l == faint:
		return s
	}
	return s.Foreground(map[look]tcell.Color{good: tcell.ColorGreen, doubtful: tcell.ColorOlive, bad: tcell.ColorMaroon}[l])
}

// nameStyle returns the style for the name of a fact, or for the severity of a finding, of the
// appearance `l`.
func (c *console) nameStyle(l look) tcell.Style {
	if l == bad || l == doubtful {
		return c.style(l).Bold(true)
	}
	return c.style(l)
}

// codeStyle returns a style in which the light modules of a QR code are light, even on a terminal
// with a light background.
func (c *console) codeStyle() tcell.Style {
	if c.screen.Colors() >= 8 {
		return tcell.StyleDefault.Foreground(tcell.ColorWhite).Background(tcell.ColorBlack)
	}
	return tcell.StyleDefault
}

// nameWidth is the width of the column with the names of the facts, including the space after the
// names.
const nameWidth = 11

// line is one line of a page.
type line struct {
	name, text string
	indent     int
	look       look
	exact      bool
}

// layout breaks rows into lines of at most `width` columns.
func layout(rows []row, width int) (out []line) {
	for _, r := range rows {
		if r.exact {
			out = append(out, line{text: r.text, exact: true})
			continue
		}
		indent := 0
		if r.name != "" {
			indent = nameWidth
		}
		for i, text := range wrap(tcg.Printable(r.text), width-indent) {
			l := line{text: text, indent: indent, look: r.look}
			if i == 0 {
				l.name = r.name
			}
			out = append(out, l)
		}
	}
	return out
}

// wrap breaks a text into lines of at most `width` columns, at spaces where possible.
func wrap(text string, width int) (out []string) {
	width = max(width, 1)
	current, used := "", 0
	for _, word := range strings.Split(strings.TrimRight(text, " "), " ") {
		n := uniseg.StringWidth(word)
		if used > 0 && used+1+n > width {
			out, current, used = append(out, current), "", 0
		} else if used > 0 || current != "" {
			current, used = current+" ", used+1
		}
		for n > width { // for a word that is longer than a line
			var head string
			head, word = cut(word, width-used)
			out, current, used = append(out, current+head), "", 0
			n = uniseg.StringWidth(word)
		}
		current, used = current+word, used+n
		if word == "" && used == 0 {
			current, used = " ", 1 // keep the indentation of the line
		}
	}
	return append(out, current)
}

// The function `cut` splits a text into `head` and `rest`. `head` is as long as fits into `width`
// columns, but has at least one character.
func cut(text string, width int) (head, rest string) {
	used := 0
	for rest, state := text, -1; rest != ""; {
		var g, after string
		var n int
		g, after, n, state = uniseg.FirstGraphemeClusterInString(rest, state)
		if used+n > width && head != "" {
			return head, rest
		}
		head, used, rest = head+g, used+n, after
	}
	return head, ""
}

// ownNick returns the word that a person types to confirm a wipe. The word is the device's nick, so
// that the person does not wipe another machine by mistake.
func ownNick(s *agent.State) string {
	if s.Nick != "" {
		return tcg.Printable(s.Nick)
	}
	return "wipe"
}

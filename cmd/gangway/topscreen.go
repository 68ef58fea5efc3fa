package main

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"gangway/hub/api"
	"gangway/hub/store"

	"github.com/dustin/go-humanize"
	"github.com/gdamore/tcell/v2"
)

// put writes a text at column `x` and line `y`, truncated to the given number of cells. It returns
// the column after the text.
func put(s tcell.Screen, x, y, cells int, style tcell.Style, text string) int {
	for _, r := range shorten(visible(text), max(cells, 0)) {
		w := runeWidth(r)
		if w == 0 {
			continue
		}
		s.SetContent(x, y, r, nil, style)
		x += w
	}
	return x
}

// draw draws the whole screen.
func (t *top) draw(s tcell.Screen) {
	s.Clear()
	s.HideCursor()
	width, height := s.Size()
	if width < 20 || height < 6 {
		put(s, 0, 0, width, plainStyle, "too small")
		s.Show()
		return
	}
	t.drawHeader(s, width)
	if t.detail != nil {
		t.drawDetail(s, width, height)
	} else {
		t.drawLists(s, t.drawNumbers(s, width)+1, width, height)
	}
	keys := "j k move   Enter show   o browser   r refresh   q quit"
	if t.detail != nil {
		keys = "j k scroll   q back   o browser"
	}
	style, line := faintStyle, keys
	switch {
	case t.said != "":
		style, line = plainStyle, t.said
	case t.failed != nil:
		style, line = badStyle, fmt.Sprintf("as of %s: %v", t.data.at.Format(time.TimeOnly), t.failed)
	}
	put(s, 0, height-1, width, style, line)
	s.Show()
}

func (t *top) drawHeader(s tcell.Screen, width int) {
	host := t.hub
	if u, err := url.Parse(t.hub); err == nil {
		host = u.Host
	}
	clock := t.data.at.Format(time.TimeOnly)
	x := put(s, 0, 0, width-10, boldStyle, "Gangway")
	x = put(s, x+2, 0, width-10-x-2, plainStyle, host)
	put(s, x+2, 0, width-10-x-2, faintStyle, t.nick)
	put(s, width-len(clock), 0, len(clock), faintStyle, clock)
}

// drawNumbers draws how many devices are in each state, and how many are new. It begins at line 1
// of the screen, and returns the number of the next empty line.
func (t *top) drawNumbers(s tcell.Screen, width int) (y int) {
	f := t.data.fleet
	noun := " devices"
	if f.Total == 1 {
		noun = " device"
	}
	y = 1
	x := put(s, 0, y, width, boldStyle, humanize.Comma(int64(f.Total))+noun)
	number := func(n int, word string, style tcell.Style) {
		if n == 0 {
			return
		}
		text := humanize.Comma(int64(n)) + " " + word
		if x+3+len(text) > width {
			x, y = -1, y+1
		}
		x = put(s, x+3, y, width-x-3, style, text)
	}
	number(f.Waiting, "waiting for you", warnStyle)
	for _, state := range store.States {
		word, style := stateWord(state)
		number(f.States[state], word, style)
	}
	today, all := 0, 0
	for _, a := range f.Arrivals {
		today, all = a.N, all+a.N
	}
	y++
	x = put(s, 0, y, width, plainStyle, fmt.Sprintf("Arrivals: %s today, %s in %d days  ", humanize.Comma(int64(today)), humanize.Comma(int64(all)), len(f.Arrivals)))
	put(s, x, y, width-x, goodStyle, bars(f.Arrivals))
	return y + 1
}

// bars draws one character for each day: a bar for the number of devices that onboarded on that
// day, or a dot if no device onboarded.
func bars(days []api.Arrival) string {
	most := 1
	for _, d := range days {
		most = max(most, d.N)
	}
	var b strings.Builder
	for _, d := range days {
		if d.N == 0 {
			b.WriteRune('·')
			continue
		}
		b.WriteRune([]rune("▁▂▃▄▅▆▇█")[(d.N*8-1)/most])
	}
	return b.String()
}

// drawLists draws the two lists. The lists begin at line `y`, and end above the last line, which
// explains the keys.
func (t *top) drawLists(s tcell.Screen, y, width, height int) {
	list, row := t.place()
	lists := t.lists()
	room := height - 1 - y - 3 // minus the line of keys, a title for each list and a blank line between them
	first := max(1, min(len(lists[0]), max(room-min(len(lists[1]), room/3), room/2)))
	sizes := [2]int{first, max(0, room-first)}
	small := room < 6 // show only the list with the chosen row
	if small {
		sizes[list] = room + 2
	}
	needs := t.data.fleet.Waiting
	for _, state := range []string{store.StateCloned, store.StateBootChanged, store.StateFailed, store.StateQuiet} {
		needs += t.data.fleet.States[state]
	}
	titles := [2]string{fmt.Sprintf("Needs a person (%s)", humanize.Comma(int64(needs))), "Newest devices"}
	empty := [2]string{"nothing", "no device yet: gangway token create -o device_autojointoken.json"}
	for i, rows := range lists {
		if small && i != list {
			continue
		}
		put(s, 0, y, width, boldStyle, titles[i])
		y++
		chosen := -1
		if i == list {
			chosen = row
		}
		if len(rows) == 0 && sizes[i] > 0 {
			put(s, 2, y, width-2, faintStyle, empty[i])
		}
		start := max(0, min(chosen-sizes[i]/2, len(rows)-sizes[i]))
		for n := start; n < min(start+sizes[i], len(rows)) && y+n-start < height-1; n++ {
			drawRow(s, y+n-start, width, rows[n], n == chosen)
		}
		y += sizes[i] + 1
	}
}

func drawRow(s tcell.Screen, y, width int, r topRow, chosen bool) {
	style, mark := plainStyle, "  "
	if chosen {
		style, mark = boldStyle.Reverse(true), "> "
		for x := range width {
			s.SetContent(x, y, ' ', nil, style)
		}
	}
	state := r.style
	if chosen {
		state = style
	}
	put(s, 0, y, 2, style, mark)
	put(s, 2, y, 15, state, r.state)
	when := ago(r.since)
	name := min(28, max(8, (width-18-len(when)-2)/2))
	put(s, 18, y, min(name, width-18), style, r.name)
	if left := 18 + name + 2; left < width-len(when)-2 {
		put(s, left, y, width-left-len(when)-2, style, r.about)
	}
	if width > 50 {
		put(s, width-len(when), y, len(when), style, when)
	}
}

// drawDetail draws the lines about the chosen row, broken at the width.
func (t *top) drawDetail(s tcell.Screen, width, height int) {
	var lines []string
	for _, line := range t.detail {
		lines = append(lines, broken(line, width)...)
	}
	room := height - 3
	t.scroll = max(0, min(t.scroll, len(lines)-room))
	for i := range min(room, len(lines)-t.scroll) {
		put(s, 0, 2+i, width, plainStyle, lines[t.scroll+i])
	}
}

// broken breaks a line into parts. Each part has at most `width` cells.
func broken(line string, width int) (parts []string) {
	for displayWidth(line) > width {
		n, end := 0, 0
		for i, r := range line {
			if n += runeWidth(r); n > width {
				end = i
				break
			}
		}
		if end == 0 {
			break
		}
		parts, line = append(parts, line[:end]), "    "+line[end:]
	}
	return append(parts, line)
}

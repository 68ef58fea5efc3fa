package console

import "github.com/gdamore/tcell/v2"

// grid contains the characters in all cells of the terminal. The console always draws a whole grid,
// but sends only the changed cells to the terminal, because a serial port may transmit only 960
// characters per second.
type grid struct {
	width, height int
	cells         []cell
}

type cell struct {
	text  string // a grapheme cluster; empty: the second column of a wide cluster
	style tcell.Style
}

func newGrid(width, height int) *grid {
	g := &grid{width, height, make([]cell, width*height)}
	for i := range g.cells {
		g.cells[i].text = " "
	}
	return g
}

// set writes a grapheme cluster at column `x` of line `y`. The cluster is `columns` wide.
func (g *grid) set(x, y int, text string, columns int, style tcell.Style) {
	if x < 0 || y < 0 || y >= g.height || x+columns > g.width {
		return
	}
	g.cells[y*g.width+x] = cell{text, style}
	for i := 1; i < columns; i++ {
		g.cells[y*g.width+x+i] = cell{"", style}
	}
}

// The method `show` sends to the terminal the cells that differ from `shown`, the grid on the
// terminal. If `shown` is nil, show sends all cells.
func (g *grid) show(s tcell.Screen, shown *grid) {
	all := shown == nil || shown.width != g.width || shown.height != g.height
	for i, c := range g.cells {
		if c.text == "" || !all && c == shown.cells[i] {
			continue
		}
		r := []rune(c.text)
		s.SetContent(i%g.width, i/g.width, r[0], r[1:], c.style)
	}
}

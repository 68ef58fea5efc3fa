package cast

import (
	"bufio"
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"time"
)

// The picture's measures, in pixels.
const (
	cellWidth, lineHeight = 7.9, 18
	margin                = 12
)

// line is a line of the terminal. `at` is the time at which the line gets its first character.
type line struct {
	at   time.Duration
	text []rune
}

// rows returns the lines of the recording, wrapped at the width of the terminal.
func (r *Recording) rows() []line {
	var all []line
	var now line
	for _, e := range r.Events {
		for _, c := range e.Text {
			switch {
			case c == '\r':
			case c == '\n':
				all, now = append(all, now), line{at: e.At}
			default:
				if len(now.text) == r.Width {
					all, now = append(all, now), line{}
				}
				if len(now.text) == 0 {
					now.at = e.At
				}
				now.text = append(now.text, c)
			}
		}
	}
	return append(all, now)
}

// WriteSVG writes the recording as an animated picture. Each line appears as a whole at the time of
// its first character. The picture displays the last lines that fit into the terminal. A viewer
// without animation displays the first lines. `pause` is the longest time between two lines.
func (r *Recording) WriteSVG(w io.Writer, pause time.Duration) error {
	out := bufio.NewWriter(w)
	width, height := float64(r.Width)*cellWidth+2*margin, r.Height*lineHeight+2*margin
	fmt.Fprintf(out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %d" font-family="ui-monospace,Menlo,Consolas,monospace" font-size="13">`, width, height)
	fmt.Fprintf(out, "<title>%s</title>\n", escaped(r.Title))
	// Use groups and not nested svg elements, because in browsers each svg element has a separate
	// timeline.
	fmt.Fprintf(out, `<clipPath id="screen"><rect width="%.0f" height="%d"/></clipPath><rect width="100%%" height="100%%" rx="8" fill="#12202b"/>`, width-2*margin, r.Height*lineHeight)
	fmt.Fprintf(out, `<g transform="translate(%d %d)" clip-path="url(#screen)"><g fill="#d5dee5">`+"\n", margin, margin)
	var moves bytes.Buffer
	rows := r.rows()
	at, last := time.Duration(0), rows[0].at
	for i, one := range rows {
		at += min(max(0, one.at-last), pause)
		last = max(last, one.at)
		text, colour := string(one.text), ""
		if strings.HasPrefix(text, "$ ") {
			colour = ` fill="#7fd6c2"`
		}
		fmt.Fprintf(out, `<text y="%d" xml:space="preserve"%s>%s`, i*lineHeight+14, colour, escaped(text))
		if at > 0 {
			fmt.Fprintf(out, `<set attributeName="visibility" to="hidden" begin="0s" dur="%.1fs"/>`, at.Seconds())
		}
		fmt.Fprintln(out, "</text>")
		if over := i + 1 - r.Height; over > 0 {
			fmt.Fprintf(&moves, `<animateTransform attributeName="transform" type="translate" to="0 %d" begin="%.1fs" dur="0.01s" fill="freeze"/>`+"\n", -over*lineHeight, at.Seconds())
		}
	}
	if _, err := moves.WriteTo(out); err != nil {
		return fmt.Errorf("cast: %w", err)
	}
	fmt.Fprintln(out, "</g></g></svg>")
	return out.Flush()
}

// The function `escaped` returns the text with XML's special characters escaped.
func escaped(text string) string {
	var b strings.Builder
	if err := xml.EscapeText(&b, []byte(text)); err != nil {
		panic(err) // cannot happen: writing to a strings.Builder never fails
	}
	return b.String()
}

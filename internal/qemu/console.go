package qemu

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"regexp"
	"sync"
	"time"
)

// maxConsole is the maximum size in bytes of the output that a Console keeps.
const maxConsole = 8 << 20

// Line is a line of the console.
type Line struct {
	At   time.Duration // time since power-on
	Text string
}

// Console stores the lines that a machine prints on its serial port.
type Console struct {
	start time.Time
	file  io.Writer

	mu    sync.Mutex
	lines []Line
	rest  []byte        // beginning of a line that has not ended yet
	size  int           // total size of all lines, in bytes
	news  chan struct{} // closed when the machine prints more
}

func newConsole(file io.Writer, start time.Time) *Console {
	return &Console{start: start, file: file, news: make(chan struct{})}
}

// escapes matches the escape sequences with which firmware positions text on a terminal.
var escapes = regexp.MustCompile("\x1b\\[[0-9;=?]*[A-Za-z]|\x1b[()][A-Z0-9]|[\r\x00]")

// Write receives the machine's output. It implements io.Writer.
func (c *Console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rest = append(c.rest, p...)
	for {
		line, rest, ok := bytes.Cut(c.rest, []byte("\n"))
		if !ok && len(c.rest) < 1<<20 {
			break
		}
		c.add(line)
		c.rest = rest
	}
	close(c.news)
	c.news = make(chan struct{})
	return len(p), nil
}

func (c *Console) add(line []byte) {
	l := Line{time.Since(c.start), clean(line)}
	if c.size += len(line); c.size > maxConsole {
		return
	}
	c.lines = append(c.lines, l)
	fmt.Fprintf(c.file, "%7.2f %s\n", l.At.Seconds(), l.Text) // ignore errors: this log is only for people
}

// Lines returns the output so far, without terminal escape sequences. The last line may be
// incomplete, for example a prompt.
func (c *Console) Lines() []Line {
	c.mu.Lock()
	defer c.mu.Unlock()
	lines := c.lines[:len(c.lines):len(c.lines)]
	if len(c.rest) > 0 {
		lines = append(lines, Line{time.Since(c.start), clean(c.rest)})
	}
	return lines
}

func clean(line []byte) string { return string(escapes.ReplaceAll(line, nil)) }

// Find returns the first line that matches the pattern `re`, and the submatches.
func (c *Console) Find(re *regexp.Regexp) (Line, []string, bool) {
	for _, l := range c.Lines() {
		if m := re.FindStringSubmatch(l.Text); m != nil {
			return l, m, true
		}
	}
	return Line{}, nil, false
}

// Tail returns the last 25 lines of the output, for an error message.
func (c *Console) Tail() string {
	lines := c.Lines()
	var b bytes.Buffer
	for _, l := range lines[max(0, len(lines)-25):] {
		fmt.Fprintf(&b, "%7.2f %s\n", l.At.Seconds(), l.Text)
	}
	return b.String()
}

// wait waits until a line matches the pattern `re`, the context `ctx` ends, or the channel `ended`
// is closed.
func (c *Console) wait(ctx context.Context, ended <-chan struct{}, re *regexp.Regexp) (Line, []string, error) {
	for over := false; ; {
		c.mu.Lock()
		news := c.news
		c.mu.Unlock()
		if l, m, ok := c.Find(re); ok {
			return l, m, nil
		}
		if over {
			return Line{}, nil, fmt.Errorf("qemu: the machine ended without printing %q; its last lines:\n%s", re, c.Tail())
		}
		select {
		case <-news:
		case <-ended:
			over = true // look once more: the machine may have printed the line just before it ended
		case <-ctx.Done():
			return Line{}, nil, fmt.Errorf("qemu: the machine did not print %q: %w; its last lines:\n%s", re, ctx.Err(), c.Tail())
		}
	}
}

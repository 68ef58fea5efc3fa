package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// watchEvery is the interval at which --watch requests the list again.
const watchEvery = 3 * time.Second

// Control sequences of terminals. enterScreen switches to the alternate screen and hides the
// cursor; leaveScreen restores the earlier screen and shows the cursor.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l\x1b[2J"
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	toTop       = "\x1b[H"
	restOfLine  = "\x1b[K"
	restBelow   = "\x1b[J"
)

// watchable adds the flag --watch to a command that prints a list.
func (a *app) watchable(c *cobra.Command) *cobra.Command {
	watch, once := false, c.RunE
	c.Flags().BoolVarP(&watch, "watch", "w", false, "show the list again every 3 seconds, until Ctrl-C; without a terminal, print only the lines that change")
	c.RunE = func(c *cobra.Command, arg []string) error {
		if !watch {
			return once(c, arg)
		}
		if !a.forPeople() && a.output != formatCSV {
			return usagef("--watch does not end, so the format %s cannot be used: leave --output out, or use --output csv", a.output)
		}
		show := func() error { return once(c, arg) }
		if f, ok := a.stdout.(*os.File); ok && isTerminal(f) {
			return a.watchScreen(c.Context(), f, watchEvery, show)
		}
		return a.watchChanges(c.Context(), watchEvery, show)
	}
	return c
}

// isRefusal reports whether the hub or the command refused the request. After any other error, a
// retry may succeed.
func isRefusal(err error) bool {
	var refused *hubError
	return errors.As(err, &refused)
}

// capture calls the function `show`, and returns its output and its notes.
func (a *app) capture(show func() error) (printed, noted string, err error) {
	out, notes := a.stdout, a.stderr
	defer func() { a.stdout, a.stderr = out, notes }()
	var b, n bytes.Buffer
	a.stdout, a.stderr = &b, &n
	err = show()
	return b.String(), n.String(), err
}

// watchScreen draws a list on a terminal repeatedly until ctx ends. Then it restores the earlier
// content of the terminal.
func (a *app) watchScreen(ctx context.Context, f *os.File, every time.Duration, show func() error) error {
	a.screen = f
	fmt.Fprint(f, enterScreen)
	defer func() {
		a.screen = nil
		fmt.Fprint(f, leaveScreen)
	}()
	tick := time.NewTicker(every)
	defer tick.Stop()
	last := ""
	for first := true; ; first = false {
		text, notes, err := a.capture(show)
		status := fmt.Sprintf("%s, every %s; Ctrl-C ends.", time.Now().Format(time.TimeOnly), every)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && (first || isRefusal(err)):
			return err
		case err != nil:
			status = visible(err.Error()) // keep the last list on the screen
		default:
			last = text + notes
		}
		if _, err := f.Write(frame(last, status, f)); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// frame returns the bytes that draw a list from the top of a terminal, with the status below the
// list. It truncates the list to the terminal's height.
func frame(text, status string, f *os.File) []byte {
	width, height, err := term.GetSize(int(f.Fd()))
	if err != nil || height < 4 {
		width, height = 80, 24
	}
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if most := height - 2; len(lines) > most {
		more := len(lines) - most + 1
		lines = append(lines[:most-1], fmt.Sprintf("… and %d more lines; a search or --limit shows fewer", more))
	}
	var b bytes.Buffer
	b.WriteString(toTop)
	for _, line := range append(lines, "", shorten(status, width)) {
		if b.Len() > len(toTop) {
			b.WriteString("\r\n")
		}
		b.WriteString(line + restOfLine)
	}
	b.WriteString(restBelow)
	return b.Bytes()
}

// watchChanges prints a list, and then each new or changed line until ctx ends. It omits the
// columns that change each time a device contacts the hub, except columns that --columns names.
func (a *app) watchChanges(ctx context.Context, every time.Duration, show func() error) error {
	a.steady = true
	defer func() { a.steady = false }()
	tick := time.NewTicker(every)
	defer tick.Stop()
	var known map[string]bool
	failed := 0
	for {
		text, notes, err := a.capture(show)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && (known == nil || isRefusal(err)):
			return err
		case err != nil:
			if failed++; failed == notedAfter {
				a.note("%v (retrying)", err)
			}
		default:
			if failed = 0; known == nil {
				fmt.Fprint(a.stderr, notes)
			}
			if known, err = a.printChangedLines(text, known); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// printChangedLines prints the lines that are not in `known`, and returns all lines of the text. It
// ignores spaces, because columns may have become wider.
func (a *app) printChangedLines(text string, known map[string]bool) (map[string]bool, error) {
	now, names := map[string]bool{}, map[string]bool{}
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		key := strings.Join(words, " ")
		now[key], names[words[0]] = true, true
		if known[key] {
			continue
		}
		if _, err := fmt.Fprint(a.stdout, line); err != nil {
			return nil, err
		}
	}
	for key := range known {
		if name, _, _ := strings.Cut(key, " "); !now[key] && !names[name] {
			a.note("no longer in the list: %s", key)
		}
	}
	return now, nil
}

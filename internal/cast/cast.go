// Package cast reads and writes terminal recordings in the format asciicast v2
// (https://docs.asciinema.org/manual/asciicast/v2/): a line of JSON with the header, then one line
// for each event. The command cast/record uses it to make the recording in docs/recordings, and a
// test checks this recording.
package cast

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// Header is the first line of a recording.
type Header struct {
	Version int    `json:"version"` // 2
	Width   int    `json:"width"`   // columns
	Height  int    `json:"height"`  // rows
	Title   string `json:"title,omitempty"`
}

// Event is one piece of output of the recorded program.
type Event struct {
	At   time.Duration // time since the beginning of the recording
	Text string        // lines end with CR LF, as a terminal receives them
}

// Recording is a header and its events, in order.
type Recording struct {
	Header
	Events []Event
}

// Write writes the recording. Times are rounded to a millisecond.
func (r *Recording) Write(w io.Writer) error {
	out := bufio.NewWriter(w)
	lines := json.NewEncoder(out)
	lines.SetEscapeHTML(false)
	if err := lines.Encode(r.Header); err != nil {
		return fmt.Errorf("cast: %w", err)
	}
	for _, e := range r.Events {
		if err := lines.Encode([]any{float64(e.At.Milliseconds()) / 1000, "o", e.Text}); err != nil {
			return fmt.Errorf("cast: %w", err)
		}
	}
	return out.Flush()
}

// Parse parses a recording strictly: only output events are allowed, and times must not
// decrease.
func Parse(b []byte) (*Recording, error) {
	if !utf8.Valid(b) {
		return nil, errors.New("cast: the recording is not UTF-8")
	}
	r := new(Recording)
	for n, line := range bytes.Split(bytes.TrimSuffix(b, []byte("\n")), []byte("\n")) {
		if n == 0 {
			if err := json.Unmarshal(line, &r.Header); err != nil || r.Version != 2 || r.Width < 1 || r.Height < 1 {
				return nil, fmt.Errorf("cast: the first line is not a header of version 2: %w", err)
			}
			continue
		}
		var event []any
		if err := json.Unmarshal(line, &event); err != nil || len(event) != 3 {
			return nil, fmt.Errorf("cast: line %d is not an event: %w", n+1, err)
		}
		seconds, isTime := event[0].(float64)
		kind, isKind := event[1].(string)
		text, isText := event[2].(string)
		if !isTime || !isKind || !isText || kind != "o" {
			return nil, fmt.Errorf("cast: line %d is not an output event", n+1)
		}
		at := time.Duration(seconds * float64(time.Second))
		if last := len(r.Events) - 1; at < 0 || last >= 0 && at < r.Events[last].At {
			return nil, fmt.Errorf("cast: line %d has an earlier time than the line before it", n+1)
		}
		r.Events = append(r.Events, Event{at, text})
	}
	return r, nil
}

// Text returns all text of the recording, with LF instead of CR LF at the ends of lines.
func (r *Recording) Text() string {
	var b strings.Builder
	for _, e := range r.Events {
		b.WriteString(e.Text)
	}
	return strings.ReplaceAll(b.String(), "\r\n", "\n")
}

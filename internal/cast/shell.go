package cast

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// Shell runs commands as if a person typed them into a terminal, and records the commands and their
// output.
type Shell struct {
	Env []string // environment of the commands

	dir   string
	start time.Time
	ahead time.Duration // simulated time for typing and reading, added to the real time

	mu sync.Mutex
	r  Recording // guarded by mu
}

// The simulated times for typing one character and for reading the output.
const (
	typing  = 35 * time.Millisecond
	reading = 1200 * time.Millisecond
)

// NewShell returns a shell in the folder `dir`. The recording shows this folder as the home folder.
// `title` is the recording's title, and `width` is the number of columns of the recording's
// terminal.
func NewShell(dir, title string, width int) *Shell {
	return &Shell{dir: dir, start: time.Now(), r: Recording{Header: Header{Version: 2, Width: width, Height: 36, Title: title}}}
}

func (s *Shell) print(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text = strings.ReplaceAll(strings.ReplaceAll(text, s.dir, "~"), "\n", "\r\n")
	s.r.Events = append(s.r.Events, Event{At: time.Since(s.start) + s.ahead, Text: text})
}

// pass lets simulated time pass.
func (s *Shell) pass(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ahead += d
}

// Type records a command as if a person typed it. It does not run the command.
func (s *Shell) Type(line string) {
	s.pass(reading)
	s.print("$ ")
	for _, c := range line {
		s.pass(typing)
		s.print(string(c))
	}
	s.pass(300 * time.Millisecond)
	s.print("\n")
}

// Show records a program's output, line by line, as it arrives. It returns at the output's end.
func (s *Shell) Show(r io.Reader) {
	for in := bufio.NewScanner(r); in.Scan(); {
		s.print(in.Text() + "\n")
	}
}

// Run records a command as if a person typed it, and runs it with this input.
func (s *Shell) Run(line, input string) error {
	s.Type(line)
	cmd := exec.Command("/bin/sh", "-c", line)
	cmd.Dir, cmd.Env, cmd.Stdin = s.dir, s.Env, strings.NewReader(input)
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		return err
	}
	w.Close()
	s.Show(r)
	r.Close()
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w", line, err)
	}
	return nil
}

// Hide replaces a secret by asterisks in everything that was recorded so far.
func (s *Shell) Hide(secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.r.Events {
		s.r.Events[i].Text = strings.ReplaceAll(s.r.Events[i].Text, secret, strings.Repeat("*", len(secret)))
	}
}

// Text returns everything that was recorded so far.
func (s *Shell) Text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.r.Text()
}

// Recording returns the recording, which ends with a prompt.
func (s *Shell) Recording() *Recording {
	s.pass(2 * reading)
	s.print("$ ")
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.r
	return &r
}

// Save writes the recording to a file.
func (s *Shell) Save(out string) error {
	var b bytes.Buffer
	if err := s.Recording().Write(&b); err != nil {
		return err
	}
	return os.WriteFile(out, b.Bytes(), 0o644)
}

// Package logs stores a device's log lines in memory until the hub has them. The memory is limited,
// and a writer never waits for the hub. If the hub cannot be reached for too long, the oldest lines
// are dropped, and an extra line later tells the hub how many lines were dropped.
package logs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Limits of one request to the hub.
const (
	batchLines = 200
	batchBytes = 256 << 10
	maxMessage = 8 << 10 // maximum size of a line, in bytes; the rest of the line is dropped
	perLine    = 200     // bound for the JSON around a message, in bytes
)

// Limits of the lines in memory.
const (
	keepLines = 10_000
	keepBytes = 2 << 20
)

// Conn sends a request to the hub. It returns the body of an answer with the status 200. An answer
// with another status is an error.
type Conn interface {
	Do(ctx context.Context, method, path string, body []byte, limit int64) ([]byte, error)
}

// Line is a log line in the hub's format.
type Line struct {
	Sec      int64  `json:"tsec"`
	Nano     int64  `json:"tnano"`
	Level    string `json:"lvl"` // "ERROR", "WARN", "INFO", "DEBUG"
	Source   string `json:"src"`
	Platform string `json:"plat"`
	Rev      string `json:"rev"`
	Message  string `json:"msg"`
}

func (l *Line) size() int { return len(l.Message) + len(l.Source) + perLine }

// Log stores lines until the hub has them. The zero value is ready for use. Its methods may be
// called from several goroutines.
type Log struct {
	// Rev, if set, returns the running revision.
	Rev func() string

	mu    sync.Mutex
	lines []Line // guarded by mu
	bytes int    // guarded by mu: the size of lines
	lost  int    // guarded by mu: lines dropped and not yet reported to the hub
	first int64  // guarded by mu: number of lines that were added before lines[0]
}

// Add stores a line in memory until the hub has it. Add does not wait for the hub.
func (l *Log) Add(level, source, message string) {
	message = cut(strings.TrimRight(message, "\r\n"), maxMessage)
	if message == "" {
		return
	}
	now := time.Now()
	rev := ""
	if l.Rev != nil {
		rev = l.Rev()
	}
	line := Line{now.Unix(), int64(now.Nanosecond()), level, cut(source, 250), "gangway", rev, message}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
	l.bytes += line.size()
	for len(l.lines) > keepLines || l.bytes > keepBytes {
		l.drop(1)
		l.lost++
	}
}

// drop removes the n oldest lines. The caller holds mu.
func (l *Log) drop(n int) {
	for _, line := range l.lines[:n] {
		l.bytes -= line.size()
	}
	l.lines = l.lines[n:]
	l.first += int64(n)
	if cap(l.lines) > 4*keepLines || len(l.lines) == 0 {
		l.lines = append([]Line(nil), l.lines...) // frees the memory of dropped lines
	}
}

// batch returns the oldest lines, at most `n` lines and at most batchBytes bytes. `first` is the
// sequence number of the first line. If lines were dropped, batch puts an extra line first. The
// extra line contains the number of dropped lines, which is also the result `lost`.
func (l *Log) batch(n int) (lines []Line, first int64, lost int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	size := 0
	for i := range l.lines {
		if size += l.lines[i].size(); len(lines) == n || size > batchBytes && i > 0 {
			break
		}
		lines = append(lines, l.lines[i])
	}
	if l.lost > 0 && len(lines) > 0 {
		note := lines[0]
		note.Level, note.Source = "WARN", "gangway-agent"
		note.Message = fmt.Sprintf("%d lines before this one were dropped: the hub could not be reached, or there were too many.", l.lost)
		lines = append([]Line{note}, lines...)
	}
	return lines, l.first, l.lost
}

// The method `sent` removes `n` lines that the hub has received. `first` is the sequence number of
// the first of them. Some of these lines may already have been dropped. `lost` is the number of
// dropped lines in the batch's extra line, or 0 if the batch had no extra line.
func (l *Log) sent(first int64, n, lost int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost -= lost
	if n -= int(l.first - first); n > 0 {
		l.drop(n)
	}
}

// The constant `every` is how long Run waits for more lines between two requests.
const every = time.Second

// Run sends lines until ctx ends. If the hub refuses a batch, Run sends the batch's lines one by
// one, and drops each line that the hub refuses.
func (l *Log) Run(ctx context.Context, conn Conn) error {
	wait := every
	singles := 0 // lines of a refused batch that remain to be sent one by one
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		most := batchLines
		if singles > 0 {
			most = 1
		}
		lines, first, lost := l.batch(most)
		if len(lines) == 0 {
			wait = every
			continue
		}
		body, err := json.Marshal(lines)
		if err != nil {
			return err
		}
		_, err = conn.Do(ctx, http.MethodPost, "/logs/", body, 64<<10)
		n := len(lines)
		if lost > 0 {
			n--
		}
		switch {
		case err == nil || refused(err) && n == 1:
			l.sent(first, n, lost)
			singles = max(0, singles-1)
			if wait = 0; n < batchLines && singles == 0 {
				wait = every
			}
		case refused(err):
			wait, singles = 0, n
		default:
			wait = min(2*max(wait, every), time.Minute)
			wait = wait/2 + rand.N(wait/2)
		}
	}
}

// The function `refused` reports whether the hub refused a batch because of the text of its lines.
// It returns false for failures of the connection, the hub or the authentication.
func refused(err error) bool {
	var no interface {
		HTTPStatus() int
		Temporary() bool
	}
	if !errors.As(err, &no) || no.Temporary() {
		return false
	}
	s := no.HTTPStatus()
	return s >= 400 && s < 500 && s != http.StatusUnauthorized && s != http.StatusForbidden
}

func cut(s string, n int) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", "\ufffd"), "\ufffd")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}

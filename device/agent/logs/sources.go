package logs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Follow keeps the lines that are appended to a file, as tail -F does: from its
// end if it is there already, from its beginning when it comes later or is
// exchanged. It returns when ctx ends.
func (l *Log) Follow(ctx context.Context, path string) error {
	t := tail{log: l, path: path}
	t.open(true)
	defer t.shut()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		t.read()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// tail is a file that is followed.
type tail struct {
	log  *Log
	path string
	file *os.File // nil: not there
	at   int64
	rest []byte // of a line that has no end yet
	skip bool   // the rest of a line that was too long
}

// open opens a regular file; a pipe in its place must not make anybody wait.
func (t *tail) open(atEnd bool) {
	file, err := os.OpenFile(t.path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		file.Close()
		return
	}
	t.file, t.at, t.rest, t.skip = file, 0, nil, false
	if atEnd {
		t.at = info.Size()
	}
}

func (t *tail) shut() {
	if t.file != nil {
		t.file.Close()
		t.file = nil
	}
}

// most is what is read of a file in one go, in bytes: a flood in one does not
// keep the others waiting.
const most = 256 << 10

// read reads what is new.
func (t *tail) read() {
	if t.file == nil {
		if t.open(false); t.file == nil {
			return
		}
	}
	info, err := t.file.Stat()
	if err == nil && info.Size() < t.at { // it was cut
		t.at, t.rest, t.skip = 0, nil, false
	}
	buf := make([]byte, 16<<10)
	for got := 0; got < most; {
		n, err := t.file.ReadAt(buf, t.at)
		t.at += int64(n)
		got += n
		t.take(buf[:n])
		if err != nil {
			break
		}
	}
	now, err := os.Stat(t.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info != nil && !os.SameFile(now, info) {
		if end, err := t.file.Stat(); err == nil && end.Size() > t.at {
			return // the old one is read to its end first
		}
		t.take([]byte("\n"))
		t.shut()
	}
}

// take splits into lines.
func (t *tail) take(b []byte) {
	for _, c := range b {
		switch {
		case c == '\n':
			t.log.Add("INFO", t.path, string(t.rest))
			t.rest, t.skip = t.rest[:0], false
		case len(t.rest) > maxMessage:
			t.skip = true
		default:
			t.rest = append(t.rest, c)
		}
	}
}

// Listen keeps each datagram to a Unix socket at path as a line. One that
// begins with a syslog priority, <N>, has its level from it. The socket is
// for the owner and its group; it is removed when ctx ends.
func (l *Log) Listen(ctx context.Context, path string) error {
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != fs.ModeSocket {
			return fmt.Errorf("logs: %s is there, and no socket", path)
		}
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("logs: %w", err)
		}
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("logs: %w", err)
	}
	defer os.Remove(path)
	defer conn.Close()
	if err := os.Chmod(path, 0o660); err != nil {
		return fmt.Errorf("logs: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	buf := make([]byte, 64<<10)
	for {
		n, err := conn.Read(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("logs: %w", err)
		}
		level, text := priority(string(buf[:n]))
		for line := range strings.SplitSeq(text, "\n") {
			l.Add(level, "socket", line)
		}
	}
}

// priority takes syslog's <facility*8+severity> off (RFC 3164 4.1.1).
func priority(s string) (level, text string) {
	rest, ok := strings.CutPrefix(s, "<")
	digits, text, found := strings.Cut(rest, ">")
	n, err := strconv.ParseUint(digits, 10, 8)
	if !ok || !found || err != nil || len(digits) > 3 {
		return "INFO", s
	}
	return []string{"ERROR", "ERROR", "ERROR", "ERROR", "WARN", "INFO", "INFO", "DEBUG"}[n%8], text
}

// Read keeps the lines of r until it ends. Reading is not ended by anybody
// else: it is for standard input.
func (l *Log) Read(r io.Reader, source string) {
	in := bufio.NewReaderSize(r, maxMessage)
	for {
		line, more, err := in.ReadLine()
		if err != nil {
			return
		}
		l.Add("INFO", source, string(line))
		for more && err == nil { // of a line that is too long the beginning is kept
			_, more, err = in.ReadLine()
		}
	}
}

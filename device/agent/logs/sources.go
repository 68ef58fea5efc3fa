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
	"time"

	"gangway/internal/diskfile"
)

// Follow adds the lines that are appended to a file, like tail -F. If the file exists, Follow
// starts at its end. A file that is created or replaced later is read from its beginning. Follow
// returns when ctx ends.
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

// tail is a followed file.
type tail struct {
	log  *Log
	path string
	file *os.File // nil: the file does not exist, or is not a regular file
	at   int64
	rest []byte // the beginning of an incomplete line
	skip bool   // the rest of the current line is dropped, because the line is too long
}

// The method `open` opens the file at t.path, if it is a regular file. open never blocks, not even
// on a pipe.
func (t *tail) open(atEnd bool) {
	file, err := diskfile.Open(t.path, 0)
	if err != nil {
		return
	}
	info, err := file.Stat()
	if err != nil {
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

// The constant `most` limits how much of a file is read at once, in bytes, so that a file that
// grows fast does not delay the other files.
const most = 256 << 10

// read adds the file's new lines to the log.
func (t *tail) read() {
	if t.file == nil {
		if t.open(false); t.file == nil {
			return
		}
	}
	info, err := t.file.Stat()
	if err == nil && info.Size() < t.at { // the file was truncated
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
			return // another file is at the path now: first read the old file to its end
		}
		t.take([]byte("\n"))
		t.shut()
	}
}

// take splits `b` into lines. It adds the complete lines to the log and stores the rest for the
// next call.
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

// Listen makes a Unix datagram socket at `path`, and adds each datagram that it receives to the log
// as a line. A syslog priority, <N>, at the start of a datagram sets the line's level. Only the
// socket's owner and group can use the socket. Listen removes the socket when ctx ends.
func (l *Log) Listen(ctx context.Context, path string) error {
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != fs.ModeSocket {
			return fmt.Errorf("logs: %s exists and is not a socket; remove it or use another path", path)
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

// priority removes syslog's <facility*8+severity> (RFC 3164, 4.1.1) from the start of a line, and
// returns the level and the rest.
func priority(s string) (level, text string) {
	rest, ok := strings.CutPrefix(s, "<")
	digits, text, found := strings.Cut(rest, ">")
	n, err := strconv.ParseUint(digits, 10, 8)
	if !ok || !found || err != nil || len(digits) > 3 {
		return "INFO", s
	}
	return []string{"ERROR", "ERROR", "ERROR", "ERROR", "WARN", "INFO", "INFO", "DEBUG"}[n%8], text
}

// Read adds the lines of the reader `r` to the log until `r` ends. Read cannot be cancelled: it is
// meant for standard input.
func (l *Log) Read(r io.Reader, source string) {
	in := bufio.NewReaderSize(r, maxMessage)
	for {
		line, more, err := in.ReadLine()
		if err != nil {
			return
		}
		l.Add("INFO", source, string(line))
		for more && err == nil { // drop the rest of a line that is too long
			_, more, err = in.ReadLine()
		}
	}
}

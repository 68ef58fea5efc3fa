package logs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// store is a fake of the hub's log storage. A test can make the store unreachable, or make it
// refuse certain lines.
type store struct {
	mu     sync.Mutex
	away   bool   // guarded by mu
	poison string // guarded by mu: the store refuses a batch that contains this text
	lines  []Line // guarded by mu
	posts  int    // guarded by mu
	most   int    // guarded by mu: bytes of the largest post
}

type status int

func (s status) Error() string   { return fmt.Sprint(int(s)) }
func (s status) HTTPStatus() int { return int(s) }
func (s status) Temporary() bool { return s >= 500 }

func (s *store) Do(_ context.Context, method, path string, body []byte, _ int64) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.posts++; s.away {
		return nil, errors.New("no route to host")
	}
	if method != "POST" || path != "/logs/" {
		return nil, status(404)
	}
	if s.poison != "" && strings.Contains(string(body), s.poison) {
		return nil, status(400)
	}
	var lines []Line
	if err := json.Unmarshal(body, &lines); err != nil {
		return nil, status(400)
	}
	if len(lines) > batchLines+1 {
		return nil, status(413)
	}
	s.most = max(s.most, len(body))
	s.lines = append(s.lines, lines...)
	return nil, nil
}

func (s *store) has(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.lines {
		if strings.Contains(l.Message, text) {
			return true
		}
	}
	return false
}

func (s *store) wait(t *testing.T, text string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !s.has(text); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the hub never has %q", text)
		}
	}
}

// The function `running` runs l in the background until the test ends.
func running(t *testing.T, l *Log, s *store) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx, s) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return ctx
}

// While the hub cannot be reached, the writers of log lines do not wait, and the lines use only a
// limited amount of memory. When the hub can be reached again, it gets the newest lines in order,
// each line once. An extra line tells the hub how many lines were lost.
func TestLogIsBoundedWhileTheHubIsAway(t *testing.T) {
	t.Parallel()
	l, s := new(Log), &store{away: true}
	running(t, l, s)
	const all = 3 * keepLines
	for i := range all {
		l.Add("INFO", "test", fmt.Sprintf("line %06d", i))
	}
	l.Add("INFO", "test", strings.Repeat("x", 1<<20))
	l.mu.Lock()
	if len(l.lines) > keepLines || l.bytes > keepBytes {
		t.Errorf("%d lines, %d bytes", len(l.lines), l.bytes)
	}
	l.mu.Unlock()
	s.mu.Lock()
	s.away = false
	s.mu.Unlock()
	l.Add("INFO", "test", "the last")
	s.wait(t, "the last")
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.most > batchBytes+(64<<10) {
		t.Errorf("a post of %d bytes", s.most)
	}
	next, lost := -1, 0
	for _, line := range s.lines {
		var n int
		if _, err := fmt.Sscanf(line.Message, "line %d", &n); err == nil {
			if next >= 0 && n != next {
				t.Fatalf("line %d comes after %d", n, next-1)
			}
			next = n + 1
		}
		if _, err := fmt.Sscanf(line.Message, "%d lines before", &n); err == nil {
			lost += n
		}
	}
	if next != all {
		t.Errorf("the newest is %d", next-1)
	}
	if have := len(s.lines); have+lost < all || lost == 0 {
		t.Errorf("%d lines are there and %d are said to be lost, of %d", have, lost, all)
	}
}

// If the hub refuses one line, the hub still gets all other lines.
func TestRefusedLineCostsItselfAlone(t *testing.T) {
	t.Parallel()
	l, s := new(Log), &store{poison: "poison"}
	for i := range 20 {
		l.Add("INFO", "test", fmt.Sprintf("line %d", i))
		if i == 10 {
			l.Add("INFO", "test", "poison")
		}
	}
	running(t, l, s)
	s.wait(t, "line 19")
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.lines) != 20 {
		t.Errorf("%d lines", len(s.lines))
	}
}

// Follow starts at the end of a log file. It continues after another program renames, replaces or
// truncates the file.
func TestFileIsFollowedThroughRotation(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "app.log")
	appendTo := func(text string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = f.WriteString(text)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	appendTo("old\n")
	l, s := new(Log), new(store)
	tl := tail{log: l, path: path}
	tl.open(true)
	running(t, l, s)
	appendTo("one\ntwo, begun")
	tl.read()
	appendTo(" and ended\n")
	tl.read()
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	tl.read()
	appendTo("three\n")
	tl.read()
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	appendTo("4\n")
	tl.read()
	appendTo(strings.Repeat("z", 1<<20) + "\nfive\n")
	for range 8 {
		tl.read()
	}
	tl.shut()
	s.wait(t, "five")
	s.mu.Lock()
	defer s.mu.Unlock()
	var got []string
	for _, line := range s.lines {
		got = append(got, line.Message[:min(len(line.Message), 20)])
		if len(line.Message) > maxMessage+10 {
			t.Errorf("a line of %d bytes", len(line.Message))
		}
	}
	if want := "one|two, begun and ended|three|4|zzzzzzzzzzzzzzzzzzzz|five"; strings.Join(got, "|") != want {
		t.Errorf("%q", got)
	}
}

// Read takes lines until the reader ends, and truncates a line that is too long.
func TestReaderIsReadToItsEnd(t *testing.T) {
	t.Parallel()
	l := new(Log)
	l.Read(strings.NewReader("one\r\n\n"+strings.Repeat("x", 3*maxMessage)+"\nlast"), "stdin")
	if len(l.lines) != 3 || l.lines[0].Message != "one" || len(l.lines[1].Message) > maxMessage+10 || l.lines[2].Message != "last" {
		t.Errorf("%d lines", len(l.lines))
	}
}

// Follow reads only regular files. A folder, a device or a pipe at the path neither blocks Follow
// nor is read.
func TestOnlyRegularFilesAreFollowed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tl := tail{log: new(Log), path: dir}
	tl.open(true)
	if tl.file != nil {
		t.Error("a folder is followed")
	}
	tl.path = "/dev/zero"
	if tl.open(true); tl.file != nil {
		t.Error("a device is followed")
	}
}

// Each datagram to the socket becomes one log line. If another kind of file is at the socket's
// path, Listen fails and does not remove the file.
func TestSocketTakesLines(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "log")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, s := new(Log), new(store)
	ctx := running(t, l, s)
	path := filepath.Join(dir, "socket")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.Listen(ctx, path); err == nil {
		t.Error("Listen replaced a file")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- l.Listen(ctx, path) }()
	var conn net.Conn
	for range 500 {
		if conn, err = net.Dial("unixgram", path); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, text := range []string{"<11>an error", "plain\x00\xff", "<999>odd\nsecond"} {
		if _, err := conn.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	s.wait(t, "second")
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.lines) != 4 || s.lines[0].Level != "ERROR" || s.lines[0].Message != "an error" || s.lines[1].Message != "plain\ufffd\ufffd" || s.lines[2].Message != "<999>odd" {
		t.Errorf("%+v", s.lines)
	}
}

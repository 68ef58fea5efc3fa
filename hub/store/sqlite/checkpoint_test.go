package sqlite

import (
	"fmt"
	"testing"
	"time"
)

// CheckpointOften makes the stores that are opened later begin a checkpoint after 64 pages.
func CheckpointOften() { checkpointEvery = 64 }

// often makes a store begin a checkpoint after 64 pages.
func often(t *testing.T, s *Store) {
	t.Helper()
	if err := s.writer.do(t.Context(), func(*conn) error { s.writer.checkpoints.every = 64; return nil }); err != nil {
		t.Fatal(err)
	}
}

// logPages returns the length of the store's write-ahead log after a commit of 10 more messages.
func logPages(t *testing.T, s *Store) (pages int) {
	t.Helper()
	if err := s.writer.do(t.Context(), func(c *conn) error { return c.Do(manyMessages, int64(10)) }); err != nil {
		t.Fatal(err)
	}
	if err := s.writer.do(t.Context(), func(c *conn) error { pages = c.logPages(); return nil }); err != nil {
		t.Fatal(err)
	}
	return pages
}

// untilTheLogBeginsAgain writes messages until SQLite has begun the log again at its start. It
// returns the number of its commits.
func untilTheLogBeginsAgain(t *testing.T, s *Store) (commits int) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for before := 0; ; {
		pages := logPages(t, s)
		commits++
		if pages < before {
			return commits
		}
		if before = pages; time.Now().After(deadline) {
			t.Fatalf("the log has %d pages", pages)
		}
	}
}

// The log begins again and again while one connection writes and another one copies its pages.
func TestLogBeginsAgain(t *testing.T) {
	t.Parallel()
	s := open(t)
	often(t, s)
	commits := 0
	for range 5 {
		commits += untilTheLogBeginsAgain(t, s)
	}
	checkMessages(t, s, fmt.Sprint(10*commits, " 0"))
}

// The checkpointer cannot copy pages that a reader must not see yet. The log then grows, and begins
// again after the reader has ended.
func TestReaderDelaysTheCheckpoint(t *testing.T) {
	t.Parallel()
	s := open(t)
	often(t, s)
	first := untilTheLogBeginsAgain(t, s) + 1
	logPages(t, s) // the reader must see a page that is only in the log
	more := 0
	if err := s.readers.snapshot(t.Context(), func(c *conn) error {
		want := fmt.Sprint(10*first, " 0")
		if got := messages(t, c); got != want {
			t.Errorf("%s messages, want %s", got, want)
		}
		for before := 0; before < 400; more++ {
			pages := logPages(t, s)
			if pages < before {
				t.Fatalf("the log began again, and has %d pages instead of %d", pages, before)
			}
			before = pages
		}
		if got := messages(t, c); got != want {
			t.Errorf("after a checkpoint: %s messages, want %s", got, want)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	more += untilTheLogBeginsAgain(t, s)
	checkMessages(t, s, fmt.Sprint(10*(first+more), " 0"))
}

// The writer continues while the second connection copies pages.
func TestWriterContinuesDuringACheckpoint(t *testing.T) {
	t.Parallel()
	s := open(t)
	often(t, s)
	// The checkpointer seems to be busy, so the writer neither starts it nor copies pages itself.
	s.writer.checkpoints.idle.Store(false)
	for before := 0; before < 400; {
		pages := logPages(t, s)
		if pages < before {
			t.Fatalf("the log began again, and has %d pages instead of %d", pages, before)
		}
		before = pages
	}
	s.writer.checkpoints.idle.Store(true)
	untilTheLogBeginsAgain(t, s)
}

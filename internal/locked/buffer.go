// Package locked has a buffer for tests that read a program's output or a log while goroutines
// write it.
package locked

import (
	"bytes"
	"sync"
)

// Buffer is a bytes.Buffer that goroutines may write and read at the same time. The zero value is
// empty and ready.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (l *Buffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String returns all that was written.
func (l *Buffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

package api

import (
	"errors"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// lot holds parked connections: idle connections that net/http gets back when the client sends
// something.
type lot struct {
	epoll int

	mu     sync.Mutex
	parked map[int32]*parkable // guarded by mu; by file descriptor; nil: the lot is closed
	// `oldest` and `newest` are the ends of the list of all parked connections, which is sorted by
	// the field `until`. All connections may stay parked for the same time, so a new connection
	// becomes the newest.
	oldest, newest *parkable // guarded by mu
}

func newLot() (*lot, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return &lot{epoll: fd, parked: map[int32]*parkable{}}, nil
}

// add parks a connection. The lot calls c.leave when the client has sent something or has closed
// the connection. At the time c.until, the lot closes the connection.
func (l *lot) add(c *parkable) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.parked == nil {
		return net.ErrClosed
	}
	var failed error
	if err := c.raw.Control(func(fd uintptr) {
		c.fd = int32(fd)
		// If the client has already sent something, the next EpollWait reports it.
		failed = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, int(fd), &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP, Fd: c.fd})
	}); err != nil {
		return err
	}
	if failed != nil {
		return failed
	}
	l.parked[c.fd] = c
	if c.prev = l.newest; c.prev != nil {
		c.prev.next = c
	} else {
		l.oldest = c
	}
	l.newest = c
	return nil
}

// remove removes a connection from the lot. The caller holds l.mu. A connection is never closed
// before it is removed, so `fd` is still its file descriptor.
func (l *lot) remove(c *parkable) {
	unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, int(c.fd), nil)
	delete(l.parked, c.fd)
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		l.oldest = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	} else {
		l.newest = c.prev
	}
	c.prev, c.next = nil, nil
}

// run waits for the clients of the parked connections, until the lot is closed.
func (l *lot) run() {
	defer unix.Close(l.epoll)
	events := make([]unix.EpollEvent, 256)
	for {
		// Wake up each second, to find the connections that are idle for too long.
		n, err := unix.EpollWait(l.epoll, events, 1000)
		if err != nil && !errors.Is(err, unix.EINTR) {
			l.close()
			return
		}
		for _, c := range l.called(events[:max(n, 0)]) {
			go c.leave()
		}
		idle, open := l.idle(time.Now())
		for _, c := range idle {
			go c.Conn.Close() // Close may wait until it can send TLS's end of data
		}
		if !open {
			return
		}
	}
}

// The method `called` removes and returns the connections on which an event was reported: their
// clients have sent something, or have closed the connection.
func (l *lot) called(events []unix.EpollEvent) (list []*parkable) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range events {
		if c := l.parked[e.Fd]; c != nil {
			l.remove(c)
			list = append(list, c)
		}
	}
	return list
}

// The method `idle` removes and returns the connections that have been idle for too long. It also
// reports whether the lot is still open.
func (l *lot) idle(now time.Time) (list []*parkable, open bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.oldest != nil && now.After(l.oldest.until) {
		list = append(list, l.oldest)
		l.remove(l.oldest)
	}
	return list, l.parked != nil
}

// close closes the parked connections. After that, the method `add` refuses connections.
func (l *lot) close() {
	l.mu.Lock()
	var list []*parkable
	for l.oldest != nil {
		list = append(list, l.oldest)
		l.remove(l.oldest)
	}
	l.parked = nil
	l.mu.Unlock()
	for _, c := range list {
		c.NetConn().Close() // without TLS's end of data: a client could make the hub wait until it can send this
	}
}

package api

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"gangway/hub/store"
	"gangway/hub/tracing/step"
)

// Live changes of pages: a browser keeps one request GET /ui/live open. For each event, the hub
// writes a line to the answer (server-sent events). A line has only the device's id and the kind of
// the event. The page then fetches its changed parts, with the usual access checks.
//
// The hub writes lines for every event of the audit trail that has an owner. With replicas, it also
// writes lines for the events of the other replicas: see replica.go.
const (
	// Maximum numbers of open connections: for one account, and for the whole hub.
	liveOfAccount, liveOfHub = 8, 2000
	// livePause is how long the hub collects changes before it writes the next line. Without this
	// pause, the events of a busy fleet would make a page load its parts all the time.
	livePause = time.Second
	// liveBeat is the longest time between two lines. After each liveBeat, the hub checks whether
	// the session exists.
	liveBeat = 15 * time.Second
	// liveChanges bounds the changes that wait for one listener. If there are more, the page loads
	// all its parts again.
	liveChanges = 200
)

var errLive = problem(http.StatusTooManyRequests, "too-many-live", "Close some of the hub's pages in the browser.", "Too many of your pages are open and wait for changes.")

var errLiveAccept = problem(http.StatusBadRequest, "live-accept", "Send the header Accept: text/event-stream, and read the answer line by line.", "The answer does not end, so the request must accept text/event-stream.")

// `live` has the listeners of each account.
type live struct {
	mu        sync.Mutex
	listeners map[string]map[*listener]bool // by Account.ID
	n         int
	ended     bool
	beat      time.Duration // 0: liveBeat
	others    *outbox       // for the other replicas; nil: there are no other replicas
}

func (l *live) beatEvery() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return cmp.Or(l.beat, liveBeat)
}

// listener is one open connection.
type listener struct {
	mu      sync.Mutex
	changes []liveChange
	many    bool
	wake    chan struct{}
	done    chan struct{} // closed when the hub stops
}

// liveChange is a line that the hub writes to a page: the device and the kind of an event.
type liveChange struct {
	Device string `json:"device,omitempty"`
	Kind   string `json:"kind"`
}

// The method `listen` adds a listener of an account. The caller removes the listener with the
// method `leave`.
func (l *live) listen(owner string) (*listener, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.listeners[owner]) >= liveOfAccount || l.n >= liveOfHub || l.ended {
		return nil, errLive
	}
	if l.listeners == nil {
		l.listeners = map[string]map[*listener]bool{}
	}
	if l.listeners[owner] == nil {
		l.listeners[owner] = map[*listener]bool{}
	}
	one := &listener{wake: make(chan struct{}, 1), done: make(chan struct{})}
	l.listeners[owner][one] = true
	l.n++
	return one, nil
}

func (l *live) leave(owner string, one *listener) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.listeners[owner][one] {
		return
	}
	delete(l.listeners[owner], one)
	if len(l.listeners[owner]) == 0 {
		delete(l.listeners, owner)
	}
	l.n--
}

// The method `end` closes all connections, so that the hub can stop.
func (l *live) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	for _, ones := range l.listeners {
		for one := range ones {
			select {
			case <-one.done:
			default:
				close(one.done)
			}
		}
	}
}

// The method `tell` passes an event to the listeners of its owner, here and at the other replicas.
// It never waits.
func (l *live) tell(e store.Event) {
	if e.Owner == "" {
		return
	}
	c := liveChange{Device: e.Device, Kind: e.Kind}
	if l.others != nil {
		l.others.add(e.Owner, c)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for one := range l.listeners[e.Owner] {
		one.add(c)
	}
}

// tellAll makes every open page load its parts again, here and at the other replicas.
func (l *live) tellAll() {
	if l.others != nil {
		l.others.addAll()
	}
	l.hear(news{All: true})
}

// The method `hear` passes the news of another replica to the listeners.
func (l *live) hear(n news) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n.All {
		for _, ones := range l.listeners {
			for one := range ones {
				one.addMany()
			}
		}
		return
	}
	for owner, changes := range n.Owners {
		for one := range l.listeners[owner] {
			if len(changes) == 0 {
				one.addMany()
			}
			for _, c := range changes {
				one.add(c)
			}
		}
	}
}

// addMany makes the page load its parts again.
func (one *listener) addMany() {
	one.mu.Lock()
	defer one.mu.Unlock()
	one.many = true
	one.rouse()
}

func (one *listener) rouse() {
	select {
	case one.wake <- struct{}{}:
	default:
	}
}

func (one *listener) add(c liveChange) {
	one.mu.Lock()
	defer one.mu.Unlock()
	for _, had := range one.changes {
		if had == c {
			return
		}
	}
	if len(one.changes) >= liveChanges {
		one.many = true
		return
	}
	one.changes = append(one.changes, c)
	one.rouse()
}

// The method `take` returns the changes since the last call. The result `many` is true if there
// were more changes than liveChanges.
func (one *listener) take() (changes []liveChange, many bool) {
	one.mu.Lock()
	defer one.mu.Unlock()
	changes, many = one.changes, one.many
	one.changes, one.many = nil, false
	return changes, many
}

// showLive writes changes until the browser leaves, the session ends, or the hub stops.
func (s *Server) showLive(w http.ResponseWriter, r *http.Request) error {
	if !strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
		return errLiveAccept
	}
	owner := accountOf(r).ID
	one, err := s.live.listen(owner)
	if err != nil {
		return err
	}
	defer s.live.leave(owner, one)
	connection := http.NewResponseController(w)
	// Disable the usual read deadline, which would end the connection after a minute.
	if err := connection.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // without this header, nginx buffers the lines
	line := func(text string) error {
		if err := connection.SetWriteDeadline(time.Now().Add(2 * liveBeat)); err != nil {
			return err
		}
		if _, err := w.Write([]byte(text)); err != nil {
			return err
		}
		return connection.Flush()
	}
	if line("retry: 3000\n: hello\n\n") != nil {
		return nil // the browser has left
	}
	s.follow(r, one, line)
	return nil
}

// follow writes each change immediately, and an empty comment line after each liveBeat.
func (s *Server) follow(r *http.Request, one *listener, line func(text string) error) {
	beat := time.NewTicker(s.live.beatEvery())
	defer beat.Stop()
	for {
		text := ": beat\n\n"
		select {
		case <-r.Context().Done():
			return
		case <-one.done:
			return
		case <-beat.C:
			if !s.stillSignedIn(r) {
				// The page goes to the sign-in form.
				_ = line("event: signed-out\ndata: {}\n\n")
				return
			}
		case <-one.wake:
			text = liveLines(one.take())
		}
		if line(text) != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-one.done:
			return
		case <-time.After(livePause):
		}
	}
}

// stillSignedIn reports whether the request's session exists now. If the store returns an error,
// stillSignedIn returns true, and the next call decides.
func (s *Server) stillSignedIn(r *http.Request) bool {
	c, err := s.identifyAccount(r.WithContext(step.Without(store.WithActor(r.Context(), &store.Actor{}))), fullSession)
	if err != nil {
		var p *Problem
		return !errors.As(err, &p)
	}
	return c.Owner == accountOf(r).ID
}

func liveLines(changes []liveChange, many bool) string {
	if many {
		return "event: many\ndata: {}\n\n"
	}
	text := ""
	for _, c := range changes {
		data, err := json.Marshal(c)
		if err != nil {
			continue // strings can always be encoded
		}
		text += fmt.Sprintf("event: change\ndata: %s\n\n", data)
	}
	return text
}

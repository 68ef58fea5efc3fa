package api

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"gangway/hub/store"
	"gangway/internal/strictjson"
	"gangway/wire"

	"github.com/prometheus/client_golang/prometheus"
)

// Limits of one POST of log lines, and of one answer with log lines.
const (
	maxLogBody    = 1 << 20 // bytes; devices send at most 256 KiB
	maxLogEntries = 1000    // Pantacor's devices send at most 200
	maxLogText    = 16 << 10
	maxLogField   = 256
	logPage       = 50
	maxLogPage    = 5000
	logPageBytes  = 1 << 20
	maxLogDevices = 20
	maxLogValues  = 50
)

// LogView is a line of a device's log.
type LogView struct {
	ID       string    `json:"id"` // 24 hexadecimal digits
	Device   string    `json:"dev"`
	Owner    string    `json:"own"`
	Created  time.Time `json:"time-created"`
	Sec      int64     `json:"tsec"`
	Nano     int64     `json:"tnano"`
	Rev      string    `json:"rev"`
	Platform string    `json:"plat"`
	Source   string    `json:"src"`
	Level    string    `json:"lvl"`
	Message  string    `json:"msg"`
}

// LogPage is a page of log lines.
type LogPage struct {
	Start   int       `json:"start"`
	Page    int       `json:"page"`
	Count   int       `json:"count"` // number of entries in this answer
	Next    string    `json:"next-cursor,omitempty"`
	Entries []LogView `json:"entries"`
}

// scalar is a string, or the JSON text of any other value that a device sends instead of a string.
type scalar string

func (s *scalar) UnmarshalJSON(b []byte) error {
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		text = string(b)
		if text == "null" {
			text = ""
		}
	}
	*s = scalar(text)
	return nil
}

// number is a whole number, or a string that contains a whole number. Any other value becomes 0, so
// that the hub stores a line even if the line's time is malformed.
type number int64

func (n *number) UnmarshalJSON(b []byte) error {
	v, err := strconv.ParseInt(strings.Trim(string(b), `"`), 10, 64)
	if err == nil {
		*n = number(v)
	}
	return nil
}

type logLine struct {
	Sec      number `json:"tsec"`
	Nano     number `json:"tnano"`
	Level    scalar `json:"lvl"`
	Source   scalar `json:"src"`
	Platform scalar `json:"plat"`
	Rev      scalar `json:"rev"`
	Message  scalar `json:"msg"`
}

// cutText shortens a text to at most `most` bytes. It cuts at the start of a rune, and appends "…".
func cutText(s scalar, most int) string {
	text := printable(string(s))
	if len(text) <= most {
		return text
	}
	end := most
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}

// appendLogs stores a device's log lines: an array, or a single line. It shortens lines that are
// too long. It does not refuse the request because of them, because the device would then discard
// all lines of the request.
func (s *Server) appendLogs(w http.ResponseWriter, r *http.Request) error {
	d := deviceOf(r)
	s.markSeen(r, d.ID)
	if err := requireOwner(d); err != nil {
		return err
	}
	body, err := readBody(r)
	if err != nil {
		return err
	}
	// Replace invalid UTF-8, so that the hub does not refuse all lines because of one invalid line.
	body = bytes.ToValidUTF8(body, []byte("\uFFFD"))
	var lines []logLine
	if bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")) {
		lines = make([]logLine, 1)
		err = strictjson.Decode(body, &lines[0])
	} else {
		err = strictjson.Decode(body, &lines)
	}
	if err != nil {
		return badBody(err)
	}
	if lines == nil {
		return badBody(errors.New("it is null"))
	}
	if len(lines) > maxLogEntries {
		return problem(http.StatusRequestEntityTooLarge, "too-many-lines", "Send fewer lines in a request.", "The request has more than %d lines.", maxLogEntries)
	}
	entries := make([]store.LogEntry, len(lines))
	for i, l := range lines {
		entries[i] = store.LogEntry{Sec: int64(l.Sec), Nano: int64(l.Nano), Level: cutText(l.Level, maxLogField), Source: cutText(l.Source, maxLogField),
			Platform: cutText(l.Platform, maxLogField), Rev: cutText(l.Rev, maxLogField), Message: cutText(l.Message, maxLogText)}
	}
	if err := s.cfg.Store.AppendLogs(r.Context(), d.ID, d.Owner, entries, s.cfg.LogBounds, s.cfg.Now()); err != nil {
		return err
	}
	s.forwardLogs(d, entries)
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	return nil
}

// LogForwarder forwards log lines to a log engine of the operator. The hub exports the forwarder's
// metrics together with the hub's own metrics.
type LogForwarder interface {
	prometheus.Collector
	// The hub calls Forward with lines whose fields Device, Owner and Created are set. Forward must
	// not wait.
	Forward(list []store.LogEntry)
}

func (s *Server) forwardLogs(d store.Device, entries []store.LogEntry) {
	if s.cfg.LogForwarder == nil || len(entries) == 0 {
		return
	}
	now := s.cfg.Now()
	for i := range entries {
		entries[i].Device, entries[i].Owner, entries[i].Created = d.ID, d.Owner, now
	}
	s.cfg.LogForwarder.Forward(entries)
}

// logCursor is the decoded "next-cursor". It is not signed and not encrypted, because every request
// reads only the lines of the signed-in account. A client gets no more lines with a forged cursor
// than with a query.
type logCursor struct {
	Devices   []string  `json:"d,omitempty"`
	Levels    []string  `json:"l,omitempty"`
	Sources   []string  `json:"s,omitempty"`
	Platforms []string  `json:"p,omitempty"`
	Revs      []string  `json:"r,omitempty"`
	After     time.Time `json:"a,omitzero"`
	Before    time.Time `json:"b,omitzero"`
	Newest    bool      `json:"n,omitempty"`
	Whole     bool      `json:"w,omitempty"` // list only lines of seconds that have ended
	Page      int       `json:"g"`
	Created   time.Time `json:"c,omitzero"` // Created and Seq identify the entry after which the list continues
	Seq       int64     `json:"q,omitempty"`
}

// settleTime is the longest time that a line takes from its creation until it is in the database.
// So the database has all lines of a second once settleTime has passed since the end of that
// second.
const settleTime = time.Second

func (c *logCursor) filter(owner string, now time.Time) store.LogFilter {
	f := store.LogFilter{Owner: owner, Devices: c.Devices, Levels: c.Levels, Sources: c.Sources, Platforms: c.Platforms, Revs: c.Revs,
		After: c.After, Before: c.Before, NewestFirst: c.Newest, Limit: c.Page, Bytes: logPageBytes}
	if !c.Created.IsZero() {
		f.Previous = &store.LogEntry{Created: c.Created, Seq: c.Seq}
	}
	if end := now.Add(-settleTime).Truncate(time.Second); c.Whole && (f.Before.IsZero() || end.Before(f.Before)) {
		f.Before = end
	}
	return f
}

func (c *logCursor) valid() bool {
	if c.Page < 1 || c.Page > maxLogPage || len(c.Devices) > maxLogDevices || !storable(c.After) || !storable(c.Before) || !storable(c.Created) {
		return false
	}
	return len(c.Levels) <= maxLogValues && len(c.Sources) <= 2*maxLogValues && len(c.Platforms) <= maxLogValues && len(c.Revs) <= maxLogValues
}

// storable reports whether the UTC form of a time can be written as JSON: its year must be 0 to
// 9999.
func storable(t time.Time) bool { year := t.UTC().Year(); return year >= 0 && year < 10000 }

// useWholeSeconds prepares the cursor for clients such as pvr, which poll with the time of their
// last line, truncated to seconds. So that such a client gets each line exactly once, the hub skips
// the whole second that the client names, and sends the lines of the present second only after that
// second has ended.
func (c *logCursor) useWholeSeconds() {
	if c.After.Nanosecond() != 0 {
		return
	}
	c.Whole = true
	if !c.After.IsZero() {
		c.After = c.After.Add(time.Second - time.Microsecond)
	}
}

// listLogs lists the log lines of the account's devices.
func (s *Server) listLogs(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	bad := func(name string) error {
		return problem(http.StatusBadRequest, "query", "See /openapi.json for the parameters.", "The parameter %q is not valid.", name)
	}
	c := logCursor{Page: logPage}
	count := func(name string, into *int, least, most int) error {
		v := q.Get(name)
		if v == "" {
			return nil
		}
		n, err := strconv.Atoi(v)
		if err != nil || n < least || n > most {
			return bad(name)
		}
		*into = n
		return nil
	}
	start := 0
	if err := errors.Join(count("page", &c.Page, 1, maxLogPage), count("start", &start, 0, 1_000_000)); err != nil {
		return err
	}
	for name, into := range map[string]*time.Time{"after": &c.After, "before": &c.Before} {
		if v := q.Get(name); v != "" {
			t, err := time.Parse(time.RFC3339Nano, v)
			if err != nil || t.IsZero() || !storable(t) {
				return bad(name)
			}
			*into = t.UTC() // Go parses UTC offsets that it cannot write as JSON
		}
	}
	for name, into := range map[string]*[]string{"lvl": &c.Levels, "src": &c.Sources, "plat": &c.Platforms, "rev": &c.Revs} {
		if v := q.Get(name); v != "" {
			*into = strings.Split(v, ",")
		}
	}
	// A source is often a path. pvr's form DEVICE/SOURCE loses the first slash of such a path, so
	// search for both forms.
	for _, source := range c.Sources {
		if !strings.HasPrefix(source, "/") {
			c.Sources = append(c.Sources, "/"+source)
		}
	}
	switch q.Get("sort") {
	case "", "time-created":
	case "-time-created":
		c.Newest = true
	default:
		return bad("sort")
	}
	none := false
	if v := q.Get("dev"); v != "" {
		names := strings.Split(v, ",")
		if len(names) > maxLogDevices {
			return bad("dev")
		}
		var err error
		if c.Devices, err = s.deviceIDs(r, names); err != nil {
			return err
		}
		none = len(c.Devices) == 0
	}
	if !c.valid() || (start > 0 && len(c.Devices) > 1) {
		return bad("query")
	}
	if q.Get("cursor") == "true" && !c.Newest {
		c.useWholeSeconds()
	}
	f := c.filter(accountOf(r).ID, s.cfg.Now())
	f.Skip = start
	var list []store.LogEntry
	if !none {
		var err error
		if list, err = s.cfg.Store.Logs(r.Context(), f); err != nil {
			return err
		}
	}
	page := viewLogs(&c, list)
	page.Start = start
	if q.Get("cursor") != "true" || none {
		page.Next = ""
	}
	writeJSON(w, http.StatusOK, page)
	return nil
}

// deviceIDs finds the ids of the account's devices by Pantacor resource name (prn), id or nick. It
// leaves out unknown names, and names of other accounts' devices.
func (s *Server) deviceIDs(r *http.Request, names []string) (ids []string, err error) {
	var nicks map[string]string
	for _, name := range names {
		id := strings.TrimPrefix(name, wire.DevicePRN)
		d, err := s.cfg.Store.Device(r.Context(), id)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		if err == nil && d.Owner == accountOf(r).ID {
			ids = append(ids, d.ID)
			continue
		}
		if nicks == nil {
			if nicks, err = s.nicks(r); err != nil {
				return nil, err
			}
		}
		if id, ok := nicks[name]; ok {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (s *Server) nicks(r *http.Request) (map[string]string, error) {
	found := map[string]string{}
	for after := ""; ; {
		list, err := s.cfg.Store.Devices(r.Context(), accountOf(r).ID, after, 1000)
		if err != nil {
			return nil, err
		}
		for _, d := range list {
			found[d.Nick], after = d.ID, d.Nick
		}
		if len(list) < 1000 {
			return found, nil
		}
	}
}

// continueLogs continues a list at a cursor. For an invalid cursor, the answer is an empty page and
// not an error, because Pantacor's clients ask for a password after any status except 200.
func (s *Server) continueLogs(w http.ResponseWriter, r *http.Request) error {
	var body struct {
		Next string `json:"next-cursor"`
	}
	if err := readJSON(r, &body); err != nil {
		return err
	}
	var c logCursor
	text, err := base64.RawURLEncoding.DecodeString(body.Next)
	if err != nil || json.Unmarshal(text, &c) != nil || !c.valid() {
		writeJSON(w, http.StatusOK, LogPage{Entries: []LogView{}})
		return nil
	}
	list, err := s.cfg.Store.Logs(r.Context(), c.filter(accountOf(r).ID, s.cfg.Now()))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, viewLogs(&c, list))
	return nil
}

// viewLogs makes an answer from log lines, and moves the cursor to the position after the last
// line.
func viewLogs(c *logCursor, list []store.LogEntry) LogPage {
	page := LogPage{Page: c.Page, Count: len(list), Entries: make([]LogView, len(list))}
	for i, e := range list {
		page.Entries[i] = LogView{fmt.Sprintf("%024x", e.Seq), wire.DevicePRN + e.Device, wire.AccountPRN + e.Owner, e.Created.UTC(), e.Sec, e.Nano,
			e.Rev, e.Platform, e.Source, e.Level, e.Message}
		c.Created, c.Seq = e.Created, e.Seq
	}
	b, err := json.Marshal(c)
	if err != nil {
		panic(err) // not possible: the cursor has only strings, numbers, and times that are storable
	}
	page.Next = base64.RawURLEncoding.EncodeToString(b)
	return page
}

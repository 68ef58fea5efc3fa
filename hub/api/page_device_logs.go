package api

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"gangway/hub/store"
	"gangway/hub/ui"
)

// Bounds of the tab "Logs", which keep the page below 100 kB. downloadLines is the number of lines
// that a download reads from the store in one call.
const (
	logLines      = 100
	logLinesBytes = 32 << 10
	maxLogSearch  = 256
	downloadLines = 1000
)

// logSearch is a search in a device's log.
type logSearch struct {
	source, level, text string
	before              string // the place of the last line of the previous page: see logPlace
	live                bool
}

func readLogSearch(q url.Values) logSearch {
	field := func(name string) string { return clipRunes(strings.TrimSpace(q.Get(name)), maxLogSearch) }
	return logSearch{source: field("source"), level: field("level"), text: field("text"), before: q.Get("before"), live: q.Get("live") != ""}
}

// filter returns the store's filter for the log of a device.
func (l logSearch) filter(d store.Device) store.LogFilter {
	f := store.LogFilter{Owner: d.Owner, Devices: []string{d.ID}, Text: l.text}
	if l.source != "" {
		f.Sources = []string{l.source}
	}
	if l.level != "" {
		f.Levels = []string{l.level, strings.ToUpper(l.level), strings.ToLower(l.level)}
	}
	return f
}

// path returns the address of a search.
func (l logSearch) path(d store.Device, pairs ...string) string {
	return tabPath(d.ID, tabLogs, append([]string{"source", l.source, "level", l.level, "text", l.text}, pairs...)...)
}

// fillLogs fills the tab "Logs" with the newest lines, or with the lines that are older than the
// line in the query.
func (s *Server) fillLogs(r *http.Request, v *deviceView) error {
	d, search := v.Device, readLogSearch(r.URL.Query())
	f := search.filter(d)
	f.NewestFirst, f.Limit, f.Bytes = true, logLines+1, logLinesBytes
	if search.before != "" {
		previous, ok := readLogPlace(search.before)
		if !ok {
			return problem(http.StatusBadRequest, "before", "Go back to the newest lines.", "The page's address has no valid position in the log.")
		}
		f.Previous = previous
	}
	lines, err := s.cfg.Store.Logs(r.Context(), f)
	if err != nil {
		return err
	}
	l := &ui.DeviceLogs{Source: search.source, Level: search.level, Text: search.text, Live: search.live && search.before == "", Older: search.before != ""}
	size := 0
	for _, e := range lines {
		size += len(e.Message)
	}
	if len(lines) > logLines || size > logLinesBytes/2 && len(lines) > 0 {
		lines = lines[:min(len(lines), logLines)]
		l.Next = search.path(d, "before", logPlace(lines[len(lines)-1]))
	}
	l.Lines = lines
	for _, e := range lines {
		l.Sources, l.Levels = suggest(l.Sources, e.Source), suggest(l.Levels, e.Level)
	}
	slices.Sort(l.Sources)
	slices.Sort(l.Levels)
	l.LivePath, l.StillPath, l.PollPath = search.path(d, "live", "1"), search.path(d), search.path(d, "live", "1", "part", "lines")
	l.Download = strings.Replace(search.path(d), devicePath(d.ID), devicePath(d.ID)+"/log.txt", 1)
	v.Logs = l
	return nil
}

// suggest adds a value to the suggestions for a field. It does not add a value with invisible
// characters.
func suggest(list []string, value string) []string {
	if value == "" || len(list) == 50 || slices.Contains(list, value) || ui.Visible(value) != value {
		return list
	}
	return append(list, value)
}

// logPlace returns the position of a line in a log, as text for the query of an address. With this
// text, the next page begins after the line.
func logPlace(e store.LogEntry) string {
	return strconv.FormatInt(e.Created.UnixMicro(), 10) + "." + strconv.FormatInt(e.Seq, 10)
}

func readLogPlace(text string) (*store.LogEntry, bool) {
	at, seq, _ := strings.Cut(text, ".")
	micros, err := strconv.ParseInt(at, 10, 64)
	n, err2 := strconv.ParseInt(seq, 10, 64)
	if err != nil || err2 != nil || n < 0 {
		return nil, false
	}
	e := &store.LogEntry{Created: time.UnixMicro(micros), Seq: n}
	return e, storable(e.Created)
}

// downloadLog sends the log lines of a search as text, the oldest first. It reads downloadLines
// lines at a time, so that the memory does not contain the whole log.
func (s *Server) downloadLog(w http.ResponseWriter, r *http.Request) error {
	d, err := s.ownDevice(r)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Content-Disposition", `attachment; filename="`+d.ID+`.log"`)
	h.Set("Cache-Control", "no-store")
	out := bufio.NewWriter(w)
	f := readLogSearch(r.URL.Query()).filter(d)
	f.Limit = downloadLines
	for {
		if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.cfg.Timeouts.Request)); err != nil && r.Context().Err() != nil {
			return nil
		}
		last, n, err := s.writeLogPage(r.Context(), out, f)
		if err != nil {
			if f.Previous == nil {
				h.Del("Content-Disposition")
				return err
			}
			panic(http.ErrAbortHandler) // break the connection, so that the client does not mistake a part of the log for all of it
		}
		if n < downloadLines {
			return out.Flush()
		}
		f.Previous = last
	}
}

// writeLogPage writes the lines that match f. It returns the last line and the number of lines.
func (s *Server) writeLogPage(ctx context.Context, out *bufio.Writer, f store.LogFilter) (*store.LogEntry, int, error) {
	lines, err := s.cfg.Store.Logs(ctx, f)
	if err != nil || len(lines) == 0 {
		return nil, 0, err
	}
	for _, e := range lines {
		text := strings.ReplaceAll(ui.VisibleLines(strings.TrimRight(e.Message, "\r\n")), "\n", "\n    ")
		fmt.Fprintf(out, "%s %-5s %s %s\n", e.Created.UTC().Format("2006-01-02T15:04:05.000Z"), ui.Visible(e.Level), ui.Visible(e.Source), text)
	}
	return &lines[len(lines)-1], len(lines), out.Flush()
}

package api

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"gangway/hub/store"
)

// An export reads the rows of a list from the store page by page and streams them, so that the
// memory that it needs does not grow with the fleet. An account can have exportsAtOnce exports at a
// time.
const (
	exportRows    = 1000
	exportsAtOnce = 2
	// exportPause is how long a client may take to receive the rows of one page.
	exportPause = 60 * time.Second
)

var errExports = problem(http.StatusTooManyRequests, "too-many-exports", "Wait until another export has ended.", "Two exports of your account are already running.")

// semaphoreByKey lets at most exportsAtOnce callers with the same key, such as an account, run at
// the same time.
type semaphoreByKey struct {
	mu   sync.Mutex
	held map[string]int
}

func (s *semaphoreByKey) acquire(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[key] >= exportsAtOnce {
		return false
	}
	if s.held == nil {
		s.held = map[string]int{}
	}
	s.held[key]++
	return true
}

func (s *semaphoreByKey) release(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[key]--; s.held[key] == 0 {
		delete(s.held, key)
	}
}

// exportCSV writes the shown columns as CSV.
func (s *Server) exportCSV(w http.ResponseWriter, r *http.Request) error {
	q, head := readListQuery(r.URL.Query()), []string{"nick", "id"}
	for _, c := range exportColumns {
		if q.shows(c.key, c.usual) {
			head = append(head, c.names...)
		}
	}
	return s.export(w, r, q, csvExporter("devices.csv", head, func(d *store.DeviceRow) []string {
		cells := []string{d.Nick, d.ID}
		for _, c := range exportColumns {
			if q.shows(c.key, c.usual) {
				cells = append(cells, c.values(d)...)
			}
		}
		return cells
	}))
}

// exportColumns has the columns of the CSV file for each column of the list.
var exportColumns = []struct {
	key    string
	usual  bool
	names  []string
	values func(d *store.DeviceRow) []string
}{
	{"state", true, []string{"states"}, func(d *store.DeviceRow) []string { return []string{strings.Join(d.States(), " ")} }},
	{"model", true, []string{"model", "serial"}, func(d *store.DeviceRow) []string { return []string{d.ProdModel, d.ProdSerial} }},
	{"tpm", true, []string{"tpm-maker", "tpm-model", "tpm-firmware"}, func(d *store.DeviceRow) []string { return []string{d.TPMMaker, d.TPMModel, d.TPMFirmware} }},
	{"revision", true, []string{"revision", "revision-status", "progress"}, func(d *store.DeviceRow) []string {
		return []string{strconv.Itoa(d.Rev), string(d.Status), strconv.Itoa(d.Progress)}
	}},
	{"boot", false, []string{"boot"}, func(d *store.DeviceRow) []string { return []string{d.Boot} }},
	{"token", false, []string{"token-id"}, func(d *store.DeviceRow) []string { return []string{d.TokenID} }},
	{"key", false, []string{"key"}, func(d *store.DeviceRow) []string { return []string{d.KeyAlgorithm} }},
	{"address", false, []string{"address"}, func(d *store.DeviceRow) []string { return []string{d.LastSeenAddr} }},
	{"created", false, []string{"onboarded"}, func(d *store.DeviceRow) []string { return []string{d.Created.UTC().Format(time.RFC3339)} }},
	{"seen", true, []string{"last-seen"}, func(d *store.DeviceRow) []string { return []string{d.LastSeen.UTC().Format(time.RFC3339)} }},
}

// plainCell puts a ' before a text that a spreadsheet could read as a formula, such as a text that
// begins with =, + or @. A negative number stays as it is.
func plainCell(text string) string {
	if text == "" || !strings.ContainsRune("=+-@\t\r\n|%", rune(text[0])) {
		return text
	}
	if _, err := strconv.Atoi(text); err == nil && text[0] == '-' {
		return text
	}
	return "'" + text
}

// exportJSON writes an array with all fields of each device.
func (s *Server) exportJSON(w http.ResponseWriter, r *http.Request) error {
	return s.export(w, r, readListQuery(r.URL.Query()), jsonExporter("devices.json", func(d *store.DeviceRow) any { return viewRow(d) }))
}

// exporter writes rows in a format.
type exporter[T any] struct {
	contentType, file string
	begin             func(w io.Writer) error
	row               func(d *T, first bool) error
	flush, end        func() error
}

// jsonExporter writes a JSON array. `view` returns the array's element for a row.
func jsonExporter[T any](file string, view func(d *T) any) exporter[T] {
	var out io.Writer
	return exporter[T]{
		contentType: "application/json", file: file,
		begin: func(w io.Writer) error {
			out = w
			_, err := io.WriteString(w, "[")
			return err
		},
		row: func(d *T, first bool) error {
			text, err := json.Marshal(view(d))
			if err != nil {
				return err
			}
			if !first {
				text = append([]byte(",\n"), text...)
			}
			_, err = out.Write(text)
			return err
		},
		flush: func() error { return nil },
		end:   func() error { _, err := io.WriteString(out, "]\n"); return err },
	}
}

// csvExporter writes a CSV line for each row. `cells` returns the cells of the line.
func csvExporter[T any](file string, head []string, cells func(d *T) []string) exporter[T] {
	var out *csv.Writer
	return exporter[T]{
		contentType: "text/csv; charset=utf-8", file: file,
		begin: func(w io.Writer) error {
			out = csv.NewWriter(w)
			return out.Write(head)
		},
		row: func(d *T, _ bool) error {
			line := cells(d)
			for i := range line {
				line[i] = plainCell(line[i])
			}
			return out.Write(line)
		},
		flush: func() error { out.Flush(); return out.Error() },
		end:   func() error { return nil },
	}
}

// export streams the devices that match a search.
func (s *Server) export(w http.ResponseWriter, r *http.Request, q listQuery, e exporter[store.DeviceRow]) error {
	find, err := s.deviceSearch(r.Context(), accountOf(r).ID, q.text, q.sort)
	if err != nil {
		return err
	}
	find.Limit = exportRows
	return exportAll(s, w, r, e, func() ([]store.DeviceRow, bool, error) {
		page, err := s.cfg.Store.SearchDevices(r.Context(), find)
		find.After = page.Next
		return page.Rows, page.Next != "", err
	})
}

// exportAll streams the rows that `next` returns, until `more` is false. A failure after the first
// bytes breaks the connection, so that the client does not mistake a part of the rows for all rows.
func exportAll[T any](s *Server, w http.ResponseWriter, r *http.Request, e exporter[T], next func() (rows []T, more bool, err error)) error {
	owner := accountOf(r).ID
	if !s.exports.acquire(owner) {
		return errExports
	}
	defer s.exports.release(owner)
	rows, more, err := next()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", e.contentType)
	w.Header().Set("Content-Disposition", `attachment; filename="`+e.file+`"`)
	w.Header().Set("Cache-Control", "no-store")
	if err := stream(w, rows, more, e, next); err != nil {
		s.log.Info("export stopped", "account", owner, "err", err)
		panic(http.ErrAbortHandler)
	}
	return nil
}

func stream[T any](w http.ResponseWriter, rows []T, more bool, e exporter[T], next func() ([]T, bool, error)) error {
	out, connection := bufio.NewWriterSize(w, 64<<10), http.NewResponseController(w)
	if err := e.begin(out); err != nil {
		return err
	}
	for first := true; ; {
		if err := connection.SetWriteDeadline(time.Now().Add(exportPause)); err != nil {
			return err
		}
		for i := range rows {
			if err := e.row(&rows[i], first); err != nil {
				return err
			}
			first = false
		}
		if err := e.flush(); err != nil {
			return err
		}
		if !more {
			break
		}
		var err error
		if rows, more, err = next(); err != nil {
			return err
		}
	}
	if err := e.end(); err != nil {
		return err
	}
	return out.Flush()
}

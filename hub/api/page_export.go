package api

import (
	"bufio"
	"context"
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

// An export streams the devices that fit a search, a page of the store at a time, so that its memory
// does not grow with the fleet. An account can have exportsAtOnce exports at a time.
const (
	exportRows    = 1000
	exportsAtOnce = 2
	// exportPause is how long a client may take for the rows of one page.
	exportPause = 60 * time.Second
)

var errExports = problem(http.StatusTooManyRequests, "too-many-exports", "Wait until another export has ended.", "Your account exports devices twice already.")

// semaphoreByKey admits exportsAtOnce users for each key.
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
	q := readListQuery(r.URL.Query())
	var out *csv.Writer
	return s.export(w, r, q, exporter{
		contentType: "text/csv; charset=utf-8", file: "devices.csv",
		begin: func(w io.Writer) error {
			out = csv.NewWriter(w)
			head := []string{"nick", "id"}
			for _, c := range exportColumns {
				if q.shows(c.key, c.usual) {
					head = append(head, c.names...)
				}
			}
			return out.Write(head)
		},
		row: func(d *store.DeviceRow, _ bool) error {
			cells := []string{d.Nick, d.ID}
			for _, c := range exportColumns {
				if q.shows(c.key, c.usual) {
					cells = append(cells, c.values(d)...)
				}
			}
			for i := range cells {
				cells[i] = plainCell(cells[i])
			}
			return out.Write(cells)
		},
		flush: func() error { out.Flush(); return out.Error() },
		end:   func() error { return nil },
	})
}

// exportColumns are what each column of the list is in a CSV file.
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

// plainCell keeps spreadsheets from reading a device's text as a formula: they do that with a cell
// that begins with one of these characters. A minus before a digit only is a number.
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
	var out io.Writer
	return s.export(w, r, readListQuery(r.URL.Query()), exporter{
		contentType: "application/json", file: "devices.json",
		begin: func(w io.Writer) error {
			out = w
			_, err := io.WriteString(w, "[")
			return err
		},
		row: func(d *store.DeviceRow, first bool) error {
			text, err := json.Marshal(viewRow(d))
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
	})
}

// exporter writes devices in a format.
type exporter struct {
	contentType, file string
	begin             func(w io.Writer) error
	row               func(d *store.DeviceRow, first bool) error
	flush, end        func() error
}

// export streams the devices that fit a search. A failure after the first bytes breaks the
// connection, so that the client does not take a part for the whole.
func (s *Server) export(w http.ResponseWriter, r *http.Request, q listQuery, e exporter) error {
	owner := accountOf(r).ID
	if !s.exports.acquire(owner) {
		return errExports
	}
	defer s.exports.release(owner)
	find, err := s.deviceSearch(r.Context(), owner, q.text, q.sort)
	if err != nil {
		return err
	}
	find.Limit = exportRows
	page, err := s.cfg.Store.SearchDevices(r.Context(), find)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", e.contentType)
	w.Header().Set("Content-Disposition", `attachment; filename="`+e.file+`"`)
	w.Header().Set("Cache-Control", "no-store")
	if err := s.stream(r.Context(), w, find, page, e); err != nil {
		s.log.Info("export stopped", "account", owner, "err", err)
		panic(http.ErrAbortHandler)
	}
	return nil
}

func (s *Server) stream(ctx context.Context, w http.ResponseWriter, find store.DeviceSearch, page store.DevicePage, e exporter) error {
	out, connection := bufio.NewWriterSize(w, 64<<10), http.NewResponseController(w)
	if err := e.begin(out); err != nil {
		return err
	}
	for first := true; ; {
		if err := connection.SetWriteDeadline(time.Now().Add(exportPause)); err != nil {
			return err
		}
		for i := range page.Rows {
			if err := e.row(&page.Rows[i], first); err != nil {
				return err
			}
			first = false
		}
		if err := e.flush(); err != nil {
			return err
		}
		if page.Next == "" {
			break
		}
		find.After = page.Next
		var err error
		if page, err = s.cfg.Store.SearchDevices(ctx, find); err != nil {
			return err
		}
	}
	if err := e.end(); err != nil {
		return err
	}
	return out.Flush()
}

package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"gangway/hub/search"
	"gangway/hub/store"
	"gangway/hub/ui"
	"gangway/wire"
)

// A page of the list has listRows devices, or wideRows if it shows more than wideColumns columns,
// so that the first load of the page stays below 100 kB, and takes less than 100 ms on loopback.
const (
	listRows    = 40
	wideColumns = 8
	wideRows    = 18
)

func (q listQuery) rows() int {
	if len(q.columns) > wideColumns {
		return wideRows
	}
	return listRows
}

// listColumns are the columns of the list. A click on a column's name sorts the list by `sort`. If
// `sort` is empty, the list cannot be sorted by that column.
var listColumns = []struct {
	key, name string
	sort      store.SortKey
	usual     bool // shown if the address names no columns
}{
	{"state", "State", "", true},
	{"model", "Machine", store.SortModel, true},
	{"tpm", "TPM", "", true},
	{"revision", "Revision", "", true},
	{"boot", "Boot", "", false},
	{"token", "Join token", "", false},
	{"key", "Key", "", false},
	{"address", "Address", "", false},
	{"created", "Onboarded", store.SortCreated, false},
	{"seen", "Last seen", store.SortLastSeen, true},
	{"id", "Id", "", false},
}

// listQuery is the parsed query of a list's address.
type listQuery struct {
	text    string
	sort    string   // a store.SortKey, with "-" before it if descending
	columns []string // keys of the shown columns; empty: the columns with `usual` set
}

// readListQuery reads the query of a list's address. It ignores unknown names and values, so that a
// saved view or a redirect never contains them.
func readListQuery(v url.Values) (q listQuery) {
	q.text = v.Get("q")
	if len(q.text) > search.MaxLength {
		q.text = q.text[:search.MaxLength+1] // one byte too long, so that search.Parse reports the error
	}
	if key := strings.TrimPrefix(v.Get("sort"), "-"); slices.Contains([]store.SortKey{store.SortNick, store.SortCreated, store.SortLastSeen, store.SortModel}, store.SortKey(key)) {
		q.sort = v.Get("sort")
	}
	for _, c := range listColumns {
		if slices.Contains(v["c"], c.key) {
			q.columns = append(q.columns, c.key)
		}
	}
	return q
}

// readBack reads the query of a list from a field of a form.
func readBack(text string) listQuery {
	v, err := url.ParseQuery(text)
	if err != nil {
		return listQuery{}
	}
	return readListQuery(v)
}

// encode writes the query of an address. `more` are further names and values; empty values are
// omitted.
func (q listQuery) encode(more ...string) string {
	var parts []string
	add := func(name, value string) {
		if value != "" {
			parts = append(parts, name+"="+url.QueryEscape(value))
		}
	}
	add("q", q.text)
	add("sort", q.sort)
	for _, c := range q.columns {
		add("c", c)
	}
	for i := 0; i+1 < len(more); i += 2 {
		add(more[i], more[i+1])
	}
	return strings.Join(parts, "&")
}

func (q listQuery) path(more ...string) string {
	if query := q.encode(more...); query != "" {
		return "/ui/devices?" + query
	}
	return "/ui/devices"
}

// The method `shows` reports whether the list has the column `key`. If the query chooses no
// columns, `usual` is the answer.
func (q listQuery) shows(key string, usual bool) bool {
	if len(q.columns) == 0 {
		return usual
	}
	return slices.Contains(q.columns, key)
}

// columnsOf returns the column of the nicks, and the other columns of the list. Each column has a
// link that sorts the list by this column.
func (q listQuery) columnsOf() (nick ui.Column, list []ui.Column) {
	column := func(key, name string, sort store.SortKey, shown bool) ui.Column {
		c := ui.Column{Key: key, Name: name, Shown: shown}
		if sort == "" {
			return c
		}
		next := q
		next.sort = string(sort)
		switch {
		case q.sort == string(sort) || q.sort == "" && sort == store.SortNick:
			c.Order, next.sort = "ascending", "-"+string(sort)
		case q.sort == "-"+string(sort):
			c.Order = "descending"
		}
		c.Sort = next.path()
		return c
	}
	for _, c := range listColumns {
		list = append(list, column(c.key, c.name, c.sort, q.shows(c.key, c.usual)))
	}
	return column("nick", "Device", store.SortNick, true), list
}

// showDevices is the list of devices.
func (s *Server) showDevices(w http.ResponseWriter, r *http.Request) error {
	d, err := s.devicesPage(r)
	if err != nil {
		return err
	}
	p := ui.Page{Title: "Devices", Section: ui.SectionDevices, Data: d, Wide: true}
	return s.renderPage(w, r, http.StatusOK, "devices", p)
}

func (s *Server) devicesPage(r *http.Request) (*ui.DevicesPage, error) {
	ctx, account, q := r.Context(), accountOf(r), readListQuery(r.URL.Query())
	d := &ui.DevicesPage{Query: q.text, Sort: q.sort, Here: q.encode()}
	d.Nick, d.Columns = q.columnsOf()
	lost, err := s.hasLost(r)
	if err != nil {
		return nil, err
	}
	d.Lost = lost
	counts, err := s.cfg.Store.FleetCounts(ctx, account.ID)
	if err != nil {
		return nil, err
	}
	if counts.Total == 0 {
		d.Empty, d.Commands = true, s.firstCommands(account)
		return d, nil
	}
	if d.Views, d.MoreViews, err = s.viewsOf(ctx, account.ID, q); err != nil {
		return nil, err
	}
	d.CSV, d.JSON = "/ui/devices.csv?"+d.Here, "/ui/devices.json?"+d.Here
	find, err := s.deviceSearch(ctx, account.ID, q.text, q.sort)
	if err == nil {
		d.States = stateTabs(q, find, counts)
		err = s.fillList(ctx, d, q, find, r.URL.Query().Get("after"))
	}
	var ok bool
	if d.Problem, ok = searchProblem(err); !ok {
		return nil, err
	}
	if d.States == nil {
		d.States = stateTabs(q, store.DeviceSearch{}, counts)
	}
	return d, nil
}

// fillList fills in the rows of a page, and the number of all devices that match the search.
func (s *Server) fillList(ctx context.Context, d *ui.DevicesPage, q listQuery, find store.DeviceSearch, after string) error {
	n, err := s.cfg.Store.CountSearch(ctx, find)
	if err != nil {
		return err
	}
	d.Count = countWords(n)
	find.After, find.Limit = after, q.rows()
	page, err := s.cfg.Store.SearchDevices(ctx, find)
	if err != nil {
		return err
	}
	if d.Rows, err = s.listRows(ctx, find.Owner, page.Rows, q); err != nil {
		return err
	}
	if n.N > len(d.Rows) {
		d.All = min(n.N, store.MaxCount)
	}
	if after != "" {
		d.First = q.path()
	}
	if page.Next != "" {
		d.Next = q.path("after", page.Next)
	}
	d.Partial = page.Next != "" && len(page.Rows) < listRows
	return nil
}

// listRows adds to the devices the data that the shown columns need: the nicks of join tokens.
func (s *Server) listRows(ctx context.Context, owner string, rows []store.DeviceRow, q listQuery) ([]ui.DeviceRow, error) {
	list := make([]ui.DeviceRow, len(rows))
	nicks := map[string]string{}
	for i := range rows {
		list[i].DeviceRow = rows[i]
		id := rows[i].TokenID
		if id == "" || !q.shows("token", false) {
			continue
		}
		nick, known := nicks[id]
		if !known {
			t, err := s.cfg.Store.JoinToken(ctx, id)
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return nil, err
			}
			if err == nil && t.Owner == owner {
				nick = t.Nick
			}
			nicks[id] = nick
		}
		list[i].Token = nick
	}
	return list, nil
}

// countWords returns the number of devices in words.
func countWords(n store.SearchCount) string {
	switch {
	case n.More:
		return "more than " + ui.Number(n.N)
	case n.N == 1:
		return "1 device"
	}
	return ui.Number(n.N) + " devices"
}

// searchProblem returns the text for an error in a search, to show beside the search. The result
// `ok` is false for other errors.
func searchProblem(err error) (text string, ok bool) {
	var wrong *search.Error
	var bad *store.ErrBadSearch
	var p *Problem
	switch {
	case err == nil:
		return "", true
	case errors.As(err, &wrong):
		return wrong.Reason + " " + wrong.Remedy, true
	case errors.As(err, &bad):
		return bad.Reason, true
	case errors.As(err, &p) && p.Status == http.StatusBadRequest:
		return p.Message + " " + p.Hint, true
	}
	return "", false
}

// stateTabs returns links to the same search with another state, and to the search without a state.
func stateTabs(q listQuery, find store.DeviceSearch, counts store.FleetCounts) []ui.Tab {
	current := ""
	without := store.DeviceSearch{Words: find.Words}
	for _, t := range find.Terms {
		if t.Field == store.FieldState {
			current = t.Value
			continue
		}
		without.Terms = append(without.Terms, t)
	}
	plain := len(without.Words)+len(without.Terms) == 0
	to := func(state string) string {
		next, f := q, without
		if state != "" {
			f.Terms = append(slices.Clone(without.Terms), store.SearchTerm{Field: store.FieldState, Value: state})
		}
		next.text = search.Format(f)
		return next.path()
	}
	tabs := []ui.Tab{{Name: "All", Path: to(""), Current: current == ""}}
	if plain {
		tabs[0].Count = counts.Total
	}
	for _, state := range store.States {
		n := counts.ByState[state]
		if n == 0 && state != current {
			continue
		}
		tab := ui.Tab{Name: upperFirst(ui.StateBadge(state).Text), Path: to(state), Current: state == current}
		if plain {
			tab.Count = n
		}
		tabs = append(tabs, tab)
	}
	return tabs
}

// showRow answers with one row of the list, with which the browser updates that row. For a deleted
// device it answers 404.
func (s *Server) showRow(w http.ResponseWriter, r *http.Request) error {
	id := r.URL.Query().Get("id")
	if !wire.IsID(id) {
		return store.ErrNotFound
	}
	q := readListQuery(r.URL.Query())
	page, err := s.cfg.Store.SearchDevices(r.Context(), store.DeviceSearch{Owner: accountOf(r).ID, Terms: []store.SearchTerm{{Field: store.FieldID, Value: id}}, Limit: 1})
	if err != nil {
		return err
	}
	if len(page.Rows) == 0 {
		return store.ErrNotFound
	}
	d := &ui.DevicesPage{}
	d.Nick, d.Columns = q.columnsOf()
	if d.Rows, err = s.listRows(r.Context(), accountOf(r).ID, page.Rows, q); err != nil {
		return err
	}
	return s.renderPart(w, r, "devices", "one-row", ui.Page{Data: d})
}

// viewBytes bounds the saved views on a page, in bytes, because their names and addresses may be
// long.
const viewBytes = 12 << 10

// viewsOf lists an account's saved views, and returns the number of views that the page has no room
// for.
func (s *Server) viewsOf(ctx context.Context, owner string, here listQuery) (list []ui.View, more int, err error) {
	views, err := s.cfg.Store.SavedViews(ctx, owner)
	weight := 0
	for _, v := range views {
		q := readBack(v.Query)
		one := ui.View{Name: v.Name, Path: q.path(), Current: q.encode() == here.encode()}
		if weight += 150 + 3*ui.Weight(one.Name) + ui.Weight(one.Path); weight > viewBytes {
			break
		}
		list = append(list, one)
	}
	return list, len(views) - len(list), err
}

// saveView saves the query of a list under a name.
func (s *Server) saveView(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	name, q := strings.TrimSpace(r.PostForm.Get("name")), readBack(r.PostForm.Get("query"))
	v := store.SavedView{Owner: accountOf(r).ID, Name: name, Query: q.encode(), Created: s.cfg.Now()}
	text := ""
	switch {
	case name == "" || ui.Visible(name) != name:
		text = "Use a name of letters and digits."
	default:
		err := s.cfg.Store.PutSavedView(r.Context(), v)
		switch {
		case errors.Is(err, store.ErrFull):
			text = fmt.Sprintf("You have %d views. Delete one of them first.", store.MaxSavedViews)
		case errors.Is(err, store.ErrTooLarge):
			text = fmt.Sprintf("Use a name of at most %d bytes.", store.MaxViewName)
		case err != nil:
			return err
		}
	}
	if text != "" {
		r.URL.RawQuery = q.encode()
		d, err := s.devicesPage(r)
		if err != nil {
			return err
		}
		d.ViewName, d.ViewText = name, text
		return s.renderPage(w, r, http.StatusBadRequest, "devices", ui.Page{Title: "Devices", Section: ui.SectionDevices, Data: d, Wide: true})
	}
	return s.redirect(w, r, q.path(), ui.Notice{Tone: "ok", Text: fmt.Sprintf("The view %q is saved.", name)})
}

// deleteViewOnPage deletes a saved view.
func (s *Server) deleteViewOnPage(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(r); err != nil {
		return err
	}
	name, owner := r.PostForm.Get("name"), accountOf(r).ID
	if err := s.cfg.Store.DeleteSavedView(r.Context(), owner, name); err != nil {
		return err
	}
	return s.redirect(w, r, readBack(r.PostForm.Get("back")).path(), ui.Notice{Tone: "ok", Text: fmt.Sprintf("The view %q is deleted.", name)})
}

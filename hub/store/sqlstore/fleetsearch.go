package sqlstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"gangway/hub/store"
	"gangway/wire/trail"
)

const (
	// smallSet is the largest number of devices that the engine reads at once and sorts in memory.
	// If more devices match the most selective condition, the engine reads an index in the order of
	// the result.
	smallSet = store.MaxCount
	// A walk reads an index in the order of the result (see type walk). examineMost is the largest
	// number of rows of a walk that the engine compares with the other conditions. If the limit of
	// a page is higher, the page's limit applies. So a page may have fewer rows than its limit,
	// even if there is a next page. examineFar is the bound for all orders except the order by
	// nick. In these orders, each row is in another part of the database file, so that reading a
	// row costs more.
	examineMost = 600
	examineFar  = 400
	// chunkRows is the number of rows of a walk that the engine reads before it compares the
	// metadata of these rows.
	chunkRows = 250
)

const searchColumns = `SELECT s.nick, s.device, s.created, s.seen, s.quiet, s.model, s.maker, s.firmware, s.serial, s.token,
	s.boot, s.rev, s.status, s.progress, s.clone FROM `

// found is a row of device_search.
type found struct {
	nick, device                          string
	created, seen                         int64
	quiet                                 bool
	model, maker, firmware, serial, token string
	boot                                  string
	rev                                   int
	status                                trail.Status
	progress                              int
	clone                                 string
}

// foundAt reads a row. `before` is the previous row. Most texts of consecutive rows are equal, so
// foundAt reuses the strings of `before` and allocates less memory.
func foundAt(r Columns, before *found) found {
	return found{
		nick: r.Text(0, ""), device: r.Text(1, ""), created: r.Int64(2), seen: r.Int64(3), quiet: r.Int64(4) != 0,
		model: r.Text(5, before.model), maker: r.Text(6, before.maker), firmware: r.Text(7, before.firmware),
		serial: r.Text(8, ""), token: r.Text(9, before.token), boot: r.Text(10, before.boot), rev: int(r.Int64(11)),
		status: trail.Status(r.Text(12, string(before.status))), progress: int(r.Int64(13)), clone: r.Text(14, before.clone),
	}
}

// appendFound appends the rows of a statement whose columns are searchColumns.
func appendFound(c Conn, devices []found, query *Statement, args ...any) ([]found, error) {
	var before found
	err := c.EachColumns(query, func(r Columns) (bool, error) {
		before = foundAt(r, &before)
		devices = append(devices, before)
		return true, nil
	}, args...)
	return devices, err
}

// place is the position of a device in an order. Devices are sorted by Number, then Text, then
// Nick. Number and Text are zero if the order does not use them.
type place struct {
	Number int64  `json:"i,omitempty"`
	Text   string `json:"t,omitempty"`
	Nick   string `json:"n"`
}

// order is the order of a search's result. Its zero key means store.SortNick.
type order struct {
	key  store.SortKey
	down bool
}

func (o order) place(d *found) place {
	p := place{Nick: d.nick}
	switch o.key {
	case store.SortCreated:
		p.Number = d.created
	case store.SortLastSeen:
		p.Number = d.seen
	case store.SortModel:
		p.Text = lowerASCII(d.model)
	}
	return p
}

func (o order) compare(a, b place) int {
	by := cmp.Or(cmp.Compare(a.Number, b.Number), strings.Compare(a.Text, b.Text), strings.Compare(a.Nick, b.Nick))
	if o.down {
		return -by
	}
	return by
}

// walk has the two statements that read an owner's devices in one order, after a place: `up` in
// ascending order, `down` in descending order. The arguments of both statements are the owner, the
// arguments of the condition, the place and the limit.
type walk struct{ up, down *Statement }

func (w walk) in(o order) *Statement {
	if o.down {
		return w.down
	}
	return w.up
}

// ordered makes the two statements of a walk. `condition` is the SQL text that begins with the
// names of the tables and ends with the condition. `by` is the list of columns by which the rows
// are ordered.
func ordered(condition, by string) walk {
	return orderedBoth(condition, by, condition, by)
}

// orderedBoth is like ordered, but the statements for PostgreSQL have another condition and another
// order than the statements for SQLite.
func orderedBoth(condition, by, conditionPostgres, byPostgres string) walk {
	sqliteUp, sqliteDown := walkTexts(condition, by)
	postgresUp, postgresDown := walkTexts(conditionPostgres, byPostgres)
	return walk{up: both(sqliteUp, postgresUp), down: both(sqliteDown, postgresDown)}
}

func walkTexts(condition, by string) (up, down string) {
	holes := strings.TrimSuffix(strings.Repeat("?, ", 1+strings.Count(by, ",")), ", ")
	descending := strings.ReplaceAll(by, ",", " DESC,") + " DESC"
	return searchColumns + condition + ` AND (` + by + `) > (` + holes + `) ORDER BY ` + by + ` LIMIT ?`,
		searchColumns + condition + ` AND (` + by + `) < (` + holes + `) ORDER BY ` + descending + ` LIMIT ?`
}

// The function `equal` makes the walk through the devices that have one value of a column, in the
// order of nicks. In SQLite, the collation of the column compares models, makers and firmwares
// without ASCII case; in PostgreSQL, `expression` and `value` do this.
//
// PostgreSQL has no INDEXED BY. By its statistics, it would choose between the column's index and
// the primary key, because both have the order of nicks. If the statistics are old, it may read all
// devices. So the statement for PostgreSQL has bounds on the column, and is ordered by the column
// first: only the column's index has this order.
func equal(index, column, expression, value string) walk {
	const nick, limit = `?3`, `?4`
	text := func(after, end, order string) string {
		return searchColumns + `device_search s WHERE s.owner = ?1 AND (` + expression + `, s.nick) ` + after + ` (` + value + `, ` + nick + `) AND ` +
			expression + ` ` + end + ` ` + value + ` ORDER BY ` + expression + order + `, s.nick` + order + ` LIMIT ` + limit
	}
	sqliteUp, sqliteDown := walkTexts(`device_search s INDEXED BY `+index+` WHERE s.owner = ? AND s.`+column+` = ?`, `s.nick`)
	return walk{up: both(sqliteUp, text(`>`, `<=`, ``)), down: both(sqliteDown, text(`<`, `>=`, ` DESC`))}
}

func valued(index, column string) walk {
	return equal(index, column, `lower(s.`+column+`)`, `lower(?2 COLLATE "C")`)
}

// active is the walk through the active devices.
func active() walk {
	sqliteUp, sqliteDown := walkTexts(`device_search s INDEXED BY device_search_seen WHERE s.owner = ? AND s.seen = `+seenNow, `s.nick`)
	// As in the function equal.
	return walk{
		up:   both(sqliteUp, searchColumns+`device_search s WHERE s.owner = ? AND (s.seen, s.nick) > (`+seenNow+`, ?) ORDER BY s.seen, s.nick LIMIT ?`),
		down: both(sqliteDown, searchColumns+`device_search s WHERE s.owner = ? AND (s.seen, s.nick) < (`+seenNow+`, ?) AND s.seen >= `+seenNow+` ORDER BY s.seen DESC, s.nick DESC LIMIT ?`),
	}
}

// withMeta is the walk through the devices that have a term of metadata. In SQLite, CROSS JOIN
// makes the engine read the table device_meta_terms first. In PostgreSQL, the LIMIT of each part
// has this effect.
func withMeta() walk {
	sqliteUp, sqliteDown := walkTexts(`device_meta_terms m CROSS JOIN device_search s ON s.owner = ? AND s.nick = m.nick WHERE m.term = ?`, `m.nick`)
	text := func(after, order string) string {
		return searchColumns + `(SELECT nick FROM device_meta_terms WHERE term = ?2 AND nick ` + after + ` ?3 ORDER BY term` + order + `, nick` + order + ` LIMIT ?4) AS m,
			LATERAL (SELECT * FROM device_search WHERE owner = ?1 AND nick = m.nick LIMIT 1) AS s ORDER BY m.nick` + order
	}
	return walk{up: both(sqliteUp, text(`>`, ``)), down: both(sqliteDown, text(`<`, ` DESC`))}
}

func listed(index, column string) *Statement {
	return both(searchColumns+`device_search s INDEXED BY `+index+` WHERE s.owner = ?1 AND s.`+column+` IN (SELECT value FROM json_each(?2)) LIMIT ?3`,
		searchColumns+`unnest(?2::text[]) AS v (value), LATERAL (SELECT * FROM device_search d WHERE d.owner = ?1
		AND (lower(d.`+column+`), d.nick) > (v.value COLLATE "C", '') AND lower(d.`+column+`) <= v.value COLLATE "C"
		ORDER BY lower(d.`+column+`), d.nick LIMIT ?3) AS s LIMIT ?3`)
}

// walkAll has the walks through all devices of an owner.
var walkAll = map[store.SortKey]walk{
	store.SortNick:     ordered(`device_search s WHERE s.owner = ?`, `s.nick`),
	store.SortCreated:  ordered(`device_search s INDEXED BY device_search_created WHERE s.owner = ?`, `s.created, s.nick`),
	store.SortLastSeen: ordered(`device_search s INDEXED BY device_search_seen WHERE s.owner = ?`, `s.seen, s.nick`),
	store.SortModel: orderedBoth(`device_search s INDEXED BY device_search_model WHERE s.owner = ?`, `s.model, s.nick`,
		`device_search s WHERE s.owner = ?`, `lower(s.model), s.nick`),
}

const (
	isUpdating = `s.status IN ('NEW', 'QUEUED', 'DOWNLOADING', 'SYNCING', 'INPROGRESS', 'TESTING')`
	isFailed   = `s.status IN ('ERROR', 'WONTGO')`
	// seenNow is the value of device_search.seen for an active device.
	seenNow = `9223372036854775807`
)

// walkState has a walk for each state, through the devices with that state. walkField has a walk
// for each field, through the devices with one value of that field. All these walks are in the
// order of nicks.
var (
	walkState = map[string]walk{
		store.StateActive:      active(),
		store.StateQuiet:       ordered(`device_search s INDEXED BY device_search_quiet WHERE s.owner = ? AND s.quiet = 1`, `s.nick`),
		store.StateBootChanged: ordered(`device_search s INDEXED BY device_search_changed WHERE s.owner = ? AND s.boot IN ('changed', 'refused')`, `s.nick`),
		store.StateUpdating:    ordered(`device_search s INDEXED BY device_search_updating WHERE s.owner = ? AND `+isUpdating, `s.nick`),
		store.StateFailed:      ordered(`device_search s INDEXED BY device_search_failed WHERE s.owner = ? AND `+isFailed, `s.nick`),
		store.StateCloned:      ordered(`device_search s INDEXED BY device_search_cloned WHERE s.owner = ? AND s.clone <> ''`, `s.nick`),
	}
	walkField = map[store.SearchField]walk{
		store.FieldModel:    valued("device_search_model", "model"),
		store.FieldMaker:    valued("device_search_maker", "maker"),
		store.FieldFirmware: valued("device_search_firmware", "firmware"),
		store.FieldToken:    equal("device_search_token", "token", `s.token`, `?2`),
	}
	// fieldIn has a statement for each of two fields. Each statement reads at most ? devices whose
	// value of the field is in a list. For PostgreSQL, the list must be in lower case.
	fieldIn = map[store.SearchField]*Statement{
		store.FieldModel: listed("device_search_model", "model"),
		store.FieldMaker: listed("device_search_maker", "maker"),
	}
	walkMeta = withMeta()

	// selectFound reads the devices whose nick or serial number has a word from ? (inclusive) to ?
	// (exclusive). If a device has two such words, the result has the device twice. It reads at
	// most ? words.
	selectFound = both(searchColumns+`(`+fewWords+`) AS n CROSS JOIN device_search s ON s.owner = ? AND s.nick = n.nick`,
		searchColumns+`(`+fewWords+`) AS n, LATERAL (SELECT * FROM device_search d WHERE d.owner = ? AND d.nick = n.nick LIMIT 1) AS s`)
	selectByID = prepared(searchColumns + `devices d CROSS JOIN device_search s ON s.owner = d.owner AND s.nick = d.nick
		WHERE d.id >= ? AND d.id < ? AND +d.owner = ? AND +d.deleted = 0 ORDER BY d.id LIMIT ?`)  // the signs + keep SQLite from using another index
	haveMetaTerm = both(`SELECT nick FROM device_meta_terms WHERE term = ? AND nick IN (SELECT value FROM json_each(?))`,
		// The LIMIT makes PostgreSQL look each nick up. Otherwise PostgreSQL would choose the plan
		// by its statistics, and might read all devices with the term.
		`SELECT n.nick FROM (SELECT ?::bigint AS term, unnest(?::text[]) AS nick) AS n,
			LATERAL (SELECT 1 FROM device_meta_terms m WHERE m.term = n.term AND m.nick = n.nick LIMIT 1) AS m`)
	countMetaTerm = prepared(`SELECT count(*) FROM (SELECT 1 FROM device_meta_terms WHERE term = ? ORDER BY term, nick LIMIT ?) AS few`)
	selectWord    = prepared(fewWords)
	// selectPageRows reads, for the rows of a page, the fields that the table device_search does
	// not have.
	selectPageRows = both(pageColumns+`WHERE d.id IN (SELECT value FROM json_each(?))`, pageColumns+`WHERE d.id = ANY(?)`)
)

const fewWords = `SELECT nick FROM device_words WHERE owner = ? AND word >= ? AND word < ? ORDER BY word, nick LIMIT ?`

const pageColumns = `SELECT d.id, e.ek, e.request_hash, e.idevid_hash, e.model, e.key_algorithm, d.activated, d.last_seen,
	d.last_seen_addr, d.public FROM devices d LEFT JOIN enrolments e ON e.id = d.enrolment `

// SearchDevices implements store.Fleet.
//
// The engine selects the condition that the fewest devices match. It reads the devices that match
// this condition, and compares each device with the other conditions. If at most smallSet devices
// match the selected condition, the engine reads and sorts all these devices. Otherwise it reads at
// most examineMost devices, or as many as the page can have, in the order of the result.
func (s *Store) SearchDevices(ctx context.Context, q store.DeviceSearch) (page store.DevicePage, err error) {
	f, err := newFinder(q, s.db.LastText())
	if err != nil {
		return page, err
	}
	after, err := readCursor(q, f.order)
	if err != nil {
		return page, err
	}
	err = s.db.Search(ctx, func(c Conn) error {
		page = store.DevicePage{}
		if err := f.resolve(c); err != nil {
			return err
		}
		hits, next, err := f.page(c, after, int(pageLimit(q.Limit)))
		if err != nil {
			return err
		}
		if page.Rows, err = pageRows(c, f.owner, hits); err != nil {
			return err
		}
		if next != nil {
			page.Next = writeCursor(q, f.order, *next)
		}
		return nil
	})
	if err != nil {
		return store.DevicePage{}, err
	}
	for i := range page.Rows {
		s.seen.overlay(&page.Rows[i].Device)
	}
	return page, nil
}

// pageRows returns the rows of a page, in the order of `hits`.
func pageRows(c Conn, owner string, hits []found) (rows []store.DeviceRow, err error) {
	if len(hits) == 0 {
		return nil, nil
	}
	ids := make([]string, len(hits))
	at := make(map[string]int, len(hits))
	for i := range hits {
		ids[i], at[hits[i].device] = hits[i].device, i
	}
	rows = make([]store.DeviceRow, len(hits))
	if err := c.Each(selectPageRows, func(r Row) (bool, error) {
		i := at[r.text()]
		rows[i] = pageRow(&r, owner, &hits[i])
		return true, nil
	}, ids); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(rows, func(r store.DeviceRow) bool { return r.Device.ID == "" }), nil
}

func pageRow(r *Row, owner string, hit *found) store.DeviceRow {
	d := store.Device{
		ID: hit.device, Nick: hit.nick, Owner: owner, TokenID: hit.token, Clone: hit.clone, Created: fromMicro(hit.created),
		TPMMaker: hit.maker, TPMFirmware: hit.firmware, ProdModel: hit.model, ProdSerial: hit.serial,
		EK: r.hash(), Enrolment: r.hash(), IDevIDHash: r.hash(), TPMModel: r.text(), KeyAlgorithm: r.text(),
		Activated: r.time(), LastSeen: r.time(), LastSeenAddr: r.text(), Public: r.bool(),
	}
	return store.DeviceRow{Device: d, Quiet: hit.quiet, Boot: cmp.Or(hit.boot, store.BootUnmeasured),
		Rev: hit.rev, Status: hit.status, Progress: hit.progress}
}

// finder answers one search. The method `resolve` moves the condition that the fewest devices match
// to the front of `conditions`.
type finder struct {
	owner      string
	order      order
	conditions []*condition
	last       any // an argument that is greater than every text
}

func newFinder(q store.DeviceSearch, last any) (*finder, error) {
	f := &finder{owner: q.Owner, last: last, order: order{cmp.Or(q.Sort, store.SortNick), q.Descending}}
	if _, ok := walkAll[f.order.key]; !ok {
		return nil, badSearch("%q is not an order of devices: use nick, created, seen or model.", q.Sort)
	}
	if len(q.Words)+len(q.Terms) > store.MaxTerms {
		return nil, badSearch("The search has more than %d conditions: leave some conditions out.", store.MaxTerms)
	}
	for _, word := range q.Words {
		k, err := wordCondition(word)
		if err != nil {
			return nil, err
		}
		f.conditions = append(f.conditions, k)
	}
	for _, term := range q.Terms {
		k, err := termCondition(q.Owner, term)
		if err != nil {
			return nil, err
		}
		f.conditions = append(f.conditions, k)
	}
	return f, nil
}

func badSearch(format string, args ...any) error {
	return &store.ErrBadSearch{Reason: fmt.Sprintf(format, args...)}
}

// resolve reads from the counters and indexes how many devices match each condition. It moves the
// condition that the fewest devices match to the front.
func (f *finder) resolve(c Conn) error {
	for _, k := range f.conditions {
		if err := k.resolve(c, f.owner); err != nil {
			return err
		}
	}
	slices.SortStableFunc(f.conditions, func(a, b *condition) int { return cmp.Compare(a.count, b.count) })
	return nil
}

// The method `page` returns at most `limit` devices after the place `after`. `next` is the place
// after which the next page begins, or nil if this is the last page.
func (f *finder) page(c Conn, after *place, limit int) (hits []found, next *place, err error) {
	inOrder := f.order.key == store.SortNick
	if len(f.conditions) > 0 && f.conditions[0].count <= smallSet && !(inOrder && f.conditions[0].walk.up != nil) {
		return f.sorted(c, after, limit)
	}
	most := examineMost
	if !inOrder {
		most = examineFar
	}
	// The additional row shows whether there is a next page.
	most = max(most, limit+1)
	if _, _, rest := f.plan(); len(rest) == 0 {
		most = limit + 1 // each row is a hit
	}
	complete, end, err := f.walk(c, after, most, func(d found) bool {
		hits = append(hits, d)
		return len(hits) <= limit
	})
	switch {
	case err != nil:
		return nil, nil, err
	case len(hits) > limit:
		hits = hits[:limit]
		p := f.order.place(&hits[limit-1])
		return hits, &p, nil
	case complete:
		return hits, nil, nil
	}
	return hits, end, nil
}

// The method `small` returns all devices that match all conditions, unsorted. Call it only if at
// most smallSet devices match the first condition.
func (f *finder) small(c Conn) (hits []found, err error) {
	read, err := f.conditions[0].all(c, f.owner)
	if err != nil {
		return nil, err
	}
	fit, err := matches(c, read, f.conditions)
	if err != nil {
		return nil, err
	}
	for i, ok := range fit {
		if ok {
			hits = append(hits, read[i])
		}
	}
	return hits, nil
}

func (f *finder) sorted(c Conn, after *place, limit int) (hits []found, next *place, err error) {
	all, err := f.small(c)
	if err != nil {
		return nil, nil, err
	}
	type placed struct {
		place
		device *found
	}
	list := make([]placed, 0, len(all))
	for i := range all {
		if p := f.order.place(&all[i]); after == nil || f.order.compare(p, *after) > 0 {
			list = append(list, placed{p, &all[i]})
		}
	}
	slices.SortFunc(list, func(a, b placed) int { return f.order.compare(a.place, b.place) })
	for i, p := range list {
		if i == limit {
			return hits, &list[i-1].place, nil
		}
		hits = append(hits, *p.device)
	}
	return hits, nil, nil
}

// The function `matches` reports, for each device, whether it matches all conditions. It needs one
// statement for each condition on metadata, because with PostgreSQL each statement is a round trip
// to the server.
func matches(c Conn, devices []found, conditions []*condition) ([]bool, error) {
	fit := make([]bool, len(devices))
	for i := range devices {
		fit[i] = !slices.ContainsFunc(conditions, func(k *condition) bool { return k.fits != nil && !k.fits(&devices[i]) })
	}
	for _, k := range conditions {
		if k.field != store.FieldMeta {
			continue
		}
		var nicks []string
		for i, ok := range fit {
			if ok {
				nicks = append(nicks, devices[i].nick)
			}
		}
		if len(nicks) == 0 {
			break
		}
		have := make(map[string]bool, len(nicks))
		if err := c.Each(haveMetaTerm, func(r Row) (bool, error) {
			have[r.text()] = true
			return true, nil
		}, k.term, nicks); err != nil {
			return nil, err
		}
		for i := range fit {
			fit[i] = fit[i] && have[devices[i].nick]
		}
	}
	return fit, nil
}

// The method `walk` calls the function `hit` with each device that matches, in the order of the
// result. It stops when `hit` returns false or it has examined `most` devices. `complete` is true
// if the walk read all devices; otherwise `end` is the place of the last examined device.
func (f *finder) walk(c Conn, after *place, most int, hit func(found) bool) (complete bool, end *place, err error) {
	statement, args, rest := f.plan()
	at := f.start()
	if after != nil {
		at = *after
	}
	var chunk []found
	for examined := 0; examined < most; examined += len(chunk) {
		n := min(chunkRows, most-examined)
		all := append(append(slices.Clone(args), f.key(at, after == nil && examined == 0, f.last)...), int64(n))
		if chunk, err = appendFound(c, chunk[:0], statement, all...); err != nil {
			return false, nil, err
		}
		fit, err := matches(c, chunk, rest)
		if err != nil {
			return false, nil, err
		}
		for i, ok := range fit {
			at = f.order.place(&chunk[i])
			if ok && !hit(chunk[i]) {
				return false, &at, nil
			}
		}
		if len(chunk) < n {
			return true, nil, nil
		}
	}
	return false, &at, nil
}

// The method `plan` returns the statement that reads the devices in the order of the result, and
// the statement's arguments before the place. It also returns the conditions that the statement
// does not check.
func (f *finder) plan() (*Statement, []any, []*condition) {
	if f.order.key == store.SortNick {
		for i, k := range f.conditions {
			if k.walk.up != nil {
				return k.walk.in(f.order), k.args(f.owner), slices.Delete(slices.Clone(f.conditions), i, i+1)
			}
		}
	}
	return walkAll[f.order.key].in(f.order), []any{f.owner}, f.conditions
}

// The method `start` returns a place before all devices.
func (f *finder) start() place {
	if f.order.down {
		return place{Number: 1<<63 - 1}
	}
	return place{Number: -1 << 63}
}

// The method `key` returns the place `p` as arguments of a walk. If `first` is true, a descending
// walk must start after all texts, so the arguments contain `last`, which is greater than all
// texts.
func (f *finder) key(p place, first bool, last any) []any {
	text := func(s string) any {
		if first && f.order.down {
			return last
		}
		return s
	}
	switch f.order.key {
	case store.SortCreated, store.SortLastSeen:
		return []any{p.Number, text(p.Nick)}
	case store.SortModel:
		return []any{text(p.Text), text(p.Nick)}
	}
	return []any{text(p.Nick)}
}

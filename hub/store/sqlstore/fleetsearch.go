package sqlstore

import (
	"cmp"
	"context"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"gangway/hub/store"
	"gangway/wire/trail"
)

const (
	// smallSet is the largest number of devices that the engine reads at once and sorts in memory.
	// If every condition of a search matches more devices than that, the engine instead walks
	// through an index that is in the order of the result.
	smallSet = store.MaxCount
	// A walk reads an index in the order of the result (see type walk), and the engine compares its
	// rows with the other conditions of the search. For one page, the engine reads at most
	// examineMost rows, or as many as the limit of the page if that is more. So a page may have
	// fewer rows than its limit, even if there is a next page.
	//
	// examineFar replaces examineMost in all orders except the order by nick. In these orders, each
	// row is in another part of the database file, so that reading a row costs more.
	examineMost = 600
	examineFar  = 400
	// A walk reads several rows at once, and then compares their metadata. At first, it reads at
	// most firstStretch rows. If too few of these rows match, it next reads twice as many rows.
	firstStretch = 150
)

// The beginning of a walk's statement, with all columns that a search needs, or with only the nick.
// For only the nick, the engine reads an index and no rows of the table.
const (
	justNick      = `SELECT s.nick FROM `
	searchColumns = `SELECT s.nick, s.device, s.created, s.seen, s.quiet, s.model, s.maker, s.firmware, s.serial, s.token,
	s.boot, s.rev, s.status, s.progress, s.clone FROM `
)

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

// columns is a set of the columns in searchColumns: bit i stands for column i.
type columns uint16

const (
	colNick columns = 1 << iota
	colDevice
	colCreated
	colSeen
	colQuiet
	colModel
	colMaker
	colFirmware
	colSerial
	colToken
	colBoot
	colRev
	colStatus
	colProgress
	colClone
	allColumns columns = 1<<iota - 1
)

// reader reads the current row of a statement that selects searchColumns. It reads a column only
// when the column is needed, because most rows do not match the first condition of a search.
type reader struct {
	found
	row  Columns
	have columns // columns that were read from the current row; the other fields of found have values of earlier rows
}

// next moves to the next row.
func (d *reader) next(row Columns) { d.row, d.have = row, 0 }

// read reads the columns `set` of the current row. Consecutive rows mostly have equal texts, so
// read reuses the strings of the previous row to allocate less memory.
func (d *reader) read(set columns) {
	r := d.row
	rest := set &^ d.have
	d.have |= set
	for ; rest != 0; rest &= rest - 1 {
		switch i := bits.TrailingZeros16(uint16(rest)); columns(1) << i {
		case colNick:
			d.nick = r.Text(i, "")
		case colDevice:
			d.device = r.Text(i, "")
		case colCreated:
			d.created = r.Int64(i)
		case colSeen:
			d.seen = r.Int64(i)
		case colQuiet:
			d.quiet = r.Int64(i) != 0
		case colModel:
			d.model = r.Text(i, d.model)
		case colMaker:
			d.maker = r.Text(i, d.maker)
		case colFirmware:
			d.firmware = r.Text(i, d.firmware)
		case colSerial:
			d.serial = r.Text(i, "")
		case colToken:
			d.token = r.Text(i, d.token)
		case colBoot:
			d.boot = r.Text(i, d.boot)
		case colRev:
			d.rev = int(r.Int64(i))
		case colStatus:
			d.status = trail.Status(r.Text(i, string(d.status)))
		case colProgress:
			d.progress = int(r.Int64(i))
		case colClone:
			d.clone = r.Text(i, d.clone)
		}
	}
}

// fits reports whether the current row matches the conditions. It ignores conditions on metadata.
func (d *reader) fits(conditions []*condition) bool {
	for _, k := range conditions {
		if k.fits == nil {
			continue
		}
		d.read(k.needs)
		if !k.fits(&d.found) {
			return false
		}
	}
	return true
}

// appendFound appends those rows of a statement that match the conditions. It ignores conditions on
// metadata. The statement must select searchColumns.
func appendFound(c Conn, devices []found, conditions []*condition, query *Statement, args ...any) ([]found, error) {
	var row reader
	err := c.EachColumns(query, func(r Columns) (bool, error) {
		if row.next(r); row.fits(conditions) {
			row.read(allColumns)
			devices = append(devices, row.found)
		}
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

// order is the order of a search's result. If its key is empty, the devices are ordered by nick.
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

// shortPlace returns the place of a device from `r`, a row that a statement of walk.short has
// returned.
func (o order) shortPlace(r Columns) place {
	p := place{Nick: r.Text(0, "")}
	switch o.key {
	case store.SortCreated, store.SortLastSeen:
		p.Number = r.Int64(1)
	case store.SortModel:
		p.Text = lowerASCII(r.Text(1, ""))
	}
	return p
}

// columns returns the columns that determine a device's place in the order.
func (o order) columns() columns {
	switch o.key {
	case store.SortCreated:
		return colNick | colCreated
	case store.SortLastSeen:
		return colNick | colSeen
	case store.SortModel:
		return colNick | colModel
	}
	return colNick
}

func (o order) compare(a, b place) int {
	by := cmp.Or(cmp.Compare(a.Number, b.Number), strings.Compare(a.Text, b.Text), strings.Compare(a.Nick, b.Nick))
	if o.down {
		return -by
	}
	return by
}

// walk has two statements that read an owner's devices in the same order, beginning after a place:
// `up` reads in ascending order, `down` in descending order. The arguments of both statements are
// the owner, the arguments of the condition, the place and the limit.
type walk struct {
	up, down *Statement
	// short has statements that read fewer columns of the same devices: the nick, and then the
	// other columns by which the devices are ordered. An index has all these columns, so SQLite
	// reads only the index. If there are no such statements, `short` is nil.
	short *walk
}

// withShort returns a walk whose field `short` is set. It calls `made`, which makes a walk that
// reads the given columns, with searchColumns for the walk itself and with `columns` for `short`.
func withShort(columns string, made func(columns string) walk) walk {
	w, short := made(searchColumns), made(columns)
	w.short = &short
	return w
}

func (w walk) in(o order) *Statement {
	if o.down {
		return w.down
	}
	return w.up
}

// ordered makes the two statements of a walk. `condition` is the SQL text that begins with the
// names of the tables and ends with the condition. `by` is the list of columns that determine the
// order of the rows.
func ordered(columns, condition, by string) walk {
	return orderedBoth(columns, condition, by, condition, by)
}

// orderedBoth is like ordered, but the statements for PostgreSQL have their own condition and
// order.
func orderedBoth(columns, condition, by, conditionPostgres, byPostgres string) walk {
	sqliteUp, sqliteDown := walkTexts(columns, condition, by)
	postgresUp, postgresDown := walkTexts(columns, conditionPostgres, byPostgres)
	return walk{up: both(sqliteUp, postgresUp), down: both(sqliteDown, postgresDown)}
}

func walkTexts(columns, condition, by string) (up, down string) {
	holes := strings.TrimSuffix(strings.Repeat("?, ", 1+strings.Count(by, ",")), ", ")
	descending := strings.ReplaceAll(by, ",", " DESC,") + " DESC"
	return columns + condition + ` AND (` + by + `) > (` + holes + `) ORDER BY ` + by + ` LIMIT ?`,
		columns + condition + ` AND (` + by + `) < (` + holes + `) ORDER BY ` + descending + ` LIMIT ?`
}

// The function `equal` makes the walk through the devices that have the same value in a column, for
// example the same model. The walk is in the order of nicks. For models, makers and firmware
// versions, the case of ASCII letters is ignored: in SQLite by the collation of the column, and in
// PostgreSQL by comparing `expression` with `value`.
//
// PostgreSQL has no INDEXED BY, and chooses an index by its statistics. The column's index and the
// primary key both have the order of nicks. If the statistics are old, PostgreSQL might choose the
// primary key and read all devices. So the statement for PostgreSQL limits the range of the column,
// and sorts by the column first: only the column's index has this order.
func equal(columns, index, column, expression, value string) walk {
	const nick, limit = `?3`, `?4`
	text := func(after, end, order string) string {
		return columns + `device_search s WHERE s.owner = ?1 AND (` + expression + `, s.nick) ` + after + ` (` + value + `, ` + nick + `) AND ` +
			expression + ` ` + end + ` ` + value + ` ORDER BY ` + expression + order + `, s.nick` + order + ` LIMIT ` + limit
	}
	sqliteUp, sqliteDown := walkTexts(columns, `device_search s INDEXED BY `+index+` WHERE s.owner = ? AND s.`+column+` = ?`, `s.nick`)
	return walk{up: both(sqliteUp, text(`>`, `<=`, ``)), down: both(sqliteDown, text(`<`, `>=`, ` DESC`))}
}

func valued(column string) walk {
	return withShort(justNick, func(columns string) walk {
		return equal(columns, "device_search_"+column, column, `lower(s.`+column+`)`, `lower(?2 COLLATE "C")`)
	})
}

// active returns the walk through the active devices.
func active() walk {
	sqliteUp, sqliteDown := walkTexts(searchColumns, `device_search s INDEXED BY device_search_seen WHERE s.owner = ? AND s.seen = `+seenNow, `s.nick`)
	// For the bounds and the order in PostgreSQL's statements, see the function `equal`.
	return walk{
		up:   both(sqliteUp, searchColumns+`device_search s WHERE s.owner = ? AND (s.seen, s.nick) > (`+seenNow+`, ?) ORDER BY s.seen, s.nick LIMIT ?`),
		down: both(sqliteDown, searchColumns+`device_search s WHERE s.owner = ? AND (s.seen, s.nick) < (`+seenNow+`, ?) AND s.seen >= `+seenNow+` ORDER BY s.seen DESC, s.nick DESC LIMIT ?`),
	}
}

// withMeta returns the walk through the devices that have a certain term of metadata, for example
// site=oslo. In SQLite, CROSS JOIN makes the engine read the table device_meta_terms first. In
// PostgreSQL, the LIMIT of each subquery has this effect. The statements of `short` have no
// argument for the owner, because a term is a hash that includes the owner.
func withMeta() walk {
	sqliteUp, sqliteDown := walkTexts(searchColumns, `device_meta_terms m CROSS JOIN device_search s ON s.owner = ? AND s.nick = m.nick WHERE m.term = ?`, `m.nick`)
	text := func(after, order string) string {
		return searchColumns + `(SELECT nick FROM device_meta_terms WHERE term = ?2 AND nick ` + after + ` ?3 ORDER BY term` + order + `, nick` + order + ` LIMIT ?4) AS m,
			LATERAL (SELECT * FROM device_search WHERE owner = ?1 AND nick = m.nick LIMIT 1) AS s ORDER BY m.nick` + order
	}
	short := func(after, order string) *Statement {
		return prepared(`SELECT nick FROM device_meta_terms WHERE term = ? AND nick ` + after + ` ? ORDER BY term` + order + `, nick` + order + ` LIMIT ?`)
	}
	return walk{up: both(sqliteUp, text(`>`, ``)), down: both(sqliteDown, text(`<`, ` DESC`)), short: &walk{up: short(`>`, ``), down: short(`<`, ` DESC`)}}
}

func listed(index, column string) *Statement {
	return both(searchColumns+`device_search s INDEXED BY `+index+` WHERE s.owner = ?1 AND s.`+column+` IN (SELECT value FROM json_each(?2)) LIMIT ?3`,
		searchColumns+`unnest(?2::text[]) AS v (value), LATERAL (SELECT * FROM device_search d WHERE d.owner = ?1
		AND (lower(d.`+column+`), d.nick) > (v.value COLLATE "C", '') AND lower(d.`+column+`) <= v.value COLLATE "C"
		ORDER BY lower(d.`+column+`), d.nick LIMIT ?3) AS s LIMIT ?3`)
}

// walkAll has the walks through all devices of an owner.
var walkAll = map[store.SortKey]walk{
	store.SortNick:     ordered(searchColumns, `device_search s WHERE s.owner = ?`, `s.nick`),
	store.SortCreated:  allBy("created", `s.created`),
	store.SortLastSeen: allBy("seen", `s.seen`),
	store.SortModel:    allBy("model", `lower(s.model)`),
}

func allBy(column, postgres string) walk {
	return withShort(`SELECT s.nick, s.`+column+` FROM `, func(columns string) walk {
		return orderedBoth(columns, `device_search s INDEXED BY device_search_`+column+` WHERE s.owner = ?`, `s.`+column+`, s.nick`,
			`device_search s WHERE s.owner = ?`, postgres+`, s.nick`)
	})
}

// inState makes the walk through the devices in one state, for example "quiet". The index has only
// the devices in this state.
func inState(index, condition string) walk {
	return withShort(justNick, func(columns string) walk {
		return ordered(columns, `device_search s INDEXED BY `+index+` WHERE s.owner = ? AND `+condition, `s.nick`)
	})
}

// among makes a statement that takes a list of nicks, and returns the nicks of those devices that
// meet a condition. Its arguments are those of the condition's walk, except for the place and the
// limit, followed by the list. PostgreSQL finds each device by its nick.
func among(index, condition, conditionPostgres string) *Statement {
	list := fmt.Sprintf("?%d", 2+strings.Count(condition, "?"))
	return both(`SELECT s.nick FROM json_each(`+list+`) AS v CROSS JOIN device_search s INDEXED BY `+index+`
			ON s.owner = ?1 AND s.nick = v.value AND `+condition,
		`SELECT n.nick FROM unnest(`+list+`::text[]) AS n (nick),
			LATERAL (SELECT 1 FROM device_search s WHERE s.owner = ?1 AND s.nick = n.nick AND `+conditionPostgres+` LIMIT 1) AS s`)
}

func valuedAmong(column string) *Statement {
	return among("device_search_"+column, `s.`+column+` = ?2`, `lower(s.`+column+`) = lower(?2 COLLATE "C")`)
}

const (
	isQuiet    = `s.quiet = 1`
	isChanged  = `s.boot IN ('changed', 'refused')`
	isUpdating = `s.status IN ('NEW', 'QUEUED', 'DOWNLOADING', 'SYNCING', 'INPROGRESS', 'TESTING')`
	isFailed   = `s.status IN ('ERROR', 'WONTGO')`
	isCloned   = `s.clone <> ''`
	// seenNow is the value of device_search.seen for an active device.
	seenNow = `9223372036854775807`
)

// walkState has, for each state, the walk through the devices in that state. walkField has, for
// each field, the walk through the devices with a given value of that field. All these walks are in
// the order of nicks. amongState and amongField have the corresponding statements of the function
// `among`. amongState has no statement for active devices, because most devices are active.
var (
	walkState = map[string]walk{
		store.StateActive:      active(),
		store.StateQuiet:       inState("device_search_quiet", isQuiet),
		store.StateBootChanged: inState("device_search_changed", isChanged),
		store.StateUpdating:    inState("device_search_updating", isUpdating),
		store.StateFailed:      inState("device_search_failed", isFailed),
		store.StateCloned:      inState("device_search_cloned", isCloned),
	}
	amongState = map[string]*Statement{
		store.StateQuiet:       among("device_search_quiet", isQuiet, isQuiet),
		store.StateBootChanged: among("device_search_changed", isChanged, isChanged),
		store.StateUpdating:    among("device_search_updating", isUpdating, isUpdating),
		store.StateFailed:      among("device_search_failed", isFailed, isFailed),
		store.StateCloned:      among("device_search_cloned", isCloned, isCloned),
	}
	walkField = map[store.SearchField]walk{
		store.FieldModel:    valued("model"),
		store.FieldMaker:    valued("maker"),
		store.FieldFirmware: valued("firmware"),
		store.FieldToken: withShort(justNick, func(columns string) walk {
			return equal(columns, "device_search_token", "token", `s.token`, `?2`)
		}),
	}
	amongField = map[store.SearchField]*Statement{
		store.FieldModel:    valuedAmong("model"),
		store.FieldMaker:    valuedAmong("maker"),
		store.FieldFirmware: valuedAmong("firmware"),
		store.FieldToken:    among("device_search_token", `s.token = ?2`, `s.token = ?2`),
	}
	// fieldIn has a statement for models and one for makers. It reads a limited number of devices
	// whose model or maker is in a list, which must be in lower case for PostgreSQL.
	fieldIn = map[store.SearchField]*Statement{
		store.FieldModel: listed("device_search_model", "model"),
		store.FieldMaker: listed("device_search_maker", "maker"),
	}
	walkMeta = withMeta()

	// selectFound reads the devices whose nick or serial number has a word in a range, which
	// includes its beginning but not its end. A device with two such words is in the result twice.
	// The last argument limits the number of words.
	selectFound = both(searchColumns+`(`+fewWords+`) AS n CROSS JOIN device_search s ON s.owner = ? AND s.nick = n.nick`,
		searchColumns+`(`+fewWords+`) AS n, LATERAL (SELECT * FROM device_search d WHERE d.owner = ? AND d.nick = n.nick LIMIT 1) AS s`)
	// selectByID reads the devices whose ids are in a range, which includes its beginning but not
	// its end. The engines must not use an index of the owner's devices: the + before a column
	// prevents this in SQLite, and the empty text appended to the owner prevents it in PostgreSQL.
	selectByID = both(searchColumns+`devices d CROSS JOIN device_search s ON s.owner = d.owner AND s.nick = d.nick
		WHERE d.id >= ? AND d.id < ? AND +d.owner = ? AND +d.deleted = 0 ORDER BY d.id LIMIT ?`,
		searchColumns+`(SELECT id, owner, nick FROM devices WHERE id >= ? AND id < ? AND owner || '' = ? AND deleted = 0 ORDER BY id LIMIT ?) AS d,
		LATERAL (SELECT * FROM device_search x WHERE x.owner = d.owner AND x.nick = d.nick LIMIT 1) AS s ORDER BY d.id`)
	// selectByNick reads the devices with the nicks of a list, in the order of the list.
	selectByNick = both(searchColumns+`json_each(?2) AS v CROSS JOIN device_search s ON s.owner = ?1 AND s.nick = v.value`,
		searchColumns+`unnest(?2::text[]) AS n (nick), LATERAL (SELECT * FROM device_search d WHERE d.owner = ?1 AND d.nick = n.nick LIMIT 1) AS s`)
	amongMeta = both(`SELECT m.nick FROM json_each(?2) AS v CROSS JOIN device_meta_terms m ON m.term = ?1 AND m.nick = v.value`,
		// The LIMIT makes PostgreSQL find each nick by the index. Without the LIMIT, PostgreSQL
		// would choose the plan by its statistics, and might read all devices with the term.
		`SELECT n.nick FROM (SELECT ?1::bigint AS term, unnest(?2::text[]) AS nick) AS n,
			LATERAL (SELECT 1 FROM device_meta_terms m WHERE m.term = n.term AND m.nick = n.nick LIMIT 1) AS m`)
	countMetaTerm = prepared(`SELECT count(*) FROM (SELECT 1 FROM device_meta_terms WHERE term = ? ORDER BY term, nick LIMIT ?) AS few`)
	countWord     = prepared(`SELECT count(*) FROM (` + fewWords + `) AS few`)
	// selectPageRows reads the fields of a page's rows that are not in the table device_search.
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

// pageRows returns the rows of the page that consists of `hits`, in the same order.
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
		return nil, badSearch("Devices cannot be sorted by %q: use nick, created, seen or model.", q.Sort)
	}
	if len(q.Words)+len(q.Terms) > store.MaxTerms {
		return nil, badSearch("The search has more than %d conditions: leave some of them out.", store.MaxTerms)
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
	var values commonValues
	for _, k := range f.conditions {
		if err := k.resolve(c, f.owner, &values); err != nil {
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
	// One row more than the limit shows whether there is a next page.
	most = max(most, limit+1)
	if p := f.plan(allColumns); len(p.rest) == 0 && len(p.among) == 0 {
		most = limit + 1 // every row that is read is a hit
	}
	hits, complete, end, err := f.walk(c, after, most, limit+1, allColumns)
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

// small returns all devices that match all conditions, unsorted. Call it only if at most smallSet
// devices match the first condition.
func (f *finder) small(c Conn) ([]found, error) {
	hits, err := f.conditions[0].all(c, f.owner, f.conditions)
	if err != nil {
		return nil, err
	}
	return f.withMetadata(c, hits, f.conditions)
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

// withMetadata removes the devices that do not match the conditions on metadata.
func (f *finder) withMetadata(c Conn, devices []found, conditions []*condition) ([]found, error) {
	var metadata []*condition
	for _, k := range conditions {
		if k.field == store.FieldMeta {
			metadata = append(metadata, k)
		}
	}
	if len(metadata) == 0 {
		return devices, nil
	}
	list := make([]string, len(devices))
	for i := range devices {
		list[i] = devices[i].nick
	}
	list, err := f.among(c, list, metadata)
	if err != nil {
		return nil, err
	}
	// `among` keeps the order of the nicks, so both lists are in the same order.
	return slices.DeleteFunc(devices, func(d found) bool {
		if len(list) == 0 || list[0] != d.nick {
			return true
		}
		list = list[1:]
		return false
	}), nil
}

// among returns those nicks of a list whose devices match all conditions, in the order of the list.
// It runs only one statement for each condition, because with PostgreSQL each statement is a round
// trip to the server.
func (f *finder) among(c Conn, list []string, conditions []*condition) ([]string, error) {
	for _, k := range conditions {
		if len(list) == 0 {
			break
		}
		var fit []string
		if err := c.EachColumns(k.among, func(r Columns) (bool, error) {
			fit = append(fit, r.Text(0, ""))
			return true, nil
		}, append(k.shortArgs(f.owner), list)...); err != nil {
			return nil, err
		}
		list = fit
	}
	return list, nil
}

// walk returns the first devices that match, at most `enough`, in the order of the result. It
// examines at most `most` devices, and reads at least the columns `want` of each hit. `complete` is
// true if the walk examined all devices. If `complete` is false and there are fewer than `enough`
// hits, `end` is the place of the last examined device.
func (f *finder) walk(c Conn, after *place, most, enough int, want columns) (hits []found, complete bool, end *place, err error) {
	p := f.plan(want)
	at := f.start()
	if after != nil {
		at = *after
	}
	n := min(firstStretch, max(enough, 50))
	for examined := 0; examined < most && len(hits) < enough; n *= 2 {
		s := stretch{n: min(n, most-examined), enough: enough - len(hits), want: want,
			args: append(slices.Clone(p.args), f.key(at, after == nil && examined == 0, f.last)...)}
		if len(p.among) > 0 {
			err = f.readShort(c, p, &s)
		} else {
			err = f.read(c, p, &s)
		}
		if err != nil {
			return nil, false, nil, err
		}
		hits = append(hits, s.hits[:min(len(s.hits), s.enough)]...)
		if s.read < s.n && len(hits) < enough {
			return hits, true, nil, nil
		}
		examined, at = examined+s.read, s.last
	}
	return hits, false, &at, nil
}

// stretch is the part of a walk that one statement reads.
type stretch struct {
	args   []any   // arguments of the statement, without the limit
	n      int     // largest number of rows
	enough int     // number of hits that are needed
	want   columns // columns that each hit must have

	hits []found
	read int   // number of examined rows
	last place // place of the row with the number n, if there are n rows
}

// read reads a stretch with all columns of the devices.
func (f *finder) read(c Conn, p searchPlan, s *stretch) error {
	byMeta := slices.ContainsFunc(p.rest, func(k *condition) bool { return k.field == store.FieldMeta })
	var row reader
	if err := c.EachColumns(p.statement, func(r Columns) (bool, error) {
		row.next(r)
		if s.read++; row.fits(p.rest) {
			row.read(s.want)
			s.hits = append(s.hits, row.found)
		}
		if s.read == s.n {
			row.read(f.order.columns())
			s.last = f.order.place(&row.found)
		}
		return byMeta || len(s.hits) < s.enough, nil
	}, append(s.args, int64(s.n))...); err != nil {
		return err
	}
	var err error
	s.hits, err = f.withMetadata(c, s.hits, p.rest)
	return err
}

// readShort first reads only the nicks of a stretch. It uses indexes to find out which of them
// match the conditions in p.among, and then reads only those devices.
func (f *finder) readShort(c Conn, p searchPlan, s *stretch) (err error) {
	list := make([]string, 0, s.n)
	if err := c.EachColumns(p.statement, func(r Columns) (bool, error) {
		list = append(list, r.Text(0, ""))
		if s.read++; s.read == s.n {
			s.last = f.order.shortPlace(r)
		}
		return true, nil
	}, append(s.args, int64(s.n))...); err != nil {
		return err
	}
	if list, err = f.among(c, list, p.among); err != nil || len(list) == 0 {
		return err
	}
	if len(p.rest) == 0 && s.want == colNick { // a count
		for _, nick := range list {
			s.hits = append(s.hits, found{nick: nick})
		}
		return nil
	}
	for len(list) > 0 && len(s.hits) < s.enough {
		next := min(len(list), max(s.enough-len(s.hits), 50))
		if s.hits, err = appendFound(c, s.hits, p.rest, selectByNick, f.owner, list[:next]); err != nil {
			return err
		}
		list = list[next:]
	}
	return nil
}

// searchPlan says how a walk reads the devices in the order of the result.
type searchPlan struct {
	statement *Statement
	args      []any // arguments of the statement that come before the place
	// among contains the conditions that are evaluated with an index, before any device row is
	// read: all conditions on metadata, and one other condition that has an index. A count needs
	// only the nicks of the devices, so for a count, among contains all conditions that have an
	// index. If `among` is not empty, `statement` reads only the columns of walk.short.
	among []*condition
	rest  []*condition // the other conditions, which neither the statement nor an index checks
}

// plan returns the plan of a walk that reads the columns `want` of each hit.
func (f *finder) plan(want columns) searchPlan {
	w := walkAll[f.order.key]
	p := searchPlan{args: []any{f.owner}, rest: f.conditions}
	var source *condition
	if i := slices.IndexFunc(f.conditions, func(k *condition) bool { return k.walk.up != nil }); i >= 0 && f.order.key == store.SortNick {
		source = f.conditions[i]
		w, p.args, p.rest = source.walk, source.args(f.owner), slices.Delete(slices.Clone(f.conditions), i, i+1)
	}
	if w.short != nil {
		other := false
		p.rest = slices.DeleteFunc(slices.Clone(p.rest), func(k *condition) bool {
			is := k.field == store.FieldMeta || k.among != nil && (!other || want == colNick)
			other = other || is && k.field != store.FieldMeta
			if is {
				p.among = append(p.among, k)
			}
			return is
		})
	}
	if len(p.among) > 0 {
		w = *w.short
		if source != nil {
			p.args = source.shortArgs(f.owner)
		}
	}
	p.statement = w.in(f.order)
	return p
}

// The method `start` returns a place before all devices.
func (f *finder) start() place {
	if f.order.down {
		return place{Number: 1<<63 - 1}
	}
	return place{Number: -1 << 63}
}

// The method `key` returns the place `p` as arguments of a walk's statement. If `first` is true,
// the walk starts at the first device of the order. In a descending order, the arguments then
// contain `last`, which is greater than all texts, so that no device is before this place.
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

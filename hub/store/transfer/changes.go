package transfer

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"gangway/hub/store/sqlite"
)

// A move copies a hub's database from a SQLite file to PostgreSQL. During the move, triggers in the
// file write the key of each changed row to the table move_changes, whose columns k1 to k5 hold the
// values of the key's columns, with their types. They are NULL for a table whose key ignores case,
// because the move copies such a table as a whole.
//
// The table move_state has one row: the id of the move, the version of the schema when the move
// began, and the time at which a program last worked on the move.
const watchSchema = `CREATE TABLE IF NOT EXISTS move_state (id TEXT NOT NULL, schema INTEGER NOT NULL, worked INTEGER NOT NULL);
	CREATE TABLE IF NOT EXISTS move_changes (n INTEGER PRIMARY KEY AUTOINCREMENT, tab TEXT NOT NULL, k1, k2, k3, k4, k5);
	`

// maxKey is the largest number of columns in the primary key of a table.
const maxKey = 5

// watch adds the triggers to the file, unless an earlier call has added them. Then it checks that
// the schema is still the one for which the triggers were made.
func (m *Move) watch(ctx context.Context) error {
	var text strings.Builder
	text.WriteString("BEGIN IMMEDIATE; " + watchSchema)
	for _, t := range tables {
		text.WriteString(t.triggers())
	}
	fmt.Fprintf(&text, `INSERT INTO move_state SELECT '%s', (SELECT max(version_id) FROM goose_db_version), 0 WHERE NOT EXISTS (SELECT 1 FROM move_state);
		UPDATE move_state SET worked = %d; COMMIT`, rand.Text(), time.Now().Unix())
	c, err := m.from.Conn(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.ExecContext(ctx, text.String()); err != nil {
		_, _ = c.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
		return err
	}
	return m.checkSchema(ctx)
}

// triggers returns the triggers that write the changes of a table to move_changes.
func (t table) triggers() string {
	key := t.key
	if t.whole {
		key = nil
	}
	into, of := "", map[string]string{"NEW": "", "OLD": ""}
	var moved []string // conditions for a changed key
	for i, name := range key {
		into += fmt.Sprintf(", k%d", i+1)
		for row := range of {
			of[row] += fmt.Sprintf(`, %s."%s"`, row, name)
		}
		moved = append(moved, fmt.Sprintf(`OLD."%s" IS NOT NEW."%[1]s"`, name))
	}
	note := func(row, condition string) string {
		return fmt.Sprintf("INSERT INTO move_changes (tab%s) SELECT '%s'%s%s; ", into, t.name, of[row], condition)
	}
	update := note("NEW", "")
	if len(moved) > 0 {
		update += note("OLD", " WHERE "+strings.Join(moved, " OR "))
	}
	var text string
	for event, body := range map[string]string{"INSERT": note("NEW", ""), "UPDATE": update, "DELETE": note("OLD", "")} {
		text += fmt.Sprintf("CREATE TRIGGER IF NOT EXISTS %s AFTER %s ON %s BEGIN %sEND;\n", t.trigger(event), event, t.name, body)
	}
	return text
}

func (t table) trigger(event string) string { return "move_" + strings.ToLower(event) + "_" + t.name }

// checkSchema reads the id of the move. It returns ErrUpgraded if the schema of the file has
// changed since the triggers were made, because a migration may have removed tables together with
// their triggers.
func (m *Move) checkSchema(ctx context.Context) error {
	var then, now, triggers int
	err := m.from.QueryRowContext(ctx, `SELECT id, schema, (SELECT max(version_id) FROM goose_db_version),
		(SELECT count(*) FROM sqlite_schema WHERE type = 'trigger' AND name LIKE 'move\_%' ESCAPE '\') FROM move_state`).Scan(&m.id, &then, &now, &triggers)
	if err == nil && (then != now || triggers != 3*len(tables)) {
		return ErrUpgraded
	}
	return err
}

// Stop gives up a move: it removes the triggers of the move from the file, and the changes that
// they have recorded. This also works after Finish has locked the file. Stop does nothing if the
// file is not being moved, or if `idle` is not 0 and a program has worked on the move within the
// last `idle`.
func Stop(ctx context.Context, file string, idle time.Duration) (stopped bool, err error) {
	done, err := sqlite.TakeTurn(file)
	if err != nil {
		return false, err
	}
	defer done()
	db, err := openFile(file, "mode=rw&_pragma=busy_timeout(5000)")
	if err != nil {
		return false, err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	var exists bool
	if err := db.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'move_state')`).Scan(&exists); err != nil || !exists {
		return false, err
	}
	var worked int64
	if err := db.QueryRowContext(ctx, `SELECT coalesce(max(worked), 0) FROM move_state`).Scan(&worked); err != nil {
		return false, err
	}
	if idle > 0 && time.Since(time.Unix(worked, 0)) < idle {
		return false, nil
	}
	text := "BEGIN IMMEDIATE; "
	for _, t := range tables {
		for _, event := range []string{"INSERT", "UPDATE", "DELETE"} {
			text += "DROP TRIGGER IF EXISTS " + t.trigger(event) + "; DROP TRIGGER IF EXISTS moved_" + event + "_" + t.name + "; "
		}
	}
	_, err = db.ExecContext(ctx, text+"DROP TABLE move_state; DROP TABLE move_changes; COMMIT")
	return err == nil, err
}

// keys holds the keys of changed rows, without duplicates, by table. For a table whose key ignores
// case, it has just one key, which is empty.
type keys map[string][][]any

// changes reads the keys of all changed rows, and the number of the last change.
func (m *Move) changes(ctx context.Context, from *sql.Tx) (changed keys, last int64, err error) {
	if err := from.QueryRowContext(ctx, `SELECT coalesce(max(n), 0) FROM move_changes`).Scan(&last); err != nil || last == 0 {
		return nil, 0, err
	}
	length := map[string]int{}
	for _, t := range tables {
		if length[t.name] = len(t.key); t.whole {
			length[t.name] = 0
		}
	}
	changed = keys{}
	err = eachRow(ctx, from, `SELECT DISTINCT tab, k1, k2, k3, k4, k5 FROM move_changes`, nil, 1+maxKey, func(row []any) error {
		name := row[0].(string)
		changed[name] = append(changed[name], row[1:1+length[name]])
		return nil
	})
	return changed, last, err
}

// CatchUp copies the rows that have changed since its last call, compares the copies with the
// originals, and returns how many rows had changed.
func (m *Move) CatchUp(ctx context.Context) (n int, err error) {
	n, last, err := m.catchUp(ctx)
	if err != nil || n == 0 {
		return 0, err
	}
	return n, m.forget(ctx, last)
}

// catchUp copies and compares the rows as CatchUp does, but leaves the rows of move_changes in
// place. `last` is the number of the last of these that it has read.
func (m *Move) catchUp(ctx context.Context) (n int, last int64, err error) {
	from, err := m.from.BeginTx(ctx, nil) // all reads see the same state of the file
	if err != nil {
		return 0, 0, err
	}
	defer func() { _ = from.Rollback() }()
	changed, last, err := m.changes(ctx, from)
	if err != nil || last == 0 {
		return 0, 0, err
	}
	for _, list := range changed {
		n += len(list)
	}
	return n, last, m.transact(ctx, func() error { return m.apply(ctx, from, changed) })
}

// The method `forget` removes the rows of move_changes up to the number `last`. It uses several
// short writes, because a long write would delay the hub.
func (m *Move) forget(ctx context.Context, last int64) error {
	for {
		result, err := m.from.ExecContext(ctx, `DELETE FROM move_changes WHERE n <= min(?, (SELECT min(n) FROM move_changes) + 5000)`, last)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return err
		}
	}
}

// The method `apply` replaces the changed rows in the target with those in the file. It first
// deletes all old rows, so that a unique value can pass from one row to another. This is possible
// because the target has no foreign keys during the move.
func (m *Move) apply(ctx context.Context, from *sql.Tx, changed keys) error {
	for _, t := range tables {
		if t.whole && changed[t.name] != nil {
			if err := m.to.Exec(ctx, "DELETE FROM "+t.name); err != nil {
				return err
			}
			continue
		}
		for batch := range slices.Chunk(changed[t.name], portion) {
			err := m.withKeys(ctx, t, batch, func() error {
				return m.to.Exec(ctx, "DELETE FROM "+t.name+" USING move_keys WHERE "+t.joined())
			})
			if err != nil {
				return fmt.Errorf("remove old rows of %s: %w", t.name, err)
			}
		}
	}
	for _, t := range tables {
		if t.whole && changed[t.name] != nil {
			if err := m.applyWhole(ctx, from, t); err != nil {
				return fmt.Errorf("copy %s again: %w", t.name, err)
			}
			continue
		}
		for batch := range slices.Chunk(changed[t.name], portion) {
			if err := m.applyRows(ctx, from, t, batch); err != nil {
				return fmt.Errorf("copy changed rows of %s: %w", t.name, err)
			}
		}
	}
	return nil
}

// withKeys writes the keys `list` to move_keys, a temporary table of the target, calls the function
// `f`, and then removes the table.
func (m *Move) withKeys(ctx context.Context, t table, list [][]any, f func() error) error {
	if err := m.to.Exec(ctx, "CREATE TEMPORARY TABLE move_keys AS SELECT "+quoted(t.key)+" FROM "+t.name+" LIMIT 0"); err != nil {
		return err
	}
	if err := m.to.CopyIn(ctx, "move_keys", t.key, list); err != nil {
		return err
	}
	// Without statistics, the planner would read the whole table to find a few rows.
	if err := m.to.Exec(ctx, "ANALYZE move_keys"); err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	return m.to.Exec(ctx, "DROP TABLE move_keys")
}

// joined returns the SQL condition that a row of the table has one of the keys in move_keys.
func (t table) joined() string {
	list := make([]string, len(t.key))
	for i, name := range t.key {
		list[i] = fmt.Sprintf(`%s."%s" = move_keys."%[2]s"`, t.name, name)
	}
	return strings.Join(list, " AND ")
}

// applyRows copies the rows with the keys in `list`, as far as they still exist, and compares the
// copies with the originals.
func (m *Move) applyRows(ctx context.Context, from *sql.Tx, t table, list [][]any) error {
	columns := m.columns[t.name]
	holes := make([]string, len(t.key))
	for i, name := range t.key {
		holes[i] = `"` + name + `" = ?`
	}
	query := "SELECT " + quoted(columns) + " FROM " + t.name + " WHERE " + strings.Join(holes, " AND ")
	var rows [][]any
	for _, key := range list {
		err := eachRow(ctx, from, query, key, len(columns), func(row []any) error {
			// If a column ignores case, the query also finds a row whose key differs in case.
			if name(m.keyOf(t, row)) == name(key) {
				rows = append(rows, row)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if err := m.to.CopyIn(ctx, t.name, columns, rows); err != nil {
		return err
	}
	selected := t.name + `."` + strings.Join(columns, `", `+t.name+`."`) + `"`
	return m.withKeys(ctx, t, list, func() error {
		return m.compareRows(ctx, t, rows, "SELECT "+selected+" FROM "+t.name+", move_keys WHERE "+t.joined())
	})
}

// applyWhole copies a whole table, and compares the copy with the original.
func (m *Move) applyWhole(ctx context.Context, from *sql.Tx, t table) error {
	columns := m.columns[t.name]
	var rows [][]any
	err := eachRow(ctx, from, m.selection(t, 0), nil, len(columns), func(row []any) error {
		rows = append(rows, row)
		return nil
	})
	if err != nil {
		return err
	}
	if err := m.to.CopyIn(ctx, t.name, columns, rows); err != nil {
		return err
	}
	return m.compareRows(ctx, t, rows, m.selection(t, 0))
}

// compareRows returns an error unless a query of the target returns exactly these rows, in any
// order.
func (m *Move) compareRows(ctx context.Context, t table, rows [][]any, query string) error {
	mine := make(map[string][]any, len(rows))
	for _, row := range rows {
		mine[name(m.keyOf(t, row))] = row
	}
	err := m.to.Query(ctx, query, nil, func(theirs []any) error {
		key := name(m.keyOf(t, theirs))
		row, ok := mine[key]
		if !ok {
			return fmt.Errorf("the row %s is only in PostgreSQL", key)
		}
		delete(mine, key)
		return m.equal(t, row, theirs)
	})
	if err == nil && len(mine) > 0 {
		err = fmt.Errorf("%d rows are missing in PostgreSQL", len(mine))
	}
	return err
}

// The function `name` returns a text for a key. Different keys have different texts.
func name(key []any) string {
	var b []byte
	for _, v := range key {
		switch v := v.(type) {
		case int64:
			b = strconv.AppendInt(append(b, 'i'), v, 10)
		case string:
			b = strconv.AppendQuote(append(b, 's'), v)
		case []byte:
			b = strconv.AppendQuote(append(b, 'b'), string(v))
		}
	}
	return string(b)
}

package transfer

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"

	"gangway/hub/store/sqlstore"
)

// columnsOf returns the columns of a table. They have the same names in both databases, but not the
// same order.
func (m *Move) columnsOf(ctx context.Context, table string) (columns []string, err error) {
	rows, err := m.from.QueryContext(ctx, `SELECT name FROM pragma_table_info(?)`, table)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		columns = append(columns, name)
	}
	if len(columns) == 0 {
		return nil, errors.New("the SQLite database does not have this table")
	}
	return columns, rows.Err()
}

// selection returns a query for all columns of a table. For the rows and their order, see
// table.selection.
func (m *Move) selection(t table, after int) string { return t.selection(m.columns[t.name], after) }

// selection returns a query for columns of the table's rows, in the order of their keys. If `after`
// is 0, the query returns all rows. Otherwise `after` is the number of columns of the key, and the
// query takes the values of a key as its arguments, and returns the rows with greater keys.
func (t table) selection(columns []string, after int) string {
	query := "SELECT " + quoted(columns) + " FROM " + t.name
	if after > 0 {
		holes := strings.TrimSuffix(strings.Repeat("?, ", after), ", ")
		query += " WHERE (" + quoted(t.key) + ") > (" + holes + ")"
	}
	return query + " ORDER BY " + quoted(t.key)
}

func quoted(names []string) string { return `"` + strings.Join(names, `", "`) + `"` }

// The method `copy` copies those rows of a table that the target does not have yet.
func (m *Move) copy(ctx context.Context, table table) error {
	last, total, err := m.copied(ctx, table)
	if err != nil {
		return err
	}
	for {
		rows, more, err := m.read(ctx, table, last)
		if err != nil {
			return err
		}
		if len(rows) > 0 || table.whole {
			if err := m.add(ctx, table, rows); err != nil {
				return err
			}
		}
		total += int64(len(rows))
		if m.Progress != nil {
			m.Progress(table.name, total)
		}
		if !more {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		last = m.keyOf(table, rows[len(rows)-1])
	}
}

// The method `add` adds a portion of a table's rows to the target. If the key of the table ignores
// case, it replaces the whole table instead.
//
// If the target already has another row with the same unique value, for example the same nick,
// `add` leaves out the new row. This can happen because portions are read at different times: after
// the other row was copied, its value may have passed to the new row in the file. CatchUp will copy
// both rows again.
func (m *Move) add(ctx context.Context, table table, rows [][]any) error {
	columns := m.columns[table.name]
	err := m.transact(ctx, func() error {
		if table.whole {
			if err := m.to.Exec(ctx, "DELETE FROM "+table.name); err != nil {
				return err
			}
		}
		return m.to.CopyIn(ctx, table.name, columns, rows)
	})
	if !errors.Is(err, sqlstore.ErrConstraint) || table.whole {
		return err
	}
	return m.transact(ctx, func() error {
		if err := m.to.Exec(ctx, "CREATE TEMPORARY TABLE move_rows (LIKE "+table.name+") ON COMMIT DROP"); err != nil {
			return err
		}
		if err := m.to.CopyIn(ctx, "move_rows", columns, rows); err != nil {
			return err
		}
		list := quoted(columns)
		return m.to.Exec(ctx, "INSERT INTO "+table.name+" ("+list+") SELECT "+list+" FROM move_rows ON CONFLICT DO NOTHING")
	})
}

// transact calls a function in a transaction of the target.
func (m *Move) transact(ctx context.Context, f func() error) error {
	if err := m.to.Exec(ctx, "BEGIN"); err != nil {
		return err
	}
	if err := f(); err != nil {
		m.to.Rollback()
		return err
	}
	return m.to.Exec(ctx, "COMMIT")
}

// keyOf returns the key of a row.
func (m *Move) keyOf(t table, row []any) []any {
	key := make([]any, len(t.key))
	for i, name := range t.key {
		key[i] = row[slices.Index(m.columns[t.name], name)]
	}
	return key
}

// The method `copied` returns the key of a table's last row in the target, and the number of its
// rows there.
func (m *Move) copied(ctx context.Context, table table) (last []any, rows int64, err error) {
	if table.whole {
		return nil, 0, nil
	}
	query := "SELECT " + quoted(table.key) + ", count(*) OVER () FROM " + table.name + " ORDER BY "
	for i, name := range table.key {
		if i > 0 {
			query += ", "
		}
		query += `"` + name + `" DESC`
	}
	err = m.to.Query(ctx, query+" LIMIT 1", nil, func(row []any) error {
		last, rows = append(last, row[:len(table.key)]...), row[len(table.key)].(int64)
		return nil
	})
	return last, rows, err
}

// The method `read` returns the next portion of a table's rows in the file, or all rows if the
// table is copied as a whole. `more` is true if there may be more rows.
func (m *Move) read(ctx context.Context, table table, last []any) (list [][]any, more bool, err error) {
	size := 0
	err = eachRow(ctx, m.from, m.selection(table, len(last)), last, len(m.columns[table.name]), func(row []any) error {
		list = append(list, row)
		for _, v := range row {
			switch v := v.(type) {
			case string:
				size += len(v)
			case []byte:
				size += len(v)
			}
		}
		if !table.whole && (len(list) == portion || size >= portionBytes) {
			return errEnough
		}
		return nil
	})
	if err == errEnough {
		return list, true, nil
	}
	return list, false, err
}

// querier is the file, or a transaction of the file.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// eachRow calls the function `f` with each row of a query of a file.
func eachRow(ctx context.Context, from querier, query string, args []any, columns int, f func(row []any) error) error {
	rows, err := from.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		row := make([]any, columns)
		into := make([]any, columns)
		for i := range row {
			into[i] = &row[i]
		}
		if err := rows.Scan(into...); err != nil {
			return err
		}
		if err := f(row); err != nil {
			return err
		}
	}
	return rows.Err()
}

package transfer

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// compare compares all rows of a table in both databases, except the rows that have changed since
// the last CatchUp. These are compared by the next CatchUp.
func (m *Move) compare(ctx context.Context, t table) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	from, err := m.from.BeginTx(ctx, nil) // all reads see the same state of the file and of move_changes
	if err != nil {
		return err
	}
	defer func() { _ = from.Rollback() }()
	changed, _, err := m.changes(ctx, from)
	if err != nil || t.whole && changed[t.name] != nil {
		return err
	}
	skip := map[string]bool{}
	for _, key := range changed[t.name] {
		skip[name(key)] = true
	}
	mine := make(chan []any, 100)
	read := make(chan error, 1)
	go func() {
		defer close(mine)
		read <- eachRow(ctx, from, m.selectionByBytes(t), nil, len(m.columns[t.name]), func(row []any) error {
			if skip[name(m.keyOf(t, row))] {
				return nil
			}
			select {
			case mine <- row:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	err = m.to.Query(ctx, m.selection(t, 0), nil, func(theirs []any) error {
		key := name(m.keyOf(t, theirs))
		if skip[key] {
			return nil
		}
		row, ok := <-mine
		if !ok {
			return fmt.Errorf("the row %s is only in PostgreSQL", key)
		}
		return m.equal(t, row, theirs)
	})
	if err == nil {
		if row, more := <-mine; more {
			err = fmt.Errorf("the row %s is missing in PostgreSQL", name(m.keyOf(t, row)))
		}
	}
	cancel()
	for range mine { // drop the remaining rows, until the goroutine has ended
	}
	if failed := <-read; err == nil && !errors.Is(failed, context.Canceled) {
		err = failed
	}
	return err
}

// The method `equal` returns an error if two rows differ.
func (m *Move) equal(t table, mine, theirs []any) error {
	for i, value := range mine {
		if !same(value, theirs[i]) {
			return fmt.Errorf("the column %s of the row %s differs", m.columns[t.name][i], name(m.keyOf(t, mine)))
		}
	}
	return nil
}

// The function `same` reports whether two values are equal. A nil []byte equals an empty one.
func same(a, b any) bool {
	if x, ok := a.([]byte); ok {
		y, ok := b.([]byte)
		return ok && string(x) == string(y)
	}
	return a == b
}

// selectionByBytes returns a query for all rows of a table in the file, in the order in which
// PostgreSQL sorts them.
func (m *Move) selectionByBytes(t table) string {
	order := make([]string, len(t.key))
	for i, name := range t.key {
		order[i] = `"` + name + `" COLLATE BINARY`
	}
	return "SELECT " + quoted(m.columns[t.name]) + " FROM " + t.name + " ORDER BY " + strings.Join(order, ", ")
}

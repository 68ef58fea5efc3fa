package transfer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"gangway/hub/store/postgres"
	"gangway/hub/store/sqlstore"
)

// During the move, the target has no foreign keys, because rows arrive in any order. Its triggers
// are off, because the file already contains the rows that they would write. The table move_state
// holds the id of the move, and the definitions with which the foreign keys are restored.

// prepare checks that the target is empty or belongs to this move, and then marks it with the id of
// this move.
func (m *Move) prepare(ctx context.Context, hub string) error {
	if err := m.to.Exec(ctx, `CREATE TABLE IF NOT EXISTS move_state (name text PRIMARY KEY, value text NOT NULL)`); err != nil {
		return err
	}
	id := ""
	err := m.to.Query(ctx, `SELECT value FROM move_state WHERE name = 'id'`, nil, func(row []any) error {
		id = row[0].(string)
		return nil
	})
	switch {
	case err != nil:
		return err
	case hub != "" && (hub != m.Hub || id != m.id):
		return fmt.Errorf("%w: %s", ErrUsed, hub)
	case id != "" && id != m.id:
		return ErrOther
	case id == "":
		if err := m.checkEmpty(ctx); err != nil {
			return err
		}
	}
	// If the last step was interrupted, the target already has the hub's name. It is safe to remove
	// this name, because no hub has used the target yet: a hub that does removes the table
	// move_state.
	text := fmt.Sprintf(`BEGIN; INSERT INTO move_state VALUES ('id', '%s') ON CONFLICT DO NOTHING; DELETE FROM settings WHERE name = '%s';
		INSERT INTO move_state SELECT 'foreign key ' || conrelid::regclass || ' ' || conname, pg_get_constraintdef(oid)
			FROM pg_constraint WHERE contype = 'f' AND connamespace = current_schema()::regnamespace ON CONFLICT DO NOTHING; `, m.id, sqlstore.SettingHub)
	for _, t := range tables {
		text += "ALTER TABLE " + t.name + " DISABLE TRIGGER USER; "
	}
	err = m.to.Query(ctx, `SELECT conrelid::regclass::text, conname::text FROM pg_constraint WHERE contype = 'f' AND connamespace = current_schema()::regnamespace`, nil, func(row []any) error {
		text += fmt.Sprintf("ALTER TABLE %s DROP CONSTRAINT %s; ", row[0], row[1])
		return nil
	})
	if err != nil {
		return err
	}
	if err := m.to.Exec(ctx, text+"COMMIT"); err != nil {
		m.to.Rollback()
		return err
	}
	return nil
}

// checkEmpty returns an error if the target has rows of a hub. It ignores the tables that a move
// replaces as a whole, because some of them have rows from the beginning.
func (m *Move) checkEmpty(ctx context.Context) error {
	for _, t := range tables {
		if t.whole {
			continue
		}
		some := false
		err := m.to.Query(ctx, "SELECT 1 FROM "+t.name+" LIMIT 1", nil, func([]any) error {
			some = true
			return nil
		})
		if err != nil {
			return err
		}
		if some {
			return fmt.Errorf("%w (the table %s)", ErrOther, t.name)
		}
	}
	return nil
}

// Finish copies the last changes of a file that no hub uses any more. In the target, it restores
// the triggers and foreign keys, sets the counters, and writes the hub's name. Meanwhile it holds
// the file's write lock. Finally, it makes every later write to the file fail, even one of an
// operator's command that opened the file earlier.
func (m *Move) Finish(ctx context.Context) error {
	if err := m.checkSchema(ctx); err != nil {
		return err
	}
	file, err := m.from.Conn(ctx)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	unlock := "ROLLBACK"
	defer func() { _, _ = file.ExecContext(context.WithoutCancel(ctx), unlock) }()
	if _, _, err := m.catchUp(ctx); err != nil {
		return err
	}
	if err := m.finishTarget(ctx); err != nil {
		return err
	}
	if _, err := file.ExecContext(ctx, closing()); err != nil {
		return err
	}
	unlock = "COMMIT"
	return nil
}

// The function `closing` returns the statements that make every later write to the file fail.
func closing() string {
	var text strings.Builder
	for _, t := range tables {
		for _, event := range []string{"INSERT", "UPDATE", "DELETE"} {
			fmt.Fprintf(&text, "CREATE TRIGGER IF NOT EXISTS moved_%s_%s BEFORE %[1]s ON %[2]s BEGIN SELECT RAISE(ABORT, 'the database was moved to PostgreSQL'); END;\n", event, t.name)
		}
	}
	return text.String()
}

// Closed reports whether Finish has locked a file against writes.
func Closed(ctx context.Context, file string) (closed bool, err error) {
	db, err := openFile(file, "mode=rw&_pragma=busy_timeout(5000)")
	if err != nil {
		return false, err
	}
	defer db.Close()
	err = db.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND name LIKE 'moved\_%' ESCAPE '\')`).Scan(&closed)
	return closed, err
}

func (m *Move) finishTarget(ctx context.Context) error {
	text := []string{"BEGIN"}
	for _, t := range tables {
		text = append(text, "ALTER TABLE "+t.name+" ENABLE TRIGGER USER")
		if t.counter == "" {
			continue
		}
		last, err := m.last(ctx, t)
		if err != nil {
			return err
		}
		if last > 0 {
			text = append(text, fmt.Sprintf("SELECT setval(pg_get_serial_sequence('%s', '%s'), %d)", t.name, t.counter, last))
		}
	}
	// The rows come from the file, in which no row violates a foreign key. So these statements do
	// not check the rows; Validate does that later.
	err := m.to.Query(ctx, `SELECT name, value FROM move_state WHERE name LIKE 'foreign key %'`, nil, func(row []any) error {
		name := strings.Fields(row[0].(string))
		text = append(text, fmt.Sprintf("ALTER TABLE %s ADD CONSTRAINT %s %s NOT VALID", name[2], name[3], strings.TrimSuffix(row[1].(string), " NOT VALID")))
		return nil
	})
	if err != nil {
		return err
	}
	text = append(text, fmt.Sprintf("INSERT INTO settings (name, value) VALUES ('%s', '%s')", sqlstore.SettingHub, strings.ReplaceAll(m.Hub, "'", "''")), "COMMIT")
	if err := m.to.Exec(ctx, strings.Join(text, "; ")); err != nil {
		m.to.Rollback()
		return err
	}
	return nil
}

// The method `last` returns the last number that a table has used.
func (m *Move) last(ctx context.Context, t table) (int64, error) {
	query := "SELECT max(" + t.counter + ") FROM " + t.name
	if t.never {
		query = "SELECT max(seq) FROM sqlite_sequence WHERE name = '" + t.name + "'"
	}
	var last sql.NullInt64
	err := m.from.QueryRowContext(ctx, query).Scan(&last)
	return last.Int64, err
}

// Validate checks the foreign keys that Finish has restored. The hub may already use the target
// while it runs.
func Validate(ctx context.Context, to postgres.Config) (err error) {
	raw, err := postgres.OpenRaw(ctx, to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, raw.Close()) }()
	var list []string
	err = raw.Query(ctx, `SELECT conrelid::regclass::text, conname::text FROM pg_constraint WHERE contype = 'f' AND NOT convalidated`, nil, func(row []any) error {
		list = append(list, fmt.Sprintf("ALTER TABLE %s VALIDATE CONSTRAINT %s", row[0], row[1]))
		return nil
	})
	if err != nil {
		return err
	}
	for _, one := range list {
		if err := raw.Exec(ctx, one); err != nil {
			return err
		}
	}
	return nil
}

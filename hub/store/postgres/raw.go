package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"gangway/hub/store/sqlstore"

	"github.com/jackc/pgx/v5/pgconn"
)

// ErrNotNew means that a database already has the schema of another version, or belongs to a hub.
var ErrNotNew = errors.New("postgres: the database is not new")

// Create makes the schema of a version in an empty database; 0 means the newest version. If the
// database already has the schema of this version, and belongs to no hub, Create changes nothing.
// If this program does not know the version, Create returns ErrNewerSchema.
func Create(ctx context.Context, config Config, version int) error {
	parsed, _, err := config.parse()
	if err != nil {
		return err
	}
	folder, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	list, err := readMigrations(folder)
	if err != nil {
		return err
	}
	if version == 0 {
		version = len(list)
	}
	if version < 0 || version > len(list) {
		return fmt.Errorf("postgres: the database has schema version %d, but this program knows only versions up to %d: %w", version, len(list), ErrNewerSchema)
	}
	pg, err := pgconn.ConnectConfig(ctx, parsed)
	if err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	defer pg.Close(context.Background())
	is, err := versionOf(ctx, pg, list)
	if err != nil {
		return err
	}
	if is == 0 {
		return migrate(ctx, pg, list[:version])
	}
	if is != version {
		return fmt.Errorf("%w: the database already has schema version %d", ErrNotNew, is)
	}
	row, _, err := firstRow(ctx, pg, `SELECT coalesce((SELECT value FROM settings WHERE name = '`+sqlstore.SettingHub+`'), '')`)
	if err == nil && row[0] != "" {
		err = fmt.Errorf("%w: it belongs to the hub %s", ErrNotNew, row[0])
	}
	return err
}

// Raw is a connection for package transfer, which copies whole tables.
type Raw struct{ c *conn }

// OpenRaw opens a connection to a database that has the schema of this version.
func OpenRaw(ctx context.Context, config Config) (*Raw, error) {
	parsed, _, err := config.parse()
	if err != nil {
		return nil, err
	}
	pg, err := pgconn.ConnectConfig(ctx, parsed)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	return &Raw{&conn{pg: pg, ctx: ctx, work: &workCounters{}, batch: &pgconn.Batch{}}}, nil
}

// BeginSnapshot begins a read-only transaction, all of whose queries see the database as it is when
// the first of them runs.
func (r *Raw) BeginSnapshot(ctx context.Context) error {
	r.c.ctx, r.c.failed = ctx, nil
	_, err := r.c.control("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
	return err
}

// Close closes the connection.
func (r *Raw) Close() error { return r.c.close() }

// Query calls `f` with each row of a query. The values in a row are of type int64, string or
// []byte, or nil.
func (r *Raw) Query(ctx context.Context, sql string, args []any, f func(row []any) error) error {
	r.c.ctx, r.c.failed = ctx, nil
	return r.c.rows(sqlstore.OnceForPostgres(sql), func(result *pgconn.ResultReader) (bool, error) {
		if err := r.c.decode(result); err != nil {
			return false, err
		}
		row := slices.Clone(r.c.values)
		for i, v := range row {
			if b, ok := v.([]byte); ok && b == nil {
				row[i] = []byte{} // NULL is nil
			}
		}
		return true, f(row)
	}, args)
}

// Replace adds rows to a table in one transaction, without running the triggers of the schema. If
// `whole` is true, the new rows replace all rows of the table.
func (r *Raw) Replace(ctx context.Context, table string, columns []string, rows [][]any, whole bool) error {
	r.c.ctx, r.c.failed = ctx, nil
	begin := "BEGIN; ALTER TABLE " + table + " DISABLE TRIGGER USER"
	if whole {
		begin += "; DELETE FROM " + table
	}
	if _, err := r.c.control(begin); err != nil {
		r.c.rollback()
		return err
	}
	data, err := copyData(rows)
	if err == nil {
		sql := "COPY " + table + ` ("` + strings.Join(columns, `", "`) + `") FROM STDIN (FORMAT binary)`
		if _, err = r.c.pg.CopyFrom(ctx, strings.NewReader(string(data)), sql); err != nil {
			err = classified(err)
		}
	}
	if err != nil {
		r.c.rollback()
		return err
	}
	if _, err := r.c.control("ALTER TABLE " + table + " ENABLE TRIGGER USER; COMMIT"); err != nil {
		r.c.rollback()
		return err
	}
	return nil
}

// Exec runs statements that are separated by semicolons.
func (r *Raw) Exec(ctx context.Context, sql string) error {
	r.c.ctx, r.c.failed = ctx, nil
	_, err := r.c.control(sql)
	return err
}

// Rollback ends a transaction that failed, or closes the connection if even the rollback fails.
func (r *Raw) Rollback() {
	r.c.ctx = context.Background()
	r.c.rollback()
}

// CopyIn adds rows to a table.
func (r *Raw) CopyIn(ctx context.Context, table string, columns []string, rows [][]any) error {
	if len(rows) == 0 {
		return nil
	}
	r.c.ctx, r.c.failed = ctx, nil
	data, err := copyData(rows)
	if err != nil {
		return err
	}
	sql := "COPY " + table + ` ("` + strings.Join(columns, `", "`) + `") FROM STDIN (FORMAT binary)`
	if _, err = r.c.pg.CopyFrom(ctx, bytes.NewReader(data), sql); err != nil {
		err = classified(err)
	}
	return err
}

// copyData encodes rows in the binary format of COPY.
func copyData(rows [][]any) ([]byte, error) {
	data := []byte("PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	for _, row := range rows {
		data = binary.BigEndian.AppendUint16(data, uint16(len(row)))
		for _, v := range row {
			switch v := v.(type) {
			case nil:
				data = binary.BigEndian.AppendUint32(data, 0xffffffff)
			case int64:
				data = binary.BigEndian.AppendUint32(data, 8)
				data = binary.BigEndian.AppendUint64(data, uint64(v))
			case string:
				v = storable(v)
				data = binary.BigEndian.AppendUint32(data, uint32(len(v)))
				data = append(data, v...)
			case []byte:
				data = binary.BigEndian.AppendUint32(data, uint32(len(v)))
				data = append(data, v...)
			default:
				return nil, fmt.Errorf("postgres: a value has the type %T, which is not supported", v)
			}
		}
	}
	return append(data, 0xff, 0xff), nil
}

// Finish sets the counters, which are named "table.column", to the numbers that were last used, and
// updates the planner's statistics (ANALYZE). If `hub` is not empty, the database belongs to the
// hub with this name from then on.
func (r *Raw) Finish(ctx context.Context, counters map[string]int64, hub string) error {
	r.c.ctx, r.c.failed = ctx, nil
	if _, err := r.c.control("ANALYZE"); err != nil {
		return err
	}
	var sql strings.Builder
	sql.WriteString("BEGIN; ")
	for name, last := range counters {
		table, column, _ := strings.Cut(name, ".")
		fmt.Fprintf(&sql, "SELECT setval(pg_get_serial_sequence('%s', '%s'), %d); ", table, column, last)
	}
	if hub != "" {
		fmt.Fprintf(&sql, "INSERT INTO settings (name, value) VALUES ('%s', '%s'); ", sqlstore.SettingHub, strings.ReplaceAll(hub, "'", "''"))
	}
	sql.WriteString("COMMIT")
	if _, err := r.c.control(sql.String()); err != nil {
		r.c.rollback()
		return err
	}
	return nil
}

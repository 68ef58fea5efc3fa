package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"gangway/hub/store/sqlstore"

	"github.com/jackc/pgx/v5/pgconn"
)

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

// Close closes the connection.
func (r *Raw) Close() error { return r.c.close() }

// Query calls the function `f` with each row of a query. A row has values of the types int64, string,
// []byte and nil.
func (r *Raw) Query(ctx context.Context, sql string, args []any, f func(row []any) error) error {
	r.c.ctx, r.c.failed = ctx, nil
	return r.c.rows(&sqlstore.Statement{Postgres: sql}, func(result *pgconn.ResultReader) (bool, error) {
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

// Exec runs statements that are separated by semicolons.
func (r *Raw) Exec(ctx context.Context, sql string) error {
	r.c.ctx, r.c.failed = ctx, nil
	_, err := r.c.control(sql)
	return err
}

// Rollback ends a transaction that failed. If this fails too, it drops the connection.
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

// copyData returns rows in the binary form of COPY.
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

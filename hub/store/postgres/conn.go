package postgres

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"gangway/hub/store/sqlstore"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// conn is one connection to the database. It uses package pgconn, the lower layer of pgx, because
// all values of the store have one of four types. Therefore the server need not describe the types
// of a statement, and rows need no conversion by reflection.
//
// A conn may run only one statement at a time, in one goroutine.
type conn struct {
	pg   *pgconn.PgConn
	ctx  context.Context // of the running transaction or read
	work *workCounters

	// kept has the statements that the server keeps prepared. It is nil if the connection goes
	// through a pooler such as PgBouncer, because each transaction may then use another connection
	// to the server.
	kept []keptStatement

	// wrote is true if a statement changed a row, or may have changed a row before it failed.
	// failed is the error of the first statement that failed; after that, PostgreSQL runs no
	// further statement of the transaction. The code that uses the connection clears and reads both
	// fields.
	wrote  bool
	failed error
	// job is the number of the operation that uses the connection, in its transaction.
	job int

	// warning is the last warning from the server since the code that uses the connection cleared
	// this field. A warning after a COMMIT means that the server did not wait for its standby.
	warning string

	// batch has the statements that Do and Then have not sent yet, and `pending` is their number.
	batch   *pgconn.Batch
	pending int
	// again has the calls of Again in the running transaction.
	again sqlstore.Later
	// awaited has the statements of Then whose functions have not been called yet.
	awaited []awaited

	values  []any // values of the current row of a query
	data    []byte
	params  [][]byte
	formats []int16
	oids    []uint32
	types   []byte
}

// keptStatement is a statement that the server keeps prepared, for arguments of certain types.
type keptStatement struct {
	description *pgconn.StatementDescription
	types       string
}

// awaited is a statement of Then. `at` is its place in the batch, counted from 1, until its result
// has arrived, and 0 afterwards. `job` is the number of the operation in its transaction.
type awaited struct {
	at, job int
	changed int64
	f       func(changed int64) error
}

type workCounters struct{ statements, rows atomic.Uint64 }

// maxDrained limits the number of bytes that are read and discarded if a caller needs no more rows
// of a query. If more are left, the connection is closed; otherwise it can be used again.
const maxDrained = 1 << 20

var binaryFormat = []int16{pgtype.BinaryFormatCode}

// encode sets params, formats, oids and types for the arguments.
func (c *conn) encode(args []any) error {
	c.data, c.params, c.formats, c.oids, c.types = c.data[:0], c.params[:0], c.formats[:0], c.oids[:0], c.types[:0]
	size := 0
	for _, a := range args {
		size += encodedSize(a)
	}
	// The parameters point into c.data, so it must not grow later. It is never nil, because package
	// pgconn sends a nil parameter as NULL.
	if c.data == nil || cap(c.data) < size {
		c.data = make([]byte, 0, 2*size)
	}
	for i, a := range args {
		from, oid, kind := len(c.data), uint32(0), byte(0)
		switch a := a.(type) {
		case int64:
			c.data = binary.BigEndian.AppendUint64(c.data, uint64(a))
			oid, kind = pgtype.Int8OID, 'i'
		case string:
			c.data = append(c.data, storable(a)...)
			oid, kind = pgtype.TextOID, 't'
		case []byte:
			c.data = append(c.data, a...)
			oid, kind = pgtype.ByteaOID, 'b'
		case []string:
			c.data = appendList(c.data, a)
			oid, kind = pgtype.TextArrayOID, 'l'
		default:
			return fmt.Errorf("postgres: argument %d has the type %T, which is not supported", i+1, a)
		}
		c.params = append(c.params, c.data[from:len(c.data):len(c.data)])
		c.formats = append(c.formats, pgtype.BinaryFormatCode)
		c.oids = append(c.oids, oid)
		c.types = append(c.types, kind)
	}
	return nil
}

// encodedSize returns an upper bound for the encoded size of an argument.
func encodedSize(a any) int {
	const escaped = len(string(escape)) + 2
	switch a := a.(type) {
	case string:
		return escaped * len(a)
	case []byte:
		return len(a)
	case []string:
		n := 20
		for _, s := range a {
			n += 4 + escaped*len(s)
		}
		return n
	}
	return 8
}

// appendList appends the binary form of a one-dimensional text[].
func appendList(data []byte, list []string) []byte {
	if len(list) == 0 {
		return append(data, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, pgtype.TextOID)
	}
	data = append(data, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, pgtype.TextOID)
	data = binary.BigEndian.AppendUint32(data, uint32(len(list)))
	data = binary.BigEndian.AppendUint32(data, 1)
	for _, s := range list {
		s = storable(s)
		data = binary.BigEndian.AppendUint32(data, uint32(len(s)))
		data = append(data, s...)
	}
	return data
}

// The method `add` adds a statement to the batch. If the server keeps statements prepared, `add`
// prepares it first, unless this has already been done.
func (c *conn) add(s *sqlstore.Statement, args []any) error {
	if c.failed != nil {
		return c.failed
	}
	if err := c.encode(args); err != nil {
		return err
	}
	c.work.statements.Add(1)
	c.pending++
	if c.kept == nil {
		c.batch.ExecParams(s.Postgres(), c.params, c.oids, c.formats, binaryFormat)
		return nil
	}
	kept := &c.kept[s.Index]
	if kept.description == nil {
		description, err := c.pg.Prepare(c.ctx, "s"+strconv.Itoa(s.Index), s.Postgres(), c.oids)
		if err != nil {
			return c.fail(fmt.Errorf("prepare %q: %w", s.Postgres(), classified(err)))
		}
		*kept = keptStatement{description, string(c.types)}
	}
	if kept.types != string(c.types) {
		return fmt.Errorf("postgres: the arguments of %q now have the types %s, but had the types %s before", s.Postgres(), c.types, kept.types)
	}
	c.batch.ExecStatement(kept.description, c.params, c.formats, binaryFormat)
	return nil
}

// maxPending is the maximum number of statements that Do collects before it sends them.
const maxPending = 64

// Do implements sqlstore.Conn. It only adds the statement to the batch, which is sent together with
// the next statement that needs a result, so that all of them take only one round trip to the
// server.
func (c *conn) Do(s *sqlstore.Statement, args ...any) error {
	if err := c.add(s, args); err != nil {
		return err
	}
	c.wrote = true
	if c.pending == maxPending {
		return c.flush()
	}
	return nil
}

// Again implements sqlstore.Conn. The method `settle` runs the statement.
func (c *conn) Again(s *sqlstore.Statement, args ...any) error {
	c.again.Add(s, args)
	return nil
}

// Then implements sqlstore.Conn. The function `f` is called by the method `settle`.
func (c *conn) Then(s *sqlstore.Statement, f func(changed int64) error, args ...any) error {
	if err := c.add(s, args); err != nil {
		return err
	}
	c.wrote = true
	c.awaited = append(c.awaited, awaited{at: c.pending, job: c.job, f: f})
	if c.pending == maxPending {
		return c.flush()
	}
	return nil
}

// settle sends the batch, and then calls the functions that were passed to Then, in order. It calls
// `failed` with the error of each of them that fails, and the number of its operation. Finally, it
// runs the statements that were passed to Again.
func (c *conn) settle(failed func(job int, err error)) error {
	for {
		if err := c.flush(); err != nil {
			return err
		}
		if len(c.awaited) == 0 {
			break
		}
		ready := c.awaited
		c.awaited = nil
		for _, a := range ready {
			c.job = a.job
			if err := a.f(a.changed); err != nil {
				failed(a.job, err)
			}
		}
	}
	if err := c.again.Run(c); err != nil {
		return err
	}
	return c.flush()
}

// flush sends the batch and waits for its results.
func (c *conn) flush() error {
	if c.pending == 0 {
		return nil
	}
	return c.send(nil)
}

// send sends the batch. If `last` is not nil, send calls it with the result of the last statement.
func (c *conn) send(last func(*pgconn.ResultReader)) error {
	n := c.pending
	results := c.pg.ExecBatch(c.ctx, c.batch)
	c.batch, c.pending = &pgconn.Batch{}, 0
	next := 0 // the next awaited statement
	for next < len(c.awaited) && c.awaited[next].at == 0 {
		next++
	}
	for i := 1; results.NextResult(); i++ {
		if i == n && last != nil {
			last(results.ResultReader())
		}
		tag, _ := results.ResultReader().Close() // results.Close returns the error
		if next < len(c.awaited) && c.awaited[next].at == i {
			c.awaited[next].at, c.awaited[next].changed = 0, tag.RowsAffected()
			next++
		}
	}
	if err := results.Close(); err != nil {
		return c.fail(classified(err))
	}
	return nil
}

// The method `forget` discards the statements of the batch without sending them, and the functions
// that were passed to Then.
func (c *conn) forget() {
	c.batch, c.pending, c.awaited = &pgconn.Batch{}, 0, nil
	c.again.Forget()
}

// The method `fail` records the error of the first statement that failed, and returns its argument.
func (c *conn) fail(err error) error {
	if c.failed == nil {
		c.failed = err
	}
	return err
}

// Exec implements sqlstore.Conn.
func (c *conn) Exec(s *sqlstore.Statement, args ...any) (changed int64, err error) {
	if err := c.add(s, args); err != nil {
		return 0, err
	}
	before := c.wrote
	c.wrote = true
	if err := c.send(func(r *pgconn.ResultReader) {
		tag, _ := r.Close()
		changed = tag.RowsAffected()
	}); err != nil {
		return 0, err
	}
	c.wrote = before || changed != 0
	return changed, nil
}

// One implements sqlstore.Conn.
func (c *conn) One(s *sqlstore.Statement, args ...any) (r sqlstore.Row, ok bool, err error) {
	err = c.Each(s, func(first sqlstore.Row) (more bool, _ error) {
		r, ok = first, true
		return false, nil
	}, args...)
	return r, ok, err
}

// Each implements sqlstore.Conn.
func (c *conn) Each(s *sqlstore.Statement, f func(sqlstore.Row) (more bool, err error), args ...any) error {
	return c.rows(s, func(r *pgconn.ResultReader) (bool, error) {
		if err := c.decode(r); err != nil {
			return false, err
		}
		return f(sqlstore.RowOf(c.values))
	}, args)
}

// EachColumns implements sqlstore.Conn.
func (c *conn) EachColumns(s *sqlstore.Statement, f func(sqlstore.Columns) (more bool, err error), args ...any) error {
	var now current
	return c.rows(s, func(r *pgconn.ResultReader) (bool, error) {
		now.values = r.Values()
		return f(&now)
	}, args)
}

// rows calls the function `f` for each row of a query, until `f` returns false or an error.
func (c *conn) rows(s *sqlstore.Statement, f func(*pgconn.ResultReader) (bool, error), args []any) error {
	if err := c.add(s, args); err != nil {
		return err
	}
	var failed error // error of the function f
	enough := false  // the other rows are not needed, and are too many bytes to read
	sent := c.send(func(r *pgconn.ResultReader) {
		more, drained := true, 0
		for r.NextRow() {
			if more {
				c.work.rows.Add(1)
				if more, failed = f(r); failed != nil {
					more = false
				}
				continue
			}
			for _, v := range r.Values() {
				drained += len(v)
			}
			if drained > maxDrained {
				enough = true
				c.drop()
				return
			}
		}
	})
	if enough {
		c.failed = nil
		return failed
	}
	if sent != nil {
		return sent
	}
	return failed
}

// decode sets c.values to the current row.
func (c *conn) decode(r *pgconn.ResultReader) error {
	c.values = c.values[:0]
	for i, field := range r.FieldDescriptions() {
		raw := r.Values()[i]
		var v any
		if raw != nil {
			switch field.DataTypeOID {
			case pgtype.Int8OID, pgtype.Int4OID, pgtype.Int2OID, pgtype.BoolOID:
				v = integer(raw)
			case pgtype.TextOID, pgtype.UnknownOID:
				v = original(string(raw))
			case pgtype.ByteaOID:
				if len(raw) != 0 {
					v = append([]byte(nil), raw...)
				} else {
					v = []byte(nil)
				}
			default:
				return fmt.Errorf("postgres: column %s has a type that is not supported (OID %d)", field.Name, field.DataTypeOID)
			}
		}
		c.values = append(c.values, v)
	}
	return nil
}

// integer decodes an integer of 2, 4 or 8 bytes, or a boolean.
func integer(raw []byte) int64 {
	switch len(raw) {
	case 1:
		return int64(raw[0])
	case 2:
		return int64(int16(binary.BigEndian.Uint16(raw)))
	case 4:
		return int64(int32(binary.BigEndian.Uint32(raw)))
	}
	return int64(binary.BigEndian.Uint64(raw))
}

// current gives access to the columns of a query's current row.
type current struct{ values [][]byte }

// Text implements sqlstore.Columns.
func (r *current) Text(i int, like string) string {
	if string(r.values[i]) == like {
		return like
	}
	return original(string(r.values[i]))
}

// Int64 implements sqlstore.Columns.
func (r *current) Int64(i int) int64 { return integer(r.values[i]) }

// control runs statements such as BEGIN and COMMIT, and returns the command tag of the last one.
func (c *conn) control(sql string) (tag string, err error) {
	if err := c.flush(); err != nil {
		return "", err
	}
	results, err := c.pg.Exec(c.ctx, sql).ReadAll()
	if err != nil {
		return "", classified(err)
	}
	return results[len(results)-1].CommandTag.String(), nil
}

// rollback ends a transaction that failed, or closes the connection if even the rollback fails.
func (c *conn) rollback() {
	c.forget()
	c.failed = nil
	if _, err := c.control("ROLLBACK"); err != nil {
		c.drop()
	}
}

// The method `drop` closes the connection without waiting for the server.
func (c *conn) drop() { closeNow(c.pg) }

func (c *conn) closed() bool { return c.pg.IsClosed() }

func (c *conn) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return c.pg.Close(ctx)
}

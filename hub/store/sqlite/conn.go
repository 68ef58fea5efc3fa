package sqlite

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"
	"unsafe"

	"gangway/hub/store"
	"gangway/hub/store/sqlstore"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

// busyTimeout is how long a statement waits while another process, such as a backup or the sqlite3
// shell, has locked the database. It is shorter than sqlstore.WriteTimeout, so that a write returns
// the locking error before it times out.
const busyTimeout = 2 * time.Second

// conn is one connection to the database. It calls SQLite's C interface in modernc.org/sqlite/lib
// directly, because the database/sql driver is slower: for every query, it asks for the name and
// type of each column, and allocates each argument separately, which took a quarter of the
// processor time of an activation.
//
// A conn may run only one statement at a time, in one goroutine.
type conn struct {
	tls   *libc.TLS
	db    uintptr // sqlite3*
	stmts []uintptr
	dest  []any // values of the current row of a query

	// arena is the memory for the text and blob arguments of the running statement. It is not
	// managed by Go. A statement that was reset still has pointers into the arena, but SQLite does
	// not follow them before new arguments are bound.
	arena     uintptr
	arenaSize int

	// wrote is true if a statement changed a row, or may have changed a row before it failed. The
	// writer clears and reads this field.
	wrote bool

	again sqlstore.Later // the calls of Again in the running transaction

	pages uintptr // see countPages; an *int32, or 0

	work workCounters
}

// engineError is an error of SQLite. The field `code` is the extended result code.
type engineError struct {
	code    int32
	message string
}

// The method `Is` maps SQLite's result codes to the errors of the packages store and sqlstore.
func (e *engineError) Is(target error) bool {
	switch e.code & 0xff {
	case sqlite3.SQLITE_CONSTRAINT:
		return target == sqlstore.ErrConstraint
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return target == store.ErrBusy
	case sqlite3.SQLITE_FULL:
		return target == store.ErrNoSpace
	}
	// SQLite could not enlarge the "-shm" file, which is memory that all processes share.
	return e.code == sqlite3.SQLITE_IOERR_SHMSIZE && target == store.ErrNoSpace
}

func (e *engineError) Error() string {
	return fmt.Sprintf("sqlite: %s (%d)", e.message, e.code)
}

func dsn(path string) string {
	// The URI escapes '?', '#' and '%', which would otherwise not count as part of the path.
	u := url.URL{Scheme: "file", Path: path}
	return u.String()
}

// openConn opens a connection that uses the VFS with this name. If `vfs` is empty, it uses SQLite's
// default VFS.
func openConn(path, vfs string, pragmas ...string) (_ *conn, err error) {
	c := &conn{tls: libc.NewTLS(), stmts: make([]uintptr, len(sqlstore.Statements()))}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("sqlite: open %s: %w", path, err), c.close())
		}
	}()
	name, err := libc.CString(dsn(path))
	if err != nil {
		return nil, err
	}
	defer libc.Xfree(c.tls, name)
	var module uintptr
	if vfs != "" {
		if module, err = libc.CString(vfs); err != nil {
			return nil, err
		}
		defer libc.Xfree(c.tls, module)
	}
	out := libc.Xcalloc(c.tls, 1, pointerSize)
	defer libc.Xfree(c.tls, out)
	// NOMUTEX: SQLite needs no mutex, because only one goroutine at a time uses the connection.
	rc := sqlite3.Xsqlite3_open_v2(c.tls, name, out, sqlite3.SQLITE_OPEN_READWRITE|
		sqlite3.SQLITE_OPEN_URI|sqlite3.SQLITE_OPEN_NOMUTEX|sqlite3.SQLITE_OPEN_EXRESCODE, module)
	c.db = *(*uintptr)(pointer(out))
	if rc != sqlite3.SQLITE_OK {
		return nil, c.failure(rc)
	}
	sqlite3.Xsqlite3_busy_timeout(c.tls, c.db, int32(busyTimeout.Milliseconds()))
	for _, p := range pragmas {
		if err := c.pragma(p); err != nil {
			return nil, fmt.Errorf("PRAGMA %s: %w", p, err)
		}
	}
	return c, nil
}

func (c *conn) close() error {
	for _, st := range c.stmts {
		if st != 0 {
			sqlite3.Xsqlite3_finalize(c.tls, st)
		}
	}
	var err error
	if rc := sqlite3.Xsqlite3_close_v2(c.tls, c.db); rc != sqlite3.SQLITE_OK {
		err = c.failure(rc)
	}
	libc.Xfree(c.tls, c.arena)
	libc.Xfree(c.tls, c.pages)
	c.tls.Close()
	return err
}

const pointerSize = libc.Tsize_t(unsafe.Sizeof(uintptr(0)))

// pointer converts the address of memory that Go does not manage to a pointer.
func pointer(address uintptr) unsafe.Pointer { return unsafe.Add(nil, address) }

func memory(address uintptr, n int) []byte { return unsafe.Slice((*byte)(pointer(address)), n) }

// failure returns an error for the last call of SQLite, whose result code was rc.
func (c *conn) failure(rc int32) error {
	if c.db == 0 {
		return &engineError{code: rc, message: libc.GoString(sqlite3.Xsqlite3_errstr(c.tls, rc))}
	}
	return &engineError{code: rc, message: libc.GoString(sqlite3.Xsqlite3_errmsg(c.tls, c.db))}
}

func (c *conn) prepare(sql string) (uintptr, error) {
	text, err := libc.CString(sql)
	if err != nil {
		return 0, err
	}
	defer libc.Xfree(c.tls, text)
	out := libc.Xcalloc(c.tls, 1, pointerSize)
	defer libc.Xfree(c.tls, out)
	rc := sqlite3.Xsqlite3_prepare_v3(c.tls, c.db, text, -1, sqlite3.SQLITE_PREPARE_PERSISTENT, out, 0)
	if rc != sqlite3.SQLITE_OK {
		return 0, fmt.Errorf("prepare %q: %w", sql, c.failure(rc))
	}
	return *(*uintptr)(pointer(out)), nil
}

func (c *conn) pragma(p string) error {
	st, err := c.prepare("PRAGMA " + p)
	if err != nil {
		return err
	}
	for {
		switch rc := sqlite3.Xsqlite3_step(c.tls, st); rc {
		case sqlite3.SQLITE_ROW:
		case sqlite3.SQLITE_DONE:
			sqlite3.Xsqlite3_finalize(c.tls, st)
			return nil
		default:
			err := c.failure(rc)
			sqlite3.Xsqlite3_finalize(c.tls, st)
			return err
		}
	}
}

// The method `bound` returns the prepared statement with its arguments bound, ready to step. It
// binds a list as a JSON array.
func (c *conn) bound(s *sqlstore.Statement, args []any) (uintptr, error) {
	args = withoutLists(args)
	st := c.stmts[s.Index]
	if st == 0 {
		var err error
		if st, err = c.prepare(s.SQLite); err != nil {
			return 0, err
		}
		c.stmts[s.Index] = st
	}
	c.work.statements.Add(1)
	c.reserve(args)
	at := c.arena
	for i, a := range args {
		var rc int32
		place := int32(i + 1)
		switch a := a.(type) {
		case int64:
			rc = sqlite3.Xsqlite3_bind_int64(c.tls, st, place, a)
		case string:
			copy(memory(at, len(a)), a)
			rc = sqlite3.Xsqlite3_bind_text(c.tls, st, place, at, int32(len(a)), sqlite3.SQLITE_STATIC)
			at += uintptr(len(a))
		case []byte:
			copy(memory(at, len(a)), a)
			rc = sqlite3.Xsqlite3_bind_blob(c.tls, st, place, at, int32(len(a)), sqlite3.SQLITE_STATIC)
			at += uintptr(len(a))
		default:
			return 0, fmt.Errorf("sqlite: argument %d of %q has the type %T, which is not supported", place, s.SQLite, a)
		}
		if rc != sqlite3.SQLITE_OK {
			return 0, c.failure(rc)
		}
	}
	return st, nil
}

// withoutLists returns the arguments with each list converted to a JSON text. It does not change
// `args`.
func withoutLists(args []any) []any {
	for i, a := range args {
		list, is := a.([]string)
		if !is {
			continue
		}
		args = slices.Clone(args)
		args[i] = string(appendList(nil, list))
	}
	return args
}

// appendList appends a list as a JSON array. It does not use encoding/json, which would replace
// bytes that are not valid UTF-8, although SQLite stores any bytes in a text.
func appendList(data []byte, list []string) []byte {
	data = append(data, '[')
	for i, text := range list {
		if i > 0 {
			data = append(data, ',')
		}
		data = append(data, '"')
		for j := range len(text) {
			switch b := text[j]; {
			case b == '"' || b == '\\':
				data = append(data, '\\', b)
			case b < ' ':
				data = fmt.Appendf(data, `\u%04x`, b)
			default:
				data = append(data, b)
			}
		}
		data = append(data, '"')
	}
	return append(data, ']')
}

// reserve enlarges the arena so that all arguments fit. It must be called before the first argument
// is bound. The arena is never nil, because SQLite would take a nil pointer for NULL.
func (c *conn) reserve(args []any) {
	size := 1
	for _, a := range args {
		switch a := a.(type) {
		case string:
			size += len(a)
		case []byte:
			size += len(a)
		}
	}
	if size <= c.arenaSize {
		return
	}
	size = max(2*c.arenaSize, size, 4096)
	libc.Xfree(c.tls, c.arena)
	c.arena = libc.Xmalloc(c.tls, libc.Tsize_t(size))
	c.arenaSize = size
}

// Exec runs a statement that returns no rows, and returns the number of rows that it changed.
func (c *conn) Exec(s *sqlstore.Statement, args ...any) (changed int64, err error) {
	st, err := c.bound(s, args)
	if err != nil {
		return 0, err
	}
	rc := sqlite3.Xsqlite3_step(c.tls, st)
	if rc != sqlite3.SQLITE_DONE {
		err = c.failure(rc)
		// If a statement violates a constraint, SQLite undoes the whole statement. After any other
		// error, it is unknown whether the statement changed a row.
		if !errors.Is(err, sqlstore.ErrConstraint) {
			c.wrote = true
		}
		sqlite3.Xsqlite3_reset(c.tls, st)
		return 0, err
	}
	changed = sqlite3.Xsqlite3_changes64(c.tls, c.db)
	if changed != 0 {
		c.wrote = true
	}
	sqlite3.Xsqlite3_reset(c.tls, st)
	return changed, nil
}

// control runs a statement such as BEGIN or COMMIT, which changes no row.
func (c *conn) control(s *sqlstore.Statement) error {
	st, err := c.bound(s, nil)
	if err != nil {
		return err
	}
	rc := sqlite3.Xsqlite3_step(c.tls, st)
	if rc != sqlite3.SQLITE_DONE {
		err = c.failure(rc)
	}
	sqlite3.Xsqlite3_reset(c.tls, st)
	return err
}

// Do implements sqlstore.Conn.
func (c *conn) Do(s *sqlstore.Statement, args ...any) error {
	_, err := c.Exec(s, args...)
	return err
}

// Again implements sqlstore.Conn. The writer runs the statement before the commit.
func (c *conn) Again(s *sqlstore.Statement, args ...any) error {
	c.again.Add(s, args)
	return nil
}

// Then implements sqlstore.Conn.
func (c *conn) Then(s *sqlstore.Statement, f func(changed int64) error, args ...any) error {
	changed, err := c.Exec(s, args...)
	if err != nil {
		return err
	}
	return f(changed)
}

// One returns the first row of a query; `ok` is false if there is none. The row is valid until the
// connection is used again, but values that were read from it stay valid.
func (c *conn) One(s *sqlstore.Statement, args ...any) (r sqlstore.Row, ok bool, err error) {
	err = c.Each(s, func(first sqlstore.Row) (more bool, _ error) {
		r, ok = first, true
		return false, nil
	}, args...)
	return r, ok, err
}

// Each calls `f` with every row of a query, until `f` returns false or an error. `f` must not use
// the connection.
func (c *conn) Each(s *sqlstore.Statement, f func(sqlstore.Row) (more bool, err error), args ...any) error {
	return c.eachAt(s, func(st uintptr) (bool, error) { return f(sqlstore.RowOf(c.columns(st))) }, args...)
}

// eachAt is like Each, but the function `f` reads the columns itself, from the statement `st`.
func (c *conn) eachAt(s *sqlstore.Statement, f func(st uintptr) (more bool, err error), args ...any) error {
	st, err := c.bound(s, args)
	if err != nil {
		return err
	}
	defer sqlite3.Xsqlite3_reset(c.tls, st)
	for {
		switch rc := sqlite3.Xsqlite3_step(c.tls, st); rc {
		case sqlite3.SQLITE_DONE:
			return nil
		case sqlite3.SQLITE_ROW:
			c.work.rows.Add(1)
			more, err := f(st)
			if err != nil || !more {
				return err
			}
		default:
			return c.failure(rc)
		}
	}
}

// EachColumns is like Each, but the function `f` reads the columns of the current row itself.
func (c *conn) EachColumns(s *sqlstore.Statement, f func(sqlstore.Columns) (more bool, err error), args ...any) error {
	r := current{conn: c}
	return c.eachAt(s, func(st uintptr) (bool, error) {
		r.st = st
		return f(&r)
	}, args...)
}

// current gives access to the columns of the current row of the statement `st`.
type current struct {
	conn *conn
	st   uintptr
}

// Text implements sqlstore.Columns.
func (r *current) Text(i int, like string) string {
	c := r.conn
	p := sqlite3.Xsqlite3_column_text(c.tls, r.st, int32(i))
	b := memory(p, int(sqlite3.Xsqlite3_column_bytes(c.tls, r.st, int32(i))))
	if string(b) == like {
		return like
	}
	return string(b)
}

// Int64 implements sqlstore.Columns.
func (r *current) Int64(i int) int64 {
	return sqlite3.Xsqlite3_column_int64(r.conn.tls, r.st, int32(i))
}

// columns returns a copy of the current row of the statement `st`, which is valid until the next
// call.
func (c *conn) columns(st uintptr) []any {
	n := int(sqlite3.Xsqlite3_data_count(c.tls, st))
	c.dest = c.dest[:0]
	for i := range int32(n) {
		var v any
		switch sqlite3.Xsqlite3_column_type(c.tls, st, i) {
		case sqlite3.SQLITE_INTEGER:
			v = sqlite3.Xsqlite3_column_int64(c.tls, st, i)
		case sqlite3.SQLITE_TEXT:
			p := sqlite3.Xsqlite3_column_text(c.tls, st, i)
			v = string(memory(p, int(sqlite3.Xsqlite3_column_bytes(c.tls, st, i))))
		case sqlite3.SQLITE_BLOB:
			p := sqlite3.Xsqlite3_column_blob(c.tls, st, i)
			if size := int(sqlite3.Xsqlite3_column_bytes(c.tls, st, i)); size != 0 {
				b := make([]byte, size)
				copy(b, memory(p, size))
				v = b
			}
		}
		c.dest = append(c.dest, v)
	}
	return c.dest
}
